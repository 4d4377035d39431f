"""The corpus of the demo: synthetic speakers in VoxCeleb's layout, computed from a seed.

A speaker is an accent and a random "voice variant" of eSpeak NG: a text file that scales the pitch, the formants and
the noise of this formant synthesiser (docs/voices.md of its sources). eSpeak NG is GPL-3 and part of the package
espeakng-loader, which only the demo and its tests need.
"""

import ctypes
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import fftconvolve, resample_poly

from configure import SAMPLE_RATE, TREES, TRIALS_NAME
from dataset.trial_sampling import sample_trials
from dataset.trials import Trials, list_content
from system.console import UserError, progress
from system.files import replacing
from system.workers import unordered_map

N_TRAIN, N_TEST = 60, 20  # speakers
UTTERANCES = tuple(f"session{number}/00001.wav" for number in range(1, 6))  # of each speaker
SECONDS = (2.2, 4.0)  # shortest and longest utterance
N_TRIALS = 400  # half of them target trials
MARKER = "demo.txt"  # in a data root; contains the seed and the size of its demo
GAIN_HZ = (60, 250, 1000, 3000, 8000)  # frequencies at which the gain of a session is sampled
WORDS = (
    "ancient believes blanket bridge camera captain collects curious discovers doctor draws elephant empty farmer "
    "follows forest forgets gentle golden heavy holiday journey kitchen ladder modern mountain narrow newspaper ocean "
    "orchestra painter patient protects purple question recognises repairs silver surrounds useful village workshop"
).split()
N_WORDS = 24  # per utterance: the fastest speaker needs more than the longest of SECONDS for them
ACCENTS = ("en", "en-us", "en-us-nyc", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
ESPEAK_RATE = 22050  # Hz
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


def write_demo(root: Path, seed: int, n_train: int = N_TRAIN, n_test: int = N_TEST, workers: int | None = None) -> None:
    """Write training speakers as VoxCeleb2 dev, unseen speakers as VoxCeleb1 test, and a trial list, below `root`.

    The same seed gives the same bytes with any number of worker processes. Complete speakers are kept, so an
    interrupted run is resumed. UserError if `root` contains another demo or other data, or without eSpeak NG.
    """
    if importlib.util.find_spec("espeakng_loader") is None:
        raise UserError("the demo's voices need eSpeak NG: pip install -r requirements-demo.txt")
    names = [[f"test{index:03d}/{utterance}" for utterance in UTTERANCES] for index in range(n_test)]
    n_trials = min(N_TRIALS, n_test * len(UTTERANCES) * (len(UTTERANCES) - 1))
    enrol, test = np.array(sample_trials(names, n_trials, seed), object).T
    trials = list_content(Trials(np.arange(n_trials) % 2 == 0, enrol, test))
    size = f"seed {seed}, {n_train} and {n_test} speakers, {len(UTTERANCES)} utterances each\n"
    marker, listed = root / MARKER, root / TRIALS_NAME
    if marker.exists() and marker.read_text() != size:
        raise UserError(f"{marker}: a demo of another seed or size; remove {root} or choose another --save_path")
    others = [root / tree.wav for tree in TREES.values() if (root / tree.wav).exists() and not marker.exists()]
    others += [listed] if listed.exists() and listed.read_bytes() != trials else []
    if others:
        raise UserError(f"{others[0]}: not part of the demo; move it or choose another --save_path for the demo")
    for path, content in ((marker, size.encode()), (listed, trials)):
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    folders = [root / TREES["vox2_dev"].wav / f"train{index:03d}" for index in range(n_train)]
    folders += [root / TREES["vox1_test"].wav / f"test{index:03d}" for index in range(n_test)]
    speakers = [(folder, (seed, index)) for index, folder in enumerate(folders)]
    missing = [speaker for speaker in speakers if not all((speaker[0] / name).exists() for name in UTTERANCES)]
    list(progress(unordered_map(write_speaker, missing, workers, chunk=1), desc="voices", total=len(missing)))


def write_speaker(speaker: tuple[Path, tuple[int, int]]) -> None:
    """Write the utterances of a speaker: a folder, and the seed of the voice and of its texts."""
    folder, seed = speaker
    rng = np.random.default_rng(seed)
    with synthesiser(str(rng.choice(ACCENTS)), random_variant(rng)) as say:
        usual_speed = rng.uniform(140, 190)  # words per minute
        for name in UTTERANCES:
            text, speed = " ".join(rng.choice(WORDS, N_WORDS)), usual_speed * rng.uniform(0.9, 1.12)
            speech = say(text, speed, rng.normal(50, 5), rng.normal(50, 10), int(rng.integers(1 << 31)))
            speech = speech[: round(rng.uniform(*SECONDS) * SAMPLE_RATE)]
            with replacing(folder / name) as temporary:
                soundfile.write(temporary, in_session(speech, rng), SAMPLE_RATE, subtype="PCM_16", format="WAV")


def random_variant(rng: np.random.Generator) -> str:
    """Return the text of a voice variant: pitch, roughness, tone, breath and vocal tract of a random man or woman."""
    male = rng.random() < 0.5
    pitch = np.exp(rng.uniform(*np.log((75, 140) if male else (150, 255))))  # Hz
    tract = rng.uniform(0.86, 1.06) if male else rng.uniform(1.02, 1.22)  # scales all formants, as its length does
    bands = ((200, 170, 255), (900, 90, 230), (2200, 40, 190), (3800, 10, 150))  # Hz, lowest and highest level
    tones = [f"{hz * rng.uniform(0.8, 1.2):.0f} {rng.integers(low, high)}" for hz, low, high in bands]
    lines = [
        f"gender {'male' if male else 'female'}",
        f"pitch {pitch:.0f} {pitch * rng.uniform(1.15, 1.6):.0f}",
        f"flutter {rng.integers(0, 7)}",
        f"roughness {rng.integers(0, 5)}",
        f"voicing {rng.integers(75, 120)}",
        f"consonants {rng.integers(60, 130)} {rng.integers(60, 130)}",
        f"tone {' '.join(tones)}",
    ]
    if rng.random() < 0.4:
        lines.append("breath " + " ".join(str(level) for level in rng.integers(0, 7, size=8)))
    for formant in range(9):  # frequency, height and width in percent of the accent's
        frequency = 100 * tract * rng.uniform(0.85, 1.15)
        lines.append(f"formant {formant} {frequency:.0f} {rng.integers(65, 125)} {rng.integers(70, 170)}")
    return "\n".join(lines) + "\n"


def in_session(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return speech (S,) at 16 kHz as recorded in a random session: (S,), its peak at a random level below 0.9.

    A session has a frequency response, white noise at -12 to -35 dB and, in half of the cases, reverberation.
    """
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(speech), 1 / SAMPLE_RATE), 1))
    gains = np.interp(octaves, np.log2(GAIN_HZ), np.cumsum(rng.normal(0, 3.5, len(GAIN_HZ))))  # dB
    sound = np.fft.irfft(np.fft.rfft(speech) * 10 ** (gains / 20), len(speech))
    if rng.random() < 0.5:
        length = int(SAMPLE_RATE * rng.uniform(0.05, 0.3))  # reverberation time: the energy falls by 60 dB
        echo = rng.normal(size=length) * 10 ** (-3 * np.arange(length) / length)
        sound += fftconvolve(sound, echo * rng.uniform(0.1, 0.5) / np.linalg.norm(echo))[: len(speech)]
    sound += rng.normal(size=len(speech)) * sound.std() * 10 ** (-rng.uniform(12, 35) / 20)
    return sound / np.abs(sound).max() * rng.uniform(0.3, 0.9)


@contextmanager
def synthesiser(accent: str, variant: str) -> Iterator[Callable[[str, float, float, float, int], np.ndarray]]:
    """Yield `say(text, speed, pitch, pitch_range, seed)`, which returns speech (S,) float32 at 16 kHz in [-1, 1].

    The speed is in words per minute. Pitch and range are 0..100; 50 gives those of the variant. The seed
    controls flutter, roughness and breath.
    """
    import espeakng_loader

    samples: list[bytes] = []

    @CALLBACK
    def collect(address: int | None, count: int, events: int | None) -> int:
        if address and count > 0:
            samples.append(ctypes.string_at(address, 2 * count))
        return 0  # continue

    def say(text: str, speed: float, pitch: float, pitch_range: float, seed: int) -> np.ndarray:
        samples.clear()
        library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        # espeak_PARAMETER 1 to 4: rate, volume (0..200; at 25 the loudest voices do not clip), pitch and its range
        for parameter, value in enumerate((speed, 25, pitch, pitch_range), start=1):
            library.espeak_SetParameter(parameter, round(value), 0)
        content = text.encode()
        library.espeak_Synth(content, ctypes.c_size_t(len(content) + 1), 0, 0, 0, 1, None, None)  # 1: UTF-8
        speech = np.frombuffer(b"".join(samples), np.int16).astype(np.float32) / 32768
        return resample_poly(speech, SAMPLE_RATE // 50, ESPEAK_RATE // 50).astype(np.float32)

    with tempfile.TemporaryDirectory(prefix="voice-") as folder:
        data = Path(folder, "espeak-ng-data")
        (data / "voices" / "!v").mkdir(parents=True)
        (data / "voices" / "!v" / "speaker").write_text(variant)
        for path in Path(espeakng_loader.get_data_path()).iterdir():
            if path.name != "voices":
                (data / path.name).symlink_to(path)
        # The library has state that espeak_Initialize does not reset, so each voice loads a copy of it.
        library = ctypes.CDLL(shutil.copy(espeakng_loader.get_library_path(), folder))
        # 2: synthesise before espeak_Synth returns; 0x8000: report errors instead of exiting
        if library.espeak_Initialize(2, 0, folder.encode(), 0x8000) != ESPEAK_RATE:
            raise RuntimeError(f"eSpeak NG does not start at {ESPEAK_RATE} Hz")
        library.espeak_SetSynthCallback(collect)
        if library.espeak_SetVoiceByName(f"{accent}+speaker".encode()):
            raise RuntimeError(f"eSpeak NG has no voice {accent}")
        yield say
        library.espeak_Terminate()
