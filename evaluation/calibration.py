"""Calibration: from a cosine score and the seconds of speech on both sides to a log-likelihood ratio (LLR).

The LLR is the natural logarithm of how much likelier the score is if both sides are one speaker than if they are two.
A cosine of 0.7 between five seconds and one second says less than 0.7 between two long recordings, so a logistic
regression on the score, the logarithms of both durations and their products with the score gives the LLR (Brummer and
du Preez, 2006, for calibration; quality measures as in VoxSRC systems). The score goes in as Fisher's z, the inverse
hyperbolic tangent of the cosine: cosines crowd together near 1, and z spreads them evenly. A calibration is fitted on
trials of speakers that the network was not trained on, and kept beside the checkpoint as
checkpoint_EEE.calibration.json. Scores and seconds are those of speech without pauses, in the fit as in recognition.
"""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike

from system import console
from system.console import UserError
from system.files import replacing, sha256

FEATURES = ("z", "log_enrol", "log_test", "z_log_enrol", "z_log_test")
MAX_COSINE = 0.999  # cosines beyond it are clipped to it: z is infinite at 1
MIN_TRIALS = 60  # of each kind: ten for each coefficient (Peduzzi et al., 1996)
HALVES_SEED = 0  # of the speakers' two halves
PENALTY = 0.002  # of half the squared standardised weights, against the trials' mean loss: see fit


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A fitted calibration."""

    intercept: float  # of the logistic regression
    weights: tuple[float, ...]  # in the order of FEATURES
    enrol_seconds: tuple[float, float]  # shortest and longest speech that it was fitted on; others are taken for these
    test_seconds: tuple[float, float]
    n_target: int  # trials that it was fitted on
    n_nontarget: int

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest LLR, -log(n_target + 1) and log(n_nontarget + 1).

        An event that none of n trials shows may still happen at a rate of about 1 / (n + 1) (Laplace's rule of
        succession), so the trials support no ratio beyond these. Trials that share speakers support less still.
        """
        return -math.log(self.n_target + 1), math.log(self.n_nontarget + 1)

    def llr(self, score: ArrayLike, enrol_seconds: ArrayLike, test_seconds: ArrayLike) -> np.ndarray:
        """Return the LLRs (...) float64 of cosine scores and seconds of speech (...); shapes broadcast."""
        enrol = np.clip(np.asarray(enrol_seconds), *self.enrol_seconds)
        test = np.clip(np.asarray(test_seconds), *self.test_seconds)
        llr = self.intercept + _features(np.asarray(score), enrol, test) @ np.array(self.weights)
        return np.clip(llr, *self.bounds)


def fit(scores: np.ndarray, labels: np.ndarray, enrol_seconds: np.ndarray, test_seconds: np.ndarray) -> Calibration:
    """Fit a calibration to trials (n,): cosines, labels (true for targets), and seconds of speech, above 0.

    Both kinds have equal weight together. The penalty on the weights is set against the mean loss of a trial, so it
    does not fade with their number: trials of one pair of speakers, at several lengths or of several utterances, are
    no independent evidence. UserError where the trials support none: fewer than MIN_TRIALS of a kind, target and
    non-target ones told apart without an error, or higher scores that do not mean likelier targets.
    """
    from sklearn.linear_model import LogisticRegression  # a second to load, and recognition does not need it
    from sklearn.preprocessing import StandardScaler

    labels = np.asarray(labels, bool)
    n_target, n_nontarget = int(labels.sum()), int((~labels).sum())
    if min(n_target, n_nontarget) < MIN_TRIALS:
        raise UserError(
            f"calibration: {n_target} target and {n_nontarget} non-target trials; it needs {MIN_TRIALS} of each, "
            "of two speakers or more"
        )
    features = _features(scores, enrol_seconds, test_seconds)
    scaler = StandardScaler().fit(features)
    regression = LogisticRegression(
        C=1 / (PENALTY * len(labels)), class_weight="balanced", solver="newton-cholesky", tol=1e-8
    )
    regression.fit(scaler.transform(features), labels)
    weights = regression.coef_[0] / scaler.scale_
    calibration = Calibration(
        float(regression.intercept_[0] - weights @ scaler.mean_),
        tuple(weights.tolist()),
        (float(np.min(enrol_seconds)), float(np.max(enrol_seconds))),
        (float(np.min(test_seconds)), float(np.max(test_seconds))),
        n_target,
        n_nontarget,
    )
    _check_fit(calibration, labels, scores, enrol_seconds, test_seconds)
    return calibration


