"""What all pictures share: colours that colour-blind readers and printers tell apart, and plain axes."""

from itertools import cycle, islice
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.use("Agg")  # files only, no window
matplotlib.rcParams.update({"svg.hashsalt": "meta-sr", "font.size": 10})  # the salt: equal data, equal file

# Okabe and Ito's palette, without its yellow, which vanishes on paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", "-.", ":")  # tell curves apart in grey, too
MARKERS = "osD^vP*"


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
