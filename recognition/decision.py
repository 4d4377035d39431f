"""Decide whether a recording is from an enrolled speaker, and from which one."""

from typing import Any, NamedTuple

import numpy as np

from evaluation.calibration import probabilities
from recognition.recognizer import Recognizer


class DecisionRule(NamedTuple):
    """A rule that decides by probabilities, which need a calibration, or by a threshold on the cosine score."""

    recognizer: Recognizer
    prior: float  # prior probability that a recording is from one of the speakers
    threshold: float | None  # minimum cosine score; None decides by probabilities

    def scores(
        self, embedding: np.ndarray, speech: float, prototypes: np.ndarray, seconds: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return the cosine scores (S,) of a recording with S speakers; without a threshold, also LLR and probability.

        The recording has an `embedding` (256,) and `speech` seconds of speech. The speakers have `prototypes` (S, 256)
        and `seconds` (S,) of speech. UserError without a threshold if the checkpoint has no calibration.
        """
        scores = {"score": self.recognizer.score(embedding, prototypes)}
        if self.threshold is None:
            scores["llr"] = self.recognizer.llr(embedding, prototypes, speech, seconds)
            scores["probability"] = probabilities(scores["llr"], self.prior)
        return scores

    def accepts(self, scores: dict[str, np.ndarray]) -> bool:
        """Return whether the rule decides that a recording with these scores (S,) is from one of the S speakers."""
        if self.threshold is None:
            return bool(scores["probability"].max() >= probability_of_none(scores))
        return bool(scores["score"].max() >= self.threshold)

    def answer(self, scores: dict[str, np.ndarray], names: list[str]) -> dict[str, Any]:
        """Return the answer for a recording, as --json prints it: its speaker, or None, and a ranking of all speakers.

        `scores` (S,) are the scores of the recording with the speakers; `names` (S,) are the names of the speakers.
        """
        ranking: list[dict[str, Any]] = [
            {"speaker": speaker} | {name: float(column[i]) for name, column in scores.items()}
            for i, speaker in enumerate(names)
        ]
        ranking.sort(key=lambda entry: [-entry[name] for name in reversed(scores)])  # at the limit of the LLR: by score
        answer: dict[str, Any] = {"speaker": ranking[0]["speaker"] if self.accepts(scores) else None}
        if self.threshold is None:
            answer["unknown"] = probability_of_none(scores)
        return answer | {"ranking": ranking}

    def as_json(self) -> dict[str, float]:
        """Return the entries of --json for the rule."""
        return {"prior": self.prior} if self.threshold is None else {"threshold": self.threshold}


def probability_of_none(scores: dict[str, np.ndarray]) -> float:
    """Return the probability that a recording with these scores (S,) is from none of the S speakers."""
    return max(0.0, 1 - float(scores["probability"].sum()))
