import errno
import itertools
import os
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_features
from list_table import NAMES, UTTERANCE

import dataset.index
import dataset.table
from dataset.episodes import TrainingEpisodes
from dataset.features import Location, locate, read_feature, write_feature
from dataset.index import FeatureIndex, n_starts
from dataset.trial_sampling import sample_short_trials
from system.console import UserError


def settle(tree: Path) -> None:
    """Set the times of all files and folders back by a minute, so that they are reliable."""
    past = time.time() - 60
    for path in (tree, *tree.rglob("*")):
        os.utime(path, (past, past))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_features(tmp_path / "feat", n_speakers=3, n_utterances=4)
    settle(tmp_path / "feat")
    return tmp_path / "feat"


def test_speakers_and_utterances_are_sorted(tree: Path) -> None:
    index = FeatureIndex([tree])
    assert index.speakers == ["id00000", "id00001", "id00002"]
    assert index.count.tolist() == [4, 4, 4] and index.first.tolist() == [0, 4, 8]
    names = [f"id00000/{name}" for name in ("v0/00000", "v0/00002", "v1/00001", "v1/00003")]
    assert [index.name(row) for row in range(4)] == names
    assert index.n_frames(np.arange(4)).tolist() == [230, 232, 231, 233]
    assert index.speaker.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_speakers_with_a_common_prefix_are_separate(tmp_path: Path) -> None:
    for name in ("a", "a-b", "a0"):
        for u in range(2):
            write_feature(tmp_path / "t" / name / "v" / f"{u}.pkl", np.ones((5, 40)), name)
    index = FeatureIndex([tmp_path / "t"])
    for s, name in enumerate(index.speakers):
        rows = range(index.first[s], index.first[s] + index.count[s])
        assert [index.name(row) for row in rows] == [f"{name}/v/0", f"{name}/v/1"]


def test_a_feature_next_to_the_folder_of_its_speaker_is_an_error(tmp_path: Path) -> None:
    for name in ("a/v/0", "a/v/1", "a-b/v/0", "c", "d-e/0"):
        write_feature(tmp_path / "t" / f"{name}.pkl", np.ones((5, 40)), name)
    index = FeatureIndex([tmp_path / "t"])
    assert index.speakers == ["a", "a-b", "c", "d-e"] and index.count.tolist() == [2, 1, 1, 1]
    write_feature(tmp_path / "t" / "a.pkl", np.ones((5, 40)), "a")
    with pytest.raises(UserError, match="t/a.pkl: stored next to the folder of speaker a; move "):
        FeatureIndex([tmp_path / "t"])


def test_names_are_found_with_any_suffix(tree: Path) -> None:
    index = FeatureIndex([tree])
    rows = index.rows(["id00001/v1/00003.wav", "id00000/v0/00000.m4a", "id00001/v1/00003"])
    assert [index.name(row) for row in rows] == ["id00001/v1/00003", "id00000/v0/00000", "id00001/v1/00003"]
    with pytest.raises(UserError, match="id00009/v0/00000.wav.*1 of 2 missing"):
        index.rows(["id00001/v1/00003.wav", "id00009/v0/00000.wav"])


def test_several_trees_are_one_index(tmp_path: Path, tree: Path) -> None:
    write_features(tmp_path / "other", n_speakers=2, n_utterances=2, first=7)
    index = FeatureIndex([tmp_path / "other", tmp_path / "absent", tree])
    assert index.speakers == ["id00000", "id00001", "id00002", "id00007", "id00008"]
    assert index.utterance(index.rows(["id00008/v1/00001"])[0])[0, 1] == 8100


