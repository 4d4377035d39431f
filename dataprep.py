"""Get the data: VoxCeleb, or any other speech, as the tree of wavs that the other scripts read.

VoxCeleb, with a key from mm.kaist.ac.kr/datasets/voxceleb, from Hugging Face, or from any mirror:

    python dataprep.py --save_path DIR --download --source official --key KEY
    python dataprep.py --save_path DIR --download --source huggingface --parts vox1_test
    python dataprep.py --save_path DIR --download --source https://HOST/FOLDER --user NAME --password -
    python dataprep.py --save_path DIR --extract --convert

Speech without an account, one's own recordings, and synthetic voices to try everything on:

    python dataprep.py --save_path DIR --librispeech train-clean-5 dev-clean-2
    python dataprep.py --save_path DIR --musan --rirs  # noise and rooms, for train.py --augment
    python dataprep.py --save_path DIR --import_dir FOLDER --split test --make_trials 2000
    python dataprep.py --save_path DIR --import_list wav.scp --utt2spk utt2spk
    python dataprep.py --save_path DIR --demo

What is there, and what to do next:

    python dataprep.py --save_path DIR --check

Every step skips what is done, and continues where it stopped after an interruption of any kind.
"""

import argparse
import getpass
from pathlib import Path

from configure import TREES, save_root
from corpora import archives, check, convert, download, kaldi, openslr, recordings, sources, trial_lists, voxceleb
from system import console
from system.console import UsageError, UserError
from system.files import locked

NEEDS = {  # flag -> flags of which one or more must be given with it
    "jobs": ["download", "librispeech", "musan", "rirs"], "retries": ["download", "librispeech", "musan", "rirs"],
    "num_workers": ["convert", "librispeech", "import_dir", "import_list"],
    "seed": ["demo", "librispeech", "make_trials"], "parts": ["download", "extract", "check"],
    "source": ["download"], "key": ["download"], "user": ["download"], "password": ["download"],
    "parts_list": ["download", "extract", "check"], "zip_list": ["download", "extract", "check"],
    "delete_archives": ["extract", "librispeech", "musan", "rirs"],
    "openslr_url": ["librispeech", "musan", "rirs"], "speaker_from": ["import_dir"], "utt2spk": ["import_list"],
    **dict.fromkeys(("split", "channel", "trim_silence"), ["import_dir", "import_list"]),
}  # fmt: skip
ACTIONS = (
    "download trial_list librispeech musan rirs import_dir import_list extract demo convert make_trials check".split()
)
LOCK_NAME = ".dataprep.lock"  # held by the one run that may write below save_path
LIBRISPEECH_TRIALS = 10000  # of the list that is drawn, unless --make_trials says how many


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line; UsageError for flags that ask for nothing or mean nothing together."""
    parser = console.Parser(__doc__)
    parser.add_argument("--save_path", help="root of the data (default: METASR_SAVE_PATH, else configure.py)")
    parser.add_argument("--num_workers", type=console.integer(1), help="processes that decode (default: all cores)")
    parser.add_argument("--jobs", type=console.integer(1), default=4, help="files downloaded at once (4)")
    parser.add_argument("--retries", type=console.integer(0), default=8, help="of a dropped connection (8)")
    parser.add_argument("--seed", type=console.integer(0), default=100, help="of --demo and of trial lists (100)")
    add_voxceleb(parser)
    add_other_speech(parser)
    parser.add_argument("--check", action="store_true", help="tell what is there and what to do next")
    for flag, others in NEEDS.items():
        parser.needs(flag, *others)
    parser.works_if("key", lambda args: args.source != "huggingface", "with --source huggingface")
    parser.works_if("user", lambda args: args.source not in ("official", "huggingface"), "unless --source is a mirror")
    parser.works_if("user", lambda args: not args.key, "with --key")
    parser.needs("password", "user")
    parser.works_if("delete_m4a", lambda args: args.convert or not args.delete_m4a, "without --convert")
    args = parser.parse_args(argv)
    given = {name for name, value in vars(args).items() if value not in (None, False)}
    if not given.intersection(ACTIONS):
        raise UsageError(f"say what to do: {', '.join('--' + name for name in ACTIONS)} (--help describes them)")
    if args.make_trials and args.make_trials % 2:
        raise UsageError("--make_trials: an even number, half of the trials are targets")
    return args


def add_voxceleb(parser: console.Parser) -> None:
    """Add the flags about VoxCeleb's archives."""
    group = parser.add_argument_group("VoxCeleb")
    group.add_argument("--download", action="store_true", help="fetch archives and trial lists")
    group.add_argument("--source", help="official, huggingface (HF_TOKEN is used) or the address of a mirror")
    group.add_argument("--key", help="of the official source; or VOXCELEB_KEY; - asks for it")
    group.add_argument("--user", help="of a mirror")
    group.add_argument("--password", help="of a mirror; or VOXCELEB_PASSWORD; - asks for it")
    group.add_argument("--parts", choices=voxceleb.CHOICES, default="all", help="which archives (all)")
    group.add_argument("--parts_list", type=Path, metavar="FILE", help="lines 'NAME MD5' in place of VoxCeleb's")
    group.add_argument("--zip_list", type=Path, metavar="FILE", help="lines 'PART_GLOB ZIP MD5', likewise")
    group.add_argument("--trial_list", type=Path, metavar="FILE", help="copy a trial list to its place")
    group.add_argument("--extract", action="store_true", help="write the archives' files into the tree")
    group.add_argument("--delete_archives", action="store_true", help="remove archives once they are extracted")
    group.add_argument("--convert", action="store_true", help="write a wav beside every m4a")
    keep = group.add_mutually_exclusive_group()
    keep.add_argument("--delete_m4a", action="store_true", help="remove each m4a once its wav is written")
    keep.add_argument("--keep_m4a", dest="delete_m4a", action="store_false", default=False, help="keep them (default)")


