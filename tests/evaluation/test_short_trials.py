"""The short trials that are stored next to a checkpoint, and their test windows."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import write_features

from dataset.index import FeatureIndex, n_starts
from dataset.trial_sampling import sample_short_trials
from dataset.trials import Trials, read_trials, write_trials
from evaluation.short_trials import stored_short_trials, window_starts
from system.console import UserError


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    tree = tmp_path_factory.mktemp("trials") / "feat"
    write_features(tree, n_speakers=5, n_utterances=4)
    write_features(tree, n_speakers=1, n_utterances=1, first=8)  # can enrol, but has no second utterance
    return FeatureIndex([tree])


def same(a: Trials, b: Trials) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_short_trials_are_stored_and_reused(features: FeatureIndex, tmp_path: Path) -> None:
    path, speakers = tmp_path / "short_trials_seed3.txt", np.arange(5)
    first = stored_short_trials(path, features, speakers, seed=3)
    stored = json.loads(path.with_suffix(".json").read_text())
    assert stored["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    written = path.stat().st_mtime_ns
    assert same(stored_short_trials(path, features, speakers, seed=3), first) and path.stat().st_mtime_ns == written
    assert (sample_short_trials(features, speakers, seed=3).test == first.test).all()
    assert (sample_short_trials(features, speakers, seed=4).test != first.test).any()


def test_short_trials_of_other_speakers_or_utterances_are_resampled(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tree, path = tmp_path / "feat", tmp_path / "short_trials_seed3.txt"
    write_features(tree, n_speakers=4, n_utterances=3)
    features = FeatureIndex([tree])
    stored_short_trials(path, features, np.arange(4), seed=3)
    fewer = stored_short_trials(path, features, np.array([1, 2, 3]), seed=3)  # the first was trained on, say
    assert "short_trials_seed3.txt: was sampled from other speakers" in capsys.readouterr().err
    assert not any(name.startswith("id00000") for name in {*fewer.enrol, *fewer.test})
    assert same(stored_short_trials(path, features, np.array([1, 2, 3]), seed=3), fewer)
    assert not capsys.readouterr().err
    write_features(tree, n_speakers=4, n_utterances=5)
    more = stored_short_trials(path, FeatureIndex([tree]), np.array([1, 2, 3]), seed=3)
    assert "resampled" in capsys.readouterr().err and any(name.endswith("00004.wav") for name in more.test)


@pytest.mark.parametrize("step", [1, 2])
def test_short_trials_survive_a_kill_at_any_moment(
    features: FeatureIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    path = tmp_path / "stored.txt"
    for speakers in (np.arange(5), np.arange(4)):  # the first list, and one that replaces it
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
        assert same(again, sample_short_trials(features, speakers, seed=3))
        assert same(read_trials(path), again) and same(stored_short_trials(path, features, speakers, seed=3), again)


def test_a_list_of_the_user_is_never_overwritten(features: FeatureIndex, tmp_path: Path) -> None:
    path = tmp_path / "stored.txt"
    trials = stored_short_trials(path, features, np.arange(5), seed=3)
    write_trials(path, trials.where(np.arange(len(trials.label)) != 7))
    for record in ("unchanged", "{}", "not json", None):
        if record is None:
            path.with_suffix(".json").unlink()
        elif record != "unchanged":
            path.with_suffix(".json").write_text(record)
        changed = path.read_bytes()
        with pytest.raises(UserError, match="stored.txt: was edited.* --trials"):
            stored_short_trials(path, features, np.arange(5), seed=3)
        assert path.read_bytes() == changed


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT], ids=errno.errorcode.get)
def test_trials_that_cannot_be_stored_are_scored_nevertheless(
    features: FeatureIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, number: int
) -> None:
    def refused(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number), str(target))

    monkeypatch.setattr(os, "replace", refused)
    trials = stored_short_trials(tmp_path / "stored.txt", features, np.arange(5), seed=3)
    assert same(trials, sample_short_trials(features, np.arange(5), seed=3)) and not list(tmp_path.iterdir())
    error = capsys.readouterr().err
    assert (
        f"stored.txt: the sampled trials could not be stored ({os.strerror(number)})" in error
        and error.count("\n") == 1
    )


def test_windows_depend_on_seed_and_trial_only_and_stay_inside() -> None:
    n_frames = np.random.default_rng(0).integers(20, 600, 5000)
    starts = window_starts(n_frames, 100, seed=1)
    assert (starts >= 0).all() and (starts < n_starts(n_frames, 100)).all()
    assert (window_starts(n_frames[:70], 100, seed=1) == starts[:70]).all()
    assert (window_starts(n_frames, 100, seed=2) != starts).mean() > 0.9
    trials_own = np.random.default_rng(1).random(5000)  # the stream of the trials
    assert ((trials_own * n_starts(n_frames, 100)).astype(int) != starts).mean() > 0.9
