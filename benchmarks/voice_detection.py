"""Measure the error rates of voice detection (feat_extract/modulation.py) on speech and on other sounds.

    python -m benchmarks.voice_detection --folder DIR                # recordings of speech
    python -m benchmarks.voice_detection --folder DIR --noise_dir N  # and of sounds

Speech is trimmed, cut to 0.5, 1, 2 and 3 s, and tested with and without noise, reverberation and a telephone codec. The
sounds are synthetic, and recorded in addition with --noise_dir. Each table is also printed as JSON.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import scipy.signal

from configure import AUDIO_SUFFIXES, SAMPLE_RATE
from feat_extract.audio import read_recording
from feat_extract.codecs import transcode
from feat_extract.modulation import MIN_MODULATION, spectral_modulation
from feat_extract.noise_sources import coloured_noise, mix, reverberate, synthetic_impulse_response
from feat_extract.silence import trim_samples
from system import console
from system.console import UserError
from system.files import files_below

DURATIONS = 0.5, 1.0, 2.0, 3.0  # s
N_SPEAKERS = 6  # of babble
Random = np.random.Generator
Sound = Callable[[int, Random], np.ndarray]  # samples (n,) of any scale


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = console.Parser(__doc__)
    parser.add_argument(
        "--folder", type=Path, required=True, metavar="DIR", help="folder of speech recordings (required)"
    )
    parser.add_argument("--noise_dir", type=Path, metavar="DIR",
                        help="folder with a folder of recordings for each kind of sound (default: none)")  # fmt: skip
    parser.add_argument("--recordings", type=console.integer(10), default=1000, metavar="N",
                        help="number of random recordings of speech (default: 1000)")  # fmt: skip
    parser.add_argument("--clips", type=console.integer(1), default=50, metavar="N",
                        help="number of clips of each sound and duration (default: 50)")  # fmt: skip
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure and print."""
    args, rng = parse_args(argv), np.random.default_rng(0)
    speech = [trim_samples(samples) for _, samples in recordings(args.folder, args.recordings, rng)]
    report("speech without a voice found", spoken_clips(speech, rng), lambda modulation: modulation < MIN_MODULATION)
    sounds = synthetic_clips(args.clips, rng)
    report("sounds with a voice found", sounds, lambda modulation: modulation >= MIN_MODULATION)
    if args.noise_dir:
        found = recorded_clips(recordings(args.noise_dir, sys.maxsize, rng), args.noise_dir, rng)
        report("recorded sounds with a voice found", found, lambda modulation: modulation >= MIN_MODULATION)


def recordings(folder: Path, n: int, rng: Random) -> Iterator[tuple[Path, np.ndarray]]:
    """Yield up to n random recordings in a folder, and their samples (S,)."""
    found = sorted(path for path in files_below(folder) if path.suffix.lower() in AUDIO_SUFFIXES)
    if not found:
        raise UserError(f"{folder}: contains no recordings")
    for i in console.progress(rng.permutation(len(found))[:n], desc="reading"):
        yield found[i], read_recording(found[i]).samples


def report(title: str, clips: Iterator[tuple[str, float, np.ndarray]], wrong: Callable[[float], bool]) -> None:
    """Print the percentage of wrong decisions by kind and duration, as a table and as JSON."""
    errors: dict[str, dict[float, list[bool]]] = defaultdict(lambda: {duration: [] for duration in DURATIONS})
    for kind, duration, samples in clips:
        errors[kind][duration].append(wrong(spectral_modulation(trim_samples(samples))))
    shares = {
        kind: {duration: round(100 * float(np.mean(found)), 2) for duration, found in rows.items() if found}
        for kind, rows in errors.items()
    }
    print(f"{title}, % of clips of", *(f"{duration:g} s" for duration in DURATIONS), sep="  ")
    for kind, row in shares.items():
        print(f"  {kind:24}", *(f"{row.get(duration, float('nan')):6.1f}" for duration in DURATIONS))
    print(json.dumps({"benchmark": title, "clips": {k: [len(v) for v in r.values()] for k, r in errors.items()},
                      "percent": shares}))  # fmt: skip


