"""Decisions: whether a recording is of one of the enrolled speakers, and of which."""

from typing import Any, NamedTuple

import numpy as np

from evaluation.calibration import probabilities
from recognition.recognizer import Recognizer


class DecisionRule(NamedTuple):
    """How decisions are made: by probabilities, which need a calibration, or by a threshold of the cosine score."""

    recognizer: Recognizer
    prior: float  # prior probability that a recording is of one of the speakers
    threshold: float | None  # minimum cosine score of an accepted speaker, instead of probabilities

    def scores(
        self, embedding: np.ndarray, speech: float, prototypes: np.ndarray, seconds: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return the scores (S,) of a recording with S speakers and, without a threshold, LLRs and probabilities (S,).

        The recording has an embedding (256,) and `speech` seconds of speech; the speakers have prototypes (S, 256) and
        `seconds` (S,) of speech. UserError if the checkpoint has no calibration for the LLR.
        """
        scores = {"score": self.recognizer.score(embedding, prototypes)}
        if self.threshold is None:
            scores["llr"] = self.recognizer.llr(embedding, prototypes, speech, seconds)
            scores["probability"] = probabilities(scores["llr"], self.prior)
        return scores

    def accepts(self, scores: dict[str, np.ndarray]) -> bool:
        """Return whether a recording is of one of the speakers (S,) rather than of none."""
        if self.threshold is None:
            return bool(scores["probability"].max() >= probability_of_none(scores))
        return bool(scores["score"].max() >= self.threshold)

    def answer(self, scores: dict[str, np.ndarray], names: list[str]) -> dict[str, Any]:
        """Return the speaker of a recording, None if not enrolled, and all speakers ranked, as --json prints them.

        `scores` (S,) are those with the speakers of these names (S,).
        """
        ranking: list[dict[str, Any]] = [
            {"speaker": speaker} | {name: float(column[i]) for name, column in scores.items()}
            for i, speaker in enumerate(names)
        ]
        ranking.sort(key=lambda entry: [-entry[name] for name in reversed(scores)])  # equal LLRs: by the score
        answer: dict[str, Any] = {"speaker": ranking[0]["speaker"] if self.accepts(scores) else None}
        if self.threshold is None:
            answer["unknown"] = probability_of_none(scores)
        return answer | {"ranking": ranking}

    def as_json(self) -> dict[str, float]:
        """Return what --json prints of the rule."""
        return {"prior": self.prior} if self.threshold is None else {"threshold": self.threshold}


def probability_of_none(scores: dict[str, np.ndarray]) -> float:
    """Return the probability that a recording is of none of the speakers (S,)."""
    return max(0.0, 1 - float(scores["probability"].sum()))
