"""A small corpus of synthetic speakers in VoxCeleb's layout, made from nothing but a seed."""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import fftconvolve

from configure import SAMPLE_RATE, TREES, TRIALS_NAME
from corpora.voices import Engine, draw_voice, require_engine
from system.console import UserError, progress
from system.files import replacing
from system.workers import unordered_map

N_TRAIN, N_TEST = 60, 20  # speakers
UTTERANCES = tuple(f"video{video}/{index:05d}.wav" for video in (1, 2, 3) for index in (1, 2, 3, 4))  # of a speaker
SECONDS = (2.5, 6.0)  # shortest and longest utterance
N_TARGETS = 400  # target trials, and as many others
GAIN_HZ = (60, 250, 1000, 3000, 8000)  # where a channel's gain is drawn; between these it is interpolated
MARKER = "demo.json"  # in a data root: what the demo there was made from

WORDS = {
    "determiner": "the this that my our every one another".split(),
    "adjective": "young heavy narrow golden curious patient silver empty gentle modern purple ancient useful".split(),
    "noun": "farmer bridge kitchen doctor orchestra ladder ocean camera painter village forest journey blanket "
    "captain newspaper mountain question holiday elephant workshop".split(),
    "verb": "visits describes repairs follows borrows discovers collects protects recognises forgets draws "
    "believes pushes surrounds".split(),
    "preposition": "behind near above beside without towards beyond inside against between".split(),
    "ending": ["tonight", "in the spring", "once more", "before breakfast", "on Thursday", "far too often"],
}
SENTENCE = "determiner adjective noun verb determiner noun preposition determiner noun ending".split()


def write_demo(root: Path, seed: int, n_train: int = N_TRAIN, n_test: int = N_TEST, workers: int | None = None) -> None:
    """Write the demo under `root`: training speakers as VoxCeleb2 dev, unseen ones as VoxCeleb1 test, and trials.

    The same seed gives the same bytes, whatever the number of worker processes. Speakers that are there are kept,
    so a run that was broken off continues. Raises UserError where `root` holds other data, or without eSpeak NG.
    """
    require_engine()
    drawn = draw_trials(
        [f"test{index:03d}" for index in range(n_test)], np.random.default_rng((seed, n_train + n_test))
    )
    trials = "".join(f"{trial}\n" for trial in drawn)
    _claim(root, {"seed": seed, "training_speakers": n_train, "test_speakers": n_test}, trials)
    folders = [root / TREES["vox2_dev"].wav / f"train{index:03d}" for index in range(n_train)]
    folders += [root / TREES["vox1_test"].wav / f"test{index:03d}" for index in range(n_test)]
    speakers = [(folder, (seed, index)) for index, folder in enumerate(folders)]
    missing = [speaker for speaker in speakers if not all((speaker[0] / name).exists() for name in UTTERANCES)]
    written = unordered_map(write_speaker, missing, workers, chunk=1)
    for _ in progress(written, desc="voices", total=len(missing), unit="speaker"):
        pass
    with replacing(root / TRIALS_NAME) as temporary:
        temporary.write_text(trials)


def _claim(root: Path, contents: dict[str, int], trials: str) -> None:
    """Mark `root` as the demo's; two demos, or the demo and real recordings or trials, must never mix."""
    marker, listed = root / MARKER, root / TRIALS_NAME
    claimed = marker.exists()
    if claimed and json.loads(marker.read_text()) != contents:
        raise UserError(f"{marker}: a demo of another seed or size: remove {root}, or give another by --save_path")
    for tree in TREES.values():
        if not claimed and (root / tree.wav).exists():
            raise UserError(f"{root / tree.wav} holds other recordings: give the demo a folder by --save_path")
    if listed.exists() and listed.read_bytes() != trials.encode():
        raise UserError(f"{listed}: not the demo's trial list; move it away, or give the demo a folder by --save_path")
    with replacing(marker) as temporary:
        temporary.write_text(json.dumps(contents) + "\n")


