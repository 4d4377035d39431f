"""The voices of enrolled speakers: one small file each, NAME.npz, holding arrays only and tied to a checkpoint."""

import zipfile
from collections.abc import Iterator, Sequence
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
    digest: str  # SHA-256 of the checkpoint that embedded them

    def __str__(self) -> str:
        return f"{self.name}: {len(self.files)} recording{'s' * (len(self.files) != 1)}"

    @property
    def prototype(self) -> np.ndarray:
        """The mean (256,) of the unit-length embeddings (paper, section 3.2)."""
        return self.embeddings.mean(axis=0)

    def extended(self, embeddings: np.ndarray, files: Sequence[str]) -> "Voice":
        """Return the voice with further recordings (n, 256); one that is enrolled already is left out, with a line."""
        voice = self
        for embedding, file in zip(embeddings, files, strict=True):
            if (voice.embeddings @ embedding > SAME_RECORDING).any():
                console.warn(f"{file}: enrolled for {self.name} already, left out")
                continue
            both = np.concatenate([voice.embeddings, embedding[None]]), np.append(voice.files, file)
            voice = voice._replace(embeddings=both[0], files=both[1])
        return voice


def new_voice(name: str, digest: str) -> Voice:
    """Return a voice without recordings."""
    return Voice(name, np.zeros((0, EMBEDDING_SIZE), np.float32), np.zeros(0, "U1"), digest)


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
        np.savez(file, embeddings=voice.embeddings, files=voice.files, checkpoint=np.array(voice.digest))


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
            embeddings, files, digest = content["embeddings"], content["files"], content["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError, zipfile.BadZipFile):
        raise UserError(f"{path}: not a voice file; remove it and enrol the speaker again") from None
    shapes = files.ndim == 1 and files.size > 0 and embeddings.shape == (files.size, EMBEDDING_SIZE)
    if not shapes or files.dtype.kind != "U" or embeddings.dtype != np.float32:
        raise UserError(f"{path}: not a voice file (embeddings {embeddings.dtype} {embeddings.shape})")
    if not np.isfinite(embeddings).all():
        raise UserError(f"{path}: not a voice file (it holds NaN or infinite values)")
    return Voice(path.name.removesuffix(SUFFIX), embeddings, files, str(digest))


def load_voices(folder: Path, digest: str | None = None) -> list[Voice]:
    """Return the voices of a folder by name; UserError if there are none or, given a digest, one is of another."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of voices; 'recognize.py enroll' makes it")
    voices = [load_voice(path) for path in sorted(folder.glob(f"*{SUFFIX}")) if not path.name.startswith(".")]
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
