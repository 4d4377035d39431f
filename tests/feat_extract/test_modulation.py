"""spectral_modulation of steady sounds, of changing spectra and of synthetic speech."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.signal

from corpora import demo
from feat_extract.modulation import MIN_MODULATION, spectral_modulation
from feat_extract.noise_sources import coloured_noise, mix

RATE = 16000
Sound = Callable[[int, np.random.Generator], np.ndarray]


def tone(hz: float, n: int) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(n) / RATE)


def fan(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return brown noise with a resonance and hum; the level changes slowly."""
    resonance = scipy.signal.butter(2, [500, 900], "bandpass", fs=RATE, output="sos")
    x = coloured_noise(n, 1.5, rng) / 0.02 + scipy.signal.sosfilt(resonance, rng.normal(size=n)) + tone(100, n)
    return x * (1 + 0.4 * tone(0.7, n))


def beeps(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return a busy tone in faint noise: only its level changes."""
    return (tone(440, n) + tone(480, n)) * (np.arange(n) // 4000 % 2 == 0) + 0.002 * rng.normal(size=n)


STEADY: dict[str, Sound] = {
    "white": lambda n, rng: rng.normal(size=n),
    "pink": lambda n, rng: coloured_noise(n, 1, rng),
    "brown": lambda n, rng: coloured_noise(n, 2, rng),
    "fan": fan,
    "hum": lambda n, rng: sum((tone(50 * k, n) / k for k in range(1, 20)), 0.01 * rng.normal(size=n)),
    "tone": lambda n, rng: tone(1000, n),
    "chord": lambda n, rng: tone(220, n) + tone(277, n) + tone(330, n),
    "beeps": beeps,
}


def scaled(x: np.ndarray, peak: float = 8000) -> np.ndarray:
    return (x * (peak / np.abs(x).max())).astype(np.int16)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Four seconds of a speech synthesiser."""
    pytest.importorskip("espeakng_loader")
    text = "The boy was there when the sun rose; a rod is used to catch pink salmon. Kick the ball straight."
    with demo.synthesiser("en", demo.random_variant(np.random.default_rng(3))) as speak:
        return scaled(speak(text, 170, 50, 50, 0))[: 4 * RATE]


@pytest.mark.parametrize("sound", STEADY)
@pytest.mark.parametrize("seconds", [0.5, 1, 3])
def test_steady_sounds_are_below_the_threshold(sound: str, seconds: float) -> None:
    for seed in range(10):
        samples = scaled(STEADY[sound](int(seconds * RATE), np.random.default_rng(seed)))
        assert spectral_modulation(samples) < MIN_MODULATION


@pytest.mark.parametrize("seconds", [0.5, 1, 3])
def test_speech_is_above_the_threshold(speech: np.ndarray, seconds: float) -> None:
    n = int(seconds * RATE)
    starts = range(0, len(speech) - n + 1, RATE // 4)
    found = [spectral_modulation(speech[start : start + n]) for start in starts]
    assert len(found) >= 4 and min(found) > MIN_MODULATION
    noisy = scaled(mix(speech.astype(np.float64), np.random.default_rng(0).normal(size=len(speech)), 10))
    assert spectral_modulation(noisy) > MIN_MODULATION


def test_the_modulation_of_a_known_change() -> None:
    # The noise is 8 dB stronger below 1.78 kHz (between mel bands 20 and 21 of 40) in one quarter of a second, and 8 dB
    # stronger above 1.78 kHz in the next. Relative to their mean, the bands change between +4 and -4 dB: a standard
    # deviation of 4 dB. The window and the average over 5 frames turn each step into a ramp of about 6.5 frames. With
    # three ramps per second (98 frames), sqrt(1 - 2/3 * 19.5/98) of it is left: 3.7 dB. The noise adds a little.
    rng, n, quarter = np.random.default_rng(0), 8 * RATE, RATE // 4
    spectrum, hz = np.fft.rfft(coloured_noise(n, 2, rng)), np.fft.rfftfreq(n, 1 / RATE)
    gain = 10 ** (8 / 20)
    low = np.fft.irfft(spectrum * np.where(hz < 1780, gain, 1), n)
    high = np.fft.irfft(spectrum * np.where(hz < 1780, 1, gain), n)
    changing = np.where(np.arange(n) // quarter % 2 == 0, low, high)
    assert spectral_modulation(scaled(changing)) == pytest.approx(3.8, abs=0.15)
    assert spectral_modulation(scaled(low)) < MIN_MODULATION
    slow = np.where(np.arange(n) // (4 * RATE) == 0, low, high)  # the shape changes once in eight seconds
    assert spectral_modulation(scaled(slow)) < MIN_MODULATION


def test_the_level_has_no_effect(speech: np.ndarray) -> None:
    expected = spectral_modulation(speech)
    assert spectral_modulation(speech // 8) == pytest.approx(expected, rel=0.05)


def test_a_voice_in_a_fifth_of_a_long_recording_is_found(speech: np.ndarray) -> None:
    noise = np.random.default_rng(1).normal(0, 100, 200 * RATE)
    assert spectral_modulation(noise.astype(np.int16)) < MIN_MODULATION
    noise[: 40 * RATE] += np.tile(speech, 10)
    assert spectral_modulation(np.roll(noise, 90 * RATE).astype(np.int16)) > MIN_MODULATION


@pytest.mark.parametrize("n", [1, 399, 400, 800, 1100])
def test_very_short_recordings_are_below_the_threshold(n: int) -> None:
    assert 0 <= spectral_modulation(np.full(n, 1000, np.int16)) < MIN_MODULATION
    assert spectral_modulation(np.zeros(n, np.int16)) == 0
