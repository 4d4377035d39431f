"""docs/formats.md, written from the tables that the tests run through, so that the page says what is tested.

python tests/formats.py > docs/formats.md
"""

import sys
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import audio_table  # noqa: E402
import list_table  # noqa: E402

TABLES = [audio_table]  # modules with TITLE, TEXT (before the table) and ROWS: what is given, what happens
HEAD = """# What is read

Written by `tests/formats.py` from the tables of the tests: every line is tested.
"""


def page() -> str:
    """Return the page as Markdown."""
    return "\n".join([HEAD, *map(_section, TABLES), list_table.section()])


def _section(table: ModuleType) -> str:
    rows = "".join(f"| {given} | {outcome} |\n" for given, outcome in table.ROWS)
    return f"## {table.TITLE}\n\n{table.TEXT}\n\n| given | what happens |\n| --- | --- |\n{rows}"


if __name__ == "__main__":
    print(page(), end="")
