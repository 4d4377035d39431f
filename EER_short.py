"""Verify speakers on short test utterances: whole enrolment, a random window of --test_length frames as the test.

    python EER_short.py --n_folder 0 --cp_num 100 --test_length 100
    python EER_short.py --checkpoint FILE --test_length 200 --seed 1 --json
    python EER_short.py --test_length 50 100 200 300 500 full --save_scores curve.csv
    python EER_short.py --test_length 200 --noise_snr clean 20 10 5 0 --reverb True
    python EER_short.py --test_length 50 100 200 300 500 full --calibrate True

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
recognize.py decides on speech without pauses, so --calibrate True cuts them out of the utterances before windows are
taken; --trim_silence True does so without calibrating. A window that is longer than its utterance repeats it and counts
as many seconds as the utterance has.
"""

import argparse
import math
from pathlib import Path

from command_line.evaluation import (
    add_trial_arguments,
    check_trial_arguments,
    context_of,
    evaluation_parser,
    read_lists,
    verify,
)
from configure import FRAMES_PER_SECOND, save_root
from dataset.trials import Trials
from evaluation import report
from evaluation.context import EvaluationContext, of_seen_speakers
from evaluation.embedding import MAX_FRAMES
from evaluation.noise import NoisyTests
from evaluation.score_file import CLEAN, FULL
from evaluation.short_trials import stored_short_trials, test_segments
from evaluation.verification import TrialSet, find_trials
from feat_extract.disturbance import MAX_SNR, Sources
from feat_extract.noise_folder import check_recordings
from system import console, ranks
from system.console import UsageError


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = evaluation_parser(__doc__)
    add = parser.add_argument
    add("--test_length", type=_length, nargs="+", default=[500], help="frames (10 ms) of a test window, or full (500)")
    add("--trials", type=Path, metavar="FILE", help="a trial list in place of the drawn one")
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
    args = parser.parse_args(argv)
    check_trial_arguments(args)
    args.test_length, args.noise_snr = (list(dict.fromkeys(given)) for given in (args.test_length, args.noise_snr))
    if args.calibrate and (args.noise_snr or args.reverb):
        raise UsageError("--calibrate True fits clean tests; leave out --noise_snr and --reverb")
    if args.trim_silence and (args.noise_snr or args.reverb):
        raise UsageError("--trim_silence True cuts clean utterances; leave out --noise_snr and --reverb")
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
        lists = read_lists(args.trials, args) if args.trials else None
        context = context_of(args)
        print(report.excluded_line(context.features, context.unseen))
        trials, models = lists or (_short_trials(context, args), None)
        trial_set = _of_unseen(find_trials(context.features, trials, models), context, args)
        tests = {str(n): test_segments(context.features, trial_set.test, n, args.seed) for n in args.test_length}
        print(f"test windows of {', '.join(map(_in_words, args.test_length))}")
        verify(context, trial_set, tests, args, publish, _noisy_tests(context, trial_set, args))


def _noisy_tests(context: EvaluationContext, trial_set: TrialSet, args: argparse.Namespace) -> list[NoisyTests]:
    """Return what the test sides are heard in, and say it; nothing if they stay as they are."""
    if not (args.noise_snr or args.reverb):
        return []
    sources = Sources(save_root(args.save_path), context.features, args.noise_dir, args.rir_dir)
    snrs = args.noise_snr or [None]
    noisy = [NoisyTests(context.features, sources, trial_set.sides, snr, args.reverb, args.seed) for snr in snrs]
    heard_in = [f"rooms ({args.rir_dir or 'computed'})"] if args.reverb else []
    if args.noise_snr:
        noise = f"{noisy[0].kind} of {args.noise_dir or 'other speakers'}"
        heard_in.append(f"{noise} at SNRs (dB) of {', '.join(tests.name for tests in noisy)}")
    print(f"test sides in {', '.join(heard_in)}")
    return noisy


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
