"""A recording of any kind as the encoder's features, and what to know about it: its length, how much is speech."""

import io
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from configure import SAMPLE_RATE
from feat_extract.audio import read_and_warn
from feat_extract.fbank import log_mel
from feat_extract.recording import Recording
from feat_extract.silence import cut_pauses
from system.console import UserError

STANDARD_INPUT = "-"


class Utterance(NamedTuple):
    """The features of a recording."""

    name: str  # as the user gave it
    features: np.ndarray  # (T, 40) float32
    seconds: float  # length of the recording
    speech: float  # seconds of it that are not silence; steady noise counts as speech, so this is an upper bound


def read_utterance(file: str | Path, channel: int | None = None, trim_silence: bool = True) -> Utterance:
    """Read a recording of any rate and format that FFmpeg's libraries know; "-" is standard input.

    Channels are counted from 1; None is their mean. `trim_silence` cuts pauses out of the features. What is doubtful
    about the recording is warned of. UserError naming the file if it is missing, damaged, empty or silent.
    """
    if str(file) == STANDARD_INPUT:
        return _utterance(str(file), read_and_warn(sys.stdin.buffer, channel, "standard input"), trim_silence)
    if not Path(file).exists() or Path(file).is_dir():
        raise UserError(f"{file}: no such recording")
    return _utterance(str(file), read_and_warn(Path(file), channel), trim_silence)


def utterance_of(waveform: np.ndarray, rate: int) -> Utterance:
    """Return the utterance of a waveform (S,) or (S, channels) at `rate` Hz: floats within -1..1, or int16.

    ValueError for other types and shapes and for no samples, UserError for samples that are not finite or all zero.
    """
    waveform = np.asarray(waveform)
    if waveform.ndim not in (1, 2) or not waveform.size or rate <= 0:
        raise ValueError(f"a waveform is (S,) or (S, channels) at a positive rate, not {waveform.shape} at {rate}")
    if not (waveform.dtype == np.int16 or np.issubdtype(waveform.dtype, np.floating)):
        raise ValueError(f"a waveform holds floats within -1..1 or int16, not {waveform.dtype}")
    file, is_float = io.BytesIO(), waveform.dtype != np.int16
    content = waveform.astype(np.float32) if is_float else waveform
    soundfile.write(file, content, rate, format="WAV", subtype="FLOAT" if is_float else "PCM_16")
    file.seek(0)
    return _utterance("waveform", read_and_warn(file, name="waveform"), trim_silence=True)


class Recordings(list[Utterance]):
    """Utterances in memory, to embed as those of a FeatureIndex are: an embedding.Frames."""

    def crop(self, row: int, start: int, length: int) -> np.ndarray:
        """Return frames start .. start + length - 1 (length, 40) of an utterance, all within it."""
        return self[row].features[start : start + length]


def _utterance(name: str, recording: Recording, trim_silence: bool) -> Utterance:
    samples, speech = recording.samples, cut_pauses(recording.samples)
    features = log_mel(speech if trim_silence else samples)
    return Utterance(name, features, len(samples) / SAMPLE_RATE, len(speech) / SAMPLE_RATE)