def add_other_speech(parser: console.Parser) -> None:
    """Add the flags about speech that is not VoxCeleb's."""
    group = parser.add_argument_group("other speech")
    group.add_argument("--librispeech", nargs="+", choices=openslr.SUBSETS, metavar="SUBSET",
                       help=f"fetch and convert: {', '.join(openslr.SUBSETS)}")  # fmt: skip
    group.add_argument("--musan", action="store_true", help="fetch noise, music and voices for train.py --augment")
    group.add_argument("--rirs", action="store_true", help="fetch impulse responses of rooms for train.py --augment")
    group.add_argument("--openslr_url", "--librispeech_url", metavar="URL", help=f"a mirror of {openslr.BASE}")
    imported = group.add_mutually_exclusive_group()
    imported.add_argument("--import_dir", type=Path, metavar="FOLDER", help="convert a folder of recordings")
    imported.add_argument("--import_list", type=Path, metavar="WAV.SCP", help="convert what Kaldi's wav.scp lists")
    group.add_argument("--utt2spk", type=Path, metavar="FILE", help="who speaks (utt2spk beside --import_list)")
    group.add_argument("--split", choices=recordings.SPLITS, help="tree that an import fills (train)")
    group.add_argument("--speaker_from", metavar="DEPTH_OR_REGEX",
                       help="what in a recording's path names its speaker: the folder at a depth, or what a regular "
                            "expression matches, or its first group (1)")  # fmt: skip
    group.add_argument("--channel", type=console.integer(1), metavar="N",
                       help="take one channel, counted from 1, not the mean of all")  # fmt: skip
    group.add_argument("--trim_silence", type=console.boolean, default=False,
                       help="cut the silence at both ends and long pauses (False)")  # fmt: skip
    group.add_argument("--make_trials", type=console.integer(2), metavar="N", help="draw a trial list, half targets")
    group.add_argument("--demo", action="store_true", help="write the synthetic demo corpus")


def main(argv: list[str]) -> None:
    """Do what the flags ask; recordings that cannot be used fail the run, but at its end."""
    args = parse_args(argv)
    root, problems = save_root(args.save_path), []
    chosen = voxceleb.read_archives(args.parts, args.parts_list, args.zip_list)
    if any(getattr(args, action) for action in ACTIONS if action != "check"):
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / LOCK_NAME):
            problems = prepare(args, root, chosen)
    if args.check:
        given = {f"--{name}": getattr(args, name) for name in ("parts_list", "zip_list")}
        check.report(root, chosen, [word for flag, file in given.items() if file for word in (flag, str(file))])
    if problems:
        raise UserError("; ".join(problems))


