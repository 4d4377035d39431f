"""Pictures of verification scores: DET curves, histograms, calibration, EER against test length."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm

from configure import FRAMES_PER_SECOND
from evaluation.metrics import detection_cost, eer_interval, llr_rates, roc, verification_metrics
from evaluation.score_file import CLEAN, DRY, FULL, SCORES, SPEAKERS, read_scores, speakers_of
from plotting.style import COLOURS, add_legend, new_figure, styles
from system.console import UserError

DET_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 60, 80, 90)  # percent
DET_LIMITS = np.array([[0.05, 65], [0.05, 95]])  # percent, of false acceptances and misses
DCF_MARKS = {0.01: "^", 0.001: "v"}  # P_target -> marker
BINS = 60
KINDS = (("non-target", COLOURS[0], "-", ""), ("target", COLOURS[1], "--", "////"))  # hatched for black and white


class System(NamedTuple):
    """The scored trials of one system."""

    name: str
    table: pandas.DataFrame  # the columns of a score file; `score` is the score of this system


def draw_det(inputs: dict[str, Path]) -> Figure:
    """Draw DET curves on normal-deviate axes. Circles are EERs, triangles are minDCF points."""
    systems = read_systems(inputs)
    figure, (axes,) = new_figure(width=5.6, height=6.2)
    limits = norm.ppf(DET_LIMITS / 100)
    for system, look in zip(systems, styles(len(systems)), strict=True):
        trials = _scored(system.table)
        _, fpr, fnr = roc(*trials)
        rates = verification_metrics(*trials)
        label = f"{system.name}: EER {100 * rates.eer:.2f} %, minDCF {rates.min_dcf_01:.3f} / {rates.min_dcf_001:.3f}"
        colour = look["color"]
        axes.plot(*_deviates([fpr, fnr]), color=colour, linestyle=look["linestyle"], label=label)
        axes.plot(*_deviates([rates.eer_interpolated] * 2), "o", color=colour, markersize=7)
        for p_target, marker in DCF_MARKS.items():
            best = np.argmin(detection_cost(fpr, fnr, p_target))
            # Points outside of the axes are drawn on their edge.
            point = np.clip(_deviates([fpr[best], fnr[best]]), *limits.T)
            axes.plot(*point, marker, color=colour, markersize=7, markerfacecolor="white", clip_on=False, zorder=3)
    axes.plot(limits[0], limits[0], color="0.7", linewidth=0.8, zorder=0)
    ticks, names = norm.ppf(np.array(DET_TICKS) / 100), [f"{tick:g}" for tick in DET_TICKS]
    axes.set_xticks(ticks, names, fontsize=8)
    axes.set_yticks(ticks, names, fontsize=8)
    axes.set(xlim=limits[0], ylim=limits[1], xlabel="false acceptances (%)", ylabel="misses (%)")
    axes.set_aspect("equal")
    key = "circle: EER; triangles: minDCF at P(target) 0.01 (up) and 0.001 (down)"
    add_legend(figure, axes, key, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def draw_scores(inputs: dict[str, Path]) -> Figure:
    """Draw histograms of target and non-target scores, with the thresholds of EER and of minDCF(0.01)."""
    systems = read_systems(inputs)
    figure, parts = new_figure(rows=len(systems), width=7.5, height=2.4 * len(systems) + 0.4)
    for system, axes in zip(systems, parts, strict=True):
        trials = _scored(system.table)
        threshold, fpr, fnr = roc(*trials)
        eer = verification_metrics(*trials)
        _draw_histograms(axes, *trials)
        cheapest = threshold[np.argmin(detection_cost(fpr, fnr, 0.01))]
        axes.axvline(eer.threshold, color="black", label=f"EER {100 * eer.eer:.2f} % at {eer.threshold:.3f}")
        if np.isfinite(cheapest):
            label = f"minDCF(0.01) {eer.min_dcf_01:.3f} at {cheapest:.3f}"
            axes.axvline(cheapest, color="black", linestyle="--", label=label)
        axes.set(title=system.name, xlabel="score")
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _draw_histograms(axes: Axes, scores: np.ndarray, labels: np.ndarray) -> None:
    bins = np.histogram_bin_edges(scores, BINS).tolist()
    for of_kind, (name, colour, _, hatch) in zip((scores[~labels], scores[labels]), KINDS, strict=True):
        name = f"{len(of_kind):,} {name} trials"
        axes.hist(of_kind, bins, density=True, alpha=0.45, color=colour, hatch=hatch, label=name)
    axes.set(ylabel="density")


def draw_length(inputs: dict[str, Path]) -> Figure:
    """Draw the EER against the test length, with 95 % intervals by bootstrap over speakers.

    In noise there is one curve for each signal-to-noise ratio. If there is only one length, the EER is drawn against
    the ratio.
    """
    systems = read_systems(inputs)
    for system in systems:
        if missing := [column for column in ("length", *SPEAKERS) if column not in system.table]:
            raise UserError(
                f"{system.name}: no column '{missing[0]}'; EER_short.py with several test lengths writes it"
            )
    lengths = {length for system in systems for length in system.table["length"]}
    if len(lengths) == 1 and all("snr" in system.table for system in systems):
        axis, label = "snr", "signal-to-noise ratio (dB)"
    else:
        axis, label, systems = "length", "test length (s)", [part for system in systems for part in _by_snr(system)]
    values = sorted({value for system in systems for value in system.table[axis]}, key=_place)
    figure, (axes,) = new_figure()
    gap = min(0.08, 0.8 / len(systems))  # between the intervals at one length
    for number, (system, look) in enumerate(zip(systems, styles(len(systems)), strict=True)):
        parts = _parts(system, axis)
        eer = [100 * verification_metrics(*_scored(table)).eer for _, table in parts]
        low, high = 100 * np.array([eer_interval(*_scored(table), *speakers_of(table)) for _, table in parts]).T
        x = [values.index(value) + gap * (number - (len(systems) - 1) / 2) for value, _ in parts]
        axes.plot(x, eer, label=system.name, **look)
        # The EER may be outside of its interval, so the bars are drawn around the middle of the interval.
        axes.errorbar(x, (low + high) / 2, (high - low) / 2, fmt="none", capsize=3, ecolor=look["color"])
    ticks = [v if axis == "snr" or v == FULL else f"{int(v) / FRAMES_PER_SECOND:g}" for v in values]
    axes.set_xticks(range(len(values)), ticks)
    axes.set(xlabel=label, ylabel="EER (%)", ylim=(0, None))
    add_legend(figure, axes, "bars: 95 % intervals", fontsize=9)
    return figure


def _by_snr(system: System) -> list[System]:
    """Split a system by signal-to-noise ratio, from clean down to the lowest ratio."""
    if "snr" not in system.table:
        return [system]
    parts = reversed(_parts(system, "snr"))
    return [System(f"{system.name}, {snr}{' dB' * (snr not in (CLEAN, DRY))}", table) for snr, table in parts]


def _parts(system: System, column: str) -> list[tuple[str, pandas.DataFrame]]:
    """Return the trials at each length or signal-to-noise ratio, in increasing order."""
    return sorted(system.table.groupby(column), key=lambda part: _place(part[0]))


def _place(value: str) -> float:
    """Return the sort key of a length or signal-to-noise ratio: full utterances and clean tests are last."""
    return np.inf if value in (FULL, CLEAN, DRY, "") else float(value)


def read_systems(inputs: dict[str, Path]) -> list[System]:
    """Read score files; each score column without empty values is a system. UserError as for `read_scores`."""
    systems = []
    for name, path in inputs.items():
        table = read_scores(path)
        for column, remark in SCORES.items():
            if column in table and table[column].notna().all():  # otherwise systems would differ in their trials
                systems.append(System(name + remark, table.assign(score=table[column])))
    return systems


def _scored(table: pandas.DataFrame, column: str = "score") -> tuple[np.ndarray, np.ndarray]:
    """Return the scores in a column and the labels (n,) of a score file."""
    return table[column].to_numpy(), table["label"].to_numpy()


def _deviates(rates: np.ndarray | list) -> np.ndarray:
    """Return the normal deviates of rates; those of 0 and 1 are finite, but outside of the axes."""
    return norm.ppf(np.clip(rates, 1e-6, 1 - 1e-6))


def draw_calibration(inputs: dict[str, Path]) -> Figure:
    """Draw histograms and Tippett curves of the LLRs of target and non-target trials, for each file.

    A Tippett curve is the proportion of trials whose LLR is at least the value on the x axis. At LLR 0 the non-target
    curve is the false acceptance rate, and 100 % minus the target curve is the miss rate.
    """
    figure, parts = new_figure(rows=len(inputs), columns=2, width=9.5, height=3.3 * len(inputs) + 0.2)
    for (name, path), left, right in zip(inputs.items(), parts[::2], parts[1::2], strict=True):
        llr, labels = _read_llr(path)
        _draw_histograms(left, llr, labels)
        left.axvline(0, color="black", linewidth=0.8)
        left.set(title=name, xlabel="LLR")
        left.set_ylim(top=1.25 * left.get_ylim()[1])  # space for the legend
        left.legend(fontsize=8, frameon=False, loc="upper left")
        for of_kind, (kind, colour, dash, _) in zip((llr[~labels], llr[labels]), KINDS, strict=True):
            share = 100 * (1 - np.arange(len(of_kind)) / len(of_kind))
            right.step(np.sort(of_kind), share, dash, where="pre", color=colour, label=kind)
        right.axvline(0, color="black", linewidth=0.8)
        right.set(xlabel="LLR", ylabel="trials with this LLR or more (%)", ylim=(0, 101))
        right.legend(fontsize=8, frameon=False, loc="lower left")
        rates = llr_rates(llr, labels)
        errors = f"{rates['misses']:.1f} % misses, {rates['false_alarms']:.1f} % false acceptances"
        right.set_title(f"Cllr {rates['cllr']:.3f} (minimum {rates['min_cllr']:.3f}); at LLR 0 {errors}", fontsize=9)
    return figure


def _read_llr(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return LLRs and labels (n,) of the trials of a score file that have an LLR.

    UserError if there are no target or no non-target trials.
    """
    table = read_scores(path)
    if "llr" not in table:
        raise UserError(f"{path}: no column 'llr'; --save_scores writes it if the checkpoint has a calibration")
    llr, labels = _scored(table.dropna(subset="llr"), "llr")
    if not np.isfinite(llr).all() or labels.all() or not labels.any():
        raise UserError(f"{path}: LLRs of target or of non-target trials are missing or infinite")
    return llr, labels
