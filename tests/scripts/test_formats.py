"""docs/formats.md is generated from the tables that the tests run through."""

from conftest import PROJECT

from docs.generate import formats_page


def test_formats_page_is_up_to_date() -> None:
    written = (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert written == formats_page(), "run `make docs`"
