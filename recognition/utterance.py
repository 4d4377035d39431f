"""Read recordings: features, duration, seconds of speech, and whether a voice is found."""

import io
import sys
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import soundfile
import torch

from configure import SAMPLE_RATE
from feat_extract.audio import read_and_warn
from feat_extract.decoding import RATES
from feat_extract.fbank import log_mel
from feat_extract.modulation import MIN_MODULATION, spectral_modulation
from feat_extract.recording import Recording
from feat_extract.silence import trim_samples
from system.console import UserError

STANDARD_INPUT = "-"
MAX_CHANNELS = 8  # of a waveform; a larger first dimension, as in (16, 48000), is probably a batch


class Utterance(NamedTuple):
    """The features of a recording."""

    name: str  # as the user gave it
    features: np.ndarray  # (T, 40) float32
    seconds: float  # duration of the recording
    speech: float  # seconds left after trimming silence; noise is not trimmed, so this is an upper bound
    modulation: float  # of the spectral shape, in dB, as spectral_modulation returns it

    @property
    def has_voice(self) -> bool:
        """Whether the recording probably contains a voice; music and other changing sounds are also detected."""
        return self.modulation >= MIN_MODULATION


def read_utterance(
    file: str | Path | bytes | IO[bytes], channel: int | None = None, trim_silence: bool = True
) -> Utterance:
    """Read a recording of any sampling rate and format that FFmpeg's libraries can decode.

    `file` is a path, "-" for standard input, the content of a file (bytes, bytearray or memoryview), or a file that is
    open in binary mode. An open file is read from its start if it is seekable, otherwise from its current position; it
    stays open. Channels are counted from 1; None averages them. `trim_silence` removes silence at both ends and
    shortens pauses to 0.1 s. Problems that do not prevent reading are warnings. UserError naming the file if it is
    missing, damaged, empty or silent; TypeError if `file` is none of the above.
    """
    source: Path | IO[bytes]
    match file:
        case bytes() | bytearray() | memoryview():
            name, source = "bytes", io.BytesIO(file)
        case str() | Path() if str(file) == STANDARD_INPUT:
            if sys.stdin is None:
                raise UserError("standard input: closed; name a file instead of -")
            recording = read_and_warn(sys.stdin.buffer, channel, "standard input")
            return _utterance(STANDARD_INPUT, recording, trim_silence)
        case str() | Path():
            name, source = str(file), Path(file)
        case _:
            name, source = _name_of(file), file
    return _utterance(name, read_and_warn(source, channel, name), trim_silence)


def utterance_of(waveform: np.ndarray | torch.Tensor, rate: float) -> Utterance:
    """Return the utterance of a waveform, with silence trimmed; `rate` is an integer number of Hz.

    The waveform contains floats within -1..1, or int16, in an array or a torch tensor on any device. Its shape is (S,),
    (S, channels) as soundfile reads it, or (channels, S) as torchaudio and librosa do, with at most 8 channels and
    more samples than that; channels are averaged. ValueError naming other shapes, types and rates; UserError for
    samples that are not finite or all zero.
    """
    if isinstance(waveform, torch.Tensor):
        waveform = (waveform.float() if waveform.is_floating_point() else waveform).numpy(force=True)
    samples = _time_first(np.asarray(waveform))
    if not (samples.dtype == np.int16 or np.issubdtype(samples.dtype, np.floating)):
        raise ValueError(f"a waveform contains floats within -1..1 or int16, not {samples.dtype}")
    if not (float(rate).is_integer() and int(rate) in RATES):
        raise ValueError(f"a waveform's rate is a whole number of Hz from {RATES[0]} to {RATES[-1]}, not {rate}")
    is_int16, file = samples.dtype == np.int16, io.BytesIO()
    content = samples if is_int16 else samples.astype(np.float32)
    soundfile.write(file, content, int(rate), format="WAV", subtype="PCM_16" if is_int16 else "FLOAT")
    return _utterance("waveform", read_and_warn(file, name="waveform"), trim_silence=True)


def _name_of(file: IO[bytes]) -> str:
    """Return the name of a file that is open in binary mode; TypeError for any other object."""
    if not hasattr(file, "read") or isinstance(file, io.TextIOBase):
        raise TypeError(
            f"a recording is a path, bytes or a file that is open in binary mode, not {type(file).__name__}; "
            "utterance_of takes samples"
        )
    name = getattr(file, "name", None)
    return name if isinstance(name, str) else "recording"


def _time_first(waveform: np.ndarray) -> np.ndarray:
    """Return a waveform as (S,) or (S, channels); ValueError naming a shape that is ambiguous or not a waveform's."""
    match waveform.shape:
        case (n,) if n:
            return waveform
        case (n, channels) if n > MAX_CHANNELS >= channels > 0:
            return waveform
        case (channels, n) if n > MAX_CHANNELS >= channels > 0:
            return waveform.T
    raise ValueError(
        f"a waveform is (S,), (S, channels) or (channels, S) with at most {MAX_CHANNELS} channels and more samples, "
        f"not {waveform.shape}; pass one recording, or one channel of it, as (S,)"
    )


def _utterance(name: str, recording: Recording, trim_silence: bool) -> Utterance:
    samples, speech = recording.samples, trim_samples(recording.samples)
    features = log_mel(speech if trim_silence else samples)
    seconds = len(samples) / SAMPLE_RATE, len(speech) / SAMPLE_RATE
    return Utterance(name, features, *seconds, spectral_modulation(speech))