def spoken_clips(speech: list[np.ndarray], rng: Random) -> Iterator[tuple[str, float, np.ndarray]]:
    """Yield clips of speech: clean, in noise, with reverberation, and through a telephone codec."""
    for samples in console.progress(speech, desc="speech"):
        for duration in DURATIONS:
            n = int(duration * SAMPLE_RATE)
            if len(samples) < n:
                continue
            start = int(rng.integers(len(samples) - n + 1))
            clip = samples[start : start + n].astype(np.float64)
            others = (np.resize(speech[rng.integers(len(speech))], n).astype(np.float64) for _ in range(N_SPEAKERS))
            babble = sum((other / np.sqrt(1 + np.mean(other**2)) for other in others), np.zeros(n))
            noise = coloured_noise(n, rng.uniform(0, 2), rng)
            response = synthetic_impulse_response(rng.uniform(0.2, 0.8), rng.uniform(-5, 10), rng)
            yield "clean", duration, clip.astype(np.int16)
            for snr in (10, 5):
                yield f"babble, {snr} dB", duration, int16(mix(clip, babble, snr))
                yield f"noise, {snr} dB", duration, int16(mix(clip, noise, snr))
            yield "reverberation", duration, int16(reverberate(clip, response))
            yield "telephone", duration, int16(transcode(clip, "telephone", rng))


def synthetic_clips(n_clips: int, rng: Random) -> Iterator[tuple[str, float, np.ndarray]]:
    """Yield clips of each synthetic sound at random levels."""
    for kind, sound in console.progress(SOUNDS.items(), desc="sounds"):
        for duration in DURATIONS:
            for _ in range(n_clips):
                samples = sound(int(duration * SAMPLE_RATE), rng)
                yield kind, duration, int16(samples / np.abs(samples).max() * rng.uniform(500, 15000))


