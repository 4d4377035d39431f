"""Calibration against a model whose log-likelihood ratios are known, by hand, and on trials that support none."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from known_ratios import drawn, fit_columns

from evaluation import calibration
from evaluation.calibration import Calibration, fit, load_calibration, probabilities, save_calibration
from evaluation.metrics import cllr, llr_rates
from system.console import UserError


def llr_of(fitted: Calibration, trials: dict[str, np.ndarray]) -> np.ndarray:
    return fitted.llr(trials["scores"], trials["enrol_seconds"], trials["test_seconds"])


def test_the_fit_finds_the_true_ratios_on_new_trials() -> None:
    fitted = fit(*fit_columns(drawn(20_000, 0)[0]))
    trials, true = drawn(20_000, 1)
    ours = llr_of(fitted, trials)
    assert np.abs(ours - true).mean() < 0.1 and np.corrcoef(ours, true)[0, 1] > 0.999
    assert cllr(ours, trials["labels"]) == pytest.approx(cllr(true, trials["labels"]), abs=0.002)
    assert fitted.n_target == fitted.n_nontarget == 10_000


def test_durations_matter_at_every_length() -> None:
    """A calibration without them would be wrong at short ones: here misses and false alarms agree at each."""
    fitted = fit(*fit_columns(drawn(20_000, 0)[0]))
    trials, true = drawn(20_000, 2)
    ours = llr_of(fitted, trials)
    for low, high in ((0.5, 1), (1, 2), (2, 5)):
        at = (trials["test_seconds"] >= low) & (trials["test_seconds"] < high)
        rates = llr_rates(ours[at], trials["labels"][at])
        assert 0.8 < rates["misses"] / rates["false_alarms"] < 1.25
        assert rates["cllr"] - rates["min_cllr"] < 0.03
    assert fitted.llr(0.7, 5, 4) > fitted.llr(0.7, 5, 1) > fitted.llr(0.7, 2, 0.6) > 0
    assert fitted.llr(-0.7, 5, 4) < fitted.llr(-0.7, 5, 1) < fitted.llr(-0.7, 2, 0.6) < 0


def test_the_kinds_have_equal_weight() -> None:
    """Leaving out nine of ten targets shifts no LLR: it is a ratio of likelihoods, not of probabilities."""
    trials, _ = drawn(40_000, 3)
    few = ~trials["labels"] | (np.arange(len(trials["labels"])) % 20 == 0)
    whole, thinned = fit(*fit_columns(trials)), fit(*(column[few] for column in fit_columns(trials)))
    assert thinned.n_target == 2000 and thinned.n_nontarget == 20_000
    assert np.abs(llr_of(whole, trials) - llr_of(thinned, trials)).mean() < 0.15


def test_the_order_of_the_trials_does_not_matter() -> None:
    trials, _ = drawn(3000, 4)
    shuffled = np.random.default_rng(0).permutation(3000)
    one, other = fit(*fit_columns(trials)), fit(*(column[shuffled] for column in fit_columns(trials)))
    np.testing.assert_allclose(llr_of(one, trials), llr_of(other, trials), atol=1e-8)


def test_repeated_trials_make_no_surer() -> None:
    few = fit_columns({name: column[:200] for name, column in drawn(400, 4)[0].items()})
    once, often = fit(*few), fit(*(np.tile(column, 50) for column in few))
    np.testing.assert_allclose(often.weights, once.weights, atol=1e-6)


def test_the_fit_is_where_the_penalised_loss_is_least() -> None:
    """Its gradient is zero there: the mean loss, kinds of equal weight, and 0.001 times the squared weights."""
    scores, labels, enrol, test = (column[500:1200] for column in fit_columns(drawn(1400, 11)[0]))
    fitted, z = fit(scores, labels, enrol, test), np.arctanh(scores)
    features = np.stack([z, np.log(enrol), np.log(test), z * np.log(enrol), z * np.log(test)], axis=1)
    spread, standardised = features.std(axis=0), (features - features.mean(axis=0)) / features.std(axis=0)
    probability = 1 / (1 + np.exp(-fitted.intercept - features @ fitted.weights))
    pull = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum()) * (probability - labels)
    assert pull.sum() == pytest.approx(0, abs=1e-7)
    np.testing.assert_allclose(pull @ standardised + 0.002 * spread * fitted.weights, 0, atol=1e-7)


def test_by_hand() -> None:
    fitted = Calibration(-1.0, (2.0, 0.1, 0.2, 0.3, 0.4), (1.0, 8.0), (0.5, 4.0), 99, 999)
    expected = -1 + 2 * math.atanh(0.5) + 0.1 * math.log(2) + 0.2 * math.log(3)
    expected += 0.3 * math.atanh(0.5) * math.log(2) + 0.4 * math.atanh(0.5) * math.log(3)
    assert fitted.llr(0.5, 2, 3) == pytest.approx(expected)
    assert fitted.llr(0.5, 0.1, 60) == fitted.llr(0.5, 1, 4) and fitted.llr(0.5, 60, 0) == fitted.llr(0.5, 8, 0.5)
    assert fitted.llr(np.array([[0.1], [0.2]]), np.array([2, 3, 4]), 1).shape == (2, 3)


def test_no_ratio_goes_beyond_what_the_trials_support() -> None:
    steep = Calibration(0.0, (50.0, 0.0, 0.0, 0.0, 0.0), (1.0, 8.0), (0.5, 4.0), 99, 999)
    assert steep.bounds == pytest.approx((-math.log(100), math.log(1000)))
    assert steep.llr(np.array([-1, -0.9, 0.9, 1]), 2, 2) == pytest.approx([-math.log(100)] * 2 + [math.log(1000)] * 2)


def test_a_single_duration_is_covered_alone() -> None:
    trials, _ = drawn(5000, 5)
    trials["test_seconds"] = np.full(5000, 2.0)
    fitted = fit(*fit_columns(trials))
    assert fitted.test_seconds == (2.0, 2.0)
    assert fitted.llr(0.5, 5, 0.3) == fitted.llr(0.5, 5, 2.0)


def with_scores(trials: dict[str, np.ndarray], scores: np.ndarray) -> list[np.ndarray]:
    return fit_columns(trials | {"scores": scores})


def test_trials_that_support_no_calibration_are_refused() -> None:
    trials, _ = drawn(2000, 6)
    labels = trials["labels"]
    few = np.arange(2000) < 119  # 60 targets, 59 others
    for columns, message in (
        (with_scores(trials, np.where(labels, 0.8, 0.1) + trials["scores"] / 100), "without a single error"),
        (with_scores(trials, -trials["scores"]), "higher scores do not mean likelier targets"),
        (with_scores(trials, np.zeros(2000)), "higher scores do not mean likelier targets"),
        ([column[labels] for column in fit_columns(trials)], "1000 target and 0 non-target trials"),
        ([column[few] for column in fit_columns(trials)], "60 target and 59 non-target trials; it needs 60 of each"),
        ([column[:0] for column in fit_columns(trials)], "0 target and 0 non-target trials"),
    ):
        with pytest.raises(UserError, match=message) as error:
            fit(*columns)
        assert "\n" not in str(error.value)
    enough = np.arange(2000) < 120
    fit(*(column[enough] for column in fit_columns(trials)))


@pytest.mark.parametrize("side, message", [("enrol", r"2\.00 s enrolled and "), ("test", r" and 0\.50 s of test")])
def test_scores_that_tell_nothing_at_one_of_the_durations_are_refused(side: str, message: str) -> None:
    """Longer speech is right and the shortest reversed: the pooled trials look well."""
    trials, _ = drawn(4000, 7)
    seconds = trials[f"{side}_seconds"]
    short = seconds < np.quantile(seconds, 0.35)
    with pytest.raises(UserError, match=f"{message}.*higher scores do not mean likelier"):
        fit(*with_scores(trials, np.where(short, -trials["scores"], trials["scores"])))


def test_probabilities_by_hand() -> None:
    # One voice, prior 0.5: the odds are the likelihood ratio. Prior 0.1: a ninth of it.
    assert probabilities(np.array([math.log(4)]), 0.5) == pytest.approx([0.8])
    assert probabilities(np.array([math.log(4)]), 0.1) == pytest.approx([4 / 13])
    # Three voices, prior 0.6, 0.2 each: 0.2 * 5, 0.2 * 1, 0.2 * 0.5 against 0.4 for none.
    ratios = np.log(np.array([[5, 1, 0.5], [1, 1, 1]]))
    expected = np.array([[1, 0.2, 0.1], [0.2, 0.2, 0.2]]) / [[1.7], [1]]
    np.testing.assert_allclose(probabilities(ratios, 0.6), expected)
    assert probabilities(np.array([800.0, -800.0]), 0.5) == pytest.approx([1, 0])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint_007.pth"
    path.write_bytes(b"weights")
    return path


def test_kept_and_read_again(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hashlib import sha256

    digest = sha256(b"weights").hexdigest()
    assert load_calibration(checkpoint, digest) is None and not capsys.readouterr().err
    fitted = fit(*fit_columns(drawn(2000, 10)[0]))
    save_calibration(checkpoint, fitted)
    path = checkpoint.with_name("checkpoint_007.calibration.json")
    assert load_calibration(checkpoint, digest) == fitted
    content = json.loads(path.read_text())
    assert content["checkpoint_sha256"] == digest and content["n_target"] == 1000
    assert load_calibration(checkpoint, "0" * 64) is None
    assert "checkpoint_007.calibration.json: of another checkpoint" in capsys.readouterr().err
    for spoilt in (
        "[1]",
        "{",
        json.dumps(content | {"weights": content["weights"][:4]}),
        json.dumps(content | {"intercept": float("nan")}),
        json.dumps(content | {"test_seconds": [0, 5]}),
        json.dumps(content | {"enrol_seconds": 3}),
        json.dumps(content | {"n_target": -5}),
        json.dumps({name: value for name, value in content.items() if name != "intercept"}),
    ):
        path.write_text(spoilt)
        assert load_calibration(checkpoint, digest) is None
        assert "checkpoint_007.calibration.json: not a calibration" in capsys.readouterr().err


def test_a_read_only_folder_only_warns(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(calibration, "replacing", refuse)
    save_calibration(checkpoint, Calibration(0.0, (1.0,) * 5, (1.0, 2.0), (1.0, 2.0), 100, 100))
    assert "007.calibration.json: the calibration could not be kept (Permission denied)" in capsys.readouterr().err
