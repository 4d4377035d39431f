"""The course of training runs, from their log.csv."""

from pathlib import Path

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from plotting.style import new_figure, styles
from system.console import UserError

PARTS = (  # what is drawn together: the axis, its scale, and the columns with what to call them
    ("loss", "linear", {"loss": "total", "episodic_loss": "episodic", "global_loss": "global"}),
    ("accuracy (%)", "linear", {"episodic_accuracy": "episodic", "global_accuracy": "global"}),
    ("learning rate", "log", {"lr": "learning rate"}),
    ("validation EER (%)", "linear", {"val_eer": "validation EER"}),
)
COLUMN_DASHES = ("-", "--", ":")
AS_PERCENT = ("episodic_accuracy", "global_accuracy")  # fractions in the log


def draw_training(inputs: dict[str, Path]) -> Figure:
    """Draw losses, accuracies, learning rate and validation EER (if there are any) of runs against the epoch."""
    logs = {name: read_log(path) for name, path in inputs.items()}
    parts = [part for part in PARTS if any(log[column].notna().any() for log in logs.values() for column in part[2])]
    rows = 2 if len(parts) == len(PARTS) else 1
    columns = len(parts) // rows
    figure, axes = new_figure(rows, columns, width=4 * columns, height=3.2 * rows)
    for of_part, part in zip(axes, parts, strict=True):
        _draw_part(of_part, logs, *part)
    return figure


def read_log(path: Path) -> pandas.DataFrame:
    """Read the log of a run's folder, fractions as percent; UserError if there is none."""
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


def _draw_part(axes: Axes, logs: dict[str, pandas.DataFrame], label: str, scale: str, columns: dict[str, str]) -> None:
    for (run, log), look in zip(logs.items(), styles(len(logs)), strict=True):
        for (column, name), dash in zip(columns.items(), COLUMN_DASHES, strict=False):
            present = log[log[column].notna()]
            if len(present):
                words = ", ".join([run] * (len(logs) > 1) + [name] * (len(columns) > 1))
                axes.plot(present["epoch"], present[column], dash, color=look["color"], marker=".", label=words)
    axes.set(xlabel="epoch", ylabel=label, yscale=scale)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if scale == "linear":
        axes.set_ylim(bottom=0)
    if len(logs) > 1 or len(columns) > 1:
        axes.legend(fontsize=8, frameon=False)