def recorded_clips(
    found: Iterator[tuple[Path, np.ndarray]], folder: Path, rng: Random
) -> Iterator[tuple[str, float, np.ndarray]]:
    """Yield up to 5 clips of each duration from each recording; its first folder is the kind."""
    for path, samples in found:
        for duration in DURATIONS:
            n = int(duration * SAMPLE_RATE)
            for _ in range(min(5, len(samples) // n)):
                start = int(rng.integers(len(samples) - n + 1))
                if samples[start : start + n].any():
                    yield path.relative_to(folder).parts[0], duration, samples[start : start + n]


def int16(samples: np.ndarray) -> np.ndarray:
    """Return samples as int16, scaled down if they exceed the int16 scale."""
    return np.rint(samples * min(1, 32767 / np.abs(samples).max())).astype(np.int16)


def sine(hz: float | np.ndarray, n: int) -> np.ndarray:
    """Return n samples of a tone whose frequency is constant or an array (n,)."""
    return np.sin(2 * np.pi * np.cumsum(np.broadcast_to(hz, n)) / SAMPLE_RATE)


def harmonics(hz: float, n: int, n_partials: int, rng: Random) -> np.ndarray:
    """Return n samples of a harmonic tone whose partials fall by 6 dB per octave."""
    return sum((rng.uniform(0.3, 1) / k * sine(k * hz, n) for k in range(1, n_partials + 1)), np.zeros(n))


def band_pass(rng: Random) -> Sound:
    """Return a source of noise in a random band."""
    low = rng.uniform(80, 3000)
    sections = scipy.signal.butter(2, [low, low * rng.uniform(1.5, 2.5)], "bandpass", fs=SAMPLE_RATE, output="sos")
    return lambda n, rng: scipy.signal.sosfilt(sections, rng.standard_normal(n))


def fan(n: int, rng: Random) -> np.ndarray:
    """Return n samples of noise with a resonance and hum, whose level changes slowly."""
    noise, resonance = coloured_noise(n, rng.uniform(0.5, 2), rng), band_pass(rng)(n, rng)
    x = noise / noise.std() + rng.uniform(0, 2) * resonance / resonance.std()
    x += rng.uniform(0.1, 1) * harmonics(rng.uniform(50, 200), n, 6, rng)
    return x * (1 + rng.uniform(0, 0.4) * sine(rng.uniform(0.3, 3), n))


def notes(n: int, rng: Random, hz: Callable[[], list[float]], gap: float) -> np.ndarray:
    """Return n samples of notes of 0.1 to 0.3 s with the frequencies of `hz()`, with gaps of `gap` seconds."""
    x, start, length = np.zeros(n), 0, int(rng.uniform(0.1, 0.3) * SAMPLE_RATE)
    while start < n:
        m = min(length, n - start)
        x[start : start + m] = sum((sine(frequency, m) for frequency in hz()), np.zeros(m))
        start += length + int(gap * SAMPLE_RATE)
    return x + 0.002 * rng.standard_normal(n)


def music(n: int, rng: Random) -> np.ndarray:
    """Return n samples of a melody of decaying notes over a chord and drums."""
    key, x, length = rng.uniform(100, 400), np.zeros(n), int(rng.uniform(0.12, 0.4) * SAMPLE_RATE)
    for start in range(0, n, length):
        m = min(length, n - start)
        decay = np.exp(-np.arange(m) / (0.3 * SAMPLE_RATE))
        x[start : start + m] = decay * harmonics(key * 2 ** (rng.integers(0, 13) / 12), m, 10, rng)
        drum = np.exp(-np.arange(m) / rng.uniform(300, 1500)) * rng.standard_normal(m)
        x[start : start + m] += rng.uniform(0, 0.5) * drum
    return x + 0.3 * sum((harmonics(key * ratio, n, 5, rng) for ratio in (0.5, 0.63, 0.75)), np.zeros(n))


def impulses(n: int, rng: Random, rate: float, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return n samples of short sounds at random times, `rate` per second, in faint noise."""
    x = np.zeros(n + SAMPLE_RATE)
    for start in rng.integers(0, n, max(1, rng.poisson(rate * n / SAMPLE_RATE))):
        sound = make()
        x[start : start + len(sound)] += sound
    return x[:n] + 0.002 * rng.standard_normal(n)


def decaying(sound: np.ndarray, samples: float, rng: Random) -> np.ndarray:
    """Return a sound at a random level that decays with a time constant in samples."""
    return rng.uniform(0.2, 1) * sound * np.exp(-np.arange(len(sound)) / samples)


def typing(n: int, rng: Random) -> np.ndarray:
    """Return n samples of typing on a keyboard."""
    key = band_pass(rng)
    return impulses(n, rng, 8, lambda: decaying(key(1500, rng), rng.uniform(60, 250), rng))


def dtmf(rng: Random) -> list[float]:
    """Return the two frequencies of a random telephone key."""
    return [rng.choice([697.0, 770, 852, 941]), rng.choice([1209.0, 1336, 1477])]


SOUNDS: dict[str, Sound] = {
    "white noise": lambda n, rng: rng.standard_normal(n),
    "pink noise": lambda n, rng: coloured_noise(n, 1, rng),
    "brown noise": lambda n, rng: coloured_noise(n, 2, rng),
    "band-limited noise": lambda n, rng: band_pass(rng)(n, rng),
    "fan": fan,
    "hum of the mains": lambda n, rng: harmonics(rng.choice([50, 60]), n, 20, rng) + 0.02 * rng.standard_normal(n),
    "tone": lambda n, rng: sine(rng.uniform(60, 6000), n) + rng.choice([0, 0.1]) * rng.standard_normal(n),
    "chord": lambda n, rng: sum((harmonics(rng.uniform(80, 600), n, 6, rng) for _ in range(3)), np.zeros(n)),
    "ringing, busy tone": lambda n, rng: notes(n, rng, lambda: [440.0, 480.0], rng.uniform(0.1, 0.5)),
    "siren": lambda n, rng: sine(rng.uniform(600, 1200) * (1 + 0.3 * sine(rng.uniform(0.3, 4), n)), n),
    "chirp": lambda n, rng: sine(np.geomspace(rng.uniform(80, 6000), rng.uniform(80, 6000), n), n),
    "dialling (DTMF)": lambda n, rng: notes(n, rng, lambda: dtmf(rng), rng.uniform(0.05, 0.2)),
    "clicks": lambda n, rng: impulses(n, rng, 10, lambda: decaying(np.ones(200), rng.uniform(5, 60), rng)),
    "typing": typing,
    "knocking": lambda n, rng: impulses(
        n, rng, 3, lambda: decaying(sine(rng.uniform(80, 600), 4000), rng.uniform(200, 900), rng)
    ),
    "wind": lambda n, rng: coloured_noise(n, 2, rng) * (1.2 + sine(rng.uniform(0.3, 2), n)),
    "rain": lambda n, rng: (
        0.3 * rng.standard_normal(n)
        + impulses(n, rng, rng.uniform(100, 3000), lambda: decaying(sine(rng.uniform(800, 6000), 400), 100, rng))
    ),
    "music": music,
}


if __name__ == "__main__":
    console.run(main)
