"""Compute log mel filterbank energies from samples: the features of the official code (Kye et al., 2020)."""

import math
from functools import cache

import numpy as np

from configure import N_MELS, SAMPLE_RATE

WINDOW = 400  # samples of a frame, 25 ms
STEP = 160  # samples between frames, 10 ms
N_FFT = 512
PRE_EMPHASIS = 0.97
HAMMING = np.hamming(WINDOW).astype(np.float32)
FLOOR = 1e-5  # minimum energy before the logarithm
# Frames that are transformed together. Their arrays stay below 128 kB: glibc returns larger arrays to the system after
# use, and every page of the next ones faults.
BLOCK = 60
ROWS = BLOCK // 3  # of a matrix product; OpenBLAS uses one thread for so few, so features do not depend on threads
PART = 6000  # frames that are pre-emphasised together, one minute; this limits the memory
FULL_SCALE = 32768  # of int16 samples
MIN_PEAK = 4  # of float samples on the int16 scale; decoded samples of full scale 1 always stay below it


def log_mel(samples: np.ndarray, before: float | None = None) -> np.ndarray:
    """Return the log mel energies (T, 40) float32 of an utterance, in units of 20 log10(energy).

    The samples (S,), S >= 1, are at 16 kHz and on the int16 scale, -32768..32767, in a signed integer or float type;
    floats within -1..1 must be multiplied by 32768. T = 1 for S <= 400, else 1 + ceil((S - 400) / 160). The mean of
    each coefficient over the utterance is 0. If the samples are a segment of an utterance, `before` is the sample
    before it. ValueError for other shapes and for another scale; the scale of a segment is not checked, because a
    segment may be silent.
    """
    features = log_energies(samples, before)
    features -= features.mean(axis=0, dtype=np.float64).astype(np.float32)
    return features


def log_energies(samples: np.ndarray, before: float | None = None) -> np.ndarray:
    """Return the energies of log_mel before the mean of each coefficient is subtracted."""
    if samples.ndim != 1 or not len(samples):
        raise ValueError(f"samples are (S,), S >= 1, not {samples.shape}")
    if before is None:
        _check_scale(samples)
    import scipy.fft  # takes 0.2 s, which the main process of the extraction does not need to spend

    energies = np.empty((n_frames_of(len(samples)), N_MELS), np.float32)
    padded = np.zeros((min(BLOCK, len(energies)), N_FFT), np.float32)  # rfft(x, n) would pad, four times slower
    for first in range(0, len(energies), PART):
        part = energies[first : first + PART]
        frames = _frames(samples, before or 0, first, len(part))
        for start in range(0, len(part), BLOCK):
            block = frames[start : start + BLOCK]
            np.multiply(block, HAMMING, out=padded[: len(block), :WINDOW])
            spectrum = scipy.fft.rfft(padded[: len(block)])
            power = spectrum.real**2 + spectrum.imag**2
            for row in range(0, len(block), ROWS):
                target = part[start + row : start + row + ROWS]
                np.matmul(power[row : row + ROWS], _mel_filters(), out=target)
    np.maximum(energies, np.float32(FLOOR), out=energies)
    features = np.log10(energies, out=energies)  # in place: the array of an hour takes 58 MB
    features *= 20
    return features


def n_frames_of(n_samples: int) -> int:
    """Return the number of frames of n_samples samples."""
    return 1 + max(0, -(-(n_samples - WINDOW) // STEP))


def n_samples_of(n_frames: int) -> int:
    """Return the number of samples that n_frames frames cover."""
    return WINDOW + (n_frames - 1) * STEP


def _check_scale(samples: np.ndarray) -> None:
    """Raise ValueError if samples (S,) cannot be on the int16 scale; zeros are valid on any scale."""
    kind, peak = samples.dtype.kind, 0.0
    if samples.dtype != np.int16:
        peak = max(float(samples.max()), -float(samples.min()))
    on_scale = peak == 0 or MIN_PEAK <= peak < math.inf if kind == "f" else kind == "i" and peak <= FULL_SCALE
    if not on_scale:
        raise ValueError(
            f"{samples.dtype} samples up to {peak:g} are not on the int16 scale, -32768..32767; multiply floats within "
            f"-1..1 by {FULL_SCALE}"
        )


def _frames(samples: np.ndarray, before: float, first: int, n: int) -> np.ndarray:
    """Return n frames (n, 400) of the pre-emphasised samples (S,) from frame `first` on, padded with zeros."""
    start, x = STEP * first, np.zeros(n_samples_of(n), np.float32)
    covered = samples[start : start + len(x)]
    x[: len(covered)] = covered
    x[1 : len(covered)] -= np.float32(PRE_EMPHASIS) * x[: len(covered) - 1]
    x[0] -= np.float32(PRE_EMPHASIS) * np.float32(samples[start - 1]) if start else PRE_EMPHASIS * before
    return np.lib.stride_tricks.sliding_window_view(x, WINDOW)[::STEP]


@cache
def _mel_filters() -> np.ndarray:
    """Return the filters (257, 40), divided by 512: triangles of peak 1 whose edges are at whole FFT bins.

    librosa.filters.mel gives other values, because its edges are between bins.
    """
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)  # HTK mel of 8000 Hz
    edges_hz = 700 * (10 ** (np.linspace(0, top, N_MELS + 2) / 2595) - 1)
    edges = np.floor((N_FFT + 1) * edges_hz / SAMPLE_RATE)
    left, peak, right = edges[:-2], edges[1:-1], edges[2:]
    bins = np.arange(N_FFT // 2 + 1)[:, None]
    rising = (bins - left) / (peak - left)
    falling = (right - bins) / (right - peak)
    inside = (bins >= left) & (bins < right)
    return np.where(inside, np.where(bins < peak, rising, falling) / N_FFT, 0).astype(np.float32)
