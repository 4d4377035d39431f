"""The one reader of recordings: any file that FFmpeg's libraries know, as 16 kHz mono 16-bit samples.

A wav that is just that is read and written here, bit by bit; decoding.py converts everything else.
"""

import shutil
import struct
import tempfile
import wave
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from configure import SAMPLE_RATE
from feat_extract.recording import (
    MAX_HOURS,
    MAX_SAMPLES,
    PLACEHOLDER_SIZE,
    NotAudioError,
    Recording,
    RecordingError,
    SilentError,
)
from system import console
from system.files import replacing

WINDOW_SECONDS = 0.025  # a recording that lacks less than this lacks nothing that features would show
PLAIN_FORMAT = struct.pack("<HHIIHH", 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)  # of a wav: 16 kHz mono 16-bit


class WavHeader(NamedTuple):
    """What a wav says about its samples."""

    start: int  # in bytes from the beginning of the file
    n_plain: int | None  # how many there are, if they are 16 kHz mono 16-bit
    missing: float  # seconds of them that are promised beyond the end of the file


def read_recording(source: Path | IO[bytes], channel: int | None = None, name: str | None = None) -> Recording:
    """Return the samples of a recording; RecordingError, a UserError, if it cannot be used.

    `source` is a file, or one that is open; messages call it `name`. An open file is read from its start if it is
    seekable, otherwise from its position (a pipe). Without a `channel`, counted from 1, channels are averaged; where
    they cancel, the loudest is taken. A wav whose header was never finished is read to its end. What a header promises
    and the file lacks is remarked from 25 ms on, and refused if it is more than half.
    """
    name = name or str(source)
    with _opened(source, name) if isinstance(source, Path) else nullcontext(source) as file:
        return _read(file, name, channel)


def read_and_warn(source: Path | IO[bytes], channel: int | None = None, name: str | None = None) -> Recording:
    """Do what read_recording does, and warn of what is doubtful about the recording."""
    recording = read_recording(source, channel, name)
    for remark in recording.remarks:
        console.warn(f"{name or source}: {remark}")
    return recording


def read_samples(path: Path, start: int, n: int) -> tuple[np.ndarray, int]:
    """Return n samples (n,) of what read_recording reads, from sample `start` on, and how many there are in all.

    They are fewer where the recording ends. Of a 16 kHz mono 16-bit wav no others are read.
    """
    with _opened(path, str(path)) as file:
        header = _wav_header(file)
        if header and header.n_plain is not None:
            n = max(0, min(n, header.n_plain - start))
            return _plain_samples(file, header.start + 2 * start, n), header.n_plain
    samples = read_recording(path).samples
    return samples[start : start + n], len(samples)


def n_plain_samples(path: Path) -> int | None:
    """Return the number of samples of a 16 kHz mono 16-bit wav, None for another file; RecordingError as above."""
    with _opened(path, str(path)) as file:
        header = _wav_header(file)
    return header and header.n_plain


def write_wav(path: Path, samples: np.ndarray) -> None:
    """Write samples (S,) int16 as a 16 kHz mono wav, whole or not at all."""
    with replacing(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.astype("<i2", copy=False).data)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Open a file; an OSError while it is open becomes a RecordingError."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise RecordingError(name, f"cannot be read ({error.strerror})") from None


def _read(file: IO[bytes], name: str, channel: int | None) -> Recording:
    seekable = getattr(file, "seekable", None)
    if not (seekable() if seekable else hasattr(file, "seek")):  # Python 3.10's SpooledTemporaryFile cannot tell
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy)
            return _read(copy, name, channel)
    if not _size(file):
        raise NotAudioError(name, "no readable audio (the file is empty)")
    file.seek(0)
    header = _wav_header(file)
    if header and header.n_plain is not None and channel in (None, 1):
        samples = _plain_samples(file, header.start, min(header.n_plain, MAX_SAMPLES + 1))
        recording, missing = Recording(samples, False, []), 0.0
    else:
        from feat_extract.decoding import decode  # FFmpeg's libraries are loaded only where they are needed

        file.seek(0)
        recording, missing = decode(file, name, channel)
    return _checked(recording, name, header.missing if header else missing)


def _size(file: IO[bytes]) -> int:
    """Return the size in bytes of a seekable file; its position becomes the end."""
    file.seek(0, 2)
    return file.tell()  # Python 3.10's SpooledTemporaryFile.seek returns nothing


def _checked(recording: Recording, name: str, missing: float) -> Recording:
    """Return the recording with a remark about missing seconds, if it can be used."""
    n_samples = len(recording.samples)
    seconds = n_samples / SAMPLE_RATE
    if not n_samples:
        raise RecordingError(name, "holds no samples")
    if n_samples > MAX_SAMPLES:
        raise RecordingError(name, f"longer than {MAX_HOURS} hours; cut it into shorter ones")
    truncated = f"truncated: {missing:.2f} of its {seconds + missing:.2f} s are missing"
    if missing > seconds:
        raise RecordingError(name, truncated)
    if not recording.samples.any():
        raise SilentError(name, "silent (every sample is zero)")
    if missing > WINDOW_SECONDS:
        recording.remarks.append(truncated)
    return recording


def _wav_header(file: IO[bytes]) -> WavHeader | None:
    """Return what a wav says, None for other formats."""
    riff = file.read(12)
    if riff[:4] != b"RIFF" or riff[8:] != b"WAVE":
        return None
    form = b""
    while len(chunk := file.read(8)) == 8:
        (kind, size), start = struct.unpack("<4sI", chunk), file.tell()
        if kind == b"data":
            n_bytes = _size(file) - start
            promised = size if 0 < size < PLACEHOLDER_SIZE else n_bytes  # otherwise the header was never finished
            bytes_per_second = struct.unpack_from("<I", form, 8)[0] if len(form) == len(PLAIN_FORMAT) else 0
            missing = max(0, promised - n_bytes) / bytes_per_second if bytes_per_second else 0.0
            return WavHeader(start, min(promised, n_bytes) // 2 if form == PLAIN_FORMAT else None, missing)
        if kind == b"fmt ":
            form = file.read(min(size, len(PLAIN_FORMAT)))
        file.seek(start + size + size % 2)
    return None


def _plain_samples(file: IO[bytes], start: int, n: int) -> np.ndarray:
    """Return n samples (n,) int16, all there, from a place in bytes of a 16 kHz mono 16-bit wav."""
    file.seek(start)
    return np.frombuffer(file.read(2 * n), "<i2")
