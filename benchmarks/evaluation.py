"""Measure the speed of embedding and of the short-utterance evaluation, compared with one-by-one recipes.

    python -m benchmarks.evaluation
    python -m benchmarks.evaluation --save_path DIR    # the first speakers of real data instead of noise

The first measurement embeds segments of 2 s. The second one scores all short trials of a few speakers in float32. The
one-by-one recipe embeds both sides of each trial, so it is timed on some of the trials; the scores must agree. The last
measurement scores trials of utterances that are already embedded.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.utils import convert_conv2d_weight_memory_format

from benchmarks import timing
from benchmarks.synthetic import feature_tree
from command_line.compute import add_compute_arguments, choose_compute
from configure import EVALUATION_TREES, TRAIN_FRAMES, TREES, save_root
from dataset.index import FeatureIndex
from dataset.trial_sampling import sample_short_trials
from evaluation.embedding import Segments, cosine, embed, score
from evaluation.metrics import verification_metrics
from evaluation.short_trials import window_starts
from model.encoder import EMBEDDING_SIZE, Encoder
from system import console
from system.compute import Compute

UTTERANCES = 20  # per synthetic speaker
N_SEGMENTS = 60  # to embed
N_TRIALS_E = 579_818  # trials of VoxCeleb1-E, cleaned
TOLERANCE = 1e-4  # maximum difference between the scores of the two recipes


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = timing.parser(__doc__)
    parser.add_argument("--save_path", metavar="DIR",
                        help="root of real data with features (default: noise)")  # fmt: skip
    parser.add_argument(
        "--speakers", type=console.integer(2), default=7, help="speakers, with 200 trials each (default: 7)"
    )
    parser.add_argument(
        "--trials", type=console.integer(10), default=60, help="trials that are scored one by one (default: 60)"
    )
    parser.add_argument(
        "--test_length",
        type=console.integer(1),
        default=100,
        help="test window length in frames of 10 ms (default: 100)",
    )
    parser.add_argument(
        "--seed", type=console.integer(0), default=100, help="random seed of weights and trials (default: 100)"
    )
    add_compute_arguments(parser, precision="fp32")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure and print."""
    args = parse_args(argv)
    compute = choose_compute(args)
    encoder = Encoder().eval().to(compute.device)
    with tempfile.TemporaryDirectory() as scratch:
        if args.save_path:
            features = FeatureIndex([save_root(args.save_path) / TREES[tree].feat for tree in EVALUATION_TREES])
        else:
            features = feature_tree(Path(scratch) / "feat", args.speakers, UTTERANCES)
        compare_embedding(encoder, features, compute, args)
        speakers = np.arange(min(args.speakers, len(features.speakers)))
        trials = sample_short_trials(features, speakers, args.seed)
        enrol = Segments.full(features, features.rows(trials.enrol))
        rows = features.rows(trials.test)
        starts = window_starts(features.n_frames(rows), args.test_length, args.seed)
        test = Segments(rows, starts, np.full(len(rows), args.test_length))
        some = np.random.default_rng(args.seed).choice(len(rows), args.trials, replace=False)
        left, right = (Segments(*(column[some] for column in side)) for side in (enrol, test))
        scores: dict[str, np.ndarray] = {}
        prepared = encoder.for_inference(compute.device)
        ways = {
            "this project": lambda: scores.update(ours=score(prepared, features, enrol, test, compute)),
            "one by one": lambda: scores.update(plain=one_by_one(encoder, features, left, right, compute.device)),
        }
        seconds = timing.measure(ways, args.repeats)
        amounts = {"this project": len(rows), "one by one": len(some)}
        rates = {way: [amounts[way] / s for s in taken] for way, taken in seconds.items()}
        utterances = len(np.unique(np.concatenate([enrol.row, test.row])))
        title = f"short-utterance evaluation, {len(rows):,} trials over {utterances:,} utterances"
        timing.report(title, "trials", rates, device=str(compute.device))
        difference = np.abs(scores["ours"][some] - scores["plain"]).max()
        assert difference <= TOLERANCE, f"the recipes' scores differ by {difference}"
        print(f"  largest difference of a score: {difference:.1e}")
    time_scoring()


def compare_embedding(encoder: Encoder, features: FeatureIndex, compute: Compute, args: argparse.Namespace) -> None:
    """Measure embedding segments of 2 s and print."""
    rows = np.arange(len(features)).repeat(-(-N_SEGMENTS // len(features)))[:N_SEGMENTS]
    segments = Segments(rows, np.zeros_like(rows), np.full(N_SEGMENTS, TRAIN_FRAMES))
    half, prepared = compute._replace(dtype=torch.bfloat16), encoder.for_inference(compute.device)
    ways = {
        "this project, bfloat16": lambda: embed(prepared, features, segments, half),
        "this project, float32": lambda: embed(prepared, features, segments, compute),
        "one by one, float32": lambda: embed_one_by_one(encoder, features, segments, compute.device),
    }
    timing.compare("embedding", "segments of 2 s", N_SEGMENTS, ways, args, device=str(compute.device))


def embed_one_by_one(
    encoder: Encoder, features: FeatureIndex, segments: Segments, device: torch.device
) -> torch.Tensor:
    """Embed as the official code does: without batches, in the default memory format."""
    encoder = convert_conv2d_weight_memory_format(encoder, torch.contiguous_format)
    crops = (torch.from_numpy(features.crop(*map(int, segment)).T.copy()) for segment in zip(*segments, strict=True))
    with torch.no_grad():
        return torch.cat([encoder(crop[None, None].to(device)).cpu() for crop in crops])


def one_by_one(
    encoder: Encoder, features: FeatureIndex, enrol: Segments, test: Segments, device: torch.device
) -> np.ndarray:
    """Score as the official code does: each trial reads and embeds both utterances."""
    left, right = (embed_one_by_one(encoder, features, side, device) for side in (enrol, test))
    return F.cosine_similarity(left, right).double().numpy()


def time_scoring() -> None:
    """Measure scores and error rates of as many trials as VoxCeleb1-E has, and print the times."""
    generator = torch.Generator().manual_seed(0)
    embeddings = F.normalize(torch.randn(145_000, EMBEDDING_SIZE, generator=generator), dim=1)
    left, right = torch.randint(len(embeddings), (2, N_TRIALS_E), generator=generator)
    start = time.perf_counter()
    scores = cosine(embeddings, left, right)
    scored = time.perf_counter()
    verification_metrics(scores, np.arange(N_TRIALS_E) % 2 == 0)
    print(
        f"  {N_TRIALS_E:,} trials over embedded utterances: scores {scored - start:.2f} s, "
        f"error rates {time.perf_counter() - scored:.2f} s"
    )


if __name__ == "__main__":
    console.run(main)
