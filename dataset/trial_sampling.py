"""Sample verification trials: of the short-utterance test, and of a trial list over any wav tree.

The two functions sample differently. The short-utterance test of the paper samples a fixed
number of trials for each speaker, each side of a trial with replacement. A list for a small corpus contains no trial
twice, and spreads its trials over the pairs of speakers as evenly as the numbers of their utterances allow.
"""

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from configure import TREES
from dataset.index import FeatureIndex
from dataset.trials import Trials
from system.console import UserError

SHORT_TRIALS_PER_SPEAKER = 100  # target trials, and the same number of non-target trials (paper, section 4.3)


def sample_short_trials(features: FeatureIndex, speakers: np.ndarray, seed: int) -> Trials:
    """Return the trials of the short-utterance test: 100 target and 100 non-target trials of each speaker (S,).

    The two utterances of a target trial differ. A speaker with one utterance is enrolled in non-target trials only. The
    test utterance of a non-target trial is uniform over the utterances of all other speakers, as in the official code.
    UserError if there are not two speakers, one of them with two utterances.
    """
    if len(speakers) < 2 or features.count[speakers].max(initial=0) < 2:
        raise UserError("short trials need two or more speakers, and one of them with two or more utterances")
    rng, n = np.random.default_rng(seed), SHORT_TRIALS_PER_SPEAKER
    first, count = features.first[speakers], features.count[speakers]
    rows, begin = rows_of(features, speakers), np.cumsum(count) - count
    blocks: list[tuple[bool, np.ndarray, np.ndarray]] = []  # label, enrolment and test of n trials each
    for s in range(len(speakers)):
        if count[s] > 1:
            a = rng.integers(count[s], size=n)
            b = (a + rng.integers(1, count[s], size=n)) % count[s]
            blocks.append((True, first[s] + a, first[s] + b))
        other = rng.integers(len(rows) - count[s], size=n)
        other += count[s] * (other >= begin[s])  # skips the utterances of speaker s
        blocks.append((False, first[s] + rng.integers(count[s], size=n), rows[other]))
    label, enrol, test = zip(*blocks, strict=True)
    names = [
        np.array([f"{features.name(row)}.wav" for row in np.concatenate(side).tolist()], object)
        for side in (enrol, test)
    ]
    return Trials(np.repeat(label, n), *names)


def rows_of(features: FeatureIndex, speakers: np.ndarray) -> np.ndarray:
    """Return the rows of all utterances of the speakers (S,), speaker by speaker."""
    return np.concatenate([features.first[s] + np.arange(features.count[s]) for s in speakers])


def sample_trials(speakers: Sequence[Sequence[str]], count: int, seed: int) -> list[tuple[str, str]]:
    """Return an even number of trials (enrolment, test), alternately target and non-target.

    `speakers` contains the utterances of each speaker. The target trials are spread evenly over the speakers, the
    non-target trials over the pairs of speakers. The utterances of a trial differ, and no two trials have the same two
    utterances. UserError if the utterances do not suffice for `count` trials.
    """
    rng = random.Random(seed)
    targets, others = _targets(rng, speakers, count // 2), _nontargets(rng, speakers, count // 2)
    pairs = itertools.chain.from_iterable(zip(targets, others, strict=True))
    return [(enrol, test) for enrol, test in (rng.sample(pair, 2) for pair in pairs)]


def max_trials(utterances: Iterable[str]) -> int:
    """Return the maximum number of trials, half of them targets, over utterances <speaker>/..."""
    counts = Counter(utterance.partition("/")[0] for utterance in utterances).values()
    n_targets = sum(math.comb(count, 2) for count in counts)
    return 2 * min(n_targets, math.comb(sum(counts), 2) - n_targets)


def _targets(rng: random.Random, speakers: Sequence[Sequence[str]], count: int) -> list[tuple[str, str]]:
    quotas = _spread(rng, count, [math.comb(len(names), 2) for names in speakers], "target")
    trials = []
    for names, quota in zip(speakers, quotas, strict=True):
        pairs = (_pair(number, len(names)) for number in rng.sample(range(math.comb(len(names), 2)), quota))
        trials += [(names[a], names[b]) for a, b in pairs]
    rng.shuffle(trials)
    return trials


def _nontargets(rng: random.Random, speakers: Sequence[Sequence[str]], count: int) -> list[tuple[str, str]]:
    n_pairs = math.comb(len(speakers), 2)
    if count < n_pairs:  # VoxCeleb2's speakers make 18 million pairs, too many for a list
        pairs = [_pair(number, len(speakers)) for number in sorted(rng.sample(range(n_pairs), count))]
        quotas = [1] * count
    else:
        pairs = list(itertools.combinations(range(len(speakers)), 2))
        quotas = _spread(rng, count, [len(speakers[a]) * len(speakers[b]) for a, b in pairs], "non-target")
    trials = []
    for (a, b), quota in zip(pairs, quotas, strict=True):
        left, right = speakers[a], speakers[b]
        cells = rng.sample(range(len(left) * len(right)), quota)
        trials += [(left[cell // len(right)], right[cell % len(right)]) for cell in cells]
    rng.shuffle(trials)
    return trials


def _pair(number: int, n: int) -> tuple[int, int]:
    """Return the pair at a position of itertools.combinations(range(n), 2)."""
    from_end = math.comb(n, 2) - 1 - number
    row = (math.isqrt(8 * from_end + 1) - 1) // 2  # counted from the end; row r has r + 1 pairs
    return n - 2 - row, n - 1 - (from_end - math.comb(row + 1, 2))


def _spread(rng: random.Random, count: int, capacities: Sequence[int], kind: str) -> list[int]:
    """Split `count` as evenly as the capacities allow; return the parts. Random parts get the remainder."""
    if count > sum(capacities):
        raise UserError(
            f"{TREES['vox1_test'].wav} suffices for {sum(capacities):,} {kind} trials, not for {count:,}; "
            "reduce --make_trials or add recordings"
        )
    quotas = [0] * len(capacities)
    while count:
        free = [i for i, capacity in enumerate(capacities) if quotas[i] < capacity]
        free = rng.sample(free, min(count, len(free)))
        share = count // len(free)
        for i in free:
            added = min(share, capacities[i] - quotas[i])
            quotas[i] += added
            count -= added
    return quotas
