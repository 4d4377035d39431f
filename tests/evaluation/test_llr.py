"""The log-likelihood ratios of evaluations: of held-out speakers and sets, and of a stored calibration."""

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_ratios import sampled

from command_line import evaluation as steps
from command_line.evaluation import with_llr
from evaluation.calibration import ScoredTrials, fit, load_calibration, split_half_llr
from evaluation.context import EvaluationContext
from evaluation.embedding import Scores
from evaluation.metrics import cllr, llr_rates, min_cllr
from evaluation.report import leave_one_set_out_rates
from model.checkpoint import Checkpoint
from system.console import UserError


def test_each_half_is_measured_with_a_fit_on_the_other() -> None:
    trials, true = sampled(20_000, 8)
    ours = split_half_llr("one", trials)
    measured = np.isfinite(ours)
    assert measured[trials.labels].all()
    assert 0.4 < measured[~trials.labels].mean() < 0.6  # the others are across the halves
    assert cllr(ours[measured], trials.labels[measured]) == pytest.approx(
        cllr(true[measured], trials.labels[measured]), abs=0.02
    )
    # The trials of a half do not influence its LLRs. The half of speaker 0: the speakers with LLRs against speaker 0.
    sides = trials.enrol_speaker, trials.test_speaker
    half = np.unique(np.concatenate([side[measured & ((sides[0] == 0) | (sides[1] == 0))] for side in sides]))
    assert len(half) == 20
    within = np.isin(sides[0], half) & np.isin(sides[1], half)
    spoilt = trials._replace(scores=np.where(within, np.tanh(2 * np.arctanh(trials.scores)), trials.scores))
    again = split_half_llr("one", spoilt)
    other = measured & ~within
    assert np.abs(again[other] - ours[other]).mean() > 0.1  # fitted on the spoilt half
    expected = fit({"one": trials.where(other)}).llr_of(spoilt.where(within))
    np.testing.assert_allclose(again[within], expected, atol=1e-8)


def test_three_speakers_cannot_be_split() -> None:
    trials, _ = sampled(3000, 9, n_speakers=3)
    with pytest.raises(UserError, match="3 speakers in one cannot be split"):
        split_half_llr("one", trials)


def test_rates_skip_trials_without_an_llr() -> None:
    ratios, labels = np.array([2.0, -1.0, 0.5, np.nan, -30.0, 1.0]), np.array([1, 1, 0, 0, 0, 0], bool)
    rates = llr_rates(ratios, labels)
    assert rates["n_trials"] == 5 and rates["misses"] == 50 and rates["false_alarms"] == pytest.approx(200 / 3)
    assert rates["cllr"] == pytest.approx(cllr(np.delete(ratios, 3), np.delete(labels, 3)))
    least = min_cllr(np.delete(ratios, 3), np.delete(labels, 3))
    assert rates["min_cllr"] == pytest.approx(least) and least < rates["cllr"]
    assert rates["dcf_0.05"] == pytest.approx(1) and rates["min_dcf_0.05"] == pytest.approx(0.5)


CALIBRATING = Namespace(calibrate=True, trim_silence=True, save_path="corpora/phones")
LATER = Namespace(calibrate=False, trim_silence=True, save_path="corpora/phones")


