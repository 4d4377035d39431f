import os
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import write_features
from list_table import BLIND_LISTS, ENROLMENT, TRIAL_LISTS, A, B, C
from scipy import stats

from dataset.index import FeatureIndex
from dataset.trial_sampling import sample_short_trials
from dataset.trials import Trials, read_enrolment, read_trials, write_trials
from evaluation.short_trials import window_starts
from system.console import UserError


def read(tmp_path: Path, text: str | bytes) -> Trials:
    path = tmp_path / "list.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_trials(path)


@pytest.mark.parametrize("form", TRIAL_LISTS)
def test_trial_lists_of_all_formats_are_read(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    trials = read(tmp_path, TRIAL_LISTS[form])
    assert ("6 rows repeat the trials" in capsys.readouterr().err) is ("two lengths" in form)
    assert trials.label.tolist() == [True, False]
    assert trials.enrol.tolist() == [A, A] and trials.test.tolist() == [B, C]


def test_blanks_in_the_header_of_a_csv_file_are_ignored(tmp_path: Path) -> None:
    trials = read(tmp_path, f" label, enrol,test \r\n1,{A},{B}\r\n0,{A},{C}\r\n")
    assert trials.label.tolist() == [True, False] and trials.test.tolist() == [B, C]


def test_a_list_without_labels_is_read_if_blind(tmp_path: Path) -> None:
    for text in BLIND_LISTS.values():
        with pytest.raises(UserError, match="list.txt: its trials have no labels"):
            read(tmp_path, text)
        trials = read_trials(tmp_path / "list.txt", blind=True)
        assert not trials.labelled and trials.enrol.tolist() == [A, A] and trials.test.tolist() == [B, C]
        assert trials.where(np.array([False, True])).test.tolist() == [C]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "list.txt: .*no.*"),
        ("\n\n", "list.txt: .*no.*"),
        ("0 a b\n1 a.wav\n0 a.wav b.wav\n", "line 2: '1 a.wav' .*'LABEL ENROLMENT TEST'"),
        ("1 a b\n\n1 a b c\n0 a.wav b.wav\n", "line 3: '1 a b c' .*'LABEL ENROLMENT TEST'"),
        ("1 a b c d e\n0 a.wav b.wav\n", "list.txt"),
        (
            "2 a.wav b.wav\n",
            "line 1: '2 a.wav b.wav' .*'LABEL .*' or '.* LABEL' or 'ENROL.* TEST'",
        ),
        ("1 a b\n0 a b\na c target\n1 c d\n", "line 3: 'a c target' .*'LABEL ENROLMENT TEST'"),
        ("a b target\nc d nontarget\na c\n", "line 3: 'a c' .*'ENROLMENT TEST LABEL'"),
        ("label,enrol,test\n1,a,b\n7,a,c\n", "line 3: '7' is not a label"),
        ("0 a.wav b.wav\n", "no target trials"),
        ("1 a.wav b.wav\n", "only target trials"),
        (b"\x00\x00\x00", "list.txt"),
    ],
)
def test_lines_of_another_format_are_errors(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_names_of_any_bytes_are_read(tmp_path: Path) -> None:
    content = b"1 caf\xe9.wav b.wav\n0 caf\xe9.wav c.wav\n"
    trials = read(tmp_path, content)
    assert os.fsencode(trials.enrol[0]) == b"caf\xe9.wav"
    write_trials(tmp_path / "again.txt", trials)
    assert (tmp_path / "again.txt").read_bytes() == content


def test_enrolment_lists_are_read(tmp_path: Path) -> None:
    path = tmp_path / "enroll.lst"
    path.write_text(ENROLMENT)
    assert read_enrolment(path) == {"anna": [A, B], "fred": [C]}
    path.write_text("m1 a/b/c.wav a/d/e.wav\n\nm2\tf/g/h.wav\nm1 a/b/x.wav\n")
    assert read_enrolment(path) == {"m1": ["a/b/c.wav", "a/d/e.wav", "a/b/x.wav"], "m2": ["f/g/h.wav"]}
    for text, message in (("m1 a\n\nm2\n", "line 3: 'm2'"), ("\n", "empty list")):
        path.write_text(text)
        with pytest.raises(UserError, match=f"enroll.lst: {message}"):
            read_enrolment(path)
    with pytest.raises(UserError, match="no such enrolment list"):
        read_enrolment(tmp_path / "none.lst")


def test_a_missing_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.txt: no such trial list"):
        read_trials(tmp_path / "nowhere.txt")


def test_names_may_look_like_numbers_or_missing_values(tmp_path: Path) -> None:
    assert read(tmp_path, "1 NA 007\n0 nan 1e3\n").enrol.tolist() == ["NA", "nan"]


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    tree = tmp_path_factory.mktemp("trials") / "feat"
    write_features(tree, n_speakers=5, n_utterances=4)
    write_features(tree, n_speakers=1, n_utterances=1, first=8)  # one utterance only
    return FeatureIndex([tree])


def test_short_trials_have_the_numbers_of_the_paper(features: FeatureIndex) -> None:
    trials = sample_short_trials(features, np.array([0, 1, 3, 5]), seed=1)
    speaker = {side: np.array([name.split("/")[0] for name in getattr(trials, side)]) for side in ("enrol", "test")}
    for name in ("id00000", "id00001", "id00003"):
        mine = speaker["enrol"] == name
        assert (mine & trials.label).sum() == 100 and (mine & ~trials.label).sum() == 100
    alone = speaker["enrol"] == "id00008"
    assert (alone & ~trials.label).sum() == 100 and not (alone & trials.label).any()
    assert ((speaker["enrol"] == speaker["test"]) == trials.label).all()
    assert (trials.enrol != trials.test).all()
    assert set(speaker["test"]) == {"id00000", "id00001", "id00003", "id00008"}


def test_nontarget_test_utterances_are_uniform_over_utterances(tmp_path: Path) -> None:
    write_features(tmp_path / "feat", n_speakers=1, n_utterances=90)
    write_features(tmp_path / "feat", n_speakers=11, n_utterances=1, first=1)
    features = FeatureIndex([tmp_path / "feat"])
    trials = sample_short_trials(features, np.arange(12), seed=0)
    others = [t for e, t in zip(trials.enrol, trials.test, strict=True) if not e.startswith("id00000")]
    of_first = sum(name.startswith("id00000") for name in others)
    # For each of the 11, the other speakers have 100 utterances, 90 of them of the first speaker: 90 %, not 1 / 11.
    assert len(others) == 1100 and of_first / 1100 == pytest.approx(0.9, abs=0.03)
    of_rest = [t for e, t in zip(trials.enrol, trials.test, strict=True) if not t.startswith("id00000")]
    assert {name.split("/")[0] for name in of_rest} == {f"id{s:05d}" for s in range(1, 12)}


@pytest.mark.parametrize("name", ["Ana Lu/v/0.wav", "Ana\t/v/0.wav"])
def test_names_with_white_space_are_errors(tmp_path: Path, name: str) -> None:
    trials = Trials(np.array([True, False]), np.array(["a/b.wav", name], object), np.array(["a/c.wav"] * 2, object))
    with pytest.raises(UserError, match=f"^{re.escape(repr(name))}: .* rename it"):
        write_trials(tmp_path / "list.txt", trials)
    assert not list(tmp_path.iterdir())


def test_window_starts_are_independent_and_uniform() -> None:
    starts = window_starts(np.full(60_000, 299), 100, seed=1)  # 200 possible starts
    counts = np.bincount(starts, minlength=200)
    assert len(counts) == 200 and stats.chisquare(counts).pvalue > 1e-3
    follow = np.histogram2d(starts[:-1], starts[1:], bins=8)[0].ravel()  # consecutive trials
    assert stats.chisquare(follow).pvalue > 1e-3
