import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import write_features
from list_table import BLIND_LISTS, ENROLMENT, TRIAL_LISTS, A, B, C
from scipy import stats

from dataset.index import FeatureIndex, n_starts
from dataset.trial_sampling import draw_short_trials
from dataset.trials import Trials, read_enrolment, read_trials, write_trials
from evaluation.short_trials import stored_short_trials, window_starts
from system.console import UserError


def read(tmp_path: Path, text: str | bytes) -> Trials:
    path = tmp_path / "list.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_trials(path)


@pytest.mark.parametrize("form", TRIAL_LISTS)
def test_forms_of_trial_lists(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    trials = read(tmp_path, TRIAL_LISTS[form])
    assert ("6 rows repeat the trials at other lengths" in capsys.readouterr().err) is ("two lengths" in form)
    assert trials.label.tolist() == [True, False]
    assert trials.enrol.tolist() == [A, A] and trials.test.tolist() == [B, C]


def test_a_list_without_labels_is_read_where_that_is_meant(tmp_path: Path) -> None:
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
        ("0 a b\n1 a.wav\n0 a.wav b.wav\n", "line 2: '1 a.wav' is not of the form 'LABEL ENROLMENT TEST'"),
        ("1 a b\n\n1 a b c\n0 a.wav b.wav\n", "line 3: '1 a b c' is not of the form 'LABEL ENROLMENT TEST', as the"),
        ("1 a b c d e\n0 a.wav b.wav\n", "list.txt"),
        (
            "2 a.wav b.wav\n",
            "line 1: '2 a.wav b.wav' is not of the form 'LABEL .*' or '.* LABEL' or 'ENROL.* TEST'",
        ),
        ("1 a b\n0 a b\na c target\n1 c d\n", "line 3: 'a c target' is not of the form 'LABEL ENROLMENT TEST'"),
        ("a b target\nc d nontarget\na c\n", "line 3: 'a c' is not of the form 'ENROLMENT TEST LABEL'"),
        ("label,enrol,test\n1,a,b\n7,a,c\n", "line 3: '7' is not a label"),
        ("0 a.wav b.wav\n", "no target trials"),
        ("1 a.wav b.wav\n", "only target trials"),
        (b"\x00\x00\x00", "list.txt"),
    ],
)
def test_another_form_is_told(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_names_of_any_bytes_are_read(tmp_path: Path) -> None:
    content = b"1 caf\xe9.wav b.wav\n0 caf\xe9.wav c.wav\n"
    trials = read(tmp_path, content)
    assert os.fsencode(trials.enrol[0]) == b"caf\xe9.wav"
    write_trials(tmp_path / "again.txt", trials)
    assert (tmp_path / "again.txt").read_bytes() == content


def test_enrolment_lists(tmp_path: Path) -> None:
    path = tmp_path / "enroll.lst"
    path.write_text(ENROLMENT)
    assert read_enrolment(path) == {"anna": [A, B], "fred": [C]}
    path.write_text("m1 a/b/c.wav a/d/e.wav\n\nm2\tf/g/h.wav\nm1 a/b/x.wav\n")
    assert read_enrolment(path) == {"m1": ["a/b/c.wav", "a/d/e.wav", "a/b/x.wav"], "m2": ["f/g/h.wav"]}
    for text, message in (("m1 a\n\nm2\n", "line 3: 'm2' is not of the form"), ("\n", "holds no models")):
        path.write_text(text)
        with pytest.raises(UserError, match=f"enroll.lst: {message}"):
            read_enrolment(path)
    with pytest.raises(UserError, match="no such enrolment list"):
        read_enrolment(tmp_path / "none.lst")


def test_a_missing_list_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.txt: no such trial list"):
        read_trials(tmp_path / "nowhere.txt")


def test_names_that_look_like_numbers_or_nothing_stay_names(tmp_path: Path) -> None:
    assert read(tmp_path, "1 NA 007\n0 nan 1e3\n").enrol.tolist() == ["NA", "nan"]


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
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


def test_nontarget_test_utterances_are_drawn_over_utterances(tmp_path: Path) -> None:
    write_features(tmp_path / "feat", n_speakers=1, n_utterances=90)
    write_features(tmp_path / "feat", n_speakers=11, n_utterances=1, first=1)
    features = FeatureIndex([tmp_path / "feat"])
    trials = draw_short_trials(features, np.arange(12), seed=0)
    others = [t for e, t in zip(trials.enrol, trials.test, strict=True) if not e.startswith("id00000")]
    of_first = sum(name.startswith("id00000") for name in others)
    # Each of the 11 sees 100 utterances of others, 90 of them the first speaker's: 90 %, not a speaker's 1 in 11.
    assert len(others) == 1100 and of_first / 1100 == pytest.approx(0.9, abs=0.03)
    of_rest = [t for e, t in zip(trials.enrol, trials.test, strict=True) if not t.startswith("id00000")]
    assert {name.split("/")[0] for name in of_rest} == {f"id{s:05d}" for s in range(1, 12)}


def same(a: Trials, b: Trials) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_short_trials_are_kept_and_used_again(features: FeatureIndex, tmp_path: Path) -> None:
    path, speakers = tmp_path / "short_trials_seed3.txt", np.arange(5)
    first = stored_short_trials(path, features, speakers, seed=3)
    kept = json.loads(path.with_suffix(".json").read_text())
    assert kept["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    written = path.stat().st_mtime_ns
    assert same(stored_short_trials(path, features, speakers, seed=3), first) and path.stat().st_mtime_ns == written
    assert (draw_short_trials(features, speakers, seed=3).test == first.test).all()
    assert (draw_short_trials(features, speakers, seed=4).test != first.test).any()


def test_short_trials_of_other_speakers_or_utterances_are_drawn_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tree, path = tmp_path / "feat", tmp_path / "short_trials_seed3.txt"
    write_features(tree, n_speakers=4, n_utterances=3)
    features = FeatureIndex([tree])
    stored_short_trials(path, features, np.arange(4), seed=3)
    fewer = stored_short_trials(path, features, np.array([1, 2, 3]), seed=3)  # the first was trained on, say
    assert "short_trials_seed3.txt: was drawn from other speakers or utterances; drawn anew" in capsys.readouterr().err
    assert not any(name.startswith("id00000") for name in {*fewer.enrol, *fewer.test})
    assert same(stored_short_trials(path, features, np.array([1, 2, 3]), seed=3), fewer)
    assert not capsys.readouterr().err
    write_features(tree, n_speakers=4, n_utterances=5)
    more = stored_short_trials(path, FeatureIndex([tree]), np.array([1, 2, 3]), seed=3)
    assert "drawn anew" in capsys.readouterr().err and any(name.endswith("00004.wav") for name in more.test)


@pytest.mark.parametrize("name", ["Ana Lu/v/0.wav", "Ana\t/v/0.wav"])
def test_names_that_cannot_stand_in_a_list_are_told(tmp_path: Path, name: str) -> None:
    trials = Trials(np.array([True, False]), np.array(["a/b.wav", name], object), np.array(["a/c.wav"] * 2, object))
    with pytest.raises(UserError, match=f"^{re.escape(repr(name))}: .* rename it"):
        write_trials(tmp_path / "list.txt", trials)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", [1, 2])
def test_short_trials_survive_a_kill_at_any_moment(
    features: FeatureIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    path = tmp_path / "kept.txt"
    for speakers in (np.arange(5), np.arange(4)):  # the first draw, and one that replaces it
        steps = iter(range(step, 0, -1))

        def killed(
            source: Path, target: Path, replace: Callable[[Path, Path], None] = os.replace, steps: Iterator[int] = steps
        ) -> None:
            if next(steps) == 1:
                raise KeyboardInterrupt
            replace(source, target)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(os, "replace", killed)
            stored_short_trials(path, features, speakers, seed=3)
        again = stored_short_trials(path, features, speakers, seed=3)
        assert same(again, draw_short_trials(features, speakers, seed=3))
        assert same(read_trials(path), again) and same(stored_short_trials(path, features, speakers, seed=3), again)


def test_a_list_that_is_not_ours_is_never_overwritten(features: FeatureIndex, tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    trials = stored_short_trials(path, features, np.arange(5), seed=3)
    write_trials(path, trials.where(np.arange(len(trials.label)) != 7))
    for beside in ("as it was", "{}", "not json", None):
        if beside is None:
            path.with_suffix(".json").unlink()
        elif beside != "as it was":
            path.with_suffix(".json").write_text(beside)
        changed = path.read_bytes()
        with pytest.raises(UserError, match="kept.txt: changed, or not drawn here; move it away .* --trials"):
            stored_short_trials(path, features, np.arange(5), seed=3)
        assert path.read_bytes() == changed


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT], ids=errno.errorcode.get)
def test_trials_that_cannot_be_kept_are_scored_all_the_same(
    features: FeatureIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, number: int
) -> None:
    def refused(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number), str(target))

    monkeypatch.setattr(os, "replace", refused)
    trials = stored_short_trials(tmp_path / "kept.txt", features, np.arange(5), seed=3)
    assert same(trials, draw_short_trials(features, np.arange(5), seed=3)) and not list(tmp_path.iterdir())
    error = capsys.readouterr().err
    assert f"kept.txt: the drawn trials could not be kept ({os.strerror(number)})" in error and error.count("\n") == 1


def test_windows_depend_on_seed_and_trial_only_and_stay_inside() -> None:
    n_frames = np.random.default_rng(0).integers(20, 600, 5000)
    starts = window_starts(n_frames, 100, seed=1)
    assert (starts >= 0).all() and (starts < n_starts(n_frames, 100)).all()
    assert (window_starts(n_frames[:70], 100, seed=1) == starts[:70]).all()
    assert (window_starts(n_frames, 100, seed=2) != starts).mean() > 0.9
    trials_own = np.random.default_rng(1).random(5000)  # the stream that the utterances are drawn from
    assert ((trials_own * n_starts(n_frames, 100)).astype(int) != starts).mean() > 0.9


def test_windows_are_independent_and_uniform_over_all_starts() -> None:
    starts = window_starts(np.full(60_000, 299), 100, seed=1)  # 200 possible starts
    counts = np.bincount(starts, minlength=200)
    assert len(counts) == 200 and stats.chisquare(counts).pvalue > 1e-3
    follow = np.histogram2d(starts[:-1], starts[1:], bins=8)[0].ravel()  # a trial says nothing about the next
    assert stats.chisquare(follow).pvalue > 1e-3
