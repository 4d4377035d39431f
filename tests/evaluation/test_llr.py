"""The log-likelihood ratios of evaluations: of held-out speakers, of a kept calibration, and what is told of them."""

from pathlib import Path

import numpy as np
import pytest
from known_ratios import drawn, fit_columns

from command_line import evaluation as steps
from command_line.evaluation import with_llr
from evaluation.calibration import fit, load_calibration, split_half_llr
from evaluation.embedding import Scores
from evaluation.metrics import cllr, llr_rates, min_cllr
from system.console import UserError
from system.files import sha256


def test_halves_are_measured_by_a_fit_on_other_speakers() -> None:
    trials, true = drawn(20_000, 8)
    ours = split_half_llr(**trials)
    measured = np.isfinite(ours)
    halves = trials["enrol_speaker"], trials["test_speaker"]
    assert measured[trials["labels"]].all()
    assert 0.4 < measured[~trials["labels"]].mean() < 0.6  # the others are across the halves
    assert cllr(ours[measured], trials["labels"][measured]) == pytest.approx(
        cllr(true[measured], trials["labels"][measured]), abs=0.005
    )
    # A half's own trials have no say in its LLRs: the speakers with those of speaker 0 are its half.
    half = np.unique(np.concatenate([side[measured & ((halves[0] == 0) | (halves[1] == 0))] for side in halves]))
    assert len(half) == 20
    spoilt = trials["scores"].copy()
    within = np.isin(halves[0], half) & np.isin(halves[1], half)
    spoilt[within] = np.tanh(2 * np.arctanh(spoilt[within]))
    again = split_half_llr(**(trials | {"scores": spoilt}))
    other = measured & ~within
    assert np.abs(again[other] - ours[other]).mean() > 0.1  # fitted on the spoilt half
    fitted_on_other = fit(*(column[other] for column in fit_columns(trials)))
    expected = fitted_on_other.llr(*(column[within] for column in (spoilt, *fit_columns(trials)[2:])))
    np.testing.assert_allclose(again[within], expected, atol=1e-8)


def test_three_speakers_have_no_halves() -> None:
    trials, _ = drawn(3000, 9, n_speakers=3)
    with pytest.raises(UserError, match="3 speakers cannot be split"):
        split_half_llr(**trials)


def test_rates_are_of_the_trials_that_have_a_ratio() -> None:
    ratios, labels = np.array([2.0, -1.0, 0.5, np.nan, -30.0, 1.0]), np.array([1, 1, 0, 0, 0, 0], bool)
    rates = llr_rates(ratios, labels)
    assert rates["n_trials"] == 5 and rates["misses"] == 50 and rates["false_alarms"] == pytest.approx(200 / 3)
    assert rates["cllr"] == pytest.approx(cllr(np.delete(ratios, 3), np.delete(labels, 3)))
    least = min_cllr(np.delete(ratios, 3), np.delete(labels, 3))
    assert rates["min_cllr"] == pytest.approx(least) and least < rates["cllr"]
    assert rates["dcf_0.05"] == pytest.approx(1) and rates["min_dcf_0.05"] == pytest.approx(0.5)


def of_lengths(trials: dict[str, np.ndarray]) -> list[Scores]:
    """Return the trials' first half as those of one test length and the second as those of another."""
    parts = ({name: column[at] for name, column in trials.items()} for at in (slice(0, 3000), slice(3000, 6000)))
    return [
        Scores(length, part["enrol_seconds"], part["test_seconds"], part["scores"], None, 1.0)
        for length, part in zip(("short", "long"), parts, strict=True)
    ]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint_007.pth"
    path.write_bytes(b"weights")
    return path


def test_a_calibration_is_fitted_on_all_lengths_kept_and_used_again(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials, _ = drawn(6000, 12)
    for name in ("enrol_speaker", "test_speaker", "labels"):  # a trial is the same at both lengths
        trials[name][3000:] = trials[name][:3000]
    trials["scores"] = np.tanh(np.where(trials["labels"], 0.5, -0.5) + np.random.default_rng(0).normal(size=6000))
    labels, speakers = trials["labels"][:3000], (trials["enrol_speaker"][:3000], trials["test_speaker"][:3000])
    scores = of_lengths(trials)
    assert with_llr(scores, labels, speakers, checkpoint, False) == scores and not capsys.readouterr().out
    held_out = with_llr(scores, labels, speakers, checkpoint, True)
    told = capsys.readouterr().out
    kept = load_calibration(checkpoint, sha256(checkpoint))
    assert kept == fit(*fit_columns(trials)) and kept.n_target == 3000
    expected = split_half_llr(**trials)
    np.testing.assert_array_equal(np.concatenate([s.llr for s in held_out]), expected)
    n_across = int(np.isnan(expected).sum())
    assert f"{6000 - n_across:,} trials, {n_across:,} across the halves left out\n" in told
    low, high = trials["test_seconds"].min(), trials["test_seconds"].max()
    assert "checkpoint_007.calibration.json, fitted on 6,000 trials" in told
    assert f"and {low:.2f} to {high:.2f} s of test; LLRs from -8.0 to 8.0\n" in told
    later = with_llr(scores, labels, speakers, checkpoint, False)
    for of_length, before in zip(later, scores, strict=True):
        values = before.plain, before.enrol_seconds, before.test_seconds
        np.testing.assert_array_equal(of_length.llr, kept.llr(*values))
    assert "left out" not in capsys.readouterr().out
    with_llr(scores[:1], labels, speakers, checkpoint, True)
    assert "only this test length is covered" in capsys.readouterr().out


def test_other_ranks_write_nothing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials, _ = drawn(6000, 13)
    monkeypatch.setattr(steps.ranks, "is_first", lambda: False)
    speakers = trials["enrol_speaker"][:3000], trials["test_speaker"][:3000]
    with_llr(of_lengths(trials)[:1], trials["labels"][:3000], speakers, checkpoint, True)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint_007.pth"]
