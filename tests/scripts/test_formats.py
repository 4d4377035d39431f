"""docs/formats.md is generated from the tables that the tests run through."""

import sys

from conftest import PROJECT

sys.path.insert(0, str(PROJECT / "docs"))
from generate import formats_page  # noqa: E402


def test_formats_page_is_up_to_date() -> None:
    written = (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert written == formats_page(), "run `make docs`"
