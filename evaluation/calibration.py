"""Calibration: map a cosine score and the seconds of speech on both sides to a log-likelihood ratio (LLR).

The LLR is the natural logarithm of the ratio of two likelihoods of the score: the likelihood if both sides are from the
same speaker, divided by the likelihood if they are from different speakers. With short speech a score is less reliable,
so the LLR comes from a logistic regression on the score, the logarithms of both durations, and their products with the
score (Brummer and du Preez, 2006, for calibration; durations as quality measures, as in VoxSRC systems). The side with
more speech counts as the enrolment, so the LLR does not depend on the order of the two sides. The score is
transformed to Fisher's z, the inverse hyperbolic tangent of the cosine, because cosines near 1 differ little even if
the evidence differs much. A calibration is fitted on trials of speakers that the network was not trained on, and stored
next to the checkpoint as checkpoint_EEE.calibration.json. Silence is trimmed in the fit, as in recognition.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from system import console
from system.console import UserError
from system.files import replacing

FEATURES = ("z", "log_enrol", "log_test", "z_log_enrol", "z_log_test")  # enrol is the longer side, test the shorter
MAX_COSINE = 0.999  # larger cosines are clipped, because z is infinite at 1
MIN_TRIALS = 60  # target and non-target trials each: ten for each of 6 coefficients (Peduzzi et al., 1996)
PENALTY = 0.002  # L2: PENALTY / 2 times the squared standardised weights is added to the mean loss of a trial


class ScoredTrials(NamedTuple):
    """The scores of n trials of one development set, pooled over test lengths and noise conditions; (n,) each."""

    scores: np.ndarray  # cosines
    labels: np.ndarray  # bool, true for target trials
    enrol_seconds: np.ndarray  # of speech, above 0
    test_seconds: np.ndarray
    enrol_speaker: np.ndarray  # indices of the speakers within the set
    test_speaker: np.ndarray

    def where(self, kept: np.ndarray) -> "ScoredTrials":
        """Return the trials for which the mask `kept` (n,) is true."""
        return ScoredTrials(*(column[kept] for column in self))

    @classmethod
    def pooled(cls, parts: Iterable["ScoredTrials"]) -> "ScoredTrials":
        """Return the trials of all parts, one part after the other."""
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A fitted calibration."""

    intercept: float  # of the logistic regression
    weights: tuple[float, ...]  # of the logistic regression, in the order of FEATURES
    enrol_seconds: tuple[float, float]  # least and most speech of the longer sides in the fit; others are clipped
    test_seconds: tuple[float, float]  # the same for the shorter sides
    n_target: int  # trials in the fit
    n_nontarget: int
    sets: tuple[str, ...] = ()  # names of the development sets; empty in files of earlier versions
    target_speakers: tuple[int, ...] = ()  # number of speakers with target trials in each set
    nontarget_speakers: tuple[int, ...] = ()

    @property
    def bounds(self) -> tuple[float, float]:
        """The minimum and the maximum LLR.

        The minimum is -log(S + 1) for S speakers with target trials, the maximum log(S + 1) for S speakers with
        non-target trials. By Laplace's rule of succession, an event that did not occur in S independent observations
        can still have a probability of about 1 / (S + 1), so they support no likelihood ratio above S + 1. Trials that
        share a speaker are not independent, so speakers are counted, not trials. All sets have equal weight in the fit,
        so each speaker of a small set has more weight. Therefore K sets count as K times the harmonic mean of their
        numbers of speakers (the effective sample size of Kish, 1965); one set counts as its number of speakers. Files
        of earlier versions do not contain numbers of speakers; for these files the trials are counted.
        """
        return (
            -math.log1p(_effective_number(self.target_speakers) or self.n_target),
            math.log1p(_effective_number(self.nontarget_speakers) or self.n_nontarget),
        )

    def llr(self, score: ArrayLike, seconds_a: ArrayLike, seconds_b: ArrayLike) -> np.ndarray:
        """Return the LLRs (...) float64 of cosine scores (...); shapes broadcast.

        `seconds_a` and `seconds_b` (...) are the seconds of speech of both sides. Their order does not matter.
        """
        longer, shorter = _longer_and_shorter(seconds_a, seconds_b)
        longer, shorter = np.clip(longer, *self.enrol_seconds), np.clip(shorter, *self.test_seconds)
        llr = self.intercept + _features(np.asarray(score), longer, shorter) @ np.array(self.weights)
        return np.clip(llr, *self.bounds)

    def llr_of(self, trials: ScoredTrials) -> np.ndarray:
        """Return the LLRs (n,) float64 of n trials."""
        return self.llr(trials.scores, trials.enrol_seconds, trials.test_seconds)


def _effective_number(speakers: Sequence[int]) -> float:
    """Return the effective number of speakers of sets of equal weight, given the number in each; 0 without sets."""
    return len(speakers) ** 2 / sum(1 / number for number in speakers) if speakers else 0


