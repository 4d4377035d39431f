"""Generate docs/formats.md from tables of supported formats that are also test cases.

make docs
"""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "tests")]

import audio_table  # noqa: E402  (a module of tests/)
import list_table  # noqa: E402

HEAD = """# Supported formats

| you want to | command |
| --- | --- |
| import [recordings](#recordings) of any format | `python dataprep.py --import_dir recordings/train` |
| score a [trial list](#trial-lists) | `python EER_full.py --trials FILE` |
| enrol a [model](#enrolment-lists) from several recordings | `python EER_full.py --trials FILE --enroll MODELS` |
| import a [Kaldi directory](#kaldi-data-directories) | `python dataprep.py --import_list wav.scp` |

`make docs` generates this page from tables that are also test cases.
"""


def formats_page() -> str:
    """Return docs/formats.md as Markdown."""
    return "\n".join([HEAD, audio_table.section(), list_table.section()])


if __name__ == "__main__":
    (DOCS / "formats.md").write_text(formats_page(), encoding="utf-8")
