"""Episodes: speakers, their support utterances and their queries, drawn from (seed, epoch, index).

Shapes: K shots, W ways (speakers), Q queries of a speaker, T frames. An episode depends on its own numbers only, so
worker processes, ranks and interrupted runs all draw the same ones.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from configure import MIN_QUERY_FRAMES, N_MELS, TRAIN_FRAMES
from dataset.index import FeatureIndex, n_starts
from system.console import UsageError


class Episode(NamedTuple):
    """The tensors of one training episode."""

    support: torch.Tensor  # (K, W, 1, 40, 200) float32
    query: torch.Tensor  # (Q, W, 1, 40, Tq) float32, Tq = 200 or one length in 100..199; Q = 0 for the softmax loss
    speaker: torch.Tensor  # (W,) int64, the speakers' classes in training, below TrainingEpisodes.n_classes


class Augmenter(Protocol):
    """Whatever cuts crops in place of FeatureIndex.crop, all of a speaker's in an episode at one speed."""

    n_speeds: int

    def crop(self, row: int, start: int, length: int, speed: int, rng: np.random.Generator) -> np.ndarray:
        """Return a crop (length, 40) of an utterance from frame `start` on; what is random in it comes from rng."""


def eligible_speakers(features: FeatureIndex, n_way: int, n_per_speaker: int, allowed: np.ndarray) -> np.ndarray:
    """Return those of the speakers `allowed` (S,) that can fill an episode; UsageError if they are fewer than n_way."""
    eligible = allowed[features.count[allowed] >= n_per_speaker]
    if len(eligible) < n_way:
        raise UsageError(
            f"an episode needs {n_way} speakers with {n_per_speaker} or more utterances each, the data has "
            f"{len(eligible)} (of {len(allowed)} speakers); lower the number of classes, shots or queries"
        )
    return eligible


def draw_utterances(
    features: FeatureIndex, eligible: np.ndarray, n_way: int, n_per_speaker: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw n_way different speakers (W,) and for each n_per_speaker different utterances, rows (n_per_speaker, W)."""
    speakers = rng.choice(eligible, n_way, replace=False)
    rows = [features.first[s] + rng.choice(features.count[s], n_per_speaker, replace=False) for s in speakers]
    return speakers, np.stack(rows, axis=1)


class TrainingEpisodes(Dataset):
    """Training episodes as a map from (epoch, index) to Episode."""

    def __init__(
        self,
        features: FeatureIndex,
        *,
        n_way: int,
        n_shot: int,
        n_query: int,
        use_variable: bool,
        seed: int,
        augmenter: Augmenter | None = None,
    ):
        """Refuse (UsageError) what the data cannot fill; `excluded` counts the speakers with too few utterances.

        A speaker at another of the augmenter's speeds is a class of its own: `n_classes` counts them all.
        """
        everyone = np.arange(len(features.speakers))
        self.eligible = eligible_speakers(features, n_way, n_shot + n_query, everyone)
        self.excluded = len(everyone) - len(self.eligible)
        self.per_epoch = int(features.count[self.eligible].sum()) // ((n_shot + n_query) * n_way)
        self.max_bytes = (n_shot + n_query) * n_way * N_MELS * TRAIN_FRAMES * 4  # of an episode
        self._n_speeds = augmenter.n_speeds if augmenter else 1
        self.n_classes = len(everyone) * self._n_speeds
        self._features, self._seed, self._augmenter = features, seed, augmenter
        self._n_way, self._n_shot, self._n_query, self._use_variable = n_way, n_shot, n_query, use_variable

    def __getitem__(self, at: tuple[int, int]) -> Episode:
        """Return episode (epoch, index)."""
        speakers, rows, rng = self._draw(at)
        # A short query is the beginning of a full training window, so its start is drawn for the full window.
        starts = rng.integers(n_starts(self._features.n_frames(rows), TRAIN_FRAMES))
        query_frames = int(rng.integers(MIN_QUERY_FRAMES, TRAIN_FRAMES)) if self._use_variable else TRAIN_FRAMES
        speeds = rng.integers(self._n_speeds, size=self._n_way)
        k = self._n_shot
        return Episode(
            self._crops(rows[:k], starts[:k], TRAIN_FRAMES, speeds, rng),
            self._crops(rows[k:], starts[k:], query_frames, speeds, rng),
            torch.from_numpy((speakers + len(self._features.speakers) * speeds).astype(np.int64)),
        )

    def names(self, at: tuple[int, int]) -> list[str]:
        """Return the utterances that episode (epoch, index) reads."""
        _, rows, _ = self._draw(at)
        return [self._features.name(row) for row in rows.ravel()]

    def _draw(self, at: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
        rng = np.random.default_rng([self._seed, *at])
        n = self._n_shot + self._n_query
        return *draw_utterances(self._features, self.eligible, self._n_way, n, rng), rng

    def _crops(
        self, rows: np.ndarray, starts: np.ndarray, n_frames: int, speeds: np.ndarray, rng: np.random.Generator
    ) -> torch.Tensor:
        crops = np.empty((*rows.shape, 1, N_MELS, n_frames), np.float32)
        for at in np.ndindex(rows.shape):
            where = rows[at], int(starts[at]), n_frames
            if self._augmenter:
                crops[at][0] = self._augmenter.crop(*where, int(speeds[at[1]]), rng).T
            else:
                crops[at][0] = self._features.crop(*where).T
        return torch.from_numpy(crops)


def episode_order(epoch: int, start: int, per_epoch: int, rank: int = 0, n_ranks: int = 1) -> list[tuple[int, int]]:
    """Return the episodes (epoch, index) that one rank takes of an epoch of which `start` are done, in order.

    Rank r of n takes start + r, start + r + n, ... All ranks take equally many; the last episodes of an epoch, fewer
    than n, are not trained on. UsageError where an epoch has no episode for each rank.
    """
    if per_epoch < n_ranks:
        raise UsageError(f"an epoch has {per_epoch} episodes, too few for {n_ranks} ranks; start fewer")
    return [(epoch, start + rank + n_ranks * step) for step in range((per_epoch - start) // n_ranks)]
