"""Extract VoxCeleb's archives into the wav trees, without joining their parts on the disk."""

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
from corpora.old_features import remove_feature, report_removed
from corpora.voxceleb import Archive
from system import console
from system.console import UserError
from system.files import check_free_space, read_lines, remove_unfinished_below, replacing, utterances

BLOCK = 1 << 20  # bytes read at a time
ENCODINGS = (".wav", ".m4a")  # suffixes of recordings; archives of --parts_list may contain other files, too
MARKER_SUFFIX = ".extracted"  # ARCHIVE.extracted is the marker file of an extracted archive, lines SPEAKER COUNT


class _JoinedFile(io.RawIOBase):
    """A seekable file that reads several files as one, for zipfile."""

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
        """Read into the buffer at most to the end of the current file; return the number of bytes."""
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
    """Yield the bytes of an archive in `root`, its zip directory, and the path in the wav tree of each recording.

    UserError if a part is missing, the zip is damaged or contains no recordings, or a member would be written outside
    its folder.
    """
    if not archive.complete(root):
        part = next(part for part in archive.parts if not (root / part).is_file())
        raise UserError(f"{root / part}: missing, so {archive.name} cannot be extracted; download it with --download")
    with io.BufferedReader(_JoinedFile(archive.present(root)), BLOCK) as data:
        try:
            opened = zipfile.ZipFile(data)
        except zipfile.BadZipFile as error:
            raise UserError(f"{root / archive.name}: {error}; remove it and download it again") from None
        with opened:
            places = {}
            for member in opened.infolist():
                kind = stat.S_IFMT(member.external_attr >> 16)  # 0 if the archive does not state it
                ordinary = kind in (0, stat.S_IFREG, stat.S_IFDIR)
                refuse_unsafe(member.orig_filename, ordinary, root / archive.name)
                if member.filename.startswith(archive.inside) and not member.is_dir():
                    places[member] = root / TREES[archive.tree].wav / member.filename.removeprefix(archive.inside)
            if not places:
                raise UserError(f"{root / archive.name}: contains no {archive.inside}, unlike VoxCeleb's archives")
            yield data, opened, places


def refuse_unsafe(name: str, ordinary: bool, archive: Path) -> None:
    """Raise UserError if a member would be written outside the folder, or is not a regular file or folder."""
    outside = name.startswith("/") or ".." in name.split("/") or re.search(r"[\\:\0]", name)
    if outside or not ordinary:
        reason = "leads outside the folder" if outside else "is a link or device"
        raise UserError(f"{archive}: member {name!r} {reason}; nothing was extracted, do not trust this archive")


def find_missing(places: dict[zipfile.ZipInfo, Path]) -> dict[zipfile.ZipInfo, Path]:
    """Return the recordings of an archive that have not been extracted.

    An m4a counts as extracted if its wav exists, since --delete_m4a removes the m4a after its conversion.
    """
    return {member: place for member, place in places.items() if not _is_extracted(place, member.file_size)}


def _is_extracted(place: Path, size: int) -> bool:
    try:
        return place.stat().st_size == size
    except FileNotFoundError:
        return place.with_suffix(".wav").exists()


def extract_all(archives: list[Archive], root: Path, delete: bool) -> None:
    """Extract the archives that are in `root`; UserError if there is none, or if extracted recordings are missing."""
    started = [archive for archive in archives if has_marker(root, archive.name) or archive.present(root)]
    if not started:
        names = ", ".join(archive.name for archive in archives)
        raise UserError(f"{root}: contains no {names}, and no parts of them; download them with --download")
    for archive in started:
        refuse_lost(root, archive.name, archive.tree)
    for archive in started:
        if not has_marker(root, archive.name):
            extract(archive, root, delete)
        if delete:
            for part in archive.present(root):
                part.unlink()


