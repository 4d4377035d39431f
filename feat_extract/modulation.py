"""Detect recordings without a voice: the spectrum of speech changes its shape several times a second."""

import numpy as np

from configure import SAMPLE_RATE
from feat_extract.fbank import log_energies

MIN_MODULATION = 1.5  # dB; docs/recognition.md has the error rates
SEGMENT = SAMPLE_RATE  # samples of a segment, 1 s: slow changes, such as those of wind, have little effect
MAX_SEGMENTS = 60  # of a recording, evenly spaced; this limits the time for long recordings
FLOOR_DB = 40  # energies are raised to at least this level below the largest of a segment
PAUSE_DB = 25  # frames more than this below the loudest of a segment are pauses and are ignored
SMOOTHED = 5  # frames to average: random noise changes from frame to frame, speech from syllable to syllable


def spectral_modulation(samples: np.ndarray) -> float:
    """Return how much the spectral shape of samples (S,) int16 at 16 kHz changes within a second, in dB.

    Below MIN_MODULATION there is probably no voice. Steady sounds have about 1 dB (noise, fans) or less (hum, tones),
    even if their level changes. Speech has 3 to 7 dB, and 1.6 to 6 dB in noise at 5 dB. Music is similar to speech.

    The log mel energies of each second, in dB relative to the mean over the 40 bands, are averaged over 5 frames. Their
    standard deviation over time is computed for each band. The result is the median over the bands, in the second at
    the 90th percentile.
    """
    segments = np.array_split(samples, max(1, round(len(samples) / SEGMENT)))
    step = -(-len(segments) // MAX_SEGMENTS)
    return float(np.percentile([_modulation(segment) for segment in segments[::step]], 90))


def _modulation(samples: np.ndarray) -> float:
    """Return the modulation of a segment (S,) in dB; 0 if it has fewer than 5 loud frames."""
    energies = log_energies(samples) / 2  # dB
    power = (10 ** (energies / 10)).sum(axis=1)
    energies = energies[power > power.max() * 10 ** (-PAUSE_DB / 10)]
    if len(energies) < SMOOTHED:
        return 0.0
    levels = np.maximum(energies, energies.max() - FLOOR_DB)
    shapes = levels - levels.mean(axis=1, keepdims=True)  # (T, 40)
    smooth = np.lib.stride_tricks.sliding_window_view(shapes, SMOOTHED, axis=0).mean(axis=-1)
    return float(np.median(smooth.std(axis=0)))
