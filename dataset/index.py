"""The index of feature trees: which speakers and utterances there are, and where their frames lie.

Reading a million small files to learn their lengths takes minutes, so a tree's table is kept beside it in
<tree>.index.npz (arrays only, no pickle) and refreshed whenever one of the tree's folders has changed. A file that is
replaced leaves its folder's time as it was: its own size and time are compared before its length is first used, and
whenever it is read.
"""

import os
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset.features import Location, is_current, locate, read_frames
from system import console, ranks
from system.console import UserError
from system.files import is_folder, replacing, walk

RACY_NS = 2 * 10**9  # what changed this shortly before it was read may change again without a new time stamp
READERS = 16  # threads that read the ends of files: most of their time goes into waiting for the disk or the network
CHUNK = 256  # files a thread reads at a time


class Table(NamedTuple):
    """One tree on disk, its utterances in the order of their names."""

    name: np.ndarray  # (U,) bytes, <speaker>/<video>/<utterance> without suffix
    suffix: np.ndarray  # (U,) bytes, .pkl in the case that the file has
    location: np.ndarray  # (U, 5) int64, rows of dataset.features.Location; changed is 0 where not to be relied on
    folder: np.ndarray  # (F,) bytes, every folder of the tree
    changed: np.ndarray  # (F,) int64, its modification time in ns when listed; 0: not to be relied on


