from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import voice, write_wavs

from configure import TREES
from dataset.features import write_feature
from dataset.index import FeatureIndex
from evaluation.noise import NoisyTests
from evaluation.speech import SpeechIndex
from feat_extract import noise_sources
from feat_extract.audio import read_recording
from feat_extract.fbank import log_mel
from feat_extract.noise_sources import NoiseSources
from system.console import UserError

SIDES = np.array([0, 4, 8, 12, 0]), np.array([1, 5, 1, 9, 1])  # trials 0, 1 and 4 are target ones


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five speakers of four utterances, in both trees of the evaluation."""
    root = tmp_path_factory.mktemp("noisy")
    for part, speakers in (("vox1_test", range(3)), ("vox1_dev", range(3, 5))):
        write_wavs(root, part, speakers, 4)
        for wav in sorted((root / TREES[part].wav).rglob("*.wav")):
            name = wav.relative_to(root / TREES[part].wav)
            feat = log_mel(read_recording(wav).samples)
            write_feature(root / TREES[part].feat / name.with_suffix(".pkl"), feat, name.parts[0])
    return root


@pytest.fixture
def features(root: Path) -> FeatureIndex:
    return FeatureIndex([root / TREES[part].feat for part in ("vox1_test", "vox1_dev")])


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The samples from which features were computed, one array per crop."""
    inputs = []

    def spy(samples: np.ndarray, before: float) -> np.ndarray:
        inputs.append(samples.astype(float))
        return log_mel(samples, before)

    monkeypatch.setattr(noise_sources, "log_mel", spy)
    return inputs


Make = Callable[..., NoisyTests]


@pytest.fixture
def tests(root: Path, features: FeatureIndex) -> Make:
    def make(snr: float | None, reverb: bool = False, seed: int = 1, noise_dir: str | None = None) -> NoisyTests:
        return NoisyTests(features, NoiseSources(root, features, noise_dir, None), SIDES, snr, reverb, seed)

    return make


def test_clean_tests_equal_the_features(tests: Make, features: FeatureIndex) -> None:
    for trial, row in enumerate(SIDES[1]):
        difference = tests(None).crop(trial, 20, 150) - features.crop(row, 20, 150)
        assert np.abs(difference - difference.mean(axis=0)).max() < 0.001
    assert [tests(snr).name for snr in (None, 20.0, -2.5)] == ["clean", "20", "-2.5"]


def test_the_noise_is_the_same_at_each_ratio(tests: Make, inputs: list[np.ndarray]) -> None:
    for trial in range(4):
        for snr in (None, 20.0, 5.0, 0.0):
            tests(snr).crop(trial, 20, 150)
        clean, *noisy = inputs[-4:]
        for snr, mixed in zip((20, 5, 0), noisy, strict=True):
            noise = mixed - clean
            assert 10 * np.log10(np.sum(clean**2) / np.sum(noise**2)) == pytest.approx(snr, abs=0.05)
            np.testing.assert_allclose(noise * 10 ** (snr / 20), noisy[-1] - clean, rtol=1e-3, atol=1)


def test_each_trial_and_seed_has_its_own_noise(tests: Make) -> None:
    crops = [tests(0.0, seed=seed).crop(trial, 20, 150) for seed, trial in ((1, 0), (1, 4), (2, 0))]
    assert all(not np.array_equal(a, b) for i, a in enumerate(crops) for b in crops[:i])  # trial 4 is 0 again
    assert np.array_equal(crops[0], tests(0.0).crop(0, 20, 150))


def test_babble_is_of_other_speakers(tests: Make, features: FeatureIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, wav = [], NoiseSources.wav

    def spy(sources: NoiseSources, row: int) -> Path:
        rows.append(row)
        return wav(sources, row)

    monkeypatch.setattr(NoiseSources, "wav", spy)
    speakers = set()
    for seed in range(40):
        noisy = tests(0.0, seed=seed)
        rows.clear()
        noisy.crop(3, 20, 100)
        assert rows[0] == SIDES[1][3] and 3 <= len(rows) - 1 <= 7
        speakers |= set(features.speaker[np.array(rows[1:])].tolist())
    assert speakers == {0, 1, 4}  # the trial is of 3 against 2


def test_the_noise_has_no_reverberation(tests: Make, inputs: list[np.ndarray]) -> None:
    for snr in (None, 0.0):
        tests(snr, reverb=True).crop(0, 20, 150)
    tests(None).crop(0, 20, 150)
    reverberant, noisy, clean = inputs
    assert not np.allclose(reverberant, clean)
    assert 10 * np.log10(np.sum(reverberant**2) / np.sum((noisy - reverberant) ** 2)) == pytest.approx(0, abs=0.05)


def test_a_noise_folder_replaces_babble(tests: Make, inputs: list[np.ndarray], tmp_path: Path) -> None:
    write_wavs(tmp_path, "vox2_dev", range(1), 1, seconds=5)
    tests(None).crop(0, 20, 150)
    tests(0.0, noise_dir=str(tmp_path)).crop(0, 20, 150)
    noise = inputs[1] - inputs[0]
    recorded = voice(0, 5, 0).astype(float)
    found = np.correlate(recorded, noise, "valid") / np.linalg.norm(noise)
    lengths = np.sqrt(np.convolve(recorded**2, np.ones(len(noise)), "valid"))
    assert (found / lengths).max() > 0.9999


def test_babble_needs_a_third_speaker(root: Path, features: FeatureIndex) -> None:
    two = FeatureIndex([root / TREES["vox1_dev"].feat])
    with pytest.raises(UserError, match="babble needs a third speaker"):
        NoisyTests(two, NoiseSources(root, two, None, None), SIDES, 5.0, False, 1)


def test_silence_of_the_clean_utterance_is_removed_after_the_noise_is_added(
    tmp_path: Path, inputs: list[np.ndarray]
) -> None:
    """The noise is added to the recording with its silence."""
    for speaker in range(3):
        name = f"id{speaker:05d}/video0/00000"
        pause = np.zeros(8000, np.int16)
        samples = np.concatenate([pause, voice(speaker, 0.6, 0), pause, voice(speaker, 0.6, 1), pause])
        wav = tmp_path / TREES["vox1_test"].wav / f"{name}.wav"
        wav.parent.mkdir(parents=True)
        soundfile.write(wav, samples, 16000)
        write_feature(tmp_path / TREES["vox1_test"].feat / f"{name}.pkl", log_mel(samples), name[:7])
    speech = SpeechIndex([tmp_path / TREES["vox1_test"].feat])
    sources = NoiseSources(tmp_path, speech.recorded, None, None)
    sides = np.array([0, 1]), np.array([1, 2])
    clean, noisy = (NoisyTests(speech, sources, sides, snr, False, 1) for snr in (None, 10.0))
    n_speech = int(speech.n_frames(np.array([2]))[0])
    assert 120 < n_speech < 150 < speech.recorded.n_frames(np.array([2]))[0]
    for start, length in ((0, n_speech), (30, 80), (100, 200)):  # the last one repeats the utterance
        difference = clean.crop(1, start, length) - speech.crop(2, start, length)
        assert np.abs(difference - difference.mean(axis=0)).max() < 0.001
        assert noisy.crop(1, start, length).shape == (length, 40)
    noisy.crop(1, 30, 80)
    assert len(inputs[-1]) > 80 * 160 + 5000  # most of the silence of 8,000 samples got noise, too
