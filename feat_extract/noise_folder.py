"""Folders of recorded noise, music, speech and room impulse responses, of any format that the reader reads.

Training takes a part of one of these recordings for each crop, so all of them become 16 kHz mono 16-bit wavs, of which
a part can be read: a recording of another format is decoded once, into a cache. The layouts of MUSAN and RIRS_NOISES
are known: there the folders' names give the kind of a recording.
"""

import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from feat_extract.audio import n_plain_samples, read_recording, read_samples, write_wav
from feat_extract.recording import SUFFIXES, RecordingError
from system import console
from system.console import UserError
from system.files import is_folder, locked, remove_unfinished, walk
from system.workers import unordered_map

NOISE, MUSIC, SPEECH, RIR = "noise", "music", "speech", "room impulse responses"
MUSAN = {"noise": NOISE, "music": MUSIC, "speech": SPEECH}
RIRS_NOISES = {"pointsource_noises": NOISE, "simulated_rirs": RIR, "real_rirs_isotropic_noises": RIR}
KINDS = MUSAN | RIRS_NOISES  # by the name of a folder
CACHE = "decoded_noise"  # below the data root
PATIENCE = 6 * 3600  # seconds to wait for another process that decodes
BLOCK = 16_000  # samples
N_NAMED = 3  # files that a message names
NO_SOUND = "silent (all samples are equal)"
FETCH = "dataprep.py --musan --rirs downloads noise and impulse responses"


class Recorded(NamedTuple):
    """A 16 kHz mono 16-bit wav."""

    path: Path
    n_samples: int


def recordings(folder: Path, unknown: str, kinds: Collection[str] | None, root: Path) -> dict[str, list[Recorded]]:
    """Return the recordings in a folder by their kind, those of `kinds`: NOISE, MUSIC, SPEECH or RIR.

    The innermost folder with a name of MUSAN or RIRS_NOISES gives the kind; outside such folders it is `unknown`.
    Without `kinds` the first of NOISE, MUSIC and SPEECH that the folder has is taken.

    Recordings that are no 16 kHz mono 16-bit wavs are decoded into a cache below the data root. Recordings that cannot
    be read or are silent are skipped with a warning. UserError if none of a kind is left, if there are none of `kinds`,
    or if the cache cannot be written.
    """
    found = _files_by_kind(folder, unknown)
    if kinds is None:
        kinds = [kind for kind in (NOISE, MUSIC, SPEECH) if kind in found][:1] or [NOISE]
    taken = [kind for kind in found if kind in kinds]
    if not taken:
        raise UserError(
            f"{folder}: contains {' and '.join(sorted(found))}, but no {' or '.join(kinds)}; choose another folder"
        )
    return {kind: _prepare(folder, found[kind], root) for kind in taken}


def check_recordings(folder: Path) -> None:
    """Raise UserError if a folder does not exist or contains no file whose suffix is one of SUFFIXES."""
    if not is_folder(folder):
        raise UserError(f"{folder}: {'a file, not a folder' if folder.exists() else 'no such folder'}; {FETCH}")
    if not any(True for part in walk(folder) for _ in part.having(*SUFFIXES)):
        raise UserError(f"{folder}: no recordings (such as .wav, .flac or .mp3 files) in this folder; {FETCH}")


def _files_by_kind(folder: Path, unknown: str) -> dict[str, list[Path]]:
    """Return the files in a folder whose suffix is one of SUFFIXES by their kind; UserError as check_recordings."""
    check_recordings(folder)
    found: dict[str, list[Path]] = {}
    above = list(_known_above(folder))
    for part in walk(folder):
        names = (*reversed(part.name.lower().split("/")), *above)
        known = next((name for name in names if name in KINDS), "")
        for name, suffix in part.having(*SUFFIXES):
            kind = KINDS.get(known, unknown)
            if known == "real_rirs_isotropic_noises" and "_noise_" in name:
                kind = NOISE
            found.setdefault(kind, []).append(folder / f"{name}{suffix}")
    return found


