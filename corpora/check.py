"""Check which data a save_path contains, what is missing, and which command comes next."""

import csv
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from configure import TRAINING_TREE, TREES, TRIALS_NAME, Tree
from corpora import convert, openslr
from corpora.archives import count_lost, find_missing, has_marker, open_zip, refuse_lost
from corpora.servers import BAD_SUFFIX, PARTIAL_SUFFIX
from corpora.voxceleb import CHOICES, COUNTS, TRIAL_LISTS, Archive
from dataset.trial_sampling import max_trials
from dataset.trials import read_trials
from feat_extract.feature_extraction import ERRORS_NAME as FEATURE_ERRORS
from system.console import UserError
from system.files import read_lines, utterances

DOWNLOAD, OPENSLR, EXTRACT, CONVERT, FEATURES, TRIALS, TRAIN, EVALUATE, ADD = range(9)  # the order of steps
MODEL = "pretrained/open_speech.pth"  # evaluated if there is nothing to train on
N_TRIALS = 10_000  # of a new list; fewer if there are too few recordings
N_WAY, N_PER_SPEAKER = 100, 3  # defaults of train.py: speakers per episode, utterances per speaker


class State(NamedTuple):
    """The state of an archive, a tree or a list in save_path."""

    name: str
    description: str
    step: tuple[int, str] | None = None  # position in the order of steps, and command without --save_path


def print_state(root: Path, archives: Sequence[Archive], lists: Sequence[str] = ()) -> None:
    """Print the state of the archives, trees and trial lists in `root`, and the next command.

    `lists` are the flags --parts_list and --zip_list with their values, for the next command.
    """
    groups = {
        "archives": [check_archive(archive, root) for archive in archives],
        "archives of OpenSLR": [state for state in check_openslr(root) if state],
        "recordings (compared with the numbers of VoxCeleb)": [check_tree(name, TREES[name], root) for name in TREES],
        "trial lists": [check_list(saved, count, root) for _, saved, count in TRIAL_LISTS],
    }
    for title, states in groups.items():
        if states:
            print(title)
        for state in states:
            print(f"  {state.name:28}{state.description}")
    steps = [state.step for states in groups.values() for state in states if state.step]
    order, command = min(steps, key=lambda step: step[0], default=(DOWNLOAD, "dataprep.py --download"))
    script, *flags = command.split()
    if order in (DOWNLOAD, EXTRACT):
        flags += lists
    print(f"next: python {shlex.join([script, '--save_path', str(root), *flags])}")
    if order == DOWNLOAD:
        print("  (add --source, and --parts to select archives; without an account: --librispeech, see --help)")


def check_archive(archive: Archive, root: Path) -> State:
    """Return which parts of an archive exist and whether they are extracted."""
    if has_marker(root, archive.name):
        return _check_extracted(archive.name, archive.tree, root, bool(archive.present(root)))
    if not archive.complete(root):
        complete, partial, bad = (
            sum((root / (part + suffix)).exists() for part in archive.parts)
            for suffix in ("", PARTIAL_SUFFIX, BAD_SUFFIX)
        )
        words = f"{complete} of {len(archive.parts)} parts"
        words += f", {partial} unfinished" * bool(partial) + f", {bad} with a wrong MD5" * bool(bad)
        parts = next(choice for choice in reversed(CHOICES) if archive.tree.startswith(choice))
        step = DOWNLOAD, f"dataprep.py --download --parts {parts}"
        return State(archive.name, words, step if complete or partial or bad else None)
    extract = EXTRACT, "dataprep.py --extract"
    try:
        with open_zip(archive, root) as (*_, places):
            missing = len(find_missing(places))
    except UserError as error:
        return State(archive.name, str(error), extract)
    if missing:
        return State(archive.name, f"complete, {missing:,} files to extract", extract)
    return State(archive.name, "complete, extracted")


def _check_extracted(
    name: str, tree: str, root: Path, present: bool, otherwise: str = "exclude it with --parts"
) -> State:
    """Return the state of an archive with a marker file, with the number of files that its tree lacks."""
    try:
        refuse_lost(root, name, tree, otherwise)
    except UserError as error:
        return State(name, str(error).removeprefix(f"{name}: "))
    return State(name, "complete, extracted" if present else "extracted and removed")


