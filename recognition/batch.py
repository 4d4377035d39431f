"""Find the recordings that the user named, and embed them in groups, so that the use of memory is bounded."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configure import AUDIO_SUFFIXES
from feat_extract.recording import NotAudioError
from recognition.recognizer import Recognizer
from recognition.utterance import STANDARD_INPUT, Utterance
from system.console import UserError
from system.files import files_below, read_lines, replacing, replacing_table

LIST_MARK = "@"  # @LIST is a text file with one path per line
GROUP_FRAMES = 360_000  # one hour, 58 MB of features: a group of this size is embedded before more is read


class Candidate(NamedTuple):
    """A file that may be a recording."""

    file: str
    certain: bool  # whether an unreadable file is an error; False for files in folders without an audio suffix


class EmbeddedRecording(NamedTuple):
    """The embedding of a recording."""

    file: str
    embedding: np.ndarray  # (256,) float32, of unit length
    seconds: float  # of speech
    has_voice: bool | None = None  # None in the files of enrolled speakers, which do not store it

    def as_json(self) -> dict[str, Any]:
        """Return the entry of --json for the recording."""
        return {"file": self.file, "seconds": self.seconds, "voice": self.has_voice}


class FailedRecording(NamedTuple):
    """A file that has no embedding."""

    file: str
    error: str  # begins with the name of the file
    is_other: bool  # whether it is a file in a folder that is not a recording; otherwise a recording is damaged

    def as_json(self) -> dict[str, Any]:
        """Return the entry of --json for the file."""
        return {"file": self.file, "error": self.error}


def find_candidates(names: Iterable[str]) -> list[Candidate]:
    """Return the files that the user named: files, all files in folders, and files and folders in lists, @LIST.

    Folders are searched recursively; hidden files are excluded. A list has one path per line; "-" is standard input.
    UserError naming a list that cannot be read, or a list or folder without files.
    """
    found: list[Candidate] = []
    for path in (path for name in names for path in _lines_of(name)):
        if path == STANDARD_INPUT or not os.path.isdir(path):
            found.append(Candidate(path, certain=True))
        elif files := sorted(files_below(Path(path))):
            found += [Candidate(str(file), file.suffix.lower() in AUDIO_SUFFIXES) for file in files]
        else:
            raise UserError(f"{path}: a folder without files")
    return found


def _lines_of(name: str) -> list[str]:
    """Return the lines of the list if the name is @LIST, otherwise the name."""
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
    """Yield the embedding or the error of each candidate, in the same order.

    `read` reads a file; if it raises UserError, a FailedRecording is yielded. About one hour of speech, and
    at least one recording, is in memory at the same time.
    """
    group: list[Utterance | FailedRecording] = []
    n_frames = 0
    for candidate in candidates:
        try:
            utterance = read(candidate.file)
        except UserError as error:
            is_other = isinstance(error, NotAudioError) and not candidate.certain
            group.append(FailedRecording(candidate.file, str(error), is_other))
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
