"""Sampled trial lists: even over speakers, without repetitions, and with little memory."""

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.trial_sampling import sample_trials
from system.console import UserError


@given(st.lists(st.integers(1, 6), min_size=2, max_size=6), st.integers(1, 12), st.integers(0, 9))
def test_sampled_trials(sizes: list[int], half: int, seed: int) -> None:
    speakers = [[f"s{s}/v/{u}.wav" for u in range(size)] for s, size in enumerate(sizes)]
    names = [name for speaker in speakers for name in speaker]
    pairs = list(itertools.combinations(names, 2))
    n_target = sum(a.split("/")[0] == b.split("/")[0] for a, b in pairs)
    if min(n_target, len(pairs) - n_target) < half:
        with pytest.raises(UserError, match="target trials"):
            sample_trials(speakers, 2 * half, seed)
        return
    trials = sample_trials(speakers, 2 * half, seed)
    assert [a.split("/")[0] == b.split("/")[0] for a, b in trials] == [True, False] * half
    assert len({frozenset(trial) for trial in trials}) == 2 * half and all(len(set(trial)) == 2 for trial in trials)
    assert trials == sample_trials(speakers, 2 * half, seed)


def test_sampled_trials_are_even_over_speakers() -> None:
    speakers = [[f"s{s}/v/{u}.wav" for u in range(5 + 10 * s)] for s in range(5)]
    targets = [a.split("/")[0] for a, _ in sample_trials(speakers, 80, 0)[::2]]
    assert sorted(targets) == sorted(f"s{s}" for s in range(5) for _ in range(8))


def test_sampling_targets_of_a_speaker_with_many_utterances_takes_little_memory() -> None:
    speakers = [[f"s{s}/v/{u}.wav" for u in range(4000)] for s in range(2)]  # 8 million pairs per speaker
    tracemalloc.start()
    trials = sample_trials(speakers, 200, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6 and len({name for pair in trials[::2] for name in pair}) > 180


def test_sampling_trials_of_as_many_speakers_as_voxceleb2_takes_little_memory() -> None:
    speakers = [[f"s{s:04d}/v/{u}.wav" for u in range(2)] for s in range(5994)]  # 18 million pairs of speakers
    tracemalloc.start()
    trials = sample_trials(speakers, 10_000, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6
    pairs = [tuple(sorted((a[:5], b[:5]))) for a, b in trials[1::2]]
    assert len(set(pairs)) == 5000 and all(a != b for a, b in pairs)
    assert 4500 < len({name for pair in pairs for name in pair}) <= 5994  # over all of them
