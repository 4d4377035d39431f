"""Error rates of verification and identification scores. Everything is returned, nothing printed."""

import bisect
import math
from typing import NamedTuple

import numpy as np

BOOTSTRAP_REPLICATES = 2000
STRETCH = 32  # thresholds on either side of the ROC's crossing with FNR = FPR that are first searched for corners


class Verification(NamedTuple):
    """Error rates of a list of scored trials, as fractions."""

    eer: float  # the release's: the false-positive rate where |FNR - FPR| is least
    eer_interpolated: float  # where the lines between the ROC's points cross FNR = FPR
    threshold: float  # score at the release's EER; a trial is accepted from there on
    min_dcf_01: float  # normalised detection cost, P_target = 0.01, costs 1
    min_dcf_001: float  # the same, P_target = 0.001


class Roc(NamedTuple):
    """An ROC of weighted trials at k + 1 thresholds: infinity and each different score, from the highest down.

    A threshold that adds no weight to what is accepted is no point of the ROC.
    """

    thresholds: np.ndarray  # (k + 1,)
    ranked: tuple[np.ndarray, np.ndarray]  # numbers (n,) of the target trials and of the others, highest score first
    n_accepted: np.ndarray  # (2, k + 1) how many trials of either kind each threshold accepts
    weight: tuple[np.ndarray, np.ndarray]  # (n + 1,) of either kind: the weight of its 0, 1, 2 .. n highest trials

    def accepted(self, at: int | slice | np.ndarray) -> np.ndarray:
        """Return the weights (2, ...) of the target and other trials that the thresholds numbered `at` (...) accept."""
        return np.array([weight[n[at]] for weight, n in zip(self.weight, self.n_accepted, strict=True)])

    def rates(self, at: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the false-positive and the false-negative rate at the thresholds numbered `at` (...)."""
        targets, others = (of_kind / weight[-1] for of_kind, weight in zip(self.accepted(at), self.weight, strict=True))
        return others, 1 - targets

    def corners(self, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Return the numbers (c,) of the thresholds at the ROC's corners, as scikit-learn's roc_curve keeps them.

        No corner is a threshold at which as many targets and as many others are newly accepted as at the next one. Of a
        stretch of thresholds begin .. end - 1 the first point and the last one always count as corners.
        """
        steps = np.diff(self.accepted(slice(begin, end)))
        points = np.flatnonzero(steps.any(axis=0))
        steps = steps[:, points]
        bends = np.append((steps[:, 1:] != steps[:, :-1]).any(axis=0), True)[: len(points)]
        bends[:1] = True
        corners = begin + 1 + points[bends]
        return corners if begin else np.append(0, corners)

    def eer(self) -> tuple[float, int]:
        """Return the EER, as a fraction, and the number of its threshold.

        The EER is the false-positive rate at the corner where |FNR - FPR| is least, as in the release. FPR - FNR rises
        along the ROC, so the corner is the last one before its zero or the first one after it.
        """
        n_thresholds, width = len(self.thresholds), STRETCH
        (targets, others), (n_targets, n_others) = self.weight, self.n_accepted

        def is_past(at: int) -> bool:  # FPR >= FNR; `rates` of a single threshold takes ten times longer
            return others[n_others[at]] / others[-1] + targets[n_targets[at]] / targets[-1] >= 1

        zero = bisect.bisect_left(range(n_thresholds), True, key=is_past)
        while True:
            begin, end = max(0, zero - width), min(n_thresholds, zero + width)
            before, after = np.split(found := self.corners(begin, end), [np.searchsorted(found, zero)])
            # The first and the last corner of a stretch are none unless the ROC begins and ends there.
            if len(before) > (begin > 0) and len(after) > (end < n_thresholds):
                break
            width *= 4
        at = np.array([before[-1], after[0]])
        fpr, fnr = self.rates(at)
        nearest = np.argmin(np.abs(fnr - fpr))
        return float(fpr[nearest]), int(at[nearest])


def verification_metrics(scores: np.ndarray, labels: np.ndarray) -> Verification:
    """Return the error rates of scores (n,), higher for likelier targets, and labels (n,), true for targets.

    ValueError if a score is not finite or a kind of trial is missing.
    """
    curve = _roc(scores, labels)
    eer, at = curve.eer()
    fpr, fnr = curve.rates(curve.corners())
    return Verification(
        eer,
        float(np.interp(0, fpr - fnr, fpr)),
        float(curve.thresholds[at]),
        float(detection_cost(fpr, fnr, 0.01).min()),
        float(detection_cost(fpr, fnr, 0.001).min()),
    )


def roc(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return thresholds, from infinity down, and the false-positive and false-negative rates there, (k,) each.

    A trial is accepted if its score is not below the threshold. Only the ROC's corners are kept, as the release's
    (scikit-learn's) ROC keeps them: its EER is read off at one of them. ValueError as in `verification_metrics`.
    """
    curve = _roc(scores, labels)
    at = curve.corners()
    return curve.thresholds[at], *curve.rates(at)


def _roc(scores: np.ndarray, labels: np.ndarray) -> Roc:
    """Return the ROC of scores and labels (n,), each trial of weight 1; ValueError as in `verification_metrics`."""
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
    n_accepted = np.zeros((2, len(last) + 1), np.int64)
    n_accepted[:, 1:] = np.cumsum([labels, ~labels], axis=1)[:, last]
    ranked = order[labels], order[~labels]
    weight = np.arange(len(ranked[0]) + 1), np.arange(len(ranked[1]) + 1)
    return Roc(np.append(np.inf, scores[last]), ranked, n_accepted, weight)


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

    Trials of one speaker are not independent, so speakers are resampled, not trials: a replicate samples as many
    speakers as there are, with replacement, and a trial counts as often as its pair of speakers was sampled. Scores and
    labels are those of `verification_metrics`, enrol_speaker and test_speaker (n,) the numbers of the two speakers. An
    EER is that of `verification_metrics` on the list in which each trial is repeated so often; replicates without
    trials of both kinds are left out. The samples depend on the speakers alone, so the replicates of two systems on the
    same trials are paired: in their difference what is hard for both cancels.
    """
    curve = _roc(scores, labels)
    targets, others = curve.ranked
    of_target, left, right = enrol_speaker[targets], enrol_speaker[others], test_speaker[others]
    present = np.unique([enrol_speaker, test_speaker])
    rng, rates = np.random.default_rng(0), []
    for _ in range(BOOTSTRAP_REPLICATES):
        times = np.bincount(rng.choice(present, len(present)), minlength=present[-1] + 1)
        np.cumsum(times.take(of_target), out=curve.weight[0][1:])  # take is faster than indexing
        np.cumsum(times.take(left) * times.take(right), out=curve.weight[1][1:])
        if all(weight[-1] for weight in curve.weight):
            rates.append(curve.eer()[0])
    return np.array(rates)


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
