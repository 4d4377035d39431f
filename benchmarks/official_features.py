"""Features as the 2020 release makes them, one file after the other, to compare with: python_speech_features.

python -m benchmarks.official_features WAV_FOLDER FEATURE_FOLDER
"""

import pickle
import sys
from pathlib import Path

import numpy as np
import python_speech_features
import scipy.io.wavfile

N_MELS = 40


def extract(samples: np.ndarray, rate: int = 16000) -> np.ndarray:
    """Return the log mel energies (T, 40) float64 of samples (S,) int16."""
    energies, _ = python_speech_features.fbank(samples, rate, winlen=0.025, nfilt=N_MELS, winfunc=np.hamming)
    features = 20 * np.log10(np.maximum(energies, 1e-5))
    return features - features.mean(axis=0)


def main(wavs: Path, features: Path) -> None:
    """Write a pickle of float64 for every wav below a folder."""
    for wav in sorted(wavs.rglob("*.wav")):
        rate, samples = scipy.io.wavfile.read(wav)
        path = features / wav.relative_to(wavs).with_suffix(".pkl")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            pickle.dump({"feat": extract(samples, rate), "label": wav.relative_to(wavs).parts[0]}, file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
