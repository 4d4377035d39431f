"""What the command lines of the evaluators share: their flags, and the steps from trials to reported error rates."""

import argparse
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from command_line.checkpoint import add_checkpoint_arguments, find_checkpoint
from command_line.compute import add_compute_arguments, choose_compute
from configure import TRAINING_TREE, TREES, save_root
from dataset.trials import Trials, read_enrolment, read_trials
from evaluation import report
from evaluation.calibration import calibration_path, load_calibration, save_calibration
from evaluation.context import EvaluationContext, load_context, of_seen_speakers
from evaluation.embedding import Scores, Segments
from evaluation.noise import NoisyTests
from evaluation.normalisation import Cohort, load_cohort
from evaluation.score_file import read_compared, write_scores
from evaluation.verification import UNDISTURBED, TrialSet, add_llr, calibrate, score_trials
from model.checkpoint import Checkpoint
from system import console, ranks
from system.compute import Compute
from system.console import UsageError, UserError


def evaluation_parser(description: str | None, several_roots: bool = False) -> console.Parser:
    """Return a parser with the flags that all evaluators have; with `several_roots`, --save_path takes some."""
    common = console.Parser(description)
    add_checkpoint_arguments(common)
    add = common.add_argument
    add("--data_type", choices=sorted(TRAINING_TREE),
        help="training data of an official checkpoint (default: vox2)")  # fmt: skip
    add("--save_path", metavar="DIR", nargs="+" if several_roots else None,
        help="root of the data (default: METASR_SAVE_PATH, else configure.py)"
        + several_roots * "; several roots, with a list of --trials each, for --calibrate True")  # fmt: skip
    add("--seed", type=console.integer(0), default=100, help="random seed (default: 100)")
    add("--json", action="store_true", help="print the result as one line of JSON and all else to standard error")
    add_compute_arguments(common, precision="fp32")
    return common


def add_trial_arguments(common: console.Parser) -> None:
    """Add the flags of the two evaluators that score trials."""
    add = common.add_argument
    add("--enroll", type=Path, metavar="FILE",
        help="enrolment list, lines MODEL UTTERANCE...: the left sides of the trials are these models")  # fmt: skip
    add("--as_norm", type=console.integer(2), metavar="N",
        help="adaptive s-norm with the N nearest training speakers, in addition (default: none)")  # fmt: skip
    add("--save_scores", type=Path, metavar="FILE",
        help="CSV file to write: label, score, durations and speakers of each trial")  # fmt: skip
    add("--compare", type=Path, metavar="FILE",
        help="score file of another system on the same trials, for the difference of the EERs")  # fmt: skip
    add("--calibrate", type=console.boolean, default=False,
        help="fit log-likelihood ratios and write them next to the checkpoint (default: False)")  # fmt: skip
    add("--trim_silence", type=console.boolean,
        help="trim silence from utterances, as recognize.py does (default: False; True with --calibrate)")  # fmt: skip


def check_trial_arguments(args: argparse.Namespace) -> None:
    """Set --trim_silence if it is not given; UsageError for flags that contradict each other."""
    if args.calibrate and args.trim_silence is False:
        raise UsageError(
            "--calibrate True fits speech without pauses, as recognize.py decides; leave out --trim_silence"
        )
    if args.compare and args.save_scores and args.compare.resolve() == args.save_scores.resolve():
        raise UsageError(f"--save_scores {args.save_scores}: would replace the scores that --compare reads")
    args.trim_silence = bool(args.trim_silence or args.calibrate)


class Network(NamedTuple):
    """The checkpoint to evaluate and how to run it."""

    path: Path
    checkpoint: Checkpoint
    compute: Compute


def network_of(args: argparse.Namespace) -> Network:
    """Load the checkpoint that the flags name, and print which one it is."""
    compute = choose_compute(args)
    path, checkpoint = ranks.broadcast_object(lambda: find_checkpoint(args))  # a training may write a newer one
    if args.data_type and checkpoint.data_type not in ("", args.data_type):
        raise UsageError(f"--data_type {args.data_type}: {path} was trained on {checkpoint.data_type}; omit the flag")
    print(f"checkpoint: {path}, after epoch {checkpoint.epoch}, {checkpoint.backbone}")
    if args.trim_silence:
        print("pauses are cut out of the utterances, as recognize.py does")
    return Network(path, checkpoint, compute)


def context_of(args: argparse.Namespace, network: Network | None = None) -> EvaluationContext:
    """Load the checkpoint, unless `network` is given, and the index of features that the flags name."""
    path, checkpoint, compute = network or network_of(args)
    root, data_type = save_root(args.save_path), args.data_type or "vox2"
    with ranks.main_process_first():  # the other ranks read the index that the first one has written
        return load_context(path, checkpoint, root, compute, data_type, args.trim_silence)


