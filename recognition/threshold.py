"""A checkpoint's own decision threshold: kept beside it by its last evaluation, read when voices are compared."""
import json
import math
from pathlib import Path

import console
from files import replacing, sha256


def threshold_path(checkpoint: Path) -> Path:
    """Return where the threshold of a checkpoint file is kept."""
    return checkpoint.with_suffix(".threshold.json")


def save_threshold(checkpoint: Path, trials: Path, eer: float, threshold: float) -> None:
    """Keep the score at the EER of a trial list beside a checkpoint; in a read-only folder, only warn.

    Args:
        checkpoint: the checkpoint file that was evaluated.
        trials: the trial list.
        eer: in percent.
        threshold: cosine score; a trial is accepted from there on.
    """
    if not math.isfinite(threshold):  # at an EER of 0 or 1 the ROC's corner may lie at infinity
        return console.warn(f"threshold {threshold}: decides nothing, so it is not kept")
    content = {"trials": trials.name, "eer": eer, "threshold": threshold, "checkpoint_sha256": sha256(checkpoint)}
    path = threshold_path(checkpoint)
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        console.warn(f"{path}: the threshold could not be kept ({error.strerror})")


def load_threshold(checkpoint: Path, digest: str) -> float | None:
    """Return the threshold kept for the checkpoint file of this SHA-256; None, with a warning if it is another's."""
    path = threshold_path(checkpoint)
    try:
        content = json.loads(path.read_text())
        threshold, owner = float(content["threshold"]), content["checkpoint_sha256"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        console.warn(f"{path}: not a threshold file; EER_full.py writes it anew")
        return None
    if owner != digest:
        console.warn(f"{path}: of another checkpoint than the one beside it; EER_full.py writes it anew")
        return None
    return threshold
