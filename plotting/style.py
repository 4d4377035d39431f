"""What all pictures share: plain axes, and curves that are distinct for colour-blind readers and in black and white."""

import math
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

STYLE: Any = {  # of matplotlib.rc_context
    "font.size": 10,
    "pdf.fonttype": 42,  # letters as TrueType fonts, which publishers demand
}
# Okabe and Ito's palette without yellow, which is hardly visible on paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", "-.", ":")  # distinguish curves in black and white
MARKERS = "osD^vP*X"  # one more than colours: each of 56 systems has another pair of colour and marker
MAX_ENTRIES = 6  # of a legend in or above the axes; a longer one would hide curves and is on their right
MAX_ROWS = 40  # of a legend on the right; a longer one has several columns


def styles(n: int) -> list[dict[str, Any]]:
    """Return colour, line style and marker for each of n systems."""
    looks = zip(cycle(COLOURS), cycle(DASHES), cycle(MARKERS), strict=False)
    return [{"color": colour, "linestyle": dash, "marker": marker} for colour, dash, marker in islice(looks, n)]


def as_text(name: str) -> str:
    """Return a name that matplotlib draws literally, without formulas ($) and hidden legend entries (leading _)."""
    return ("\u200b" if name.startswith("_") else "") + name.replace("$", r"\$")


def add_fallback_fonts(figure: Figure) -> str:
    """Use other installed fonts for letters that the default font lacks; return the letters that no font has."""
    texts, default = figure.findobj(Text), "DejaVu Sans"
    letters = {letter for text in texts for letter in text.get_text() if not letter.isspace()}
    lacking, families = letters - _letters_of(font_manager.findfont(default)), [default]
    for font in font_manager.fontManager.ttflist if lacking else []:
        if font.name.startswith("Last Resort"):  # matplotlib's own, with a box for every letter
            continue
        if found := lacking & _letters_of(font.fname):
            families.append(font.name)
            lacking -= found
    for text in texts:
        text.set_fontfamily(families)
    return "".join(sorted(lacking))


def _letters_of(font: str) -> set[str]:
    return {chr(code) for code in font_manager.get_font(font).get_charmap()}


def new_figure(rows: int = 1, columns: int = 1, width: float = 6, height: float = 4.5) -> tuple[Figure, list[Axes]]:
    """Return a figure of width x height inches and its axes, row by row, with a light grid."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for of_part in axes:
        of_part.grid(color="0.9")
        of_part.set_axisbelow(True)
        of_part.spines[["top", "right"]].set_visible(False)
    return figure, axes


def add_legend(figure: Figure, axes: Axes, title: str, fontsize: float, **place: Any) -> None:
    """Add a legend of the curves in the only axes: at a place in matplotlib's terms, or on the right if it is long."""
    handles, _ = axes.get_legend_handles_labels()
    if len(handles) > MAX_ENTRIES:
        add_legend_on_the_right(figure, handles, title, fontsize)
    else:
        axes.legend(title=title, fontsize=fontsize, title_fontsize=8, frameon=False, **place)


def add_legend_on_the_right(figure: Figure, handles: Sequence[Artist], title: str = "", fontsize: float = 8) -> None:
    """Add a legend on the right of a figure, which is included if the figure is saved with a tight bounding box."""
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1, 1),
        ncols=math.ceil(len(handles) / MAX_ROWS),
        title=title,
        fontsize=fontsize,
        title_fontsize=8,
        alignment="left",
        frameon=False,
    )
