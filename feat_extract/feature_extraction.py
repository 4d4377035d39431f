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
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, Python sees only this folder

from configure import SAMPLE_RATE, TREES, Tree, save_root  # noqa: E402
from dataset.features import write_feature  # noqa: E402
from feat_extract.audio import read_and_warn  # noqa: E402
from feat_extract.fbank import log_mel  # noqa: E402
from system import console, ranks  # noqa: E402
from system.console import UserError  # noqa: E402
from system.files import is_folder, locked, remove_unfinished_below, replacing_table, utterances  # noqa: E402
from system.workers import unordered_map  # noqa: E402

ERRORS_NAME, LOCK_NAME = "feature_errors.csv", ".feature_extraction.lock"
Job = tuple[str, str, str]  # a wav file, the feature file to make of it, its speaker


class Outcome(NamedTuple):
    """What became of a job."""

    wav: str
    seconds: float = 0.0  # of audio
    converted: bool = False  # it was not 16 kHz 16-bit mono
    error: str = ""


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
    mine = ranks.scatter(jobs)
    seconds, n_converted, failed, started = 0.0, 0, [], time.perf_counter()
    with console.progress(total=len(mine), unit="file", desc="features") as bar:
        for outcome in unordered_map(extract, mine, num_workers):
            seconds += outcome.seconds
            n_converted += outcome.converted
            if outcome.error:
                failed.append(outcome)
            bar.update()
    parts = ranks.gather((seconds, n_converted, failed))
    if not parts:  # the first rank tells
        return 0
    seconds, n_converted = sum(part[0] for part in parts), sum(part[1] for part in parts)
    failed = [outcome for *_, of_rank in parts for outcome in of_rank]
    if n_converted:
        console.warn(f"{n_converted} files were not 16 kHz 16-bit mono and were converted")
    rate = seconds / (time.perf_counter() - started)
    print(
        f"features: {len(jobs) - len(failed)} files written, {n_done} were there, {len(failed)} failed; "
        f"{seconds / 3600:.2f} hours of audio at {rate:.0f} times real time"
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
    """Return the wavs of the trees that have no feature file yet, in order, and how many have one.

    What a killed run left half-written is removed.
    """
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
    for tree in trees if jobs else []:
        remove_unfinished_below(root / tree.feat)
    return jobs, n_done


def extract(job: Job) -> Outcome:
    """Write one feature file; whatever is wrong with the recording comes back as the outcome's error."""
    wav, feature, speaker = job
    try:
        samples, converted, _ = read_and_warn(Path(wav))
        feat = log_mel(samples)
    except UserError as error:
        return Outcome(wav, error=str(error))
    except MemoryError:
        return Outcome(wav, error=f"{wav}: too long for this machine's memory")
    write_feature(Path(feature), feat, speaker)
    return Outcome(wav, len(samples) / SAMPLE_RATE, converted)


def report_errors(path: Path, failed: list[Outcome]) -> int:
    """Write the list of failed files (or remove an old one) and return the exit status."""
    if not failed:
        path.unlink(missing_ok=True)
        return 0
    with replacing_table(path) as file:
        rows = sorted((outcome.wav, outcome.error) for outcome in failed)
        csv.writer(file).writerows([("file", "error"), *rows])
    first = min(failed).error
    console.warn(f"{len(failed)} files could not be used, listed in {path}; the first: {first}")
    return 1


if __name__ == "__main__":
    console.run(main)