def extract(archive: Archive, root: Path, delete: bool) -> None:
    """Extract an archive in `root` into its wav tree; files that were extracted before are kept.

    With `delete`, also write the marker file; then the parts may be removed. UserError, before anything is written, if
    a part is missing or damaged, a member is unsafe, an existing file differs from a member, or the disk is full.
    """
    with open_zip(archive, root) as (data, opened, places):
        missing, n_features = find_missing(places), 0
        if other := next((place for place in missing.values() if os.path.lexists(place)), None):
            raise UserError(f"{other}: differs from the file in {archive.name}; move it away and run again")
        if missing:
            check_free_space(root, archive.name, sum(member.file_size for member in missing))
            _check_md5(archive, root, data)
            remove_unfinished_below(root / TREES[archive.tree].wav)
            n_features = sum(remove_feature(root, place) for place in missing.values() if place.suffix == ".wav")
            _write_members(root / archive.name, opened, missing)
    print(f"{archive.name}: {len(missing):,} files extracted")
    report_removed(n_features)
    if delete:
        names = (member.filename.removeprefix(archive.inside) for member in places)
        recordings = [name for name in names if name.lower().endswith(ENCODINGS) and "/." not in f"/{name}"]
        write_marker(root, archive.name, recordings)


def has_marker(root: Path, name: str) -> bool:
    """Return whether an archive was extracted and has a marker file; then it may have been removed."""
    return (root / (name + MARKER_SUFFIX)).exists()


def write_marker(root: Path, name: str, recordings: Iterable[str]) -> None:
    """Write the marker file of an extracted archive, so that the archive is not downloaded again and may be removed.

    The marker file contains the number of recordings of each speaker. `recordings` are their paths, <speaker>/...;
    two paths that differ only in their suffix count once. First, all extracted files are flushed to the disk.
    """
    os.sync()  # the recordings would be lost if the power failed after the removal of the archive
    counts = _count_by_speaker({path.rpartition(".")[0] for path in recordings})
    with replacing(root / (name + MARKER_SUFFIX), durable=True) as marker:
        lines = "".join(f"{speaker} {count}\n" for speaker, count in counts.items())
        marker.write_text(lines, encoding="utf-8", errors="surrogateescape")


def count_lost(root: Path, name: str, tree: str) -> int:
    """Return how many recordings of an extracted archive are no longer in the wav tree; 0 without a marker file."""
    if not has_marker(root, name):
        return 0
    marker, wavs = root / (name + MARKER_SUFFIX), root / TREES[tree].wav
    found = _count_by_speaker({utterance for suffix in ENCODINGS for utterance in utterances(wavs, suffix)})
    lines = (line.rstrip().rpartition(" ") for line in read_lines(marker, "no such marker file"))
    return (Counter({speaker: int(count) for speaker, _, count in lines}) - found).total()


def refuse_lost(root: Path, name: str, tree: str, otherwise: str = "exclude it with --parts") -> None:
    """Raise UserError if recordings of an extracted archive are no longer in the wav tree.

    The message advises to extract the archive again, or `otherwise`.
    """
    if lost := count_lost(root, name, tree):
        marker = root / (name + MARKER_SUFFIX)
        raise UserError(
            f"{name}: extracted, but {lost:,} of its files are no longer in {root / TREES[tree].wav}; remove {marker} "
            f"to download and extract it again, or {otherwise}"
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
            f"{root / archive.name}: the MD5 of its joined parts is {found.hexdigest()}, not {archive.md5} as listed; "
            "download them again, or describe other archives with --parts_list and --zip_list"
        )


def _write_members(archive: Path, opened: zipfile.ZipFile, members: dict[zipfile.ZipInfo, Path]) -> None:
    with console.progress_of_bytes(sum(member.file_size for member in members), archive.name) as bar:
        for member, place in members.items():
            try:
                with opened.open(member) as source, replacing(place) as temporary, open(temporary, "wb") as file:
                    shutil.copyfileobj(source, file, BLOCK)  # at most the declared size
                    if file.tell() != member.file_size:
                        raise EOFError("shorter than declared")
            except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError) as error:
                raise UserError(f"{archive}: member {member.filename!r}: {error}; download the archive again") from None
            bar.update(member.file_size)
