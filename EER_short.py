"""Verify speakers on short test utterances: whole enrolment, a random window of --test_length frames as the test.

    python EER_short.py --n_folder 0 --cp_num 100 --test_length 100
    python EER_short.py --checkpoint FILE --test_length 200 --seed 1 --json

Trials are 100 target and 100 non-target pairs for each VoxCeleb1 speaker (dev and test) that was not trained on. They
are drawn once, kept beside the checkpoint as short_trials_seedN.txt with their SHA-256, and used again from there.
"""
import argparse
from pathlib import Path

import numpy as np

import console
import evaluation
from dataset.trials import read_trials, stored_short_trials, window_starts
from verification import Segments


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = evaluation.parser(__doc__)
    add = parser.add_argument
    add("--test_length", type=console.integer(1), default=500, help="frames (10 ms) of a test window (500)")
    add("--trials", type=Path, metavar="FILE", help="a trial list in place of the drawn one")
    add("--save_scores", type=Path, metavar="FILE", help="write label,enrol,test,score as CSV")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Draw or read the trials, score them and print the error rates."""
    args = parse_args(argv)
    setting = evaluation.set_up(args)
    evaluation.say_left_out(setting)
    features = setting.features
    if args.trials:
        trials = read_trials(args.trials)
        trials = trials.where(~evaluation.of_seen_speakers(trials, setting))
    else:
        kept = setting.path.parent / f"short_trials_seed{args.seed}.txt"
        trials = stored_short_trials(kept, features, setting.unseen, args.seed)
        print(f"trials: {kept}")
    test_rows = features.rows(trials.test)
    starts = window_starts(features.n_frames[test_rows], args.test_length, args.seed)
    test = Segments(test_rows, starts, np.full(len(starts), args.test_length))
    print(f"test windows of {args.test_length} frames ({args.test_length / 100:.2f} s)")
    evaluation.verify(setting, trials, Segments.whole(features, features.rows(trials.enrol)), test, args)


if __name__ == "__main__":
    console.run(main)
