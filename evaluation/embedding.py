"""Embedding of many utterances, and cosine scores of trials."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from configure import FRAMES_PER_SECOND, N_MELS
from dataset.index import FeatureIndex
from model.encoder import EMBEDDING_SIZE, Encoder
from system import console, ranks
from system.compute import Compute, without_tf32
from system.console import UserError
from system.loading import Loader

BATCH_FRAMES = {"cpu": 2_000, "cuda": 100_000}  # frames per batch: enough to use the device fully
MAX_FRAMES = 2**21 - 1  # maximum value of the flags for window lengths, nearly six hours
SCORE_BLOCK = 4_096  # trials that are scored together: their embeddings fit in the cache


class Segments(NamedTuple):
    """Segments of utterances to embed, (n,) each."""

    row: np.ndarray  # of the utterance in the feature index
    start: np.ndarray  # first frame
    length: np.ndarray  # frames; a segment that is longer than its utterance repeats the utterance

    @classmethod
    def full(cls, features: FeatureIndex, rows: np.ndarray) -> "Segments":
        """Return the full utterances `rows` (n,)."""
        return cls(rows, np.zeros_like(rows), features.n_frames(rows))

    def seconds(self, features: FeatureIndex) -> np.ndarray:
        """Return the seconds (n,) of each segment; repetitions of the utterance do not count."""
        return np.minimum(self.length, features.n_frames(self.row)) / FRAMES_PER_SECOND


class Scores(NamedTuple):
    """The scores of n trials at one test length."""

    length: str  # of the test segments, as in the score file
    enrol_seconds: np.ndarray  # (n,) speech of the enrolment if silence is trimmed, otherwise its recordings
    test_seconds: np.ndarray  # (n,) the same for the test segment; repetitions of the utterance do not count
    plain: np.ndarray  # (n,) cosines
    normalised: np.ndarray | None  # (n,) as-norm scores
    seconds: float  # of audio in all trials; each segment counts once
    llr: np.ndarray | None = None  # (n,) log-likelihood ratios, NaN for trials that have none
    snr: str = ""  # signal-to-noise ratio of the tests, in the notation of the score file; "" without noise


class Frames(Protocol):
    """A source of features of utterances: a FeatureIndex, or recordings in memory."""

    def crop(self, row: int, start: int, length: int) -> np.ndarray:
        """Return `length` frames (length, 40) float32 of utterance `row`, from frame `start`."""


class _SegmentData(Dataset):
    def __init__(self, features: Frames, segments: Segments):
        self._features, self._segments = features, segments

    def __getitem__(self, batch: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return indices (b,) of segments of equal length, and the segments (b, 1, 40, T)."""
        row, start, length = (column[batch].tolist() for column in self._segments)
        crops = [self._features.crop(*segment).T for segment in zip(row, start, length, strict=True)]
        stacked = np.stack(crops, out=np.empty((len(batch), N_MELS, length[0]), np.float32))  # contiguous
        return torch.tensor(batch, device="cpu"), torch.from_numpy(stacked)[:, None]


def embed(encoder: Encoder, features: Frames, segments: Segments, compute: Compute) -> torch.Tensor:
    """Return the embeddings (n, 256) float32, on the CPU, of n segments.

    The encoder comes from Encoder.for_inference for this device. It is not changed, so threads may share it. The
    segments of a batch have equal lengths and are not padded, so the result does not depend on the batches. The ranks
    share the work, and each of them returns all embeddings. If the calling program uses autocast or has changed torch's
    default type or device, this has no effect. UserError if an embedding is not finite.
    """
    if encoder.training:
        raise ValueError("the encoder is in training mode; embed with Encoder.for_inference()")
    batches = ranks.shard(equal_length_batches(segments.length, BATCH_FRAMES.get(compute.device.type, 20_000)))
    max_bytes = max((len(batch) * int(segments.length[batch[0]]) * N_MELS * 4 for batch in batches), default=1)
    on_cuda = compute.device.type == "cuda"
    loader = Loader(_SegmentData(features, segments), compute.num_workers, max_bytes, pin_memory=on_cuda)
    embeddings = torch.zeros(len(segments.row), EMBEDDING_SIZE, dtype=torch.float32, device="cpu")
    n_own = sum(map(len, batches))
    with (
        torch.inference_mode(),
        torch.autocast(compute.device.type, enabled=False),
        without_tf32(compute.device),
        console.progress(total=n_own, unit="segment", desc="embedding") as bar,
        loader.batches(batches) as loaded,
    ):
        for index, batch in loaded:
            batch = batch.to(compute.device, memory_format=torch.channels_last, non_blocking=True)
            embeddings[index] = encoder(batch, compute.dtype).cpu()
            bar.update(len(index))
    ranks.all_reduce_sum(embeddings)
    if not embeddings.isfinite().all():
        raise UserError("the embeddings are not finite, probably because the training diverged; use another checkpoint")
    return embeddings


def equal_length_batches(lengths: np.ndarray, batch_frames: int) -> list[list[int]]:
    """Return batches of indices of segments of equal length, longest first, with `batch_frames` frames or fewer."""
    order = np.argsort(-lengths, kind="stable")
    batches: list[list[int]] = []
    for run in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        size = max(1, batch_frames // int(lengths[run[0]]))
        batches += [run[i : i + size].tolist() for i in range(0, len(run), size)]
    return batches


def score(encoder: Encoder, features: FeatureIndex, enrol: Segments, test: Segments, compute: Compute) -> np.ndarray:
    """Return the cosine scores (n,) float64 of n trials; a segment that occurs several times is embedded once."""
    embeddings, (left, right) = embed_once(encoder, features, [enrol, test], compute)
    return cosine(embeddings, left, right)


def embed_once(
    encoder: Encoder, features: FeatureIndex, sides: Sequence[Segments], compute: Compute
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return unit-length embeddings (m, 256), one for each different segment, and each side's rows (n,) in them."""
    unique, index = unique_segments(sides)
    rows = torch.from_numpy(index).split([len(side.row) for side in sides])
    return F.normalize(embed(encoder, features, unique, compute), dim=1), list(rows)


def cosine(embeddings: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> np.ndarray:
    """Return the cosine (n,) float64 of each pair of rows, left and right (n,), of unit-length embeddings (m, D)."""
    with torch.autocast(embeddings.device.type, enabled=False):  # the calling program may use it
        blocks = [
            torch.einsum("nd,nd->n", embeddings.index_select(0, a), embeddings.index_select(0, b))
            for a, b in zip(left.split(SCORE_BLOCK), right.split(SCORE_BLOCK), strict=True)
        ]
    return torch.cat(blocks).double().numpy()


def unique_segments(sides: Sequence[Segments]) -> tuple[Segments, np.ndarray]:
    """Return the m different segments of all sides, sorted, and the index, 0..m-1, of each segment of all sides."""
    segments = np.concatenate([np.stack(side, axis=1) for side in sides])
    different, index = np.unique(segments, axis=0, return_inverse=True)
    return Segments(*different.T), index.ravel()  # NumPy 2.0 returns (n, 1)
