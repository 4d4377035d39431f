"""Unusual trees: links to folders, unreadable folders, no videos, suffixes in upper case."""

import errno
import hashlib
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from archive_set import m4a, tone, tree, wav, zipped
from conftest import here, run_script, voice, write_features, write_wavs

from configure import TREES, TRIALS_NAME
from dataset.index import FeatureIndex
from system.console import UserError
from system.files import remove_unfinished_below, utterances, walk

TREE = TREES["vox1_test"]
EXTRACT = ("feat_extract/feature_extraction.py", "--num_workers", 1)


def elsewhere(path: Path, store: Path) -> None:
    """Move a folder to another one, as to another disk, and replace it by a link."""
    store.mkdir(exist_ok=True)
    shutil.move(path, store / path.name)
    path.symlink_to(store / path.name, target_is_directory=True)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Seven speakers of two utterances; six of them are links, and one has a link to the tree itself."""
    write_wavs(tmp_path / "data", "vox1_test", range(7), 2, seconds=0.5)
    wavs = tmp_path / "data" / TREE.wav
    for speaker in range(6):
        elsewhere(wavs / f"id{speaker:05d}", tmp_path / "disk")
    elsewhere(wavs / "id00006" / "video1", tmp_path / "disk")
    (wavs / "id00006" / "back").symlink_to(wavs)
    return tmp_path


def names(speakers: int = 7) -> set[str]:
    return {f"id{speaker:05d}/video{number}/{number:05d}" for speaker in range(speakers) for number in range(2)}


def test_links_to_folders_are_followed_except_in_loops(home: Path) -> None:
    wavs = home / "data" / TREE.wav
    assert utterances(wavs, ".wav") == dict.fromkeys(names(), ".wav")
    assert [folder.name for folder in walk(wavs)][:3] == ["", "id00000", "id00000/video0"]
    (home / "disk" / "id00003" / "up").symlink_to(home / "disk")  # contains the folder of this link, and others
    assert utterances(wavs, ".wav").keys() > names()
    assert not any("id00003/up/id00003" in folder.name for folder in walk(wavs))


@pytest.mark.slow
def test_every_script_follows_links(home: Path) -> None:
    done = run_script(*EXTRACT, cwd=home)
    assert "14 files written, 0 existed already, 0 failed" in done.stdout
    features = home / "data" / TREE.feat
    elsewhere(features / "id00002", home / "feature_disk")
    assert "0 files written, 14 existed already" in run_script(*EXTRACT, cwd=home).stdout
    printed = run_script("dataprep.py", "--check", cwd=home).stdout
    assert re.search(r"voxceleb1/test/wav +14 of 4,874 wavs, 7 of 40 speakers, 14 features", printed)
    index = FeatureIndex([features])
    assert {index.name(row) for row in range(len(index))} == names()
    run_script("dataprep.py", "--make_trials", 14, cwd=home)
    trials = (home / "data" / TRIALS_NAME).read_text().split()
    assert {name[:7] for name in trials if "/" in name} == {f"id{speaker:05d}" for speaker in range(7)}
    run_script("dataprep.py", "--save_path", "imported", "--import_dir", f"data/{TREE.wav}", cwd=home)
    imported = home / "imported" / TREES["vox2_dev"].wav
    assert utterances(imported, ".wav").keys() == names()


def test_the_conversion_follows_links_and_removes_unfinished_files_there(tmp_path: Path) -> None:
    wavs = tmp_path / "data" / TREES["vox2_dev"].wav
    for name in ("id1/v", "id2/v"):
        (wavs / name).mkdir(parents=True)
        (wavs / name / "a.M4A").write_bytes(m4a(tone(0.5, 1)))
    (wavs / "id1/v/.a.wav.77.tmp").write_bytes(b"left by a killed run")
    elsewhere(wavs / "id1", tmp_path / "disk")
    assert run_script("dataprep.py", "--convert", cwd=tmp_path).stdout == "2 m4a files converted\n"
    assert sorted(os.listdir(wavs / "id1/v")) == ["a.M4A", "a.wav"]


def test_the_conversion_and_extraction_of_archives_remove_features_of_earlier_wavs(tmp_path: Path) -> None:
    m4a_tree, wav_tree = TREES["vox2_dev"], TREES["vox1_test"]
    for name in (f"{m4a_tree.feat}/id1/v/a.pkl", f"{wav_tree.feat}/id1/v/a.pkl"):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        (tmp_path / "data" / name).write_text("of an earlier wav")
    (tmp_path / "data" / m4a_tree.wav / "id1/v").mkdir(parents=True)
    (tmp_path / "data" / m4a_tree.wav / "id1/v/a.m4a").write_bytes(m4a(tone(0.5, 1)))
    archive = zipped({"wav/id1/v/a.wav": wav(tone(0.5, 1))})
    (tmp_path / "data/vox1_test_wav.zip").write_bytes(archive)
    (tmp_path / "parts.txt").write_text(f"vox1_test_wav.zip {hashlib.md5(archive).hexdigest()}\n")
    done = here("dataprep.py", "--extract", "--parts_list", "parts.txt", "--convert", cwd=tmp_path)
    removed = "1 features of replaced wavs removed; run feat_extract/feature_extraction.py again\n"
    assert done.stdout == f"vox1_test_wav.zip: 1 files extracted\n{removed}1 m4a files converted\n{removed}"
    assert not tree(tmp_path, ".pkl")


def test_a_linked_tree_whose_disk_is_not_mounted_is_an_error(home: Path) -> None:
    write_wavs(home / "data", "vox2_dev", range(2), 1, seconds=0.5)
    elsewhere(home / "data" / "voxceleb2", home / "disk")
    (home / "disk").rename(home / "away")
    for script in (EXTRACT, ("dataprep.py", "--convert"), ("dataprep.py", "--check")):
        done = run_script(*script, cwd=home, check=1)
        assert re.search(r"data/(voxceleb2|\S+/id00000): cannot be read .*mounted", done.stderr), done.stderr
        assert done.stderr.count("\n") == 1
    assert not (home / "data" / TREE.feat).exists()


@pytest.mark.parametrize("target", ["id00001", "nowhere"], ids=["to itself", "to nowhere"])
def test_a_folder_that_cannot_be_listed_is_an_error_and_nothing_is_written(tmp_path: Path, target: str) -> None:
    write_wavs(tmp_path / "data", "vox1_test", range(1), 1, seconds=0.5)
    (tmp_path / "data" / TREE.wav / "id00001").symlink_to(target)
    before = tree(tmp_path)
    for script in (EXTRACT, ("dataprep.py", "--convert")):
        done = run_script(*script, cwd=tmp_path, check=1)
        assert "id00001: cannot be read" in done.stderr and done.stderr.count("\n") == 1
    assert tree(tmp_path) == before


def test_a_folder_that_fails_while_it_is_listed_is_an_error_and_no_index_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_features(tmp_path / "feat", 3, 2)
    listed = os.scandir

    def failing(path: str) -> object:
        if path.endswith("id00001"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return listed(path)

    with monkeypatch.context() as broken:
        broken.setattr(os, "scandir", failing)
        with pytest.raises(UserError, match="id00001: cannot be read .Input/output error"):
            FeatureIndex([tmp_path / "feat"])
    assert os.listdir(tmp_path) == ["feat"]
    assert len(FeatureIndex([tmp_path / "feat"])) == 6


@pytest.mark.slow
def test_utterances_need_no_video_and_suffixes_may_be_capitals(tmp_path: Path) -> None:
    wavs = tmp_path / "data" / TREE.wav
    for number, name in enumerate(("a/1.wav", "a/2.WAV", "b/v/1.Wav", "b/v/2.wav")):
        (wavs / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(wavs / name, voice(number, 0.5, number), 16000, subtype="PCM_16", format="WAV")
    assert "4 files written" in run_script(*EXTRACT, cwd=tmp_path).stdout
    printed = run_script("dataprep.py", "--check", cwd=tmp_path).stdout
    assert "4 of 4,874 wavs, 2 of 40 speakers, 4 features" in printed
    assert (
        "next: python dataprep.py --save_path data --make_trials 4" in printed
    )  # two target and two non-target trials
    run_script("dataprep.py", "--make_trials", 4, cwd=tmp_path)
    trials = (tmp_path / "data" / TRIALS_NAME).read_text().split()
    assert {name for name in trials if "/" in name} == {"a/1.wav", "a/2.WAV", "b/v/1.Wav", "b/v/2.wav"}
    features = tmp_path / "data" / TREE.feat
    (features / "a" / "1.pkl").rename(features / "a" / "1.PKL")
    assert "0 files written, 4 existed already" in run_script(*EXTRACT, cwd=tmp_path).stdout
    index = FeatureIndex([features])
    assert [index.name(row) for row in range(4)] == ["a/1", "a/2", "b/v/1", "b/v/2"]
    rows = index.rows(["a/1.wav", "a/2.WAV"])
    assert [np.isfinite(index.utterance(row)).all() for row in rows] == [True, True]


def test_two_files_of_the_same_name_are_an_error(tmp_path: Path) -> None:
    write_wavs(tmp_path / "data", "vox1_test", range(1), 1, seconds=0.5)
    wav = tmp_path / "data" / TREE.wav / "id00000/video0/00000.wav"
    shutil.copy(wav, wav.with_suffix(".WAV"))
    done = run_script(*EXTRACT, cwd=tmp_path, check=1)
    assert "video0/00000.WAV and .wav: two files with the same name" in done.stderr and done.stderr.count("\n") == 1
    write_features(tmp_path / "feat", 1, 1)
    shutil.copy(tmp_path / "feat/id00000/v0/00000.pkl", tmp_path / "feat/id00000/v0/00000.PKL")
    with pytest.raises(UserError, match="id00000/v0/00000: two files"):
        FeatureIndex([tmp_path / "feat"])


def test_hidden_files_and_hidden_broken_links_are_not_utterances(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in (".x.wav", ".hidden.1.tmp", ".syncthing.x.wav.tmp", "x.wav"):  # Syncthing's is still being written
        (tmp_path / "a" / name).touch()
    (tmp_path / "a" / ".#x.wav").symlink_to("someone@host.1234")  # Emacs' mark of an open file
    assert utterances(tmp_path, ".wav") == {"a/x": ".wav"}
    remove_unfinished_below(tmp_path)
    assert sorted(os.listdir(tmp_path / "a")) == [".#x.wav", ".syncthing.x.wav.tmp", ".x.wav", "x.wav"]
    assert utterances(tmp_path / "absent", ".wav") == {}


def test_hidden_folders_and_pipes_are_skipped(tmp_path: Path) -> None:
    for folder in ("a", "a/.ipynb_checkpoints", ".stversions/b"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        soundfile.write(tmp_path / "in" / folder / "1.wav", tone(1.2, len(folder)), 16000)
    (tmp_path / ".Trash-1000").symlink_to(tmp_path / "in", target_is_directory=True)
    os.mkfifo(tmp_path / "in/a/2.wav")
    assert utterances(tmp_path / "in", ".wav") == {"a/1": ".wav"} and not utterances(tmp_path, ".txt")
    assert [folder.name for folder in walk(tmp_path)] == ["", "in", "in/a"]
    here("dataprep.py", "--save_path", tmp_path / "root", "--import_dir", tmp_path / "in", cwd=tmp_path)
    assert utterances(tmp_path / "root" / TREES["vox2_dev"].wav, ".wav") == {"a/all/1": ".wav"}
    assert utterances(tmp_path / "in" / "a" / ".ipynb_checkpoints", ".wav") == {"1": ".wav"}  # named by the caller
