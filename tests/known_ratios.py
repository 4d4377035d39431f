"""Synthetic trials with known log-likelihood ratios."""

import numpy as np

from evaluation.calibration import ScoredTrials


def sampled(n: int, seed: int, n_speakers: int = 40) -> tuple[ScoredTrials, np.ndarray]:
    """Return n trials, half of them target ones, and their true LLRs.

    z = atanh(score) is normal with mean 0.5 or -0.5 and variance 1 / (1 + 0.4 log longer + 0.8 log shorter), by the
    longer and the shorter side: the LLR is z times the inverse of the variance, which is less for shorter speech.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2 == 0
    enrol, test = np.exp(rng.uniform(np.log(2), np.log(10), n)), np.exp(rng.uniform(np.log(0.5), np.log(5), n))
    precision = 1 + 0.4 * np.log(np.maximum(enrol, test)) + 0.8 * np.log(np.minimum(enrol, test))
    z = rng.normal(np.where(labels, 0.5, -0.5), precision**-0.5)
    speaker = rng.integers(n_speakers, size=n)
    other = np.where(labels, speaker, (speaker + rng.integers(1, n_speakers, n)) % n_speakers)
    return ScoredTrials(np.tanh(z), labels, enrol, test, speaker, other), z * precision