def test_utterances_in_two_trees_count_once(tmp_path: Path, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dev = tmp_path / "dev"
    shutil.copytree(tree / "id00001", dev / "id00001")
    write_features(dev, n_speakers=1, n_utterances=2, first=7)
    alone = FeatureIndex([tree])
    assert not capsys.readouterr().err
    index = FeatureIndex([tree, dev])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"4 utterances are in several trees, the first id00001/v0/00000 in {tree} and {dev};")
    assert "another length" not in line
    assert index.speakers == ["id00000", "id00001", "id00002", "id00007"] and index.count.tolist() == [4, 4, 4, 2]
    names = [index.name(row) for row in range(len(index))]
    assert sorted(names) == names and len(set(names)) == len(names) == 14
    for row in range(12):
        assert index.path(row) == alone.path(row) and np.array_equal(index.utterance(row), alone.utterance(row))
    assert index.n_frames(np.arange(14)).tolist() == [*alone.n_frames(np.arange(12)), 230, 231]
    assert index.speakers_of(tree) == {"id00000", "id00001", "id00002"}
    assert index.speakers_of(dev) == {"id00001", "id00007"}  # a model trained on dev was trained on both speakers
    trials = sample_short_trials(index, np.arange(4), seed=1)
    assert (trials.enrol != trials.test).all()
    write_features(dev, n_speakers=1, n_utterances=1, n_frames=400, first=1)  # another recording with the same name
    other_way = FeatureIndex([dev, tree, tmp_path / "absent"])
    assert "; 1 have another length" in capsys.readouterr().err
    assert other_way.n_frames(other_way.rows(["id00001/v0/00000"])) == 400 and len(other_way) == 14


def test_crops_have_the_requested_frames(tree: Path) -> None:
    index = FeatureIndex([tree])
    row = index.rows(["id00002/v1/00001"])[0]  # 231 frames
    assert np.array_equal(index.crop(row, 20, 200), index.utterance(row)[20:220])
    assert index.crop(row, 20, 200)[:, 0].tolist() == list(range(20, 220))
    repeated = index.crop(row, 200, 300)[:, 0]
    assert repeated.tolist() == [t % 231 for t in range(200, 500)]


