import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import PROJECT, here, run_script, write_wavs

from configure import TREES
from dataset.index import FeatureIndex
from evaluation.noise import NoisyTests
from feat_extract import augmentation, decoding
from feat_extract.augmentation import Augmentation, AugmentedCrops
from feat_extract.noise_folder import NOISE, recordings
from feat_extract.noise_sources import NoiseSources
from system.console import UserError

RATE = 16000
TREE = TREES["vox2_dev"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with wavs and features of four speakers."""
    root = tmp_path_factory.mktemp("root")
    write_wavs(root, "vox2_dev", range(4), 3)
    here("feat_extract/feature_extraction.py", "--save_path", root, "--num_workers", 1, cwd=root)
    return root


@pytest.fixture
def features(root: Path) -> FeatureIndex:
    return FeatureIndex([root / TREE.feat])


def tone(path: Path, frequency: float, seconds: float = 2.0, rate: int = RATE, channels: int = 1) -> Path:
    """Write a tone; the second of two channels is weaker."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.3 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)
    soundfile.write(path, np.stack([samples, 0.5 * samples][:channels], axis=1), rate)
    return path


def frequencies(sources: NoiseSources, kind: str, n: int = 60) -> set[int]:
    """Return the frequencies of the strongest tones (Hz, rounded to 100) in n random signals of a kind."""
    rng = np.random.default_rng(0)
    if kind == "reverb":
        signals = [sources.impulse_response(rng) for _ in range(n)]
    else:
        signals = [sources.noise(kind, RATE, rng) for _ in range(n)]
    return {100 * round(int(np.argmax(np.abs(np.fft.rfft(s)))) * RATE / len(s) / 100) for s in signals}


def test_recordings_of_any_format_are_decoded_once(
    root: Path, features: FeatureIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    tone(tmp_path / "plain.wav", 300)
    tone(tmp_path / "street.WAV", 700, seconds=30, rate=44_100, channels=2)
    tone(tmp_path / "wind.flac", 1100, rate=48_000)
    tone(tmp_path / "car.mp3", 1500, rate=44_100)
    (tmp_path / "README").write_text("where this was recorded")
    NoiseSources(root, features, str(tmp_path), None)
    warnings = capsys.readouterr().err
    assert "decoding 3 recordings" in warnings and "decoded_noise" in warnings and "skipped" not in warnings

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(decoding, "decode", refuse)
    sources = NoiseSources(root, features, str(tmp_path), None)  # reads the cache
    assert frequencies(sources, "noise") == {300, 700, 1100, 1500} and not capsys.readouterr().err
    begin = time.process_time()
    for seed in range(50):
        sources.noise("noise", 32_000, np.random.default_rng(seed))
    assert time.process_time() - begin < 0.5  # without the cache each would decode half a minute
    monkeypatch.undo()
    tone(tmp_path / "wind.flac", 1900, rate=48_000)  # replaced
    sources = NoiseSources(root, features, str(tmp_path), None)
    assert frequencies(sources, "noise") == {300, 700, 1500, 1900}


def test_decoded_noise_equals_the_recording(root: Path, features: FeatureIndex, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-9000, 9000, 40_000).astype(np.int16)
    soundfile.write(tmp_path / "noise.flac", samples, RATE, subtype="PCM_16")
    noise = NoiseSources(root, features, str(tmp_path), None).noise("noise", 8000, np.random.default_rng(1))
    starts = [start for start in range(32_001) if np.array_equal(samples[start : start + 8000], noise)]
    assert len(starts) == 1


def test_unusable_recordings_are_named_and_skipped(
    root: Path, features: FeatureIndex, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for at in range(5):
        tone(tmp_path / f"good{at}.wav", 300)
    (tmp_path / "bad.wav").write_bytes(b"no audio at all")
    (tmp_path / "empty.flac").write_bytes(b"")
    soundfile.write(tmp_path / "silent.wav", np.zeros(40_000), RATE)
    soundfile.write(tmp_path / "silent.flac", np.zeros(40_000), 44_100)
    soundfile.write(tmp_path / "constant.wav", np.full(40_000, 0.1), RATE)
    sources = NoiseSources(root, features, str(tmp_path), None)
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert "5 of 10 recordings are skipped: " in warning and warning.endswith(" and 2 more")
    assert "constant.wav (silent (all samples are equal)), silent.wav (silent" in warning
    assert frequencies(sources, "noise") == {300}  # zeros would be 0 Hz
    for path in tmp_path.glob("good*"):
        path.unlink()
    with pytest.raises(UserError, match=r"none of 5 recordings can be used: constant.wav \(silent"):
        NoiseSources(root, features, str(tmp_path), None)


def test_silent_impulse_responses_are_refused(root: Path, features: FeatureIndex, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(4000), RATE)
    with pytest.raises(UserError, match=r"none of 1 recordings can be used: a.wav \(silent"):
        NoiseSources(root, features, None, str(tmp_path))
    tone(tmp_path / "b.flac", 500, rate=8000)
    assert frequencies(NoiseSources(root, features, None, str(tmp_path)), "reverb") == {500}


@pytest.mark.parametrize("folder", ["noise_dir", "rir_dir"])
def test_wrong_and_empty_folders_have_different_errors(
    root: Path, features: FeatureIndex, tmp_path: Path, folder: str
) -> None:
    def refusal(path: Path) -> str:
        given = {"noise_dir": None, "rir_dir": None, folder: str(path)}
        with pytest.raises(UserError) as refused:
            NoiseSources(root, features, **given)
        return str(refused.value)

    assert refusal(tmp_path / "musam") == (
        f"{tmp_path / 'musam'}: no such folder; dataprep.py --musan --rirs downloads noise and impulse responses"
    )
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.txt").write_text("nothing here")
    assert f"{tmp_path / 'empty'}: no recordings (such as .wav" in refusal(tmp_path / "empty")
    file = tone(tmp_path / "fan.wav", 300)
    assert f"{file}: a file, not a folder" in refusal(file)


def rirs_noises(folder: Path) -> Path:
    """Write recordings in the layout of OpenSLR 28."""
    tone(folder / "pointsource_noises" / "noise-free-sound-0000.wav", 300)
    tone(folder / "simulated_rirs" / "smallroom" / "Room001" / "Room001-00001.wav", 700)
    tone(folder / "real_rirs_isotropic_noises" / "RVB2014_type1_rir_largeroom1_near_angla.wav", 1100, channels=2)
    tone(folder / "real_rirs_isotropic_noises" / "RVB2014_type1_noise_largeroom1_1.wav", 1500, channels=2)
    (folder / "pointsource_noises" / "noise_list").write_text("--noise-id 0001")
    return folder


def test_the_folders_of_rirs_noises_give_impulse_responses_and_noise(
    root: Path, features: FeatureIndex, tmp_path: Path
) -> None:
    folder = rirs_noises(tmp_path / "RIRS_NOISES")
    assert frequencies(NoiseSources(root, features, None, str(folder)), "reverb") == {700, 1100}
    small_rooms = NoiseSources(root, features, None, str(folder / "simulated_rirs" / "smallroom"))
    assert frequencies(small_rooms, "reverb") == {700}
    assert frequencies(NoiseSources(root, features, str(folder), None), "noise") == {300, 1500}
    with pytest.raises(UserError, match="pointsource_noises: contains noise, but no room impulse responses"):
        NoiseSources(root, features, None, str(folder / "pointsource_noises"))
    with pytest.raises(UserError, match="simulated_rirs: contains room impulse responses, but no noise"):
        NoiseSources(root, features, str(folder / "simulated_rirs"), None)
    tone(tmp_path / "own" / "church_noise_free.wav", 900)  # in no known layout: the flag gives the kind
    assert frequencies(NoiseSources(root, features, None, str(tmp_path / "own")), "reverb") == {900}


def musan(folder: Path) -> Path:
    """Write recordings in the layout of OpenSLR 17."""
    for frequency, kind, corpus in ((300, "noise", "free-sound"), (700, "music", "fma"), (1100, "speech", "librivox")):
        tone(folder / kind / corpus / f"{kind}-{corpus}-0000.wav", frequency)
        (folder / kind / corpus / "LICENSE").write_text("public domain")
    return folder


@pytest.mark.parametrize("part", ["music", "music/fma", ""])
def test_music_is_mixed_at_its_snr_from_any_folder_of_musan(
    root: Path, features: FeatureIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    folder = musan(tmp_path / "musan") / part
    setting = Augmentation(("noise",), prob=1, noise_snr=(1, 2), music_snr=(31, 32), noise_dir=str(folder))
    crops, mixed = AugmentedCrops(setting, root, features), set()

    def note(samples: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
        mixed.add((100 * round(int(np.argmax(np.abs(np.fft.rfft(noise)))) * RATE / len(noise) / 100), int(snr)))
        return samples

    monkeypatch.setattr(augmentation, "mix", note)
    for seed in range(20):
        crops.crop(0, 0, 100, 0, np.random.default_rng(seed))
    assert mixed == ({(700, 31)} if part else {(300, 1), (700, 31)})


def test_speech_is_babble_from_any_folder_of_musan(root: Path, features: FeatureIndex, tmp_path: Path) -> None:
    folder = musan(tmp_path / "musan")
    for part in ("", "speech", "speech/librivox"):
        sources = NoiseSources(root, features, str(folder / part), None, ("speech",))
        assert frequencies(sources, "babble", 5) == {1100}
    with pytest.raises(UserError, match="speech: contains speech, but no noise or music; choose another folder"):
        AugmentedCrops(Augmentation(("noise",), noise_dir=str(folder / "speech")), root, features)
    with pytest.raises(UserError, match="speech: contains speech, but neither noise nor music for --augment noise"):
        AugmentedCrops(Augmentation(("noise", "babble"), noise_dir=str(folder / "speech")), root, features)
    with pytest.raises(UserError, match="noise: contains noise, but no speech"):
        AugmentedCrops(Augmentation(("babble",), noise_dir=str(folder / "noise")), root, features)


def test_the_innermost_folder_gives_the_kind(root: Path, features: FeatureIndex, tmp_path: Path) -> None:
    tone(tmp_path / "own" / "music" / "of radio" / "speech" / "a.wav", 700)
    tone(tmp_path / "own" / "speech" / "of radio" / "music" / "a.wav", 1100)
    sources = NoiseSources(root, features, str(tmp_path / "own"), None, ("music", "speech"))
    assert frequencies(sources, "music", 5) == {1100}
    assert frequencies(sources, "babble", 5) == {700}


def test_parent_folders_outside_musan_are_ignored(root: Path, features: FeatureIndex, tmp_path: Path) -> None:
    tone(tmp_path / "speech" / "music" / "own" / "fan.wav", 900)
    assert frequencies(NoiseSources(root, features, str(tmp_path / "speech" / "music" / "own"), None), "noise") == {900}


@pytest.mark.parametrize(
    "part, kind, frequency",
    [("", "noise", 300), ("noise", "noise", 300), ("music", "music", 700), ("speech", "babble", 1100)],
)
def test_the_evaluators_use_noise_or_else_music_or_else_speech(
    root: Path,
    features: FeatureIndex,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    kind: str,
    frequency: int,
) -> None:
    sources = NoiseSources(root, features, str(musan(tmp_path / "musan") / part), None)
    tests = NoisyTests(features, sources, (np.array([0, 3]), np.array([1, 4])), 5.0, False, 1)
    added: list[np.ndarray] = []

    def note(samples: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
        added.append(noise)
        return samples

    monkeypatch.setattr("evaluation.noise.mix", note)
    tests.crop(0, 0, 100)
    assert tests.kind == kind
    assert np.argmax(np.abs(np.fft.rfft(added[0]))) * RATE / len(added[0]) == pytest.approx(frequency, abs=2)


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    tone(tmp_path / "noise" / "a.flac", 300)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "decoded_noise").write_text("a file")
    with pytest.raises(UserError, match=r"decoded_noise: cannot be written .*ffmpeg -i RECORDING -ac 1 -ar 16000"):
        recordings(tmp_path / "noise", NOISE, (NOISE,), tmp_path / "data")


def test_unfinished_and_truncated_cache_files_are_decoded_again(
    root: Path, features: FeatureIndex, tmp_path: Path
) -> None:
    tone(tmp_path / "a.flac", 300)
    before = set((root / "decoded_noise").glob("*.wav"))
    NoiseSources(root, features, str(tmp_path), None)
    (decoded,) = set((root / "decoded_noise").glob("*.wav")) - before
    content = decoded.read_bytes()
    decoded.unlink()
    unfinished = root / "decoded_noise" / f".{decoded.name}.12345.tmp"
    unfinished.write_bytes(content[:1000])
    NoiseSources(root, features, str(tmp_path), None)
    assert decoded.read_bytes() == content and not unfinished.exists()
    decoded.write_bytes(content[:20])  # truncated
    assert frequencies(NoiseSources(root, features, str(tmp_path), None), "noise") == {300}


@pytest.mark.slow
def test_two_runs_decode_into_one_cache(tmp_path: Path) -> None:
    for at in range(3):
        tone(tmp_path / "noise" / f"{at}.wav", 300, seconds=20, rate=44_100, channels=2)
    code = (
        "import sys; from pathlib import Path; from feat_extract.noise_folder import NOISE, recordings\n"
        "if __name__ == '__main__':\n"
        "    found = recordings(Path('noise'), NOISE, (NOISE,), Path('data'))\n"
        "    assert [n for _, n in found[NOISE]] == [320_000] * 3, found\n"
    )
    (tmp_path / "run.py").write_text(code)
    command = [sys.executable, "run.py"]
    environment = {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    runs = [subprocess.Popen(command, cwd=tmp_path, env=environment) for _ in range(2)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    assert len(list((tmp_path / "data" / "decoded_noise").iterdir())) == 4  # the wavs and the lock


@pytest.mark.slow
def test_scripts_skip_unusable_recordings(tmp_path: Path) -> None:
    write_wavs(tmp_path / "data", "vox2_dev", range(4), 4)
    write_wavs(tmp_path / "data", "vox1_test", range(4, 7), 3)
    here("feat_extract/feature_extraction.py", "--num_workers", 1, cwd=tmp_path)
    tone(tmp_path / "street" / "good.wav", 300, seconds=60, rate=44_100, channels=2)
    (tmp_path / "street" / "bad.wav").write_bytes(b"RIFF")
    rirs_noises(tmp_path / "RIRS_NOISES")
    soundfile.write(tmp_path / "RIRS_NOISES" / "simulated_rirs" / "zero.wav", np.zeros(4000), RATE)
    flags = "--augment noise,reverb --augment_prob 1 --noise_dir street --rir_dir RIRS_NOISES --max_epoch 1".split()
    small = "--backbone resnet18 --nb_class_train 3 --precision fp32 --num_workers 1".split()
    done = run_script("train.py", *flags, *small, cwd=tmp_path)
    assert "street: 1 of 2 recordings are skipped: bad.wav (" in done.stderr
    assert "RIRS_NOISES: 1 of 3 recordings are skipped: simulated_rirs/zero.wav (silent" in done.stderr
    assert "epoch 1: " in done.stdout and (tmp_path / "data" / "decoded_noise").is_dir()
    names = [f"id{speaker:05d}/video{at}/{at:05d}.wav" for speaker in range(4, 7) for at in (0, 1)]
    trials = [f"{int(a[:7] == b[:7])} {a} {b}\n" for a in names for b in names if a < b]
    (tmp_path / "trials.txt").write_text("".join(trials))
    flags = "--trials trials.txt --test_length 100 --noise_snr 5 --reverb True --rir_dir RIRS_NOISES".split()
    music = musan(tmp_path / "musan") / "music"
    done = run_script("EER_short.py", *flags, "--noise_dir", music, cwd=tmp_path)
    assert f"tests in reverberation (RIRS_NOISES) and music of {music}; SNRs" in done.stdout
    done = run_script("EER_short.py", *flags, "--noise_dir", "musam", cwd=tmp_path, check=1)
    assert done.stderr.splitlines()[-1].startswith("EER_short.py: musam: no such folder; ")