def write_speaker(speaker: tuple[Path, tuple[int, int]]) -> None:
    """Write all utterances of one speaker: the folder of the videos, and the seed of the voice and all it says."""
    folder, seed = speaker
    rng = np.random.default_rng(seed)
    channels: dict[Path, Channel] = {}
    with Engine(draw_voice(rng)) as engine:
        for path in (folder / name for name in UTTERANCES):
            channel = channels.get(path.parent) or channels.setdefault(path.parent, draw_channel(rng))
            sound = channel.record(speak(engine, rng), rng)
            with replacing(path) as temporary:
                soundfile.write(temporary, sound, SAMPLE_RATE, subtype="PCM_16", format="WAV")


def speak(engine: Engine, rng: np.random.Generator) -> np.ndarray:
    """Return an utterance of random sentences, length, speed and liveliness: (S,) float32 at 16 kHz."""
    length = round(rng.uniform(*SECONDS) * SAMPLE_RATE)
    speed = engine.voice.speed * rng.uniform(0.9, 1.12)
    pitch, pitch_range = rng.normal(50, 5), rng.normal(50, 10)
    speech = np.zeros(0, np.float32)
    while len(speech) < length:
        text = " ".join(str(rng.choice(WORDS[part])) for part in SENTENCE) + "."
        speech = np.append(speech, engine.say(text, speed, pitch, pitch_range, int(rng.integers(1 << 31))))
    return speech[:length]


@dataclass(frozen=True)
class Channel:
    """What lies between a speaker and a file, the same throughout a video."""

    gains: np.ndarray  # dB at GAIN_HZ
    echo: np.ndarray  # impulse response of the room, at 16 kHz; 1 for none
    noise: float  # dB, white, relative to the speech

    def record(self, speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return speech (S,) at 16 kHz as this channel records it: (S,), its peak at a random level below 0.9."""
        hz = np.fft.rfftfreq(len(speech), 1 / SAMPLE_RATE)
        gains = np.interp(np.log2(np.maximum(hz, 1)), np.log2(GAIN_HZ), self.gains)
        sound = np.fft.irfft(np.fft.rfft(speech) * 10 ** (gains / 20), len(speech))
        sound = fftconvolve(sound, self.echo)[: len(speech)]
        sound += rng.normal(size=len(speech)) * sound.std() * 10 ** (self.noise / 20)
        return sound / np.abs(sound).max() * rng.uniform(0.3, 0.9)


def draw_channel(rng: np.random.Generator) -> Channel:
    """Draw a spectral tilt, in half of the cases a room, and noise at -12 to -35 dB."""
    echo = np.ones(1)
    if rng.random() < 0.5:
        length = int(SAMPLE_RATE * rng.uniform(0.05, 0.3))  # the echo's energy falls by 60 dB in this time
        echo = rng.normal(size=length) * 10 ** (-3 * np.arange(length) / length)
        echo *= rng.uniform(0.1, 0.5) / np.linalg.norm(echo)
        echo[0] = 1  # the direct sound
    return Channel(np.cumsum(rng.normal(0, 3.5, len(GAIN_HZ))), echo, -rng.uniform(12, 35))


def draw_trials(speakers: list[str], rng: np.random.Generator) -> list[str]:
    """Return distinct lines "label enrolment test" in random order, half of them targets, across videos."""
    utterances = [(name, *utterance.split("/")) for name in speakers for utterance in UTTERANCES]
    pairs = list(itertools.combinations(utterances, 2))
    targets = [(a, b) for a, b in pairs if a[0] == b[0] and a[1] != b[1]]
    others = [(a, b) for a, b in pairs if a[0] != b[0]]
    n_targets = min(N_TARGETS, len(targets), len(others))
    trials = []
    for label, candidates in ((1, targets), (0, others)):
        for index in rng.choice(len(candidates), n_targets, replace=False):
            enrolment, test = rng.permutation(candidates[index]).tolist()
            trials.append(f"{label} {'/'.join(enrolment)} {'/'.join(test)}")
    return rng.permutation(trials).tolist()
