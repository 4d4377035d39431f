"""Many recordings: find the files that the user named, and embed them in groups, so that memory use is bounded."""

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

LIST_MARK = "@"  # precedes the name of a text list
GROUP_FRAMES = 360_000  # one hour, 58 MB of features: a group of this size is embedded before more is read


class Candidate(NamedTuple):
    """A file that may be a recording."""

    file: str
    certain: bool  # False in a folder, without the suffix of a recording: it may be any kind of file


class EmbeddedRecording(NamedTuple):
    """The embedding of a recording."""

    file: str
    embedding: np.ndarray  # (256,) float32, of unit length
    seconds: float  # of speech
    has_voice: bool | None = None  # None in the files of enrolled speakers, which do not store it

    def as_json(self) -> dict[str, Any]:
        """Return what --json prints of a recording."""
        return {"file": self.file, "seconds": self.seconds, "voice": self.has_voice}


class FailedRecording(NamedTuple):
    """A file that has no embedding."""

    file: str
    error: str  # begins with the name of the file
    is_other: bool  # a file in a folder that is no recording, rather than a damaged one

    def as_json(self) -> dict[str, Any]:
        """Return what --json prints of the file."""
        return {"file": self.file, "error": self.error}


def find_candidates(names: Iterable[str]) -> list[Candidate]:
    """Return the files that the user named: a file, all files of a folder, or the lines of a text list, @LIST.

    Folders are searched recursively without hidden files. The lines of a list name files and folders; "-" is standard
    input. UserError names a list that cannot be read, and a list or folder without files.
    """
    found: list[Candidate] = []
    for path in (path for name in names for path in _lines_of(name)):
        if path == STANDARD_INPUT or not os.path.isdir(path):
            found.append(Candidate(path, certain=True))
        elif files := sorted(files_below(Path(path))):
            found += [Candidate(str(file), file.suffix.lower() in SUFFIXES) for file in files]
        else:
            raise UserError(f"{path}: a folder without files")
    return found


def _lines_of(name: str) -> list[str]:
    """Return the lines of a text list, @LIST; of another name, that name."""
    if not name.startswith(LIST_MARK):
        return [name]
    path = Path(name.removeprefix(LIST_MARK))
    lines = [line for line in (line.rstrip("\r\n") for line in read_lines(path, "no such list of recordings")) if line]
    if not lines:
        raise UserError(f"{path}: names no recordings; a list has one path per line")
    return lines


def embed_each(
    candidates: Iterable[Candidate], read: Callable[[str], Utterance], recognizer: Recognizer
) -> Iterator[EmbeddedRecording | FailedRecording]:
    """Yield for each candidate, in the same order, its embedding or the error.

    `read` reads a file; its UserError or OSError makes the recording a failed one. About an hour of speech is in memory
    at a time, and at least one recording.
    """
    group: list[Utterance | FailedRecording] = []
    n_frames = 0
    for candidate in candidates:
        try:
            utterance = read(candidate.file)
        except (UserError, OSError) as error:
            is_other = isinstance(error, NotAudioError) and not candidate.certain
            reason = f"{candidate.file}: {error.strerror}" if isinstance(error, OSError) else str(error)
            group.append(FailedRecording(candidate.file, reason, is_other))
        else:
            group.append(utterance)
            n_frames += len(utterance.features)
        if n_frames >= GROUP_FRAMES:
            yield from _embed_group(group, recognizer)
            group, n_frames = [], 0
    yield from _embed_group(group, recognizer)


def _embed_group(
    group: list[Utterance | FailedRecording], recognizer: Recognizer
) -> Iterator[EmbeddedRecording | FailedRecording]:
    embeddings = iter(recognizer.embed_utterances([entry for entry in group if isinstance(entry, Utterance)]))
    for entry in group:
        if isinstance(entry, FailedRecording):
            yield entry
        else:
            yield EmbeddedRecording(entry.name, next(embeddings), entry.speech, entry.has_voice)


def save_embeddings(path: Path, recordings: Sequence[EmbeddedRecording]) -> None:
    """Write arrays `files` (n,) and `embeddings` (n, 256) of n recordings (.npz), or one row per recording (.csv)."""
    files, embeddings = ([getattr(recording, name) for recording in recordings] for name in ("file", "embedding"))
    if path.suffix.lower() == ".npz":
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, files=np.array(files), embeddings=np.stack(embeddings))
    else:
        with replacing_table(path) as table:
            rows = ([name, *embedding] for name, embedding in zip(files, embeddings, strict=True))
            csv.writer(table).writerows([["file", *(f"e{i}" for i in range(len(embeddings[0])))], *rows])
