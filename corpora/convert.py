"""Any audio file to what the pipeline reads, 16 kHz mono 16-bit wav, with FFmpeg's libraries inside the process."""

import csv
import functools
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import av
import numpy as np
import soundfile

from configure import SAMPLE_RATE, TREES
from system import console
from system.console import UserError
from system.files import is_folder, remove_unfinished_below, replacing, walk
from system.workers import unordered_map

ERRORS_NAME = "convert_errors.csv"


class DecodeError(Exception):
    """The reason why a recording cannot be decoded; the caller knows its name."""


class Failure(NamedTuple):
    """A recording that could not be converted, and why."""

    path: str
    reason: str


class Pair(NamedTuple):
    """A recording and its wav, which may not be there yet."""

    m4a: Path
    wav: Path


class Converted(NamedTuple):
    """What was done about a recording."""

    converted: bool = False
    removed: bool = False  # the m4a
    failure: Failure | None = None


def decode(source: Path | BinaryIO) -> np.ndarray:
    """Return the first audio stream of any file that FFmpeg reads, as 16 kHz mono samples (S,) int16, S > 0.

    The samples are those of `ffmpeg -i SOURCE -ac 1 -ar 16000`. Raises DecodeError.
    """
    try:
        with av.open(source, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise DecodeError("holds no audio")
            resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
            pieces = [out.to_ndarray()[0] for frame in container.decode(audio=0) for out in resampler.resample(frame)]
            if pieces:
                pieces += [out.to_ndarray()[0] for out in resampler.resample(None)]
    except av.FFmpegError as error:
        raise DecodeError(error.strerror) from None
    except ValueError as error:  # the resampler's, when rate or channels change within the file
        raise DecodeError(str(error)) from None
    if not sum(map(len, pieces)):
        raise DecodeError("holds no samples")
    return np.concatenate(pieces)


def write_wav(path: Path, samples: np.ndarray) -> None:
    """Write samples (S,) int16 as a 16 kHz mono wav, whole or not at all."""
    with replacing(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.astype("<i2").tobytes())


def convert_trees(root: Path, delete: bool, workers: int | None) -> list[str]:
    """Write a wav beside every m4a of the wav trees below `root` that has none; with `delete`, remove the m4a then.

    What cannot be decoded is listed in convert_errors.csv under `root` and the rest goes on; returns what to tell
    the user about that at the end, if anything.
    """
    trees = [root / tree.wav for tree in TREES.values() if is_folder(root / tree.wav)]
    if not trees:
        raise UserError(f"{root}: holds no {' or '.join(t.wav for t in TREES.values())}; --extract makes them")
    for tree in trees:
        remove_unfinished_below(tree)
    total = sum(1 for _ in pending(trees, delete))
    convert = functools.partial(_convert_beside, delete=delete)
    failures, n_converted, n_removed = [], 0, 0
    with console.progress(total=total, unit="file", desc="convert") as bar:
        for done in unordered_map(convert, pending(trees, delete), workers):
            bar.update()
            n_converted += done.converted
            n_removed += done.removed
            if done.failure:
                failures.append(done.failure)
    print(f"{n_converted:,} m4a files converted" + f", {n_removed:,} removed" * delete)
    return list_failures(root, failures)


def pending(trees: list[Path], delete: bool) -> Iterator[Pair]:
    """Yield the m4a files without a wav beside them; with `delete` those with one too, which is then checked."""
    for tree in trees:
        for folder in walk(tree):
            wavs = dict(folder.having(".wav"))
            for name, suffix in folder.having(".m4a"):
                if delete or name not in wavs:
                    yield Pair(tree / f"{name}{suffix}", tree / f"{name}{wavs.get(name, '.wav')}")


def list_failures(root: Path, failures: list[Failure]) -> list[str]:
    """Write convert_errors.csv, or remove an old one if there are none; return what to tell about them, if anything."""
    table = root / ERRORS_NAME
    if not failures:
        table.unlink(missing_ok=True)
        return []
    with replacing(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "reason"), *sorted(failures)])
    return [f"{len(failures):,} recordings could not be decoded; {table} says which and why"]


def _convert_beside(pair: Pair, delete: bool) -> Converted:
    """Make the wav unless there is one; with `delete` one that is not as long as the m4a is made anew first."""
    m4a, wav = pair
    if wav.exists() and not delete:
        return Converted()
    try:
        samples = decode(m4a)
    except DecodeError as error:
        return Converted(failure=Failure(str(m4a), str(error)))
    whole = wav.exists() and _length(wav) == len(samples)
    if not whole:
        write_wav(wav, samples)
    if delete:
        m4a.unlink()
    return Converted(not whole, delete)


def _length(wav: Path) -> int:
    """Return how many samples a wav really holds, as many as they would be at 16 kHz; 0 if it cannot be read."""
    try:
        with open(wav, "rb") as file:  # soundfile takes no name that is not UTF-8
            header = soundfile.info(file)
    except soundfile.SoundFileError:
        return 0
    return round(header.frames * SAMPLE_RATE / header.samplerate)