def of_lengths(trials: ScoredTrials) -> list[Scores]:
    """Return the first half of the trials as scores at one test length, and the second half at another."""
    parts = (trials.where(np.arange(6000) // 3000 == half) for half in (0, 1))
    return [
        Scores(length, part.enrol_seconds, part.test_seconds, part.scores, None, 1.0)
        for length, part in zip(("short", "long"), parts, strict=True)
    ]


@pytest.fixture
def context(tmp_path: Path) -> EvaluationContext:
    """A context that consists of the path and the digest of the checkpoint."""
    nothing: Any = None
    checkpoint = Checkpoint(7, {})
    checkpoint.digest = "3f" * 32
    return EvaluationContext(checkpoint, tmp_path / "checkpoint_007.pth", *[nothing] * 4)


def test_a_calibration_is_fitted_on_all_lengths_stored_and_used(
    context: EvaluationContext, capsys: pytest.CaptureFixture[str]
) -> None:
    trials, _ = sampled(6000, 12)
    at = np.arange(6000) % 3000  # a trial is the same at both lengths
    trials = trials._replace(
        labels=trials.labels[at], enrol_speaker=trials.enrol_speaker[at], test_speaker=trials.test_speaker[at]
    )
    noise = np.random.default_rng(0).normal(size=6000)
    trials = trials._replace(scores=np.tanh(np.where(trials.labels, 0.5, -0.5) + noise))
    labels, speakers = trials.labels[:3000], (trials.enrol_speaker[:3000], trials.test_speaker[:3000])
    scores = of_lengths(trials)
    assert with_llr(scores, labels, speakers, context, LATER) == (scores, None) and not capsys.readouterr().out
    held_out, failure = with_llr(scores, labels, speakers, context, CALIBRATING)
    assert failure is None
    printed = capsys.readouterr().out
    stored = load_calibration(context.path, context.checkpoint.digest)
    assert stored == fit({"phones": trials}) and stored.n_target == 3000
    expected = split_half_llr("phones", trials)
    np.testing.assert_array_equal(np.concatenate([s.llr for s in held_out]), expected)
    n_across = int(np.isnan(expected).sum())
    assert f"{6000 - n_across:,} trials are scored, {n_across:,} between the folds are excluded\n" in printed
    shorter = np.minimum(trials.enrol_seconds, trials.test_seconds)
    low, high = shorter.min(), shorter.max()
    assert "checkpoint_007.calibration.json, fitted on 6,000 trials of phones (40 speakers)" in printed
    assert f"and {low:.2f} to {high:.2f} s on the shorter, LLRs limited to -3.7 .. 3.7\n" in printed
    later, _ = with_llr(scores, labels, speakers, context, LATER)
    for of_length, before in zip(later, scores, strict=True):
        values = before.plain, before.enrol_seconds, before.test_seconds
        np.testing.assert_array_equal(of_length.llr, stored.llr(*values))
    assert "folds" not in capsys.readouterr().out
    with_llr(scores, labels, speakers, context, Namespace(calibrate=False, trim_silence=False))
    warning = capsys.readouterr().err
    assert "checkpoint_007.calibration.json" in warning and "--trim_silence True" in warning
    with_llr(scores[:1], labels, speakers, context, CALIBRATING)
    assert "EER_short.py can fit several" in capsys.readouterr().out


def test_a_calibration_that_cannot_be_stored_is_reported_with_its_llrs(
    context: EvaluationContext, capsys: pytest.CaptureFixture[str]
) -> None:
    context.path.with_name("checkpoint_007.calibration.json").mkdir()  # root may write to any folder
    trials, _ = sampled(6000, 13)
    speakers = trials.enrol_speaker[:3000], trials.test_speaker[:3000]
    (scored,), failure = with_llr(of_lengths(trials)[:1], trials.labels[:3000], speakers, context, CALIBRATING)
    assert scored.llr is not None and np.isfinite(scored.llr).any()
    assert "checkpoint_007.calibration.json: the calibration cannot be written (Is a directory)" in str(failure)
    assert "fitted on" not in capsys.readouterr().out


def test_trials_of_too_few_speakers_name_the_half(context: EvaluationContext) -> None:
    trials, _ = sampled(6000, 13)
    few = trials.where(np.arange(6000) < 150)
    speakers = few.enrol_speaker, few.test_speaker
    scores = Scores("full", few.enrol_seconds, few.test_seconds, few.scores, None, 1.0)
    (scored,), failure = with_llr([scores], few.labels, speakers, context, CALIBRATING)
    assert scored.llr is None
    half = r"phones, (one|other) half"
    assert re.search(rf"trials in {half}; at least 60 .* \(in the fit without {half}\)", str(failure))


def test_other_ranks_write_nothing(context: EvaluationContext, monkeypatch: pytest.MonkeyPatch) -> None:
    trials, _ = sampled(6000, 13)
    monkeypatch.setattr(steps.ranks, "is_first", lambda: False)
    speakers = trials.enrol_speaker[:3000], trials.test_speaker[:3000]
    with_llr(of_lengths(trials)[:1], trials.labels[:3000], speakers, context, CALIBRATING)
    assert not list(context.path.parent.iterdir())


def test_leave_one_set_out_rates_and_their_mean() -> None:
    sets = {name: sampled(800 + 200 * at, 30 + at)[0] for at, name in enumerate("abc")}
    result = leave_one_set_out_rates(sets)
    assert [rates["set"] for rates in result["sets"]] == ["a", "b", "c"]
    for rates, (name, trials) in zip(result["sets"], sets.items(), strict=True):
        llr = fit({other: of for other, of in sets.items() if other != name}).llr_of(trials)
        assert rates["n_trials"] == len(trials.labels)
        assert rates["misses"] == pytest.approx(100 * (llr[trials.labels] < 0).mean())
        assert rates["false_alarms"] == pytest.approx(100 * (llr[~trials.labels] >= 0).mean())
        assert rates["cllr"] == pytest.approx(cllr(llr, trials.labels)) and rates["min_cllr"] < rates["cllr"]
    assert set(result["mean"]) == {"cllr", "min_cllr", "misses", "false_alarms"}
    for name, mean in result["mean"].items():
        assert mean == pytest.approx(sum(rates[name] for rates in result["sets"]) / 3)