class FeatureIndex:
    """The utterances of one or several feature trees, those of a speaker side by side.

    An utterance that several trees contain counts once, as in the first of them, and a warning says how many these are.

    Attributes:
        speakers: (C,) names, sorted.
        first, count: (C,) int64, the rows of speaker c are first[c] .. first[c] + count[c] - 1.
        speaker: (U,) int64, the speaker of each row.
    """

    def __init__(self, trees: list[Path]):
        """Load the trees that exist; UserError if none holds a feature file."""
        present = [tree for tree in trees if is_folder(tree)]
        with ranks.main_process_first():  # the others find its table
            tables = [load_table(tree) for tree in present]
        if not any(len(table.name) for table in tables):
            places = " or ".join(str(tree) for tree in trees)
            raise UserError(f"no features in {places}; run feat_extract/feature_extraction.py")
        names, suffixes, locations = (
            np.concatenate([getattr(table, field) for table in tables]) for field in ("name", "suffix", "location")
        )
        of_tree = np.concatenate([np.full(len(t.name), i, np.int8) for i, t in enumerate(tables)])
        order: np.ndarray | slice = slice(None)  # a table is in order
        doubles = np.zeros(0, np.int64)
        if len(tables) > 1:
            sorted_all = np.argsort(names, kind="stable")
            again = np.append(False, names[sorted_all[1:]] == names[sorted_all[:-1]])
            order, doubles = sorted_all[~again], sorted_all[again]
        self._trees = present
        self._names, self._suffix, self._location = names[order], suffixes[order], locations[order]
        self._tree = of_tree[order]
        self._doubles = names[doubles], of_tree[doubles]  # utterances that an earlier tree contains, too
        self._checked = np.zeros(len(self._names), bool)  # rows whose file has been compared with its location
        of_rows = np.array([name.split(b"/", 1)[0] for name in self._names.tolist()])
        speakers, self.first, self.speaker, self.count = np.unique(
            of_rows, return_index=True, return_inverse=True, return_counts=True
        )
        self.speakers = [os.fsdecode(speaker) for speaker in speakers]
        if len(doubles):
            self._warn_of_doubles(locations[doubles, 0])

    def __len__(self) -> int:
        return len(self._names)

    def _warn_of_doubles(self, n_frames: np.ndarray) -> None:
        """Warn of the utterances in several trees; `n_frames` (n,) are their lengths in the trees that do not count."""
        names, of_tree = self._doubles
        rows = np.searchsorted(self._names, names)
        kept, other = self._trees[self._tree[rows[0]]], self._trees[of_tree[0]]
        differing = np.count_nonzero(self._location[rows, 0] != n_frames)
        lengths = f"; {differing:,} have another length in the latter" if differing else ""
        console.warn(
            f"{len(names):,} utterances are in several trees, the first {os.fsdecode(names[0])} in {kept} and {other}; "
            f"each counts once, as in the former{lengths}"
        )

    def speakers_of(self, tree: Path) -> set[str]:
        """Return the names of the speakers with utterances in one of the trees; none if it is not there."""
        if tree not in self._trees:
            return set()
        at = self._trees.index(tree)
        names, of_tree = self._doubles
        doubled = {os.fsdecode(name.split(b"/", 1)[0]) for name in names[of_tree == at].tolist()}
        return {self.speakers[speaker] for speaker in np.unique(self.speaker[self._tree == at])} | doubled

    def name(self, row: int) -> str:
        """Return <speaker>/<video>/<utterance> of a row."""
        return os.fsdecode(self._names[row])

    def path(self, row: int) -> Path:
        """Return the feature file of a row."""
        return self._trees[self._tree[row]] / os.fsdecode(self._names[row] + self._suffix[row])

    def n_frames(self, rows: np.ndarray) -> np.ndarray:
        """Return the lengths (n,) int64 of rows (n,), those of files replaced since the tree was indexed found anew."""
        for row in np.unique(rows[~self._checked[rows]]):
            self._where(row)
        return self._location[rows, 0]

    def _where(self, row: int) -> Location:
        """Return where a row's frames are, compared with its file once in this process."""
        where = Location(*self._location[row].tolist())
        if not self._checked[row]:
            path = self.path(row)
            if not is_current(path, where):
                where = locate(path)
                self._location[row] = where
            self._checked[row] = True
        return where

    def rows(self, names: Collection[str]) -> np.ndarray:
        """Return the rows (n,) of utterance names; UserError naming the first that is missing.

        A name is <speaker>/<video>/<utterance>, with or without a suffix, with slashes or backslashes. Other folders
        may stand before it, as in an absolute path.
        """
        unique = list(dict.fromkeys(names))
        rest = [name.replace("\\", "/") for name in unique]  # what is left of each, folder by folder
        rows = np.full(len(unique), -1)
        while any(rest[at] for at in np.flatnonzero(rows < 0)):
            for without_suffix in (False, True):
                lacking = np.flatnonzero(rows < 0)
                wanted = [rest[at].rpartition(".")[0] if without_suffix else rest[at] for at in lacking]
                rows[lacking] = self._find(wanted)
            rest = [name.partition("/")[2] for name in rest]
        if (rows < 0).any():
            first = unique[int(np.argmin(rows))]
            trees = " or ".join(str(tree) for tree in self._trees)
            raise UserError(
                f"{first}: no such utterance in {trees} ({(rows < 0).sum():,} of {len(unique):,} missing); "
                "extract its features, or is the trial list of other data?"
            )
        row_of = dict(zip(unique, rows.tolist(), strict=True))
        return np.array([row_of[name] for name in names], np.int64)

    def _find(self, names: list[str]) -> np.ndarray:
        """Return the rows (n,) of names as they stand in the index, -1 for those that do not."""
        wanted = np.array([os.fsencode(name) for name in names], "S")
        rows = np.searchsorted(self._names, wanted).clip(max=len(self) - 1)
        return np.where(self._names[rows] == wanted, rows, -1)

    def utterance(self, row: int) -> np.ndarray:
        """Return all frames (T, 40) of a row."""
        where = self._where(row)
        return read_frames(self.path(row), where, 0, where.n_frames)

    def crop(self, row: int, start: int, length: int) -> np.ndarray:
        """Return `length` frames (length, 40) of a row from `start` on, the utterance repeated end to end.

        UserError if the file has changed since this process first asked for its length or frames.
        """
        where = self._where(row)
        if start + length <= where.n_frames:
            return read_frames(self.path(row), where, start, start + length)
        return self.utterance(row)[(start + np.arange(length)) % where.n_frames]


