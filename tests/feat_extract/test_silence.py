"""Silence is trimmed from samples and features; speech and room noise are kept."""

import numpy as np
import pytest
from conftest import peak_memory, voice

from feat_extract.fbank import log_mel
from feat_extract.silence import trim_features, trim_samples

RATE = 16000
ROOM = np.random.default_rng(0).normal(0, 60, 10 * RATE)  # room noise, 42 dB below the loudest speech
SPEECH = (voice(1, 2.5, 0) + ROOM[: int(2.5 * RATE)]).astype(np.int16)


def silence(seconds: float, level: float = 0) -> np.ndarray:
    """Return zeros or faint noise."""
    return np.rint(np.random.default_rng(1).normal(0, level, int(seconds * RATE))).astype(np.int16)


@pytest.mark.parametrize("level", [0, 1, 3, 8])
@pytest.mark.parametrize("seconds", [0.1, 0.4321, 3, 61.7])
def test_leading_and_trailing_silence_are_trimmed_to_the_sample(seconds: float, level: float) -> None:
    padded = np.concatenate([silence(seconds, level), SPEECH, silence(1.3 * seconds, level)])
    alone = trim_samples(SPEECH)
    assert np.array_equal(trim_samples(padded), alone) and len(SPEECH) - len(alone) < 0.05 * RATE
    assert np.array_equal(trim_samples(alone), alone)


@pytest.mark.parametrize("level", [0, 3, 8])
def test_a_long_pause_within_speech_is_shortened(level: float) -> None:
    for seconds in (0.5, 3, 90):
        cut = trim_samples(np.concatenate([SPEECH, silence(seconds, level), SPEECH]))
        assert 2 * len(SPEECH) < len(cut) + 0.05 * RATE < 2 * len(SPEECH) + 0.2 * RATE


def test_room_noise_and_short_pauses_are_kept() -> None:
    room, loud = ROOM[:RATE].astype(np.int16), 3 * SPEECH
    recording = np.concatenate([room, loud, room, loud, room])
    assert len(recording) - len(trim_samples(recording)) < 0.05 * RATE
    short = np.concatenate([SPEECH, silence(0.09), SPEECH])
    assert len(short) - len(trim_samples(short)) < 0.05 * RATE
    padded = np.concatenate([silence(2, 15), loud, silence(2, 15)])  # 52 dB below the loudest
    assert abs(len(trim_samples(padded)) - len(loud)) < 0.05 * RATE


def test_faint_speech_is_kept() -> None:
    faint = np.concatenate([SPEECH / 250, SPEECH / 1500, SPEECH / 250]).astype(np.int16)  # peaks of 32 and 5
    assert len(faint) - len(trim_samples(faint)) < 0.1 * RATE
    for samples in ([1], [0, 0, 1, 0], np.ones(100), np.ones(RATE)):
        assert trim_samples(np.array(samples, np.int16)).any()


def test_features_are_trimmed_as_computed_by_hand() -> None:
    """Features are 20 log10(energy): 79 below the loudest is 39.5 dB, 81 is 40.5 dB."""
    loud, soft, silent = 5.0, -74.0, -76.0
    levels = [silent] * 3 + [loud] * 2 + [silent] * 10 + [soft] + [silent] * 14 + [loud] + [silent] * 12
    features = np.repeat(np.array(levels, np.float32)[:, None], 40, axis=1)
    features += np.linspace(-50, 50, 40, dtype=np.float32)  # another level for each coefficient
    kept = np.r_[3:26, 30]
    assert np.array_equal(trim_features(features), features[kept])
    assert np.array_equal(trim_features(features[kept]), features[kept])
    for equal in (features[:1], features[:3], features[3:5]):
        assert np.array_equal(trim_features(equal), equal)


@pytest.mark.parametrize("level", [0, 3])
def test_features_are_trimmed_like_samples(level: float) -> None:
    for recording in (
        SPEECH,
        np.concatenate([silence(1.7, level), SPEECH, silence(0.8, level)]),
        np.concatenate([SPEECH, silence(2.3, level), SPEECH, silence(0.5, level), SPEECH]),
    ):
        cut = log_mel(trim_samples(recording))
        found = trim_features(log_mel(recording))
        assert len(found) == pytest.approx(len(cut), abs=5 + 0.01 * len(cut))


def test_the_loudest_25_ms_are_found_at_any_position() -> None:
    for second in (0, 30, 60):  # recordings are processed in blocks of 60 s
        samples = np.full(70 * RATE, 178, np.int16)  # 41 dB below the loudest
        samples[max(0, second * RATE - 200) :][:400] = 20_000
        assert len(trim_samples(samples)) < RATE


@pytest.mark.slow
def test_an_hour_takes_little_memory() -> None:
    """The samples of an hour take 115 MB and the result as many; trimming needs less than one more copy."""
    code = "import numpy as np; from feat_extract.silence import trim_samples; "
    code += "x = np.tile(np.random.default_rng(0).integers(-9999, 9999, 16000).astype(np.int16), 3600); "
    code += "assert len(trim_samples(x)) > 3599 * 16000"
    assert peak_memory(code) < 350_000
