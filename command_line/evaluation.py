"""The flags that the evaluators share, and their common steps from trial lists to printed error rates."""

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from command_line.checkpoint import add_checkpoint_arguments, find_checkpoint
from command_line.compute import add_compute_arguments, choose_compute
from configure import TRAINING_TREE, TREES, save_root
from dataset.trials import Trials, read_enrolment, read_trials
from evaluation import report
from evaluation.calibration import calibration_path, fit, load_calibration, save_calibration, split_half_llr
from evaluation.context import EvaluationContext, load_context, of_seen_speakers
from evaluation.embedding import Scores, Segments
from evaluation.normalisation import Cohort, load_cohort
from evaluation.score_file import read_compared, write_scores
from evaluation.verification import (
    UNDISTURBED,
    Conditions,
    TrialSet,
    find_trials,
    score_trials,
    scored_trials,
)
from model.checkpoint import Checkpoint
from system import console, ranks
from system.compute import Compute
from system.console import UsageError, UserError
from system.files import create_writable


def evaluation_parser(description: str | None, several_roots: bool = False) -> console.Parser:
    """Return a parser with the flags of all evaluators; with `several_roots`, --save_path takes one or more."""
    parser = console.Parser(description)
    data, model = parser.add_argument_group("data"), parser.add_argument_group("model")
    data.add_argument("--save_path", metavar="DIR", nargs="+" if several_roots else None,
        help="root of the data (default: $METASR_SAVE_PATH, else configure.py)"
        + several_roots * "; several with --calibrate True, and one list of --trials for each")  # fmt: skip
    add_checkpoint_arguments(parser)
    model.add_argument("--data_type", choices=sorted(TRAINING_TREE),
        help="training data of an official checkpoint (default: vox2)")  # fmt: skip
    parser.add_argument_group("scoring").add_argument("--seed", type=console.integer(0), default=100, metavar="N",
        help="random seed (default: 100)")  # fmt: skip
    parser.add_argument_group("output").add_argument("--json", action="store_true",
        help="result as one line of JSON; everything else to standard error")  # fmt: skip
    add_compute_arguments(parser, precision="fp32")
    return parser


def add_trial_arguments(parser: console.Parser) -> None:
    """Add the flags that the two evaluators of trials share, except --trials."""
    data, scoring = parser.add_argument_group("data").add_argument, parser.add_argument_group("scoring").add_argument
    data("--enroll", type=Path, metavar="FILE",
        help="enrolment list, lines MODEL UTTERANCE... (default: none, trials of two utterances)")  # fmt: skip
    data("--trim_silence", type=console.boolean, metavar="BOOL",
        help="trimming of silence, as in recognize.py (default: False; True with --calibrate True)")  # fmt: skip
    scoring("--as_norm", type=console.integer(2), metavar="N",
        help="additional scores with as-norm, cohort of the N nearest training speakers (default: none)")  # fmt: skip
    scoring("--compare", type=Path, metavar="FILE",
        help="score file of another system on the same trials (default: none)")  # fmt: skip
    scoring("--calibrate", type=console.boolean, default=False, metavar="BOOL",
        help="fit of a calibration (LLR), stored next to the checkpoint (default: False)")  # fmt: skip
    parser.add_argument_group("output").add_argument("--save_scores", type=Path, metavar="FILE",
        help="CSV file with one row per trial (default: none)")  # fmt: skip


def check_trial_arguments(args: argparse.Namespace, *trials: Path) -> None:
    """Set the default of --trim_silence; UsageError for flags that contradict each other.

    `trials` are the trial lists that will be read. UserError if --save_scores cannot be written.
    """
    if args.calibrate and args.trim_silence is False:
        raise UsageError("--calibrate True trims silence, as recognize.py does; omit --trim_silence")
    if args.save_scores:
        console.refuse_overwriting(args.save_scores, [*trials, args.enroll, args.compare, args.checkpoint])
        create_writable(args.save_scores.parent, "--save_scores")
        if args.save_scores.is_dir():
            raise UsageError(f"--save_scores {args.save_scores}: a folder; add a file name")
    args.trim_silence = bool(args.trim_silence or args.calibrate)


Network = tuple[Path, Checkpoint, Compute]  # the checkpoint file, its content, and how to run the network


def load_network(args: argparse.Namespace) -> Network:
    """Load the checkpoint that the flags select, and print its path, epoch and backbone."""
    compute = choose_compute(args)
    # Only one rank looks for the newest checkpoint, because a training may write a newer one meanwhile.
    path, checkpoint = ranks.broadcast_object(lambda: find_checkpoint(args))
    if args.data_type and checkpoint.data_type not in ("", args.data_type):
        raise UsageError(f"--data_type {args.data_type}: {path} was trained on {checkpoint.data_type}; omit the flag")
    print(f"checkpoint: {path}, after epoch {checkpoint.epoch}, {checkpoint.backbone}")
    if args.trim_silence:
        print("silence is trimmed from the utterances, as in recognize.py")
    return path, checkpoint, compute


def context_of(args: argparse.Namespace, network: Network) -> EvaluationContext:
    """Load the index of the features that the flags select, for the evaluation of a network."""
    path, checkpoint, compute = network
    root, data_type = save_root(args.save_path), args.data_type or "vox2"
    with ranks.main_process_first():  # the other ranks read the index that it writes
        return load_context(path, checkpoint, root, compute, data_type, args.trim_silence)


