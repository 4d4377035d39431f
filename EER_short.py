"""Verify speakers on short test utterances: whole enrolment, a random window of --test_length frames as the test.

    python EER_short.py --n_folder 0 --cp_num 100 --test_length 100
    python EER_short.py --checkpoint FILE --test_length 200 --seed 1 --json
    python EER_short.py --test_length 50 100 200 300 500 full --save_scores curve.csv
    python EER_short.py --test_length 50 100 200 300 500 full --calibrate True

Trials are 100 target and 100 non-target pairs for each VoxCeleb1 speaker (dev and test) that was not trained on. They
are drawn once, kept beside the checkpoint as short_trials_seedN.txt, and used again as long as the speakers and
utterances are the same. Each trial's test window starts at a random place of its own.
With several lengths the enrolments are embedded once, the scores get a column `length`, and --json a list `lengths`.
--calibrate True fits the log-likelihood ratio (LLR) that a score between so many seconds of speech stands for, and
keeps it as checkpoint_EEE.calibration.json: recognize.py decides by it, and later evaluations report how good it is.
Its own report is of held-out speakers: fitted on one half of them and measured on the other, both ways.
"""

import argparse
from pathlib import Path

import numpy as np

from configure import FRAMES_PER_SECOND
from dataset.index import FeatureIndex
from dataset.short_trials import stored_short_trials, window_starts
from dataset.trials import Trials
from evaluation import evaluator, report
from evaluation.embedding import MAX_FRAMES, Segments
from system import console, ranks

FULL = "full"  # as a test length: the whole utterance


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = evaluator.parser(__doc__)
    add = parser.add_argument
    add("--test_length", type=_length, nargs="+", default=[500], help="frames (10 ms) of a test window, or full (500)")
    add("--trials", type=Path, metavar="FILE", help="a trial list in place of the drawn one")
    evaluator.add_trial_arguments(parser)
    return parser.parse_args(argv)


def _length(text: str) -> int | str:
    """Read a test length: a number of frames, or `full` for whole utterances."""
    return FULL if text == FULL else console.integer(1, MAX_FRAMES)(text)


def main(argv: list[str]) -> None:
    """Draw or read the trials, score them and print the error rates."""
    args = parse_args(argv)
    lists = evaluator.read_lists(args.trials, args) if args.trials else None
    setting = evaluator.set_up(args)
    report.say_left_out(setting.features, setting.unseen)
    task = _of_unseen(evaluator.task_of(setting, *(lists or _short_trials(setting, args))), setting, args)
    tests = {str(n): test_segments(setting.features, task.test, n, args.seed) for n in args.test_length}
    windows = [f"{n} frames ({n / FRAMES_PER_SECOND:.2f} s)" if n != FULL else "all frames" for n in args.test_length]
    print(f"test windows of {', '.join(windows)}")
    evaluator.verify(setting, task, tests, args)


def _short_trials(setting: evaluator.Setting, args: argparse.Namespace) -> tuple[Trials, None]:
    """Return the paper's trials, kept beside the checkpoint; their enrolments are utterances, not models."""
    kept = setting.path.parent / f"short_trials_seed{args.seed}.txt"
    with ranks.main_process_first():
        trials = stored_short_trials(kept, setting.features, setting.unseen, args.seed)
    print(f"trials: {kept}")
    return trials, None


def _of_unseen(task: evaluator.Task, setting: evaluator.Setting, args: argparse.Namespace) -> evaluator.Task:
    """Return the trials without speakers that were trained on, and say how many are left out."""
    seen = evaluator.of_seen_speakers(task, setting)
    if seen.any():
        print(f"{seen.sum():,} of {len(seen):,} trials are of speakers that were trained on and are left out")
    task = task.where(~seen)
    if task.trials.labelled:
        task.trials.checked(args.trials or setting.path.parent)
    return task


def test_segments(features: FeatureIndex, rows: np.ndarray, length: int | str, seed: int) -> Segments:
    """Return a random window of `length` frames of each of the utterances `rows` (n,), or these whole."""
    if isinstance(length, str):  # FULL
        return Segments.whole(features, rows)
    return Segments(rows, window_starts(features.n_frames(rows), length, seed), np.full(len(rows), length))


if __name__ == "__main__":
    console.run(main)
