"""Calibration: known log-likelihood ratios, computations by hand, and trials that do not support a calibration."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from known_ratios import sampled

from evaluation import calibration
from evaluation.calibration import (
    Calibration,
    ScoredTrials,
    calibration_path,
    fit,
    leave_one_set_out_llr,
    load_calibration,
    probabilities,
    save_calibration,
    trial_weights,
)
from evaluation.metrics import cllr, llr_rates
from system.console import UserError


def fit_one(trials: ScoredTrials) -> Calibration:
    return fit({"one": trials})


def part(trials: ScoredTrials, at: slice) -> ScoredTrials:
    return ScoredTrials(*(column[at] for column in trials))


def test_the_fit_gives_the_true_llrs_of_new_trials() -> None:
    fitted = fit_one(sampled(20_000, 0, n_speakers=2000)[0])
    trials, true = sampled(20_000, 1)
    ours = fitted.llr_of(trials)
    assert np.abs(ours - true).mean() < 0.1 and np.corrcoef(ours, true)[0, 1] > 0.999
    assert cllr(ours, trials.labels) == pytest.approx(cllr(true, trials.labels), abs=0.002)
    assert fitted.n_target == fitted.n_nontarget == 10_000


def test_the_calibration_is_right_at_every_duration() -> None:
    """A calibration without durations would have more misses or false acceptances at short ones."""
    fitted = fit_one(sampled(20_000, 0)[0])
    trials, true = sampled(20_000, 2)
    ours = fitted.llr_of(trials)
    for low, high in ((0.5, 1), (1, 2), (2, 5)):
        at = (trials.test_seconds >= low) & (trials.test_seconds < high)
        rates = llr_rates(ours[at], trials.labels[at])
        assert 0.8 < rates["misses"] / rates["false_alarms"] < 1.25
        assert rates["cllr"] - rates["min_cllr"] < 0.03
    assert fitted.llr(0.7, 5, 4) > fitted.llr(0.7, 5, 1) > fitted.llr(0.7, 2, 0.6) > 0
    assert fitted.llr(-0.7, 5, 4) < fitted.llr(-0.7, 5, 1) < fitted.llr(-0.7, 2, 0.6) < 0


def test_target_and_nontarget_trials_have_equal_weight() -> None:
    """Without nine of ten target trials the LLRs stay: they are ratios of likelihoods, not of probabilities."""
    trials, _ = sampled(40_000, 3)
    few = ~trials.labels | (np.arange(len(trials.labels)) % 20 == 0)
    full, thinned = fit_one(trials), fit_one(trials.where(few))
    assert thinned.n_target == 2000 and thinned.n_nontarget == 20_000
    assert np.abs(full.llr_of(trials) - thinned.llr_of(trials)).mean() < 0.15


def test_the_order_of_the_trials_does_not_matter() -> None:
    trials, _ = sampled(3000, 4)
    shuffled = trials.where(np.random.default_rng(0).permutation(3000))
    np.testing.assert_allclose(fit_one(trials).llr_of(trials), fit_one(shuffled).llr_of(trials), atol=1e-8)


def test_repeated_trials_change_no_llr() -> None:
    few = part(sampled(400, 4)[0], slice(200))
    once, often = fit_one(few), fit_one(ScoredTrials.pooled([few] * 50))
    np.testing.assert_allclose(often.weights, once.weights, atol=1e-6)
    assert often.bounds == once.bounds


def test_the_fit_minimises_the_penalised_loss() -> None:
    """The gradient is zero: of the mean loss with equal weight of both kinds, plus 0.001 times the squared weights."""
    trials = part(sampled(1400, 11)[0], slice(500, 1200))
    scores, labels, *seconds = trials[:4]
    enrol, test = np.max(seconds, axis=0), np.min(seconds, axis=0)
    fitted, z = fit_one(trials), np.arctanh(scores)
    features = np.stack([z, np.log(enrol), np.log(test), z * np.log(enrol), z * np.log(test)], axis=1)
    spread, standardised = features.std(axis=0), (features - features.mean(axis=0)) / features.std(axis=0)
    probability = 1 / (1 + np.exp(-fitted.intercept - features @ fitted.weights))
    pull = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum()) * (probability - labels)
    assert pull.sum() == pytest.approx(0, abs=1e-7)
    np.testing.assert_allclose(pull @ standardised + 0.002 * spread * fitted.weights, 0, atol=1e-7)


def test_sets_have_equal_weight_and_so_have_the_kinds_in_a_set() -> None:
    small, large = np.array([True, False, False]), np.array([True, True, True, False, True])
    # Eight trials weigh 8 together: 4 in each set, 2 for each kind in it.
    expected = [2, 1, 1, 0.5, 0.5, 0.5, 2, 0.5]
    np.testing.assert_allclose(trial_weights([small, large]), expected)
    np.testing.assert_allclose(trial_weights([small]), [1.5, 0.75, 0.75])


def test_the_size_of_a_set_does_not_matter_in_the_fit() -> None:
    a, b = sampled(2000, 14)[0], sampled(600, 15, n_speakers=9)[0]
    b = b._replace(scores=np.tanh(0.7 * np.arctanh(b.scores) + 0.4))
    one, both = fit_one(a), fit({"a": a, "b": b})
    assert np.abs(both.llr_of(a) - one.llr_of(a)).mean() > 0.3  # the smaller set counts
    for sets in ({"a": a, "again": a}, {"a": ScoredTrials.pooled([a, a])}):
        np.testing.assert_allclose(fit(sets).weights, one.weights, atol=1e-6)
    tripled = fit({"a": ScoredTrials.pooled([a, a, a]), "b": b})
    np.testing.assert_allclose(tripled.weights, both.weights, atol=1e-6)
    # By the set's sizes alone: ten times the first hundred trials of b stand for as much as these hundred.
    few = part(b, slice(200))
    np.testing.assert_allclose(
        fit({"a": a, "b": ScoredTrials.pooled([few] * 10)}).weights, fit({"a": a, "b": few}).weights, atol=1e-6
    )
    assert both.sets == ("a", "b") and both.n_target == 1300
    assert both.target_speakers == both.nontarget_speakers == (40, 9)


def test_leave_one_set_out_equals_separate_fits() -> None:
    sets = {name: sampled(800, 16 + at)[0] for at, name in enumerate("abc")}
    sets["c"] = sets["c"]._replace(scores=np.tanh(np.arctanh(sets["c"].scores) + 0.5))
    ratios = leave_one_set_out_llr(sets)
    for name, others in (("a", "bc"), ("b", "ac"), ("c", "ab")):
        np.testing.assert_array_equal(ratios[name], fit({o: sets[o] for o in others}).llr_of(sets[name]))


def test_a_fit_without_one_set_names_it() -> None:
    """Only the fit without set b is not possible: the scores of set c alone indicate nothing."""
    sets = {name: sampled(800, 21 + at)[0] for at, name in enumerate("abc")}
    sets["a"] = sets["a"]._replace(scores=-0.5 * sets["b"].scores)
    sets["c"] = sets["c"]._replace(scores=np.full(800, 0.1))
    with pytest.raises(UserError, match=r"do not indicate.* \(in the fit without b\)"):
        leave_one_set_out_llr(sets)


def test_a_set_without_enough_trials_is_named() -> None:
    with pytest.raises(UserError, match="50 target and 50 non-target trials in few"):
        fit({"many": sampled(600, 1)[0], "few": sampled(100, 2)[0]})


def test_by_hand() -> None:
    fitted = Calibration(-1.0, (2.0, 0.1, 0.2, 0.3, 0.4), (1.0, 8.0), (0.5, 4.0), 99, 999)
    expected = -1 + 2 * math.atanh(0.5) + 0.1 * math.log(3) + 0.2 * math.log(2)
    expected += 0.3 * math.atanh(0.5) * math.log(3) + 0.4 * math.atanh(0.5) * math.log(2)
    assert fitted.llr(0.5, 3, 2) == fitted.llr(0.5, 2, 3) == pytest.approx(expected)
    for given, clipped in (((0.1, 60), (0.5, 8)), ((0.1, 0.2), (0.5, 1)), ((60, 70), (4, 8))):
        assert fitted.llr(0.5, *given) == fitted.llr(0.5, *given[::-1]) == fitted.llr(0.5, *clipped)
    assert fitted.llr(np.array([[0.1], [0.2]]), np.array([2, 3, 4]), 1).shape == (2, 3)


def test_the_side_with_more_speech_counts_as_the_enrolment() -> None:
    """Swap the sides of any trials of the fit: neither the calibration nor an LLR changes."""
    trials, _ = sampled(2000, 19)
    swapped = np.random.default_rng(0).random(2000) < 0.5
    enrol, test = trials.enrol_seconds, trials.test_seconds
    mixed = trials._replace(enrol_seconds=np.where(swapped, test, enrol), test_seconds=np.where(swapped, enrol, test))
    fitted = fit_one(trials)
    assert fit_one(mixed) == fitted
    np.testing.assert_array_equal(fitted.llr_of(mixed), fitted.llr_of(trials))
    assert fitted.enrol_seconds == (np.maximum(enrol, test).min(), np.maximum(enrol, test).max())
    assert fitted.test_seconds == (np.minimum(enrol, test).min(), np.minimum(enrol, test).max())
    intercept, (z, log_longer, log_shorter, z_longer, z_shorter) = fitted.intercept, fitted.weights
    of_two_sides = intercept + log_longer * math.log(4) + log_shorter * math.log(3)
    of_two_sides += math.atanh(0.4) * (z + z_longer * math.log(4) + z_shorter * math.log(3))
    assert fitted.llr(0.4, 3, 4) == fitted.llr(0.4, 4, 3) == pytest.approx(of_two_sides)


def test_the_number_of_speakers_limits_the_llr() -> None:
    steep = 0.0, (50.0, 0.0, 0.0, 0.0, 0.0), (1.0, 8.0), (0.5, 4.0), 20_000, 20_000
    one = Calibration(*steep, ("a",), (50,), (75,))
    assert one.bounds == pytest.approx((-math.log(51), math.log(76)))
    assert one.llr(np.array([-1, -0.9, 0.9, 1]), 2, 2) == pytest.approx([-math.log(51)] * 2 + [math.log(76)] * 2)
    # Two sets of equal weight: each of the 30 speakers counts three times as much as each of the 90.
    two = Calibration(*steep, ("a", "b"), (10, 10), (30, 90))
    effective = (0.5 + 0.5) ** 2 / (30 * (0.5 / 30) ** 2 + 90 * (0.5 / 90) ** 2)
    assert effective == pytest.approx(90) and two.bounds == pytest.approx((-math.log(21), math.log(91)))
    of_earlier_versions = Calibration(*steep)
    assert of_earlier_versions.bounds == pytest.approx((-math.log(20_001), math.log(20_001)))


def test_speakers_are_counted_on_both_sides_of_the_trials() -> None:
    trials = sampled(600, 18)[0]
    speaker = np.arange(600) // 2 % 20
    trials = trials._replace(enrol_speaker=speaker, test_speaker=np.where(trials.labels, speaker, speaker + 1))
    assert (fit_one(trials).target_speakers, fit_one(trials).nontarget_speakers) == ((20,), (21,))


def test_trials_of_one_duration() -> None:
    trials = sampled(5000, 5)[0]._replace(test_seconds=np.full(5000, 2.0))
    fitted = fit_one(trials)
    assert fitted.test_seconds == (2.0, 2.0)
    assert fitted.llr(0.5, 5, 0.3) == fitted.llr(0.5, 5, 2.0)


def test_trials_that_support_no_calibration_are_refused() -> None:
    trials, _ = sampled(2000, 6)
    for spoilt, message in (
        (trials._replace(scores=np.where(trials.labels, 0.8, 0.1) + trials.scores / 100), "perfectly separated"),
        (trials._replace(scores=-trials.scores), "higher scores do not indicate target trials"),
        (trials._replace(scores=np.zeros(2000)), "higher scores do not indicate target trials"),
        (trials.where(trials.labels), "1000 target and 0 non-target trials"),
        (part(trials, slice(119)), "60 target and 59 non-target trials in one; at least 60 of each"),
        (part(trials, slice(0)), "0 target and 0 non-target trials"),
    ):
        with pytest.raises(UserError, match=message) as error:
            fit_one(spoilt)
        assert "\n" not in str(error.value)
    fit_one(part(trials, slice(120)))


@pytest.mark.parametrize("side", ["enrol", "test"])
def test_reversed_scores_at_some_durations_are_refused(side: str) -> None:
    """The scores are reversed at short durations only, so the pooled trials look right."""
    trials, _ = sampled(4000, 7)
    seconds = getattr(trials, f"{side}_seconds")
    short = seconds < np.quantile(seconds, 0.35)
    with pytest.raises(UserError, match="2.00 s .* longer side and 0.50 s .* shorter, higher scores do not"):
        fit_one(trials._replace(scores=np.where(short, -trials.scores, trials.scores)))


def test_probabilities_by_hand() -> None:
    # One speaker, prior 0.5: the odds are the likelihood ratio. Prior 0.1: a ninth of it.
    assert probabilities(np.array([math.log(4)]), 0.5) == pytest.approx([0.8])
    assert probabilities(np.array([math.log(4)]), 0.1) == pytest.approx([4 / 13])
    # Three speakers, prior 0.6, 0.2 each: 0.2 * 5, 0.2 * 1, 0.2 * 0.5 against 0.4 for none.
    ratios = np.log(np.array([[5, 1, 0.5], [1, 1, 1]]))
    expected = np.array([[1, 0.2, 0.1], [0.2, 0.2, 0.2]]) / [[1.7], [1]]
    np.testing.assert_allclose(probabilities(ratios, 0.6), expected)
    assert probabilities(np.array([800.0, -800.0]), 0.5) == pytest.approx([1, 0])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint_007.pth"
    path.write_bytes(b"weights")
    return path


def test_a_written_calibration_is_read_and_damaged_ones_are_not(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = "3f" * 32
    assert load_calibration(checkpoint, digest) is None and not capsys.readouterr().err
    fitted = fit({"phones": sampled(2000, 10)[0], "calls": sampled(2000, 11)[0]})
    for replaced in (False, True):
        save_calibration(checkpoint, digest, fitted, {"mean": {"cllr": 0.4}})
        assert ("checkpoint_007.calibration.json: the earlier" in capsys.readouterr().err) == replaced
    path = checkpoint.with_name("checkpoint_007.calibration.json")
    assert load_calibration(checkpoint, digest) == fitted
    content = json.loads(path.read_text())
    assert content["checkpoint_sha256"] == digest and content["n_target"] == 2000
    assert content["sets"] == ["phones", "calls"] and content["target_speakers"] == [40, 40]
    assert content["leave_one_set_out"]["mean"]["cllr"] == 0.4
    assert load_calibration(checkpoint, "0" * 64) is None
    assert "checkpoint_007.calibration.json: belongs to another checkpoint" in capsys.readouterr().err
    for spoilt in (
        "[1]",
        "{",
        json.dumps(content | {"weights": content["weights"][:4]}),
        json.dumps(content | {"intercept": float("nan")}),
        json.dumps(content | {"intercept": 10**400}),
        json.dumps(content | {"test_seconds": [0, 5]}),
        json.dumps(content | {"enrol_seconds": 3}),
        json.dumps(content | {"n_target": -5}),
        json.dumps(content | {"nontarget_speakers": [40, 0]}),
        json.dumps(content | {"target_speakers": [40]}),
        json.dumps({name: value for name, value in content.items() if name != "intercept"}),
    ):
        path.write_text(spoilt)
        assert load_calibration(checkpoint, digest) is None
        assert "checkpoint_007.calibration.json: not a calibration" in capsys.readouterr().err


def test_checkpoints_of_other_suffixes_have_calibrations_of_their_own(tmp_path: Path) -> None:
    paths = [calibration_path(tmp_path / name).name for name in ("a.pth", "a.pt", "a.1", "a.2", "a")]
    assert paths[0] == "a.calibration.json" and len(set(paths)) == 4  # a.pth and a have the same


def test_a_read_only_folder_is_an_error(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(calibration, "replacing", refuse)
    with pytest.raises(UserError, match=r"007.calibration.json: the calibration cannot be written \(Permission denied"):
        save_calibration(checkpoint, "3f" * 32, Calibration(0.0, (1.0,) * 5, (1.0, 2.0), (1.0, 2.0), 100, 100))


def test_a_file_of_an_earlier_version_is_read(checkpoint: Path) -> None:
    """Such a file has no sets and no numbers of speakers."""
    fitted = fit_one(sampled(2000, 10)[0])
    save_calibration(checkpoint, "3f" * 32, fitted)
    path = checkpoint.with_name("checkpoint_007.calibration.json")
    content = json.loads(path.read_text())
    for name in ("sets", "target_speakers", "nontarget_speakers"):
        del content[name]
    path.write_text(json.dumps(content))
    read = load_calibration(checkpoint, "3f" * 32)
    assert read and read.weights == fitted.weights and read.bounds == pytest.approx((-math.log(1001), math.log(1001)))