def split_half_llr(
    scores: np.ndarray,
    labels: np.ndarray,
    enrol_seconds: np.ndarray,
    test_seconds: np.ndarray,
    enrol_speaker: np.ndarray,
    test_speaker: np.ndarray,
) -> np.ndarray:
    """Return the LLR (n,) of each trial by a calibration fitted on other speakers; NaN where that cannot be.

    The speakers are split at random into two halves; the trials within a half are given LLRs by the fit on those
    within the other. Trials across the halves have no LLR. Arguments are those of `fit`, and the speakers' numbers
    (n,) of both sides. UserError as for `fit`.
    """
    speakers = np.unique([enrol_speaker, test_speaker])
    if len(speakers) < 4:
        raise UserError(f"calibration: {len(speakers)} speakers cannot be split into halves of two or more")
    first = np.random.default_rng(HALVES_SEED).permutation(speakers)[: len(speakers) // 2]
    enrol_in_first, test_in_first = np.isin(enrol_speaker, first), np.isin(test_speaker, first)
    halves = enrol_in_first & test_in_first, ~enrol_in_first & ~test_in_first
    llr = np.full(len(scores), np.nan)
    for fitted_on, measured_on in (halves, halves[::-1]):
        calibration = fit(*(column[fitted_on] for column in (scores, labels, enrol_seconds, test_seconds)))
        llr[measured_on] = calibration.llr(*(column[measured_on] for column in (scores, enrol_seconds, test_seconds)))
    return llr


def _features(score: np.ndarray, enrol_seconds: np.ndarray, test_seconds: np.ndarray) -> np.ndarray:
    """Return what the regression sees (..., 5), in the order of FEATURES."""
    z = np.arctanh(np.clip(score, -MAX_COSINE, MAX_COSINE))
    z, enrol, test = np.broadcast_arrays(z, np.log(enrol_seconds), np.log(test_seconds))
    return np.stack([z, enrol, test, z * enrol, z * test], axis=-1)


def _check_fit(calibration: Calibration, labels: np.ndarray, *trials: np.ndarray) -> None:
    """Raise UserError if the trials do not show how far the scores can be trusted."""
    for values in (trials[0], calibration.llr(*trials)):
        if values[labels].min() > values[~labels].max():
            raise UserError(
                f"calibration: {len(labels):,} trials without a single error do not show how sure a score is; "
                "give more or harder ones"
            )
    for enrol in calibration.enrol_seconds:
        for test in calibration.test_seconds:
            if np.diff(calibration.llr(np.array([-1, 1]), enrol, test)) <= 0:
                raise UserError(
                    f"calibration: with {enrol:.2f} s enrolled and {test:.2f} s of test, higher scores do not mean "
                    "likelier targets; are the labels reversed, or the test lengths too short for this network?"
                )


def probabilities(llr: np.ndarray, prior: float) -> np.ndarray:
    """Return the probability (..., S) that a recording is of each of S voices; 1 less their sum is that of none.

    Bayes' rule on the LLRs (..., S) of the recording against each voice, with a prior probability (0..1, both excluded)
    that it is of one of them, shared evenly. With one voice the question is: one speaker or two?
    """
    none = np.full((*llr.shape[:-1], 1), math.log1p(-prior))
    log_joint = np.concatenate([llr + math.log(prior / llr.shape[-1]), none], axis=-1)
    return torch.from_numpy(log_joint).softmax(-1).numpy()[..., :-1]


def calibration_path(checkpoint: Path) -> Path:
    """Return where the calibration of a checkpoint file is kept."""
    return checkpoint.with_suffix(".calibration.json")


def save_calibration(checkpoint: Path, calibration: Calibration) -> None:
    """Keep a calibration beside the checkpoint file it is of; in a read-only folder, only warn."""
    path = calibration_path(checkpoint)
    content = dataclasses.asdict(calibration) | {"features": FEATURES, "checkpoint_sha256": sha256(checkpoint)}
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        console.warn(f"{path}: the calibration could not be kept ({error.strerror})")


def load_calibration(checkpoint: Path, digest: str) -> Calibration | None:
    """Return the calibration kept for the checkpoint file of this SHA-256; None, with a warning if another's is."""
    path = calibration_path(checkpoint)
    try:
        content = json.loads(path.read_text())
        owner = content["checkpoint_sha256"]
        calibration = _checked(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        console.warn(f"{path}: not a calibration; EER_short.py --calibrate True writes it anew")
        return None
    if owner != digest:
        console.warn(f"{path}: of another checkpoint than the one beside it; EER_short.py --calibrate True fits one")
        return None
    return calibration


def _checked(content: dict) -> Calibration:
    """Return the calibration that a file holds; ValueError, TypeError or KeyError if it holds none."""
    weights = tuple(map(float, content["weights"]))
    (e0, e1), (t0, t1) = (map(float, content[name]) for name in ("enrol_seconds", "test_seconds"))
    counts = int(content["n_target"]), int(content["n_nontarget"])
    calibration = Calibration(float(content["intercept"]), weights, (e0, e1), (t0, t1), *counts)
    sound = len(weights) == len(FEATURES) and min(e0, t0) > 0 and min(counts) >= MIN_TRIALS
    if not (sound and np.isfinite([*weights, e0, e1, t0, t1, calibration.intercept]).all()):
        raise ValueError
    return calibration
