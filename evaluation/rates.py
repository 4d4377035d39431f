"""An evaluation's error rates, as --json names them."""

import numpy as np

from evaluation.embedding import Scores
from evaluation.llr import Sides, llr_rates
from evaluation.metrics import eer_interval, verification_metrics


def rates_of_all(scores: list[Scores], labels: np.ndarray, speakers: Sides) -> dict:
    """Return what --json tells: the rates at the only test length, or a list of those at each and LLRs' of all."""
    results = [rates(of_length, labels, speakers) for of_length in scores]
    if len(results) == 1:
        return results[0]
    conditions = [{"length": s.length} | ({"snr": s.snr} if s.snr else {}) for s in scores]
    result: dict = {"lengths": [words | of_length for words, of_length in zip(conditions, results, strict=True)]}
    if ratios := [s.llr for s in scores if s.llr is not None]:
        result["llr"] = llr_rates(np.concatenate(ratios), np.tile(labels, len(scores)))
    return result


def rates(scores: Scores, label: np.ndarray, speakers: Sides) -> dict:
    """Return the error rates of n labelled trials at one test length, the EERs in percent, as --json names them."""
    result: dict = _rates(scores.plain, label, speakers) | {
        "n_trials": len(label),
        "n_target": int(label.sum()),
        "n_speakers": len(np.unique(np.concatenate(speakers))),
        "seconds": scores.seconds,
    }
    if scores.normalised is not None:
        result["as_norm"] = _rates(scores.normalised, label, speakers)
    if scores.llr is not None:
        result["llr"] = llr_rates(scores.llr, label)
    return result


def _rates(scores: np.ndarray, label: np.ndarray, speakers: Sides) -> dict[str, float]:
    """Return the error rates of scores (n,), the EERs in percent, as --json names them."""
    rates = verification_metrics(scores, label)
    low, high = eer_interval(scores, label, *speakers)
    return {
        "eer": 100 * rates.eer,
        "eer_interpolated": 100 * rates.eer_interpolated,
        "eer_low": 100 * low,
        "eer_high": 100 * high,
        "threshold": rates.threshold,
        "min_dcf_0.01": rates.min_dcf_01,
        "min_dcf_0.001": rates.min_dcf_001,
    }