Lists = tuple[Trials, dict[str, list[str]] | None]  # a trial list, and the utterances of each model with --enroll


def read_lists(path: Path, args: argparse.Namespace) -> Lists:
    """Read a trial list and, with --enroll, its models; UsageError for a list without labels if labels are needed.

    Repeated trials are scored repeatedly; a warning gives their number.
    """
    trials = read_trials(path, blind=True)
    if n_repeated := len(trials.enrol) - len(set(zip(*(trials if trials.labelled else trials[1:]), strict=True))):
        console.warn(f"{path}: {n_repeated:,} of the {len(trials.enrol):,} trials are repetitions; all are scored")
    if not trials.labelled and (args.calibrate or args.compare or not args.save_scores):
        raise UsageError(f"{path}: no labels; use it with --save_scores, and without --calibrate and --compare")
    return trials, read_enrolment(args.enroll) if args.enroll else None


def find_listed(context: EvaluationContext, lists: Lists) -> TrialSet:
    """Find the utterances of a trial list; warn of trials of an utterance with itself."""
    trial_set = find_trials(context.features, *lists)
    if n_same := trial_set.same_utterance.sum():
        console.warn(f"{n_same:,} of the trials compare an utterance with itself; their scores are 1 or nearly 1")
    return trial_set


def verify(
    context: EvaluationContext,
    trial_set: TrialSet,
    tests: Mapping[str, Segments],
    args: argparse.Namespace,
    publish: Callable[[dict], None],
    conditions: Conditions = UNDISTURBED,
) -> None:
    """Score n trials, print and `publish` their error rates, and carry out --compare, --calibrate and --save_scores.

    `tests` and `conditions` are as for `score_trials`. UserError if the trials do not support a calibration or it
    cannot be stored; the scores are reported and written nevertheless.
    """
    trials, features = trial_set.trials, context.features
    speakers = [features.speaker[rows] for rows in trial_set.sides]
    if args.calibrate and (n_seen := of_seen_speakers(trial_set.sides, features, context.unseen).sum()):
        raise UserError(f"--calibrate True: {n_seen:,} of the trials are of speakers that the network was trained on")
    wanted = [(length, snr, tests[length].seconds(features)) for length, snr in itertools.product(tests, conditions)]
    compared = read_compared(args.compare, trials, trial_set.enrol_seconds, wanted) if args.compare else []
    cohort = _cohort(context, args) if args.as_norm else None
    scores = score_trials(context, trial_set, tests, cohort, conditions)
    print(report.scored_line(features, trials, [trial_set.enrolled, *tests.values()]))
    scores, failure = with_llr(scores, trials.label, speakers, context, args)
    result = report.summarise(scores, trials.label, speakers, compared)
    for line in report.rate_lines(result):
        print(line)
    publish(result)
    if args.save_scores and ranks.is_first():
        names = np.array(features.speakers, object)
        write_scores(args.save_scores, trials, scores, [names[of_side] for of_side in speakers])
    if failure:
        raise failure


def _cohort(context: EvaluationContext, args: argparse.Namespace) -> Cohort:
    """Return the cohort of --as_norm, the training speakers, and print their number."""
    checkpoint = context.checkpoint
    data_type = checkpoint.data_type or args.data_type or "vox2"
    tree = save_root(args.save_path) / TREES[TRAINING_TREE[data_type]].feat
    index = type(context.features)
    cohort = load_cohort(context.encoder, tree, set(checkpoint.speakers), args.as_norm, context.compute, index)
    print(f"as-norm: the {cohort.size:,} nearest of {len(cohort.means):,} training speakers")
    return cohort


def with_llr(
    scores: list[Scores],
    labels: np.ndarray,
    speakers: Sequence[np.ndarray],
    context: EvaluationContext,
    args: argparse.Namespace,
) -> tuple[list[Scores], UserError | None]:
    """Return the scores, with LLRs if the checkpoint has a calibration, and print the ranges of the calibration.

    The calibration is read from the file next to the checkpoint. With --calibrate True it is fitted and written to this
    file, and the LLRs come from 2-fold cross-validation over speakers. `labels` and `speakers` are as for
    `scored_trials`. If the trials do not support a calibration, or it cannot be written, the error is also returned.
    """
    path, digest, failure = context.path, context.checkpoint.digest, None
    if args.calibrate:
        name, trials = save_root(args.save_path).resolve().name, scored_trials(scores, labels, speakers)
        try:
            ratios = np.split(split_half_llr(name, trials), len(scores))
            calibration = fit({name: trials})
        except UserError as error:
            return scores, error
        print(report.held_out_line(ratios))
        try:
            if ranks.is_first():
                save_calibration(path, digest, calibration)
        except UserError as error:
            failure = error
    else:
        stored = load_calibration(path, digest)
        if stored is None:
            return scores, None
        calibration, ratios = stored, [stored.llr(s.plain, s.enrol_seconds, s.test_seconds) for s in scores]
        if not args.trim_silence:
            console.warn(f"{calibration_path(path)}: fitted with trimmed silence; its LLRs need --trim_silence True")
    if not failure:
        print(report.calibration_line(calibration, calibration_path(path)))
    return [s._replace(llr=llr) for s, llr in zip(scores, ratios, strict=True)], failure