def n_starts(n_frames: np.ndarray | int, length: np.ndarray | int) -> np.ndarray | int:
    """Return at how many frames a window of `length` can start; utterances that are not longer are first repeated."""
    repeats = np.where(n_frames > length, 1, length // n_frames + 1)
    return n_frames * repeats - length + 1


def load_table(tree: Path) -> Table:
    """Return the table of a tree: the stored one if no folder has changed since, else a new one (and store it)."""
    stored = tree.with_name(f"{tree.name}.index.npz")
    old = _read_table(stored)
    if old is not None and _unchanged(tree, old).all():
        return old
    table = _scan(tree, old)
    try:
        with replacing(stored) as temporary, open(temporary, "wb") as file:
            np.savez(file, **table._asdict())
    except OSError as error:  # somebody else's tree, read-only: works, but the next start scans again
        console.warn(f"{stored}: the index could not be kept ({error.strerror})")
    return table


def _read_table(stored: Path) -> Table | None:
    """Return the table of a file, None unless `_scan` could have made it."""
    try:
        with np.load(stored, allow_pickle=False) as arrays:
            table = Table(*(arrays[field] for field in Table._fields))
    except Exception:  # missing, damaged or hostile, which NumPy and zipfile tell in many ways: it is made anew
        return None
    u, f, columns = table.name.size, table.folder.size, [(column.dtype.kind, column.shape) for column in table]
    if columns != [("S", (u,)), ("S", (u,)), ("i", (u, len(Location._fields))), ("S", (f,)), ("i", (f,))]:
        return None
    n_frames, offset, itemsize, _, changed = table.location.T
    sound = (
        (changed.dtype == np.int64)
        and (n_frames > 0).all()
        and (offset >= -1).all()
        and np.isin(itemsize, (0, 4, 8)).all()
        and (table.name[:-1] < table.name[1:]).all()
    )
    return table if sound else None


def _unchanged(tree: Path, table: Table) -> np.ndarray:
    """Return for every folder of a table (F,) whether its list of files is still the one indexed."""

    def modified(folder: bytes) -> int:
        try:
            return os.stat(os.path.join(os.fsencode(tree), folder)).st_mtime_ns
        except OSError:  # gone, or a file now; if it cannot be read, the walk will tell
            return -1

    now = np.array([modified(folder) for folder in table.folder.tolist()], np.int64)
    return now == table.changed


def _scan(tree: Path, old: Table | None) -> Table:
    """Walk a tree; locations of utterances in folders that are as they were come from the old table."""
    found, folders = [], {}
    for folder in walk(tree):
        folders[os.fsencode(folder.name)] = _settled(folder.changed)
        found += [(os.fsencode(name), os.fsencode(suffix)) for name, suffix in folder.having(".pkl")]
    found.sort()
    names, suffixes = (np.array([file[part] for file in found], bytes) for part in (0, 1))
    if len(twice := names[1:][names[1:] == names[:-1]]):
        raise UserError(f"{tree / os.fsdecode(twice[0])}: two files of one name, .pkl and .PKL; remove one of them")
    location = np.zeros((len(names), len(Location._fields)), np.int64)
    if old is not None and len(old.name):
        settled = set(old.folder[_unchanged(tree, old)].tolist())
        at = np.searchsorted(old.name, names).clip(max=len(old.name) - 1)
        kept = (old.name[at] == names) & [os.path.dirname(name) in settled for name in names.tolist()]
        location[kept] = old.location[at[kept]]
    new = np.flatnonzero(location[:, 0] == 0)
    paths = [tree / os.fsdecode(names[row] + suffixes[row]) for row in new]
    located = console.progress(_locate(paths), total=len(paths), unit="file", desc=f"indexing {tree.name}")
    for row, where in zip(new, located, strict=True):
        location[row] = where._replace(changed=_settled(where.changed))
    return Table(names, suffixes, location, np.array(list(folders)), np.array(list(folders.values()), np.int64))


def _settled(changed: int) -> int:
    """Return a modification time in ns, 0 if it is so recent that it is not to be relied on."""
    return changed if time.time_ns() - changed > RACY_NS else 0


def _locate(paths: list[Path]) -> Iterator[Location]:
    """Yield where the frames of feature files are, in their order."""
    chunks = [paths[at : at + CHUNK] for at in range(0, len(paths), CHUNK)]
    readers = ThreadPoolExecutor(READERS)
    try:
        for locations in readers.map(lambda chunk: [locate(path) for path in chunk], chunks):
            yield from locations
    finally:
        readers.shutdown(cancel_futures=True)
