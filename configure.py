"""The path of the data, and the constants of the method (Kye et al., 2020, arXiv 2004.02863)."""
save_path = 'data'

import errno  # noqa: E402  (save_path must stay on line 2, as in the official code)
import os  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import NamedTuple  # noqa: E402

SAMPLE_RATE = 16000  # Hz
N_MELS = 40  # coefficients of a feature frame
FRAMES_PER_SECOND = 100  # a frame every 10 ms
AUDIO_SUFFIXES = frozenset(  # of files that must be recordings: one that cannot be read is an error
    ".wav .flac .mp3 .m4a .aac .ogg .oga .opus .aiff .aif .aifc .au .snd .caf .w64 .rf64 .webm .mka .mkv .mp4 .mov "
    ".3gp .wma .amr .awb .sph .nist .ac3 .ape .wv .mp2 .voc .gsm".split()
)

TRAIN_FRAMES = 200  # frames of a training window
MIN_QUERY_FRAMES = 100  # shortest query of an episode with --use_variable (the longest is TRAIN_FRAMES - 1)


class Tree(NamedTuple):
    """The two folders of one part of VoxCeleb, relative to save_path; both hold <speaker>/<video>/<utterance>."""

    wav: str
    feat: str


TREES = {
    "vox2_dev": Tree("voxceleb2/dev/wav", "voxceleb2/dev/feat/train_logfbank_nfilt40"),
    "vox1_dev": Tree("voxceleb1/dev/wav", "voxceleb1/dev/feat/train_logfbank_nfilt40"),
    "vox1_test": Tree("voxceleb1/test/wav", "voxceleb1/test/feat/test_logfbank_nfilt40"),
}
TRAINING_TREE = {"vox2": "vox2_dev", "vox1": "vox1_dev"}  # --data_type -> the part that is trained on
EVALUATION_TREES = ("vox1_test", "vox1_dev")
TRIALS_NAME = "trial_pair_Verification.txt"  # VoxCeleb1's original test list, in save_path


def save_root(flag: str | None = None) -> Path:
    """Return the data root: the --save_path flag, else METASR_SAVE_PATH, else the save_path above.

    FileNotFoundError for ~USER without such a user.
    """
    path = Path(flag or os.environ.get("METASR_SAVE_PATH") or save_path)
    try:
        return path.expanduser()
    except RuntimeError:
        raise FileNotFoundError(errno.ENOENT, "no such user; choose another --save_path", str(path)) from None
