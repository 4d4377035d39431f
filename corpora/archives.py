"""VoxCeleb's archives into the wav trees, read where they lie: parts are never joined on disk."""

import bisect
import hashlib
import io
import itertools
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from configure import TREES
from corpora.voxceleb import Archive
from system import console
from system.console import UserError
from system.files import check_room, read_lines, remove_unfinished_below, replacing, utterances

BLOCK = 1 << 20  # bytes read at a time
ENCODINGS = (".wav", ".m4a")  # of VoxCeleb's recordings; the archives of others may hold files of other kinds, too
MARKER_SUFFIX = ".extracted"  # of the marker file of an extracted archive; its lines are "SPEAKER COUNT"


class _JoinedFile(io.RawIOBase):
    """Several files read as one, end to end; seekable, so that zipfile can read it."""

    def __init__(self, paths: list[Path]):
        self._files = [open(path, "rb", buffering=0) for path in paths]
        self._ends = list(itertools.accumulate(path.stat().st_size for path in paths))
        self._position = 0

    def readable(self) -> bool:
        return True

    seekable = readable

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ends[-1]}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from the file at the position, at most to that file's end; return the bytes read."""
        index = bisect.bisect_right(self._ends, self._position)
        if index == len(self._files):
            return 0
        file, end = self._files[index], self._ends[index]
        file.seek(self._position - (self._ends[index - 1] if index else 0))
        count = file.readinto(memoryview(buffer)[: end - self._position])
        self._position += count
        return count

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


@contextmanager
def open_zip(archive: Archive, root: Path) -> Iterator[tuple[BinaryIO, zipfile.ZipFile, dict[zipfile.ZipInfo, Path]]]:
    """Yield the bytes of an archive in `root`, its zip directory, and for each recording its place in the wav tree.

    Raises UserError if a part is missing, the zip is damaged or holds no recordings, or a member would be written
    outside its folder.
    """
    if not archive.complete(root):
        part = next(part for part in archive.parts if not (root / part).is_file())
        raise UserError(f"{root / part} is missing, so {archive.name} cannot be extracted; --download fetches it")
    with io.BufferedReader(_JoinedFile(archive.present(root)), BLOCK) as data:
        try:
            opened = zipfile.ZipFile(data)
        except zipfile.BadZipFile as error:
            raise UserError(f"{root / archive.name}: {error}; remove its parts and --download again") from None
        with opened:
            places = {}
            for member in opened.infolist():
                kind = stat.S_IFMT(member.external_attr >> 16)  # 0: the archive does not say
                ordinary = kind in (0, stat.S_IFREG, stat.S_IFDIR)
                refuse_unsafe(member.orig_filename, ordinary, root / archive.name)
                if member.filename.startswith(archive.inside) and not member.is_dir():
                    places[member] = root / TREES[archive.tree].wav / member.filename.removeprefix(archive.inside)
            if not places:
                raise UserError(f"{root / archive.name}: holds nothing in {archive.inside}, as VoxCeleb's archives do")
            yield data, opened, places


def refuse_unsafe(name: str, ordinary: bool, archive: Path) -> None:
    """Raise UserError if an archive's member would lie outside its folder or is no ordinary file or folder."""
    outside = name.startswith("/") or ".." in name.split("/") or re.search(r"[\\:\0]", name)
    if outside or not ordinary:
        reason = "leads outside the folder" if outside else "is a link or a device"
        raise UserError(f"{archive}: member {name!r} {reason}; extraction refused, do not trust this archive")


def find_missing(places: dict[zipfile.ZipInfo, Path]) -> dict[zipfile.ZipInfo, Path]:
    """Return those of an archive's recordings that have not been extracted.

    An m4a counts as extracted if its wav exists, since --delete_m4a removes the m4a after its conversion.
    """
    return {member: place for member, place in places.items() if not _is_extracted(place, member.file_size)}


def _is_extracted(place: Path, size: int) -> bool:
    try:
        return place.stat().st_size == size
    except FileNotFoundError:
        return place.with_suffix(".wav").exists()


def extract_all(archives: list[Archive], root: Path, delete: bool) -> None:
    """Extract those of the archives that are in `root`; UserError if none is, or what was extracted is lost."""
    here = [archive for archive in archives if was_removed(root, archive.name) or archive.present(root)]
    if not here:
        names = ", ".join(archive.name for archive in archives)
        raise UserError(f"{root}: contains none of {names}, nor their parts; download them with --download")
    for archive in here:
        refuse_lost(root, archive.name, archive.tree)
    for archive in here:
        if not was_removed(root, archive.name):
            extract(archive, root, delete)
        if delete:
            for part in archive.present(root):
                part.unlink()


