"""Read folders of recorded noise, music, speech and room impulse responses (RIRs) in any audio format.

Training reads a random segment of one of these recordings for each crop. Therefore recordings that are not 16 kHz mono
16-bit wavs are decoded once, into a cache of such wavs. In the layouts of MUSAN and RIRS_NOISES, the names of the
folders give the kind of a recording.
"""

import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from configure import AUDIO_SUFFIXES
from feat_extract.audio import n_plain_samples, read_recording, read_samples, write_wav
from feat_extract.recording import RecordingError
from system import console
from system.console import UserError
from system.files import is_folder, locked, remove_unfinished, walk
from system.workers import unordered_map

NOISE, MUSIC, SPEECH, RIR = "noise", "music", "speech", "room impulse responses"
MUSAN = {"noise": NOISE, "music": MUSIC, "speech": SPEECH}
RIRS_NOISES = {"pointsource_noises": NOISE, "simulated_rirs": RIR, "real_rirs_isotropic_noises": RIR}
KINDS = MUSAN | RIRS_NOISES  # by the name of a folder
CACHE = "decoded_noise"  # folder in the data root
PATIENCE = 6 * 3600  # seconds to wait for another process that decodes
BLOCK = 16_000  # samples that are read together
N_NAMED = 3  # maximum number of files in a message
NO_SOUND = "silent (all samples are equal)"
DOWNLOAD = "dataprep.py --musan --rirs downloads noise and impulse responses"


class Wav(NamedTuple):
    """A 16 kHz mono 16-bit wav."""

    path: Path
    n_samples: int


def recordings(folder: Path, unknown: str, kinds: Collection[str] | None, root: Path) -> dict[str, list[Wav]]:
    """Return the recordings of the given kinds in a folder, by kind: NOISE, MUSIC, SPEECH or RIR.

    The innermost folder with a name of MUSAN or RIRS_NOISES gives the kind of a recording; without such a folder, its
    kind is `unknown`. The default of `kinds` is the first of NOISE, MUSIC and SPEECH that the folder contains.

    Recordings that are not 16 kHz mono 16-bit wavs are decoded into a cache in the data root. Recordings that cannot be
    read and silent ones are skipped with a warning. UserError if no recording of a kind can be used, if there is none
    of `kinds`, or if the cache cannot be written.
    """
    found = _files_by_kind(folder, unknown)
    if kinds is None:
        kinds = [kind for kind in (NOISE, MUSIC, SPEECH) if kind in found][:1] or [NOISE]
    chosen = [kind for kind in found if kind in kinds]
    if not chosen:
        raise UserError(
            f"{folder}: contains {' and '.join(sorted(found))}, but no {' or '.join(kinds)}; choose another folder"
        )
    return {kind: _prepare(folder, found[kind], root) for kind in chosen}


def check_recordings(folder: Path) -> None:
    """Raise UserError if a folder does not exist or contains no file with an audio suffix."""
    if not is_folder(folder):
        raise UserError(f"{folder}: {'a file, not a folder' if folder.exists() else 'no such folder'}; {DOWNLOAD}")
    if not any(True for part in walk(folder) for _ in part.having(*AUDIO_SUFFIXES)):
        raise UserError(f"{folder}: no recordings (such as .wav, .flac or .mp3 files) in this folder; {DOWNLOAD}")


def _files_by_kind(folder: Path, unknown: str) -> dict[str, list[Path]]:
    """Return the files with an audio suffix in a folder, by kind; UserError as check_recordings."""
    check_recordings(folder)
    found: dict[str, list[Path]] = {}
    above = list(_names_above(folder))
    for part in walk(folder):
        names = (*reversed(part.name.lower().split("/")), *above)
        known = next((name for name in names if name in KINDS), "")
        for name, suffix in part.having(*AUDIO_SUFFIXES):
            kind = KINDS.get(known, unknown)
            if known == "real_rirs_isotropic_noises" and "_noise_" in name:
                kind = NOISE
            found.setdefault(kind, []).append(folder / f"{name}{suffix}")
    return found


