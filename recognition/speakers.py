"""The voices of enrolled speakers: one small file each, NAME.npz, holding arrays only and tied to a checkpoint."""

import os
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from corpora.naming import tell_apart
from model.encoder import EMBEDDING_SIZE
from system.console import UserError
from system.files import locked, replacing

SUFFIX = ".npz"
LOCK_NAME = ".voices.lock"  # held by the one run that is changing a voice of the folder
PATIENCE = 60  # seconds to wait for it; a change takes milliseconds
UNKNOWN = "unknown"  # the answer where no enrolled speaker matches; not allowed as a speaker's name
MAX_NAME = 100  # characters
SAME_RECORDING = 1 - 1e-6  # cosine from which two embeddings are of one recording


class Voice(NamedTuple):
    """An enrolled speaker."""

    name: str
    embeddings: np.ndarray  # (n, 256) float32 of length one, one for each recording
    files: np.ndarray  # (n,) str, the recordings' names
    seconds: np.ndarray  # (n,) float64, speech in each recording
    digest: str  # SHA-256 of the checkpoint that embedded them

    def __str__(self) -> str:
        n = len(self.files)
        return f"{self.name}: {n} recording{'s' * (n != 1)}, {self.speech:.2f} s of speech"

    @property
    def speech(self) -> float:
        """Seconds of speech in all recordings."""
        return float(self.seconds.sum())

    @property
    def prototype(self) -> np.ndarray:
        """The mean (256,) of the unit-length embeddings (paper, section 3.2)."""
        return self.embeddings.mean(axis=0)

    def as_json(self) -> dict[str, Any]:
        """Return what --json prints of it."""
        recordings = [
            {"file": file, "seconds": seconds}
            for file, seconds in zip(self.files.tolist(), self.seconds.tolist(), strict=True)
        ]
        return {"speaker": self.name, "seconds": self.speech, "checkpoint": self.digest, "recordings": recordings}

    def file_of(self, embedding: np.ndarray) -> str | None:
        """Return the name of the recording that has an embedding (256,) of length one; None if there is none."""
        found = np.flatnonzero(self.embeddings @ embedding > SAME_RECORDING)
        return str(self.files[found[0]]) if len(found) else None

    def rows(self, rows: Sequence[int]) -> "Voice":
        """Return the voice with some of its recordings."""
        at = np.array(rows, int)
        return self._replace(embeddings=self.embeddings[at], files=self.files[at], seconds=self.seconds[at])

    def extended(self, embeddings: np.ndarray, files: ArrayLike, seconds: ArrayLike) -> "Voice":
        """Return the voice with n further recordings: embeddings (n, 256) of length one, files, seconds of speech."""
        return self._replace(
            embeddings=np.concatenate([self.embeddings, embeddings]),
            files=np.concatenate([self.files, np.asarray(files, "U")]),
            seconds=np.concatenate([self.seconds, seconds]),
        )

    def without(self, files: Sequence[str]) -> "Voice":
        """Return the voice without some recordings; UserError naming one that it does not have.

        A recording is named as it was enrolled, or by another path to the same file. Of several recordings of one
        name the latest is removed first.
        """
        kept = list(range(len(self.files)))
        for file in files:
            same = [row for row in kept if self.files[row] == file]
            same = same or [row for row in kept if os.path.abspath(self.files[row]) == os.path.abspath(file)]
            if not same:
                raise UserError(f"{self.name}: has no recording {file}; 'recognize.py list --json' names what it has")
            kept.remove(same[-1])
        return self.rows(kept)


def new_voice(name: str, digest: str) -> Voice:
    """Return a voice without recordings."""
    return Voice(name, np.zeros((0, EMBEDDING_SIZE), np.float32), np.zeros(0, "U1"), np.zeros(0), digest)


def voice_path(folder: Path, name: str) -> Path:
    """Return the file of a speaker, which may not exist yet; UserError if the name is not valid on every system.

    Names that differ in their Unicode normal form alone are one name. New files are named in NFC.
    """
    name = unicodedata.normalize("NFC", name)
    if not name.isprintable() or set(name) & set('/\\:*?"<>|') or name != name.strip(" .") or len(name) > MAX_NAME:
        raise UserError(f"speaker '{name}': a name has printable characters, none of /\\:*?\"<>|, and up to {MAX_NAME}")
    if name in ("", UNKNOWN):
        raise UserError(f"speaker '{name}': not a name for a speaker")
    path = folder / f"{name}{SUFFIX}"
    return _files(folder).get(name, path) if folder.is_dir() else path


def enrolled_path(folder: Path, name: str) -> Path:
    """Return the file of an enrolled speaker; UserError if there is none."""
    path = voice_path(folder, name)
    if not path.exists():
        raise UserError(f"{name}: not enrolled in {folder}")
    return path


