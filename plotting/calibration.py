"""Pictures of log-likelihood ratios: how they are distributed, and what decisions by them would cost."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.metrics import calibrated_metrics
from plotting.style import new_figure
from plotting.verification import KINDS, draw_histograms, read_scores
from system.console import UserError


def draw_calibration(inputs: dict[str, Path]) -> Figure:
    """Draw for each file histograms of the LLRs of target and non-target trials, and beside them Tippett curves.

    A Tippett curve is the share of a kind's trials whose LLR is at least so large: at 0 the non-target curve shows the
    false alarms, and what the target curve lacks to 100 % the misses.
    """
    figure, parts = new_figure(rows=len(inputs), columns=2, width=9.5, height=3.3 * len(inputs) + 0.2)
    for (name, path), left, right in zip(inputs.items(), parts[::2], parts[1::2], strict=True):
        llr, labels = read_llr(path)
        draw_histograms(left, llr, labels)
        left.axvline(0, color="black", linewidth=0.8)
        left.set(title=name, xlabel="LLR")
        left.set_ylim(top=1.25 * left.get_ylim()[1])  # room for the legend
        left.legend(fontsize=8, frameon=False, loc="upper left")
        _draw_tippett(right, (llr[~labels], llr[labels]))
        rates = calibrated_metrics(llr, labels)
        errors = f"{100 * rates.misses:.1f} % misses, {100 * rates.false_alarms:.1f} % false alarms"
        right.set_title(f"Cllr {rates.cllr:.3f}, at best {rates.min_cllr:.3f}; at 0: {errors}", fontsize=9)
    return figure


def read_llr(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return LLRs and labels of those trials (n,) of a score file that have an LLR; UserError if a kind has none."""
    table = read_scores(path)
    if "llr" not in table:
        raise UserError(f"{path}: no column 'llr'; the evaluators' --save_scores writes it with --calibrate True")
    table = table.dropna(subset="llr")
    llr, labels = table["llr"].to_numpy(), table["label"].to_numpy()
    if not np.isfinite(llr).all() or labels.all() or not labels.any():
        raise UserError(f"{path}: the picture needs finite LLRs of target and of non-target trials")
    return llr, labels


def _draw_tippett(axes: Axes, kinds: tuple[np.ndarray, np.ndarray]) -> None:
    for llr, (name, colour, dash, _) in zip(kinds, KINDS, strict=True):
        share = 100 * (1 - np.arange(len(llr)) / len(llr))
        axes.step(np.sort(llr), share, dash, where="pre", color=colour, label=name)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel="LLR", ylabel="trials with this LLR or more (%)", ylim=(0, 101))
    axes.legend(fontsize=8, frameon=False, loc="lower left")
