"""Whether a recording contains a voice: the spectrum of speech changes its shape several times a second."""

import numpy as np

from configure import SAMPLE_RATE
from feat_extract.fbank import log_energies

MIN_MODULATION = 1.5  # dB; docs/recognition.md has the error rates
PIECE = SAMPLE_RATE  # samples, 1 s: slow changes, such as of wind, count little
MAX_PIECES = 60  # of a recording, evenly spaced, so that hours take no longer
FLOOR_DB = 40  # energies so far below the largest of a piece are raised to this level
PAUSE_DB = 25  # frames so far below the loudest of a piece are pauses, which do not count
SMOOTHED = 5  # frames; random noise changes from frame to frame, speech from syllable to syllable


def spectral_modulation(samples: np.ndarray) -> float:
    """Return how much the shape of the spectrum of samples (S,) int16 at 16 kHz changes within a second, in dB.

    Below MIN_MODULATION there is probably no voice. Steady sounds have about 1 dB (noise, fans) or less (hum, tones),
    also if their level changes; speech has 3 to 7 dB, and in noise at 5 dB 1.6 to 6 dB. Music changes as speech does.

    The log mel energies of each second, in dB relative to the mean over the 40 bands, are averaged over 5 frames. The
    measure is the median over the bands of their standard deviation over time, in the second at the 90th percentile.
    """
    pieces = np.array_split(samples, max(1, round(len(samples) / PIECE)))
    step = -(-len(pieces) // MAX_PIECES)
    return float(np.percentile([_modulation(piece) for piece in pieces[::step]], 90))


def _modulation(samples: np.ndarray) -> float:
    """Return the measure of a piece (S,); 0 where hardly any frames are loud."""
    energies = log_energies(samples) / 2  # dB
    power = (10 ** (energies / 10)).sum(axis=1)
    energies = energies[power > power.max() * 10 ** (-PAUSE_DB / 10)]
    if len(energies) < SMOOTHED:
        return 0.0
    levels = np.maximum(energies, energies.max() - FLOOR_DB)
    shapes = levels - levels.mean(axis=1, keepdims=True)  # (T, 40)
    smooth = np.lib.stride_tricks.sliding_window_view(shapes, SMOOTHED, axis=0).mean(axis=-1)
    return float(np.median(smooth.std(axis=0)))
