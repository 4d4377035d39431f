# make demo   the complete pipeline on synthetic voices, five minutes (needs Python 3.10 or later and a package index)
# make test   the tests
# make lint   style and types
# make docs   regenerates docs/pipeline.png and docs/formats.md
# make soak   faults by the hundred: 55 kills, 104,000 damaged files (some ten minutes on two cores)
# Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs soak

demo: .venv/demo.installed
	$(BIN)/python demo.py

test: .venv/dev.installed .venv/demo.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

soak: .venv/dev.installed
	METASR_SOAK=1 $(BIN)/python -m pytest tests/faults -v

docs: .venv/dev.installed
	$(BIN)/python docs/generate.py

lint: .venv/dev.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Installs again only when the requirements have changed.
.venv/%.installed: requirements-%.txt requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install -r $<
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv .venv
