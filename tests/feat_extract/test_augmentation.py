import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from conftest import here, in_process, run_script, voice, write_wavs

import train
from configure import TREES
from dataset.episodes import Episode, TrainingEpisodes, episode_order
from dataset.features import read_feature, write_feature
from dataset.index import FeatureIndex, n_starts
from feat_extract import codecs
from feat_extract.augmentation import KINDS, Augmentation, AugmentedCrops, mask
from feat_extract.fbank import log_mel
from feat_extract.noise_sources import (
    NoiseSources,
    change_speed,
    coloured_noise,
    mix,
    reverberate,
    synthetic_impulse_response,
)
from system.console import UserError
from system.loading import Loader

EPISODES: dict[str, Any] = {"n_way": 3, "n_shot": 1, "n_query": 2, "use_variable": True, "seed": 100}
RATE = 16000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four speakers with four utterances: 2.6 s, an end within a frame, one shorter than a crop, one little longer."""
    root = tmp_path_factory.mktemp("augmented")
    for s in range(4):
        for u, n_samples in enumerate((41_000, 40_123, 20_077, 33_001)):
            write_utterance(root, s, u, voice(s, n_samples / RATE, u)[:n_samples])
    return root


def write_utterance(root: Path, speaker: int, number: int, samples: np.ndarray) -> None:
    name = f"id{speaker:05d}/v/{number:05d}"
    wav = root / TREES["vox2_dev"].wav / f"{name}.wav"
    wav.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(wav, samples, RATE, subtype="PCM_16")
    write_feature(root / TREES["vox2_dev"].feat / f"{name}.pkl", log_mel(samples), name[:7])


def index(root: Path) -> FeatureIndex:
    return FeatureIndex([root / TREES["vox2_dev"].feat])


def augmented(root: Path, *kinds: str, **settings: Any) -> AugmentedCrops:
    return AugmentedCrops(Augmentation(kinds, **settings), root, index(root))


def db(ratio: float) -> float:
    return 10 * np.log10(ratio)


@pytest.mark.parametrize("length", [200, 137])
def test_a_crop_without_augmentation_equals_the_features_except_for_the_mean(root: Path, length: int) -> None:
    features, crops = index(root), augmented(root, "noise", prob=0.0)
    assert sorted(features.n_frames(np.arange(4))) == [124, 205, 250, 255]
    for row in range(4):
        frames = read_feature(features.path(row))
        for start in range(n_starts(len(frames), length)):
            from_wav = crops.crop(row, start, length, 0, rng())
            from_pickle = frames[(start + np.arange(length)) % len(frames)]
            difference = from_wav - from_pickle
            assert np.abs(difference - difference.mean(axis=0)).max() < 0.001, (row, start)


def test_noise_is_mixed_at_the_signal_to_noise_ratio() -> None:
    speech, noise = 1000 * rng(1).normal(size=32_000), rng(2).normal(size=32_000)
    for snr in (20, 0, -7.5):
        added = mix(speech, noise, snr) - speech
        assert db(np.mean(speech**2) / np.mean(added**2)) == pytest.approx(snr, abs=1e-6)
    assert np.array_equal(mix(speech, np.zeros(32_000), 10), speech)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_the_power_of_coloured_noise_falls_with_the_frequency(exponent: float) -> None:
    frequency, power = scipy.signal.welch(coloured_noise(200_000, exponent, rng()), RATE, nperseg=2048)
    band = (frequency > 100) & (frequency < 6000)
    slope = np.polyfit(np.log10(frequency[band]), np.log10(power[band]), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.1)


@pytest.mark.parametrize("rt60", [0.2, 0.8])
def test_a_synthetic_impulse_response_decays_by_60_db_in_rt60(rt60: float) -> None:
    response = synthetic_impulse_response(rt60, 6.0, rng()).astype(float)
    assert db(response[0] ** 2 / np.sum(response[1:] ** 2)) == pytest.approx(6.0, abs=0.01)
    decay = np.cumsum(response[:0:-1] ** 2)[::-1]  # Schroeder's backward integration
    level = 10 * np.log10(decay / decay[0])
    begin, end = np.argmax(level < -5), np.argmax(level < -35)
    assert (end - begin) / RATE * 2 == pytest.approx(rt60, rel=0.1)


def test_reverberation_is_a_convolution_without_the_delay_of_the_direct_sound() -> None:
    speech, tail = rng().normal(size=5000), np.array([0.1, -0.2, 2.0, 1.0, 0.0, 0.5])
    direct_first = np.array([2.0, 1.0, 0.0, 0.5]) / np.sqrt(4 + 1 + 0.25)
    np.testing.assert_allclose(reverberate(speech, tail), np.convolve(speech, direct_first)[:5000], atol=1e-9)


def test_speed_changes_tempo_and_pitch_together() -> None:
    tone = np.sin(2 * np.pi * 400 * np.arange(32_000) / RATE).astype(np.float32)
    assert change_speed(tone, 10) is tone
    for tenths, factor in ((9, 0.9), (11, 1.1)):
        changed = change_speed(tone, tenths)
        assert len(changed) == pytest.approx(32_000 / factor, abs=2)
        peak = np.argmax(np.abs(np.fft.rfft(changed * np.hanning(len(changed))))) * RATE / len(changed)
        assert peak == pytest.approx(400 * factor, abs=1)


def test_specaugment_masks_consecutive_frames_and_consecutive_coefficients() -> None:
    frames = rng(1).normal(size=(200, 40)).astype(np.float32)
    n_frames, n_coefficients, masked_coefficients = set(), set(), set()
    for seed in range(300):
        masked = mask(frames, rng(seed))
        at_mean = np.abs(masked - frames.mean(axis=0)) < 1e-6
        rows, columns = np.flatnonzero(at_mean.all(axis=1)), np.flatnonzero(at_mean.all(axis=0))
        for span in (rows, columns):
            assert len(span) and np.array_equal(span, np.arange(span[0], span[-1] + 1))
        rest = np.ones((200, 40), bool)
        rest[rows], rest[:, columns] = False, False
        assert np.array_equal(masked[rest], frames[rest])
        n_frames.add(len(rows))
        n_coefficients.add(len(columns))
        masked_coefficients |= {*columns}
    assert n_frames == set(range(1, 11)) and n_coefficients == set(range(1, 9))  # as in WeSpeaker
    assert masked_coefficients == set(range(40))


def added_by(crops: AugmentedCrops, features: FeatureIndex, row: int, monkeypatch: pytest.MonkeyPatch) -> list:
    """Return (speech, speech with noise) of 60 crops of a row."""
    seen = []

    def spy(samples: np.ndarray, before: float) -> np.ndarray:
        seen.append(np.insert(samples, 0, before).astype(float))
        return log_mel(samples, before)

    monkeypatch.setattr("feat_extract.noise_sources.log_mel", spy)
    clean = AugmentedCrops(Augmentation(("noise",), 0.0), crops_root(features), features)
    for seed in range(60):
        clean.crop(row, 20, 200, 0, rng(seed)), crops.crop(row, 20, 200, 0, rng(seed))
    return list(zip(seen[::2], seen[1::2], strict=True))


def crops_root(features: FeatureIndex) -> Path:
    return features.path(0).parents[len(Path(TREES["vox2_dev"].feat).parts) + 2]


@pytest.mark.parametrize("kind, low, high", [("noise", 0, 15), ("babble", 13, 20)])
def test_noise_is_added_with_the_default_probability_and_snrs(
    root: Path, monkeypatch: pytest.MonkeyPatch, kind: str, low: float, high: float
) -> None:
    pairs = added_by(augmented(root, kind), index(root), 0, monkeypatch)
    ratios = [db(np.sum(a**2) / np.sum((b - a) ** 2)) for a, b in pairs if not np.array_equal(a, b)]
    assert 24 <= len(ratios) <= 48  # 60 times 0.6, within three standard deviations
    assert low <= min(ratios) < low + 0.2 * (high - low) and high - 0.2 * (high - low) < max(ratios) <= high


def test_babble_is_three_to_seven_other_speakers_at_equal_power(tmp_path: Path) -> None:
    time = np.arange(40_000) / RATE
    for s in range(4):
        for u in range(4):  # each utterance is a tone of another frequency; the levels of the speakers differ
            samples = 8000 * 0.5**s * np.sin(2 * np.pi * 100 * (1 + 4 * s + u) * time)
            write_utterance(tmp_path, s, u, samples.astype(np.int16))
    sources, found, numbers = NoiseSources(tmp_path, index(tmp_path), None, None), set(), set()
    for seed in range(200):
        amplitudes = np.abs(np.fft.rfft(sources.noise("babble", 16_000, rng(seed), excluded=[2])))  # a bin is 1 Hz
        frequencies = np.flatnonzero(amplitudes > 1000)
        found |= {*frequencies}
        if np.allclose(amplitudes[frequencies], 16_000 / 2**0.5, rtol=0.01):  # no utterance was sampled twice
            numbers.add(len(frequencies))
    assert found == {100 * (1 + 4 * s + u) for s in (0, 1, 3) for u in range(4)}
    assert numbers == {3, 4, 5, 6, 7}


def test_babble_is_the_speech_in_the_noise_folder(root: Path, tmp_path: Path) -> None:
    tone_file(tmp_path / "musan" / "speech" / "librivox" / "a.wav", 500)
    sources = NoiseSources(root, index(root), str(tmp_path / "musan"), None)  # contains speech only
    assert peak_of(sources.noise("babble", 20_000, rng())) == pytest.approx(500, abs=2)


def tone_file(path: Path, frequency: float, n: int = 48_000, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * frequency * np.arange(n) / rate), rate, subtype="PCM_16")


def peak_of(samples: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples)))) * RATE / len(samples)


def test_synthetic_impulse_responses_cover_the_ranges_of_rt60_and_ratio(root: Path) -> None:
    sources, generator = NoiseSources(root, index(root), None, None), rng()
    responses = [sources.impulse_response(generator) for _ in range(300)]
    seconds = [len(response) / RATE for response in responses]
    ratios = [db(response[0] ** 2 / np.sum(response[1:] ** 2)) for response in responses]
    for found, low, high in ((seconds, 0.2, 0.8), (ratios, -5, 10)):
        close = 0.05 * (high - low)
        assert low - 1e-3 <= min(found) < low + close and high - close < max(found) <= high + 1e-3


def test_recorded_impulse_responses_are_used(root: Path, tmp_path: Path) -> None:
    tone_file(tmp_path / "rirs" / "Room1" / "r.wav", 250, n=4000)
    sources = NoiseSources(root, index(root), None, str(tmp_path / "rirs"))
    assert len(sources.impulse_response(rng())) == 4000


def test_codecs_are_independent_of_noise_and_applied_after_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[np.ndarray] = []
    chosen: list[str] = []
    mixed: list[int] = []
    plain, code, noise = codecs.transcode_at_random, codecs.transcode, NoiseSources.noise

    def choose(samples: np.ndarray, name: str, generator: np.random.Generator) -> np.ndarray:
        chosen.append(name)
        return code(samples, name, generator)

    def spy(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        given.append(samples.copy())
        return plain(samples, generator)

    def mix(sources: NoiseSources, kind: str, n: int, generator: np.random.Generator, excluded: list) -> np.ndarray:
        mixed.append(n)
        return noise(sources, kind, n, generator, excluded)

    monkeypatch.setattr(codecs, "transcode", choose)
    monkeypatch.setattr(codecs, "transcode_at_random", spy)
    monkeypatch.setattr(NoiseSources, "noise", mix)
    crops = augmented(root, "noise", "codec", noise_snr=(0, 0))
    both = 0
    for seed in range(200):
        n_coded, n_noisy = len(given), len(mixed)
        crops.crop(0, 20, 100, 0, rng(seed))
        both += len(given) > n_coded and len(mixed) > n_noisy
    assert 40 < len(given) < 81 and 99 < len(mixed) < 141  # 0.3 and 0.6 of 200, within three standard deviations
    assert 18 < both < 54  # 0.18 of 200: codec and noise are independent
    assert set(chosen) == {"telephone", "mu-law", "opus", "mp3"} and len(chosen) == len(given)
    powers = sorted(float(np.mean(samples**2)) for samples in given)
    assert powers[-1] > 1.8 * powers[0]  # noise at 0 dB doubles the power


def test_crops_without_a_codec_are_unchanged(root: Path) -> None:
    crops, features = augmented(root, "codec"), index(root)
    changed = 0
    for seed in range(100):
        difference = crops.crop(0, 20, 100, 0, rng(seed)) - features.crop(0, 20, 100)
        changed += np.abs(difference - difference.mean(axis=0)).max() > 0.001
    assert 16 < changed < 45  # 0.3 of 100


@pytest.mark.parametrize("workers", [1, 3])
def test_augmented_episodes_do_not_depend_on_the_loader_processes(root: Path, workers: int) -> None:
    episodes, plain = (TrainingEpisodes(index(root), **EPISODES, augmenter=a) for a in (augmented(root, *KINDS), None))
    with Loader[Episode](episodes, workers, episodes.max_bytes, False).batches(episode_order(5, 0, 0, 1)) as batches:
        loaded = list(batches)
    assert len(loaded) == 5
    for i, episode in enumerate(loaded):
        again = TrainingEpisodes(index(root), **EPISODES, augmenter=augmented(root, *KINDS))[1, i]
        assert all(torch.equal(a, b) for a, b in zip(episode, again, strict=True))
        assert torch.equal(episode.speaker % 4, plain[1, i].speaker)  # otherwise the same episode
        assert episode.query.shape == plain[1, i].query.shape
        assert not torch.equal(episode.support, plain[1, i].support)


def all_starts(features: FeatureIndex, row: int) -> range:
    return range(n_starts(int(features.n_frames(np.array([row]))[0]), 200))


def test_each_speed_of_a_speaker_is_a_class(root: Path) -> None:
    features, crops = index(root), augmented(root, "speed")
    episodes = TrainingEpisodes(features, **EPISODES, augmenter=crops)
    assert episodes.n_classes == 12
    seen = set()
    for i in range(40):
        episode, rows = episodes[1, i], features.rows(episodes.names((1, i)))
        seen |= set(episode.speaker.tolist())
        assert torch.equal(episode.speaker % 4, torch.from_numpy(features.speaker[rows[:3]]))
        if i < 3:
            for way, label in enumerate(episode.speaker.tolist()):
                starts = all_starts(features, rows[way])
                at_speed = [crops.crop(rows[way], start, 200, label // 4, rng()).T for start in starts]
                assert any(np.array_equal(crop, episode.support[0, way, 0]) for crop in at_speed)
    assert seen == set(range(12))


@pytest.mark.parametrize("speed, up, down", [(1, 10, 9), (2, 10, 11)])
def test_a_crop_at_another_speed_has_the_same_length_at_any_start(root: Path, speed: int, up: int, down: int) -> None:
    crops, features = augmented(root, "speed"), index(root)
    for row in range(4):
        for start in all_starts(features, row):
            crop = crops.crop(row, start, 200, speed, rng())
            assert crop.shape == (200, 40)
            if features.n_frames(np.array([row]))[0] >= 220:  # enough for 1.1 times the speed without repetition
                assert len(np.unique(crop, axis=0)) == 200
    utterance, _ = soundfile.read(root / TREES["vox2_dev"].wav / f"{features.name(0)}.wav", dtype="int16")
    expected = log_mel(scipy.signal.resample_poly(utterance.astype(np.float32), up, down))[:200]
    difference = crops.crop(0, 0, 200, speed, rng()) - expected
    kept = difference[:195, 3:34]  # coefficients with energy in this voice, before the end of the filter
    assert np.abs(kept - np.median(kept, axis=0)).max() < 3  # the samples are shifted by a fraction of a sample


def test_missing_and_replaced_wavs_are_errors(tmp_path: Path) -> None:
    for s in range(2):
        for u in range(2):
            write_utterance(tmp_path, s, u, voice(s, 2.5, u))
    crops = augmented(tmp_path, "noise")
    folder = tmp_path / TREES["vox2_dev"].wav / "id00001" / "v"
    soundfile.write(folder / "00001.wav", voice(1, 3.0, 1), RATE, subtype="PCM_16")
    with pytest.raises(UserError, match=r"00001.wav: 48,000 .* has 249 frames; remove .*id00001/v/00001.pkl and"):
        crops.crop(3, 0, 200, 0, rng())
    (folder / "00000.wav").rename(folder / "00000.WAV")
    crops.crop(2, 0, 200, 0, rng())
    (folder / "00000.WAV").unlink()
    with pytest.raises(UserError, match=r"id00001/v/00000.wav: no such wav"):
        augmented(tmp_path, "noise")
    assert augmented(tmp_path, "specaugment").crop(3, 0, 200, 0, rng()).shape == (200, 40)  # specaugment needs no wavs


TRAIN = "--backbone resnet18 --nb_class_train 3 --precision fp32 --lr 0.03".split()


@pytest.mark.slow
def test_training_with_augmentation_resumes_exactly(tmp_path: Path) -> None:
    write_wavs(tmp_path / "data", "vox2_dev", range(4), 4)
    here("feat_extract/feature_extraction.py", "--num_workers", 1, cwd=tmp_path)
    chosen = [*TRAIN, "--augment", ",".join(KINDS)]
    done = run_script("train.py", *chosen, "--max_epoch", 2, cwd=tmp_path)
    assert "crops are augmented: noise, reverb, babble, codec, speed, specaugment" in done.stdout
    assert "chance, global: accuracy 8.33 %" in done.stdout  # four speakers at three speeds
    again = [*chosen, "--n_folder", 1, "--num_workers", 0]  # the crops do not depend on the number of workers
    here("train.py", *again, "--max_epoch", 1, cwd=tmp_path)
    here("train.py", *again, "--max_epoch", 2, "--use_checkpoint", "True", cwd=tmp_path)
    files = [tmp_path / "saved_model" / f"baseline_00{n}" / "checkpoint_002.pth" for n in (0, 1)]
    uninterrupted, resumed = (torch.load(file, weights_only=True)["state_dict"] for file in files)
    assert all(torch.equal(resumed[name], value) for name, value in uninterrupted.items())
    assert resumed["weight"].shape == (12, 256)
    other = [*chosen, "--augment_prob", 0.5, "--n_folder", 1, "--max_epoch", 2]
    done = here("train.py", *other, "--use_checkpoint", "True", cwd=tmp_path)
    assert "--augment_prob 0.5 (was 0.6)" in done.stderr
    done = here("train.py", *TRAIN, "--use_checkpoint", "True", "--max_epoch", 2, cwd=tmp_path, check=1)
    assert "class vectors of 12 speakers" in done.stderr
    wavs = sorted((tmp_path / "data" / TREES["vox2_dev"].wav).rglob("*.wav"))
    for wav in wavs:
        wav.write_bytes(b"no audio")
    damaged = [*TRAIN, "--augment", "noise", "--n_folder", 2, "--num_workers", 1]
    done = run_script("train.py", *damaged, cwd=tmp_path, check=1)
    assert done.stderr.splitlines()[-1].startswith("train.py: ") and "Traceback" not in done.stderr
    assert any(f"train.py: {Path('data', wav.relative_to(tmp_path / 'data'))}: " in done.stderr for wav in wavs)


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--augment wind", "'wind' is none of noise, reverb"),
        ("--noise_dir x", "--noise_dir has no effect without --augment babble or noise"),
        ("--augment noise --rir_dir x", "--rir_dir has no effect without --augment reverb"),
        ("--augment noise --noise_snr 9 3", "--noise_snr 9 3: "),
        ("--augment babble --babble_snr 0 inf", "--babble_snr 0 inf: .*-100 to 100 dB"),
        ("--augment noise --augment_prob 2", "--augment_prob 2: a probability"),
    ],
)
def test_flags_of_augmentation_without_effect_or_out_of_range_are_refused(
    tmp_path: Path, flags: str, message: str
) -> None:
    outcome = in_process(train.main, flags.split(), tmp_path)
    assert outcome.status == 2 and re.search(message, outcome.stderr) and outcome.is_one_line()
