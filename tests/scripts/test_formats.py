"""The page of formats says what the tests' tables say."""

from conftest import PROJECT
from formats import page


def test_the_page_of_formats_is_the_tables() -> None:
    written = (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert written == page(), "write it anew: python tests/formats.py > docs/formats.md"