def check_openslr(root: Path) -> Iterator[State | None]:
    """Yield the states of the archives of OpenSLR, None for those whose download was not started."""
    for subset in openslr.SUBSETS:
        name, tree, flag = f"{subset}.tar.gz", openslr.part_of(subset), f"--librispeech {subset}"
        present = (root / name).exists()
        if has_marker(root, name) and not (present and count_lost(root, name, tree)):
            yield _check_extracted(name, tree, root, present, "omit it from --librispeech")
        else:
            yield _check_download(name, flag, False, root)
    for flag, noise in openslr.NOISES.items():
        yield _check_download(noise.archive, f"--{flag}", os.path.lexists(root / noise.folder), root)


def _check_download(name: str, flag: str, extracted: bool, root: Path) -> State | None:
    """Return the state of an archive of OpenSLR, whose download `flag` starts; None if the download was not started."""
    command = f"dataprep.py {flag}"
    if (root / name).exists():
        if extracted:
            return State(name, "complete, extracted")
        return State(name, f"complete; extract with {command}", (OPENSLR, command))
    started = any((root / (name + suffix)).exists() for suffix in (PARTIAL_SUFFIX, BAD_SUFFIX))
    return State(name, "unfinished download", (OPENSLR, command)) if started and not extracted else None


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
    if m4a - undecoded:
        return State(tree.wav, words, (CONVERT, "dataprep.py --convert"))
    if lacking - unusable:
        return State(tree.wav, words, (FEATURES, "feat_extract/feature_extraction.py"))
    if not (wavs or features):
        return State(tree.wav, words)
    return State(
        tree.wav, words, _train(name, features) if name in TRAINING_TREE.values() else _evaluate(root, features)
    )


def _listed(table: Path, tree: Tree) -> set[str]:
    """Return the files of a wav tree that a table of errors lists, relative to the tree; empty without a table."""
    if not table.exists():
        return set()
    rows = csv.DictReader(read_lines(table, "no such table"))
    return {(row.get("file") or "").replace(os.sep, "/").partition(f"{tree.wav}/")[2] for row in rows}


def _train(name: str, features: Iterable[str]) -> tuple[int, str]:
    """Return the step for the features of a training tree: training, or adding recordings if there are too few."""
    counts = Counter(utterance.partition("/")[0] for utterance in features).values()
    n_way = min(N_WAY, sum(count >= N_PER_SPEAKER for count in counts))
    if n_way < 2:
        return ADD, "dataprep.py --import_dir FOLDER --split train"
    data_type = " --data_type vox1" * (name == TRAINING_TREE["vox1"])
    return TRAIN, f"train.py{data_type}" + f" --nb_class_train {n_way}" * (n_way < N_WAY)


def _evaluate(root: Path, features: Iterable[str]) -> tuple[int, str]:
    """Return the step for the features of the test tree: evaluation, or adding recordings if there are too few."""
    if not max_trials(features):
        return ADD, "dataprep.py --import_dir FOLDER --split test"
    script = "EER_full.py" if (root / TRIALS_NAME).exists() else "EER_short.py"  # which samples its trials
    return EVALUATE, f"{script} --checkpoint {MODEL}"


def check_list(name: str, published: int, root: Path) -> State:
    """Return whether a trial list exists, has a valid form and VoxCeleb's length."""
    path, step = root / name, None
    if name == TRIALS_NAME:
        n_trials = min(N_TRIALS, max_trials(utterances(root / TREES["vox1_test"].wav, ".wav")))
        step = (TRIALS, f"dataprep.py --make_trials {n_trials}") if n_trials else None
    if not path.exists():
        return State(name, "missing", step)
    try:
        found = len(read_trials(path).label)
    except UserError as error:
        return State(name, f"{error}; move it away", step)
    return State(name, f"{found:,} trials" + f" (VoxCeleb's list: {published:,})" * (found != published))
