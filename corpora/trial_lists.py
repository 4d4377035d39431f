"""Trial lists in save_path: VoxCeleb's, downloaded and checked, or sampled over another wav tree."""

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

RETRIES = 2  # fewer than for archives, since not every server has the lists


def list_error(path: Path, published: int | None) -> str | None:
    """Return an error message for a trial list of a wrong form or another length than published, None otherwise."""
    try:
        found = len(read_trials(path).label)
    except UserError as error:
        return str(error)
    return None if published in (None, found) else f"{path}: {found:,} trials instead of the published {published:,}"


def download_lists(server: Server, root: Path, published: bool) -> None:
    """Download the trial lists over VoxCeleb1; print a warning with those that the server does not have.

    With `published`, the lists must have the lengths of VoxCeleb's. An existing list is kept; if it has another length,
    a warning is printed.
    """
    lacking = {}
    for served, saved, count in TRIAL_LISTS:
        check = functools.partial(list_error, published=count if published else None)
        if (root / saved).exists() and (error := check(root / saved)):
            warn(f"{error}; this list is kept, move it away to download VoxCeleb's")
        try:
            download_files([Download(saved, check, served)], server, root, jobs=1, retries=RETRIES)
        except UserError as error:
            lacking[served] = error
    if lacking:
        reason = next(iter(lacking.values()))
        warn(f"trial lists not downloaded: {', '.join(lacking)} ({reason}); add a list with --trial_list FILE")


def copy_list(path: Path, root: Path) -> None:
    """Copy a trial list into `root`: a list of VoxCeleb's under its own name, any other one as the default list.

    UserError if its form or, for a list of VoxCeleb's, its length is wrong, or if another list has this name.
    """
    _, saved, published = next((row for row in TRIAL_LISTS if row[0] == path.name), (None, TRIALS_NAME, None))
    if error := list_error(path, published):
        raise UserError(error)
    target = root / saved
    if target.exists() and target.read_bytes() != path.read_bytes():
        raise UserError(f"{target}: another list exists; move it away first")
    with replacing(target) as temporary:
        shutil.copyfile(path, temporary)
    print(f"{target}: {len(read_trials(target).label):,} trials")


def make_trials(root: Path, count: int, seed: int) -> None:
    """Sample a trial list over the evaluation wavs below `root` and write it; an existing list is kept."""
    target = root / TRIALS_NAME
    if target.exists():
        print(f"{target}: exists and was kept; move it away to sample a new list")
        return
    wavs = sorted(name + suffix for name, suffix in utterances(root / TREES["vox1_test"].wav, ".wav").items())
    speakers = [list(group) for _, group in itertools.groupby(wavs, lambda name: name.partition("/")[0])]
    enrol, test = np.array(sample_trials(speakers, count, seed), object).T
    write_trials(target, Trials(np.arange(count) % 2 == 0, enrol, test))
    print(f"{target}: {count:,} trials, half of them targets, seed {seed}")
