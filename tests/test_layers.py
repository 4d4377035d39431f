"""Imports lead from a room to one on the same floor or a lower one, and never in a circle."""

import ast
import functools
import graphlib
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PROJECT

FLOORS = {
    "tests": 6, "benchmarks": 6,
    "command_line": 5,
    "training": 4, "evaluation": 4, "recognition": 4, "plotting": 4,
    "corpora": 3, "feat_extract": 3,
    "dataset": 2, "model": 2,
    "loss": 1, "system": 1, "configure": 1,
}  # fmt: skip
LIBRARIES = ("dataset", "evaluation", "loss", "model", "plotting", "recognition", "training")
SCRIPTS = 5  # the floor of all other files at the top level


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


FILES = sorted([*PROJECT.glob("*.py"), *(file for room in FLOORS for file in (PROJECT / room).rglob("*.py"))])
MODULES = {module_of(file): file for file in FILES}


@functools.cache
def imports(file: Path) -> set[str]:
    """Return the project's modules that a file imports, at its top or within a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import; name the room"
            names.update([f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)])
    return names & MODULES.keys()


def room(module: str) -> str:
    return module.partition(".")[0]


def test_imports_lead_to_the_same_floor_or_lower() -> None:
    floor = {module: FLOORS.get(room(module), SCRIPTS) for module in MODULES}
    pairs = ((module, name) for module, file in MODULES.items() for name in imports(file))
    assert not [f"{module} imports {name}" for module, name in pairs if floor[name] > floor[module]]


@pytest.mark.parametrize("part", [str, room], ids=["modules", "rooms"])
def test_no_imports_go_in_a_circle(part: Callable[[str], str]) -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for module, file in MODULES.items():
        graph[part(module)] |= {part(name) for name in imports(file)} - {part(module)}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_libraries_neither_read_flags_nor_print() -> None:
    for file in (file for module, file in MODULES.items() if room(module) in LIBRARIES):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            used = node.id if isinstance(node, ast.Name) else ""
            assert used not in ("print", "argparse"), f"{file}: {used}"


def test_every_folder_of_modules_has_its_floor() -> None:
    assert {file.parent.name for file in PROJECT.glob("[a-z]*/*.py")} - {"docs"} == FLOORS.keys() - {"configure"}


def test_contributing_shows_these_floors() -> None:
    text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", text, re.MULTILINE)
    shown = {name: int(floor) for floor, rooms in rows for name in re.findall(r"`(\w+)(?:/|\.py)`", rooms)}
    assert shown == {room: floor for room, floor in FLOORS.items() if floor <= SCRIPTS}
