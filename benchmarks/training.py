"""Measure training in utterances per second, compared with a plain recipe.

    python -m benchmarks.training
    python -m benchmarks.training --n_way 100 --n_episode 20  # for a GPU

The plain recipe computes in float32 with contiguous tensors and loads the data
in the loop. An episode has 1 support and 2 queries of 1 to 2 s per speaker, as
in the paper. The FLOP/s are those that torch counts in the network; they are
compared with those of a large matrix product in the same precision. Loader
processes are started before the first timing, as train.py starts them once.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import timing
from benchmarks.synthetic import feature_tree
from command_line.compute import add_compute_arguments, choose_compute
from configure import TRAIN_FRAMES
from dataset.episodes import Episode, TrainingEpisodes, episode_order
from dataset.features import read_feature
from dataset.index import FeatureIndex
from loss import Objective
from model.encoder import EMBEDDING_SIZE, Encoder
from system import console, ranks
from system.compute import Compute
from system.loading import Loader
from training.step import EpisodeLoss, TrainingState, train_step

N_SHOT, N_QUERY = 1, 2


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = timing.parser(__doc__)
    add = parser.add_argument_group("measurement").add_argument
    add("--n_way", type=console.integer(2), default=20, metavar="N", help="speakers per episode (default: 20)")
    add("--n_episode", type=console.integer(1), default=2, metavar="N", help="episodes per timing (default: 2)")
    add("--seed", type=console.integer(0), default=100, metavar="N", help="random seed (default: 100)")
    add_compute_arguments(parser, precision="auto")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure and print."""
    args = parse_args(argv)
    compute = choose_compute(args)
    with tempfile.TemporaryDirectory() as scratch:
        features = feature_tree(Path(scratch) / "feat", args.n_way, args.n_episode * (N_SHOT + N_QUERY))
        episodes = TrainingEpisodes(
            features, n_way=args.n_way, n_shot=N_SHOT, n_query=N_QUERY, use_variable=True, seed=args.seed
        )
        state = TrainingState(new_model(features), compute, lr=0.01)
        plain = PlainLoop(features, episodes, args.seed, compute.device)
        with loaded(episodes, compute) as batches:
            ours = f"this project, {str(compute.dtype).removeprefix('torch.')}"
            ways = {ours: lambda: train(state, batches, args.n_episode), "plain recipe, float32": plain.train}
            amount = args.n_episode * episodes.n_utterances
            timing.compare("training", "utterances", amount, ways, args, n_way=args.n_way, device=str(compute.device))
            report_share_of_peak(state, episodes, batches)


def new_model(features: FeatureIndex) -> EpisodeLoss:
    """Return the paper's network and objective."""
    return EpisodeLoss(Encoder(), Objective("prototypical", True, len(features.speakers), EMBEDDING_SIZE))


def loaded(episodes: TrainingEpisodes, compute: Compute) -> AbstractContextManager[Iterator[Episode]]:
    """Return an endless iterator over the episodes of this rank, loaded as by train.py."""
    order = episode_order(episodes.per_epoch, 0, 0, sys.maxsize, ranks.rank(), ranks.world_size())
    pin_memory = compute.device.type == "cuda"
    return Loader[Episode](episodes, compute.num_workers, episodes.max_bytes, pin_memory).batches(order)


def train(state: TrainingState, batches: Iterator[Episode], n_episodes: int) -> float:
    """Train episodes as train.py does; return the seconds spent waiting for data."""
    waited = 0.0
    state.model.train()
    for _ in range(n_episodes):
        asked = time.perf_counter()
        episode = next(batches)
        waited += time.perf_counter() - asked
        train_step(state, episode)
    state.metrics.all_gather()  # waits for the device
    return waited


class PlainLoop:
    """The plain recipe: complete pickles read in the loop, float32, contiguous tensors."""

    def __init__(self, features: FeatureIndex, episodes: TrainingEpisodes, seed: int, device: torch.device):
        self._features, self._n_way, self._device = features, len(features.speakers), device
        self._per_epoch = episodes.per_epoch
        self._rng = np.random.default_rng(seed)
        self._model = new_model(features).to(device)
        self._optimizer = torch.optim.SGD(
            self._model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=1e-4, foreach=False
        )

    def train(self) -> None:
        """Train an epoch."""
        torch.backends.cudnn.deterministic = True
        for _ in range(self._per_epoch):
            n_frames = int(self._rng.integers(100, TRAIN_FRAMES))
            support, query = self._crops(N_SHOT, TRAIN_FRAMES), self._crops(N_QUERY, n_frames)
            s, q = (self._model.encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2]) for x in (support, query))
            prototypes = F.normalize(s.mean(dim=0), dim=1)
            speaker = torch.arange(self._n_way, device=self._device)
            assert self._model.objective.class_vectors is not None
            vectors = F.normalize(self._model.objective.class_vectors, dim=1)
            loss = F.cross_entropy(q.flatten(0, 1) @ prototypes.T, speaker.repeat(N_QUERY)) + F.cross_entropy(
                torch.cat([s, q]).flatten(0, 1) @ vectors.T, speaker.repeat(N_SHOT + N_QUERY)
            )
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            loss.item()
        torch.backends.cudnn.deterministic = False

    def _crops(self, n: int, n_frames: int) -> torch.Tensor:
        crops = []
        for _ in range(n):
            for speaker in range(self._n_way):
                row = self._features.first[speaker] + self._rng.integers(self._features.count[speaker])
                feat = read_feature(self._features.path(row))
                start = self._rng.integers(len(feat) - n_frames + 1)
                crops.append(torch.from_numpy(feat[start : start + n_frames].T.copy())[None])
        return torch.stack(crops).unflatten(0, (n, self._n_way)).to(self._device)


def report_share_of_peak(state: TrainingState, episodes: TrainingEpisodes, batches: Iterator[Episode]) -> None:
    """Print the FLOP/s of training as a share of those of a matrix product, and the peak memory."""
    compute = state.compute
    support, query, speaker = (tensor.to(compute.device) for tensor in episodes[1, 0])
    with FlopCounterMode(display=False) as counter:
        state.model(support, query, speaker).loss.backward()
    flops = counter.get_total_flops()
    start, waited = time.perf_counter(), train(state, batches, episodes.per_epoch)
    seconds = time.perf_counter() - start
    peak = matmul_speed(compute)
    if compute.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**30
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    speed = flops * episodes.per_epoch / seconds
    print(
        f"  {flops / 1e9:.0f} GFLOP per episode at {speed / 1e9:.0f} GFLOP/s, {100 * speed / peak:.0f} % of a matrix "
        f"product's {peak / 1e9:.0f}; {100 * waited / seconds:.1f} % of the time spent waiting for data; "
        f"peak memory {memory:.1f} GiB"
    )


def matmul_speed(compute: Compute, repeats: int = 10) -> float:
    """Return the FLOP/s of a large square matrix product in the precision of training."""
    size = 8192 if compute.device.type == "cuda" else 2048  # enough to fill the device
    a = torch.randn(size, size, device=compute.device, dtype=compute.dtype)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


if __name__ == "__main__":
    console.run(main)
