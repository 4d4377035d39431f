"""Generate the parts of docs/ that are made from code: pipeline.png and formats.md.

    make docs

pipeline.png is the README's picture of how a recording becomes a decision. formats.md lists the recordings and lists
that the project reads, from the tables that the tests run through: every line of it is tested.
"""

import sys
from pathlib import Path
from types import ModuleType

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "tests")]

import audio_table  # noqa: E402  (a module of tests/)
import list_table  # noqa: E402

DATA, NETWORK, TRAINING, TEST = "#e8e8e8", "#cfe0f3", "#fbe3c8", "#d6ecd2"  # fills by what a box belongs to
BOXES = {  # name: (x and y of the centre, width, height, fill, heading, text)
    "wav": (1.0, 3.0, 1.7, 1.2, DATA, "recording", "16 kHz, mono\ndataprep.py"),
    "mel": (3.3, 3.0, 2.0, 1.2, DATA, "log mel (T, 40)", "a frame every 10 ms\nfeature_extraction.py"),
    "support": (6.0, 5.05, 2.2, 0.95, TRAINING, "support", "100 speakers, 2 s of each"),
    "query": (6.0, 3.85, 2.2, 0.95, TRAINING, "query", "two times 1 to 2 s of each"),
    "enrol": (6.0, 2.15, 2.2, 0.95, TEST, "enrolment", "a whole utterance"),
    "test": (6.0, 0.95, 2.2, 0.95, TEST, "test", "0.5 s to a whole utterance"),
    "encoder": (8.7, 3.0, 1.7, 5.05, NETWORK, "encoder", "minus the\nmean over time\n\n\nResNet-34\n\n\n"
                "mean over\nfrequency and time\n\n\nlinear\n\n\nembedding (256,)"),
    "episodic": (11.7, 5.05, 2.8, 0.95, TRAINING, "prototypical loss",
                 "query against the prototypes\nof the episode's speakers"),
    "global": (11.7, 3.85, 2.8, 0.95, TRAINING, "global classification",
               "support and query against\nall training speakers"),
    "score": (11.7, 2.15, 2.8, 0.95, TEST, "score", "EER_full.py, EER_short.py,\nidentification.py"),
    "decision": (11.7, 0.95, 2.8, 0.95, TEST, "decision", "one speaker or two? which?\nrecognize.py"),
}  # fmt: skip
ARROWS = "wav-mel mel-support mel-query mel-enrol mel-test support-encoder query-encoder enrol-encoder test-encoder "
ARROWS += "encoder-episodic encoder-global encoder-score score-decision"


FORMATS_HEAD = """# What is read

Written by `make docs` from the tables of the tests: every line is tested.
"""


def draw_pipeline() -> Figure:
    """Return the picture of the boxes and arrows."""
    figure = Figure(figsize=(12, 5.2))
    axes = figure.subplots()
    axes.set(xlim=(0.1, 13.2), ylim=(0.4, 6.0), aspect="equal")
    axes.axis("off")
    for x, y, width, height, fill, heading, text in BOXES.values():
        corner = (x - width / 2, y - height / 2)
        axes.add_patch(FancyBboxPatch(corner, width, height, "round,pad=0,rounding_size=0.1", fc=fill, ec="#555555"))
        top = y + height / 2 - 0.14
        axes.text(x, top, heading, ha="center", va="top", fontsize=9, weight="bold")
        axes.text(x, (top - 0.3 + y - height / 2) / 2 + 0.03, text, ha="center", va="center", fontsize=7.5)
    for pair in ARROWS.split():
        _arrow(axes, *pair.split("-"))
    for x, y, words in ((6.0, 5.72, "training: an episode"), (6.0, 2.82, "test: unseen speakers")):
        axes.text(x, y, words, ha="center", va="center", fontsize=9, style="italic")
    return figure


def _arrow(axes: Axes, start: str, end: str) -> None:
    """Draw an arrow between two boxes: from side to side, or downwards within a column."""
    (x0, y0, w0, h0, *_), (x1, y1, w1, h1, *_) = BOXES[start], BOXES[end]
    if x0 == x1:
        places = (x1, y1 + h1 / 2), (x0, y0 - h0 / 2)
    else:  # the encoder is tall: the arrow stays level there
        level0, level1 = (y1 if start == "encoder" else y0), (y0 if end == "encoder" else y1)
        places = (x1 - w1 / 2, level1), (x0 + w0 / 2, level0)
    axes.annotate("", *places, arrowprops={"arrowstyle": "-|>", "color": "#555555", "shrinkA": 0, "shrinkB": 1})


def formats_page() -> str:
    """Return docs/formats.md as Markdown."""
    return "\n".join([FORMATS_HEAD, _section(audio_table), list_table.section()])


def _section(table: ModuleType) -> str:
    """Return a section from a table module: TITLE, TEXT before the table, and ROWS (what is given, what happens)."""
    rows = "".join(f"| {given} | {outcome} |\n" for given, outcome in table.ROWS)
    return f"## {table.TITLE}\n\n{table.TEXT}\n\n| given | what happens |\n| --- | --- |\n{rows}"


if __name__ == "__main__":
    draw_pipeline().savefig(DOCS / "pipeline.png", dpi=150, bbox_inches="tight")
    (DOCS / "formats.md").write_text(formats_page(), encoding="utf-8")
