"""The numbers of the paper's evaluations, as literals, compared with what the evaluators do."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_features

import EER_full
import EER_short
import evaluation.identification
import identification
from configure import TREES
from dataset.index import FeatureIndex
from evaluation.context import EvaluationContext
from evaluation.embedding import Segments
from evaluation.metrics import verification_metrics
from evaluation.noise import NoisyTests
from evaluation.verification import TrialSet
from system.console import UserError

N_SPEAKERS, N_UTTERANCES = 51, 6


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    root = tmp_path_factory.mktemp("numbers")
    write_features(root / TREES["vox1_test"].feat, N_SPEAKERS, N_UTTERANCES, n_frames=530)  # 530 to 535 frames
    return FeatureIndex([root / TREES["vox1_test"].feat])


@pytest.fixture
def context(features: FeatureIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluationContext:
    """An evaluation context without a network: the tests check which segments would be embedded."""
    nothing: Any = None
    made = EvaluationContext(
        nothing, tmp_path / "checkpoint_100.pth", nothing, features, np.arange(N_SPEAKERS), nothing
    )
    for script in (EER_short, identification):
        monkeypatch.setattr(script, "load_network", lambda args: nothing)
        monkeypatch.setattr(script, "context_of", lambda args, network: made)
    return made


def test_short_trials_and_windows_of_the_paper(
    context: EvaluationContext, features: FeatureIndex, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    seen: dict[str, Any] = {}

    def verify(
        context: EvaluationContext,
        trial_set: TrialSet,
        tests: dict[str, Segments],
        args: argparse.Namespace,
        publish: Callable[[dict], None],
        conditions: dict[str, NoisyTests | None],
    ) -> None:
        assert conditions == {"": None}
        seen.update(trials=trial_set.trials, enrol=trial_set.enrolled, tests=tests)

    monkeypatch.setattr(EER_short, "verify", verify)
    EER_short.main([])
    trials, enrol, tests = seen["trials"], seen["enrol"], seen["tests"]
    assert len(trials.label) == 51 * 200 and trials.label.sum() == 51 * 100
    speaker = [name.split("/")[0] for name in trials.enrol]
    assert all(speaker.count(name) == 200 for name in set(speaker))
    assert (enrol.start == 0).all() and (enrol.length == features.n_frames(enrol.row)).all()  # full
    assert [features.name(row) for row in enrol.row] == sorted({name.removesuffix(".wav") for name in trials.enrol})
    (test,) = tests.values()
    assert (test.length == 500).all()
    assert (test.start >= 0).all() and (test.start + test.length <= features.n_frames(test.row)).all()
    assert "test windows of 500 frames (5.00 s)" in capsys.readouterr().out
    EER_short.main(["--test_length", "100"])
    (test,) = seen["tests"].values()
    assert (test.length == 100).all() and (seen["enrol"].length == features.n_frames(enrol.row)).all()


@pytest.mark.parametrize("stored", [False, True], ids=["a list of the user's", "the stored list"])
def test_short_trials_of_training_speakers_are_excluded(
    context: EvaluationContext,
    features: FeatureIndex,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    stored: bool,
) -> None:
    seen: list[TrialSet] = []
    monkeypatch.setattr(EER_short, "verify", lambda context, trial_set, *_: seen.append(trial_set))
    EER_short.main([])  # over all speakers; the list is stored next to the checkpoint
    everyone = context.path.parent / "short_trials_seed100.txt"
    n_of_trained = sum({"id00000", "id00007"} & {a[:7], b[:7]} != set() for _, a, b in map(str.split, open(everyone)))
    trained = context._replace(unseen=np.setdiff1d(np.arange(N_SPEAKERS), [0, 7]))
    monkeypatch.setattr(EER_short, "context_of", lambda args, network: trained)
    capsys.readouterr()
    EER_short.main([] if stored else ["--trials", str(everyone)])
    printed, trial_set = capsys.readouterr(), seen[-1]
    speakers = {name[:7] for name in (*trial_set.trials.enrol, *trial_set.trials.test)}
    assert speakers == {f"id{s:05d}" for s in range(N_SPEAKERS)} - {"id00000", "id00007"}
    assert len(trial_set.trials.enrol) == len(trial_set.trials.label) == len(trial_set.test) == len(trial_set.of_trial)
    assert len(trial_set.test) == (49 * 200 if stored else 51 * 200 - n_of_trained)
    if stored:
        assert "was sampled from other speakers" in printed.err
    else:
        assert f"{n_of_trained:,} of 10,200 trials are of training speakers and are excluded" in printed.out


def test_a_list_without_labels_needs_a_trial_of_unseen_speakers(
    context: EvaluationContext, features: FeatureIndex, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained = context._replace(unseen=np.arange(1, N_SPEAKERS))
    monkeypatch.setattr(EER_short, "context_of", lambda args, network: trained)
    (tmp_path / "list.txt").write_text(f"{features.name(0)}.wav {features.name(1)}.wav\n")
    with pytest.raises(UserError, match="list.txt: no trials to score"):
        EER_short.main(["--trials", str(tmp_path / "list.txt"), "--save_scores", str(tmp_path / "scores.csv")])


@pytest.mark.slow
def test_identification_episodes_of_the_paper(
    context: EvaluationContext, features: FeatureIndex, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    stored = {}
    sample_episodes = identification.sample_episodes

    def sampled(*args: Any) -> Segments:
        stored["windows"] = sample_episodes(*args)
        return stored["windows"]

    monkeypatch.setattr(identification, "sample_episodes", sampled)
    # The embedding of a segment is the axis of its speaker, so every answer is correct.
    monkeypatch.setattr(
        evaluation.identification,
        "embed",
        lambda encoder, features, segments, compute: torch.eye(N_SPEAKERS)[
            torch.from_numpy(features.speaker[segments.row])
        ],
    )
    identification.main([])
    printed = capsys.readouterr().out
    assert "1,000 episodes" in printed and "accuracy 100.00" in printed
    assert "50-way 1-shot, enrolment 500 and test 100 frames" in printed
    row, start, length = (column.reshape(1000, 1 + 5, 50) for column in stored["windows"])
    assert (length[:, :1] == 500).all() and (length[:, 1:] == 100).all()  # one enrolment, then five tests
    speaker = features.speaker[row]
    assert (speaker == speaker[:, :1]).all() and all(len(set(way)) == 50 for way in speaker[:, 0].tolist())
    assert all(len(set(rows)) == 6 for rows in row[0].T.tolist())  # different utterances
    assert (start >= 0).all() and (start + length <= features.n_frames(row)).all()
    # Windows are sampled independently, over all starts: 31 to 36 of an enrolment, 431 to 436 of a test.
    assert len(np.unique(start[:, 0])) == 36 and len(np.unique(start[:, 1:])) == 436
    same_utterance = row[:, 1:] == row[0, 1, 0]
    assert len(np.unique(start[:, 1:][same_utterance])) > 0.4 * same_utterance.sum()


def test_defaults_of_all_evaluators() -> None:
    for script in (EER_full, EER_short, identification):
        args = script.parse_args([])
        assert (args.seed, args.n_folder, args.precision) == (100, 0, "fp32")


def test_error_rates_by_their_definitions() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(20_000) < 0.3
    scores = rng.normal(labels * 3.5)
    thresholds = np.append(np.inf, np.sort(scores))
    fpr = 1 - np.searchsorted(np.sort(scores[~labels]), thresholds) / (~labels).sum()
    fnr = np.searchsorted(np.sort(scores[labels]), thresholds) / labels.sum()
    rates = verification_metrics(scores, labels)
    assert rates.min_dcf_01 == pytest.approx((0.01 * fnr + 0.99 * fpr).min() / 0.01) and rates.min_dcf_01 < 0.6
    assert rates.min_dcf_001 == pytest.approx((0.001 * fnr + 0.999 * fpr).min() / 0.001) and rates.min_dcf_001 < 0.9
    # The EER is the false-positive rate at the ROC corner nearest to equal rates, not a value between two corners.
    # At 0.7, one of four non-targets is accepted and two of five targets are rejected; the next corner accepts all.
    scores = np.array([0.9, 0.8, 0.7, 0.1, 0.05, 0.75, 0.6, 0.3, 0.2])
    assert verification_metrics(scores, np.arange(9) < 5).eer == 0.25
