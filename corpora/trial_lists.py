"""Trial lists under save_path: VoxCeleb's, checked, or drawn at random for any other wav tree."""

import functools
import itertools
import math
import random
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from configure import TREES, TRIALS_NAME
from corpora.download import fetch
from corpora.sources import Source, Wanted
from corpora.voxceleb import TRIAL_LISTS
from dataset.trials import Trials, read_trials, write_trials
from system.console import UserError, warn
from system.files import replacing, utterances

RETRIES = 2  # fewer than for archives: a source may not have a list


def find_fault(path: Path, published: int | None) -> str | None:
    """Say what is wrong with a trial list, its form or its number of trials (None: any); None if nothing is."""
    try:
        found = len(read_trials(path).label)
    except UserError as error:
        return str(error)
    return None if published in (None, found) else f"{path}: {found:,} trials where {published:,} are published"


def fetch_lists(source: Source, root: Path, published: bool) -> None:
    """Fetch the trial lists over VoxCeleb1 that the source serves; say which it does not.

    `published`: the source serves VoxCeleb itself, so the lists have VoxCeleb's lengths.
    """
    lacking = {}
    for served, saved, count in TRIAL_LISTS:
        check = functools.partial(find_fault, published=count if published else None)
        try:
            fetch([Wanted(saved, check, served)], source, root, jobs=1, retries=RETRIES)
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
    enrol, test = np.array(draw_trials(speakers, count, seed), object).T
    write_trials(target, Trials(np.arange(count) % 2 == 0, enrol, test))
    print(f"{target}: {count:,} trials, half of them targets, seed {seed}")


def draw_trials(speakers: Sequence[Sequence[str]], count: int, seed: int) -> list[tuple[str, str]]:
    """Draw an even number of trials, target and non-target in turn, evenly over speakers and pairs of speakers.

    `speakers` are the utterances of each; UserError if they do not give `count` trials. Returns enrolment and test
    utterance of each trial: different ones, no two trials over the same two.
    """
    rng = random.Random(seed)
    targets, others = _targets(rng, speakers, count // 2), _nontargets(rng, speakers, count // 2)
    pairs = itertools.chain.from_iterable(zip(targets, others, strict=True))
    return [(enrol, test) for enrol, test in (rng.sample(pair, 2) for pair in pairs)]


def most_trials(utterances: Iterable[str]) -> int:
    """Return how many trials, half of them targets, can be drawn over utterances <speaker>/..."""
    counts = Counter(utterance.partition("/")[0] for utterance in utterances).values()
    n_targets = sum(math.comb(count, 2) for count in counts)
    return 2 * min(n_targets, math.comb(sum(counts), 2) - n_targets)


def _targets(rng: random.Random, speakers: Sequence[Sequence[str]], count: int) -> list[tuple[str, str]]:
    quotas = _spread(rng, count, [math.comb(len(names), 2) for names in speakers], "target")
    drawn = []
    for names, quota in zip(speakers, quotas, strict=True):
        couples = (_couple(at, len(names)) for at in rng.sample(range(math.comb(len(names), 2)), quota))
        drawn += [(names[a], names[b]) for a, b in couples]
    rng.shuffle(drawn)
    return drawn


def _nontargets(rng: random.Random, speakers: Sequence[Sequence[str]], count: int) -> list[tuple[str, str]]:
    n_couples = math.comb(len(speakers), 2)
    if count < n_couples:  # VoxCeleb2's speakers make 18 million: they are numbered, not listed
        couples = [_couple(at, len(speakers)) for at in sorted(rng.sample(range(n_couples), count))]
        quotas = [1] * count
    else:
        couples = list(itertools.combinations(range(len(speakers)), 2))
        quotas = _spread(rng, count, [len(speakers[a]) * len(speakers[b]) for a, b in couples], "non-target")
    drawn = []
    for (a, b), quota in zip(couples, quotas, strict=True):
        left, right = speakers[a], speakers[b]
        cells = rng.sample(range(len(left) * len(right)), quota)
        drawn += [(left[cell // len(right)], right[cell % len(right)]) for cell in cells]
    rng.shuffle(drawn)
    return drawn


def _couple(at: int, n: int) -> tuple[int, int]:
    """Return the pair of numbers below n that is number `at` in the order of itertools.combinations(range(n), 2)."""
    from_end = math.comb(n, 2) - 1 - at
    row = (math.isqrt(8 * from_end + 1) - 1) // 2  # from_end lies in the row-th row, counted from the end
    return n - 2 - row, n - 1 - (from_end - math.comb(row + 1, 2))


def _spread(rng: random.Random, count: int, capacities: Sequence[int], kind: str) -> list[int]:
    """Split `count` as evenly as the capacities allow; the remainder goes to boxes drawn at random."""
    if count > sum(capacities):
        raise UserError(
            f"{TREES['vox1_test'].wav} gives {sum(capacities):,} {kind} trials, {count:,} were asked for: "
            "ask for fewer by --make_trials, or add recordings"
        )
    quotas = [0] * len(capacities)
    while count:
        boxes = [box for box, capacity in enumerate(capacities) if quotas[box] < capacity]
        boxes = rng.sample(boxes, min(count, len(boxes)))
        share = count // len(boxes)
        for box in boxes:
            given = min(share, capacities[box] - quotas[box])
            quotas[box] += given
            count -= given
    return quotas
