"""Corpora from OpenSLR: LibriSpeech (pages 12 and 31), MUSAN (17) and RIRS_NOISES (28).

LibriSpeech has VoxCeleb's layout: speaker/chapter/utterance.
"""

import functools
import os
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from configure import TREES
from corpora.archives import count_lost, has_marker, refuse_lost, refuse_unsafe, write_marker
from corpora.convert import Failure
from corpora.download import download_files, with_md5
from corpora.old_features import remove_feature, report_removed
from corpora.servers import Download, Server
from feat_extract.audio import read_and_warn, write_wav
from feat_extract.recording import RecordingError
from system import console
from system.console import UserError
from system.files import TEMPORARY_SUFFIX, is_folder, read_lines, remove_unfinished_below, utterances
from system.workers import unordered_map

BASE = "https://www.openslr.org/resources"
SUBSETS = {  # name -> page number at OpenSLR
    "train-clean-100": 12, "train-clean-360": 12, "train-other-500": 12,
    "dev-clean": 12, "dev-other": 12, "test-clean": 12, "test-other": 12,
    "train-clean-5": 31, "dev-clean-2": 31,
}  # fmt: skip


class Noise(NamedTuple):
    """A corpus of noise or room impulse responses."""

    page: int  # number at OpenSLR
    archive: str
    folder: str  # of the archive
    n_wavs: int  # in that folder
    flag: str  # of train.py, which takes such a folder


NOISES = {
    "musan": Noise(17, "musan.tar.gz", "musan", 2016, "--noise_dir"),
    "rirs": Noise(28, "rirs_noises.zip", "RIRS_NOISES", 61_260, "--rir_dir"),
}
Member = tuple[str, bytes, Path]  # of an archive: name, content, wav to write


def download_subsets(subsets: Sequence[str], root: Path, base: str | None, jobs: int, retries: int) -> None:
    """Download the archives of some subsets and check them by the MD5s on the same server."""
    for page in sorted({SUBSETS[subset] for subset in subsets}):
        server = _server(base, page)
        names = [f"{subset}.tar.gz" for subset in subsets if SUBSETS[subset] == page]
        names = [name for name in names if not has_marker(root, name) and not (root / name).exists()]
        if names:
            sums = _download_md5s(server, root, page, retries)
            downloads = [with_md5(name, sums[name]) if name in sums else Download(name) for name in names]
            download_files(downloads, server, root, jobs, retries)


def part_of(subset: str) -> str:
    """Return the key of TREES of the tree that a subset of LibriSpeech is written to."""
    return "vox2_dev" if subset.startswith("train") else "vox1_test"


def extract_subset(subset: str, root: Path, delete: bool, workers: int | None) -> list[Failure]:
    """Convert the recordings of an archive into the wav tree; return those that could not be converted.

    Train subsets are written to the training tree, dev and test subsets to the evaluation tree. Unless a recording
    could not be converted, the marker file of the archive is written, and with `delete` the archive is removed.
    """
    archive, part = root / f"{subset}.tar.gz", part_of(subset)
    if has_marker(root, archive.name) and not (archive.exists() and count_lost(root, archive.name, part)):
        refuse_lost(root, archive.name, part, "omit it from --librispeech")
        if delete:
            archive.unlink(missing_ok=True)
        return []
    tree = root / TREES[part].wav
    names: list[str] = []
    remove_unfinished_below(tree)
    with open(archive, "rb") as data, console.progress_of_bytes(archive.stat().st_size, subset) as bar:
        failures, n_features = [], 0
        recordings = _read_recordings(data, archive, tree, names)
        for replaced, failure in unordered_map(functools.partial(_convert, root=root), recordings, workers):
            bar.update(data.tell() - bar.n)
            n_features += replaced
            if failure:
                failures.append(failure)
    if not failures:
        write_marker(root, archive.name, names)
        if delete:
            archive.unlink()
    print(f"{subset}: extracted")
    report_removed(n_features)
    return failures


def _download_md5s(server: Server, root: Path, page: int, retries: int) -> dict[str, str]:
    """Return the MD5s of a page of OpenSLR by file name; if it has no list of them, print a warning and return {}."""
    listed = root / f"librispeech_{page}_md5sum.txt"
    try:
        download_files([Download(listed.name, served="md5sum.txt")], server, root, 1, retries)
    except UserError as error:
        console.warn(f"no MD5s, so damage is only detected by gzip's checksums: {error}")
        return {}
    rows = (re.match(r"([0-9a-f]{32})\s+\*?(?:.*/)?(\S+)\s*$", line) for line in read_lines(listed, "no such list"))
    return {row[2]: row[1] for row in rows if row}


