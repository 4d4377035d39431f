"""What data is in a save_path, what is missing, and the next command to run."""

import csv
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from configure import TRAINING_TREE, TREES, TRIALS_NAME, Tree
from corpora import convert, openslr
from corpora.archives import find_missing, open_zip, refuse_lost, was_removed
from corpora.servers import BAD_SUFFIX, PARTIAL_SUFFIX
from corpora.voxceleb import CHOICES, COUNTS, TRIAL_LISTS, Archive
from dataset.trial_sampling import max_trials
from dataset.trials import read_trials
from feat_extract.feature_extraction import ERRORS_NAME as FEATURE_ERRORS
from system.console import UserError
from system.files import read_lines, utterances, walk

DOWNLOAD, OPENSLR, EXTRACT, CONVERT, FEATURES, TRIALS, TRAIN, EVALUATE, ADD = range(9)  # in this order
MODEL = "pretrained/open_speech.pth"  # is evaluated where there is nothing to train on
N_TRIALS = 10_000  # of a new list, fewer if the recordings do not give as many
N_WAY, N_PER_SPEAKER = 100, 3  # train.py's defaults: speakers of an episode, and utterances of each


class Step(NamedTuple):
    """A command that the data needs."""

    order: int  # the lowest one is next
    script: str
    flags: str = ""


class State(NamedTuple):
    """The state of one thing in save_path."""

    name: str
    words: str
    step: Step | None = None


def report(root: Path, archives: Sequence[Archive], lists: Sequence[str] = ()) -> None:
    """Print the state of the archives, the trees and the trial lists in `root`, and the next command.

    `lists` are the flags that name the lists of archives which are not VoxCeleb's.
    """
    groups = {
        "archives": [check_archive(archive, root) for archive in archives],
        "archives of OpenSLR": list(check_openslr(root)),
        "recordings (of those that VoxCeleb published)": [check_tree(name, TREES[name], root) for name in TREES],
        "trial lists": [check_list(saved, count, root) for _, saved, count in TRIAL_LISTS],
    }
    for title, states in groups.items():
        if states:
            print(title)
        for state in states:
            print(f"  {state.name:28}{state.words}")
    steps = [state.step for states in groups.values() for state in states if state.step]
    step = min(steps, key=lambda step: step.order, default=Step(DOWNLOAD, "dataprep.py", "--download"))
    flags = ["--save_path", shlex.quote(str(root)), step.flags]
    if step.order in (DOWNLOAD, EXTRACT):
        flags.append(shlex.join(lists))
    print(f"next: python {' '.join([step.script, *filter(None, flags)])}")
    if step.order == DOWNLOAD:
        print("  (with --source, and --parts for less than all; without an account: --librispeech, see --help)")


def check_archive(archive: Archive, root: Path) -> State:
    """Return which parts of an archive are there and whether its members are in the tree."""
    if was_removed(root, archive.name):
        return State(archive.name, _removed(root, archive.name, archive.tree))
    if not archive.complete(root):
        complete, partial, bad = (
            sum((root / (part + suffix)).exists() for part in archive.parts)
            for suffix in ("", PARTIAL_SUFFIX, BAD_SUFFIX)
        )
        words = f"{complete} of {len(archive.parts)} parts"
        words += f", {partial} unfinished" * bool(partial) + f", {bad} wrong" * bool(bad)
        parts = next(choice for choice in reversed(CHOICES) if archive.tree.startswith(choice))
        step = Step(DOWNLOAD, "dataprep.py", f"--download --parts {parts}")
        return State(archive.name, words, step if complete or partial or bad else None)
    extract = Step(EXTRACT, "dataprep.py", "--extract")
    try:
        with open_zip(archive, root) as (*_, places):
            missing = len(find_missing(places))
    except UserError as error:
        return State(archive.name, str(error), extract)
    if missing:
        return State(archive.name, f"complete, {missing:,} files to extract", extract)
    return State(archive.name, "complete, extracted")


def _removed(root: Path, name: str, tree: str) -> str:
    """Return the state of an archive that was extracted and removed: what its tree has lost, if anything."""
    try:
        refuse_lost(root, name, tree)
    except UserError as error:
        return str(error).removeprefix(f"{name}: ")
    return "extracted and removed"


def check_openslr(root: Path) -> Iterator[State]:
    """Yield the states of the archives of OpenSLR, those alone that were fetched or are being fetched."""
    for subset in openslr.SUBSETS:
        part = openslr.part_of(subset)
        archive, wavs = f"{subset}.tar.gz", root / TREES[part].wav
        if was_removed(root, archive):
            yield State(archive, _removed(root, archive, part))
        else:
            extracted = any(True for folder in walk(wavs) for _ in folder.having(".wav"))
            yield from _fetched(root, archive, f"--librispeech {subset}", extracted)
    for name, noise in openslr.NOISES.items():
        yield from _fetched(root, noise.archive, f"--{name}", os.path.lexists(root / noise.folder))


