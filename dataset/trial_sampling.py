"""The samplers of verification trials: the short-utterance test's, and that of a list over any wav tree.

They are two because they sample differently. The paper's short-utterance test samples each side of a trial with
replacement, a fixed number for each speaker. A list for a small corpus has no trial twice and is as even over pairs of
speakers as the numbers of their utterances allow.
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

SHORT_TRIALS_PER_SPEAKER = 100  # target trials, and as many non-target ones (paper, section 4.3)


def sample_short_trials(features: FeatureIndex, speakers: np.ndarray, seed: int) -> Trials:
    """Draw the trials of the short-utterance test: for each of the speakers (S,) 100 target and 100 non-target ones.

    The two utterances of a target trial differ, so a speaker with a single utterance is enrolled in non-target trials
    only. The test utterance of a non-target one is drawn evenly over those of all other speakers, as the release does.
    """
    if len(speakers) < 2 or features.count[speakers].max(initial=0) < 2:
        raise UserError("short trials need two or more speakers, and one of them with two or more utterances")
    rng, n = np.random.default_rng(seed), SHORT_TRIALS_PER_SPEAKER
    first, count = features.first[speakers], features.count[speakers]
    rows, begin = rows_of(features, speakers), np.cumsum(count) - count
    drawn: list[tuple[bool, np.ndarray, np.ndarray]] = []  # n trials of one kind each
    for at in range(len(speakers)):
        if count[at] > 1:
            a = rng.integers(count[at], size=n)
            b = (a + rng.integers(1, count[at], size=n)) % count[at]
            drawn.append((True, first[at] + a, first[at] + b))
        other = rng.integers(len(rows) - count[at], size=n)
        other += count[at] * (other >= begin[at])  # past the speaker's own utterances
        drawn.append((False, first[at] + rng.integers(count[at], size=n), rows[other]))
    label, enrol, test = zip(*drawn, strict=True)
    names = [
        np.array([f"{features.name(row)}.wav" for row in np.concatenate(side).tolist()], object)
        for side in (enrol, test)
    ]
    return Trials(np.repeat(label, n), *names)


def rows_of(features: FeatureIndex, speakers: np.ndarray) -> np.ndarray:
    """Return the rows of all utterances of the speakers (S,), speaker by speaker."""
    return np.concatenate([features.first[s] + np.arange(features.count[s]) for s in speakers])


def sample_trials(speakers: Sequence[Sequence[str]], count: int, seed: int) -> list[tuple[str, str]]:
    """Draw an even number of trials, target and non-target in turn, evenly over speakers and pairs of speakers.

    `speakers` are the utterances of each; UserError if they do not give `count` trials. Returns enrolment and test
    utterance of each trial: different ones, no two trials over the same two.
    """
    rng = random.Random(seed)
    targets, others = _targets(rng, speakers, count // 2), _nontargets(rng, speakers, count // 2)
    pairs = itertools.chain.from_iterable(zip(targets, others, strict=True))
    return [(enrol, test) for enrol, test in (rng.sample(pair, 2) for pair in pairs)]


def max_trials(utterances: Iterable[str]) -> int:
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
