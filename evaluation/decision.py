"""A checkpoint's own decision thresholds: kept beside it by its last evaluation, read when voices are compared.

Among N enrolled speakers an unknown voice has N chances to pass for one, so there is a threshold for each of several N.
"""

import json
import math
from pathlib import Path

import numpy as np

from evaluation.metrics import threshold_at, verification_metrics
from system import console
from system.files import replacing, sha256

VOICES = (2, 5, 10, 20, 50, 100, 200, 500, 1000)  # enrolled speakers that a threshold is kept for; and 1, the EER's
Thresholds = dict[int, float]  # enrolled speakers -> the least cosine score that counts as one speaker's


def thresholds(scores: np.ndarray, labels: np.ndarray) -> Thresholds:
    """Return the thresholds at which an unknown voice passes as often as at the EER of scores and labels (n,).

    The EER is shared out among the enrolled; they rise no further where that leaves less than one of the trials.
    """
    rates = verification_metrics(scores, labels)
    return {1: rates.threshold} | {n: max(rates.threshold, threshold_at(rates.eer / n, scores, labels)) for n in VOICES}


def threshold_for(kept: Thresholds, n_voices: int) -> float:
    """Return the threshold for so many enrolled speakers, between those of the kept numbers."""
    return float(np.interp(math.log(n_voices), np.log(list(kept)), list(kept.values())))


def threshold_path(checkpoint: Path) -> Path:
    """Return where the threshold of a checkpoint file is kept."""
    return checkpoint.with_suffix(".threshold.json")


def save_threshold(checkpoint: Path, trials: Path, kept: Thresholds) -> None:
    """Keep the thresholds of a trial list beside a checkpoint; in a read-only folder, only warn.

    Args:
        checkpoint: the checkpoint file that was evaluated.
        trials: the trial list.
        kept: the thresholds.
    """
    if not math.isfinite(kept[1]):  # at an EER of 0 or 1 the ROC's corner may lie at infinity
        return console.warn(f"threshold {kept[1]}: decides nothing, so it is not kept")
    content = {"trials": trials.name, "thresholds": kept, "checkpoint_sha256": sha256(checkpoint)}
    path = threshold_path(checkpoint)
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        console.warn(f"{path}: the threshold could not be kept ({error.strerror})")


def load_threshold(checkpoint: Path, digest: str) -> Thresholds | None:
    """Return the thresholds kept for the checkpoint file of this SHA-256; None, with a warning if another's are."""
    path = threshold_path(checkpoint)
    try:
        content = json.loads(path.read_text())
        kept = {int(n): float(score) for n, score in content["thresholds"].items()}
        owner = content["checkpoint_sha256"]
        if list(kept) != [1, *VOICES] or not np.isfinite(list(kept.values())).all():
            raise ValueError
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        console.warn(f"{path}: not a threshold file; EER_full.py writes it anew")
        return None
    if owner != digest:
        console.warn(f"{path}: of another checkpoint than the one beside it; EER_full.py writes it anew")
        return None
    return kept
