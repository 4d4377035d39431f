"""Remove the feature of a wav that is replaced, because the feature extraction keeps every existing feature."""

from pathlib import Path

from configure import TREES


def feature_of(root: Path, wav: Path) -> Path:
    """Return the path of the feature file of a wav in one of the trees below `root`."""
    tree = next(tree for tree in TREES.values() if root / tree.wav in wav.parents)
    return (root / tree.feat / wav.relative_to(root / tree.wav)).with_suffix(".pkl")


def remove_feature(root: Path, wav: Path) -> bool:
    """Remove the feature of a wav that is about to be written; return whether it existed."""
    try:
        feature_of(root, wav).unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def and_feature(root: Path, wav: Path) -> str:
    """Return the words that add the feature of a wav to an advice to remove this wav; empty without a feature."""
    feature = feature_of(root, wav)
    return f" and its feature {feature}" if feature.exists() else ""


def report_removed(n_removed: int) -> None:
    """Print the number of removed features, if any."""
    if n_removed:
        print(f"{n_removed:,} features of replaced wavs removed; run feat_extract/feature_extraction.py again")
