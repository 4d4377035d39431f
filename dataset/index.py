"""Index feature trees: find their speakers and utterances, and read the frames of each."""

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from configure import AUDIO_SUFFIXES
from dataset.features import Location, is_current, locate, read_frames
from dataset.table import load_table
from system import console
from system.console import UserError
from system.files import is_folder


class FeatureIndex:
    """The utterances of one or several feature trees, sorted by name.

    An utterance in several trees is read from the first of them; a warning states the number of such utterances.

    Attributes:
        speakers: (C,) names of the speakers, sorted.
        first, count: (C,) int64; speaker c has the rows first[c] .. first[c] + count[c] - 1.
        speaker: (U,) int64, speaker of each row.
    """

    def __init__(self, trees: list[Path]):
        """Load the trees that exist; UserError without feature files, and for one outside its speaker's folder."""
        present = [tree for tree in trees if is_folder(tree)]
        tables = [load_table(tree) for tree in present]
        if not any(len(table.name) for table in tables):
            places = " or ".join(str(tree) for tree in trees)
            raise UserError(f"no features in {places}; run feat_extract/feature_extraction.py")
        names, suffixes, locations = (
            np.concatenate([getattr(table, field) for table in tables]) for field in ("name", "suffix", "location")
        )
        of_tree = np.repeat(np.arange(len(tables), dtype=np.int8), [len(table.name) for table in tables])
        rows: np.ndarray | slice = slice(None)  # a table is sorted
        unused = np.zeros(0, np.int64)  # utterances that an earlier tree contains
        if len(tables) > 1:
            rows = np.unique(names, return_index=True)[1]  # the first of equal names, from the first tree
            unused = np.delete(np.arange(len(names)), rows)
        self._trees, self._tree = present, of_tree[rows]
        self._names, self._suffix, self._location = names[rows], suffixes[rows], locations[rows]
        self._checked = np.zeros(len(self._names), bool)  # rows whose file this process has compared with the table
        of_rows = np.array([name.split(b"/", 1)[0] for name in self._names.tolist()])
        speakers, self.first, self.speaker, self.count = np.unique(
            of_rows, return_index=True, return_inverse=True, return_counts=True
        )
        self.speakers = [os.fsdecode(speaker) for speaker in speakers]
        strays = np.flatnonzero((self._names == of_rows) & (self.count[self.speaker] > 1))  # they sort elsewhere
        if len(strays):
            path = self.path(strays[0])
            raise UserError(
                f"{path}: stored next to the folder of speaker {path.stem}; move this feature and its wav into the "
                "folder, or remove both"
            )
        self._unused = names[unused], of_tree[unused]
        if len(unused):
            self._warn_of_duplicates(locations[unused, 0])

    def __len__(self) -> int:
        return len(self._names)

    def _warn_of_duplicates(self, n_frames: np.ndarray) -> None:
        """Warn of the utterances in several trees; `n_frames` (n,) are the lengths of those that are not used."""
        names, of_tree = self._unused
        rows = np.searchsorted(self._names, names)
        kept, other = self._trees[self._tree[rows[0]]], self._trees[of_tree[0]]
        differing = np.count_nonzero(self._location[rows, 0] != n_frames)
        lengths = f"; {differing:,} have another length in the other tree" if differing else ""
        console.warn(
            f"{len(names):,} utterances are in several trees, the first {os.fsdecode(names[0])} in {kept} and {other}; "
            f"each is read from the first tree that contains it{lengths}"
        )

    def speakers_of(self, tree: Path) -> set[str]:
        """Return the names of the speakers with utterances in one of the trees; empty if that tree does not exist."""
        if tree not in self._trees:
            return set()
        number = self._trees.index(tree)
        names, of_tree = self._unused
        others = {os.fsdecode(name.split(b"/", 1)[0]) for name in names[of_tree == number].tolist()}
        return {self.speakers[speaker] for speaker in np.unique(self.speaker[self._tree == number])} | others

    def name(self, row: int) -> str:
        """Return <speaker>/<video>/<utterance> of a row."""
        return os.fsdecode(self._names[row])

    def path(self, row: int) -> Path:
        """Return the feature file of a row."""
        return self._trees[self._tree[row]] / os.fsdecode(self._names[row] + self._suffix[row])

    def n_frames(self, rows: np.ndarray) -> np.ndarray:
        """Return the lengths of rows (n,) in frames, int64 (n,); files that have changed are read again."""
        for row in np.unique(rows[~self._checked[rows]]):
            self._current_location(row)
        return self._location[rows, 0]

    def _current_location(self, row: int) -> Location:
        """Return the location of a row; the file is checked once in this process, and read if it has changed."""
        location = Location(*self._location[row].tolist())
        if not self._checked[row]:
            path = self.path(row)
            if not is_current(path, location):
                location = locate(path)
                self._location[row] = location
            self._checked[row] = True
        return location

    def rows(self, names: Collection[str]) -> np.ndarray:
        """Return the rows (n,) of utterance names; UserError naming the first unknown one.

        A name is <speaker>/<video>/<utterance>, with slashes or backslashes, with or without the suffix of a feature
        or an audio file. Other folders may precede it, as in an absolute path, the same number for all names.
        """
        unique = list(dict.fromkeys(names))
        rest = [name.replace("\\", "/") for name in unique]  # each round removes the first folder of each name
        rows = np.full(len(unique), -1)
        while (rows < 0).any() and any(rest):
            found = self._find(rest)
            missing = np.flatnonzero(found < 0)
            found[missing] = self._find([_without_suffix(rest[i]) for i in missing])
            rows = max(rows, found, key=lambda found: np.count_nonzero(found >= 0))
            rest = [name.partition("/")[2] for name in rest]
        if (rows < 0).any():
            first = unique[int(np.argmin(rows))]
            trees = " or ".join(str(tree) for tree in self._trees)
            raise UserError(
                f"{first}: no such utterance in {trees} ({(rows < 0).sum():,} of {len(unique):,} missing); "
                "extract its features, or choose the trial list of this data"
            )
        row_of = dict(zip(unique, rows.tolist(), strict=True))
        return np.array([row_of[name] for name in names], np.int64)

    def _find(self, names: list[str]) -> np.ndarray:
        """Return the rows (n,) of names; -1 for a name that is not in the index."""
        wanted = np.array([os.fsencode(name) for name in names], "S")
        rows = np.searchsorted(self._names, wanted).clip(max=len(self) - 1)
        return np.where(self._names[rows] == wanted, rows, -1)

    def utterance(self, row: int) -> np.ndarray:
        """Return all frames (T, 40) of a row."""
        location = self._current_location(row)
        return read_frames(self.path(row), location, 0, location.n_frames)

    def crop(self, row: int, start: int, length: int) -> np.ndarray:
        """Return `length` frames (length, 40) of a row from frame `start` on; a shorter utterance is repeated.

        UserError if the file has changed since this process first read its length or frames.
        """
        location = self._current_location(row)
        if start + length <= location.n_frames:
            return read_frames(self.path(row), location, start, start + length)
        return self.utterance(row)[(start + np.arange(length)) % location.n_frames]


def _without_suffix(name: str) -> str:
    """Return a name without the suffix of a feature or an audio file; other dots belong to the name."""
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in (".pkl", *AUDIO_SUFFIXES) else name


def n_starts(n_frames: np.ndarray | int, length: np.ndarray | int) -> np.ndarray | int:
    """Return the number of possible starts of a window of `length` frames, after shorter utterances are repeated."""
    repeats = np.where(n_frames > length, 1, length // n_frames + 1)
    return n_frames * repeats - length + 1
