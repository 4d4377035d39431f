"""Enrolled speakers: one file each, NAME.npz, which contains arrays only and belongs to a checkpoint."""

import io
import os
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from corpora.naming import describe_both
from model.encoder import EMBEDDING_SIZE
from recognition.batch import EmbeddedRecording
from system.console import UserError
from system.files import locked, replacing

SUFFIX = ".npz"
LOCK_NAME = ".voices.lock"  # the process that changes the folder locks this file
PATIENCE = 60  # seconds to wait for this lock; a change takes milliseconds
UNKNOWN = "unknown"  # the answer if no enrolled speaker matches; not allowed as a speaker's name
MAX_NAME, MAX_BYTES = 100, 200  # characters, and bytes of the file name; file systems allow 255
_one_thread = threading.Lock()  # of this process may change folders of speakers
SAME_RECORDING = 1 - 1e-6  # two embeddings with a larger cosine are from the same recording


class Speaker(NamedTuple):
    """An enrolled speaker."""

    name: str
    recordings: tuple[EmbeddedRecording, ...]
    digest: str  # SHA-256 of the checkpoint that embedded them

    def __str__(self) -> str:
        n = len(self.recordings)
        return f"{self.name}: {n} recording{'s' * (n != 1)}, {self.speech:.2f} s of speech"

    @property
    def speech(self) -> float:
        """Seconds of speech in all recordings."""
        return float(np.sum([recording.seconds for recording in self.recordings]))

    @property
    def files(self) -> list[str]:
        """The names of the recordings."""
        return [recording.file for recording in self.recordings]

    @property
    def embeddings(self) -> np.ndarray:
        """The embeddings (n, 256) float32, of unit length, of n recordings, one or more."""
        return np.stack([recording.embedding for recording in self.recordings])

    @property
    def prototype(self) -> np.ndarray:
        """The mean (256,) of the unit-length embeddings (paper, section 3.2)."""
        return self.embeddings.mean(axis=0)

    def as_json(self) -> dict[str, Any]:
        """Return the entry of --json for the speaker."""
        recordings = [{"file": recording.file, "seconds": recording.seconds} for recording in self.recordings]
        return {"speaker": self.name, "seconds": self.speech, "checkpoint": self.digest, "recordings": recordings}

    def without(self, files: Sequence[str]) -> "Speaker":
        """Return the speaker without some recordings; UserError naming one that the speaker does not have.

        A recording is named as `files` names it, or by another path to this file, seen from the working directory. Of
        several recordings of one name, the latest is removed first.
        """
        kept = list(self.recordings)
        for file in files:
            same = [recording for recording in kept if recording.file == str(file)]
            same = same or [one for one in kept if os.path.abspath(one.file) == os.path.abspath(file)]
            if not same:
                raise UserError(f"{self.name}: has no recording {file}; 'recognize.py list --json' lists all")
            kept = [recording for recording in kept if recording is not same[-1]]
        return self._replace(recordings=tuple(kept))


def find_same(recordings: Sequence[EmbeddedRecording], recording: EmbeddedRecording) -> str | None:
    """Return the file of the first of the recordings that has the same embedding; None if there is none."""
    same = (other.file for other in recordings if other.embedding @ recording.embedding > SAME_RECORDING)
    return next(same, None)


def speaker_path(folder: Path, name: str) -> Path:
    """Return the file of a speaker, which may not exist yet; UserError for an invalid name.

    Names that differ only in their Unicode normal form are the same name. New files are named in NFC.
    """
    name = unicodedata.normalize("NFC", name)
    fits = len(name) <= MAX_NAME and len(os.fsencode(name)) <= MAX_BYTES
    if not (name.isprintable() and fits) or set(name) & set('/\\:*?"<>|') or name != name.strip(" ."):
        raise UserError(
            f"speaker '{name}': invalid name; use up to {MAX_NAME} printable characters and {MAX_BYTES} bytes, none of "
            '/\\:*?"<>|, and no space or full stop at the beginning or end'
        )
    if name in ("", UNKNOWN):
        raise UserError(f"speaker '{name}': not a name for a speaker; choose another name")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: not a folder; choose another --voices")
    return _files(folder).get(name, folder / f"{name}{SUFFIX}")


def enrolled_path(folder: Path, name: str) -> Path:
    """Return the file of an enrolled speaker; UserError if there is none."""
    path = speaker_path(folder, name)
    if not path.exists():
        raise UserError(f"{name}: not enrolled in {folder}")
    return path


def rename_speaker(folder: Path, old: str, new: str) -> None:
    """Rename a speaker; UserError if the old name is not enrolled or the new name is another speaker's."""
    enrolled_path(folder, old)  # raises before `changing` creates the folder or its lock file
    with changing(folder):
        path, target = enrolled_path(folder, old), speaker_path(folder, new)
        if target.exists() and not target.samefile(path):
            raise UserError(f"{new}: already enrolled in {folder}; choose another name or remove that speaker first")
        path.rename(target)


