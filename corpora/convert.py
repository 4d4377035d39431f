"""Any audio file to what the pipeline reads, 16 kHz mono 16-bit wav, with FFmpeg's libraries inside the process."""
import csv
import functools
import os
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import av
import numpy as np

import console
from configure import SAMPLE_RATE, TREES
from console import UserError
from files import remove_unfinished, replacing
from parallel import unordered_map

ERRORS_NAME = "convert_errors.csv"


class DecodeError(Exception):
    """The reason why a recording cannot be decoded; the caller knows its name."""


class Failure(NamedTuple):
    """A recording that could not be converted, and why."""

    path: str
    reason: str


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
    trees = [root / tree.wav for tree in TREES.values() if (root / tree.wav).is_dir()]
    if not trees:
        raise UserError(f"{root}: holds no {' or '.join(t.wav for t in TREES.values())}; --extract makes them")
    for tree in trees:
        remove_unfinished(tree)
    total = sum(1 for _ in pending(trees, delete))
    convert, failures = functools.partial(_convert_beside, delete=delete), []
    with console.progress(total=total, unit="file", desc="convert") as bar:
        for failure in unordered_map(convert, pending(trees, delete), workers):
            bar.update()
            if failure:
                failures.append(failure)
    print(f"{total - len(failures):,} m4a files converted")
    return list_failures(root, failures)


def pending(trees: list[Path], delete: bool) -> Iterator[Path]:
    """Yield the m4a files without a wav beside them; with `delete` those with one too, which only need removing."""
    for tree in trees:
        for folder, subfolders, names in os.walk(tree):
            subfolders.sort()
            present = set(names)
            for name in sorted(names):
                stem, suffix = os.path.splitext(name)
                if suffix == ".m4a" and (delete or f"{stem}.wav" not in present):
                    yield Path(folder, name)


def list_failures(root: Path, failures: list[Failure]) -> list[str]:
    """Write convert_errors.csv, or remove an old one if there are none; return what to tell about them, if anything."""
    table = root / ERRORS_NAME
    if not failures:
        table.unlink(missing_ok=True)
        return []
    with replacing(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "reason"), *sorted(failures)])
    return [f"{len(failures):,} recordings could not be decoded; {table} says which and why"]


def _convert_beside(m4a: Path, delete: bool) -> Failure | None:
    wav = m4a.with_suffix(".wav")
    try:
        if not wav.exists():
            write_wav(wav, decode(m4a))
    except DecodeError as error:
        return Failure(str(m4a), str(error))
    if delete:
        m4a.unlink()
    return None
