"""Identification: N-way K-shot accuracy over random episodes of unseen speakers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from dataset.episodes import eligible_speakers, sample_utterances
from dataset.index import FeatureIndex, n_starts
from evaluation.context import EvaluationContext
from evaluation.embedding import Segments, embed, unique_segments
from loss import class_logits, prototypes

MAX_EPISODES = 10**6


class EpisodeSize(NamedTuple):
    """The number of speakers in an episode, and the numbers and lengths (frames of 10 ms) of their windows."""

    n_way: int  # speakers
    n_shot: int  # enrolment windows of each speaker
    n_query: int  # test windows of each speaker
    enroll_length: int
    test_length: int

    @property
    def n_windows(self) -> int:
        """The number of windows of each speaker; each window is from another utterance."""
        return self.n_shot + self.n_query


def sample_episodes(
    features: FeatureIndex, speakers: np.ndarray, size: EpisodeSize, n_episodes: int, seed: int
) -> Segments:
    """Return the windows of random episodes of the speakers (S,), flattened from (episode, shot + query, speaker).

    UserError if too few of the speakers have enough utterances.
    """
    eligible = eligible_speakers(features, size.n_way, size.n_windows, speakers)
    rng = np.random.default_rng(seed)
    rows = np.stack(
        [sample_utterances(features, eligible, size.n_way, size.n_windows, rng)[1] for _ in range(n_episodes)]
    )
    lengths = np.where(np.arange(size.n_windows) < size.n_shot, size.enroll_length, size.test_length)
    lengths = np.broadcast_to(lengths[:, None], rows.shape)
    starts = rng.integers(n_starts(features.n_frames(rows), lengths))
    return Segments(rows.ravel(), starts.ravel(), lengths.ravel())


def accuracies(
    context: EvaluationContext, sizes: Sequence[EpisodeSize], windows: Sequence[Segments]
) -> list[np.ndarray]:
    """Return for each episode size the accuracy (episodes,), 0..1, of each episode.

    `windows` has the result of `sample_episodes` for each size. Windows that occur several times are embedded once.
    """
    segments, index = unique_segments(windows)
    embeddings = embed(context.encoder, context.features, segments, context.compute)
    found = []
    for size, rows in zip(sizes, torch.from_numpy(index).split([len(of_size.row) for of_size in windows]), strict=True):
        correct = []
        for episode in rows.reshape(-1, size.n_windows, size.n_way):
            shots, queries = embeddings[episode].split([size.n_shot, size.n_query])
            with torch.autocast(embeddings.device.type, enabled=False):  # the calling program may use it
                identified = class_logits(queries, prototypes(shots)).argmax(dim=-1)  # (queries, way)
            correct.append(float((identified.numpy() == np.arange(size.n_way)).mean()))
        found.append(np.array(correct))
    return found