def fit(sets: Mapping[str, ScoredTrials]) -> Calibration:
    """Fit a calibration to the trials of one or several development sets; `sets` maps their names to their trials.

    All sets have equal total weight, and so have the target and the non-target trials within a set: see
    `trial_weights`. The penalty on the weights is relative to the mean loss of a trial, so it does not decrease with
    the number of trials: trials of the same speakers are not independent evidence. UserError if the trials do not
    support a calibration: fewer than MIN_TRIALS target or non-target trials in a set, target and non-target trials that
    are perfectly separated, or higher scores that do not indicate target trials.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second to import; recognition does not need it
    from sklearn.preprocessing import StandardScaler

    for name, of_set in sets.items():
        n_target, n_nontarget = int(of_set.labels.sum()), int((~of_set.labels).sum())
        if min(n_target, n_nontarget) < MIN_TRIALS:
            raise UserError(
                f"calibration: {n_target} target and {n_nontarget} non-target trials in {name}; at least {MIN_TRIALS} "
                "of each are needed"
            )
    trials, weight = ScoredTrials.pooled(sets.values()), trial_weights([of_set.labels for of_set in sets.values()])
    longer, shorter = _longer_and_shorter(trials.enrol_seconds, trials.test_seconds)
    features = _features(trials.scores, longer, shorter)
    scaler = StandardScaler().fit(features, sample_weight=weight)
    regression = LogisticRegression(C=1 / (PENALTY * len(weight)), solver="newton-cholesky", tol=1e-8)
    regression.fit(scaler.transform(features), trials.labels, weight)
    weights = regression.coef_[0] / scaler.scale_
    calibration = Calibration(
        float(regression.intercept_[0] - weights @ scaler.mean_),
        tuple(weights.tolist()),
        (float(np.min(longer)), float(np.max(longer))),
        (float(np.min(shorter)), float(np.max(shorter))),
        int(trials.labels.sum()),
        int((~trials.labels).sum()),
        tuple(sets),
        tuple(_n_speakers(of_set.where(of_set.labels)) for of_set in sets.values()),
        tuple(_n_speakers(of_set.where(~of_set.labels)) for of_set in sets.values()),
    )
    _check_fit(calibration, trials)
    return calibration


def trial_weights(labels: Sequence[np.ndarray]) -> np.ndarray:
    """Return the weights (n,) of all trials in the fit; their mean is 1. `labels` has the labels of each set.

    With K sets, the weight of a target trial is n / (2 K m) if its set has m target trials; non-target trials likewise.
    """
    n = sum(map(len, labels))
    of_kind = [np.where(of_set, of_set.sum(), (~of_set).sum()) for of_set in labels]
    return n / (2 * len(labels) * np.concatenate(of_kind))


def _n_speakers(trials: ScoredTrials) -> int:
    return len(np.unique([trials.enrol_speaker, trials.test_speaker]))


def split_half_llr(name: str, trials: ScoredTrials) -> np.ndarray:
    """Return the LLRs (n,) of the trials of one set by 2-fold cross-validation over speakers; NaN between the folds.

    The speakers are split at random into two halves, the folds. The LLRs of the trials within one half come from a
    calibration that is fitted on the trials within the other half. UserError as for `fit`.
    """
    speakers = np.unique([trials.enrol_speaker, trials.test_speaker])
    if len(speakers) < 4:
        raise UserError(f"calibration: {len(speakers)} speakers in {name} cannot be split into halves of two or more")
    first = np.random.default_rng(0).permutation(speakers)[: len(speakers) // 2]
    enrol_in_first, test_in_first = np.isin(trials.enrol_speaker, first), np.isin(trials.test_speaker, first)
    halves = {
        f"{name}, one half": enrol_in_first & test_in_first,
        f"{name}, other half": ~enrol_in_first & ~test_in_first,
    }
    llr = np.full(len(trials.scores), np.nan)
    for half, ratios in leave_one_set_out_llr({half: trials.where(kept) for half, kept in halves.items()}).items():
        llr[halves[half]] = ratios
    return llr


def leave_one_set_out_llr(sets: Mapping[str, ScoredTrials]) -> dict[str, np.ndarray]:
    """Return the LLRs (n,) of each of two or more sets; each set gets the calibration fitted on the other sets.

    This measures calibration on a corpus that was not in the fit. UserError as for `fit`, naming the excluded set.
    """
    llr = {}
    for name, of_set in sets.items():
        try:
            llr[name] = fit({other: trials for other, trials in sets.items() if other != name}).llr_of(of_set)
        except UserError as error:
            raise UserError(f"{error} (in the fit without {name})") from None
    return llr


def _longer_and_shorter(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the seconds of speech (...) of the longer and of the shorter side of each trial."""
    return np.maximum(a, b), np.minimum(a, b)


def _features(score: np.ndarray, longer: np.ndarray, shorter: np.ndarray) -> np.ndarray:
    """Return the input of the regression (..., 5), in the order of FEATURES."""
    z = np.arctanh(np.clip(score, -MAX_COSINE, MAX_COSINE))
    z, longer, shorter = np.broadcast_arrays(z, np.log(longer), np.log(shorter))
    return np.stack([z, longer, shorter, z * longer, z * shorter], axis=-1)


