"""The EER of a trial list during training."""

from collections.abc import Collection
from pathlib import Path

import torch

from configure import EVALUATION_TREES, TREES
from dataset.index import FeatureIndex
from dataset.trials import Trials
from evaluation.context import unseen_speakers, warn_of_seen_speakers
from evaluation.embedding import Segments, score
from evaluation.metrics import verification_metrics
from model.encoder import Encoder
from system.compute import Compute


class Validation:
    """Scores a trial list in float32, for any precision of the training, so that EER_full.py gives the same EER."""

    def __init__(self, trials: Trials, root: Path, compute: Compute, trained_on: Collection[str]):
        """Find the utterances of the trials, and warn of trials that contain speakers in `trained_on`.

        Utterances are read in this process, because prefetched episodes may fill the shared memory. UserError if an
        utterance is missing.
        """
        self._trials, self._compute = trials, compute._replace(dtype=torch.float32, num_workers=0)
        self._features = FeatureIndex([root / TREES[tree].feat for tree in EVALUATION_TREES])
        enrol, test = (self._features.rows(side) for side in (trials.enrol, trials.test))
        warn_of_seen_speakers((enrol, test), self._features, unseen_speakers(self._features, trained_on))
        self._enrol, self._test = (Segments.full(self._features, side) for side in (enrol, test))

    def __call__(self, encoder: Encoder) -> float:
        """Return the EER (fraction). The ranks share the work, so all must call this together."""
        prepared = encoder.for_inference(self._compute.device)
        scores = score(prepared, self._features, self._enrol, self._test, self._compute)
        return verification_metrics(scores, self._trials.label).eer
