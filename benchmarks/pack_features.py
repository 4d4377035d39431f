"""Pack features into an archive of up to 64 MiB, for a machine without the recordings and the audio libraries.

    python -m benchmarks.pack_features pack --save_path DIR features.zip
    python -m benchmarks.pack_features unpack --save_path DIR features.zip  # needs NumPy only

Packs the feature trees of the data root and its trial list. Features are rounded to multiples of --step, in their unit
of 20 log10(energy), and stored in 8 bits. Their standard deviation is 34. With a step of 2 a frame takes 24 bytes in
the archive; as float16 it takes 73, which makes 182 MB for the seven hours of open speech.
"""

import argparse
import os
import zipfile
from pathlib import Path

import numpy as np

from configure import N_MELS, TREES, TRIALS_NAME, save_root
from dataset.features import write_feature
from dataset.index import FeatureIndex
from system import console
from system.console import UserError
from system.files import is_folder, replacing

LIMIT = 64 * 2**20  # bytes


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = console.Parser(__doc__)
    parser.add_argument("action", choices=("pack", "unpack"))
    parser.add_argument("file", type=Path, help="archive")
    parser.add_argument(
        "--save_path", metavar="DIR", help="root of the data (default: $METASR_SAVE_PATH, else configure.py)"
    )
    parser.add_argument("--step", type=console.positive, default=2.0, help="rounding step of the features (default: 2)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Pack or unpack."""
    args = parse_args(argv)
    root = save_root(args.save_path)
    if args.action == "unpack":
        unpack(args.file, root)
        return
    pack(args.file, root, args.step)
    size = args.file.stat().st_size
    print(f"{args.file}: {size / 2**20:.1f} MiB")
    if size > LIMIT:
        raise UserError(f"{args.file}: more than {LIMIT >> 20} MiB; increase --step")


def pack(path: Path, root: Path, step: float) -> None:
    """Write the archive: the names and lengths of the utterances of each tree, and all frames (T, 40) int8."""
    trees = [name for name, tree in TREES.items() if is_folder(root / tree.feat)]
    if not trees:
        raise UserError(f"{root}: contains no features; run feat_extract/feature_extraction.py")
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_BZIP2) as archive:
        if (root / TRIALS_NAME).exists():
            archive.write(root / TRIALS_NAME, TRIALS_NAME)
        archive.writestr("step", str(step))
        for tree in trees:
            features = FeatureIndex([root / TREES[tree].feat])
            rows = range(len(features))
            archive.writestr(f"{tree}/names", b"\0".join(os.fsencode(features.name(row)) for row in rows))
            archive.writestr(f"{tree}/lengths", features.n_frames(np.array(rows)).astype("<i8").tobytes())
            with archive.open(f"{tree}/frames", "w", force_zip64=True) as out:
                for row in console.progress(rows, unit="utterance", desc=tree):
                    out.write(_rounded(features, row, step).tobytes())


def _rounded(features: FeatureIndex, row: int, step: float) -> np.ndarray:
    """Return an utterance in steps (T, 40) int8; UserError if a value exceeds 127 steps."""
    steps = np.round(features.utterance(row) / step)
    if np.abs(steps).max() > 127:
        raise UserError(f"{features.path(row)}: a value exceeds 127 steps; increase --step")
    return steps.astype(np.int8)


def unpack(path: Path, root: Path) -> None:
    """Write the feature files and the trial list of the archive."""
    with zipfile.ZipFile(path) as archive:
        if TRIALS_NAME in archive.namelist():
            root.mkdir(parents=True, exist_ok=True)
            archive.extract(TRIALS_NAME, root)
        step = float(archive.read("step"))
        for tree in [name for name in TREES if f"{name}/names" in archive.namelist()]:
            names = os.fsdecode(archive.read(f"{tree}/names")).split("\0")
            lengths = np.frombuffer(archive.read(f"{tree}/lengths"), "<i8")
            with archive.open(f"{tree}/frames") as frames:
                for name, length in console.progress(list(zip(names, lengths.tolist(), strict=True)), desc=tree):
                    steps = np.frombuffer(frames.read(length * N_MELS), np.int8).reshape(length, N_MELS)
                    feature = root / TREES[tree].feat / f"{name}.pkl"
                    write_feature(feature, np.float32(step) * steps, name.partition("/")[0])
            print(f"{root / TREES[tree].feat}: {len(names):,} feature files")


if __name__ == "__main__":
    console.run(main)
