"""A trained checkpoint as a speaker recogniser for recordings."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from evaluation.decision import load_threshold, threshold_for
from evaluation.embedding import Segments, embed
from model.checkpoint import load_checkpoint
from model.encoder import EMBEDDING_SIZE, Encoder
from recognition.utterance import Recordings, Utterance, read_utterance, utterance_of
from system.compute import inference
from system.files import sha256

PIECE_FRAMES = 30_000  # 5 minutes: a longer recording is embedded in pieces, to bound the memory


class Recognizer:
    """Speaker embeddings of recordings, and their scores.

    Attributes:
        encoder: the network, in evaluation mode.
        digest: SHA-256 of the checkpoint file.
        threshold: cosine score from which two recordings count as one speaker's, by EER_full.py's last evaluation
            of this checkpoint; None if there was none. See threshold_among for more voices than one.
    """

    def __init__(self, checkpoint: str | Path, device: str = "auto"):
        """Load a checkpoint, the release's or ours, for a device as --device names it; UserError if it is none."""
        self._compute = inference(device)
        self.encoder: Encoder = load_checkpoint(Path(checkpoint)).encoder().folded()
        self.digest = sha256(Path(checkpoint))
        self._thresholds = load_threshold(Path(checkpoint), self.digest)
        self.threshold = self.threshold_among(1)

    def embed(self, waveform: np.ndarray, rate: int) -> np.ndarray:
        """Return the embedding (256,) float32 of length one of a waveform.

        Args:
            waveform: (S,) or (S, channels), floats within -1..1 (as soundfile and librosa read) or int16.
            rate: in Hz; other rates than 16,000 are resampled, channels averaged.
        """
        return self.embed_utterances([utterance_of(waveform, rate)])[0]

    def threshold_among(self, n_voices: int) -> float | None:
        """Return the score from which a recording counts as the nearest of n_voices enrolled speakers'.

        An unknown speaker passes about as often as with one voice at the EER. None as for `threshold`.
        """
        return threshold_for(self._thresholds, n_voices) if self._thresholds else None

    def embed_files(self, files: Iterable[str | Path]) -> np.ndarray:
        """Return the embeddings (n, 256) float32 of length one of n audio files; UserError naming one that is bad."""
        return self.embed_utterances([read_utterance(file) for file in files])

    def score(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the cosine scores (...) float64, -1..1, of embeddings a and b (..., 256); shapes broadcast."""
        a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a.astype(np.float64), b.astype(np.float64)))
        return (a * b).sum(axis=-1)

    def embed_utterances(self, utterances: Sequence[Utterance]) -> np.ndarray:
        """Return the embeddings (n, 256) float32 of length one of n utterances.

        Each is embedded whole, as EER_full.py does; of one beyond 5 minutes it is the direction of the mean of its
        equal pieces' unit-length embeddings.
        """
        if not utterances:
            return np.zeros((0, EMBEDDING_SIZE), np.float32)
        segments = _pieces([len(utterance.features) for utterance in utterances])
        pieces = F.normalize(embed(self.encoder, Recordings(utterances), segments, self._compute), dim=1)
        sums = torch.zeros(len(utterances), EMBEDDING_SIZE).index_add_(0, torch.from_numpy(segments.row), pieces)
        return F.normalize(sums, dim=1).numpy()


def _pieces(lengths: list[int]) -> Segments:
    """Return segments that cover utterances of these lengths in frames, each whole or in equal pieces."""
    counts = [-(-length // PIECE_FRAMES) for length in lengths]
    edges = [np.linspace(0, length, n + 1).astype(np.int64) for length, n in zip(lengths, counts, strict=True)]
    rows = np.repeat(np.arange(len(lengths)), counts)
    return Segments(rows, np.concatenate([e[:-1] for e in edges]), np.concatenate([np.diff(e) for e in edges]))
