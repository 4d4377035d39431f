"""Measure training on several ranks in utterances per second, compared with one.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --ranks 8 --n_way 100    # eight GPUs

On a CPU, a single rank uses as many threads as each of several ranks. On GPUs,
each rank uses one GPU.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from torch.nn.parallel import DistributedDataParallel

from benchmarks import timing
from benchmarks.synthetic import feature_tree
from benchmarks.training import N_QUERY, N_SHOT, loaded, new_model, train
from command_line.compute import add_compute_arguments, choose_compute
from dataset.episodes import TrainingEpisodes
from dataset.index import FeatureIndex
from system import console, ranks
from system.workers import cpu_count
from training.step import TrainingState

N_EPISODES = 2  # of each rank in each timing


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = timing.parser(__doc__)
    add = parser.add_argument_group("measurement").add_argument
    add("--ranks", type=console.integer(2), default=2, metavar="N", help="ranks compared with one (default: 2)")
    add("--n_way", type=console.integer(2), default=10, metavar="N", help="speakers per episode (default: 10)")
    add("--seed", type=console.integer(0), default=100, metavar="N", help="random seed (default: 100)")
    add("--tree", type=Path, help=argparse.SUPPRESS)  # for the ranks that this process starts
    add_compute_arguments(parser, precision="auto")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Start the ranks in turns and print the rates; with --tree, train as one of these ranks."""
    args = parse_args(argv)
    if args.tree:
        train_as_rank(args)
        return
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "feat"
        feature_tree(tree, args.n_way, args.ranks * N_EPISODES * (N_SHOT + N_QUERY))
        ways = {f"{args.ranks} ranks": args.ranks, "1 rank": 1}
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in console.progress(range(args.repeats), desc="benchmark"):
            for way, n_ranks in ways.items():
                rates[way].append(rate_of(n_ranks, tree, args, argv))
    timing.report("training on several ranks", "utterances", rates, n_way=args.n_way)


def rate_of(n_ranks: int, tree: Path, args: argparse.Namespace, argv: list[str]) -> float:
    """Return the utterances per second of `n_ranks` ranks, after some episodes to warm up."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n_ranks}"]
    command += ["-m", "benchmarks.scaling", *argv, "--tree", str(tree)]
    threads = max(1, cpu_count() // args.ranks)
    output = subprocess.check_output(command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, text=True)
    return json.loads(output.splitlines()[-1])


def train_as_rank(args: argparse.Namespace) -> None:
    """Train twice as one of the ranks; the first rank prints the utterances per second of the second time."""
    compute = choose_compute(args)
    features = FeatureIndex([args.tree])
    episodes = TrainingEpisodes(
        features, n_way=args.n_way, n_shot=N_SHOT, n_query=N_QUERY, use_variable=False, seed=args.seed
    )
    state = TrainingState(new_model(features), compute, lr=0.01)
    if ranks.world_size() > 1:
        state.replica = DistributedDataParallel(state.model)
    with loaded(episodes, compute) as batches:
        for _ in range(2):
            started = time.perf_counter()
            train(state, batches, N_EPISODES)
    rate = N_EPISODES * ranks.world_size() * episodes.n_utterances / (time.perf_counter() - started)
    print(json.dumps(rate))


if __name__ == "__main__":
    console.run(main)
