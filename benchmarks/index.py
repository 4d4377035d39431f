"""Measure the time to open the index of a feature tree as large as VoxCeleb2: 1,092,009 utterances of 5,994 speakers.

    python -m benchmarks.index

Makes the folders of the tree (about 150,000, without files) and its index in a temporary folder. Each repeat opens the
index in a new process and samples the utterances of an episode. Takes one to two minutes, mostly to make the folders.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import timing
from dataset.episodes import TrainingEpisodes
from dataset.features import Location
from dataset.index import FeatureIndex
from dataset.table import Table
from system import console

N_UTTERANCES, N_SPEAKERS, N_VIDEOS = 1_092_009, 5_994, 145_569


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = timing.parser(__doc__)
    parser.add_argument("--open", type=Path, metavar="TREE", help=argparse.SUPPRESS)  # the work of the new process
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure and print."""
    args = parse_args(argv)
    if args.open:
        open_tree(args.open)
        return
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "feat"
        write_tree(tree)
        command = [sys.executable, "-m", "benchmarks.index", "--open", str(tree)]
        runs = [json.loads(subprocess.check_output(command)) for _ in range(args.repeats + 1)][1:]
    seconds, memory = ([run[name] for run in runs] for name in ("seconds", "megabytes"))
    print(f"opening {N_UTTERANCES:,} utterances of {N_SPEAKERS:,} speakers, median of {args.repeats}:")
    print(f"  {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), peak {max(memory):.0f} MB")
    print(json.dumps({"benchmark": "index", "seconds": seconds, "peak_megabytes": memory}))


def open_tree(tree: Path) -> None:
    """Open the tree and sample an episode of the paper; print the time and the peak memory of this process."""
    start = time.perf_counter()
    features = FeatureIndex([tree])
    episodes = TrainingEpisodes(features, n_way=100, n_shot=1, n_query=2, use_variable=True, seed=100)
    names = episodes.names((1, 0))
    seconds = time.perf_counter() - start
    assert len(features) == N_UTTERANCES and len(names) == 300
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux returns KiB
    print(json.dumps({"seconds": seconds, "megabytes": peak}))


def write_tree(tree: Path) -> None:
    """Make the folders and the index of a tree with as many utterances as VoxCeleb2."""
    videos = [f"id{i % N_SPEAKERS:05d}/video{i // N_SPEAKERS:06d}" for i in range(N_VIDEOS)]
    for video in console.progress(videos, desc="folders"):
        (tree / video).mkdir(parents=True)
    names = np.array(sorted(f"{videos[i % N_VIDEOS]}/{i // N_VIDEOS:05d}".encode() for i in range(N_UTTERANCES)))
    n_frames = np.random.default_rng(0).integers(400, 2000, N_UTTERANCES)
    columns = Location(0, 159, 4, 0, 0)._asdict() | {"n_frames": n_frames}
    folders = ["", *(f"id{speaker:05d}" for speaker in range(N_SPEAKERS)), *videos]
    table = Table(
        names,
        np.full(N_UTTERANCES, b".pkl"),
        np.stack(np.broadcast_arrays(*columns.values()), axis=1),
        np.array([folder.encode() for folder in folders]),
        np.array([(tree / folder).stat().st_mtime_ns for folder in folders]),
    )
    np.savez(tree.with_name(f"{tree.name}.index.npz"), **table._asdict())


if __name__ == "__main__":
    console.run(main)