def _names_above(folder: Path) -> Iterator[str]:
    """Yield the names of a folder and of its parents that may give the kind of its recordings, innermost first.

    Any parent may have the name "speech" for another reason. The name of a parent counts as a name of MUSAN only if the
    other two folders of MUSAN are next to it.
    """
    folder = folder.resolve()
    for path in (folder, *folder.parents):
        name = path.name.lower()
        if path == folder or name not in MUSAN or all((path.parent / other).is_dir() for other in MUSAN):
            yield name


def _prepare(folder: Path, files: list[Path], root: Path) -> list[Wav]:
    """Return 16 kHz mono 16-bit wavs of the recordings that can be used, in the order of the files."""
    recorded: dict[Path, Wav] = {}
    skipped: dict[Path, str] = {}
    to_decode: dict[Path, Path] = {}
    for file in console.progress(files, desc=f"reading {folder}", unit="file"):
        try:
            if not (n_samples := n_plain_samples(file)):
                to_decode[file] = root / CACHE / _cached_name(file)
            elif _has_sound(file, n_samples):
                recorded[file] = Wav(file, n_samples)
            else:
                skipped[file] = NO_SOUND
        except RecordingError as error:
            skipped[file] = error.reason
    if missing := {file: wav for file, wav in to_decode.items() if not _n_decoded(wav)}:
        skipped |= _decode_all(folder, missing, root / CACHE)
    recorded |= {file: Wav(wav, n_samples) for file, wav in to_decode.items() if (n_samples := _n_decoded(wav))}
    named = ", ".join(f"{file.relative_to(folder)} ({skipped[file]})" for file in list(skipped)[:N_NAMED])
    if len(skipped) > N_NAMED:
        named += f" and {len(skipped) - N_NAMED:,} more"
    if not recorded:
        raise UserError(f"{folder}: none of {len(files):,} recordings can be used: {named}")
    if skipped:
        console.warn(f"{folder}: {len(skipped):,} of {len(files):,} recordings are skipped: {named}")
    return [recorded[file] for file in files if file in recorded]


def _has_sound(wav: Path, n_samples: int) -> bool:
    """Return whether the samples of a wav differ; of most wavs only the first block is read."""
    for start in range(0, n_samples, BLOCK):
        samples, _ = read_samples(wav, start, BLOCK)
        if samples.min() != samples.max():
            return True
    return False


def _n_decoded(wav: Path) -> int:
    """Return the number of samples of a wav in the cache; 0 if it does not exist or is damaged."""
    return (wav.exists() and n_plain_samples(wav)) or 0


def _cached_name(file: Path) -> str:
    """Return the name of the decoded wav of a recording; a recording that is replaced gets another name."""
    status = file.stat()
    key = f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    return f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.wav"


def _decode_all(folder: Path, wavs: dict[Path, Path], cache: Path) -> dict[Path, str]:
    """Decode recordings into wavs in the cache, and return the reasons why recordings could not be decoded.

    Only one process writes to the cache; others wait for it.
    """
    console.warn(f"{folder}: decoding {len(wavs):,} recordings that are not 16 kHz mono 16-bit wavs into {cache}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache / ".lock", PATIENCE):
            remove_unfinished(cache, os.listdir(cache))
            missing = [(file, wav) for file, wav in wavs.items() if not _n_decoded(wav)]
            decoded = unordered_map(_decode, missing, chunk=1)
            reasons = dict(console.progress(decoded, total=len(missing), desc=f"decoding {folder}", unit="file"))
    except OSError as error:
        raise UserError(
            f"{cache}: cannot be written ({error.strerror}); choose a writable --save_path, or convert each recording "
            "by: ffmpeg -i RECORDING -ac 1 -ar 16000 -c:a pcm_s16le CONVERTED.wav"
        ) from None
    return {file: reason for file, reason in reasons.items() if reason}


def _decode(pair: tuple[Path, Path]) -> tuple[Path, str]:
    """Decode a recording into a wav; return the recording, and the reason if it cannot be used."""
    file, wav = pair
    try:
        samples = read_recording(file).samples
    except RecordingError as error:
        return file, error.reason
    if samples.min() == samples.max():
        return file, NO_SOUND
    write_wav(wav, samples)
    return file, ""
