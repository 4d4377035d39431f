"""Sample episodes: speakers, their support utterances and their queries.

Shapes: K shots, W ways (speakers), Q queries per speaker, T frames. An episode depends on (seed, epoch, index) only, so
it is the same in loader processes, on all ranks and in resumed runs.
"""

from collections.abc import Iterator
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
    speaker: torch.Tensor  # (W,) int64, class indices of the speakers, 0..TrainingEpisodes.n_classes-1


class Augmenter(Protocol):
    """Augmentation, including speed perturbation; `crop` is called instead of FeatureIndex.crop.

    All crops of a speaker in an episode have the same speed.
    """

    n_speeds: int

    def crop(self, row: int, start: int, length: int, speed: int, rng: np.random.Generator) -> np.ndarray:
        """Return an augmented crop (length, 40) of the utterance `row`, from frame `start` to `start + length - 1`."""


def eligible_speakers(features: FeatureIndex, n_way: int, n_per_speaker: int, allowed: np.ndarray) -> np.ndarray:
    """Return the speakers of `allowed` (S,) with n_per_speaker or more utterances; UsageError if fewer than n_way."""
    eligible = allowed[features.count[allowed] >= n_per_speaker]
    if len(eligible) < n_way:
        raise UsageError(
            f"an episode needs {n_way} speakers with {n_per_speaker} or more utterances each, the data has "
            f"{len(eligible)} (of {len(allowed)} speakers); reduce the number of classes, shots or queries"
        )
    return eligible


def sample_utterances(
    features: FeatureIndex, eligible: np.ndarray, n_way: int, n_per_speaker: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Sample n_way different speakers (W,) and n_per_speaker different utterances of each, rows (n_per_speaker, W)."""
    speakers = rng.choice(eligible, n_way, replace=False)
    rows = [features.first[s] + rng.choice(features.count[s], n_per_speaker, replace=False) for s in speakers]
    return speakers, np.stack(rows, axis=1)


class TrainingEpisodes(Dataset):
    """Training episodes as a map from (epoch, index) to Episode.

    Attributes:
        per_epoch: number of episodes per epoch.
        n_utterances, max_bytes: number of utterances in an episode, and its maximum size in memory.
        n_classes: number of training speakers times the number of speeds; each speed of a speaker is a class.
        n_excluded: number of speakers with too few utterances.
    """

    def __init__(
        self,
        features: FeatureIndex,
        *,
        n_way: int,
        n_shot: int,
        n_query: int,
        use_variable: bool,
        seed: int,
        n_ranks: int = 1,
        augmenter: Augmenter | None = None,
    ):
        """Find the speakers with enough utterances; UsageError if they do not fill an episode for each rank."""
        everyone = np.arange(len(features.speakers))
        self.eligible = eligible_speakers(features, n_way, n_shot + n_query, everyone)
        self.n_excluded = len(everyone) - len(self.eligible)
        self.n_utterances = (n_shot + n_query) * n_way
        self.per_epoch = int(features.count[self.eligible].sum()) // self.n_utterances
        if self.per_epoch < n_ranks:
            raise UsageError(f"an epoch has {self.per_epoch} episodes, too few for {n_ranks} ranks; start fewer ranks")
        self.max_bytes = self.n_utterances * N_MELS * TRAIN_FRAMES * 4
        self._n_speeds = augmenter.n_speeds if augmenter else 1
        self.n_classes = len(everyone) * self._n_speeds
        self.features, self._seed, self._augmenter = features, seed, augmenter
        self.n_way, self.n_shot, self.n_query, self._use_variable = n_way, n_shot, n_query, use_variable

    def __getitem__(self, number: tuple[int, int]) -> Episode:
        """Return the episode with the number (epoch, index)."""
        speakers, rows, rng = self._sample(number)
        # A short query is the beginning of a full training window, so its start is sampled for the full window.
        starts = rng.integers(n_starts(self.features.n_frames(rows), TRAIN_FRAMES))
        query_frames = int(rng.integers(MIN_QUERY_FRAMES, TRAIN_FRAMES)) if self._use_variable else TRAIN_FRAMES
        speeds = rng.integers(self._n_speeds, size=self.n_way)
        k = self.n_shot
        return Episode(
            self._crops(rows[:k], starts[:k], TRAIN_FRAMES, speeds, rng),
            self._crops(rows[k:], starts[k:], query_frames, speeds, rng),
            torch.from_numpy((speakers + len(self.features.speakers) * speeds).astype(np.int64)),
        )

    def names(self, number: tuple[int, int]) -> list[str]:
        """Return the names of the utterances in episode (epoch, index)."""
        _, rows, _ = self._sample(number)
        return [self.features.name(row) for row in rows.ravel()]

    def _sample(self, number: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
        rng = np.random.default_rng([self._seed, *number])
        n = self.n_shot + self.n_query
        return *sample_utterances(self.features, self.eligible, self.n_way, n, rng), rng

    def _crops(
        self, rows: np.ndarray, starts: np.ndarray, n_frames: int, speeds: np.ndarray, rng: np.random.Generator
    ) -> torch.Tensor:
        crops = np.empty((*rows.shape, 1, N_MELS, n_frames), np.float32)
        for position in np.ndindex(rows.shape):
            window = rows[position], int(starts[position]), n_frames
            if self._augmenter:
                crops[position][0] = self._augmenter.crop(*window, int(speeds[position[1]]), rng).T
            else:
                crops[position][0] = self.features.crop(*window).T
        return torch.from_numpy(crops)


def episode_order(
    per_epoch: int, epoch: int, episode: int, max_epoch: int, rank: int = 0, n_ranks: int = 1
) -> Iterator[tuple[int, int]]:
    """Yield the numbers (epoch, index) of the episodes of one rank up to the end of epoch `max_epoch`, in order.

    `epoch` is the number of completed epochs, and `episode` the number of episodes completed in the current epoch, over
    all ranks. Rank r of n takes the episodes r, r + n, ... of the rest of an epoch. All ranks take the same number of
    episodes; the last episodes of an epoch, fewer than n, are not used.
    """
    for number in range(epoch + 1, max_epoch + 1):
        for step in range((per_epoch - episode) // n_ranks):
            yield number, episode + rank + n_ranks * step
        episode = 0