def read_lists(path: Path, args: argparse.Namespace) -> tuple[Trials, dict[str, list[str]] | None]:
    """Read a trial list and, with --enroll, the models on its left side; a list without labels needs --save_scores.

    Repeated trials count each time; a warning gives their number.
    """
    trials = read_trials(path, blind=True)
    if n_repeated := len(trials.enrol) - len(set(zip(*(trials if trials.labelled else trials[1:]), strict=True))):
        console.warn(f"{path}: {n_repeated:,} of the {len(trials.enrol):,} trials are repetitions; each counts")
    if (args.calibrate or args.compare) and not trials.labelled:
        raise UsageError(f"{path}: its trials have no labels, so they calibrate and compare nothing")
    if not (trials.labelled or args.save_scores):
        raise UsageError(f"{path}: its trials have no labels, so no error rate; write the scores by --save_scores FILE")
    return trials, read_enrolment(args.enroll) if args.enroll else None


def verify(
    context: EvaluationContext,
    trial_set: TrialSet,
    tests: dict[str, Segments],
    args: argparse.Namespace,
    publish: Callable[[dict], None],
    conditions: Mapping[str, NoisyTests | None] = UNDISTURBED,
) -> None:
    """Score n trials, calibrate, summarise, write --save_scores, print; `publish` the result as --json names it.

    `tests` are the test segments (n,) of each length, by its name, and `conditions` those of `score_trials`. UserError
    if the trials do not support --calibrate; their scores are reported and written nevertheless.
    """
    if args.calibrate and (n_seen := of_seen_speakers(trial_set.sides, context.features, context.unseen).sum()):
        raise UserError(f"--calibrate True: {n_seen:,} of the trials are of speakers that the network was trained on")
    compared = _compared_scores(context, trial_set, tests, args, conditions)
    cohort = _cohort(context, args) if args.as_norm else None
    scores = score_trials(context, trial_set, tests, cohort, conditions)
    print(report.scored_line(context.features, trial_set.trials, [trial_set.enrolled, *tests.values()]))
    labels, speakers = trial_set.trials.label, [context.features.speaker[rows] for rows in trial_set.sides]
    failure = None
    try:
        scores = with_llr(scores, labels, speakers, context, set_name(args.save_path) if args.calibrate else "")
    except UserError as error:
        failure = error
    if trial_set.trials.labelled:
        result = report.summarise(scores, labels, speakers, compared)
        print(*report.rate_lines(result), sep="\n")
    else:
        result = {"n_trials": len(trial_set.test), "n_speakers": len(np.unique(speakers))}
    if args.save_scores and ranks.is_first():
        names = np.array(context.features.speakers, object)
        write_scores(args.save_scores, trial_set.trials, scores, [names[of_side] for of_side in speakers])
    publish(result)
    if failure:
        raise failure


def _compared_scores(
    context: EvaluationContext,
    trial_set: TrialSet,
    tests: dict[str, Segments],
    args: argparse.Namespace,
    conditions: Iterable[str],
) -> list[np.ndarray]:
    """Return the scores (n,) of --compare in each test, none without that flag."""
    if not args.compare:
        return []
    of_each = [
        (length, snr, tests[length].seconds(context.features)) for length, snr in itertools.product(tests, conditions)
    ]
    return read_compared(args.compare, trial_set.trials, trial_set.enrol_seconds, of_each)


def _cohort(context: EvaluationContext, args: argparse.Namespace) -> Cohort:
    """Return the cohort of --as_norm: speakers of the training data; print how many they are."""
    checkpoint = context.checkpoint
    data_type = checkpoint.data_type or args.data_type or "vox2"
    tree = save_root(args.save_path) / TREES[TRAINING_TREE[data_type]].feat
    index = type(context.features)
    cohort = load_cohort(context.encoder, tree, set(checkpoint.speakers), args.as_norm, context.compute, index)
    print(f"as-norm: the {cohort.size:,} nearest of {len(cohort.means):,} training speakers")
    return cohort


def set_name(root: str | None) -> str:
    """Return the name of a development set: the name of its data root."""
    return save_root(root).resolve().name


def with_llr(
    scores: list[Scores],
    labels: np.ndarray,
    speakers: Sequence[np.ndarray],
    context: EvaluationContext,
    calibrated_on: str,
) -> list[Scores]:
    """Return the scores with LLRs if there is a calibration, and print what it covers.

    The calibration is the file next to the checkpoint or, if `calibrated_on` names the development set that these
    trials are, is fitted here and written to that file. Labels and speakers are those of `calibrate`. UserError if the
    trials do not support a calibration.
    """
    path, digest = context.path, context.checkpoint.digest
    if calibrated_on:
        calibration, scores = calibrate(calibrated_on, scores, labels, speakers)
        if ranks.is_first():
            save_calibration(path, digest, calibration)
        print(report.held_out_line(scores))
    else:
        kept = load_calibration(path, digest)
        if kept is None:
            return scores
        calibration, scores = kept, add_llr(scores, kept)
    print(report.calibration_line(calibration, calibration_path(path)))
    return scores
