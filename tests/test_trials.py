import hashlib
from pathlib import Path

import numpy as np
import pytest
from conftest import write_features

from console import UserError
from dataset.index import FeatureIndex, n_starts
from dataset.trials import Trials, draw_short_trials, read_trials, stored_short_trials, window_starts, write_trials


def read(tmp_path: Path, text: str | bytes) -> Trials:
    path = tmp_path / "list.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_trials(path)


@pytest.mark.parametrize(
    "text",
    [
        "1 a/b/c.wav a/d/e.wav\n0 a/b/c.wav f/g/h.wav\n",
        "1  a/b/c.wav\ta/d/e.wav\r\n\r\n0 a/b/c.wav f/g/h.wav",
    ],
)
def test_voxcelebs_form_with_any_line_end_and_blank_lines(tmp_path: Path, text: str) -> None:
    trials = read(tmp_path, text)
    assert trials.label.tolist() == [True, False]
    assert trials.enrol.tolist() == ["a/b/c.wav", "a/b/c.wav"] and trials.test.tolist() == ["a/d/e.wav", "f/g/h.wav"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "list.txt: .*no.*"),
        ("\n\n", "list.txt: .*no.*"),
        ("1 a.wav\n0 a.wav b.wav\n", "'1 a.wav' is not of the form"),
        ("1 a.wav b.wav c.wav\n0 a.wav b.wav\n", "'1 a.wav b.wav c.wav' is not of the form"),
        ("1 a b c d e\n0 a.wav b.wav\n", "list.txt"),
        ("2 a.wav b.wav\n0 a.wav b.wav\n", "'2 a.wav b.wav' is not of the form"),
        ("a.wav b.wav 1\n", "is not of the form"),
        ("0 a.wav b.wav\n", "no target trials"),
        ("1 a.wav b.wav\n", "only target trials"),
        (b"1 \xff\xfe b.wav\n", "not a trial list"),
        (b"\x00\x00\x00", "list.txt"),
    ],
)
def test_another_form_is_told(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_a_missing_list_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.txt: no such trial list"):
        read_trials(tmp_path / "nowhere.txt")


def test_names_that_look_like_numbers_or_nothing_stay_names(tmp_path: Path) -> None:
    assert read(tmp_path, "1 NA 007\n0 nan 1e3\n").enrol.tolist() == ["NA", "nan"]


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> FeatureIndex:
    tree = tmp_path_factory.mktemp("trials") / "feat"
    write_features(tree, n_speakers=5, n_utterances=4)
    write_features(tree, n_speakers=1, n_utterances=1, first=8)  # can enrol, but has no second utterance
    return FeatureIndex([tree])


def test_short_trials_are_the_papers(features: FeatureIndex) -> None:
    trials = draw_short_trials(features, np.array([0, 1, 3, 5]), seed=1)
    speaker = {side: np.array([name.split("/")[0] for name in getattr(trials, side)]) for side in ("enrol", "test")}
    for name in ("id00000", "id00001", "id00003"):
        mine = speaker["enrol"] == name
        assert (mine & trials.label).sum() == 100 and (mine & ~trials.label).sum() == 100
    alone = speaker["enrol"] == "id00008"
    assert (alone & ~trials.label).sum() == 100 and not (alone & trials.label).any()
    assert ((speaker["enrol"] == speaker["test"]) == trials.label).all()
    assert (trials.enrol != trials.test).all()
    assert set(speaker["test"]) == {"id00000", "id00001", "id00003", "id00008"}


def test_short_trials_are_kept_and_used_again(features: FeatureIndex, tmp_path: Path) -> None:
    path, speakers = tmp_path / "short_trials_seed3.txt", np.arange(5)
    first = stored_short_trials(path, features, speakers, seed=3)
    digest, name = path.with_suffix(".sha256").read_text().split()
    assert name == path.name and digest == hashlib.sha256(path.read_bytes()).hexdigest()
    again = stored_short_trials(path, features, speakers[:2], seed=3)  # what is kept counts, not what would be drawn
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (draw_short_trials(features, speakers, seed=3).test == first.test).all()
    assert (draw_short_trials(features, speakers, seed=4).test != first.test).any()


def test_kept_trials_that_were_changed_are_told(features: FeatureIndex, tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    trials = stored_short_trials(path, features, np.arange(5), seed=3)
    write_trials(path, trials.where(np.arange(len(trials.label)) != 7))
    with pytest.raises(UserError, match="kept.txt: changed since it was drawn"):
        stored_short_trials(path, features, np.arange(5), seed=3)


def test_windows_depend_on_seed_and_trial_only_and_stay_inside() -> None:
    n_frames = np.random.default_rng(0).integers(20, 600, 5000)
    starts = window_starts(n_frames, 100, seed=1)
    assert (starts >= 0).all() and (starts < n_starts(n_frames, 100)).all()
    assert (window_starts(n_frames[:70], 100, seed=1) == starts[:70]).all()
    assert (window_starts(n_frames, 100, seed=2) != starts).mean() > 0.9
    long = window_starts(np.full(5000, 299), 100, seed=1)  # 200 possible starts
    places, counts = np.unique(long, return_counts=True)
    assert (places // 50 == [0, 1, 2, 3]).all() and counts.min() > 1100  # one place in each quarter, evenly taken
