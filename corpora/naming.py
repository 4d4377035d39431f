"""The wavs that imported recordings become: none takes the name of another, and no samples get into a tree twice."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from feat_extract.audio import read_recording, write_wav
from feat_extract.recording import RecordingError
from system.console import UserError
from system.files import TEMPORARY_SUFFIX, walk

REPEATED = "same content as another"  # recording of this import
IN_TREE = "already in the tree under another name"
DAMAGED = "a damaged file has its name"  # in the tree; the user may remove it
TAKEN = "another recording has its name"  # in the tree
TWICE = "in the tree twice"  # both since before this import


class Recording(NamedTuple):
    """A recording, the wav to make of it, and what was found in it."""

    number: int  # in the import
    source: Path
    speaker: str
    wav: Path
    seconds: float = 0.0
    speech: float = 0.0  # seconds of it that are not silence
    digest: str = ""  # of its samples; empty if it was refused before they were compared
    unnamed: Path | None = None  # its new wav under a temporary name; None if `wav` was in the tree before
    refused: str = ""  # why it was not imported
    detail: str = ""  # more about that
    remark: str = ""  # what is doubtful about it, though it was


def clean(text: str) -> str:
    """Return a text as a file name in Unicode's NFC, without blanks, which a trial list needs, or a leading dot.

    Combining marks are kept: without them names in many scripts would lose their vowels.
    """
    text = unicodedata.normalize("NFC", text)
    kept = (c if c.isalnum() or c in "_.-" or unicodedata.category(c).startswith("M") else "_" for c in text)
    return re.sub(r"^\.", "_", "".join(kept))


def tell_apart(a: str, b: str) -> str:
    """Return two names for a message, in ASCII if they differ in their Unicode normal form alone."""
    if unicodedata.normalize("NFC", a) == unicodedata.normalize("NFC", b):
        return f"{ascii(a)} and {ascii(b)} differ in their Unicode normal form alone"
    return f"'{a}' and '{b}'"


def speaker_folder(speaker: str, speakers: dict[str, str], where: Path) -> str:
    """Return the folder of a speaker and note it in `speakers`; UserError if it is another speaker's there."""
    name = clean(speaker)
    if (other := speakers.setdefault(name, speaker)) != speaker:
        raise UserError(f"{where}: rename a speaker, both would be {name}: {tell_apart(other, speaker)}")
    return name


def refuse_same_forms(paths: Iterable[str], folder: Path) -> None:
    """Raise UserError if two of the paths in a folder, or two folders on them, differ in Unicode normal form alone."""
    spellings: dict[str, str] = {}
    for path in paths:
        while path:
            if (other := spellings.setdefault(unicodedata.normalize("NFC", path), path)) != path:
                raise UserError(f"{folder}: rename or remove one of two files: {tell_apart(other, path)}")
            path = path.rpartition("/")[0]


def write_unnamed(recording: Recording, samples: np.ndarray) -> Recording:
    """Write samples (S,) int16 under a temporary name in the recording's folder, unless one of its wavs has them.

    Returns the recording with their digest and the wav that holds them.
    """
    digest = _digest(samples)
    for wav in _names(recording):
        if not wav.exists():
            break
        if _digest_of(wav) == digest:
            return recording._replace(digest=digest, wav=wav)
    unnamed = recording.wav.with_name(f".{recording.number:08}.{os.getpid()}{TEMPORARY_SUFFIX}")
    write_wav(unnamed, samples)
    return recording._replace(digest=digest, unnamed=unnamed)


def give_names(recordings: list[Recording], tree: Path) -> list[Recording]:
    """Give the new wavs their names in the tree; return the recordings, with those refused that get none.

    Wavs that were in the tree before keep their names and samples. A new wav is removed if one of these or an earlier
    recording has its samples, or if its name belongs to a wav that none of the recordings has the samples of.
    """
    taken = {recording.wav for recording in recordings if recording.digest and not recording.unnamed}
    in_tree = _find_copies(tree, [recording.unnamed for recording in recordings if recording.unnamed], taken)
    first: dict[str, Recording] = {}  # by digest
    told: dict[int, Recording] = {}
    for recording in sorted(recordings, key=lambda recording: recording.unnamed is not None):
        original = first.get(recording.digest)
        if original and (recording.unnamed or recording.wav == original.wav):
            recording = recording._replace(refused=REPEATED, detail=str(original.source))
        elif original:
            recording = recording._replace(remark=TWICE)
        elif recording.unnamed and recording.digest in in_tree:
            recording = recording._replace(refused=IN_TREE, detail=str(in_tree[recording.digest]))
        elif recording.unnamed:
            recording = _named(recording, recording.unnamed, taken)
        if recording.unnamed and recording.refused:
            recording.unnamed.unlink()
        elif recording.digest and not recording.refused:
            first.setdefault(recording.digest, recording)
            taken.add(recording.wav)
        told[recording.number] = recording
    return [told[recording.number] for recording in recordings]


def _named(recording: Recording, unnamed: Path, taken: Collection[Path]) -> Recording:
    """Rename a new wav to the first of its names that is not `taken`; refuse it if the tree has that name already."""
    wav = next(name for name in _names(recording) if name not in taken)
    if not wav.exists():
        unnamed.rename(wav)
        return recording._replace(wav=wav)
    try:
        read_recording(wav)
    except RecordingError as error:
        return recording._replace(refused=DAMAGED, detail=f"{error}; remove it")
    return recording._replace(refused=TAKEN, detail=f"{wav}; rename the file, or remove the wav")


def _names(recording: Recording) -> Iterator[Path]:
    """Yield the wavs that a recording may become, the next where recordings differ in their suffix alone."""
    wav = recording.wav
    while True:
        yield wav
        wav = wav.with_stem(f"{wav.stem}_{recording.source.suffix[1:]}")


def _find_copies(tree: Path, unnamed: list[Path], known: Collection[Path]) -> dict[str, Path]:
    """Return by digest those wavs of a tree, but for the known ones, that have the size of one of the unnamed wavs."""
    if not unnamed:
        return {}
    sizes = {os.path.getsize(path) for path in unnamed}
    wavs = (tree / f"{name}{suffix}" for folder in walk(tree) for name, suffix in folder.having(".wav"))
    return {_digest_of(wav): wav for wav in wavs if wav not in known and os.path.getsize(wav) in sizes}


def _digest(samples: np.ndarray) -> str:
    return hashlib.sha256(samples.data).hexdigest()


def _digest_of(wav: Path) -> str:
    """Return the digest of a wav's samples; an empty one if it is damaged."""
    try:
        return _digest(read_recording(wav).samples)
    except RecordingError:
        return ""
