import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import python_speech_features
import soundfile
from conftest import GOLDEN, PROJECT, voice

from feat_extract.fbank import log_mel

EDGE_CASES = ["tone", "zeros", "short", "exact", "plus1", "clip"]


def assert_close(features: np.ndarray, expected: np.ndarray) -> None:
    assert features.shape == expected.shape and features.dtype == np.float32
    difference = np.abs(features - expected)
    assert difference.mean() <= 1e-3 and difference.max() <= 0.1  # dB


def oracle(samples: np.ndarray) -> np.ndarray:
    energies, _ = python_speech_features.fbank(samples, 16000, winlen=0.025, nfilt=40, winfunc=np.hamming)
    features = 20 * np.log10(np.maximum(energies, 1e-5))
    return features - features.mean(axis=0)


@pytest.mark.parametrize("name", EDGE_CASES)
def test_edge_cases_equal_the_official_code(name: str) -> None:
    golden = np.load(GOLDEN / "features.npz")
    assert_close(log_mel(golden[f"in_{name}"]), golden[f"out_{name}"])


@pytest.mark.parametrize("n_samples", [1, 2, 159, 399, 400, 401, 559, 560, 561, 16000, 400 + 160 * 512, 100_003])
def test_any_length_equals_python_speech_features(n_samples: int) -> None:
    samples = voice(1, 7, seed=3)[:n_samples]
    assert len(log_mel(samples)) == (1 if n_samples <= 400 else 1 + -(-(n_samples - 400) // 160))
    assert_close(log_mel(samples), oracle(samples))


def test_features_do_not_depend_on_the_number_of_threads() -> None:
    program = (
        "import numpy as np; from feat_extract.fbank import log_mel; "
        "print(log_mel(np.random.default_rng(0).normal(0, 1000, 40_000).astype(np.int16)).tobytes().hex())"
    )
    threads = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    command, settings = [sys.executable, "-c", program], [os.environ | dict.fromkeys(threads, n) for n in "124"]
    assert len({subprocess.check_output(command, cwd=PROJECT, env=setting) for setting in settings}) == 1


def test_silence_is_at_the_floor() -> None:
    samples = voice(1, 1, seed=3)
    samples[:8000] = 0
    assert_close(log_mel(samples), oracle(samples))  # the mean over time depends on the floor


def test_float_samples_on_the_int16_scale_give_the_same_features() -> None:
    samples = voice(2, 1, seed=0)
    assert np.array_equal(log_mel(samples), log_mel(samples.astype(np.float64)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("peak", [1.0, 0.01, 1.3])  # decoded MP3s exceed full scale a little
def test_floats_of_another_scale_are_refused(dtype: type, peak: float) -> None:
    samples = voice(2, 1, seed=0) / 8000 * peak  # the peak of the voice is 8000
    with pytest.raises(ValueError, match="not on the int16 scale.*multiply floats within -1..1 by 32768"):
        log_mel(samples.astype(dtype))
    log_mel(32768 * samples)


@pytest.mark.parametrize(
    "samples",
    [
        voice(2, 1, seed=0).astype(np.int32) << 16,  # 32-bit wavs read by soundfile or SciPy
        (voice(2, 1, seed=0) // 256 + 128).astype(np.uint8),  # 8-bit wavs read by SciPy
        np.array([100, np.nan, 100]),
        np.array([100, np.inf, 100]),
    ],
    ids=["int32", "uint8", "NaN", "infinite"],
)
def test_samples_of_unknown_scale_are_refused(samples: np.ndarray) -> None:
    with pytest.raises(ValueError, match=f"{samples.dtype} samples up to .* are not on the int16 scale"):
        log_mel(samples)


@pytest.mark.parametrize("shape", [(0,), (1, 500), (500, 1), (500, 2), ()])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError) as error:
        log_mel(np.full(shape, 100, np.int16))
    assert str(error.value) == f"samples are (S,), S >= 1, not {shape}"


def test_the_scale_of_silence_and_of_segments_is_not_checked() -> None:
    faint = np.random.default_rng(0).normal(0, 0.3, 4000)
    for silent in (np.zeros(4000), np.zeros(4000, np.float32), np.zeros(4000, np.int16)):
        assert not log_mel(silent).any()
    assert_close(log_mel(np.rint(faint).astype(np.int16)), oracle(np.rint(faint)))  # 16-bit samples of -1, 0, 1
    utterance = np.concatenate([voice(2, 0.5, seed=0), faint])
    part, same = log_mel(utterance[8000:], before=utterance[7999]), log_mel(utterance)[50:]
    assert_close(part, same - same.mean(axis=0))


@pytest.mark.parametrize("number", range(5))
def test_real_speech_equals_the_official_code(shared: Path, number: int) -> None:
    samples, rate = soundfile.read(shared / "golden" / "wav" / f"{number}.wav", dtype="int16")
    assert rate == 16000
    assert_close(log_mel(samples), np.load(shared / "golden" / "features.npz")[f"wav{number}"])
