"""Identify unseen speakers from short windows: N-way K-shot accuracy over random episodes.

    python identification.py --n_folder 0 --cp_num 100 --nb_class_test 100 --test_length 100
    python identification.py --checkpoint FILE --nb_class_test 5 10 20 --n_shot 1 5 --json

An episode enrols --nb_class_test VoxCeleb1 speakers that were not trained on, each by the mean embedding of --n_shot
windows of --enroll_length frames, and names the speaker of --n_query windows of --test_length frames of each.
Speakers with fewer utterances than an episode needs are excluded; how many is printed, and `n_excluded` in --json.
With several numbers of speakers or shots a window is embedded once for all, and --json has a list `settings`.
"""

import argparse
import itertools

import numpy as np
import torch

from command_line.evaluation import context_of, evaluation_parser
from dataset.episodes import eligible_speakers, sample_utterances
from dataset.index import n_starts
from evaluation import report
from evaluation.context import EvaluationContext
from evaluation.embedding import MAX_FRAMES, Segments, embed, unique_segments
from evaluation.metrics import mean_interval
from loss import class_logits, prototypes
from system import console


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = evaluation_parser(__doc__)
    parser.set_defaults(trim_silence=False)
    add = parser.add_argument
    add("--nb_class_test", type=console.integer(2), nargs="+", default=[50], help="speakers of an episode (50)")
    add("--n_shot", type=console.integer(1), nargs="+", default=[1], help="enrolment windows of a speaker (1)")
    add("--n_query", type=console.integer(1), default=5, help="test windows of a speaker (5)")
    add("--enroll_length", type=console.integer(1, MAX_FRAMES), default=500, help="frames of an enrolment window (500)")
    add("--test_length", type=console.integer(1, MAX_FRAMES), default=100, help="frames (10 ms) of a test window (100)")
    add("--nb_episode", type=console.integer(2, 10**6), default=1000, help="episodes (1000)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Print the accuracies."""
    args = parse_args(argv)
    with console.json_output(args.json) as publish:
        publish(identify(args))


def identify(args: argparse.Namespace) -> dict:
    """Sample the episodes of each context, embed their windows and print the accuracies; return them for --json."""
    context = context_of(args)
    print(report.excluded_line(context.features, context.unseen))
    n_excluded = {n_shot: excluded_speakers(context, n_shot + args.n_query) for n_shot in args.n_shot}
    kinds = list(itertools.product(args.n_shot, args.nb_class_test))
    drawn = [draw_windows(args, context, n_way, n_shot) for n_shot, n_way in kinds]
    segments, at = unique_segments(drawn)
    n_speakers = len(np.unique(context.features.speaker[segments.row]))
    seconds = float(segments.seconds(context.features).sum())
    print(
        f"scored: {args.nb_episode:,} episodes{' of each kind' if len(kinds) > 1 else ''}, "
        f"{len(segments.row):,} windows of {n_speakers:,} speakers, {seconds:,.0f} s of audio"
    )
    embeddings = embed(context.encoder, context.features, segments, context.compute)
    results = []
    parts = torch.from_numpy(at).split([len(of_kind.row) for of_kind in drawn])
    for (n_shot, n_way), of_kind in zip(kinds, parts, strict=True):
        episodes = of_kind.reshape(args.nb_episode, n_shot + args.n_query, n_way)
        accuracies = np.array([episode_accuracy(embeddings[rows], n_shot) for rows in episodes])
        accuracy, ci95 = mean_interval(100 * accuracies)
        print(
            f"accuracy {accuracy:.2f} +/- {ci95:.2f} % (95 % interval over episodes), {n_way}-way {n_shot}-shot, "
            f"enrolment {args.enroll_length} and test {args.test_length} frames"
        )
        result = {"accuracy": accuracy, "ci95": ci95, "n_episodes": args.nb_episode, "n_way": n_way, "n_shot": n_shot}
        results.append(result | {"n_excluded": n_excluded[n_shot]})
    common = {"n_speakers": n_speakers, "seconds": seconds}
    return (results[0] if len(results) == 1 else {"settings": results}) | common


def excluded_speakers(context: EvaluationContext, n_windows: int) -> int:
    """Return and print how many speakers have too few utterances for an episode's `n_windows` windows of each."""
    n_excluded = int((context.features.count[context.unseen] < n_windows).sum())
    if n_excluded:
        print(f"{n_excluded:,} speakers have fewer than {n_windows} utterances and are excluded")
    return n_excluded


def draw_windows(args: argparse.Namespace, context: EvaluationContext, n_way: int, n_shot: int) -> Segments:
    """Return the windows of all episodes, flattened from (episode, shots + queries, way)."""
    features = context.features
    n_windows = n_shot + args.n_query
    eligible = eligible_speakers(features, n_way, n_windows, context.unseen)
    rng = np.random.default_rng(args.seed)
    rows = np.stack([sample_utterances(features, eligible, n_way, n_windows, rng)[1] for _ in range(args.nb_episode)])
    lengths = np.where(np.arange(n_windows) < n_shot, args.enroll_length, args.test_length)
    lengths = np.broadcast_to(lengths[:, None], rows.shape)
    starts = rng.integers(n_starts(features.n_frames(rows), lengths))
    return Segments(rows.ravel(), starts.ravel(), lengths.ravel())


def episode_accuracy(embeddings: torch.Tensor, n_shot: int) -> float:
    """Return the share of right answers in one episode: embeddings (K + Q, W, D), the K = n_shot enrolments first."""
    queries = embeddings[n_shot:]
    nearest = class_logits(queries, prototypes(embeddings[:n_shot])).argmax(dim=-1)  # (Q, W)
    return float((nearest == torch.arange(nearest.shape[1])).float().mean())


if __name__ == "__main__":
    console.run(main)
