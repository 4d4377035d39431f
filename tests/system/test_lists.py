"""All text lists, as the editors and shells of different systems write them."""

import codecs
from collections.abc import Callable
from pathlib import Path

import pytest
from list_table import BLIND_LISTS, ENROLMENT, TRIAL_LISTS, A, B, C

from corpora.kaldi import plan_list
from corpora.voxceleb import read_archives
from dataset.trials import read_enrolment, read_trials
from evaluation.score_file import read_scores
from system.console import UserError

MD5S = "0" * 32, "1" * 32
PAIRS = [(A, B), (A, C)]
MARK = "\ufeff"


def trials(path: Path) -> object:
    found = read_trials(path, blind=True)
    return list(zip(found.enrol, found.test, strict=True)), found.label.tolist()


def scores(path: Path) -> object:
    table = read_scores(path)
    return list(zip(table["enrol"], table["test"], strict=True)), table["label"].tolist()


def wav_scp(path: Path) -> object:
    (path.parent / "utt2spk").write_text("anna-1 anna\nben-1 ben\n")
    return [(r.source, r.wav) for r in plan_list(path, path.parent / "utt2spk", Path("tree"))]


def utt2spk(path: Path) -> object:
    (path.parent / "wav.scp").write_text("anna-1 /data/anna 1.wav\nben-1 /data/ben.flac\n")
    return [(r.source, r.wav) for r in plan_list(path.parent / "wav.scp", path, Path("tree"))]


def parts_list(path: Path) -> object:
    return [(archive.name, archive.parts) for archive in read_archives("all", path)]


def zip_list(path: Path) -> object:
    (path.parent / "parts.txt").write_text(f"mine_partaa {MD5S[0]}\n")
    return [
        (archive.name, archive.md5, archive.parts) for archive in read_archives("all", path.parent / "parts.txt", path)
    ]


IMPORTED = [
    (Path("/data/anna 1.wav"), Path("tree/anna/all/anna-1.wav")),
    (Path("/data/ben.flac"), Path("tree/ben/all/ben-1.wav")),
]
LISTS: dict[str, tuple[Callable[[Path], object], str, object]] = {  # reader, text, content
    "trials": (trials, TRIAL_LISTS["VoxCeleb"], (PAIRS, [True, False])),
    "trials, label last": (trials, TRIAL_LISTS["Kaldi, 3D-Speaker"], (PAIRS, [True, False])),
    "trials, scored": (trials, TRIAL_LISTS["--save_scores"], (PAIRS, [True, False])),
    "trials, blind": (trials, BLIND_LISTS["VoxSRC's blind lists"], (PAIRS, [])),
    "scores": (scores, TRIAL_LISTS["--save_scores"], (PAIRS, [True, False])),
    "enrolment": (read_enrolment, ENROLMENT, {"anna": [A, B], "fred": [C]}),
    "wav.scp": (wav_scp, "anna-1 /data/anna 1.wav\nben-1 /data/ben.flac\n", IMPORTED),
    "utt2spk": (utt2spk, "anna-1 anna\nben-1 ben\n", IMPORTED),
    "parts": (
        parts_list,
        f"vox1_test_wav.zip {MD5S[0]}\nvox2_dev_aac_partaa {MD5S[1]}\n",
        [("vox1_test_wav.zip", {"vox1_test_wav.zip": MD5S[0]}), ("vox2_dev_aac.zip", {"vox2_dev_aac_partaa": MD5S[1]})],
    ),
    "zips": (
        zip_list,
        f"mine_part* vox1_dev_wav.zip {MD5S[1]}\n",
        [("vox1_dev_wav.zip", MD5S[1], {"mine_partaa": MD5S[0]})],
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_byte_order_marks_and_line_ends_have_no_effect(tmp_path: Path, name: str) -> None:
    read, text, said = LISTS[name]
    path = tmp_path / "list.txt"
    is_table = text.startswith(("label,", "enrol,"))
    joined = MARK + text.replace("\n", "\n" if is_table else f"\n{MARK}").removesuffix(MARK)  # of several lists
    for written in (
        text,
        MARK + text,
        (MARK + text).replace("\n", "\r\n"),
        text.replace("\n", "\r\n").rstrip(),
        joined,
    ):
        path.write_bytes(written.encode())
        assert read(path) == said


@pytest.mark.parametrize("name", LISTS)
def test_utf_16_and_binary_files_are_errors(tmp_path: Path, name: str) -> None:
    read, text, _ = LISTS[name]
    path = tmp_path / "list.txt"
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"), (b"", "utf-16-le")):
        path.write_bytes(mark + text.replace("\n", "\r\n").encode(encoding))
        with pytest.raises(UserError, match=r"list.txt: UTF-16 or a binary file.* iconv -f UTF-16 -t UTF-8"):
            read(path)
    path.unlink()
    with pytest.raises(UserError, match=r"list.txt: no such"):
        read(path)