def _check_fit(calibration: Calibration, trials: ScoredTrials) -> None:
    """Raise UserError if the trials do not support the calibration."""
    for values in (trials.scores, calibration.llr_of(trials)):
        if values[trials.labels].min() > values[~trials.labels].max():
            raise UserError(
                f"calibration: target and non-target trials are perfectly separated in {len(values):,} trials, so the "
                "reliability of the scores cannot be estimated; use more trials or more difficult ones"
            )
    # The slope is linear in both logarithms, so it is positive if it is positive at the corners of the valid durations.
    least_longer, most_shorter = calibration.enrol_seconds[0], calibration.test_seconds[1]
    ends = sorted((*calibration.enrol_seconds, *calibration.test_seconds))
    for shorter, longer in itertools.combinations_with_replacement(ends, 2):
        valid = longer >= least_longer and shorter <= most_shorter
        if valid and np.diff(calibration.llr(np.array([-1, 1]), longer, shorter)) <= 0:
            raise UserError(
                f"calibration: with {longer:.2f} s of speech on the longer side and {shorter:.2f} s on the shorter, "
                "higher scores do not indicate target trials; check whether labels are reversed, or use longer tests"
            )


def probabilities(llr: np.ndarray, prior: float) -> np.ndarray:
    """Return the posterior probability (..., S) of each of S enrolled speakers to be the speaker of a recording.

    One minus their sum is the probability of an unknown speaker. `llr` (..., S) are the LLRs of the recording with each
    speaker. `prior`, above 0 and below 1, is the prior probability that the speaker is enrolled; all enrolled speakers
    have an equal share of it.
    """
    none = np.full((*llr.shape[:-1], 1), math.log1p(-prior))
    log_joint = np.concatenate([llr + math.log(prior / llr.shape[-1]), none], axis=-1)
    return torch.from_numpy(log_joint).softmax(-1).numpy()[..., :-1]


def calibration_path(checkpoint: Path) -> Path:
    """Return the path of the calibration of a checkpoint file."""
    name = checkpoint.stem if checkpoint.suffix == ".pth" else checkpoint.name  # a.pth and a.pt have different files
    return checkpoint.with_name(f"{name}.calibration.json")


def save_calibration(
    checkpoint: Path, digest: str, calibration: Calibration, leave_one_set_out: dict | None = None
) -> None:
    """Write a calibration next to a checkpoint file, whose SHA-256 is `digest`; UserError if it cannot be written.

    `leave_one_set_out`, the error rates on sets that were not in the fit, is stored for information only.
    """
    path = calibration_path(checkpoint)
    content = dataclasses.asdict(calibration) | {"features": FEATURES, "checkpoint_sha256": digest}
    content |= {"leave_one_set_out": leave_one_set_out} if leave_one_set_out else {}
    existed = path.exists()
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(
            f"{path}: the calibration cannot be written ({error.strerror}); use a copy of the checkpoint in a writable "
            "folder with --checkpoint"
        ) from None
    if existed:
        console.warn(f"{path}: the earlier calibration in this file was replaced")


def load_calibration(checkpoint: Path, digest: str) -> Calibration | None:
    """Return the calibration stored next to a checkpoint file, whose SHA-256 is `digest`; None if there is none.

    If the file is damaged or belongs to another checkpoint, warn and return None.
    """
    path = calibration_path(checkpoint)
    try:
        content = json.loads(path.read_text())
        owner = content["checkpoint_sha256"]
        calibration = _checked(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        console.warn(f"{path}: not a calibration; EER_short.py --calibrate True writes a new one")
        return None
    if owner != digest:
        console.warn(f"{path}: belongs to another checkpoint; EER_short.py --calibrate True writes a new one")
        return None
    return calibration


def _checked(content: dict) -> Calibration:
    """Return the calibration in the content of a file; ValueError, TypeError or KeyError if it is damaged."""
    weights = tuple(map(float, content["weights"]))
    (e0, e1), (t0, t1) = (map(float, content[name]) for name in ("enrol_seconds", "test_seconds"))
    counts = int(content["n_target"]), int(content["n_nontarget"])
    sets = tuple(map(str, content.get("sets", ())))
    speakers = [tuple(map(int, content.get(name, ()))) for name in ("target_speakers", "nontarget_speakers")]
    calibration = Calibration(float(content["intercept"]), weights, (e0, e1), (t0, t1), *counts, sets, *speakers)
    sound = len(weights) == len(FEATURES) and min(e0, t0) > 0 and min(counts) >= MIN_TRIALS
    sound = sound and all(len(of_sets) == len(sets) and min(of_sets, default=1) > 0 for of_sets in speakers)
    if not (sound and np.isfinite([*weights, e0, e1, t0, t1, calibration.intercept]).all()):
        raise ValueError
    return calibration
