"""The error rate of a trial list while the network is being trained."""

from pathlib import Path

from configure import EVALUATION_TREES, TREES
from dataset.index import FeatureIndex
from dataset.trials import read_trials
from evaluation.embedding import Segments, score
from evaluation.metrics import verification_metrics
from model.encoder import Encoder
from system.compute import Compute


class Validation:
    """Scores a trial list's EER with the encoder as it is."""

    def __init__(self, trials: Path, root: Path, compute: Compute):
        self._trials, self._compute = read_trials(trials), compute
        self._features = FeatureIndex([root / TREES[tree].feat for tree in EVALUATION_TREES])
        sides = self._trials.enrol, self._trials.test
        self._enrol, self._test = (Segments.whole(self._features, self._features.rows(side)) for side in sides)

    def __call__(self, encoder: Encoder) -> float:
        """Return the EER (fraction)."""
        scores = score(encoder.folded(), self._features, self._enrol, self._test, self._compute)
        return verification_metrics(scores, self._trials.label).eer