def extract(archive: Archive, root: Path, delete: bool) -> None:
    """Write an archive's members into its wav tree under `root`, where its parts are too; complete files are kept.

    With `delete`, also write the marker that lets the parts be removed. Raises UserError for a missing or damaged part,
    an unsafe member, another file in the place of a member and a full disk, before anything is written.
    """
    with open_zip(archive, root) as (data, opened, places):
        missing = find_missing(places)
        if other := next((place for place in missing.values() if os.path.lexists(place)), None):
            raise UserError(f"{other}: differs from the file in {archive.name}; move it away, then run again")
        if missing:
            check_room(root, archive.name, sum(member.file_size for member in missing))
            _check_md5(archive, root, data)
            remove_unfinished_below(root / TREES[archive.tree].wav)
            _write_members(root / archive.name, opened, missing)
    print(f"{archive.name}: {len(missing):,} files extracted")
    if delete:
        names = (member.filename.removeprefix(archive.inside) for member in places)
        recordings = [name for name in names if name.lower().endswith(ENCODINGS) and "/." not in name]
        write_marker(root, archive.name, recordings)


def was_removed(root: Path, name: str) -> bool:
    """Return whether an archive was extracted and then removed, at least in part."""
    return (root / (name + MARKER_SUFFIX)).exists()


def write_marker(root: Path, name: str, recordings: Iterable[str]) -> None:
    """Write the marker of an extracted archive, which is then neither needed nor downloaded again.

    It counts the recordings of each speaker. `recordings` are their paths, <speaker>/...; two that differ in their
    suffix alone are one.
    """
    counts = _count_by_speaker({path.rpartition(".")[0] for path in recordings})
    with replacing(root / (name + MARKER_SUFFIX), durable=True) as marker:
        lines = "".join(f"{speaker} {count}\n" for speaker, count in counts.items())
        marker.write_text(lines, encoding="utf-8", errors="surrogateescape")


def refuse_lost(root: Path, name: str, tree: str) -> None:
    """Raise UserError if an archive was removed and recordings of it are missing in the wav tree."""
    if not was_removed(root, name):
        return
    marker, wavs = root / (name + MARKER_SUFFIX), root / TREES[tree].wav
    found = _count_by_speaker({utterance for suffix in ENCODINGS for utterance in utterances(wavs, suffix)})
    lines = (line.rstrip().rpartition(" ") for line in read_lines(marker, "no such marker"))
    if lost := (Counter({speaker: int(count) for speaker, _, count in lines}) - found).total():
        raise UserError(
            f"{name}: was extracted and removed, and {lost:,} of its files are no longer in {wavs}; remove {marker} "
            "to download it again, or exclude it with --parts"
        )


def _count_by_speaker(names: Iterable[str]) -> Counter[str]:
    return Counter(name.partition("/")[0] for name in names)


def _check_md5(archive: Archive, root: Path, data: BinaryIO) -> None:
    if archive.md5 is None:
        return
    total, found = data.seek(0, io.SEEK_END), hashlib.md5()
    data.seek(0)
    with console.progress_of_bytes(total, f"{archive.name} MD5") as bar:
        while block := data.read(BLOCK):
            found.update(block)
            bar.update(len(block))
    if found.hexdigest() != archive.md5:
        raise UserError(
            f"{root / archive.name}: its parts join to MD5 {found.hexdigest()}, listed is {archive.md5}; remove them "
            "and --download again, or give --parts_list and --zip_list if these archives are not VoxCeleb's own"
        )


def _write_members(archive: Path, opened: zipfile.ZipFile, members: dict[zipfile.ZipInfo, Path]) -> None:
    with console.progress_of_bytes(sum(member.file_size for member in members), archive.name) as bar:
        for member, place in members.items():
            try:
                with opened.open(member) as source, replacing(place) as temporary, open(temporary, "wb") as file:
                    shutil.copyfileobj(source, file, BLOCK)  # zipfile gives no more than the declared size
                    if file.tell() != member.file_size:
                        raise EOFError("its size is not the declared one")
            except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError) as error:
                raise UserError(f"{archive}: member {member.filename!r}: {error}; fetch it again") from None
            bar.update(member.file_size)
