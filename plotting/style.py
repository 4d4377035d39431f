"""What all pictures share: colours that colour-blind readers and printers tell apart, and plain axes."""

import math
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.use("Agg")  # files only, no window
# The salt: equal data, equal file. Font type 42: letters in PDF are TrueType's, as publishers demand.
matplotlib.rcParams.update({"svg.hashsalt": "meta-sr", "pdf.fonttype": 42, "font.size": 10})

# Okabe and Ito's palette, without its yellow, which vanishes on paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", "-.", ":")  # tell curves apart in grey, too
MARKERS = "osD^vP*X"  # one more than colours: no two of the first 56 systems share both
MAX_ENTRIES = 8  # of a legend in or above the axes; a longer one is put on their right
MAX_ROWS = 40  # of a legend on the right; a longer one has several columns


def styles(n: int) -> list[dict[str, Any]]:
    """Return colour, line style and marker for each of n systems."""
    looks = zip(cycle(COLOURS), cycle(DASHES), cycle(MARKERS), strict=False)
    return [{"color": colour, "linestyle": dash, "marker": marker} for colour, dash, marker in islice(looks, n)]


def as_text(name: str) -> str:
    """Return a name that matplotlib draws literally: dollars begin no formula, a leading _ hides no legend entry."""
    return ("\u200b" if name.startswith("_") else "") + name.replace("$", r"\$")


def use_fonts_for(text: str) -> str:
    """Let pictures fall back to installed fonts for letters that the default font lacks; return those no font has."""
    lacking = {letter for letter in text if not letter.isspace()} - _letters_of(font_manager.findfont("DejaVu Sans"))
    families = ["DejaVu Sans"]
    for font in font_manager.fontManager.ttflist if lacking else []:
        if font.name.startswith("Last Resort"):  # comes with matplotlib and has a box for every letter
            continue
        if has := lacking & _letters_of(font.fname):
            families.append(font.name)
            lacking -= has
    matplotlib.rcParams["font.family"] = families
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
    """Name the curves of a figure's only axes: at a place as matplotlib has it, or on their right if they are many."""
    handles, _ = axes.get_legend_handles_labels()
    if len(handles) > MAX_ENTRIES:
        add_legend_on_the_right(figure, handles, title, fontsize)
    else:
        axes.legend(title=title, fontsize=fontsize, title_fontsize=8, frameon=False, **place)


def add_legend_on_the_right(figure: Figure, handles: Sequence[Artist], title: str = "", fontsize: float = 8) -> None:
    """Put a legend on the right of all axes; the figure grows by it, so that they keep their size."""
    legend = figure.legend(
        handles=handles,
        loc="outside right upper",
        ncols=math.ceil(len(handles) / MAX_ROWS),
        title=title,
        fontsize=fontsize,
        title_fontsize=8,
        alignment="left",
        frameon=False,
    )
    figure.draw_without_rendering()
    extent = legend.get_window_extent()  # in pixels
    figure.set_figwidth(figure.get_figwidth() + extent.width / figure.dpi)
    figure.set_figheight(max(figure.get_figheight(), extent.height / figure.dpi + 0.2))
