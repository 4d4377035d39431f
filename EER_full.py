"""Verify speakers on whole utterances: the EER of a trial list, by default VoxCeleb1's original test list.

    python EER_full.py --n_folder 0 --cp_num 100 --data_type vox2
    python EER_full.py --checkpoint FILE --trials LIST --save_scores scores.csv --json

Every utterance of the list is embedded once, whole; a trial's score is the cosine of its two embeddings.
--calibrate True keeps checkpoint_EEE.calibration.json as EER_short.py does, for whole utterances only.
--trim_silence True cuts pauses out of them first, as recognize.py does; --calibrate True always does.
--as_norm N scores the trials a second time, normalised by the N training speakers nearest to either side.
"""

import argparse
from pathlib import Path

from command_line.evaluation import (
    add_trial_arguments,
    check_trial_arguments,
    context_of,
    evaluation_parser,
    read_lists,
    verify,
)
from configure import TRIALS_NAME, save_root
from evaluation.context import warn_of_seen_speakers
from evaluation.embedding import Segments
from evaluation.score_file import FULL
from evaluation.verification import find_trials
from system import console


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = evaluation_parser(__doc__)
    parser.add_argument("--trials", type=Path, metavar="FILE", help=f"trial list ({TRIALS_NAME} in save_path)")
    add_trial_arguments(parser)
    args = parser.parse_args(argv)
    check_trial_arguments(args)
    return args


def main(argv: list[str]) -> None:
    """Score the trial list and print its error rates."""
    args = parse_args(argv)
    path = args.trials or save_root(args.save_path) / TRIALS_NAME
    with console.json_output(args.json) as publish:
        lists = read_lists(path, args)
        context = context_of(args)
        trial_set = find_trials(context.features, *lists)
        warn_of_seen_speakers(trial_set.sides, context.features, context.unseen)
        tests = {FULL: Segments.whole(context.features, trial_set.test)}
        verify(context, trial_set, tests, args, publish)


if __name__ == "__main__":
    console.run(main)
