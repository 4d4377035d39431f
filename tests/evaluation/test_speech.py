"""Utterances with trimmed silence, for calibration."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.features import write_feature
from dataset.index import FeatureIndex
from evaluation.embedding import Segments
from evaluation.normalisation import load_cohort
from evaluation.speech import SpeechIndex
from model.encoder import Encoder
from system.compute import inference
from system.console import UserError

SILENT = -300.0


def with_silence(feat: np.ndarray) -> np.ndarray:
    """Return features (T, 40) with silence around them, and with a short pause of 5 frames, which is not trimmed."""
    silence = np.full((30, 40), SILENT, np.float32)
    return np.concatenate([silence, feat[:20], silence[:5], feat[20:], silence])


@pytest.fixture
def trees(tmp_path: Path) -> dict[str, Path]:
    """Two feature trees of the same four speakers, one with silence around the utterances."""
    rng, trees = np.random.default_rng(0), {name: tmp_path / name for name in ("bare", "padded")}
    for speaker in range(4):
        for at in range(3):
            feat, name = rng.normal(0, 5, (40 + 5 * at, 40)).astype(np.float32), f"s{speaker}/v/{at}.pkl"
            spoken = with_silence(feat)
            write_feature(trees["padded"] / name, spoken, f"s{speaker}")
            write_feature(trees["bare"] / name, spoken[30:-30], f"s{speaker}")
    return trees


def test_lengths_and_frames_are_of_speech(trees: dict[str, Path]) -> None:
    bare, index, rows = FeatureIndex([trees["bare"]]), SpeechIndex([trees["padded"]]), np.array([0, 5, 2, 5])
    assert index.n_frames(rows).tolist() == [45, 55, 55, 55] == bare.n_frames(rows).tolist()
    assert FeatureIndex([trees["padded"]]).n_frames(rows).tolist() == [105, 115, 115, 115]
    for row, start, length in ((0, 0, 45), (5, 10, 30), (2, 20, 170)):  # the last repeats the utterance
        np.testing.assert_array_equal(index.crop(row, start, length), bare.crop(row, start, length))


def test_a_damaged_file_is_named(trees: dict[str, Path]) -> None:
    index, path = SpeechIndex([trees["padded"]]), trees["padded"] / "s1" / "v" / "2.pkl"
    write_feature(path, np.full((99, 40), np.nan), "s1")
    with pytest.raises(UserError, match="s1/v/2.pkl: not a feature file"):
        index.n_frames(np.arange(12))


def test_repetitions_of_an_utterance_do_not_count_as_seconds(trees: dict[str, Path]) -> None:
    segments = Segments(np.array([0, 0, 5, 5]), np.array([0, 3, 0, 1]), np.array([20, 200, 55, 300]))
    np.testing.assert_allclose(segments.seconds(FeatureIndex([trees["bare"]])), [0.2, 0.45, 0.55, 0.55])
    np.testing.assert_allclose(segments.seconds(FeatureIndex([trees["padded"]])), [0.2, 1.05, 0.55, 1.15])
    np.testing.assert_allclose(segments.seconds(SpeechIndex([trees["padded"]])), [0.2, 0.45, 0.55, 0.55])


def test_silence_of_the_cohort_is_trimmed(trees: dict[str, Path]) -> None:
    encoder, compute = Encoder("resnet18").eval(), inference("cpu")
    expected, found = (
        load_cohort(encoder, trees[name], set(), 3, compute, index).means
        for name, index in (("bare", FeatureIndex), ("padded", SpeechIndex))
    )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
