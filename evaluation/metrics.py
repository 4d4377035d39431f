"""Error rates of verification and identification scores. Everything is returned, nothing printed."""

import math
from typing import NamedTuple

import numpy as np

BOOTSTRAP_REPLICATES = 500


class Verification(NamedTuple):
    """Error rates of a list of scored trials, as fractions."""

    eer: float  # the release's: the false-positive rate where |FNR - FPR| is least
    eer_interpolated: float  # where the lines between the ROC's points cross FNR = FPR
    threshold: float  # score at the release's EER; a trial is accepted from there on
    min_dcf_01: float  # normalised detection cost, P_target = 0.01, costs 1
    min_dcf_001: float  # the same, P_target = 0.001


def verification_metrics(scores: np.ndarray, labels: np.ndarray) -> Verification:
    """Return the error rates of scores (n,), higher for likelier targets, and labels (n,), true for targets.

    ValueError if a score is not finite or a kind of trial is missing.
    """
    threshold, fpr, fnr = roc(scores, labels)
    at = np.argmin(np.abs(fnr - fpr))
    return Verification(
        float(fpr[at]),
        float(np.interp(0, fpr - fnr, fpr)),
        float(threshold[at]),
        float(detection_cost(fpr, fnr, 0.01).min()),
        float(detection_cost(fpr, fnr, 0.001).min()),
    )


def eer_interval(
    scores: np.ndarray, labels: np.ndarray, enrol_speaker: np.ndarray, test_speaker: np.ndarray
) -> tuple[float, float]:
    """Return a 95 % interval of the EER, as fractions, by bootstrap over speakers; arguments of `eer_replicates`."""
    return interval_95(eer_replicates(scores, labels, enrol_speaker, test_speaker))


def interval_95(replicates: np.ndarray) -> tuple[float, float]:
    """Return the interval that holds the middle 95 % of a bootstrap's replicates (r,)."""
    low, high = np.percentile(replicates, [2.5, 97.5])
    return float(low), float(high)


def eer_replicates(
    scores: np.ndarray, labels: np.ndarray, enrol_speaker: np.ndarray, test_speaker: np.ndarray
) -> np.ndarray:
    """Return the EERs (r,), as fractions, of a bootstrap over speakers.

    Trials of one speaker are not independent, so speakers are resampled, not trials: a replicate draws as many
    speakers as there are, with replacement, and a trial counts as often as its pair of speakers was drawn. Scores and
    labels are those of `verification_metrics`, enrol_speaker and test_speaker (n,) the numbers of the two speakers.
    The draws depend on the speakers alone, so the replicates of two systems on the same trials are paired: in their
    difference what is hard for both falls out.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    labels, left, right = labels[order], enrol_speaker[order], test_speaker[order]
    n_speakers = int(max(left.max(), right.max())) + 1
    present = np.unique(np.concatenate([left, right]))
    rng, rates = np.random.default_rng(0), []
    for _ in range(BOOTSTRAP_REPLICATES):
        drawn = np.bincount(rng.choice(present, len(present)), minlength=n_speakers)
        weight = np.where(labels, drawn[left], drawn[left] * drawn[right])
        accepted = np.cumsum(weight)[last]
        accepted_targets = np.cumsum(weight * labels)[last]
        n_target, n_other = accepted_targets[-1], accepted[-1] - accepted_targets[-1]
        if n_target and n_other:
            fpr, fnr = (accepted - accepted_targets) / n_other, 1 - accepted_targets / n_target
            fpr, fnr = np.append(0, fpr), np.append(1, fnr)  # the corner that accepts nothing, as in `roc`
            rates.append(fpr[np.argmin(np.abs(fnr - fpr))])
    return np.array(rates)


def roc(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return thresholds, from infinity down, and the false-positive and false-negative rates there, (k,) each.

    A trial is accepted if its score is not below the threshold. Only the ROC's corners are kept, as the release's
    (scikit-learn's) ROC keeps them: its EER is read off at one of them. ValueError as in `verification_metrics`.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, bool)
    if scores.shape != labels.shape or scores.ndim != 1:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must be two lists of one length")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    if labels.all() or not labels.any():
        raise ValueError("an error rate needs target and non-target trials")
    order = np.argsort(-scores, kind="stable")
    scores, labels = scores[order], labels[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of each run of equal scores
    accepted_targets = np.cumsum(labels)[last]
    accepted_others = last + 1 - accepted_targets
    bends = (np.diff(accepted_targets, 2) != 0) | (np.diff(accepted_others, 2) != 0)
    corner = np.concatenate([[True], bends, [True]])[: len(last)]  # both ends are corners
    last, accepted_targets, accepted_others = last[corner], accepted_targets[corner], accepted_others[corner]
    fpr = np.append(0, accepted_others / accepted_others[-1])
    fnr = np.append(1, 1 - accepted_targets / accepted_targets[-1])
    return np.append(np.inf, scores[last]), fpr, fnr


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the mean of values (n,), n >= 2, and the half-width of its 95 % interval (normal approximation)."""
    return float(np.mean(values)), float(1.96 * np.std(values, ddof=1) / np.sqrt(len(values)))