def prepare(args: argparse.Namespace, root: Path, chosen: list[voxceleb.Archive]) -> list[str]:
    """Do what writes below `root`, in the order of the pipeline; return what to tell about unusable recordings."""
    problems: list[str] = []
    failures: list[convert.Failure] = []
    undecoded: list[str] = []
    noises = [name for name in openslr.NOISES if getattr(args, name)]
    for name in noises:
        openslr.lacks_noise(name, root)  # refuse a folder in its place before anything is fetched
    if args.download:
        download_voxceleb(args, root, chosen)
    if args.trial_list:
        trial_lists.adopt_list(args.trial_list, root)
    if args.extract:
        archives.extract_all(chosen, root, args.delete_archives)
    if args.demo:
        from corpora.demo import write_demo  # eSpeak NG is needed for nothing else

        write_demo(root, args.seed)
    if args.librispeech:
        failures += bring_librispeech(args, root)
        undecoded = convert.list_failures(root, failures)  # now: a later step may end the run
    for name in noises:
        openslr.bring_noise(name, root, args.openslr_url, args.delete_archives, args.jobs, args.retries)
    if args.import_dir or args.import_list:
        tree = root / TREES[recordings.SPLITS[args.split or "train"]].wav
        if args.import_dir:
            planned = recordings.plan_folder(args.import_dir, tree, args.speaker_from or "1")
        else:
            planned = kaldi.plan_list(args.import_list, args.utt2spk, tree)
        problems += recordings.import_files(planned, tree, root, args.num_workers, args.channel, args.trim_silence)
    if args.convert:
        failures += convert.convert_trees(root, args.delete_m4a, args.num_workers)
        undecoded = convert.list_failures(root, failures)
    if args.make_trials:
        trial_lists.make_trials(root, args.make_trials, args.seed)
    return problems + undecoded


def download_voxceleb(args: argparse.Namespace, root: Path, chosen: list[voxceleb.Archive]) -> None:
    """Fetch the parts that are not there, and the trial lists."""
    if args.source is None:
        raise UsageError("--download needs --source: official, huggingface or the address of a mirror")
    key, password = secret("--key", args.key), secret("--password", args.password)
    source = sources.voxceleb_source(args.source, key, args.user, password)
    for archive in chosen:
        archives.refuse_lost(root, archive.name, archive.tree)
    lacking = [a for a in chosen if not (archives.was_removed(root, a.name) or a.complete(root))]
    wanted = [download.with_md5(name, md5) for archive in lacking for name, md5 in archive.parts.items()]
    download.fetch(wanted, source, root, args.jobs, args.retries)
    print(f"{root}: {', '.join(archive.name for archive in chosen)} complete")
    if any(archive.tree.startswith("vox1") for archive in chosen):
        if args.source in ("official", "huggingface"):  # they serve the archives alone
            source = sources.Source(sources.TRIAL_LISTS, "get them elsewhere")
        trial_lists.fetch_lists(source, root, published=args.parts_list is None)


def bring_librispeech(args: argparse.Namespace, root: Path) -> list[convert.Failure]:
    """Fetch LibriSpeech subsets, convert them and draw a trial list over the evaluation speakers; return failures."""
    openslr.fetch_subsets(args.librispeech, root, args.openslr_url, args.jobs, args.retries)
    failures: list[convert.Failure] = []
    for subset in args.librispeech:
        failures += openslr.extract_subset(subset, root, args.delete_archives, args.num_workers)
    if not args.make_trials and not all(subset.startswith("train") for subset in args.librispeech):
        trial_lists.make_trials(root, LIBRISPEECH_TRIALS, args.seed)
    return failures


def secret(flag: str, value: str | None) -> str | None:
    """Return a flag's value, asked for without showing it where that is -."""
    return getpass.getpass(f"{flag} (not shown): ") if value == "-" else value


if __name__ == "__main__":
    console.run(main)
