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

from configure import TRIALS_NAME, save_root
from evaluation import evaluator
from evaluation.embedding import Segments
from system import console


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = evaluator.parser(__doc__)
    parser.add_argument("--trials", type=Path, metavar="FILE", help=f"trial list ({TRIALS_NAME} in save_path)")
    evaluator.add_trial_arguments(parser)
    args = parser.parse_args(argv)
    evaluator.check_trial_arguments(args)
    return args


def main(argv: list[str]) -> None:
    """Score the trial list and print its error rates."""
    args = parse_args(argv)
    path = args.trials or save_root(args.save_path) / TRIALS_NAME
    with console.json_output(args.json) as publish:
        lists = evaluator.read_lists(path, args)
        setting = evaluator.set_up(args)
        task = evaluator.task_of(setting, *lists)
        evaluator.warn_of_seen_speakers(task.sides, setting.features, setting.unseen)
        tests = {evaluator.FULL: Segments.whole(setting.features, task.test)}
        evaluator.verify(setting, task, tests, args, publish)


if __name__ == "__main__":
    console.run(main)
