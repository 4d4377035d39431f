"""Pictures of training runs, from their log.csv."""

from pathlib import Path
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from plotting.style import add_legend_on_the_right, new_figure, styles
from system.console import UserError

PARTS = (  # axes of the figure: label, scale, and columns of the log with their kinds
    ("loss", "linear", {"loss": "total", "episodic_loss": "episodic", "global_loss": "global"}),
    ("accuracy (%)", "linear", {"episodic_accuracy": "episodic", "global_accuracy": "global"}),
    ("learning rate", "log", {"lr": "total"}),
    ("validation EER (%)", "linear", {"val_eer": "total"}),
)
DASHES: dict[str, Any] = {"total": "-", "episodic": "--", "global": ":"}
MARKED = 0.07  # distance of markers as a fraction of the axes' diagonal: more markers would hide the dashes
AS_PERCENT = ("episodic_accuracy", "global_accuracy")  # fractions in the log


def draw_training(inputs: dict[str, Path]) -> Figure:
    """Draw losses, accuracies, learning rate and, if there is any, validation EER of runs against the epoch."""
    logs = {name: read_log(path) for name, path in inputs.items()}
    parts = [part for part in PARTS if any(log[column].notna().any() for log in logs.values() for column in part[2])]
    rows = 2 if len(parts) == len(PARTS) else 1
    columns = len(parts) // rows
    figure, axes = new_figure(rows, columns, width=4 * columns, height=3.2 * rows)
    looks = [{"color": look["color"], "marker": look["marker"], "markersize": 4} for look in styles(len(logs))]
    for of_part, part in zip(axes, parts, strict=True):
        _draw_part(of_part, list(logs.values()), looks, *part)
    runs = [Line2D([], [], label=run, **look) for run, look in zip(logs, looks, strict=True)]
    kinds = [Line2D([], [], color="0.4", linestyle=dash, label=kind) for kind, dash in DASHES.items()]
    add_legend_on_the_right(figure, [*runs, *kinds] if len(runs) > 1 else kinds)
    return figure


def read_log(path: Path) -> pandas.DataFrame:
    """Read the log in the folder of a run, with accuracies in percent; UserError if there is no log."""
    file = path / "log.csv" if path.is_dir() else path
    try:
        log = pandas.read_csv(file)
        log[list(AS_PERCENT)] *= 100
        missing = {"epoch", *(column for *_, columns in PARTS for column in columns)} - set(log)
    except FileNotFoundError:
        raise UserError(f"{file}: no such log; train.py writes it into a run's folder") from None
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{file}: not the log of a run ({error})") from None
    if missing or log.empty:
        raise UserError(f"{file}: not the log of a run (no {', '.join(sorted(missing)) or 'epochs'})")
    return log


def _draw_part(
    axes: Axes, logs: list[pandas.DataFrame], looks: list[dict], label: str, scale: str, columns: dict[str, str]
) -> None:
    """Draw some columns of all runs: colour and marker are of the run, dashes are of the kind of column."""
    for log, look in zip(logs, looks, strict=True):
        for column, kind in columns.items():
            present = log[log[column].notna()]
            if len(present):
                axes.plot(present["epoch"], present[column], DASHES[kind], markevery=MARKED, **look)
    axes.set(xlabel="epoch", ylabel=label, yscale=scale)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if scale == "linear":
        axes.set_ylim(bottom=0)
