"""Download or import speech into the folders of wavs that the other scripts read.

    python dataprep.py --download --source huggingface --extract --convert
    python dataprep.py --librispeech train-clean-5 dev-clean-2
    python dataprep.py --import_dir FOLDER --split test --make_trials 2000

These commands prepare VoxCeleb, two subsets of LibriSpeech (460 MB, no account
needed), and your own recordings. --check prints which data is present and the
next command. All steps can be repeated: they skip what is complete and resume
after an interruption; an interrupted import starts again. docs/data.md
describes each step.
"""

import argparse
import getpass
from pathlib import Path

from configure import save_root
from corpora import archives, check, convert, download, imports, kaldi, openslr, servers, trial_lists, voxceleb
from system import console
from system.console import UsageError, UserError
from system.files import locked

NEEDS = {  # flag -> flags of which at least one must be given with it
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
LOCK_NAME = ".dataprep.lock"  # locked by the run that writes below save_path
LIBRISPEECH_TRIALS = 10000  # default of --make_trials for LibriSpeech


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line; UsageError if no step is requested or a flag has no effect."""
    parser = console.Parser(__doc__)
    add_voxceleb_flags(parser)
    add_openslr_flags(parser)
    add_import_flags(parser)
    add = parser.add_argument_group("trial list and demo").add_argument
    add("--make_trials", type=console.integer(2), metavar="N",
        help="number of trials to sample from the test speakers, half of them targets (default: none)")  # fmt: skip
    add("--trial_list", type=console.path, metavar="FILE", help="trial list to copy to SAVE_PATH (default: none)")
    add("--demo", action="store_true", help="write the synthetic corpus of make demo")
    add("--seed", type=console.integer(0), default=100, metavar="N",
        help="random seed of trial lists and --demo (default: 100)")  # fmt: skip
    add = parser.add_argument_group("output and hardware").add_argument
    add("--save_path", metavar="DIR", help="root of the data (default: $METASR_SAVE_PATH, else configure.py)")
    add("--check", action="store_true", help="print the state of the data and the next command")
    add("--num_workers", type=console.integer(1), metavar="N", help="decoding processes (default: all cores)")
    add("--jobs", type=console.integer(1), default=4, metavar="N", help="simultaneous downloads (default: 4)")
    add("--retries", type=console.integer(0), default=8, metavar="N",
        help="retries of a download without progress (default: 8)")  # fmt: skip
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
        raise UsageError(f"nothing to do; add {', '.join('--' + name for name in ACTIONS)} (--help describes them)")
    if args.make_trials and args.make_trials % 2:
        raise UsageError("--make_trials: not an even number; half of the trials are targets")
    return args


def add_voxceleb_flags(parser: console.Parser) -> None:
    """Add the flags about VoxCeleb's archives."""
    group = parser.add_argument_group("VoxCeleb")
    add = group.add_argument
    add("--download", action="store_true", help="download archives and trial lists from --source")
    add("--source", metavar="NAME", help="official, huggingface or a mirror's URL (required by --download)")
    add("--key", help="key of the official source or a mirror; - asks for it (default: VOXCELEB_KEY, official only)")
    add("--user", help="user name at a mirror (default: none)")
    add("--password", help="password at a mirror; - asks for it (default: VOXCELEB_PASSWORD)")
    add("--parts", choices=voxceleb.CHOICES, default="all", metavar="NAME",
        help=f"archives: {', '.join(voxceleb.CHOICES)} (default: all)")  # fmt: skip
    add(
        "--parts_list",
        type=console.path,
        metavar="FILE",
        help="files to download, lines 'NAME MD5' (default: VoxCeleb's)",
    )
    add(
        "--zip_list",
        type=console.path,
        metavar="FILE",
        help="zips in parts, lines 'PART_GLOB ZIP MD5' (default: VoxCeleb's)",
    )
    add("--extract", action="store_true", help="extract the archives into the wav trees")
    add("--delete_archives", action="store_true", help="remove each archive after its extraction")
    add("--convert", action="store_true", help="convert each m4a to a wav in the same folder")
    keep = group.add_mutually_exclusive_group()
    keep.add_argument("--delete_m4a", action="store_true", help="remove each m4a after its conversion")
    keep.add_argument("--keep_m4a", dest="delete_m4a", action="store_false", default=False,
                      help="keep the m4a files (default)")  # fmt: skip


def add_openslr_flags(parser: console.Parser) -> None:
    """Add the flags about the corpora of OpenSLR."""
    add = parser.add_argument_group("LibriSpeech and noise, from OpenSLR").add_argument
    add("--librispeech", nargs="+", choices=openslr.SUBSETS, metavar="SUBSET",
        help=f"subsets to prepare: {', '.join(openslr.SUBSETS)} (default: none)")  # fmt: skip
    add("--musan", action="store_true", help="download MUSAN: noise, music and speech for train.py --augment")
    add("--rirs", action="store_true", help="download RIRS_NOISES: room impulse responses for train.py --augment")
    add("--openslr_url", "--librispeech_url", metavar="URL", help=f"mirror (default: {openslr.BASE})")


def add_import_flags(parser: console.Parser) -> None:
    """Add the flags about imports of recordings."""
    group = parser.add_argument_group("import of your own recordings")
    add = group.add_argument
    imported = group.add_mutually_exclusive_group()
    imported.add_argument(
        "--import_dir", type=console.path, metavar="FOLDER", help="folder of recordings (default: none)"
    )
    imported.add_argument("--import_list", type=console.path, metavar="FILE", help="Kaldi's wav.scp (default: none)")
    add("--utt2spk", type=console.path, metavar="FILE", help="Kaldi's utt2spk (default: utt2spk next to --import_list)")
    add("--split", choices=imports.SPLITS, help="use of the imported recordings (default: train)")
    add("--speaker_from", metavar="RULE",
        help="depth of the folder that names the speaker, or a regular expression whose first group, or match, is the "
             "speaker (default: 1, the first folder below --import_dir)")  # fmt: skip
    add("--channel", type=console.integer(1), metavar="N", help="channel, counted from 1 (default: mean of all)")
    add("--trim_silence", type=console.boolean, default=False, metavar="BOOL",
        help="remove silence at both ends and long pauses (default: False)")  # fmt: skip


def main(argv: list[str]) -> None:
    """Run the requested steps; recordings that cannot be used are an error at the end."""
    args = parse_args(argv)
    root, problems = save_root(args.save_path), []
    refuse_overwriting(args, root)
    chosen = voxceleb.read_archives(args.parts, args.parts_list, args.zip_list)
    if any(getattr(args, action) for action in ACTIONS if action != "check"):
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / LOCK_NAME):
            problems = prepare(args, root, chosen)
    if args.check:
        given = {f"--{name}": getattr(args, name) for name in ("parts_list", "zip_list")}
        check.print_state(root, chosen, [word for flag, file in given.items() if file for word in (flag, str(file))])
    if problems:
        raise UserError("; ".join(problems))