def detection_cost(fpr: np.ndarray, fnr: np.ndarray, p_target: float) -> np.ndarray:
    """Return the detection cost at false-positive and false-negative rates (...), normalised, costs 1."""
    return (p_target * fnr + (1 - p_target) * fpr) / min(p_target, 1 - p_target)


def cllr(llr: np.ndarray, labels: np.ndarray) -> float:
    """Return the cost in bits of LLRs (n,), labels (n,) bool, kinds of equal weight (Brummer and du Preez, 2006)."""
    costs = np.logaddexp(0, -llr[labels]).mean(), np.logaddexp(0, llr[~labels]).mean()
    return float(sum(costs) / (2 * math.log(2)))


def min_cllr(llr: np.ndarray, labels: np.ndarray) -> float:
    """Return the least `cllr` that any rising function of the LLRs (n,), or of scores, reaches (isotonic regression).

    Equal LLRs stay equal.
    """
    from scipy.optimize import isotonic_regression  # 39 MB, which recognition need not load

    _, at, count = np.unique(llr, return_inverse=True, return_counts=True)
    share = isotonic_regression(np.bincount(at, labels) / count, weights=count).x.clip(0, 1)
    with np.errstate(divide="ignore"):  # LLRs of -inf and inf, where they cost nothing
        best = np.log(share) - np.log1p(-share) - math.log(labels.sum() / (~labels).sum())
    return cllr(best[at], labels)


def llr_rates(llr: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return how good those of the log-likelihood ratios (n,) are that are not NaN, as --json names it.

    The EER, misses and false alarms are in percent, the latter two at LLR 0. cllr is in bits: 0 for LLRs that are sure
    and right, 1 for those that say nothing, above for misleading ones; min_cllr is what perfect recalibration would
    leave. dcf_P is the detection cost at P_target = P where Bayes' threshold decides, min_dcf_P that at the best one.
    ValueError as in `verification_metrics`.
    """
    present = ~np.isnan(llr)
    llr, labels = llr[present], np.asarray(labels, bool)[present]
    _, fpr, fnr = roc(llr, labels)
    false_alarms, misses = (100 * _rates_at(0, llr, labels)).tolist()
    rates = {
        "n_trials": len(llr),
        "eer": 100 * verification_metrics(llr, labels).eer,
        "misses": misses,
        "false_alarms": false_alarms,
        "cllr": cllr(llr, labels),
        "min_cllr": min_cllr(llr, labels),
    }
    for p in (0.01, 0.05):
        false_alarms, misses = _rates_at(math.log((1 - p) / p), llr, labels)
        rates[f"dcf_{p}"] = float(detection_cost(false_alarms, misses, p))
        rates[f"min_dcf_{p}"] = float(detection_cost(fpr, fnr, p).min())
    return rates


def _rates_at(threshold: float, llr: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the shares (2,) of non-target trials from a threshold on and of target trials below it."""
    return np.array([(llr[~labels] >= threshold).mean(), (llr[labels] < threshold).mean()])
