import json

import numpy as np
import pytest
from conftest import GOLDEN
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_curve

from evaluation.metrics import (
    cllr,
    eer_interval,
    eer_replicates,
    interval_95,
    llr_rates,
    mean_interval,
    min_cllr,
    roc,
    verification_metrics,
)

CASES = json.loads((GOLDEN / "metrics.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_rates_equal_the_official_code(name: str) -> None:
    case = CASES[name]
    rates = verification_metrics(np.array(case["scores"]), np.array(case["labels"]))
    assert rates.eer == pytest.approx(case["eer"], abs=1e-9)
    assert rates.threshold == pytest.approx(case["threshold"], abs=1e-9)
    assert rates.min_dcf_01 == pytest.approx(case["dcf_01"], abs=1e-9)
    assert rates.min_dcf_001 == pytest.approx(case["dcf_001"], abs=1e-9)


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 300))
    labels = rng.random(n) < rng.uniform(0.1, 0.9)
    labels[:2] = True, False
    scores = rng.normal(size=n) + labels * rng.uniform(-1, 3)
    return (scores.round(int(rng.integers(0, 3))) if seed % 2 else scores), labels


@pytest.mark.parametrize("seed", range(60))
def test_roc_equals_scikit_learn(seed: int) -> None:
    scores, labels = random_case(seed)
    fpr, tpr, thresholds = roc_curve(labels, scores)
    ours = roc(scores, labels)
    np.testing.assert_allclose(ours, (thresholds, fpr, 1 - tpr), atol=1e-12)
    rates = verification_metrics(scores, labels)
    assert rates.eer == pytest.approx(fpr[np.argmin(np.abs(1 - tpr - fpr))], abs=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_interpolated_eer_lies_on_both_lines(seed: int) -> None:
    scores, labels = random_case(seed)
    _, fpr, fnr = roc(scores, labels)
    eer = verification_metrics(scores, labels).eer_interpolated
    parameter = np.linspace(0, len(fpr) - 1, 200_001)
    x, y = (np.interp(parameter, np.arange(len(fpr)), rate) for rate in (fpr, fnr))
    assert eer == pytest.approx(x[np.argmin(np.abs(x - y))], abs=1e-2)


def test_by_hand() -> None:
    # Targets 0.9 0.7 0.2, non-targets 0.8 0.4 0.3 0.1: at 0.7, one of four is falsely accepted, one of three is missed.
    rates = verification_metrics(np.array([0.9, 0.7, 0.2, 0.8, 0.4, 0.3, 0.1]), np.array([1, 1, 1, 0, 0, 0, 0]))
    assert rates.eer == 0.25 and rates.threshold == 0.7
    assert rates.eer_interpolated == pytest.approx(1 / 3)  # the ROC goes from (1/4, 1/3) across to (1/2, 1/3)
    assert rates.min_dcf_01 == pytest.approx(2 / 3)  # accept 0.9 only


def test_perfect_reversed_and_equal_scores() -> None:
    labels = np.array([1, 1, 0, 0])
    perfect = verification_metrics(np.array([4, 3, 2, 1.0]), labels)
    assert (perfect.eer, perfect.eer_interpolated, perfect.threshold, perfect.min_dcf_01) == (0, 0, 3, 0)
    reversed_ = verification_metrics(np.array([1, 2, 3, 4.0]), labels)
    assert (reversed_.eer, reversed_.eer_interpolated, reversed_.min_dcf_01) == (1, 1, 1)
    assert verification_metrics(np.zeros(4), labels).eer_interpolated == 0.5


@pytest.mark.parametrize(
    "scores, labels, message",
    [
        ([0.1, 0.2], [1, 1], "target and non-target"),
        ([0.1, 0.2], [0, 0], "target and non-target"),
        ([0.1, np.nan], [1, 0], "finite"),
        ([0.1, np.inf], [1, 0], "finite"),
        ([0.1], [1, 0], "one length"),
    ],
)
def test_scores_without_an_error_rate_are_refused(scores: list, labels: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verification_metrics(np.array(scores), np.array(labels))


def test_interval_covers_the_rate_and_narrows_with_more_speakers() -> None:
    widths = []
    for n_speakers in (15, 120):
        rng = np.random.default_rng(0)
        ease = rng.normal(0.3, 0.3, n_speakers)  # some speakers are easier than others
        enrol = np.repeat(np.arange(n_speakers), 40)
        labels = np.tile([True, False], len(enrol) // 2)
        test = np.where(labels, enrol, (enrol + rng.integers(1, n_speakers, len(enrol))) % n_speakers)
        scores = rng.normal(size=len(enrol)) + 2 * labels + ease[enrol]
        low, high = eer_interval(scores, labels, enrol, test)
        assert low < verification_metrics(scores, labels).eer < high
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]


def trials_of(speakers: np.ndarray, n: int, gap: float, decimals: int, seed: int) -> list[np.ndarray]:
    """Return scores, labels and the speakers of both sides of n random trials, target ones `gap` higher."""
    rng = np.random.default_rng(seed)
    enrol = rng.choice(speakers, n)
    test = np.where(rng.random(n) < 0.5, enrol, rng.choice(speakers, n))
    scores = (rng.normal(size=n) + gap * (enrol == test)).round(decimals)
    return [scores, enrol == test, enrol, test]


def rates_of_resampled_lists(scores: np.ndarray, labels: np.ndarray, enrol: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return the EERs of the official code, by scikit-learn, of 200 explicit lists of resampled speakers."""
    speakers, rng, rates = np.unique([enrol, test]), np.random.default_rng(0), []
    for _ in range(200):
        times = np.bincount(rng.choice(speakers, len(speakers)), minlength=speakers.max() + 1)
        expanded = np.repeat(np.arange(len(scores)), np.where(labels, times[enrol], times[enrol] * times[test]))
        if len(np.unique(labels[expanded])) == 2:
            fpr, tpr, _ = roc_curve(labels[expanded], scores[expanded])
            rates.append(fpr[np.argmin(np.abs(1 - tpr - fpr))])
    return np.array(rates)


@pytest.mark.parametrize(
    "speakers, n, gap, decimals",
    [
        (np.arange(8), 300, 1, 9),
        (np.arange(8), 40, 1, 9),
        (np.arange(8), 300, 1, 1),  # dozens of equal scores
        (np.arange(8), 300, 1, -1),  # all scores are equal
        (np.array([3, 4, 11, 30]), 300, 1, 9),  # speakers without trials in between
        (np.arange(30), 300, 9, 9),  # no errors
        (np.arange(2), 300, 9, 9),  # hundreds of equal steps between two corners
        (np.arange(2), 300, -9, 9),
    ],
)
def test_a_replicate_is_the_eer_of_the_resampled_list(speakers: np.ndarray, n: int, gap: float, decimals: int) -> None:
    trials = trials_of(speakers, n, gap, decimals, seed=2)
    replicates, expected = eer_replicates(*trials), rates_of_resampled_lists(*trials)
    np.testing.assert_allclose(replicates[: len(expected)], expected, rtol=0, atol=1e-12)
    assert eer_interval(*trials) == pytest.approx(np.percentile(replicates, [2.5, 97.5]))
    may_lack_a_kind = len(speakers) < 8 or n < 300  # replicates without target or without non-target trials
    assert may_lack_a_kind or len(replicates) == 2000


@pytest.mark.parametrize("times", [1, 100])
def test_eer_and_replicates_are_at_corners_of_the_roc(times: int) -> None:
    # At both corners the false-positive rates, 0 and 1, differ by 1/2 from the false-negative rate; elsewhere less.
    labels, nobody = np.repeat([1, 0, 0, 0, 0, 1], times), np.zeros(6 * times, int)
    scores = -np.arange(6.0 * times)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert fpr[np.argmin(np.abs(1 - tpr - fpr))] == 0.5
    assert verification_metrics(scores, labels).eer == 0
    assert eer_interval(scores, labels, nobody, nobody) == (0, 0)  # one speaker: each replicate is the list itself


def test_replicates_of_two_systems_are_paired() -> None:
    scores, *rest = trials_of(np.arange(8), 300, 1, 9, seed=2)
    others = scores + np.random.default_rng(3).normal(0, 0.1, 300)
    differences = eer_replicates(scores, *rest) - eer_replicates(others, *rest)
    expected = rates_of_resampled_lists(scores, *rest) - rates_of_resampled_lists(others, *rest)
    np.testing.assert_allclose(differences[: len(expected)], expected, rtol=0, atol=1e-12)
    low, high = interval_95(differences)
    own_low, own_high = eer_interval(scores, *rest)
    assert high - low < 0.8 * (own_high - own_low)  # difficult speakers affect both systems


def test_interval_is_wider_than_for_independent_trials() -> None:
    rng, n_speakers = np.random.default_rng(1), 30
    enrol = np.repeat(np.arange(n_speakers), 200)
    labels = np.tile([True, False], len(enrol) // 2)
    scores = rng.normal(size=len(enrol)) + labels * (2 + rng.normal(0, 1, n_speakers)[enrol])
    test = np.where(labels, enrol, (enrol + 1) % n_speakers)
    low, high = eer_interval(scores, labels, enrol, test)
    eer = verification_metrics(scores, labels).eer
    independent = 2 * 1.96 * np.sqrt(eer * (1 - eer) / (len(labels) / 2))
    assert high - low > 1.5 * independent


def test_mean_interval_by_hand() -> None:
    mean, half_width = mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert mean == 2.5 and half_width == pytest.approx(1.96 * np.sqrt(5 / 3) / 2)


@pytest.mark.parametrize(
    "others, targets, expected",  # likelihood ratios and Cllr: examples of the NFI's package lir, tests/test_metrics.py
    [
        ([1, 1], [1, 1], 1),
        ([3] * 2, [1 / 3] * 2, 2),
        ([1 / 3] * 2, [3] * 2, 0.4150374992788437),
        ([1 / 3] * 2, [1], 0.7075187496394219),
        ([1 / 100] * 100, [1], 0.507177646488535),
        ([1 / 100] * 100 + [100], [1], 0.5400680236656377),
        ([1 / 100] * 100 + [100] * 6, [1], 0.6952113122368764),
        ([2], [2] * 2, 1.0849625007211563),
        ([8], [8] * 8, 1.6699250014423126),
    ],
)
def test_cllr_of_published_examples(others: list, targets: list, expected: float) -> None:
    llr, labels = np.log(np.array(others + targets, float)), np.arange(len(others + targets)) >= len(others)
    assert cllr(llr, labels) == pytest.approx(expected, abs=1e-12)


def test_min_cllr_by_hand() -> None:
    # In increasing order: other, target, other, target. The two in the middle are pooled to a ratio of 1, and the ends
    # have infinite LLRs: each kind has one trial that costs 0 bits and one that costs 1 bit.
    scores, labels = np.array([0.9, 0.5, 0.4, 0.1]), np.array([True, False, True, False])
    assert min_cllr(scores, labels) == pytest.approx(0.5)
    assert min_cllr(-scores, labels) == pytest.approx(0.5 * (np.log2(1 + 1 / 1) + np.log2(2)))  # no information: 1 bit
    assert min_cllr(np.array([4, 3, 2, 1.0]), np.array([True, True, False, False])) == 0
    assert min_cllr(np.zeros(4), labels) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(20))
def test_min_cllr_equals_scikit_learns_isotonic_regression(seed: int) -> None:
    scores, labels = random_case(seed)
    share = IsotonicRegression(y_min=0, y_max=1).fit(scores, labels).predict(scores)
    prior = labels.mean() / (1 - labels.mean())
    with np.errstate(divide="ignore"):
        ratio = share / (1 - share) / prior
        costs = np.log2(1 + 1 / ratio[labels]).mean(), np.log2(1 + ratio[~labels]).mean()
    assert min_cllr(scores, labels) == pytest.approx(sum(costs) / 2, abs=1e-12)
    assert min_cllr(scores, labels) <= cllr(scores, labels) + 1e-12
    assert min_cllr(np.exp(scores), labels) == pytest.approx(min_cllr(scores, labels), abs=1e-12)


def test_decisions_at_ratios_by_hand() -> None:
    # Bayes' thresholds: 0 at equal odds, log 99 = 4.595 at P_target 0.01, log 19 = 2.944 at 0.05.
    llr = np.array([5.0, 4.0, 0.0, -1.0, 4.7, 3.0, 0.0, -2.0, -3.0])
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0])
    rates = llr_rates(llr, labels)
    assert rates["misses"] == pytest.approx(100 / 4) and rates["false_alarms"] == pytest.approx(300 / 5)
    assert rates["dcf_0.01"] == pytest.approx((0.01 * 3 / 4 + 0.99 * 1 / 5) / 0.01)
    assert rates["dcf_0.05"] == pytest.approx((0.05 * 2 / 4 + 0.95 * 2 / 5) / 0.05)
    assert (rates["min_dcf_0.01"], rates["min_dcf_0.05"]) == pytest.approx((3 / 4, 3 / 4))  # accept 5.0 only
    assert rates["cllr"] == cllr(llr, labels == 1) and rates["min_cllr"] == min_cllr(llr, labels == 1)
