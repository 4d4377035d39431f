"""The flags of train.py that choose the augmentation of training crops."""

from argparse import ArgumentTypeError, Namespace
from functools import partial
from pathlib import Path

from feat_extract.augmentation import KINDS, Augmentation
from feat_extract.noise_folder import check_recordings
from feat_extract.noise_sources import MAX_SNR
from system.console import Parser, UsageError, positive

SNR_FLAGS = ("--noise_snr", "--music_snr", "--babble_snr")
USED_BY = {  # flag -> the kinds of which at least one must be chosen with it
    "augment_prob": {"noise", "reverb", "babble"}, "noise_snr": {"noise"}, "music_snr": {"noise"},
    "babble_snr": {"babble"}, "noise_dir": {"noise", "babble"}, "rir_dir": {"reverb"},
}  # fmt: skip


def add_augmentation_arguments(parser: Parser) -> None:
    """Add the flags of augmentation."""
    add, default = parser.add_argument_group("augmentation").add_argument, Augmentation()
    add("--augment", type=_kinds, default=[], metavar="KINDS",
        help=f"augmentation of training crops, any of {','.join(KINDS)} (default: none)")  # fmt: skip
    add("--augment_prob", type=positive, default=default.prob, metavar="P",
        help=f"probability of noise, music, babble or reverb in a crop (default: {default.prob})")  # fmt: skip
    for flag in SNR_FLAGS:
        low, high = getattr(default, flag[2:])
        add(flag, type=float, nargs=2, default=[low, high], metavar=("MIN", "MAX"),
            help=f"signal-to-noise ratio of {flag[2:-4]} in dB (default: {low:g} {high:g})")  # fmt: skip
    add("--noise_dir", metavar="DIR",
        help="folder of noise, music and speech, such as MUSAN (default: synthetic noise)")  # fmt: skip
    add("--rir_dir", metavar="DIR",
        help="folder of room impulse responses, such as RIRS_NOISES (default: synthetic reverberation)")  # fmt: skip
    for flag, kinds in USED_BY.items():
        parser.works_if(flag, partial(_chooses, kinds), f"without --augment {' or '.join(sorted(kinds))}")
    parser.works_if("music_snr", lambda args: args.noise_dir, "without --noise_dir")


def choose_augmentation(args: Namespace) -> Augmentation:
    """Return the augmentation that the flags choose.

    UsageError for values out of range, UserError for a folder without recordings.
    """
    if args.augment_prob > 1:
        raise UsageError(f"--augment_prob {args.augment_prob:g}: a probability, so at most 1")
    for flag in SNR_FLAGS:
        low, high = getattr(args, flag[2:])
        if not -MAX_SNR <= low <= high <= MAX_SNR:
            raise UsageError(f"{flag} {low:g} {high:g}: give minimum and maximum, from -{MAX_SNR} to {MAX_SNR} dB")
    for folder in filter(None, (args.noise_dir, args.rir_dir)):
        check_recordings(Path(folder))
    noise_snr, music_snr, babble_snr = (tuple(getattr(args, flag[2:])) for flag in SNR_FLAGS)
    return Augmentation(
        tuple(args.augment), args.augment_prob, noise_snr, music_snr, babble_snr, args.noise_dir, args.rir_dir
    )


def _chooses(kinds: set[str], args: Namespace) -> bool:
    return not kinds.isdisjoint(args.augment)


def _kinds(text: str) -> list[str]:
    """Read kinds with commas between them."""
    given = text.split(",")
    if unknown := set(given) - set(KINDS):
        raise ArgumentTypeError(f"'{min(unknown)}' is none of {', '.join(KINDS)}")
    return [kind for kind in KINDS if kind in given]
