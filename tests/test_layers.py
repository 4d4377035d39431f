"""Folders import from the same layer or a lower one, and imports have no cycles."""

import ast
import functools
import graphlib
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PROJECT

LAYERS = {
    "tests": 6, "benchmarks": 6,
    "command_line": 5,
    "training": 4, "evaluation": 4, "recognition": 4, "plotting": 4,
    "corpora": 3, "feat_extract": 3,
    "dataset": 2, "model": 2,
    "loss": 1, "system": 1, "configure": 1,
}  # fmt: skip
LIBRARIES = ("dataset", "evaluation", "loss", "model", "plotting", "recognition", "training")
SCRIPTS = 5  # the layer of all other files at the top level


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


FILES = sorted([*PROJECT.glob("*.py"), *(file for folder in LAYERS for file in (PROJECT / folder).rglob("*.py"))])
MODULES = {module_of(file): file for file in FILES}


@functools.cache
def imports(file: Path) -> set[str]:
    """Return the project's modules that a file imports, at its top or within a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import; name the folder"
            names.update([f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)])
    return names & MODULES.keys()


def folder_of(module: str) -> str:
    return module.partition(".")[0]


def test_imports_are_from_the_same_layer_or_a_lower_one() -> None:
    layer = {module: LAYERS.get(folder_of(module), SCRIPTS) for module in MODULES}
    pairs = ((module, name) for module, file in MODULES.items() for name in imports(file))
    assert not [f"{module} imports {name}" for module, name in pairs if layer[name] > layer[module]]


@pytest.mark.parametrize("part", [str, folder_of], ids=["modules", "folders"])
def test_imports_have_no_cycles(part: Callable[[str], str]) -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for module, file in MODULES.items():
        graph[part(module)] |= {part(name) for name in imports(file)} - {part(module)}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_libraries_do_not_read_flags_or_print() -> None:
    for file in (file for module, file in MODULES.items() if folder_of(module) in LIBRARIES):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            used = node.id if isinstance(node, ast.Name) else ""
            assert used not in ("print", "argparse"), f"{file}: {used}"


def test_every_folder_has_a_layer() -> None:
    assert {file.parent.name for file in PROJECT.glob("[a-z]*/*.py")} - {"docs"} == LAYERS.keys() - {"configure"}


def test_contributing_shows_these_layers() -> None:
    text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", text, re.MULTILINE)
    shown = {name: int(layer) for layer, folders in rows for name in re.findall(r"`(\w+)(?:/|\.py)`", folders)}
    assert shown == {folder: layer for folder, layer in LAYERS.items() if layer <= SCRIPTS}
