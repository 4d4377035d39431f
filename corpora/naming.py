"""Name the wavs of imported recordings: no wav is overwritten, and no samples are in a tree twice."""

import hashlib
import os
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from corpora.old_features import and_feature, remove_feature
from feat_extract.audio import read_recording, write_wav
from feat_extract.recording import RecordingError
from system.console import UserError
from system.files import TEMPORARY_SUFFIX, walk

# Reasons for skipping a file, in import_report.csv.
REPEATED = "same content as another"
IN_TREE = "already in the tree under another name"
CONFLICT = "same content under another speaker"
TAKEN = "a damaged wav or another recording has its name"
MAX_BYTES, N_HEX = 200, 16  # of a shortened name and of the hash that it ends with


class ImportedFile(NamedTuple):
    """A file to import, the wav to make of it, and what was found in it."""

    number: int  # in the import
    source: Path
    speaker: str
    wav: Path
    is_recording: bool = True  # according to its suffix, or to a list of recordings
    seconds: float = 0.0
    speech: float = 0.0  # seconds without silence
    digest: str = ""  # of its samples; empty if it was skipped before
    temporary: Path | None = None  # where the wav is written first; None if the tree contained it
    skipped: str = ""  # why it was not imported
    detail: str = ""  # more about the reason
    remark: str = ""  # what is doubtful about an imported file


def clean(text: str) -> str:
    """Return a text as a file name in Unicode's NFC without a leading dot, blanks and punctuation.

    Combining marks are kept, since they are the vowels of many scripts. A name that would be too long for a file system
    is shortened to MAX_BYTES and a hash of the text.
    """
    text = unicodedata.normalize("NFC", text)
    kept = (c if c.isalnum() or c in "_.-" or unicodedata.category(c).startswith("M") else "_" for c in text)
    name = re.sub(r"^\.", "_", "".join(kept))
    if len(name.encode()) <= MAX_BYTES + 1 + N_HEX:
        return name
    start = name.encode()[:MAX_BYTES].decode(errors="ignore")  # without an incomplete last character
    return f"{start}_{hashlib.sha256(os.fsencode(text)).hexdigest()[:N_HEX]}"


def describe_both(a: str, b: str) -> str:
    """Return two names for a message, in ASCII if they differ only in their Unicode normal form."""
    if unicodedata.normalize("NFC", a) == unicodedata.normalize("NFC", b):
        return f"{ascii(a)} and {ascii(b)} differ only in their Unicode normal form"
    return f"'{a}' and '{b}'"


def speaker_folder(speaker: str, speakers: dict[str, str], where: Path) -> str:
    """Return the folder of a speaker and add it to `speakers`; UserError if another speaker has this folder."""
    name = clean(speaker)
    if (other := speakers.setdefault(name, speaker)) != speaker:
        raise UserError(f"{where}: rename a speaker, both would become {name}: {describe_both(other, speaker)}")
    return name


def write_temporary(file: ImportedFile, samples: np.ndarray) -> ImportedFile:
    """Write samples (S,) int16 to a temporary file next to the file's wav, unless this wav contains them."""
    digest = _digest(samples)
    if file.wav.exists() and _digest_of(file.wav) == digest:
        return file._replace(digest=digest)
    temporary = file.wav.with_name(f".{file.number:08}.{os.getpid()}{TEMPORARY_SUFFIX}")
    write_wav(temporary, samples)
    return file._replace(digest=digest, temporary=temporary)


def with_existing_suffixes(files: list[ImportedFile], tree: Path) -> list[ImportedFile]:
    """Return the files; the wav of a file is <name>.WAV, or in other letters, if the tree has a wav of this name."""
    wavs = ((tree / name, suffix) for folder in walk(tree) for name, suffix in folder.having(".wav"))
    existing = {Path(f"{name}.wav"): Path(f"{name}{suffix}") for name, suffix in wavs if suffix != ".wav"}
    return [file._replace(wav=existing.get(file.wav, file.wav)) for file in files]


def name_wavs(files: list[ImportedFile], tree: Path, root: Path) -> tuple[list[ImportedFile], int]:
    """Rename the temporary files to their wavs in a tree below `root`.

    Return the files, marked as skipped where that was not possible, and the number of removed features: those of
    earlier wavs with these names.

    Existing wavs are not changed. A temporary file is removed if its samples are in the tree already, under any name,
    or in an earlier file of the import, or if another wav has its name. Its samples under another speaker are a
    conflict of labels.
    """
    first = {file.digest: file for file in reversed(files) if file.digest and not file.temporary}
    in_tree = _find_copies(tree, [file.temporary for file in files if file.temporary])
    named, n_removed = [], 0
    for file in files:
        if file.temporary:
            earlier = first.get(file.digest)
            copy = earlier.wav if earlier else in_tree.get(file.digest)
            if copy and copy.relative_to(tree).parts[0] != file.speaker:
                advice = f"{copy}; remove this wav{and_feature(root, copy)}, or the file: one has the wrong speaker"
                file = file._replace(skipped=CONFLICT, detail=advice)
            elif earlier:
                file = file._replace(skipped=REPEATED, detail=str(earlier.source))
            elif copy:
                file = file._replace(skipped=IN_TREE, detail=str(copy))
            elif file.wav.exists():
                advice = f"{file.wav}; rename the file, or remove this wav{and_feature(root, file.wav)}"
                file = file._replace(skipped=TAKEN, detail=advice)
        if file.temporary and file.skipped:
            file.temporary.unlink()
        elif file.temporary:
            n_removed += remove_feature(root, file.wav)
            file.temporary.rename(file.wav)
            first[file.digest] = file
        named.append(file)
    return named, n_removed


def _find_copies(tree: Path, temporary: list[Path]) -> dict[str, Path]:
    """Return the wavs of a tree by digest, limited to those of the same size as a temporary file."""
    if not temporary:
        return {}
    sizes = {os.path.getsize(path) for path in temporary}
    wavs = (tree / f"{name}{suffix}" for folder in walk(tree) for name, suffix in folder.having(".wav"))
    return {_digest_of(wav): wav for wav in wavs if os.path.getsize(wav) in sizes}


def _digest(samples: np.ndarray) -> str:
    return hashlib.sha256(samples.data).hexdigest()


def _digest_of(wav: Path) -> str:
    """Return the digest of a wav's samples, empty for a damaged wav."""
    try:
        return _digest(read_recording(wav).samples)
    except RecordingError:
        return ""
