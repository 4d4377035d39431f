"""Convert VoxCeleb2's m4a files to 16 kHz mono 16-bit wav."""

import csv
import functools
import os
from collections.abc import Iterator
from pathlib import Path

from configure import SAMPLE_RATE, TREES
from corpora.old_features import and_feature, remove_feature, report_removed
from feat_extract.audio import read_and_warn, read_recording, write_wav
from feat_extract.recording import RecordingError
from system import console
from system.console import UserError
from system.files import is_folder, remove_unfinished_below, replacing_table, walk
from system.workers import unordered_map

ERRORS_NAME = "convert_errors.csv"
REMOVED_TOGETHER = 1000  # m4a files; the disk is flushed before each removal, which takes up to seconds
Failure = tuple[str, str]  # the path of a recording that could not be converted, and why


def convert_trees(root: Path, delete: bool, workers: int | None) -> list[Failure]:
    """Convert each m4a of the wav trees below `root` that has no wav; with `delete`, remove the m4a afterwards.

    Returns the files that could not be decoded; the others are converted.
    """
    trees = [root / tree.wav for tree in TREES.values() if is_folder(root / tree.wav)]
    if not trees:
        raise UserError(f"{root}: contains no {' or '.join(t.wav for t in TREES.values())}; run --extract first")
    for tree in trees:
        remove_unfinished_below(tree)
    total = sum(1 for _ in pending(trees, delete))
    work = unordered_map(functools.partial(_convert, root=root, delete=delete), pending(trees, delete), workers)
    failures, n_converted, n_removed, n_features = [], 0, 0, 0
    removable: list[Path] = []
    for converted, m4a, replaced, failure in console.progress(work, total=total, unit="file", desc="convert"):
        n_converted += converted
        n_features += replaced
        if m4a:
            removable.append(m4a)
        if failure:
            failures.append(failure)
        if len(removable) == REMOVED_TOGETHER:
            n_removed += _remove(removable)
    n_removed += _remove(removable)
    print(f"{n_converted:,} m4a files converted" + f", {n_removed:,} removed" * delete)
    report_removed(n_features)
    return failures


def _remove(files: list[Path]) -> int:
    """Remove the files and empty the list; return their number. First, all wavs are flushed to the disk."""
    if files:
        os.sync()  # the recordings would be lost if the power failed now
    for file in files:
        file.unlink()
    n_removed = len(files)
    files.clear()
    return n_removed


def pending(trees: list[Path], delete: bool) -> Iterator[tuple[Path, Path]]:
    """Yield each m4a that has no wav, and the path of its wav; with `delete` also those that have one."""
    for tree in trees:
        for folder in walk(tree):
            wavs = dict(folder.having(".wav"))
            for name, suffix in folder.having(".m4a"):
                if delete or name not in wavs:
                    yield tree / f"{name}{suffix}", tree / f"{name}{wavs.get(name, '.wav')}"


def list_failures(root: Path, failures: list[Failure]) -> list[str]:
    """Write convert_errors.csv, or remove it if there are no failures; return a list of error messages, at most one."""
    table = root / ERRORS_NAME
    if not failures:
        table.unlink(missing_ok=True)
        return []
    with replacing_table(table) as file:
        csv.writer(file).writerows([("file", "reason"), *sorted(failures)])
    return [f"recordings not converted: {len(failures):,}; {table} lists the reasons"]


def _convert(pair: tuple[Path, Path], root: Path, delete: bool) -> tuple[bool, Path | None, bool, Failure | None]:
    """Write the wav of an m4a unless it exists.

    Return whether it was written, the m4a if it may be removed, whether the feature of an earlier wav was removed, and
    a failure.

    With `delete` the m4a may be removed if its wav has the same length and nothing is remarked about the m4a, such as
    missing seconds. A wav of another length is a failure.
    """
    m4a, wav = pair
    exists = wav.exists()
    if exists and not delete:
        return False, None, False, None
    try:
        recording = read_and_warn(m4a)
        n_samples = len(read_recording(wav).samples) if exists else len(recording.samples)
    except RecordingError as error:
        return False, None, False, (str(m4a), str(error).removeprefix(f"{m4a}: "))
    if n_samples != len(recording.samples):
        seconds = len(recording.samples) / SAMPLE_RATE, n_samples / SAMPLE_RATE
        lengths = "{:.2f} s long, its wav {:.2f} s; remove the m4a if it is wrong".format(*seconds)
        return False, None, False, (str(m4a), f"{lengths}, otherwise the wav{and_feature(root, wav)}")
    replaced = not exists and remove_feature(root, wav)
    if not exists:
        write_wav(wav, recording.samples)
    return not exists, m4a if delete and not recording.remarks else None, replaced, None
