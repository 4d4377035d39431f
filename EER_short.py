"""Verify speakers on short test utterances: whole enrolment, a random window of --test_length frames as the test.

    python EER_short.py --n_folder 0 --cp_num 100 --test_length 100
    python EER_short.py --checkpoint FILE --test_length 200 --seed 1 --json
    python EER_short.py --test_length 50 100 200 300 500 full --save_scores curve.csv
    python EER_short.py --test_length 200 --noise_snr clean 20 10 5 0 --reverb True
    python EER_short.py --test_length 50 100 200 300 500 full --calibrate True
    python EER_short.py --calibrate True --save_path DIR_A DIR_B --trials A.txt B.txt --noise_snr clean 20 10

Trials are 100 target and 100 non-target pairs for each VoxCeleb1 speaker (dev and test) that was not trained on. They
are drawn once, kept beside the checkpoint as short_trials_seedN.txt, and used again as long as the speakers and
utterances are the same. Each trial's test window starts at a random place of its own.
--noise_snr puts each trial's test side, not its enrolment, into babble of other speakers, or into the recordings of
--noise_dir; --reverb True into a room. Both are drawn from the seed and the trial's number, the same at every SNR.
With several lengths the enrolments are embedded once, the scores get a column `length`, and --json a list `lengths`;
in noise both also have the `snr`.
--calibrate True fits the log-likelihood ratio (LLR) that a score between so many seconds of speech stands for, and
keeps it as checkpoint_EEE.calibration.json: recognize.py decides by it, and later evaluations report how good it is.
Its own report is of held-out speakers: fitted on one half of them and measured on the other, both ways.
With several --save_path and as many --trials, the calibration is fitted on all of these development sets, each with the
same weight, and the report is of sets that were left out: each is measured by a calibration fitted on the other sets.
With --noise_snr or --reverb the fit has the tests in noise and the clean ones.
recognize.py decides on speech without pauses, so --calibrate True cuts them out of the utterances before windows are
taken; --trim_silence True does so without calibrating. A window that is longer than its utterance repeats it and counts
as many seconds as the utterance has.
"""

import argparse
import math
from pathlib import Path
from typing import NamedTuple

