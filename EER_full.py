"""Measure the EER of a trial list on full utterances, by default VoxCeleb1's
original test list.

    python EER_full.py --n_folder 0 --cp_num 100
    python EER_full.py --checkpoint FILE --trials LIST --save_scores scores.csv
    python EER_full.py --checkpoint FILE --trials LIST --compare scores.csv

Each utterance is embedded once. The score of a trial is the cosine of the two
embeddings. docs/evaluation.md explains the flags and the output.
"""

import argparse
from pathlib import Path

from command_line.evaluation import (
    add_trial_arguments,
    check_trial_arguments,
    context_of,
    evaluation_parser,
    find_listed,
    load_network,
    read_lists,
    verify,
)
from configure import TRIALS_NAME, save_root
from evaluation.context import warn_of_seen_speakers
from evaluation.embedding import Segments
from evaluation.score_file import FULL
from system import console


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = evaluation_parser(__doc__)
    parser.add_argument_group("data").add_argument("--trials", type=Path, metavar="FILE",
        help=f"trial list (default: {TRIALS_NAME} in --save_path)")  # fmt: skip
    add_trial_arguments(parser)
    args = parser.parse_args(argv)
    args.trials = args.trials or save_root(args.save_path) / TRIALS_NAME
    check_trial_arguments(args, args.trials)
    return args


def main(argv: list[str]) -> None:
    """Score the trial list and print its error rates."""
    args = parse_args(argv)
    with console.json_output(args.json) as publish:
        lists = read_lists(args.trials, args)
        context = context_of(args, load_network(args))
        trial_set = find_listed(context, lists)
        warn_of_seen_speakers(trial_set.sides, context.features, context.unseen)
        tests = {FULL: Segments.full(context.features, trial_set.test)}
        verify(context, trial_set, tests, args, publish)


if __name__ == "__main__":
    console.run(main, with_ranks=True)
