"""Measure the EER on short tests: full enrolment utterances against random test
windows of --test_length frames.

    python EER_short.py --n_folder 0 --cp_num 100 --test_length 100 200 full
    python EER_short.py --test_length 200 --noise_snr clean 20 10 5 0
    python EER_short.py --test_length 50 100 200 300 500 full --calibrate True

By default there are 100 target and 100 non-target trials of each VoxCeleb1
speaker that was not in the training. They are sampled once and stored next to
the checkpoint. The third command fits the calibration that recognize.py uses.
docs/evaluation.md explains the flags and the output.
"""

import argparse
import itertools
import math
from collections.abc import Callable
from pathlib import Path

from command_line.evaluation import (
    Lists,
    Network,
    add_trial_arguments,
    check_trial_arguments,
    context_of,
    evaluation_parser,
    find_listed,
    load_network,
    read_lists,
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
from evaluation.verification import UNDISTURBED, Conditions, TrialSet, score_trials, scored_trials
from feat_extract.noise_folder import check_recordings
from feat_extract.noise_sources import MAX_SNR, NoiseSources
from system import console, ranks
from system.console import UsageError


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line; `save_path` and `trials` become lists of equal length."""
    parser = evaluation_parser(__doc__, several_roots=True)
    parser.add_argument_group("data").add_argument("--trials", type=Path, nargs="+", metavar="FILE",
        help="trial list (default: 200 trials per speaker, stored next to the checkpoint)")  # fmt: skip
    add = parser.add_argument_group("scoring").add_argument
    add("--test_length", type=_length, nargs="+", default=[500], metavar="N",
        help='test window length in frames of 10 ms, or "full" (default: 500)')  # fmt: skip
    add("--noise_snr", type=_snr, nargs="+", default=[], metavar="DB",
        help='signal-to-noise ratio of the test segments in dB, or "clean" (default: clean)')  # fmt: skip
    add("--reverb", type=console.boolean, default=False, metavar="BOOL",
        help="reverberation of the test segments (default: False)")  # fmt: skip
    add("--noise_dir", metavar="DIR",
        help="folder such as MUSAN: noise, music or speech (default: babble of other speakers)")  # fmt: skip
    add("--rir_dir", metavar="DIR", help="folder of room impulse responses (default: computed ones)")
    add_trial_arguments(parser)
    parser.needs("enroll", "trials")
    parser.works_if(
        "noise_dir", lambda args: any(snr is not None for snr in args.noise_snr), "without --noise_snr in dB"
    )
    parser.works_if("rir_dir", lambda args: args.reverb, "without --reverb True")
    for flag in ("enroll", "as_norm", "save_scores", "compare"):
        parser.works_if(flag, lambda args: len(args.save_path or [""]) == 1, "with several data roots")
    args = parser.parse_args(argv)
    check_trial_arguments(args, *args.trials or ())
    args.save_path, args.trials = args.save_path or [None], args.trials or [None]
    if len(args.save_path) > 1 and not args.calibrate:
        raise UsageError("--save_path: several data roots need --calibrate True; evaluate one root at a time instead")
    if len(args.trials) != len(args.save_path):
        n_lists = sum(path is not None for path in args.trials)
        raise UsageError(f"--trials: {n_lists} lists for {len(args.save_path)} data roots; give one list for each root")
    args.test_length, args.noise_snr = (list(dict.fromkeys(given)) for given in (args.test_length, args.noise_snr))
    return args


def _length(text: str) -> int | str:
    return FULL if text == FULL else console.integer(1, MAX_FRAMES)(text)


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
    """Sample or read the trials, score them and print the error rates."""
    args = parse_args(argv)
    for folder in filter(None, (args.noise_dir, args.rir_dir)):
        check_recordings(Path(folder))
    with console.json_output(args.json) as publish:
        pairs = zip(args.save_path, args.trials, strict=True)
        sets = [argparse.Namespace(**vars(args) | {"save_path": root, "trials": trials}) for root, trials in pairs]
        lists = [read_lists(of_set.trials, of_set) if of_set.trials else None for of_set in sets]
        network = load_network(args)
        if len(sets) > 1:
            calibrate_on_sets(network, sets, lists, publish)
        else:
            context, trial_set, tests, conditions = prepare(network, sets[0], lists[0])
            verify(context, trial_set, tests, sets[0], publish, conditions)


def prepare(
    network: Network, args: argparse.Namespace, lists: Lists | None
) -> tuple[EvaluationContext, TrialSet, dict[str, Segments], Conditions]:
    """Load a data root, find or sample its trials and print the test conditions; return the arguments of `verify`."""
    context = context_of(args, network)
    features = context.features
    print(report.excluded_line(features, context.unseen))
    trial_set = find_listed(context, lists or (_short_trials(context, args.seed), None))
    seen = of_seen_speakers(trial_set.sides, features, context.unseen)
    if seen.any():
        print(f"{seen.sum():,} of {len(seen):,} trials are of training speakers and are excluded")
    trial_set = trial_set.where(~seen)
    if trial_set.trials.labelled:
        trial_set.trials.checked(args.trials or context.path.parent)
    tests = {str(n): test_segments(features, trial_set.test, n, args.seed) for n in args.test_length}
    lengths = (FULL if n == FULL else f"{n} frames ({n / FRAMES_PER_SECOND:.2f} s)" for n in args.test_length)
    print(f"test windows of {', '.join(lengths)}")
    return context, trial_set, tests, _conditions(context, trial_set, args)


def calibrate_on_sets(
    network: Network, sets: list[argparse.Namespace], lists: list[Lists | None], publish: Callable[[dict], None]
) -> None:
    """Fit a calibration of several development sets, print and `publish` leave-one-set-out error rates, and store it.

    Each of `sets` has the flags of one set: its data root as `save_path`, its trial list as `trials`. UsageError if two
    sets share speakers: the shared speakers would count twice, and a set would be measured with a fit on its speakers.
    """
    names = [save_root(of_set.save_path).resolve().name for of_set in sets]
    if len(set(names)) < len(names):  # the same root with several lists, or roots of equal names
        names = [f"{name}/{of_set.trials.stem}" for name, of_set in zip(names, sets, strict=True)]
    if len(set(names)) < len(names):
        raise UsageError("--save_path: two data sets have the same name; rename a data root or a trial list")
    prepared = {}
    for name, of_set, listed in zip(names, sets, lists, strict=True):
        print(f"set {name}")
        prepared[name] = prepare(network, of_set, listed)
    speakers_of = {name: trial_set.speakers(context.features) for name, (context, trial_set, *_) in prepared.items()}
    for one, other in itertools.combinations(names, 2):
        if shared := speakers_of[one] & speakers_of[other]:
            raise UsageError(
                f"--trials: {len(shared):,} speakers, such as {min(shared)}, are in both sets {one} and {other}; join "
                "their lists, or give different speakers different names"
            )
    trials = {}
    for name, (context, trial_set, tests, conditions) in prepared.items():
        print(f"set {name}")
        scores = score_trials(context, trial_set, tests, conditions=conditions)
        print(report.scored_line(context.features, trial_set.trials, [trial_set.enrolled, *tests.values()]))
        speakers = [context.features.speaker[rows] for rows in trial_set.sides]
        trials[name] = scored_trials(scores, trial_set.trials.label, speakers)
    calibration, result = fit(trials), report.leave_one_set_out_rates(trials)
    print(*report.leave_one_set_out_lines(result), sep="\n")
    publish(result)
    if ranks.is_first():
        save_calibration(context.path, context.checkpoint.digest, calibration, result)
    print(report.calibration_line(calibration, calibration_path(context.path)))


def _conditions(context: EvaluationContext, trial_set: TrialSet, args: argparse.Namespace) -> Conditions:
    """Return the noise conditions of the tests, and print them; a calibration always includes the undisturbed tests."""
    if not (args.noise_snr or args.reverb):
        return UNDISTURBED
    features = context.features
    recorded = features.recorded if isinstance(features, SpeechIndex) else features
    sources = NoiseSources(save_root(args.save_path), recorded, args.noise_dir, args.rir_dir)
    snrs = args.noise_snr or [None]
    noisy = [NoisyTests(features, sources, trial_set.sides, snr, args.reverb, args.seed) for snr in snrs]
    conditions: dict[str, NoisyTests | None] = {tests.name: tests for tests in noisy}
    if args.calibrate:
        conditions[DRY if args.reverb else CLEAN] = None
    words = [f"reverberation ({args.rir_dir or 'computed'})"] if args.reverb else []
    if any(snr is not None for snr in snrs):
        words.append(f"{noisy[0].kind} of {args.noise_dir or 'other speakers'}")
    print(f"tests in {' and '.join(words) or 'no noise'}; SNRs (dB): {', '.join(conditions)}")
    return conditions


def _short_trials(context: EvaluationContext, seed: int) -> Trials:
    """Return the trials of the paper's test, stored next to the checkpoint, and print their path."""
    path = context.path.parent / f"short_trials_seed{seed}.txt"
    with ranks.main_process_first():
        trials = stored_short_trials(path, context.features, context.unseen, seed)
    print(f"trials: {path}")
    return trials


if __name__ == "__main__":
    console.run(main, with_ranks=True)
