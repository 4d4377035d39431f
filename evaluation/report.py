"""What the evaluators report: error rates, as lines and as --json names them."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset.index import FeatureIndex
from dataset.trials import Trials
from evaluation.calibration import Calibration
from evaluation.embedding import Scores, Segments, unique_segments
from evaluation.metrics import eer_replicates, interval_95, llr_rates, verification_metrics


def say_left_out(features: FeatureIndex, unseen: np.ndarray) -> None:
    """Say in one line how many speakers are left out for having been trained on; `unseen` (S,) are the others."""
    n_seen = len(features.speakers) - len(unseen)
    print(f"speakers: {len(unseen):,} not trained on; {n_seen:,} that were trained on are left out")


def say_scored(features: FeatureIndex, trials: Trials, sides: Sequence[Segments]) -> None:
    """Say in one line what is scored: trials with one enrolment side and one test side or several."""
    segments, _ = unique_segments(sides)
    n_speakers = len(np.unique(features.speaker[segments.row]))
    targets = f"{trials.label.sum():,} target" if trials.labelled else "no labels"
    each = f" at each of {len(sides) - 1} test lengths" if len(sides) > 2 else ""
    print(
        f"scored: {len(trials.enrol):,} trials ({targets}){each} of {n_speakers:,} speakers, "
        f"{len(segments.row):,} segments, {segments.seconds(features).sum():,.0f} s of audio"
    )


def rates_of_all(
    scores: list[Scores], labels: np.ndarray, speakers: Sequence[np.ndarray], compared: Sequence[np.ndarray] = ()
) -> dict:
    """Return what --json tells: the rates at the only test length, or a list of those at each and LLRs' of all.

    `compared` are the scores (n,) of another system at each length, if any.
    """
    results: list[dict] = []
    for s, others in itertools.zip_longest(scores, compared):
        result: dict = {"length": s.length} if len(scores) > 1 else {}
        result |= {"snr": s.snr} if s.snr and len(scores) > 1 else {}
        replicates = eer_replicates(s.plain, labels, *speakers)
        result |= _rates(s.plain, labels, replicates)
        result |= {"n_trials": len(labels), "n_target": int(labels.sum())}
        result |= {"n_speakers": len(np.unique(speakers)), "seconds": s.seconds}
        if s.normalised is not None:
            result["as_norm"] = _rates(s.normalised, labels, eer_replicates(s.normalised, labels, *speakers))
        result |= {"llr": llr_rates(s.llr, labels)} if s.llr is not None else {}
        if others is not None:
            theirs = 100 * verification_metrics(others, labels).eer
            low, high = interval_95(replicates - eer_replicates(others, labels, *speakers))
            result["compared"] = {
                "eer": theirs,
                "difference": result["eer"] - theirs,
                "difference_low": 100 * low,
                "difference_high": 100 * high,
            }
        results.append(result)
    if len(results) == 1:
        return results[0]
    ratios = [s.llr for s in scores if s.llr is not None]
    of_all = {"llr": llr_rates(np.concatenate(ratios), np.tile(labels, len(scores)))} if ratios else {}
    return {"lengths": results} | of_all


def _rates(scores: np.ndarray, label: np.ndarray, replicates: np.ndarray) -> dict[str, float]:
    """Return the error rates of scores (n,), the EERs in percent, as --json names them."""
    rates = verification_metrics(scores, label)
    low, high = interval_95(replicates)
    return {
        "eer": 100 * rates.eer,
        "eer_interpolated": 100 * rates.eer_interpolated,
        "eer_low": 100 * low,
        "eer_high": 100 * high,
        "threshold": rates.threshold,
        "min_dcf_0.01": rates.min_dcf_01,
        "min_dcf_0.001": rates.min_dcf_001,
    }


def say_rates(result: dict) -> None:
    """Print a line for the error rates at each test length, and one for what else there is of them."""
    several = "lengths" in result
    for rates in result["lengths"] if several else [result]:
        noise = f", SNR {rates['snr']}" if "snr" in rates else ""
        prefix = f"test {rates['length']}{noise}: " if several else ""
        print(f"{prefix}{_in_words(rates)}")
        if "as_norm" in rates:
            print(f"{prefix}as-norm {_in_words(rates['as_norm'])}")
        if "llr" in rates:
            print(f"{prefix}{_llr_in_words(rates['llr'])}")
        if "compared" in rates:
            print(f"{prefix}{_difference_in_words(rates['compared'])}")
    if several and "llr" in result:
        print(f"all lengths: {_llr_in_words(result['llr'])}")


def say_calibration(calibration: Calibration, path: Path) -> None:
    """Say in one line what the calibration kept at `path` was fitted on and covers."""
    (e0, e1), (t0, t1), (low, high) = calibration.enrol_seconds, calibration.test_seconds, calibration.bounds
    print(
        f"calibration: {path}, fitted on {calibration.n_target + calibration.n_nontarget:,} trials, covers {e0:.2f} to "
        f"{e1:.2f} s enrolled and {t0:.2f} to {t1:.2f} s of test; LLRs from {low:.1f} to {high:.1f}"
    )


def say_held_out(ratios: Sequence[np.ndarray]) -> None:
    """Say in one line how many LLRs are by fits on other speakers; `ratios` (n,) of each length, NaN for the others."""
    llr = np.concatenate(ratios)
    across = np.isnan(llr).sum()
    only = "" if len(ratios) > 1 else "; only this test length is covered, EER_short.py with several covers short ones"
    print(
        "LLRs below: the speakers in two halves, fitted on one and measured on the other, both ways; "
        f"{len(llr) - across:,} trials, {across:,} across the halves left out{only}"
    )


def _in_words(rates: dict[str, float]) -> str:
    return (
        f"EER {rates['eer']:.2f} % (95 % interval {rates['eer_low']:.2f} to {rates['eer_high']:.2f} %, speakers "
        f"resampled), interpolated {rates['eer_interpolated']:.2f} %, threshold {rates['threshold']:.4f}, "
        f"minDCF(0.01) {rates['min_dcf_0.01']:.4f}, minDCF(0.001) {rates['min_dcf_0.001']:.4f}"
    )


def _llr_in_words(rates: dict[str, float]) -> str:
    costs = (f"DCF({p}) {rates[f'dcf_{p}']:.4f} (at best {rates[f'min_dcf_{p}']:.4f})" for p in ("0.01", "0.05"))
    return (
        f"LLR of {rates['n_trials']:,} trials: EER {rates['eer']:.2f} %, at 0 misses {rates['misses']:.2f} % and false "
        f"alarms {rates['false_alarms']:.2f} %, Cllr {rates['cllr']:.4f} (at best {rates['min_cllr']:.4f}), "
        f"{', '.join(costs)}"
    )


def _difference_in_words(rates: dict[str, float]) -> str:
    return (
        f"compared EER {rates['eer']:.2f} %, difference {rates['difference']:+.2f} points (95 % interval "
        f"{rates['difference_low']:+.2f} to {rates['difference_high']:+.2f}, the same speakers resampled for both)"
    )
