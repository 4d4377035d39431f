"""Measure the accuracy of N-way K-shot identification on short windows.

    python identification.py --n_folder 0 --cp_num 100 --nb_class_test 100
    python identification.py --checkpoint FILE --nb_class_test 5 20 --n_shot 1 5

An episode has --nb_class_test VoxCeleb1 speakers that were not in the training.
Each is enrolled with the mean embedding of --n_shot windows and has --n_query
test windows to identify. The accuracy is the mean over episodes.
docs/evaluation.md explains the flags and the output.
"""

import argparse
import itertools

import numpy as np

from command_line.evaluation import context_of, evaluation_parser, load_network
from evaluation import report
from evaluation.embedding import MAX_FRAMES, unique_segments
from evaluation.identification import MAX_EPISODES, EpisodeSize, accuracies, sample_episodes
from evaluation.metrics import mean_interval
from system import console


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = evaluation_parser(__doc__)
    parser.set_defaults(trim_silence=False)
    add = parser.add_argument_group("scoring").add_argument
    add("--nb_class_test", type=console.integer(2), nargs="+", default=[50], metavar="N",
        help="speakers per episode (default: 50)")  # fmt: skip
    add("--n_shot", type=console.integer(1), nargs="+", default=[1], metavar="N",
        help="enrolment windows per speaker (default: 1)")  # fmt: skip
    add("--n_query", type=console.integer(1), default=5, metavar="N", help="test windows per speaker (default: 5)")
    add("--enroll_length", type=console.integer(1, MAX_FRAMES), default=500, metavar="N",
        help="enrolment window length in frames of 10 ms (default: 500)")  # fmt: skip
    add("--test_length", type=console.integer(1, MAX_FRAMES), default=100, metavar="N",
        help="test window length in frames of 10 ms (default: 100)")  # fmt: skip
    add("--nb_episode", type=console.integer(2, MAX_EPISODES), default=1000, metavar="N",
        help="episodes per setting (default: 1000)")  # fmt: skip
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Sample the episodes, embed their windows and print the accuracies."""
    args = parse_args(argv)
    with console.json_output(args.json) as publish:
        publish(identify(args))


def identify(args: argparse.Namespace) -> dict:
    """Measure and print the accuracies, and return the result for --json."""
    context = context_of(args, load_network(args))
    features, unseen = context.features, context.unseen
    print(report.excluded_line(features, unseen))
    sizes = [
        EpisodeSize(n_way, n_shot, args.n_query, args.enroll_length, args.test_length)
        for n_shot, n_way in itertools.product(args.n_shot, args.nb_class_test)
    ]
    n_excluded = {size.n_windows: int((features.count[unseen] < size.n_windows).sum()) for size in sizes}
    for needed, number in n_excluded.items():
        if number:
            print(f"{number:,} speakers have fewer than {needed} utterances and are excluded")
    windows = [sample_episodes(features, unseen, size, args.nb_episode, args.seed) for size in sizes]
    segments, _ = unique_segments(windows)
    n_speakers, seconds = len(np.unique(features.speaker[segments.row])), float(segments.seconds(features).sum())
    print(
        f"scored: {args.nb_episode:,} episodes{' of each setting' if len(sizes) > 1 else ''}, "
        f"{len(segments.row):,} windows of {n_speakers:,} speakers, {seconds:,.0f} s of audio"
    )
    results = []
    for size, of_episodes in zip(sizes, accuracies(context, sizes, windows), strict=True):
        accuracy, ci95 = mean_interval(100 * of_episodes)
        print(
            f"accuracy {accuracy:.2f} +/- {ci95:.2f} % (95 % interval over episodes), {size.n_way}-way "
            f"{size.n_shot}-shot, enrolment {size.enroll_length} and test {size.test_length} frames"
        )
        result = {"accuracy": accuracy, "ci95": ci95, "n_episodes": args.nb_episode}
        result |= {"n_way": size.n_way, "n_shot": size.n_shot, "n_excluded": n_excluded[size.n_windows]}
        results.append(result)
    common = {"n_speakers": n_speakers, "seconds": seconds}
    return (results[0] if len(results) == 1 else {"settings": results}) | common


if __name__ == "__main__":
    console.run(main, with_ranks=True)
