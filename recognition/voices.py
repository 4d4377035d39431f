"""The voices of enrolled speakers: one small file each, NAME.npz, holding arrays only and tied to a checkpoint."""

import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.encoder import EMBEDDING_SIZE
from system import console
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
        return f"{self.name}: {n} recording{'s' * (n != 1)}, {self.seconds.sum():.2f} s of speech"

    @property
    def prototype(self) -> np.ndarray:
        """The mean (256,) of the unit-length embeddings (paper, section 3.2)."""
        return self.embeddings.mean(axis=0)

    def extended(self, embeddings: np.ndarray, files: Sequence[str], seconds: Iterable[float]) -> "Voice":
        """Return the voice with n further recordings; one that is enrolled already is left out, with a warning.

        They have embeddings (n, 256) of length one, names, and seconds of speech.
        """
        voice = self
        for embedding, file, speech in zip(embeddings, files, seconds, strict=True):
            if (voice.embeddings @ embedding > SAME_RECORDING).any():
                console.warn(f"{file}: enrolled for {self.name} already, left out")
                continue
            voice = voice._replace(
                embeddings=np.concatenate([voice.embeddings, embedding[None]]),
                files=np.append(voice.files, file),
                seconds=np.append(voice.seconds, speech),
            )
        return voice


def new_voice(name: str, digest: str) -> Voice:
    """Return a voice without recordings."""
    return Voice(name, np.zeros((0, EMBEDDING_SIZE), np.float32), np.zeros(0, "U1"), np.zeros(0), digest)


def voice_path(folder: Path, name: str) -> Path:
    """Return the file of a speaker; UserError if the name cannot be a file's on every system."""
    if not name.isprintable() or set(name) & set('/\\:*?"<>|') or name != name.strip(" .") or len(name) > MAX_NAME:
        raise UserError(f"speaker '{name}': a name has printable characters, none of /\\:*?\"<>|, and up to {MAX_NAME}")
    if name in ("", UNKNOWN):
        raise UserError(f"speaker '{name}': not a name for a speaker")
    return folder / f"{name}{SUFFIX}"


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
    return Voice(path.name.removesuffix(SUFFIX), embeddings, files, seconds, str(digest))


def load_voices(folder: Path, digest: str | None = None) -> list[Voice]:
    """Return the voices of a folder by name; UserError if there are none or, given a digest, one is of another."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of voices; 'recognize.py enroll' makes it")
    files = [name for name in sorted(os.listdir(folder)) if name.endswith(SUFFIX) and not name.startswith(".")]
    voices = [load_voice(folder / name) for name in files]
    if not voices:
        raise UserError(f"{folder}: holds no voices; 'recognize.py enroll' adds them")
    for voice in voices:
        check_owner(voice, digest or voice.digest)
    return voices


def check_owner(voice: Voice, digest: str) -> None:
    """Raise UserError unless the voice was enrolled with the checkpoint of this SHA-256."""
    if voice.digest != digest:
        raise UserError(
            f"voice '{voice.name}': enrolled with another checkpoint (SHA-256 {voice.digest[:12]}, not {digest[:12]}); "
            "name that one, or remove the voice and enrol the speaker again"
        )
