"""Error rates of verification and identification scores."""

import math
from typing import NamedTuple

import numpy as np

BOOTSTRAP_REPLICATES = 2000
NEAR = 64  # thresholds on each side of FNR = FPR that are searched for corners first: faster than a full search


class Verification(NamedTuple):
    """Error rates of scored trials, as fractions."""

    eer: float  # as in the official code: the false-positive rate at the ROC corner where |FNR - FPR| is minimal
    eer_interpolated: float  # FPR where the lines between the corners of the ROC cross FNR = FPR
    threshold: float  # score at `eer`; trials with this score or a higher one are accepted
    min_dcf_01: float  # normalised minimum detection cost for P_target = 0.01 and costs of 1
    min_dcf_001: float  # the same for P_target = 0.001


class Ranking(NamedTuple):
    """n trials sorted by score, highest first, and k + 1 thresholds: infinity and the k different scores."""

    order: np.ndarray  # (n,) trial numbers
    labels: np.ndarray  # (n,) in this order
    thresholds: np.ndarray  # (k + 1,), from infinity down
    n_accepted: np.ndarray  # (k + 1,) number of trials whose score is not below the threshold


def rank(scores: np.ndarray, labels: np.ndarray) -> Ranking:
    """Sort trials (n,) by their scores; ValueError as in `verification_metrics`."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, bool)
    if scores.shape != labels.shape or scores.ndim != 1:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must be two lists of one length")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    if labels.all() or not labels.any():
        raise ValueError("an error rate needs target and non-target trials")
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # last trial of each run of equal scores
    return Ranking(order, labels[order], np.append(np.inf, scores[last]), np.append(0, last + 1))


def accepted(ranking: Ranking, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the total weights (k + 1,) of the target and of the non-target trials that each threshold accepts.

    `weights` (n,) has the weight of each trial, in the order of the ranking.
    """
    targets = np.append(0, np.cumsum(weights * ranking.labels))
    nontargets = np.append(0, np.cumsum(weights)) - targets
    return targets.take(ranking.n_accepted), nontargets.take(ranking.n_accepted)  # take is faster than indexing


def corners(targets: np.ndarray, nontargets: np.ndarray) -> np.ndarray:
    """Return the indices (c,) of the thresholds at the corners of the ROC, as scikit-learn's roc_curve does.

    The arguments (k + 1,) are the results of `accepted`. A threshold that accepts the same weights as the threshold
    before it is not a point of the ROC. A point with equal steps before and after it is not a corner. The first and the
    last point are corners.
    """
    steps = np.diff([targets, nontargets])
    points = np.flatnonzero(steps.any(axis=0))
    steps = steps[:, points]
    bends = np.append((steps[:, 1:] != steps[:, :-1]).any(axis=0), True)[: len(points)]
    bends[:1] = True
    return np.append(0, 1 + points[bends])


def eer_of(targets: np.ndarray, nontargets: np.ndarray) -> tuple[float, int]:
    """Return the EER, as a fraction, and the index of its threshold; the arguments are those of `corners`.

    The EER is the false-positive rate at the corner where |FNR - FPR| is minimal, as in the official code. FPR - FNR
    increases along the ROC, so the corners next to the zero of FPR - FNR are sufficient.
    """
    zero = int(np.searchsorted(nontargets / nontargets[-1] + targets / targets[-1], 1))
    begin, end = max(0, zero - NEAR), zero + NEAR
    found = begin + corners(targets[begin:end], nontargets[begin:end])[1:-1]  # the ends need not be corners of the ROC
    if not (len(found) and found[0] < zero <= found[-1]):
        found = corners(targets, nontargets)
    fpr, fnr = _rates(targets, nontargets, found)
    nearest = np.argmin(np.abs(fnr - fpr))
    return float(fpr[nearest]), int(found[nearest])


