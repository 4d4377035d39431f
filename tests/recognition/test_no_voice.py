"""Recordings without a voice: recognize.py and read_utterance detect them."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import here
from networks import write_checkpoint

from recognition.utterance import read_utterance, utterance_of

RATE = 16000
NETWORK, VOICES, THRESHOLD = ["--checkpoint", "model.pth"], ["--voices", "voices"], ["--threshold", "0"]


def syllables(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return buzzes with changing resonances, as in vowels, and noise between them, as in fricatives."""
    x = rng.normal(0, 30, int(seconds * RATE))
    length = int(0.15 * RATE)
    for start in range(0, len(x) - 2 * length, 2 * length):
        t, formants = np.arange(length) / RATE, rng.uniform([250, 800, 2200], [900, 2200, 3200])
        for k in range(1, 40):
            level = sum(np.exp(-(((120 * k - formant) / 150) ** 2)) for formant in formants)
            x[start : start + length] += 2000 * level * np.sin(2 * np.pi * 120 * k * t)
        hiss = np.diff(rng.normal(0, 500, length // 2 + 1))
        x[start + length : start + length + len(hiss)] += hiss
    return x.astype(np.int16)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained checkpoint, two recordings like speech and two of noise, and an enrolled speaker."""
    home, rng = tmp_path_factory.mktemp("no_voice"), np.random.default_rng(0)
    write_checkpoint(home / "model.pth", 0)
    for name in ("anna.wav", "ben.wav"):
        soundfile.write(home / name, syllables(2, rng), RATE)
    for name in ("fan.wav", "hiss.wav"):
        soundfile.write(home / name, rng.normal(0, 1000, 2 * RATE).astype(np.int16), RATE)
    here("recognize.py", "enroll", *NETWORK, *VOICES, "Anna", "anna.wav", cwd=home)
    return home


def warnings(stderr: str) -> list[str]:
    """Return the files that have a warning about a missing voice."""
    return [line.split(": ")[0] for line in stderr.splitlines() if "no voice found" in line]


@pytest.mark.slow
def test_compare_warns_of_recordings_without_a_voice(home: Path) -> None:
    for files, silent in ((["anna.wav", "ben.wav"], []), (["fan.wav", "ben.wav"], ["fan.wav"]),
                          (["fan.wav", "hiss.wav"], ["fan.wav", "hiss.wav"])):  # fmt: skip
        done = here("recognize.py", "compare", *NETWORK, *THRESHOLD, *files, cwd=home)
        assert warnings(done.stderr) == silent and " score " in done.stdout  # a warning, not an error
        printed = json.loads(here("recognize.py", "compare", *NETWORK, *THRESHOLD, *files, "--json", cwd=home).stdout)
        assert printed["voice"] == [file not in silent for file in files]


def test_enroll_and_identify_warn_too(home: Path) -> None:
    done = here("recognize.py", "enroll", *NETWORK, *VOICES, "Fan", "fan.wav", "ben.wav", "--json", cwd=home)
    assert warnings(done.stderr) == ["fan.wav"]
    assert [entry["voice"] for entry in json.loads(done.stdout)["files"]] == [False, True]
    done = here("recognize.py", "identify", *NETWORK, *VOICES, *THRESHOLD, "ben.wav", "hiss.wav", "--json", cwd=home)
    assert warnings(done.stderr) == ["hiss.wav"]
    assert [entry["voice"] for entry in json.loads(done.stdout)["files"]] == [True, False]


def test_too_little_speech_gives_one_warning(home: Path) -> None:
    samples, _ = soundfile.read(home / "fan.wav", dtype="int16")
    soundfile.write(home / "short.wav", samples[:4000], RATE)
    done = here("recognize.py", "compare", *NETWORK, *THRESHOLD, "anna.wav", "short.wav", cwd=home)
    (line,) = done.stderr.splitlines()
    assert line.startswith("short.wav: 0.25 s of speech") and "0.50 s" in line


def test_has_voice_in_python(home: Path) -> None:
    noise, speech = read_utterance(home / "fan.wav"), read_utterance(home / "anna.wav")
    assert not noise.has_voice and speech.has_voice
    assert 0.5 < noise.modulation < 1.5 < speech.modulation
    samples, _ = soundfile.read(home / "fan.wav")
    assert not utterance_of(samples, RATE).has_voice
    padded = np.pad((samples * 32767).astype(np.int16), RATE)  # pauses at both ends have no effect
    assert utterance_of(padded, RATE).modulation == pytest.approx(noise.modulation, abs=0.2)
