"""MUSAN (OpenSLR 17) and RIRS_NOISES (OpenSLR 28), free for all: noise and rooms for train.py --augment."""

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from corpora.archives import is_spent, note_spent, refuse_unsafe
from corpora.download import fetch
from corpora.sources import Wanted, openslr_source
from system import console
from system.console import UserError
from system.files import TEMPORARY_SUFFIX, is_folder


class NoiseCorpus(NamedTuple):
    """An archive at OpenSLR."""

    page: int
    archive: str
    folder: str  # that the archive holds


CORPORA = {
    "musan": NoiseCorpus(17, "musan.tar.gz", "musan"),
    "rirs": NoiseCorpus(28, "rirs_noises.zip", "RIRS_NOISES"),
}


def bring_noise(corpus: NoiseCorpus, root: Path, base: str | None, delete: bool, jobs: int, retries: int) -> None:
    """Fetch an archive and extract its folder into `root`; with `delete` the archive is removed then.

    OpenSLR lists no MD5s of these; the archives' own checksums tell damage.
    """
    archive = root / corpus.archive
    if not (is_spent(root, corpus.archive) and is_folder(root / corpus.folder)):
        fetch([Wanted(corpus.archive)], openslr_source(base, corpus.page), root, jobs, retries)
        n_files = _extract(archive, root, corpus.folder)
        note_spent(root, corpus.archive, [])
        print(f"{root / corpus.folder}: {n_files:,} files extracted")
    if delete:
        archive.unlink(missing_ok=True)


def _extract(archive: Path, root: Path, folder: str) -> int:
    """Extract the archive's folder into `root`, where it appears whole or not at all; return how many files it has."""
    unfinished, n_files = root / f".{folder}{TEMPORARY_SUFFIX}", 0
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with (
            open(archive, "rb") as data,
            console.progress(total=archive.stat().st_size, unit="B", unit_scale=True, desc=archive.name) as bar,
        ):
            for name, content in _members(archive, data):
                place = unfinished / name
                place.parent.mkdir(parents=True, exist_ok=True)
                with open(place, "wb") as file:
                    shutil.copyfileobj(content, file)
                n_files += name.startswith(f"{folder}/")
                bar.update(data.tell() - bar.n)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{archive}: {error}; remove it and run again to fetch it anew") from None
    if not n_files:
        raise UserError(f"{archive}: holds nothing in {folder}/, as OpenSLR's does")
    shutil.rmtree(root / folder, ignore_errors=True)
    (unfinished / folder).rename(root / folder)
    shutil.rmtree(unfinished)
    return n_files


def _members(archive: Path, data: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the names and contents of an archive's files; UserError for one that would lie outside its folder."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(data) as opened:
            for member in opened.infolist():
                refuse_unsafe(member.orig_filename, True, archive)
                if not member.is_dir():
                    with opened.open(member) as content:
                        yield member.filename, content
    else:
        with tarfile.open(fileobj=data, mode="r|gz") as packed:
            for entry in packed:
                refuse_unsafe(entry.name, entry.isreg() or entry.isdir(), archive)
                if file := packed.extractfile(entry):
                    yield entry.name, file