def _rates(targets: np.ndarray, nontargets: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the false-positive and the false-negative rates (c,) at the thresholds of indices `index` (c,)."""
    return nontargets[index] / nontargets[-1], 1 - targets[index] / targets[-1]


def verification_metrics(scores: np.ndarray, labels: np.ndarray) -> Verification:
    """Return the error rates of scores (n,), higher for more probable targets, and labels (n,), true for targets.

    ValueError if a score is not finite, or if there are no target or no non-target trials.
    """
    ranking = rank(scores, labels)
    weights = accepted(ranking, np.ones(len(ranking.order), np.int64))
    eer, index = eer_of(*weights)
    fpr, fnr = _rates(*weights, corners(*weights))
    return Verification(
        eer,
        float(np.interp(0, fpr - fnr, fpr)),
        float(ranking.thresholds[index]),
        float(detection_cost(fpr, fnr, 0.01).min()),
        float(detection_cost(fpr, fnr, 0.001).min()),
    )


def roc(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return thresholds, from infinity down, and their false-positive and false-negative rates, (c,) each.

    A trial is accepted if its score is not below the threshold. Only the corners of the ROC are returned, as by
    scikit-learn's roc_curve, which the official code uses. ValueError as in `verification_metrics`.
    """
    ranking = rank(scores, labels)
    weights = accepted(ranking, np.ones(len(ranking.order), np.int64))
    index = corners(*weights)
    return ranking.thresholds[index], *_rates(*weights, index)


def eer_interval(
    scores: np.ndarray, labels: np.ndarray, enrol_speaker: np.ndarray, test_speaker: np.ndarray
) -> tuple[float, float]:
    """Return the 95 % interval of the EER, as fractions, by bootstrap; arguments as for `eer_replicates`."""
    return interval_95(eer_replicates(scores, labels, enrol_speaker, test_speaker))


def interval_95(replicates: np.ndarray) -> tuple[float, float]:
    """Return the 2.5th and the 97.5th percentile of bootstrap replicates (r,)."""
    low, high = np.percentile(replicates, [2.5, 97.5])
    return float(low), float(high)


def eer_replicates(
    scores: np.ndarray, labels: np.ndarray, enrol_speaker: np.ndarray, test_speaker: np.ndarray
) -> np.ndarray:
    """Return the EERs (r,), as fractions, of the replicates of a bootstrap over speakers.

    Trials of one speaker are not independent, so speakers are resampled, not trials. A replicate samples as many
    speakers as the trials have, with replacement. The weight of a target trial is the number of times that its speaker
    was sampled; the weight of a non-target trial is the product of these numbers of its two speakers. The EER of the
    weighted trials is defined as in `verification_metrics`. Replicates without target or non-target trials are skipped.
    enrol_speaker and test_speaker (n,) are the indices of the speakers. The samples depend on the speakers only, so the
    replicates of two systems on the same trials are paired.
    """
    ranking = rank(scores, labels)
    present = np.unique([enrol_speaker, test_speaker])
    once = present[-1] + 1  # replaces the second speaker of a target trial, so that the speaker counts once
    left, right = enrol_speaker[ranking.order], np.where(ranking.labels, once, test_speaker[ranking.order])
    rng, rates = np.random.default_rng(0), []
    for _ in range(BOOTSTRAP_REPLICATES):
        times = np.bincount(rng.choice(present, len(present)), minlength=once + 1)
        times[once] = 1
        targets, nontargets = accepted(ranking, times.take(left) * times.take(right))
        if targets[-1] and nontargets[-1]:
            rates.append(eer_of(targets, nontargets)[0])
    return np.array(rates)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the mean of values (n,), n >= 2, and the half-width of its 95 % interval (normal approximation)."""
    return float(np.mean(values)), float(1.96 * np.std(values, ddof=1) / np.sqrt(len(values)))


def detection_cost(fpr: np.ndarray, fnr: np.ndarray, p_target: float) -> np.ndarray:
    """Return the normalised detection cost, for error costs of 1, at false-positive and false-negative rates (...)."""
    return (p_target * fnr + (1 - p_target) * fpr) / min(p_target, 1 - p_target)


def cllr(llr: np.ndarray, labels: np.ndarray) -> float:
    """Return the Cllr in bits of LLRs (n,) with labels (n,) bool (Brummer and du Preez, 2006)."""
    costs = np.logaddexp(0, -llr[labels]).mean(), np.logaddexp(0, llr[~labels]).mean()
    return float(sum(costs) / (2 * math.log(2)))


def min_cllr(llr: np.ndarray, labels: np.ndarray) -> float:
    """Return minCllr, in bits, the minimum `cllr` over all non-decreasing functions of LLRs or scores (n,) (PAV)."""
    from scipy.optimize import isotonic_regression  # 39 MB of memory that recognition does not need

    _, index, count = np.unique(llr, return_inverse=True, return_counts=True)
    share = isotonic_regression(np.bincount(index, labels) / count, weights=count).x.clip(0, 1)
    with np.errstate(divide="ignore"):  # LLRs may be -inf for non-target or inf for target trials, at no cost
        best = np.log(share) - np.log1p(-share) - math.log(labels.sum() / (~labels).sum())
    return cllr(best[index], labels)


def llr_rates(llr: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the error rates of log-likelihood ratios (n,) for --json; LLRs that are NaN are excluded.

    The EER, and the misses and false alarms (false acceptances) at LLR 0, are in percent. cllr is in bits: 0 is
    perfect, LLRs that are always 0 have 1, and misleading LLRs can have more. min_cllr is its minimum under perfect
    calibration. dcf_P is the normalised detection cost for P_target = P at the Bayes threshold, and min_dcf_P its
    minimum over all thresholds. ValueError as in `verification_metrics`.
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
    """Return the false-positive and the false-negative rate (2,) at a threshold."""
    return np.array([(llr[~labels] >= threshold).mean(), (llr[labels] < threshold).mean()])
