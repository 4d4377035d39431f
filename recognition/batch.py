"""Many recordings: which ones the user means, and their embeddings, group by group, so that the memory is bounded."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from feat_extract.recording import SUFFIXES, NotAudioError
from recognition.recognizer import Recognizer
from recognition.utterance import STANDARD_INPUT, Utterance
from system.console import UserError
from system.files import files_below, read_lines, replacing, replacing_table

LIST_MARK = "@"  # before the name of a text list
GROUP_FRAMES = 360_000  # one hour, 58 MB of features: utterances are embedded as soon as there are so many


class Candidate(NamedTuple):
    """A file that may be a recording."""

    file: str
    certain: bool  # False for one in a folder whose suffix is not a recording's: it may be anything


class Embedded(NamedTuple):
    """The embedding of a recording."""

    file: str
    embedding: np.ndarray  # (256,) float32 of length one
    seconds: float  # of speech
    has_voice: bool

    def as_json(self) -> dict[str, Any]:
        """Return what --json prints of it."""
        return {"file": self.file, "seconds": self.seconds, "voice": self.has_voice}


class Failed(NamedTuple):
    """A file that has no embedding."""

    file: str
    error: str  # why, with the name of the file
    is_other: bool  # it is in a folder and rather another kind of file than a damaged recording

    def as_json(self) -> dict[str, Any]:
        """Return what --json prints of it."""
        return {"file": self.file, "error": self.error}


def find_candidates(names: Iterable[str]) -> list[Candidate]:
    """Return the files that the user named: a file, all files of a folder, or those in the lines of a text list, @LIST.

    Folders are searched with the folders in them; hidden files are excluded. The lines of a list name files and
    folders, "-" is standard input. UserError names a list that cannot be read, and a list or folder without files.
    """
    return [candidate for name in names for path in _listed(name) for candidate in _found(path)]


def _listed(name: str) -> list[str]:
    if not name.startswith(LIST_MARK):
        return [name]
    path = Path(name.removeprefix(LIST_MARK))
    lines = [line.rstrip("\r\n") for line in read_lines(path, "no such list of recordings")]
    if not any(lines):
        raise UserError(f"{path}: names no recordings; a list has one path a line")
    return [line for line in lines if line]


def _found(path: str) -> list[Candidate]:
    if path == STANDARD_INPUT or not os.path.isdir(path):
        return [Candidate(path, certain=True)]
    files = sorted(files_below(Path(path)))
    if not files:
        raise UserError(f"{path}: a folder without files")
    return [Candidate(str(file), file.suffix.lower() in SUFFIXES) for file in files]


def embed_each(
    candidates: Iterable[Candidate], read: Callable[[str], Utterance], recognizer: Recognizer
) -> Iterator[Embedded | Failed]:
    """Yield for each candidate, in their order, its embedding or why it has none.

    `read` reads a file; its UserError or OSError is what failed. About an hour of speech is in memory at a time, and
    at least one recording.
    """
    group: list[Utterance | Failed] = []
    n_frames = 0
    for candidate in candidates:
        try:
            utterance = read(candidate.file)
        except (UserError, OSError) as error:
            is_other = isinstance(error, NotAudioError) and not candidate.certain
            reason = f"{candidate.file}: {error.strerror}" if isinstance(error, OSError) else str(error)
            group.append(Failed(candidate.file, reason, is_other))
        else:
            group.append(utterance)
            n_frames += len(utterance.features)
        if n_frames >= GROUP_FRAMES:
            yield from _embed_group(group, recognizer)
            group, n_frames = [], 0
    yield from _embed_group(group, recognizer)


def columns(recordings: Sequence[Embedded]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the embeddings (n, 256), files (n,) and seconds of speech (n,) of n recordings, one or more."""
    embeddings = np.stack([recording.embedding for recording in recordings])
    files = np.array([recording.file for recording in recordings])
    return embeddings, files, np.array([recording.seconds for recording in recordings])


def save_embeddings(path: Path, recordings: Sequence[Embedded]) -> None:
    """Write arrays `files` (n,) and `embeddings` (n, 256) of n recordings (.npz), or a row for each of them (.csv)."""
    embeddings, files, _ = columns(recordings)
    if path.suffix.lower() == ".npz":
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, files=files, embeddings=embeddings)
    else:
        with replacing_table(path) as table:
            rows = ([name, *map(str, e)] for name, e in zip(files, embeddings, strict=True))
            csv.writer(table).writerows([["file", *(f"e{i}" for i in range(embeddings.shape[1]))], *rows])


def _embed_group(group: list[Utterance | Failed], recognizer: Recognizer) -> Iterator[Embedded | Failed]:
    embeddings = iter(recognizer.embed_utterances([entry for entry in group if isinstance(entry, Utterance)]))
    for entry in group:
        if isinstance(entry, Failed):
            yield entry
        else:
            yield Embedded(entry.name, next(embeddings), entry.speech, entry.has_voice)
