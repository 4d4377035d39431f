"""What is there under a save_path, what is missing, and the next command to run."""

from pathlib import Path

from configure import TRAINING_TREE, TREES, TRIALS_NAME, Tree
from corpora.archives import find_missing, is_spent, open_zip, refuse_lost
from corpora.convert import pending
from corpora.sources import BAD_SUFFIX, PARTIAL_SUFFIX
from corpora.voxceleb import COUNTS, TRIAL_LISTS, Archive
from dataset.trials import read_trials
from system.console import UserError
from system.files import utterances

DOWNLOAD, EXTRACT, CONVERT = ("dataprep.py --save_path {} " + flag for flag in ("--download", "--extract", "--convert"))
MAKE_TRIALS = "dataprep.py --save_path {} --make_trials 10000"
FEATURES, TRAIN = "feat_extract/feature_extraction.py --save_path {}", "train.py --save_path {}"
State = tuple[str, str, str | None]  # a thing under save_path, its state in words, the command that it needs


def report(root: Path, archives: list[Archive]) -> None:
    """Print the state of the archives, the trees and the trial lists below `root`, and the next command."""
    groups = {
        "archives": [check_archive(archive, root) for archive in archives],
        "recordings (of those that VoxCeleb published)": [check_tree(name, TREES[name], root) for name in TREES],
        "trial lists": [check_list(saved, count, root) for _, saved, count in TRIAL_LISTS],
    }
    for title, states in groups.items():
        print(title)
        for name, words, _ in states:
            print(f"  {name:28}{words}")
    needed = {command for states in groups.values() for *_, command in states}
    order = (DOWNLOAD, EXTRACT, CONVERT, FEATURES, MAKE_TRIALS, TRAIN)
    command = next((command for command in order if command in needed), DOWNLOAD)
    print(f"next: python {command.format(root)}")
    if command is DOWNLOAD:
        print("  (with --source, and --parts for less than all; without an account: --librispeech, see --help)")


def check_archive(archive: Archive, root: Path) -> State:
    """Tell which parts of an archive are there and whether its members are in the tree."""
    if is_spent(root, archive.name):
        try:
            refuse_lost(root, archive.name, archive.tree)
        except UserError as error:
            return archive.name, str(error).removeprefix(f"{archive.name}: "), None
        return archive.name, "extracted and removed", None
    if not archive.complete(root):
        here = sum((root / part).exists() for part in archive.parts)
        partial, bad = (
            sum((root / (part + suffix)).exists() for part in archive.parts) for suffix in (PARTIAL_SUFFIX, BAD_SUFFIX)
        )
        words = f"{here} of {len(archive.parts)} parts"
        words += f", {partial} unfinished" * bool(partial) + f", {bad} wrong" * bool(bad)
        return archive.name, words, DOWNLOAD if here or partial or bad else None
    try:
        with open_zip(archive, root) as (*_, places):
            missing = len(find_missing(places))
    except UserError as error:
        return archive.name, str(error), EXTRACT
    if missing:
        return archive.name, f"complete, {missing:,} files to extract", EXTRACT
    return archive.name, "complete, extracted", None


def check_tree(name: str, tree: Tree, root: Path) -> State:
    """Count the speakers, wavs, unconverted m4a files and features of one part."""
    wavs, features = utterances(root / tree.wav, ".wav"), utterances(root / tree.feat, ".pkl")
    speakers = len({utterance.partition("/")[0] for utterance in wavs})
    all_speakers, all_wavs = COUNTS[name]
    words = f"{len(wavs):,} of {all_wavs:,} wavs, {speakers:,} of {all_speakers:,} speakers"
    to_convert = sum(1 for _ in pending([root / tree.wav], delete=False))
    words += f", {to_convert:,} m4a to convert" * bool(to_convert) + f", {len(features):,} features"
    if to_convert:
        return tree.wav, words, CONVERT
    if len(wavs) > len(features):
        return tree.wav, words, FEATURES
    return tree.wav, words, TRAIN if features and name in TRAINING_TREE.values() else None


def check_list(name: str, published: int, root: Path) -> State:
    """Tell whether a trial list is there, has the right form and VoxCeleb's length."""
    path = root / name
    if not path.exists():
        lacking = name == TRIALS_NAME and any(utterances(root / TREES["vox1_test"].wav, ".wav"))
        return name, "not there", MAKE_TRIALS if lacking else None
    try:
        found = len(read_trials(path).label)
    except UserError as error:
        return name, str(error), None
    return name, f"{found:,} trials" + f" (VoxCeleb's own: {published:,})" * (found != published), None
