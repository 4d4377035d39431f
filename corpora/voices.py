"""Synthetic speakers for the demo: eSpeak NG, called through ctypes, with a voice of its own for each speaker.

A voice is a small text file, a "voice variant", that scales pitch, formants and noise of eSpeak's formant
synthesiser (its documentation: docs/voices.md of the eSpeak NG sources). eSpeak NG is GPL-3 and comes with
the wheel `espeakng-loader`; only the demo and its tests need it.
"""

import ctypes
import importlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from scipy.signal import resample_poly

from configure import SAMPLE_RATE
from system.console import UserError

ESPEAK_RATE = 22050  # Hz
ACCENTS = ("en", "en-us", "en-us-nyc", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
LANGUAGE_FILES = ("phontab", "phonindex", "phondata", "intonations", "en_dict")  # all that English speech needs

VARIANT = "speaker"  # name of the one variant in an engine's data folder
VOLUME = 25  # of eSpeak's 0..200: the loudest voices stay below full scale
SYNCHRONOUS, DO_NOT_EXIT, UTF8 = 2, 0x8000, 1  # espeak_AUDIO_OUTPUT, espeak_Initialize and espeak_Synth flags
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
WORDS_PER_MINUTE, LOUDNESS, PITCH, PITCH_RANGE = 1, 2, 3, 4  # espeak_PARAMETER


@dataclass(frozen=True)
class Voice:
    """One speaker: an accent, a usual speed in words per minute, and the text of the eSpeak voice variant."""

    accent: str
    speed: float
    variant: str


def draw_voice(rng: np.random.Generator) -> Voice:
    """Draw a speaker: pitch, roughness, tone, breath and vocal tract, around a man's or a woman's."""
    male = rng.random() < 0.5
    pitch = np.exp(rng.uniform(*np.log((75, 140) if male else (150, 255))))  # Hz
    tract = rng.uniform(0.86, 1.06) if male else rng.uniform(1.02, 1.22)  # scales all formants, as its length does
    lines = [
        "language variant",
        f"name {VARIANT}",
        f"gender {'male' if male else 'female'}",
        f"pitch {pitch:.0f} {pitch * rng.uniform(1.15, 1.6):.0f}",
        f"flutter {rng.integers(0, 7)}",
        f"roughness {rng.integers(0, 5)}",
        f"voicing {rng.integers(75, 120)}",
        f"consonants {rng.integers(60, 130)} {rng.integers(60, 130)}",
    ]
    bands = ((200, 170, 255), (900, 90, 230), (2200, 40, 190), (3800, 10, 150))  # Hz, lowest and highest level
    tones = [f"{hz * rng.uniform(0.8, 1.2):.0f} {rng.integers(low, high)}" for hz, low, high in bands]
    lines.append(f"tone {' '.join(tones)}")
    if rng.random() < 0.4:
        lines.append("breath " + " ".join(str(level) for level in rng.integers(0, 7, size=8)))
    for formant in range(9):
        frequency = 100 * tract * rng.uniform(0.85, 1.15)  # this and the next two in percent of the accent's own
        lines.append(f"formant {formant} {frequency:.0f} {rng.integers(65, 125)} {rng.integers(70, 170)}")
    return Voice(str(rng.choice(ACCENTS)), rng.uniform(140, 190), "\n".join(lines) + "\n")


def require_engine() -> ModuleType:
    """Return the module that carries eSpeak NG; raise UserError where it is not installed."""
    try:
        return importlib.import_module("espeakng_loader")
    except ImportError:
        raise UserError("the demo's voices need eSpeak NG: pip install -r requirements-demo.txt") from None


class Engine:
    """eSpeak NG speaking with one voice; a context manager."""

    def __init__(self, voice: Voice):
        espeak = require_engine()
        self.voice = voice
        self._folder = tempfile.TemporaryDirectory(prefix="voice-")
        _write_data(Path(espeak.get_data_path()), Path(self._folder.name), voice.variant)
        # The library keeps state that espeak_Initialize does not clear; a copy of its own starts each engine afresh.
        self._library = ctypes.CDLL(shutil.copy(espeak.get_library_path(), self._folder.name))
        self._samples: list[np.ndarray] = []
        self._callback = CALLBACK(self._collect)  # the library keeps only a pointer to it

    def __enter__(self) -> "Engine":
        rate = self._library.espeak_Initialize(SYNCHRONOUS, 0, self._folder.name.encode(), DO_NOT_EXIT)
        if rate != ESPEAK_RATE:
            raise RuntimeError(f"eSpeak NG did not start at {ESPEAK_RATE} Hz (espeak_Initialize returned {rate})")
        self._library.espeak_SetSynthCallback(self._callback)
        return self

    def __exit__(self, *exception: object) -> None:
        self._library.espeak_Terminate()
        self._folder.cleanup()

    def say(self, text: str, speed: float, pitch: float, pitch_range: float, seed: int) -> np.ndarray:
        """Return the text as speech: (S,) float32 at 16 kHz in [-1, 1].

        `speed` is in words per minute, `pitch` and `pitch_range` 0..100 around the voice's own at 50; `seed`
        drives the engine's own randomness (flutter, roughness, breath).
        """
        self._samples.clear()
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        name = f"{self.voice.accent}+{VARIANT}"
        if self._library.espeak_SetVoiceByName(name.encode()):
            raise RuntimeError(f"eSpeak NG has no voice {name}")
        settings = {WORDS_PER_MINUTE: speed, LOUDNESS: VOLUME, PITCH: pitch, PITCH_RANGE: pitch_range}
        for parameter, value in settings.items():
            self._library.espeak_SetParameter(parameter, round(value), 0)
        encoded = text.encode()
        self._library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, 0, 0, UTF8, None, None)
        speech = np.concatenate(self._samples).astype(np.float32) / 32768
        return resample_poly(speech, SAMPLE_RATE // 50, ESPEAK_RATE // 50).astype(np.float32)

    def _collect(self, samples: int | None, count: int, events: int | None) -> int:
        """Keep `count` int16 samples from the address `samples` on; eSpeak calls this while it speaks."""
        if samples and count > 0:
            self._samples.append(np.frombuffer(ctypes.string_at(samples, 2 * count), np.int16))
        return 0  # go on


def _write_data(source: Path, target: Path, variant: str) -> None:
    """Copy the English part of eSpeak's data to `target`, where espeak_Initialize looks, with the one variant."""
    data = target / "espeak-ng-data"
    (data / "voices" / "!v").mkdir(parents=True)
    (data / "voices" / "!v" / VARIANT).write_text(variant)
    for name in LANGUAGE_FILES:
        shutil.copy(source / name, data / name)
    shutil.copytree(source / "lang" / "gmw", data / "lang" / "gmw")