def remove_recordings(folder: Path, name: str, files: Sequence[str]) -> Speaker | None:
    """Remove recordings of a speaker; remove the speaker if `files` is empty or no recording would remain.

    Returns the speaker, None if it was removed. Errors are those of enrolled_path and Speaker.without.
    """
    enrolled_path(folder, name)  # raises before `changing` creates the folder or its lock file
    with changing(folder):
        path = enrolled_path(folder, name)
        speaker = load_speaker(path).without(files) if files else None
        if speaker is None or not speaker.recordings:
            path.unlink()
            return None
        save_speaker(folder, speaker)
    return speaker


def save_speaker(folder: Path, speaker: Speaker) -> None:
    """Write the file of a speaker with one or more recordings, atomically."""
    seconds = np.array([recording.seconds for recording in speaker.recordings], np.float64)
    files, digest = np.array(speaker.files), np.array(speaker.digest)
    with replacing(speaker_path(folder, speaker.name)) as temporary, open(temporary, "wb") as file:
        np.savez(file, embeddings=speaker.embeddings, files=files, seconds=seconds, checkpoint=digest)


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Create the folder if it is missing, and lock it against changes by others while the block runs.

    The lock of the folder excludes other processes, and another one the other threads of this process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _one_thread, locked(folder / LOCK_NAME, patience=PATIENCE):
        yield


def load_speaker(path: Path, digest: str | None = None) -> Speaker:
    """Read the file of a speaker without running code from it; UserError naming the file if it is not valid.

    If `digest` is given, also UserError unless the checkpoint with this SHA-256 embedded the recordings.
    FileNotFoundError for a missing file.
    """
    try:
        data = io.BytesIO(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        with np.load(data, allow_pickle=False) as content:
            embeddings, files, seconds = (content[name] for name in ("embeddings", "files", "seconds"))
            owner = str(content["checkpoint"])
        n = len(files)
        shapes = n > 0 and files.shape == seconds.shape == (n,) and embeddings.shape == (n, EMBEDDING_SIZE)
        types = files.dtype.kind == "U" and embeddings.dtype == np.float32 and seconds.dtype == np.float64
        if not (shapes and types and np.isfinite(embeddings).all() and ((0 <= seconds) & (seconds < np.inf)).all()):
            raise ValueError
    except MemoryError:  # the file may be intact
        raise UserError(f"{path}: too large for the memory, or damaged") from None
    except Exception:  # damaged zips and arrays raise errors of many types
        reason = "damaged, or not a file of an enrolled speaker; move it away and enrol the speaker again"
        raise UserError(f"{path}: {reason}") from None
    if digest not in (None, owner):
        raise UserError(
            f"{path}: enrolled with another checkpoint (SHA-256 {owner[:12]}, not {digest[:12]}); select it by "
            "--checkpoint, or remove the speaker and enrol the recordings again"
        )
    recordings = zip(files.tolist(), embeddings, seconds.tolist(), strict=True)
    return Speaker(_name_of(path), tuple(EmbeddedRecording(*recording) for recording in recordings), owner)


def find_speaker(folder: Path, name: str, digest: str) -> Speaker:
    """Return a speaker; its recordings are empty if it is not enrolled. Errors of speaker_path and load_speaker."""
    path = speaker_path(folder, name)
    return load_speaker(path, digest) if path.exists() else Speaker(_name_of(path), (), digest)


def load_speakers(folder: Path, digest: str | None = None) -> list[Speaker]:
    """Return the speakers of a folder, sorted by name; UserError if there are none, and as for load_speaker."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; 'recognize.py enroll' creates it")
    speakers = []
    for path in _files(folder).values():
        with suppress(FileNotFoundError):  # another process has removed this speaker
            speakers.append(load_speaker(path, digest))
    if not speakers:
        raise UserError(f"{folder}: contains no enrolled speakers; 'recognize.py enroll' adds them")
    return speakers


def load_others(folder: Path, name: str, digest: str) -> tuple[list[Speaker], list[str]]:
    """Return the speakers of a folder except the one of this name, and the errors of those that cannot be loaded."""
    others: list[Speaker] = []
    errors: list[str] = []
    for other, path in _files(folder).items():
        try:
            others += [load_speaker(path, digest)] if other != name else []
        except FileNotFoundError:  # another process has removed this speaker
            continue
        except UserError as error:
            errors.append(str(error))
    return others, errors


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by speaker name, sorted; UserError if two differ only in Unicode normal form."""
    paths: dict[str, Path] = {}
    for file in sorted(os.listdir(folder)) if folder.is_dir() else []:
        if file.endswith(SUFFIX) and not file.startswith("."):
            if (other := paths.setdefault(_name_of(folder / file), folder / file).name) != file:
                raise UserError(f"{folder}: rename or remove one of two files: {describe_both(other, file)}")
    return dict(sorted(paths.items()))


def _name_of(path: Path) -> str:
    return unicodedata.normalize("NFC", path.name.removesuffix(SUFFIX))
