"""Verify speakers on whole utterances: the EER of a trial list, by default VoxCeleb1's original test list.

    python EER_full.py --n_folder 0 --cp_num 100 --data_type vox2
    python EER_full.py --checkpoint FILE --trials LIST --save_scores scores.csv --json

Every utterance of the list is embedded once, whole; a trial's score is the cosine of its two embeddings. The score at
the EER is kept beside the checkpoint as checkpoint_EEE.threshold.json, with those for a choice among several enrolled
speakers: recognize.py decides at them.
--as_norm N scores the trials a second time, normalised by the N training speakers nearest to either side.
"""

import argparse
from pathlib import Path

from configure import TRIALS_NAME, save_root
from evaluation import evaluator
from evaluation.decision import save_threshold, thresholds
from evaluation.embedding import Segments
from system import console, ranks


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = evaluator.parser(__doc__)
    parser.add_argument("--trials", type=Path, metavar="FILE", help=f"trial list ({TRIALS_NAME} in save_path)")
    evaluator.add_trial_arguments(parser)
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Score the trial list and print its error rates."""
    args = parse_args(argv)
    path = args.trials or save_root(args.save_path) / TRIALS_NAME
    lists = evaluator.read_lists(path, args)
    setting = evaluator.set_up(args)
    task = evaluator.task_of(setting, *lists)
    if n_seen := evaluator.of_seen_speakers(task, setting).sum():
        console.warn(f"{n_seen:,} of the trials are of speakers that the network was trained on")
    (scores,) = evaluator.verify(setting, task, {"whole": Segments.whole(setting.features, task.test)}, args)
    if task.trials.labelled and ranks.is_first():
        save_threshold(setting.path, path, thresholds(scores.plain, task.trials.label))


if __name__ == "__main__":
    console.run(main)