def _known_above(folder: Path) -> Iterator[str]:
    """Yield the names that may give the kind of recordings in a folder, of itself and of those above, innermost first.

    Above it any folder may be called speech: the names of MUSAN count where all three are next to one another.
    """
    folder = folder.resolve()
    for path in (folder, *folder.parents):
        name = path.name.lower()
        if path == folder or name not in MUSAN or all((path.parent / other).is_dir() for other in MUSAN):
            yield name


def _prepare(folder: Path, files: list[Path], root: Path) -> list[Recorded]:
    """Return wavs with the samples of the recordings that can be used, in the order of the files."""
    recorded: dict[Path, Recorded] = {}
    skipped: dict[Path, str] = {}
    to_decode: dict[Path, Path] = {}
    for file in console.progress(files, desc=f"reading {folder}", unit="file"):
        try:
            if n := n_plain_samples(file):
                if _has_sound(file, n):
                    recorded[file] = Recorded(file, n)
                else:
                    skipped[file] = NO_SOUND
            else:
                to_decode[file] = root / CACHE / _cached_name(file)
        except RecordingError as error:
            skipped[file] = error.reason
    if missing := {file: wav for file, wav in to_decode.items() if not _n_decoded(wav)}:
        skipped |= _decode_all(folder, missing, root / CACHE)
    recorded |= {file: Recorded(wav, n) for file, wav in to_decode.items() if (n := _n_decoded(wav))}
    named = ", ".join(f"{file.relative_to(folder)} ({skipped[file]})" for file in list(skipped)[:N_NAMED])
    if len(skipped) > N_NAMED:
        named += f" and {len(skipped) - N_NAMED:,} more"
    if not recorded:
        raise UserError(f"{folder}: none of {len(files):,} recordings can be used: {named}")
    if skipped:
        console.warn(f"{folder}: {len(skipped):,} of {len(files):,} recordings are skipped: {named}")
    return [recorded[file] for file in files if file in recorded]


def _has_sound(wav: Path, n_samples: int) -> bool:
    """Tell whether a wav's samples differ; only its beginning is read where they do from the beginning."""
    for start in range(0, n_samples, BLOCK):
        samples, _ = read_samples(wav, start, BLOCK)
        if samples.min() != samples.max():
            return True
    return False


def _n_decoded(wav: Path) -> int:
    """Return the number of samples of a wav in the cache; 0 if there is no intact one."""
    return (wav.exists() and n_plain_samples(wav)) or 0


def _cached_name(file: Path) -> str:
    """Return the name of a recording's decoded wav: another one if the recording is replaced."""
    status = file.stat()
    key = f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    return f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.wav"


def _decode_all(folder: Path, wavs: dict[Path, Path], cache: Path) -> dict[Path, str]:
    """Decode recordings into their wavs in the cache; return why recordings could not be decoded.

    One process at a time writes to the cache; another one waits for it.
    """
    console.warn(f"{folder}: decoding {len(wavs):,} recordings that are not 16 kHz mono 16-bit wavs into {cache}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache / ".lock", PATIENCE):
            remove_unfinished(cache, os.listdir(cache))
            missing = [(file, wav) for file, wav in wavs.items() if not _n_decoded(wav)]
            work = unordered_map(_decode, missing, chunk=1)
            reasons = dict(console.progress(work, total=len(missing), desc=f"decoding {folder}", unit="file"))
        sizes = [wav.stat().st_size for wav in wavs.values() if wav.exists()]
    except OSError as error:
        raise UserError(
            f"{cache}: cannot be written ({error.strerror}); choose a writable --save_path, or convert each recording "
            "by: ffmpeg -i RECORDING -ac 1 -ar 16000 -c:a pcm_s16le CONVERTED.wav"
        ) from None
    if sizes:
        console.warn(f"{cache}: {len(sizes):,} recordings of {folder} take {sum(sizes) / 1e6:,.1f} MB here")
    return {file: reason for file, reason in reasons.items() if reason}


def _decode(pair: tuple[Path, Path]) -> tuple[Path, str]:
    """Decode a recording into a wav; return the recording, and why it cannot be used if it cannot."""
    file, wav = pair
    try:
        samples = read_recording(file).samples
    except RecordingError as error:
        return file, error.reason
    if samples.min() == samples.max():
        return file, NO_SOUND
    write_wav(wav, samples)
    return file, ""