def rename_voice(folder: Path, old: str, new: str) -> None:
    """Give a speaker another name; UserError if nobody has the old name or somebody else has the new one."""
    path, target = enrolled_path(folder, old), voice_path(folder, new)
    if target.exists() and not target.samefile(path):
        raise UserError(f"{new}: enrolled in {folder} already; choose another name, or remove that voice first")
    path.rename(target)


def remove_recordings(folder: Path, name: str, files: Sequence[str]) -> Voice | None:
    """Remove recordings of a speaker, or without any the speaker, who is removed with the last recording, too.

    Returns the voice if it is still there; UserError as enrolled_path and Voice.without.
    """
    path = enrolled_path(folder, name)
    voice = load_voice(path).without(files) if files else None
    if voice is None or not len(voice.files):
        path.unlink()
        return None
    save_voice(folder, voice)
    return voice


def save_voice(folder: Path, voice: Voice) -> None:
    """Write a voice to its file, whole or not at all."""
    with replacing(voice_path(folder, voice.name)) as temporary, open(temporary, "wb") as file:
        digest = np.array(voice.digest)
        np.savez(file, embeddings=voice.embeddings, files=voice.files, seconds=voice.seconds, checkpoint=digest)


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Make the folder and let no other run change a voice in it while the block reads one and saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK_NAME, patience=PATIENCE):
        yield


def load_voice(path: Path) -> Voice:
    """Read a voice file, running nothing of it; UserError naming the file if it is none."""
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        embeddings, files, digest = arrays["embeddings"], arrays["files"], arrays["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError, zipfile.BadZipFile):
        raise UserError(f"{path}: not a voice file; remove it and enrol the speaker again") from None
    if "seconds" not in arrays:
        raise UserError(f"{path}: of a version that kept no seconds of speech; remove it and enrol the speaker again")
    seconds = arrays["seconds"]
    shapes = files.ndim == 1 and files.size > 0 and embeddings.shape == (files.size, EMBEDDING_SIZE)
    kinds = files.dtype.kind == "U" and embeddings.dtype == np.float32 and seconds.dtype == np.float64
    if not shapes or not kinds or seconds.shape != files.shape:
        raise UserError(f"{path}: not a voice file (embeddings {embeddings.dtype} {embeddings.shape})")
    if not (np.isfinite(embeddings).all() and np.isfinite(seconds).all() and (seconds >= 0).all()):
        raise UserError(f"{path}: not a voice file (it holds NaN, infinite values or negative durations)")
    return Voice(_name_of(path), embeddings, files, seconds, str(digest))


def find_voice(folder: Path, name: str, digest: str) -> Voice:
    """Return the voice of a speaker, without recordings if there is none yet; UserError as voice_path and check_owner.

    `digest` is the SHA-256 of the checkpoint.
    """
    path = voice_path(folder, name)
    voice = load_voice(path) if path.exists() else new_voice(_name_of(path), digest)
    check_owner(voice, digest)
    return voice


def load_voices(folder: Path, digest: str | None = None) -> list[Voice]:
    """Return the voices of a folder by name; UserError if there are none or, given a digest, one is of another."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of voices; 'recognize.py enroll' makes it")
    voices = [load_voice(path) for path in _files(folder).values()]
    if not voices:
        raise UserError(f"{folder}: holds no voices; 'recognize.py enroll' adds them")
    for voice in voices:
        check_owner(voice, digest or voice.digest)
    return voices


def load_others(folder: Path, name: str, digest: str) -> tuple[list[Voice], list[str]]:
    """Return the voices of a folder but for one of this name, and what is wrong with those that cannot be compared.

    These are damaged, or of another checkpoint than that of this SHA-256.
    """
    others: list[Voice] = []
    troubles: list[str] = []
    for path in _files(folder).values():
        if _name_of(path) == name:
            continue
        try:
            voice = load_voice(path)
            check_owner(voice, digest)
        except UserError as error:
            troubles.append(str(error))
        else:
            others.append(voice)
    return others, troubles


def check_owner(voice: Voice, digest: str) -> None:
    """Raise UserError unless the voice was enrolled with the checkpoint of this SHA-256."""
    if voice.digest != digest:
        raise UserError(
            f"voice '{voice.name}': enrolled with another checkpoint (SHA-256 {voice.digest[:12]}, not {digest[:12]}); "
            "name that one, or remove the voice and enrol the speaker again"
        )


def _files(folder: Path) -> dict[str, Path]:
    """Return the voice files of a folder by speaker; UserError if two names differ in Unicode normal form alone."""
    paths: dict[str, Path] = {}
    for file in sorted(os.listdir(folder)):
        if file.endswith(SUFFIX) and not file.startswith("."):
            if (other := paths.setdefault(_name_of(folder / file), folder / file).name) != file:
                raise UserError(f"{folder}: rename or remove one of two files: {tell_apart(other, file)}")
    return dict(sorted(paths.items()))


def _name_of(path: Path) -> str:
    return unicodedata.normalize("NFC", path.name.removesuffix(SUFFIX))
