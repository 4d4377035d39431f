"""Decisions about recordings: by probabilities where a checkpoint is calibrated, else at a cosine score."""

from typing import NamedTuple

import numpy as np

from evaluation.calibration import probabilities
from recognition.recognizer import Recognizer


class Rule(NamedTuple):
    """How decisions are taken."""

    recognizer: Recognizer
    prior: float  # probability, before listening, that a recording is of one of the voices
    threshold: float | None  # the least cosine score of one speaker, in place of probabilities

    def figures(
        self, embedding: np.ndarray, speech: float, prototypes: np.ndarray, seconds: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return score and, unless a threshold decides, LLR and probability (S,) of a recording with each of S voices.

        UserError if the LLR needs a calibration that the checkpoint has not.

        Args:
            embedding: (256,) of the recording.
            speech: seconds of it.
            prototypes: (S, 256) of the voices.
            seconds: (S,) of speech that they were made of.
        """
        figures = {"score": self.recognizer.score(embedding, prototypes)}
        if self.threshold is None:
            figures["llr"] = self.recognizer.llr(embedding, prototypes, speech, seconds)
            figures["probability"] = probabilities(figures["llr"], self.prior)
        return figures

    def accepts(self, figures: dict[str, np.ndarray]) -> bool:
        """Tell whether a recording is of one of the voices (S,) rather than of none."""
        if self.threshold is None:
            return bool(figures["probability"].max() >= unknown(figures))
        return bool(figures["score"].max() >= self.threshold)

    @property
    def setting(self) -> dict[str, float]:
        """What the user set it to, as --json names it."""
        return {"prior": self.prior} if self.threshold is None else {"threshold": self.threshold}


def unknown(figures: dict[str, np.ndarray]) -> float:
    """Return the probability that a recording is of none of the voices (S,)."""
    return max(0.0, 1 - float(figures["probability"].sum()))
