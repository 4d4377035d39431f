"""Trial lists under save_path: VoxCeleb's, checked, or drawn at random for any other wav tree."""

import functools
import itertools
import shutil
from pathlib import Path

import numpy as np

from configure import TREES, TRIALS_NAME
from corpora.download import download_files
from corpora.servers import Download, Server
from corpora.voxceleb import TRIAL_LISTS
from dataset.trial_sampling import sample_trials
from dataset.trials import Trials, read_trials, write_trials
from system.console import UserError, warn
from system.files import replacing, utterances

RETRIES = 2  # fewer than for archives: a server may not have a list


def find_fault(path: Path, published: int | None) -> str | None:
    """Say what is wrong with a trial list, its form or its number of trials (None: any); None if nothing is."""
    try:
        found = len(read_trials(path).label)
    except UserError as error:
        return str(error)
    return None if published in (None, found) else f"{path}: {found:,} trials where {published:,} are published"


def download_lists(server: Server, root: Path, published: bool) -> None:
    """Fetch the trial lists over VoxCeleb1 that the server serves; say which it does not.

    `published`: the server serves VoxCeleb itself, so the lists have VoxCeleb's lengths.
    """
    lacking = {}
    for served, saved, count in TRIAL_LISTS:
        check = functools.partial(find_fault, published=count if published else None)
        try:
            download_files([Download(saved, check, served)], server, root, jobs=1, retries=RETRIES)
        except UserError as error:
            lacking[served] = error
    if lacking:
        reason = next(iter(lacking.values()))
        warn(f"trial lists not fetched: {', '.join(lacking)} ({reason}); --trial_list FILE takes a copy of yours")


def adopt_list(path: Path, root: Path) -> None:
    """Copy a trial list of the user's to where the evaluators look: VoxCeleb's by name, any other as the default.

    Raises UserError if its form or, for VoxCeleb's lists, its length is wrong, or another list is there.
    """
    _, saved, published = next((row for row in TRIAL_LISTS if row[0] == path.name), (None, TRIALS_NAME, None))
    if fault := find_fault(path, published):
        raise UserError(fault)
    target = root / saved
    if target.exists() and target.read_bytes() != path.read_bytes():
        raise UserError(f"{target}: another list is there; move it away first")
    with replacing(target) as temporary:
        shutil.copyfile(path, temporary)
    print(f"{target}: {len(read_trials(target).label):,} trials")


def make_trials(root: Path, count: int, seed: int) -> None:
    """Draw a trial list over the evaluation wavs below `root` and write it, unless one is there."""
    target = root / TRIALS_NAME
    if target.exists():
        print(f"{target}: kept, no list was drawn; move it away to draw one")
        return
    wavs = sorted(name + suffix for name, suffix in utterances(root / TREES["vox1_test"].wav, ".wav").items())
    speakers = [list(group) for _, group in itertools.groupby(wavs, lambda name: name.partition("/")[0])]
    enrol, test = np.array(sample_trials(speakers, count, seed), object).T
    write_trials(target, Trials(np.arange(count) % 2 == 0, enrol, test))
    print(f"{target}: {count:,} trials, half of them targets, seed {seed}")
