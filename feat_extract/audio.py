"""Read recordings of any format that FFmpeg's libraries support, as 16 kHz mono 16-bit samples.

This module reads and writes wavs of exactly this format without any change; decoding.py converts all other files.
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

WINDOW_SECONDS = 0.025  # recordings are reported as truncated if more than one feature window is missing
PLAIN_FORMAT = struct.pack("<HHIIHH", 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)  # fmt chunk of 16 kHz mono 16-bit wavs


class WavHeader(NamedTuple):
    """The position and number of the samples in a wav, according to its header."""

    start: int  # position of the first sample in bytes
    n_plain: int | None  # number of samples in the file; None if there are some that are not 16 kHz mono 16-bit
    missing: float  # seconds of audio that the header declares but the file does not contain


def read_recording(source: Path | IO[bytes], channel: int | None = None, name: str | None = None) -> Recording:
    """Return the samples of a recording.

    `source` is a path or an open file; messages contain `name`. An open file is read from its start if it is seekable,
    otherwise from its position (a pipe). `channel` is counted from 1; by default the channels are averaged, or the
    loudest is taken if they cancel each other. If the header of a wav has no valid data size, the wav is read to its
    end, unless the rest consists of other chunks. If the file is more than 25 ms shorter than the header states, a
    remark reports it. RecordingError, a UserError, if the recording cannot be used or more than half of it is missing.
    """
    name = name or str(source)
    with _opened(source, name) if isinstance(source, Path) else nullcontext(source) as file:
        return _read(file, name, channel)


def read_and_warn(source: Path | IO[bytes], channel: int | None = None, name: str | None = None) -> Recording:
    """Return the same as read_recording, and print its remarks as warnings."""
    recording = read_recording(source, channel, name)
    for remark in recording.remarks:
        console.warn(f"{name or source}: {remark}")
    return recording


def read_samples(path: Path, start: int, n: int) -> tuple[np.ndarray, int]:
    """Return the samples start..start+n-1 of a recording, fewer at its end, and the number of all its samples.

    Only these samples are read if the file is a 16 kHz mono 16-bit wav. Errors are those of read_recording.
    """
    with _opened(path, str(path)) as file:
        header = _wav_header(file)
        if header and header.n_plain is not None:
            n = max(0, min(n, header.n_plain - start))
            return _plain_samples(file, header.start + 2 * start, n), header.n_plain
    samples = read_recording(path).samples
    return samples[start : start + n], len(samples)


def n_plain_samples(path: Path) -> int | None:
    """Return the number of samples of a 16 kHz mono 16-bit wav, None for any other file.

    RecordingError if the file cannot be read.
    """
    with _opened(path, str(path)) as file:
        header = _wav_header(file)
    return header and header.n_plain


def write_wav(path: Path, samples: np.ndarray) -> None:
    """Write samples (S,) int16 as a 16 kHz mono wav; the file is complete or not written at all."""
    with replacing(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.astype("<i2", copy=False).data)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Open a file for a `with` block, and convert an OSError in this block to a RecordingError."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise RecordingError(name, f"cannot be read ({error.strerror})") from None


def _read(file: IO[bytes], name: str, channel: int | None) -> Recording:
    seekable = getattr(file, "seekable", None)
    if not (seekable() if seekable else hasattr(file, "seek")):  # Python 3.10's SpooledTemporaryFile has no `seekable`
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
        from feat_extract.decoding import decode  # loads FFmpeg's libraries, which plain wavs do not need

        file.seek(0)
        recording, missing = decode(file, name, channel)
    return _checked(recording, name, header.missing if header else missing)


def _size(file: IO[bytes]) -> int:
    """Return the size in bytes of a seekable file, and move its position to the end."""
    file.seek(0, 2)
    return file.tell()  # Python 3.10's SpooledTemporaryFile.seek returns nothing


def _checked(recording: Recording, name: str, missing: float) -> Recording:
    """Return the recording, with a remark about missing seconds; RecordingError if it cannot be used."""
    n_samples = len(recording.samples)
    seconds = n_samples / SAMPLE_RATE
    if not n_samples:
        raise RecordingError(name, "contains no samples")
    if n_samples > MAX_SAMPLES:
        raise RecordingError(name, f"longer than {MAX_HOURS} hours; split it into shorter recordings")
    truncated = f"truncated: {missing:.2f} of its {seconds + missing:.2f} s are missing"
    if missing > seconds:
        raise RecordingError(name, truncated)
    if not recording.samples.any():
        raise SilentError(name, "silent (every sample is zero)")
    if missing > WINDOW_SECONDS:
        recording.remarks.append(truncated)
    return recording


def _wav_header(file: IO[bytes]) -> WavHeader | None:
    """Return the header of a wav, None for other formats."""
    riff = file.read(12)
    if riff[:4] != b"RIFF" or riff[8:] != b"WAVE":
        return None
    form = b""
    while len(chunk := file.read(8)) == 8:
        (kind, size), start = struct.unpack("<4sI", chunk), file.tell()
        if kind == b"data":
            n_bytes = _size(file) - start
            if size == 0 and _are_chunks(file, start, start + n_bytes):
                return WavHeader(start, 0, 0.0)
            stated = size if 0 < size < PLACEHOLDER_SIZE else n_bytes  # else the size is a placeholder
            bytes_per_second = struct.unpack_from("<I", form, 8)[0] if len(form) == len(PLAIN_FORMAT) else 0
            missing = max(0, stated - n_bytes) / bytes_per_second if bytes_per_second else 0.0
            return WavHeader(start, min(stated, n_bytes) // 2 if form == PLAIN_FORMAT else None, missing)
        if kind == b"fmt ":
            form = file.read(min(size, len(PLAIN_FORMAT)))
        file.seek(start + size + size % 2)
    return None


def _are_chunks(file: IO[bytes], start: int, end: int) -> bool:
    """Return whether the bytes of a file from `start` to its `end` are chunks of a wav, such as metadata."""
    while start < end:
        file.seek(start)
        kind, size = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
        if not all(32 <= byte < 127 for byte in kind):
            return False
        start += 8 + size + size % 2
    return start <= end + 1  # the last byte of padding may be missing


def _plain_samples(file: IO[bytes], start: int, n: int) -> np.ndarray:
    """Return n samples (n,) int16 of a 16 kHz mono 16-bit wav from the position `start` in bytes."""
    file.seek(start)
    return np.frombuffer(file.read(2 * n), "<i2")
