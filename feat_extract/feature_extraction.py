"""Turn every wav tree under save_path into feature pickles, on all cores; what is done is skipped.

    python feat_extract/feature_extraction.py
    python feat_extract/feature_extraction.py --save_path DIR --num_workers 8
    torchrun --nnodes 4 ... feat_extract/feature_extraction.py  # on several machines with one disk

Reads <save_path>/voxceleb2/dev/wav, voxceleb1/dev/wav and voxceleb1/test/wav, those that exist, and writes the
folders beside them that configure.TREES names. A file that cannot be used is listed in feature_errors.csv
under save_path and the rest goes on; the exit status is then 1.
"""

import argparse
import csv
import sys
import time
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, Python sees only this folder

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
    parser.add_argument("--save_path", help="root of the data (default: METASR_SAVE_PATH, else configure.py)")
    parser.add_argument("--num_workers", type=console.integer(1, 1000), help="processes (default: all cores)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Extract what is missing; return the exit status."""
    args = parse_args(argv)
    root = save_root(args.save_path)
    trees = find_trees(root)
    ranks.init()
    with locked(root / LOCK_NAME) if ranks.is_first() else nullcontext():
        return extract_trees(root, trees, args.num_workers)


def extract_trees(root: Path, trees: list[Tree], num_workers: int | None) -> int:
    """Extract what the trees lack, print the summary line, return the exit status; ranks share the work."""
    jobs, n_done = find_jobs(root, trees) if ranks.is_first() else ([], 0)
    for tree in trees if jobs else []:
        remove_unfinished_below(root / tree.feat)
    mine = ranks.scatter(jobs)
    n_seconds, n_converted, failed, started = 0.0, 0, list[Failure](), time.perf_counter()
    extracted = unordered_map(extract_features, mine, num_workers)
    for seconds, converted, failure in console.progress(extracted, total=len(mine), unit="file", desc="features"):
        n_seconds += seconds
        n_converted += converted
        failed += [failure] if failure else []
    parts = ranks.gather((n_seconds, n_converted, failed))
    if not parts:  # the first rank tells
        return 0
    n_seconds, n_converted = sum(part[0] for part in parts), sum(part[1] for part in parts)
    failed = [failure for *_, of_rank in parts for failure in of_rank]
    if n_converted:
        console.warn(f"{n_converted} files were not 16 kHz 16-bit mono and were converted")
    rate = n_seconds / (time.perf_counter() - started)
    print(
        f"features: {len(jobs) - len(failed)} files written, {n_done} were there, {len(failed)} failed; "
        f"{n_seconds / 3600:.2f} hours of audio at {rate:.0f} times real time"
    )
    return report_errors(root / ERRORS_NAME, failed)


def find_trees(root: Path) -> list[Tree]:
    """Return the wav trees below the data root."""
    trees = [tree for tree in TREES.values() if is_folder(root / tree.wav)]
    if not trees:
        places = ", ".join(tree.wav for tree in TREES.values())
        raise UserError(f"{root}: holds none of {places}; get data with dataprep.py or name its place by --save_path")
    return trees


def find_jobs(root: Path, trees: list[Tree]) -> tuple[list[Job], int]:
    """Return the wavs of the trees that have no feature file yet, in order, and how many have one."""
    jobs: list[Job] = []
    n_done = 0
    for tree in trees:
        found = utterances(root / tree.wav, ".wav")
        encoded = utterances(root / tree.wav, ".m4a").keys() - found.keys()
        if encoded:
            console.warn(f"{root / tree.wav}: {len(encoded)} m4a files have no wav yet; run dataprep.py --convert")
        todo = sorted(found.keys() - utterances(root / tree.feat, ".pkl").keys())
        n_done += len(found) - len(todo)
        for name in todo:
            wav, feature = f"{root / tree.wav / name}{found[name]}", f"{root / tree.feat / name}.pkl"
            jobs.append((wav, feature, name.partition("/")[0]))
    if not jobs and not n_done:
        raise UserError(f"{root}: its wav folders hold no wav files; run dataprep.py --extract and --convert")
    return jobs, n_done


def report_errors(path: Path, failed: list[Failure]) -> int:
    """Write the list of failed files (or remove an old one) and return the exit status."""
    if not failed:
        path.unlink(missing_ok=True)
        return 0
    with replacing_table(path) as file:
        csv.writer(file).writerows([("file", "error"), *sorted(failed)])
    console.warn(f"{len(failed)} files could not be used, listed in {path}; the first: {min(failed)[1]}")
    return 1


if __name__ == "__main__":
    console.run(main)
