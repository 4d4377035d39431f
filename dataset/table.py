"""Make, store and update the table of a feature tree: its utterances and the location of their frames.

It takes minutes to read the lengths of a million files. Therefore the table is stored next to the tree, in
<tree>.index.npz (arrays, no pickles), and updated if the modification time of one of its folders has changed. A file
that is replaced does not change the time of its folder. FeatureIndex therefore compares the size and modification time
of a file with the table before it uses the location.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset.features import Location, locate
from system import console
from system.console import UserError
from system.files import replacing, walk

RACY_NS = 2 * 10**9  # two changes within this time may give the same time stamp
READERS = 16  # threads; most of the time they wait for the disk or the network
CHUNK = 256  # files per task of a thread


class Table(NamedTuple):
    """The U utterances of a tree, sorted by name, and its F folders."""

    name: np.ndarray  # (U,) bytes, <speaker>/<video>/<utterance> without suffix
    suffix: np.ndarray  # (U,) bytes, .pkl in upper or lower case
    location: np.ndarray  # (U, 5) int64, rows of dataset.features.Location; a time that is not reliable is 0
    folder: np.ndarray  # (F,) bytes, names of all folders
    changed: np.ndarray  # (F,) int64, their modification times in ns before they were listed; 0 if not reliable


def load_table(tree: Path) -> Table:
    """Return the table of a tree; make and store a new one if a folder has changed since it was stored."""
    stored = tree.with_name(f"{tree.name}.index.npz")
    old = _read_table(stored)
    if old is not None and _unchanged(tree, old).all():
        return old
    table = _scan(tree, old)
    try:
        with replacing(stored) as temporary, open(temporary, "wb") as file:
            np.savez(file, **table._asdict())
    except OSError as error:  # in a read-only tree; every run makes the table again
        console.warn(f"{stored}: the index could not be stored ({error.strerror})")
    return table


def _read_table(stored: Path) -> Table | None:
    """Return a stored table; None if the file does not exist or does not contain a valid table."""
    try:
        with np.load(stored, allow_pickle=False) as arrays:
            table = Table(*(arrays[field] for field in Table._fields))
    except Exception:  # NumPy and zipfile raise many kinds for a missing, damaged or hostile file
        return None
    u, f, columns = table.name.size, table.folder.size, [(column.dtype.kind, column.shape) for column in table]
    if columns != [("S", (u,)), ("S", (u,)), ("i", (u, len(Location._fields))), ("S", (f,)), ("i", (f,))]:
        return None
    n_frames, offset, itemsize, _, changed = table.location.T
    valid = (
        (changed.dtype == np.int64)
        and (n_frames > 0).all()
        and (offset >= -1).all()
        and np.isin(itemsize, (0, 4, 8)).all()
        and (table.name[:-1] < table.name[1:]).all()
    )
    return table if valid else None


def _unchanged(tree: Path, table: Table) -> np.ndarray:
    """Return for each folder (F,) whether it still has the modification time of the table."""

    def modified(folder: bytes) -> int:
        try:
            return os.stat(os.path.join(os.fsencode(tree), folder)).st_mtime_ns
        except OSError:  # removed, or replaced by a file; for a folder that cannot be read, walk() raises
            return -1

    now = np.array([modified(folder) for folder in table.folder.tolist()], np.int64)
    return now == table.changed


def _scan(tree: Path, old: Table | None) -> Table:
    """Return a new table; the locations of utterances in unchanged folders are copied from the old one."""
    found, folders = [], {}
    for folder in walk(tree):
        folders[os.fsencode(folder.name)] = _settled(folder.changed)
        found += [(os.fsencode(name), os.fsencode(suffix)) for name, suffix in folder.having(".pkl")]
    found.sort()
    names, suffixes = (np.array([file[part] for file in found], bytes) for part in (0, 1))
    if len(twice := names[1:][names[1:] == names[:-1]]):
        raise UserError(f"{tree / os.fsdecode(twice[0])}: two files with this name, .pkl and .PKL; remove one of them")
    location = np.zeros((len(names), len(Location._fields)), np.int64)
    if old is not None and len(old.name):
        settled = set(old.folder[_unchanged(tree, old)].tolist())
        row = np.searchsorted(old.name, names).clip(max=len(old.name) - 1)
        kept = (old.name[row] == names) & [os.path.dirname(name) in settled for name in names.tolist()]
        location[kept] = old.location[row[kept]]
    new = np.flatnonzero(location[:, 0] == 0)
    paths = [tree / os.fsdecode(names[row] + suffixes[row]) for row in new]
    located = console.progress(_locate(paths), total=len(paths), unit="file", desc=f"indexing {tree.name}")
    for i, where in zip(new, located, strict=True):
        location[i] = where._replace(changed=_settled(where.changed))
    return Table(names, suffixes, location, np.array(list(folders)), np.array(list(folders.values()), np.int64))


def _settled(changed: int) -> int:
    """Return a modification time in ns; 0 if it is so recent that a further change may not alter it."""
    return changed if time.time_ns() - changed > RACY_NS else 0


def _locate(paths: list[Path]) -> Iterator[Location]:
    """Yield the locations of the frames of feature files, in the order of the files."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    readers = ThreadPoolExecutor(READERS)
    try:
        for locations in readers.map(lambda chunk: [locate(path) for path in chunk], chunks):
            yield from locations
    finally:
        readers.shutdown(cancel_futures=True)
