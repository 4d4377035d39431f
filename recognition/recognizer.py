"""A trained checkpoint as a speaker recogniser: recordings to embeddings, scores and log-likelihood ratios."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn import functional as F

from evaluation.calibration import Calibration, load_calibration
from evaluation.embedding import Segments, embed
from model.checkpoint import Checkpoint, load_checkpoint
from model.encoder import EMBEDDING_SIZE
from recognition.utterance import Utterance, read_utterance, utterance_of
from system.compute import inference
from system.console import UserError

BUNDLED_MODEL = Path(__file__).parent.parent / "pretrained" / "open_speech.pth"
PIECE_FRAMES = 30_000  # 5 minutes: a longer recording is embedded in pieces, to bound the memory


class Recognizer:
    """Speaker embeddings of recordings, and their scores."""

    def __init__(self, checkpoint: str | Path | None = None, device: str = "auto", content: Checkpoint | None = None):
        """Load a checkpoint file (default: the bundled model) to a device: auto, cpu, cuda, cuda:1 or mps.

        `content` is the content of the file if it has already been loaded. UserError if the file is not a checkpoint
        of the official code or of this project.
        """
        path = Path(checkpoint or BUNDLED_MODEL)
        self._compute = inference(device)
        content = content or load_checkpoint(path)
        self.encoder = content.encoder().for_inference(self._compute.device)
        self.digest = content.digest  # SHA-256 of the file, in hexadecimal
        self.calibration = load_calibration(path, self.digest)  # None if the checkpoint has none

    def embed(self, waveform: np.ndarray | torch.Tensor, rate: float) -> np.ndarray:
        """Return the embedding (256,) float32, of unit length, of a waveform at `rate` Hz.

        The samples are floats within -1..1, as soundfile and librosa return them, or int16. Other sampling rates are
        converted to 16 kHz, and channels are averaged. Shapes and errors are those of `utterance_of`.
        """
        return self.embed_utterances([utterance_of(waveform, rate)])[0]

    def embed_files(self, files: Iterable[str | Path | bytes | IO[bytes]]) -> np.ndarray:
        """Return the embeddings (n, 256) float32, of unit length, of n audio files.

        `read_utterance` describes the possible types of a file. If a file cannot be used, a UserError names it.
        TypeError for one file instead of several.
        """
        if isinstance(files, str | Path | bytes | bytearray | memoryview) or hasattr(files, "read"):
            raise TypeError(f"embed_files takes several files, not {type(files).__name__}; pass one file as [file]")
        return self.embed_utterances([read_utterance(file) for file in files])

    def score(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the cosine scores (...) float64, -1..1, of embeddings a and b (..., 256); shapes broadcast."""
        a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a.astype(np.float64), b.astype(np.float64)))
        return (a * b).sum(axis=-1)

    def llr(self, a: np.ndarray, b: np.ndarray, seconds_a: ArrayLike, seconds_b: ArrayLike) -> np.ndarray:
        """Return the log-likelihood ratios (...) float64 of embeddings a and b (..., 256); shapes broadcast.

        `seconds_a` and `seconds_b` (...) are the seconds of speech of both sides, Utterance.speech. The order of the
        two sides does not matter. UserError if the checkpoint has no calibration.
        """
        return self.calibrated().llr(self.score(a, b), seconds_a, seconds_b)

    def calibrated(self) -> Calibration:
        """Return the calibration; UserError if the checkpoint has none."""
        if self.calibration is None:
            raise UserError(
                "this checkpoint has no calibration; fit one with EER_short.py --test_length 50 100 200 300 500 full "
                "--calibrate True, or decide by the cosine score with --threshold"
            )
        return self.calibration

    def embed_utterances(self, utterances: Sequence[Utterance]) -> np.ndarray:
        """Return the embeddings (n, 256) float32, of unit length, of n utterances.

        An utterance longer than 5 minutes is divided into equal pieces, and the mean of their unit-length embeddings is
        scaled to unit length.
        """
        if not utterances:
            return np.zeros((0, EMBEDDING_SIZE), np.float32)
        segments = _pieces([len(utterance.features) for utterance in utterances])
        pieces = F.normalize(embed(self.encoder, _Frames(utterances), segments, self._compute), dim=1)
        sums = torch.zeros(len(utterances), EMBEDDING_SIZE, dtype=pieces.dtype, device=pieces.device)
        return F.normalize(sums.index_add_(0, torch.from_numpy(segments.row), pieces), dim=1).numpy()


class _Frames(list[Utterance]):
    """Utterances in memory, with the method that evaluation.embedding.embed calls."""

    def crop(self, row: int, start: int, length: int) -> np.ndarray:
        """Return the frames (length, 40) of an utterance from `start`; the utterance must contain them."""
        return self[row].features[start : start + length]


def _pieces(lengths: list[int]) -> Segments:
    """Return segments that cover utterances of these lengths in frames, in equal pieces of at most PIECE_FRAMES."""
    counts = [-(-length // PIECE_FRAMES) for length in lengths]
    edges = [np.linspace(0, length, n + 1).astype(np.int64) for length, n in zip(lengths, counts, strict=True)]
    rows = np.repeat(np.arange(len(lengths)), counts)
    return Segments(rows, np.concatenate([e[:-1] for e in edges]), np.concatenate([np.diff(e) for e in edges]))
