"""Extract log mel features from all wavs of the data root, on all cores.

    python feat_extract/feature_extraction.py
    python feat_extract/feature_extraction.py --save_path DIR --num_workers 8
    torchrun --nnodes 4 ... feat_extract/feature_extraction.py  # 4 machines

Reads the wavs in voxceleb2/dev/wav, voxceleb1/dev/wav and voxceleb1/test/wav of
the data root, and writes a feature file for each into the folder feat next to
wav. Wavs that already have a feature file are skipped. Several machines need
access to the same data root. If wavs cannot be used, feature_errors.csv in the
data root lists them with the reason; all other wavs are extracted, and the exit
status is 1.
"""

import argparse
import csv
import sys
import time
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script's own folder is the only one by default

from configure import TREES, Tree, save_root  # noqa: E402
from feat_extract.extraction import Failure, Job, extract_features  # noqa: E402
from system import console, ranks  # noqa: E402
from system.console import UserError  # noqa: E402
from system.files import is_folder, locked, remove_unfinished_below, replacing_table, utterances  # noqa: E402
from system.workers import unordered_map  # noqa: E402

ERRORS_NAME, LOCK_NAME = "feature_errors.csv", ".feature_extraction.lock"


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = console.Parser(__doc__)
    parser.add_argument_group("data").add_argument("--save_path", metavar="DIR",
        help="root of the data (default: $METASR_SAVE_PATH, else configure.py)")  # fmt: skip
    parser.add_argument_group("hardware").add_argument("--num_workers", type=console.integer(1, 1000), metavar="N",
        help="number of processes (default: number of cores)")  # fmt: skip
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Extract the missing features; return the exit status."""
    args = parse_args(argv)
    root = save_root(args.save_path)
    trees = find_trees(root)
    ranks.init()
    with locked(root / LOCK_NAME) if ranks.is_first() else nullcontext():
        return extract_trees(root, trees, args.num_workers)


def extract_trees(root: Path, trees: list[Tree], num_workers: int | None) -> int:
    """Extract the missing features of the trees, print a summary, return the exit status; ranks share the work."""
    jobs, n_done = find_jobs(root, trees) if ranks.is_first() else ([], 0)
    for tree in trees if jobs else []:
        remove_unfinished_below(root / tree.feat)
    mine, started = ranks.scatter(jobs), time.perf_counter()
    extracted = unordered_map(extract_features, mine, num_workers)
    parts = ranks.gather(list(console.progress(extracted, total=len(mine), unit="file", desc="features")))
    if not ranks.is_first():
        return 0
    results = [result for part in parts for result in part]
    n_seconds, n_converted = sum(seconds for seconds, *_ in results), sum(converted for _, converted, _ in results)
    failed = [failure for *_, failure in results if failure]
    if n_converted:
        console.warn(f"{n_converted} wavs were not 16 kHz 16-bit mono and were converted")
    rate = n_seconds / (time.perf_counter() - started)
    print(
        f"features: {len(jobs) - len(failed)} files written, {n_done} existed already, {len(failed)} failed; "
        f"{n_seconds / 3600:.2f} hours of audio at {rate:.0f} times real time"
    )
    return report_errors(root / ERRORS_NAME, failed)


def find_trees(root: Path) -> list[Tree]:
    """Return the trees of the data root whose wav folder exists."""
    trees = [tree for tree in TREES.values() if is_folder(root / tree.wav)]
    if not trees:
        places = ", ".join(tree.wav for tree in TREES.values())
        raise UserError(f"{root}: contains none of {places}; get data with dataprep.py or choose another --save_path")
    return trees


def find_jobs(root: Path, trees: list[Tree]) -> tuple[list[Job], int]:
    """Return the jobs of the wavs without a feature file, sorted, and the number of wavs that have one."""
    jobs: list[Job] = []
    n_done = 0
    for tree in trees:
        found = utterances(root / tree.wav, ".wav")
        encoded = utterances(root / tree.wav, ".m4a").keys() - found.keys()
        if encoded:
            console.warn(f"{root / tree.wav}: {len(encoded)} m4a files are not converted; run dataprep.py --convert")
        features = utterances(root / tree.feat, ".pkl")
        if found and (without_wav := features.keys() - found.keys()):
            first = min(without_wav)
            console.warn(
                f"{root / tree.feat}: {len(without_wav):,} features have no wav, for example {first}{features[first]}; "
                "they are still used; remove them if their wavs were removed or renamed"
            )
        todo = sorted(found.keys() - features.keys())
        n_done += len(found) - len(todo)
        for name in todo:
            wav, feature = f"{root / tree.wav / name}{found[name]}", f"{root / tree.feat / name}.pkl"
            jobs.append((wav, feature, name.partition("/")[0]))
    if not jobs and not n_done:
        raise UserError(f"{root}: its wav folders contain no wavs; run dataprep.py --extract and --convert")
    return jobs, n_done


def report_errors(path: Path, failed: list[Failure]) -> int:
    """Write the table of failed wavs, or remove an old one; return the exit status."""
    if not failed:
        path.unlink(missing_ok=True)
        return 0
    with replacing_table(path) as file:
        csv.writer(file).writerows([("file", "error"), *sorted(failed)])
    console.warn(f"{len(failed)} wavs could not be used; {path} lists them; the first: {min(failed)[1]}")
    return 1


if __name__ == "__main__":
    console.run(main, with_ranks=True)