def _fetched(root: Path, archive: str, flag: str, extracted: bool) -> Iterator[State]:
    """Yield the state of an archive of OpenSLR unless nothing of it is there; a flag of dataprep.py continues it."""
    step = Step(OPENSLR, "dataprep.py", flag)
    if any((root / (archive + suffix)).exists() for suffix in (PARTIAL_SUFFIX, BAD_SUFFIX)):
        yield State(archive, "unfinished download", step)
    elif (root / archive).exists():
        yield State(archive, "complete, extracted") if extracted else State(archive, "complete, to extract", step)


def check_tree(name: str, tree: Tree, root: Path) -> State:
    """Count the speakers, wavs, unconverted m4a files and features of one part."""
    wavs, features = utterances(root / tree.wav, ".wav"), utterances(root / tree.feat, ".pkl")
    speakers = len({utterance.partition("/")[0] for utterance in wavs})
    all_speakers, all_wavs = COUNTS[name]
    m4a = {path.relative_to(root / tree.wav).as_posix() for path, _ in convert.pending([root / tree.wav], delete=False)}
    undecoded = m4a & _listed(root / convert.ERRORS_NAME, tree)
    lacking = {utterance + wavs[utterance] for utterance in wavs.keys() - features.keys()}
    unusable = lacking & _listed(root / FEATURE_ERRORS, tree)
    words = f"{len(wavs):,} of {all_wavs:,} wavs, {speakers:,} of {all_speakers:,} speakers"
    words += f", {len(m4a):,} m4a to convert" * bool(m4a) + f", {len(features):,} features"
    for files, table in ((undecoded, convert.ERRORS_NAME), (unusable, FEATURE_ERRORS)):
        words += f", {len(files):,} cannot be used ({table})" * bool(files)
    step = None
    if m4a - undecoded:
        step = Step(CONVERT, "dataprep.py", "--convert")
    elif lacking - unusable:
        step = Step(FEATURES, "feat_extract/feature_extraction.py")
    elif wavs or features:
        step = _training(name, features) if name in TRAINING_TREE.values() else _evaluation(root, features)
    return State(tree.wav, words, step)


def _listed(table: Path, tree: Tree) -> set[str]:
    """Return the files of a wav tree that a table of errors lists, relative to the tree; none without a table."""
    if not table.exists():
        return set()
    rows = csv.DictReader(read_lines(table, "no such table"))
    return {(row.get("file") or "").replace(os.sep, "/").partition(f"{tree.wav}/")[2] for row in rows}


def _training(name: str, features: Iterable[str]) -> Step:
    """Return what to do with the features of a training tree: train, unless they are too few."""
    counts = Counter(utterance.partition("/")[0] for utterance in features).values()
    n_way = min(N_WAY, sum(count >= N_PER_SPEAKER for count in counts))
    if n_way < 2:
        return Step(ADD, "dataprep.py", "--import_dir FOLDER --split train")
    flags = "--data_type vox1 " * (name == TRAINING_TREE["vox1"]) + f"--nb_class_train {n_way}" * (n_way < N_WAY)
    return Step(TRAIN, "train.py", flags.strip())


def _evaluation(root: Path, features: Iterable[str]) -> Step:
    """Return what to do with the features of the evaluation tree: evaluate a model, unless they are too few."""
    if not max_trials(features):
        return Step(ADD, "dataprep.py", "--import_dir FOLDER --split test")
    script = "EER_full.py" if (root / TRIALS_NAME).exists() else "EER_short.py"  # which makes trials of its own
    return Step(EVALUATE, script, f"--checkpoint {MODEL}")


def check_list(name: str, published: int, root: Path) -> State:
    """Return whether a trial list is there, has the right form and VoxCeleb's length."""
    path, step = root / name, None
    if name == TRIALS_NAME:
        n_trials = min(N_TRIALS, max_trials(utterances(root / TREES["vox1_test"].wav, ".wav")))
        step = Step(TRIALS, "dataprep.py", f"--make_trials {n_trials}") if n_trials else None
    if not path.exists():
        return State(name, "not there", step)
    try:
        found = len(read_trials(path).label)
    except UserError as error:
        return State(name, f"{error}; move it away", step)
    return State(name, f"{found:,} trials" + f" (VoxCeleb's own: {published:,})" * (found != published))
