# make demo           runs the pipeline on synthetic voices, five minutes (needs Python 3.10 or later and a package index)
# make test           runs all tests
# make test-portable  runs the numerical tests with the instructions of older processors: AVX2, then SSE4.1
# make lint           checks style and types
# make docs           regenerates docs/formats.md
# make soak           runs the fault injection with more repetitions: 55 kills, 104,000 damaged files (ten minutes)
# Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
NUMERICAL := tests/evaluation tests/feat_extract tests/loss tests/model tests/training -m "not slow"

.PHONY: demo test test-portable lint docs soak

demo: .venv/demo.installed
	$(BIN)/python demo.py

test: .venv/dev.installed .venv/demo.installed
	$(PYTEST)

# The variables limit oneDNN's and torch's instructions, but not the choice of --precision auto.
test-portable: .venv/dev.installed .venv/demo.installed
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(PYTEST) $(NUMERICAL)
	ONEDNN_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default $(PYTEST) $(NUMERICAL)

soak: .venv/dev.installed
	METASR_SOAK=1 $(BIN)/python -m pytest tests/faults -v

docs: .venv/dev.installed
	$(BIN)/python docs/generate.py

lint: .venv/dev.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Installs again only if the requirements have changed.
.venv/%.installed: requirements-%.txt requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install -r $<
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv .venv