def test_a_window_can_start_wherever_the_repeated_utterance_covers_it() -> None:
    for n_frames, length in [(1, 100), (50, 100), (99, 100), (100, 100), (101, 100), (350, 200), (40, 200)]:
        total = n_frames
        while total <= length and total < n_frames * (length // n_frames + 1):
            total += n_frames
        assert total > length and total - n_frames <= max(length, 0)
        assert n_starts(n_frames, length) == total - length + 1


def count_located(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    located = []

    def counted(path: Path) -> Location:
        located.append(path)
        return locate(path)

    for module in (dataset.table, dataset.index):
        monkeypatch.setattr(module, "locate", counted)
    return located


def test_an_unchanged_tree_is_not_read_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FeatureIndex([tree])
    located = count_located(monkeypatch)
    assert len(FeatureIndex([tree])) == 12 and not located


def test_only_changed_folders_are_read_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FeatureIndex([tree])
    write_feature(tree / "id00001" / "v0" / "new.pkl", np.ones((250, 40)), "id00001")
    (tree / "id00002" / "v1" / "00001.pkl").unlink()
    located = count_located(monkeypatch)
    index = FeatureIndex([tree])
    assert len(index) == 12
    assert {path.parent.relative_to(tree).as_posix() for path in located} == {"id00001/v0", "id00002/v1"}
    assert index.n_frames(index.rows(["id00001/v0/new"])) == 250


def test_a_folder_listed_right_after_a_change_is_listed_again(tree: Path) -> None:
    write_feature(tree / "id00001" / "v0" / "00000.pkl", np.ones((300, 40)), "id00001")
    stamp = os.stat(tree / "id00001" / "v0").st_mtime_ns
    assert FeatureIndex([tree]).n_frames(np.arange(12)).max() == 300
    write_feature(tree / "id00001" / "v0" / "00000.pkl", np.ones((400, 40)), "id00001")
    os.utime(tree / "id00001" / "v0", ns=(stamp, stamp))  # as on a file system with coarse time stamps
    assert FeatureIndex([tree]).n_frames(np.arange(12)).max() == 400


def test_a_folder_replaced_by_a_file_is_removed_from_the_index(tree: Path) -> None:
    FeatureIndex([tree])
    shutil.rmtree(tree / "id00001")
    (tree / "id00001").write_bytes(b"")
    assert len(FeatureIndex([tree])) == 8


def test_an_indexed_folder_that_cannot_be_read_is_an_error(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FeatureIndex([tree])
    stored, status = tree.with_name("feat.index.npz").read_bytes(), os.stat

    def failing(path: str | bytes, **options: Any) -> os.stat_result:
        if os.fsencode(path).endswith(b"id00001"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return status(path, **options)

    with monkeypatch.context() as broken, pytest.raises(UserError, match="^/.*id00001: cannot be read .Input/output"):
        broken.setattr(os, "stat", failing)
        FeatureIndex([tree])
    assert tree.with_name("feat.index.npz").read_bytes() == stored and len(FeatureIndex([tree])) == 12


def test_a_damaged_index_is_rebuilt(tree: Path) -> None:
    FeatureIndex([tree])
    stored = tree.with_name("feat.index.npz")
    stored.write_bytes(stored.read_bytes()[:300])
    assert len(FeatureIndex([tree])) == 12


def test_a_tree_without_features_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no features in .*empty or .*absent"):
        FeatureIndex([tmp_path / "empty", tmp_path / "absent"])


def replace(path: Path, n_frames: int, value: float) -> np.ndarray:
    """Overwrite a file with another utterance, as cp and rsync --inplace do; the time of its folder does not change."""
    feat = np.full((n_frames, 40), value, np.float32)
    feat[:, 0] = np.arange(n_frames)
    before = path.parent.stat().st_mtime_ns
    path.write_bytes(pickle.dumps({"feat": feat, "label": path.parts[-3]}, protocol=4))
    assert path.parent.stat().st_mtime_ns == before
    return feat


def test_files_replaced_in_place_are_read_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = FeatureIndex([tree])
    feats = {row: replace(old.path(row), n_frames, row) for row, n_frames in ((0, 500), (4, 150), (7, 233))}
    index = FeatureIndex([tree])
    located = count_located(monkeypatch)
    assert index.n_frames(np.arange(12)).tolist() == [500, 232, 231, 233, 150, 232, 231, 233, 230, 232, 231, 233]
    assert sorted(located) == [index.path(row) for row in feats]
    for row, feat in feats.items():
        assert np.array_equal(index.utterance(row), feat)
        assert np.array_equal(index.crop(row, 100, 200), feat[(100 + np.arange(200)) % len(feat)])
    assert np.array_equal(FeatureIndex([tree]).crop(0, 300, 200), feats[0][300:])  # before any length was read


def test_episodes_of_replaced_files_are_those_of_a_new_tree(tree: Path, tmp_path: Path) -> None:
    old = FeatureIndex([tree])
    for row in range(12):
        replace(old.path(row), 190 + 40 * row, row)
    shutil.copytree(tree, tmp_path / "new")
    setting: dict[str, Any] = {"n_way": 3, "n_shot": 1, "n_query": 2, "use_variable": True, "seed": 1}
    stale, fresh = (TrainingEpisodes(FeatureIndex([folder]), **setting) for folder in (tree, tmp_path / "new"))
    for at in range(1, 6):
        for ours, expected in zip(stale[1, at], fresh[1, at], strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize("n_frames", [100, 231, 232, 400])
def test_a_file_that_changes_during_a_run_is_an_error(tree: Path, n_frames: int) -> None:
    index = FeatureIndex([tree])
    assert index.n_frames(np.array([5])) == 232
    replace(index.path(5), n_frames, 3)
    for read in (lambda: index.crop(5, 0, 50), lambda: index.utterance(5)):
        with pytest.raises(UserError, match=f"{index.path(5).name}: has changed"):
            read()


def test_a_file_indexed_right_after_a_change_is_read_again(tree: Path) -> None:
    path = tree / "id00001/v0/00000.pkl"
    feat = replace(path, 230, 5)
    stamp = path.stat().st_mtime_ns
    FeatureIndex([tree])
    path.write_bytes(path.read_bytes().replace(feat.tobytes(), (feat + 1).tobytes()))
    path.write_bytes(pickle.dumps({"label": "id00001", "feat": feat + 1}, protocol=4))  # same size, other offset
    os.utime(path, ns=(stamp, stamp))  # as on a file system with coarse time stamps
    index = FeatureIndex([tree])
    assert np.array_equal(index.crop(int(index.rows(["id00001/v0/00000"])[0]), 0, 230), feat + 1)


def test_a_file_too_large_for_a_feature_is_not_read(tree: Path) -> None:
    index = FeatureIndex([tree])
    os.truncate(index.path(5), 256 * 2**20 + 1)  # a sparse file, which takes no disk space
    for read in (lambda: read_feature(index.path(5)), lambda: locate(index.path(5))):
        with pytest.raises(UserError, match=f"{index.path(5).name}: not a feature file .larger than 256 MiB"):
            read()


def test_a_truncated_file_is_an_error(tree: Path) -> None:
    index = FeatureIndex([tree])
    with open(index.path(5), "r+b") as file:
        file.truncate(2000)
    with pytest.raises(UserError, match=f"{index.path(5).name}: not a feature file"):
        index.crop(5, 0, 200)


def test_names_are_found_in_the_forms_of_other_toolkits(tmp_path: Path) -> None:
    utterances = "id1/s0/00001", UTTERANCE, "id2/00001"
    for name in utterances:
        write_feature(tmp_path / "feat" / f"{name}.pkl", np.zeros((5, 40), np.float32), name.split("/")[0])
    index = FeatureIndex([tmp_path / "feat"])
    row_of = {index.name(row): row for row in range(3)}
    for utterance in utterances:
        for form in NAMES:
            name = form.replace(UTTERANCE, utterance)
            name = name.replace(UTTERANCE.replace("/", "\\"), utterance.replace("/", "\\"))
            assert utterance.rsplit("/")[-1] in name and index.rows([name]).tolist() == [row_of[utterance]]
    before = ("/data/voxceleb1/wav/", "./wav/", "wav/", "C:\\wav\\", "")
    for leading, suffix in itertools.product(before, ("", ".wav", ".FLAC", ".pkl", ".m4a", ".sph")):
        names = [f"{leading}{utterance}{suffix}" for utterance in utterances]
        assert index.rows(names).tolist() == [row_of[utterance] for utterance in utterances]
    with pytest.raises(UserError, match=r"id1/s0/00002.wav: no such utterance .*\(1 of 2 missing\)"):
        index.rows(["id1/s0/00001", "id1/s0/00002.wav", "id1/s0/00002.wav"])


def test_a_missing_utterance_is_not_taken_for_another(tmp_path: Path) -> None:
    for name in ("1/0001", "1/0002", "2/0001", "3/session.1", "3/session"):
        write_feature(tmp_path / "feat" / f"{name}.pkl", np.zeros((5, 40), np.float32), name[0])
    index = FeatureIndex([tmp_path / "feat"])
    for lacking in ("3/session.2", "1/2/0001.wav", "wav/2/0001", "3/session.txt"):
        for names in (["1/0001", "1/0002", lacking], ["wav/1/0001", "wav/1/0002", f"wav/{lacking}"]):
            with pytest.raises(UserError, match=rf"{names[-1]}: no such utterance .*\(1 of 3 missing\)"):
                index.rows(names)
    assert [index.name(row) for row in index.rows(["3/session.1.wav", "3/session.wav", "3/session.1"])] == [
        "3/session.1",
        "3/session",
        "3/session.1",
    ]