from command_line.evaluation import (
    Network,
    add_trial_arguments,
    check_trial_arguments,
    context_of,
    evaluation_parser,
    network_of,
    read_lists,
    set_name,
    verify,
)
from configure import FRAMES_PER_SECOND, save_root
from dataset.trials import Trials
from evaluation import report
from evaluation.calibration import calibration_path, fit, save_calibration
from evaluation.context import EvaluationContext, of_seen_speakers
from evaluation.embedding import MAX_FRAMES, Segments
from evaluation.noise import NoisyTests
from evaluation.score_file import CLEAN, DRY, FULL
from evaluation.short_trials import stored_short_trials, test_segments
from evaluation.speech import SpeechIndex
from evaluation.verification import UNDISTURBED, TrialSet, find_trials, score_trials, scored_trials
from feat_extract.noise_folder import check_recordings
from feat_extract.noise_sources import MAX_SNR, NoiseSources
from system import console, ranks
from system.console import UsageError


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line; `save_path` and `trials` become lists of equal length, a data set each."""
    parser = evaluation_parser(__doc__, several_roots=True)
    add = parser.add_argument
    add("--test_length", type=_length, nargs="+", default=[500], help="frames (10 ms) of a test window, or full (500)")
    add("--trials", type=Path, nargs="+", metavar="FILE", help="a trial list in place of the drawn one")
    add("--noise_snr", type=_snr, nargs="+", default=[], metavar="DB", help="of noise on the test side, or clean")
    add("--reverb", type=console.boolean, default=False, help="put the test side into a room (False)")
    add("--noise_dir", help="recordings of noise, such as MUSAN, or of music or speech (babble of other speakers)")
    add("--rir_dir", help="recorded room impulse responses for --reverb, such as RIRS_NOISES (computed rooms)")
    add_trial_arguments(parser)
    parser.needs("enroll", "trials")
    parser.works_if(
        "noise_dir", lambda args: any(snr is not None for snr in args.noise_snr), "without --noise_snr in dB"
    )
    parser.works_if("rir_dir", lambda args: args.reverb, "without --reverb True")
    for flag in ("enroll", "as_norm", "save_scores", "compare"):
        parser.works_if(flag, lambda args: len(args.save_path or [""]) == 1, "with several data roots")
    args = parser.parse_args(argv)
    check_trial_arguments(args)
    args.save_path, args.trials = args.save_path or [None], args.trials or [None]
    if len(args.save_path) > 1 and not args.calibrate:
        raise UsageError("--save_path: several data roots need --calibrate True; otherwise evaluate one after another")
    if len(args.trials) != len(args.save_path):
        raise UsageError(
            f"--trials: {len(list(filter(None, args.trials)))} lists for {len(args.save_path)} data roots; "
            "give one list for each root"
        )
    args.test_length, args.noise_snr = (list(dict.fromkeys(given)) for given in (args.test_length, args.noise_snr))
    return args


def _length(text: str) -> int | str:
    return FULL if text == FULL else console.integer(1, MAX_FRAMES)(text)


def _in_words(length: int | str) -> str:
    return "all frames" if isinstance(length, str) else f"{length} frames ({length / FRAMES_PER_SECOND:.2f} s)"


def _snr(text: str) -> float | None:
    if text == CLEAN:
        return None
    try:
        snr = float(text)
    except ValueError:
        snr = math.nan
    if not abs(snr) <= MAX_SNR:
        raise argparse.ArgumentTypeError(f"'{text}' is neither {CLEAN} nor a number from -{MAX_SNR} to {MAX_SNR}")
    return snr


def main(argv: list[str]) -> None:
    """Draw or read the trials, score them and print the error rates."""
    args = parse_args(argv)
    for folder in filter(None, (args.noise_dir, args.rir_dir)):
        check_recordings(Path(folder))
    with console.json_output(args.json) as publish:
        sets = [
            argparse.Namespace(**vars(args) | {"save_path": root, "trials": trials})
            for root, trials in zip(args.save_path, args.trials, strict=True)
        ]
        lists = [read_lists(of_set.trials, of_set) if of_set.trials else None for of_set in sets]
        network = network_of(args)
        if len(sets) > 1:
            publish(calibrate_on_sets(network, sets, lists))
            return
        context, trial_set, tests, conditions = prepare(network, sets[0], lists[0])
        verify(context, trial_set, tests, sets[0], publish, conditions)


class Prepared(NamedTuple):
    """What is scored on one data set."""

    context: EvaluationContext
    trial_set: TrialSet
    tests: dict[str, Segments]  # (n,) of each length
    conditions: dict[str, NoisyTests | None]  # as `score_trials` takes them


def prepare(
    network: Network, args: argparse.Namespace, lists: tuple[Trials, dict[str, list[str]] | None] | None
) -> Prepared:
    """Load a data set and find or draw its trials, and print what they are."""
    context = context_of(args, network)
    print(report.excluded_line(context.features, context.unseen))
    trials, models = lists or (_short_trials(context, args), None)
    trial_set = _of_unseen(find_trials(context.features, trials, models), context, args)
    tests = {str(n): test_segments(context.features, trial_set.test, n, args.seed) for n in args.test_length}
    print(f"test windows of {', '.join(map(_in_words, args.test_length))}")
    return Prepared(context, trial_set, tests, _conditions(context, trial_set, args))


def calibrate_on_sets(
    network: Network,
    sets: list[argparse.Namespace],
    lists: list[tuple[Trials, dict[str, list[str]] | None] | None],
) -> dict:
    """Fit a calibration to several development sets and write it; print and return the leave-one-set-out rates.

    Every set has a data root and a trial list of its own in `sets` and in `lists`.
    """
    names = [set_name(of_set.save_path) for of_set in sets]
    if len(set(names)) < len(names):  # several lists of one root, or roots of one name
        names = [f"{name}/{of_set.trials.stem}" for name, of_set in zip(names, sets, strict=True)]
    if len(set(names)) < len(names):
        raise UsageError("--save_path: two of the data sets have one name; rename a data root or a trial list")
    trials = {}
    for name, of_set, listed in zip(names, sets, lists, strict=True):
        print(f"set {name}")
        context, trial_set, tests, conditions = prepare(network, of_set, listed)
        scores = score_trials(context, trial_set, tests, conditions=conditions)
        print(report.scored_line(context.features, trial_set.trials, [trial_set.enrolled, *tests.values()]))
        speakers = [context.features.speaker[rows] for rows in trial_set.sides]
        trials[name] = scored_trials(scores, trial_set.trials.label, speakers)
    calibration, result = fit(trials), report.leave_one_set_out_rates(trials)
    if ranks.is_first():
        save_calibration(network.path, network.checkpoint.digest, calibration, result)
    print(report.calibration_line(calibration, calibration_path(network.path)))
    print(*report.leave_one_set_out_lines(result), sep="\n")
    return result


def _conditions(
    context: EvaluationContext, trial_set: TrialSet, args: argparse.Namespace
) -> dict[str, NoisyTests | None]:
    """Return the noise conditions of the tests, and print them; a calibration has the clean tests in any case."""
    if not (args.noise_snr or args.reverb):
        return dict(UNDISTURBED)
    features = context.features
    recorded = features.recorded if isinstance(features, SpeechIndex) else features
    sources = NoiseSources(save_root(args.save_path), recorded, args.noise_dir, args.rir_dir)
    snrs = args.noise_snr or [None]
    noisy = [NoisyTests(features, sources, trial_set.sides, snr, args.reverb, args.seed) for snr in snrs]
    conditions: dict[str, NoisyTests | None] = {tests.name: tests for tests in noisy}
    if args.calibrate:
        conditions[DRY if args.reverb else CLEAN] = None
    heard_in = [f"rooms ({args.rir_dir or 'computed'})"] if args.reverb else []
    if args.noise_snr:
        noise = f"{noisy[0].kind} of {args.noise_dir or 'other speakers'}"
        heard_in.append(f"{noise} at SNRs (dB) of {', '.join(conditions)}")
    print(f"test sides in {', '.join(heard_in)}")
    return conditions


def _short_trials(context: EvaluationContext, args: argparse.Namespace) -> Trials:
    """Return the paper's trials, kept beside the checkpoint, and say where."""
    kept = context.path.parent / f"short_trials_seed{args.seed}.txt"
    with ranks.main_process_first():
        trials = stored_short_trials(kept, context.features, context.unseen, args.seed)
    print(f"trials: {kept}")
    return trials


def _of_unseen(trial_set: TrialSet, context: EvaluationContext, args: argparse.Namespace) -> TrialSet:
    """Return the trials without speakers that were trained on, and say how many are left out."""
    seen = of_seen_speakers(trial_set.sides, context.features, context.unseen)
    if seen.any():
        print(f"{seen.sum():,} of {len(seen):,} trials are of speakers that were trained on and are left out")
    trial_set = trial_set.where(~seen)
    if trial_set.trials.labelled:
        trial_set.trials.checked(args.trials or context.path.parent)
    return trial_set


if __name__ == "__main__":
    console.run(main)
