"""VoxCeleb's archives as published: names, MD5s and counts; lists of other archives that replace them."""

import fnmatch
import re
from pathlib import Path
from typing import NamedTuple

from configure import TREES, TRIALS_NAME
from system.console import UserError
from system.files import read_rows

PARTS = """
vox1_dev_wav_partaa e395d020928bc15670b570a21695ed96
vox1_dev_wav_partab bbfaaccefab65d82b21903e81a8a8020
vox1_dev_wav_partac 017d579a2a96a077f40042ec33e51512
vox1_dev_wav_partad 7bb1e9f70fddc7a678fa998ea8b3ba19
vox1_test_wav.zip 185fdc63c3c739954633d50379a3d102
vox2_dev_aac_partaa da070494c573e5c0564b1d11c3b20577
vox2_dev_aac_partab 17fe6dab2b32b48abaf1676429cdd06f
vox2_dev_aac_partac 1de58e086c5edf63625af1cb6d831528
vox2_dev_aac_partad 5a043eb03e15c5a918ee6a52aad477f9
vox2_dev_aac_partae cea401b624983e2d0b2a87fb5d59aa60
vox2_dev_aac_partaf fc886d9ba90ab88e7880ee98effd6ae9
vox2_dev_aac_partag d160ecc3f6ee3eed54d55349531cb42e
vox2_dev_aac_partah 6b84a81b9af72a9d9eecbb3b1f602e65
"""
ZIPS = """
vox1_dev_wav_part* vox1_dev_wav.zip ae63e55b951748cc486645f532ba230b
vox2_dev_aac_part* vox2_dev_aac.zip bbc063c46078a602ca71605645c2a402
"""
CHOICES = ("all", "vox1", "vox2", "vox1_dev", "vox1_test")  # --parts: all, or how the keys of TREES begin
COUNTS = {"vox2_dev": (5994, 1092009), "vox1_dev": (1211, 148642), "vox1_test": (40, 4874)}  # speakers, utterances

TRIAL_LISTS = (  # over VoxCeleb1: the name where it is served, the name under save_path, the number of trials
    ("veri_test.txt", TRIALS_NAME, 37720),  # O, original: the paper's
    ("veri_test2.txt", "veri_test2.txt", 37611),  # O, cleaned
    ("list_test_all2.txt", "list_test_all2.txt", 579818),  # E, cleaned
    ("list_test_hard2.txt", "list_test_hard2.txt", 550894),  # H, cleaned
)


class Archive(NamedTuple):
    """A zip archive and the parts that it is distributed in, in their order."""

    name: str
    md5: str | None  # of the complete zip, None if unknown
    parts: dict[str, str]  # file name -> MD5
    tree: str  # key of configure.TREES

    @property
    def inside(self) -> str:
        """The folder in the zip that contains the speakers."""
        return "dev/aac/" if self.tree == "vox2_dev" else "wav/"

    def present(self, folder: Path) -> list[Path]:
        """Return the files in `folder`: the complete zip if it exists, otherwise the parts that exist."""
        joined = folder / self.name
        return [joined] if joined.is_file() else [folder / part for part in self.parts if (folder / part).is_file()]

    def complete(self, folder: Path) -> bool:
        """Return whether `folder` contains the complete zip or all parts."""
        return (folder / self.name).is_file() or len(self.present(folder)) == len(self.parts)


def read_archives(choice: str, parts_list: Path | None = None, zip_list: Path | None = None) -> list[Archive]:
    """Return the archives that --parts selects, from VoxCeleb's lists or from the files that replace them.

    A parts list has lines `NAME MD5`, a zip list lines `PART_GLOB ZIP MD5`. VoxCeleb's zip list does not apply to
    another parts list. UserError with the file and line for a wrong line or name.
    """
    parts = _rows(parts_list, PARTS, "NAME MD5")
    zips = _rows(zip_list, "" if parts_list else ZIPS, "PART_GLOB ZIP MD5")
    archives: dict[str, Archive] = {}
    for part, part_md5 in sorted(parts):
        listed = next(((z, m) for glob, z, m in zips if fnmatch.fnmatch(part, glob)), None)
        name, md5 = listed or (re.sub(r"_part[a-z]+$", ".zip", part), None if "_part" in part else part_md5)
        tree = next((tree for tree in TREES if name.startswith(tree)), None)
        if tree is None:
            place, what = (zip_list, name) if listed else (parts_list, part)
            raise UserError(f"{place}: '{what}' does not begin with {' or '.join(TREES)}; rename it")
        if choice == "all" or tree.startswith(choice):
            archives.setdefault(name, Archive(name, md5, {}, tree)).parts[part] = part_md5
    if not archives:
        raise UserError(f"{parts_list}: contains no archive of --parts {choice}")
    return list(archives.values())


def _rows(path: Path | None, published: str, form: str) -> list[list[str]]:
    """Return the words of each line of a file, or of the published list if there is no file."""
    if path is None:
        return [line.split() for line in published.split("\n") if line]
    rows = []
    for number, (*names, md5) in read_rows(path, form):
        if not re.fullmatch(r"[0-9a-f]{32}", md5.lower()) or any(re.search(r"[/\\:]", name) for name in names):
            raise UserError(f"{path}: line {number}: does not have the format '{form}', with names and 32 hex digits")
        rows.append([*names, md5.lower()])
    return rows
