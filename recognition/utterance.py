"""A recording of any kind as the encoder's features, and what to know about it: its length, how much is speech."""

import io
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from configure import SAMPLE_RATE
from feat_extract.audio import UnreadableError, convert, read_recording
from feat_extract.fbank import log_mel
from system.console import UserError

STANDARD_INPUT = "-"
BLOCK = 160  # samples whose level is measured together, 10 ms
SPEECH_RANGE_DB = 35  # what is so far below the loudest block is taken for a pause


class Utterance(NamedTuple):
    """The features of a recording."""

    name: str  # as the user gave it
    features: np.ndarray  # (T, 40) float32
    seconds: float  # length of the recording
    speech: float  # seconds of it that are not pauses; steady noise counts as speech, so this is an upper bound


def read_utterance(file: str | Path) -> Utterance:
    """Read a recording of any rate and format that soundfile or FFmpeg's libraries know; "-" is standard input.

    UserError naming the file if it is missing, damaged, empty, silent or not finite.
    """
    source = _StandardInput(sys.stdin.buffer.read()) if str(file) == STANDARD_INPUT else Path(file)
    if isinstance(source, Path) and not source.is_file():
        raise UserError(f"{file}: no such recording")
    try:
        samples = read_recording(source).samples
    except UnreadableError:
        samples = _decode(source)
    return _utterance(str(file), samples)


def utterance_of(waveform: np.ndarray, rate: int) -> Utterance:
    """Return the utterance of a waveform (S,) or (S, channels) at `rate` Hz: floats within -1..1, or int16.

    ValueError for other types and shapes and for no samples, UserError for samples that are not finite or all zero.
    """
    waveform = np.asarray(waveform)
    if waveform.ndim not in (1, 2) or not waveform.size or rate <= 0:
        raise ValueError(f"a waveform is (S,) or (S, channels) at a positive rate, not {waveform.shape} at {rate}")
    if not (waveform.dtype == np.int16 or np.issubdtype(waveform.dtype, np.floating)):
        raise ValueError(f"a waveform holds floats within -1..1 or int16, not {waveform.dtype}")
    if not waveform.any():
        raise UserError("waveform: silent (every sample is zero)")
    if waveform.dtype == np.int16 and waveform.ndim == 1 and rate == SAMPLE_RATE:
        return _utterance("waveform", waveform)
    scale = 32768 if waveform.dtype == np.int16 else 1
    return _utterance("waveform", convert(waveform / scale, rate, "waveform"))


class Recordings(list[Utterance]):
    """Utterances in memory, to embed as those of a FeatureIndex are: a verification.Frames."""

    def crop(self, row: int, start: int, length: int) -> np.ndarray:
        """Return frames start .. start + length - 1 (length, 40) of an utterance, all within it."""
        return self[row].features[start : start + length]


class _StandardInput(io.BytesIO):
    def __str__(self) -> str:
        return "standard input"


def _decode(source: Path | _StandardInput) -> np.ndarray:
    """Return the samples of a file that libsndfile does not read: AAC, MP4 and whatever else FFmpeg knows."""
    from corpora.convert import DecodeError, decode  # FFmpeg's libraries are loaded where they are needed only

    if isinstance(source, _StandardInput):
        source.seek(0)
    try:
        samples = decode(source)
    except DecodeError as error:
        raise UserError(f"{source}: no readable audio ({error})") from None
    if not samples.any():
        raise UserError(f"{source}: silent (every sample is zero)")
    return samples


def _utterance(name: str, samples: np.ndarray) -> Utterance:
    """Return the utterance of 16 kHz mono samples (S,) on the int16 scale."""
    return Utterance(name, log_mel(samples), len(samples) / SAMPLE_RATE, _speech_seconds(samples))


def _speech_seconds(samples: np.ndarray) -> float:
    padded = np.pad(samples.astype(np.float32), (0, -len(samples) % BLOCK))
    power = (padded.reshape(-1, BLOCK) ** 2).mean(axis=1)
    blocks = np.count_nonzero(power >= power.max() * 10 ** (-SPEECH_RANGE_DB / 10))
    return min(blocks * BLOCK, len(samples)) / SAMPLE_RATE