def _read_recordings(data: BinaryIO, archive: Path, tree: Path, names: list[str]) -> Iterator[Member]:
    """Yield the recordings that have no wav yet, in the archive's order; append the names of all to `names`."""
    for name, content in _read_members(data, archive):
        place = PurePosixPath(*PurePosixPath(name).parts[-3:])
        if place.suffix.lower() == ".flac":
            names.append(str(place))
            wav = tree / place.with_suffix(".wav")
            if not wav.exists():
                yield f"{archive}: {name}", content, wav


def _convert(member: Member, root: Path) -> tuple[bool, Failure | None]:
    """Write a wav; return whether the feature of an earlier wav was removed, and a failure."""
    name, flac, wav = member
    try:
        samples = read_and_warn(BytesIO(flac), name=name).samples
    except RecordingError as error:
        return False, (name, error.reason)
    replaced = remove_feature(root, wav)
    write_wav(wav, samples)
    return replaced, None


def lacks_noise(name: str, root: Path) -> bool:
    """Return whether the folder of one of the NOISES must be downloaded into `root`.

    An existing folder or link that was not extracted here must contain as many wavs as OpenSLR's; otherwise UserError.
    """
    noise = NOISES[name]
    place = root / noise.folder
    if not os.path.lexists(place):
        return True
    if not (is_folder(place) and has_marker(root, noise.archive)):
        found = len(utterances(place, ".wav"))
        if found < noise.n_wavs:
            raise UserError(
                f"{place}: not extracted by dataprep.py, and incomplete ({found:,} of {noise.n_wavs:,} wavs); move it "
                f"away to download OpenSLR's, or omit --{name} and use the folder with train.py {noise.flag} {place}"
            )
    return False


def download_noise(name: str, root: Path, base: str | None, delete: bool, jobs: int, retries: int) -> None:
    """Download one of the NOISES unless it exists, and extract its folder into `root`; see lacks_noise.

    With `delete` the archive is removed afterwards. OpenSLR has no MD5s of these archives; damage is detected by the
    checksums in the archives.
    """
    noise = NOISES[name]
    if lacks_noise(name, root):
        download_files([Download(noise.archive)], _server(base, noise.page), root, jobs, retries)
        n_files = _extract_folder(root / noise.archive, root, noise.folder)
        print(f"{root / noise.folder}: {n_files:,} files extracted")
    else:
        print(f"{root / noise.folder}: complete")
    if delete:
        (root / noise.archive).unlink(missing_ok=True)


def _extract_folder(archive: Path, root: Path, folder: str) -> int:
    """Extract the archive's folder into `root`, complete or not at all; return its number of files."""
    unfinished, n_files = root / f".{folder}{TEMPORARY_SUFFIX}", 0
    shutil.rmtree(unfinished, ignore_errors=True)
    with open(archive, "rb") as data, console.progress_of_bytes(archive.stat().st_size, archive.name) as bar:
        for name, content in _read_members(data, archive):
            place = unfinished / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            n_files += name.startswith(f"{folder}/")
            bar.update(data.tell() - bar.n)
    if not n_files:
        raise UserError(f"{archive}: contains no {folder}/, unlike OpenSLR's archive")
    write_marker(root, archive.name, [])  # first: a marker without a folder is harmless
    (unfinished / folder).rename(root / folder)
    shutil.rmtree(unfinished)
    return n_files


def _read_members(data: BinaryIO, archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file in a zip or tar.gz; UserError for damage and for an unsafe name."""
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(data) as opened_zip:
                for entry in opened_zip.infolist():
                    refuse_unsafe(entry.orig_filename, True, archive)
                    if not entry.is_dir():
                        yield entry.filename, opened_zip.read(entry)
            return
        with tarfile.open(fileobj=data, mode="r|gz") as opened:
            for member in opened:
                refuse_unsafe(member.name, member.isreg() or member.isdir(), archive)
                if content := opened.extractfile(member):  # None for a folder
                    yield member.name, content.read()
                opened.members = []  # type: ignore[attr-defined]  # otherwise tarfile keeps all headers
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{archive}: {error}; remove it and run again to download it") from None


def _server(base: str | None, page: int) -> Server:
    return Server(f"{(base or BASE).rstrip('/')}/{page}/{{name}}", "try another mirror with --openslr_url")
