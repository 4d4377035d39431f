"""The results of an evaluation: a dictionary for --json, and the lines that the scripts print."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dataset.index import FeatureIndex
from dataset.trials import Trials
from evaluation.calibration import Calibration, ScoredTrials, leave_one_set_out_llr
from evaluation.embedding import Scores, Segments, unique_segments
from evaluation.metrics import eer_replicates, interval_95, llr_rates, verification_metrics

LEFT_OUT_RATES = ("cllr", "min_cllr", "misses", "false_alarms")  # rates whose mean over the sets is reported


def excluded_line(features: FeatureIndex, unseen: np.ndarray) -> str:
    """Return the line with the numbers of `unseen` speakers (S,) and of excluded training speakers."""
    n_seen = len(features.speakers) - len(unseen)
    return f"speakers: {len(unseen):,} not in the training; {n_seen:,} training speakers are excluded"


def scored_line(features: FeatureIndex, trials: Trials, sides: Sequence[Segments]) -> str:
    """Return the line with the numbers of scored trials, speakers and segments.

    `sides` are the enrolment segments, then the test segments of each length.
    """
    segments, _ = unique_segments(sides)
    n_speakers = len(np.unique(features.speaker[segments.row]))
    targets = f"{trials.label.sum():,} target" if trials.labelled else "no labels"
    each = f" at each of {len(sides) - 1} test lengths" if len(sides) > 2 else ""
    return (
        f"scored: {len(trials.enrol):,} trials ({targets}){each} of {n_speakers:,} speakers, "
        f"{len(segments.row):,} segments, {segments.seconds(features).sum():,.0f} s of audio"
    )


def summarise(
    scores: Sequence[Scores], labels: np.ndarray, speakers: Sequence[np.ndarray], compared: Sequence[np.ndarray] = ()
) -> dict:
    """Return the error rates of n trials for --json; of several tests as a list, with the LLR error rates of all tests.

    A test is a test length in a noise condition. Labels (n,) are true for target trials; without labels there are no
    error rates. `speakers` are the indices (n,) of the speakers of both sides. `compared` are the scores (n,) of
    another system in each test, if there are any. ValueError as in `verification_metrics`.
    """
    if not len(labels):
        return {"n_trials": len(speakers[0]), "n_speakers": len(np.unique(speakers))}
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
    """Return the error rates of scores (n,) for --json, the EERs in percent."""
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


def rate_lines(result: dict) -> list[str]:
    """Return the lines to print for a result of `summarise`: for each test, error rates, as-norm, LLRs, comparison."""
    several, lines = "lengths" in result, []
    for rates in result.get("lengths", [result] if "eer" in result else []):
        noise = f", SNR {rates['snr']}" if "snr" in rates else ""
        prefix = f"test {rates['length']}{noise}: " if several else ""
        lines.append(f"{prefix}{_in_words(rates)}")
        if "as_norm" in rates:
            lines.append(f"{prefix}as-norm {_in_words(rates['as_norm'])}")
        if "llr" in rates:
            lines.append(f"{prefix}{_llr_in_words(rates['llr'])}")
        if "compared" in rates:
            lines.append(f"{prefix}{_difference_in_words(rates['compared'])}")
    if several and "llr" in result:
        lines.append(f"all lengths: {_llr_in_words(result['llr'])}")
    return lines


def calibration_line(calibration: Calibration, path: Path) -> str:
    """Return the line with the trials that a calibration in the file `path` was fitted on, and its ranges."""
    (e0, e1), (t0, t1), (low, high) = calibration.enrol_seconds, calibration.test_seconds, calibration.bounds
    sets = zip(calibration.sets, calibration.nontarget_speakers, strict=True)
    of_sets = f" of {', '.join(f'{name} ({n:,} speakers)' for name, n in sets)}" if calibration.sets else ""
    return (
        f"calibration: {path}, fitted on {calibration.n_target + calibration.n_nontarget:,} trials{of_sets}, with "
        f"{e0:.2f} to {e1:.2f} s of speech on the longer side and {t0:.2f} to {t1:.2f} s on the shorter, "
        f"LLRs limited to {low:.1f} .. {high:.1f}"
    )


def leave_one_set_out_rates(sets: Mapping[str, ScoredTrials]) -> dict:
    """Return the LLR error rates of each set, with a calibration fitted on the other sets, and their mean, for --json.

    Each entry of the list `sets` has the name of the set as `set`, and the rates of `llr_rates`. UserError if the
    trials do not support a calibration.
    """
    ratios = leave_one_set_out_llr(sets)
    rates = [{"set": name, **llr_rates(ratios[name], trials.labels)} for name, trials in sets.items()]
    return {"sets": rates, "mean": {name: float(np.mean([of[name] for of in rates])) for name in LEFT_OUT_RATES}}


def leave_one_set_out_lines(result: dict) -> list[str]:
    """Return the lines to print for a result of `leave_one_set_out_rates`."""
    lines = ["leave-one-set-out error rates: each set is measured with a calibration fitted on the other sets"]
    for rates in [*result["sets"], {"set": "mean", **result["mean"]}]:
        lines.append(
            f"{rates['set']}: Cllr {rates['cllr']:.4f} (minimum {rates['min_cllr']:.4f}), at LLR 0 misses "
            f"{rates['misses']:.2f} % and false acceptances {rates['false_alarms']:.2f} %"
        )
    return lines


def held_out_line(ratios: Sequence[np.ndarray]) -> str:
    """Return the line with the number of trials that have an LLR from 2-fold cross-validation over speakers.

    `ratios` are the LLRs (n,) in each test; they are NaN for trials between the folds.
    """
    llr = np.concatenate(ratios)
    across = np.isnan(llr).sum()
    only = "" if len(ratios) > 1 else "; this calibration is for one test length, EER_short.py can fit several"
    return (
        f"error rates of LLRs are from 2-fold cross-validation over speakers: {len(llr) - across:,} trials are scored, "
        f"{across:,} between the folds are excluded{only}"
    )


def _in_words(rates: dict[str, float]) -> str:
    return (
        f"EER {rates['eer']:.2f} % (95 % interval {rates['eer_low']:.2f} to {rates['eer_high']:.2f} %, bootstrap "
        f"over speakers), interpolated {rates['eer_interpolated']:.2f} %, threshold {rates['threshold']:.4f}, "
        f"minDCF(0.01) {rates['min_dcf_0.01']:.4f}, minDCF(0.001) {rates['min_dcf_0.001']:.4f}"
    )


def _llr_in_words(rates: dict[str, float]) -> str:
    costs = (f"DCF({p}) {rates[f'dcf_{p}']:.4f} (minimum {rates[f'min_dcf_{p}']:.4f})" for p in ("0.01", "0.05"))
    return (
        f"LLR of {rates['n_trials']:,} trials: EER {rates['eer']:.2f} %, at LLR 0 misses {rates['misses']:.2f} % and "
        f"false acceptances {rates['false_alarms']:.2f} %, Cllr {rates['cllr']:.4f} (minimum {rates['min_cllr']:.4f}), "
        f"{', '.join(costs)}"
    )


def _difference_in_words(rates: dict[str, float]) -> str:
    return (
        f"EER of --compare {rates['eer']:.2f} %, difference {rates['difference']:+.2f} points (95 % interval "
        f"{rates['difference_low']:+.2f} to {rates['difference_high']:+.2f}, paired bootstrap over speakers)"
    )
