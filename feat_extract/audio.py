"""Reading a recording as 16 kHz mono samples on the int16 scale."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile

from configure import SAMPLE_RATE
from system.console import UserError

STREAMED_SIZE = 0x7FFFFF00  # a data size from here on was written by a program that could not know it


RATES = range(4_000, 768_001)  # Hz
MAX_SAMPLES = 2**28  # of all channels together: four and a half hours of 16 kHz mono, 2 GiB while it is converted


class UnreadableError(UserError):
    """A file in no format that libsndfile knows."""


class Recording(NamedTuple):
    """A recording's samples."""

    samples: np.ndarray  # (S,) int16, or float64 on the int16 scale where converted
    converted: bool  # the file was not 16 kHz 16-bit mono


def read_recording(path: Path | BinaryIO) -> Recording:
    """Return the samples of an audio file; UserError naming it if it is damaged, empty, silent or not finite.

    An open file is named as str() names it. UnreadableError, a UserError, if the format is unknown.

    16 kHz 16-bit mono is taken bit by bit. Other files are converted: channels averaged, then resampled (soxr).
    """
    with _opened(path) as file:
        if _cut_off(file.extra_info):
            raise UserError(f"{path}: truncated (its header promises more samples); get the file again")
        rate, n_samples = file.samplerate, file.frames * file.channels
        if rate not in RATES or n_samples > MAX_SAMPLES:
            raise UserError(f"{path}: {n_samples:,} samples at {rate:,} Hz, by its header, are no utterance")
        converted = not _is_plain(file)
        samples = file.read(dtype="float64" if converted else "int16")
    if len(samples) == 0:
        raise UserError(f"{path}: holds no samples")
    if converted:
        samples = convert(samples, rate, str(path))
    if not samples.any():
        raise UserError(f"{path}: silent (every sample is zero)")
    return Recording(samples, converted)


def read_samples(path: Path, start: int, n: int) -> tuple[np.ndarray, int]:
    """Return n samples (n,) of what `read_recording` reads, from sample `start` on, and how many there are in all.

    They are fewer where the recording ends. Of 16 kHz 16-bit mono no others are read.
    """
    with _opened(path) as file:
        if _is_plain(file):
            file.seek(min(start, file.frames))
            return file.read(n, dtype="int16"), file.frames
    samples = read_recording(path).samples
    return samples[start : start + n], len(samples)


@contextmanager
def _opened(path: Path | BinaryIO) -> Iterator[soundfile.SoundFile]:
    """Open an audio file; what libsndfile says of it while it is open becomes a UserError."""
    # On POSIX a file's name is bytes, and soundfile takes text for UTF-8 only.
    source = os.fsencode(path) if isinstance(path, Path) and os.name == "posix" else path
    try:
        with soundfile.SoundFile(source) as file:
            yield file
    except soundfile.SoundFileError as error:
        if isinstance(path, Path) and not os.access(path, os.R_OK):
            raise UserError(f"{path}: may not be read (its permissions)") from None
        raise UnreadableError(f"{path}: no readable audio ({str(error).split(': ', 1)[-1].rstrip('.')})") from None


def _is_plain(file: soundfile.SoundFile) -> bool:
    return (file.samplerate, file.channels, file.subtype) == (SAMPLE_RATE, 1, "PCM_16")


def convert(samples: np.ndarray, rate: int, name: str) -> np.ndarray:
    """Return 16 kHz mono samples on the int16 scale, float64, of samples (S,) or (S, channels) within -1..1.

    UserError with the recording's name if a sample is not finite.
    """
    import librosa  # half a second to import, and hardly a corpus needs it

    if not np.isfinite(samples).all():
        raise UserError(f"{name}: holds NaN or infinite samples")
    mono = samples.mean(axis=1) if samples.ndim == 2 else samples
    return librosa.resample(mono, orig_sr=rate, target_sr=SAMPLE_RATE) * 32768


def _cut_off(libsndfile_log: str) -> bool:
    """Tell whether a wav's data chunk promises more bytes than the file holds (libsndfile reads on silently)."""
    promised = re.search(r"^data : (\d+) \(should be \d+\)", libsndfile_log, re.MULTILINE)
    return promised is not None and int(promised[1]) < STREAMED_SIZE
