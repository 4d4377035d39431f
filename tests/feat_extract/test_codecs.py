import numpy as np
import pytest
import scipy.signal
from conftest import voice

from feat_extract.codecs import CODECS, transcode
from feat_extract.fbank import log_mel
from system.console import UserError

RATE = 16000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def mu_law(samples: np.ndarray) -> np.ndarray:
    """Return 16-bit samples after mu-law (G.711): 8 segments of 16 levels; the step doubles from segment to segment."""
    magnitude = np.minimum(np.abs(samples.astype(int)), 32635) + 132
    segment = np.floor(np.log2(magnitude)).astype(int) - 7
    step = 8 * 2**segment
    return np.sign(samples) * (magnitude // step * step + step // 2 - 132)


def test_mu_law_adds_the_quantisation_noise_of_g711() -> None:
    speech = 20_000 * np.sin(2 * np.pi * 1003.7 * np.arange(32_000) / RATE) * np.linspace(0.01, 1, 32_000)
    at_8_khz = np.rint(speech[::2])
    added = transcode(speech, "mu-law", rng()).astype(float) - transcode(speech, "telephone", rng())
    expected = scipy.signal.resample_poly(mu_law(at_8_khz) - at_8_khz, 2, 1)
    inside = slice(1000, -1000)
    assert np.corrcoef(added[inside], expected[inside])[0, 1] > 0.85  # except near 4 kHz
    assert np.std(added[inside]) == pytest.approx(np.std(expected[inside]), rel=0.1)


@pytest.mark.parametrize("name, above", [("telephone", -50), ("mu-law", -35)])  # the noise of mu-law reaches 4 kHz
def test_telephone_codecs_pass_300_to_3400_hz(name: str, above: float) -> None:
    noise = 3000 * rng(1).normal(size=160_000)
    frequency, before = scipy.signal.welch(noise, RATE, nperseg=4096)
    _, after = scipy.signal.welch(transcode(noise, name, rng()), RATE, nperseg=4096)
    gain = 10 * np.log10(after / before)
    assert np.abs(gain[(frequency > 450) & (frequency < 3250)]).max() < 1.5
    assert gain[(frequency > 10) & (frequency < 150)].max() < -35
    assert 10 * np.log10(np.sum(after[frequency > 3600]) / np.sum(after)) < above


@pytest.mark.parametrize("name", CODECS)
def test_codecs_add_no_delay(name: str) -> None:
    for speaker in range(6):
        speech = voice(speaker, 2.0, speaker).astype(np.float32)
        coded = transcode(speech, name, rng(speaker))
        assert coded.shape == speech.shape and coded.dtype == np.float32
        correlation = scipy.signal.correlate(coded, speech)
        assert abs(int(correlation.argmax()) - (len(speech) - 1)) <= 2  # samples
        assert 0.5 < correlation.max() / np.linalg.norm(speech) / np.linalg.norm(coded) < 0.99999
        half = np.where(np.arange(len(speech)) < 16_000, 0, speech)  # an onset has no pre-echo and no fade-in
        loudness = np.convolve(transcode(half, name, rng(speaker)) ** 2, np.ones(160), "same")
        assert abs(int(np.argmax(loudness > 0.1 * np.median(loudness[20_000:]))) - 16_000) < 400


@pytest.mark.parametrize("name", CODECS)
def test_codecs_accept_any_length_and_level(name: str) -> None:
    for n in (1, 2, 161, 401, 5000):
        assert len(transcode(rng().normal(size=n), name, rng())) == n
    assert np.abs(transcode(np.zeros(16_000), name, rng())).max() <= 1
    loud = 100_000 * np.sin(2 * np.pi * 700 * np.arange(32_000) / RATE)  # as speech with noise at a low SNR
    coded = transcode(loud, name, rng())
    assert np.abs(coded).max() <= 32_768 and np.array_equal(coded, np.rint(coded))
    spectrum = np.abs(np.fft.rfft(coded * np.hanning(32_000)))
    spectrum[1390:1411] = 0
    assert spectrum.max() < 0.02 * 32_767 * 8000  # not clipped: clipping makes a third harmonic of 0.3


@pytest.mark.parametrize("name, at_least", [("opus", 8), ("mp3", 3)])  # MP3 has 16, 24 and 32 kbit/s
def test_the_bit_rate_is_random_and_reproducible(name: str, at_least: int) -> None:
    speech = voice(1, 2.0, 1).astype(np.float32)
    coded = [transcode(speech, name, rng(seed)) for seed in range(8)]
    assert all(np.array_equal(transcode(speech, name, rng(seed)), coded[seed]) for seed in range(8))
    assert len({one.tobytes() for one in coded}) >= at_least


def test_a_codec_missing_in_ffmpeg_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, "mp3", CODECS["mp3"]._replace(encoder="libshine2"))
    with pytest.raises(UserError, match="FFmpeg's libshine2 is missing in this build of PyAV"):
        transcode(np.ones(100), "mp3", rng())


def test_features_of_coded_speech_are_similar_to_those_of_the_speech() -> None:
    speech = voice(3, 2.0, 3).astype(np.float32)
    clean = log_mel(speech)[:, 8:25]  # 400 to 2600 Hz, in the band of every codec
    for name in CODECS:
        coded = log_mel(transcode(speech, name, rng()))[:, 8:25]
        likeness = [np.corrcoef(clean[10:180].ravel(), coded[10 + lag : 180 + lag].ravel())[0, 1] for lag in (-1, 0, 1)]
        assert likeness[1] == max(likeness) and likeness[1] > 0.7