def refuse_overwriting(args: argparse.Namespace, root: Path) -> None:
    """Raise UsageError if a list to read is one of the tables that a run writes below `root`."""
    written = [(root / name).resolve() for name in (convert.ERRORS_NAME, imports.REPORT_NAME)]
    for flag in ("parts_list", "zip_list", "import_list", "utt2spk", "trial_list"):
        if (path := getattr(args, flag)) and path.resolve() in written:
            raise UsageError(f"--{flag} {path}: dataprep.py writes this file; copy the list to another name")


def prepare(args: argparse.Namespace, root: Path, chosen: list[voxceleb.Archive]) -> list[str]:
    """Run the steps that write below `root`, in the order of the pipeline; return errors about unusable recordings."""
    problems: list[str] = []
    failures: list[convert.Failure] = []
    undecoded: list[str] = []
    noises = [name for name in openslr.NOISES if getattr(args, name)]
    for name in noises:
        openslr.lacks_noise(name, root)  # an incomplete folder is an error before any download
    if args.download:
        download_voxceleb(args, root, chosen)
    if args.trial_list:
        trial_lists.copy_list(args.trial_list, root)
    if args.extract:
        archives.extract_all(chosen, root, args.delete_archives)
    if args.demo:
        from corpora.demo import write_demo  # the only import of eSpeak NG

        write_demo(root, args.seed)
    if args.librispeech:
        failures += prepare_librispeech(args, root)
        undecoded = convert.list_failures(root, failures)  # before a later step aborts
    for name in noises:
        openslr.download_noise(name, root, args.openslr_url, args.delete_archives, args.jobs, args.retries)
    if args.import_dir or args.import_list:
        split = args.split or "train"
        tree = imports.tree_of(root, split)
        if args.import_dir:
            planned = imports.plan_folder(args.import_dir, tree, args.speaker_from or "1")
        else:
            planned = kaldi.plan_list(args.import_list, args.utt2spk, tree)
        problems += imports.import_files(planned, split, root, args.num_workers, args.channel, args.trim_silence)
    if args.convert:
        failures += convert.convert_trees(root, args.delete_m4a, args.num_workers)
        undecoded = convert.list_failures(root, failures)
    if args.make_trials:
        trial_lists.make_trials(root, args.make_trials, args.seed)
    return problems + undecoded


def download_voxceleb(args: argparse.Namespace, root: Path, chosen: list[voxceleb.Archive]) -> None:
    """Download the parts that are missing, and the trial lists."""
    if args.source is None:
        raise UsageError("--download needs --source: official, huggingface or the address of a mirror")
    key, password = secret("--key", args.key), secret("--password", args.password)
    server = servers.voxceleb_server(args.source, key, args.user, password)
    for archive in chosen:
        archives.refuse_lost(root, archive.name, archive.tree)
    lacking = [a for a in chosen if not (archives.has_marker(root, a.name) or a.complete(root))]
    downloads = [download.with_md5(name, md5) for archive in lacking for name, md5 in archive.parts.items()]
    download.download_files(downloads, server, root, args.jobs, args.retries)
    print(f"{root}: {', '.join(archive.name for archive in chosen)} complete")
    if any(archive.tree.startswith("vox1") for archive in chosen):
        if args.source in ("official", "huggingface"):  # which have no trial lists
            server = servers.Server(servers.TRIAL_LISTS, "get them from another server")
        trial_lists.download_lists(server, root, published=args.parts_list is None)


def prepare_librispeech(args: argparse.Namespace, root: Path) -> list[convert.Failure]:
    """Download and convert LibriSpeech subsets, and sample a trial list over the test speakers; return failures."""
    openslr.download_subsets(args.librispeech, root, args.openslr_url, args.jobs, args.retries)
    failures: list[convert.Failure] = []
    for subset in args.librispeech:
        failures += openslr.extract_subset(subset, root, args.delete_archives, args.num_workers)
    if not args.make_trials and not all(subset.startswith("train") for subset in args.librispeech):
        trial_lists.make_trials(root, LIBRISPEECH_TRIALS, args.seed)
    return failures


def secret(flag: str, value: str | None) -> str | None:
    """Return the value of a flag, typed in without echo if it is -."""
    return getpass.getpass(f"{flag} (not shown): ") if value == "-" else value


if __name__ == "__main__":
    console.run(main)
