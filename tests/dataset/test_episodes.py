from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_features

from dataset.episodes import Episode, TrainingEpisodes, episode_order, sample_utterances
from dataset.features import write_feature
from dataset.index import FeatureIndex
from system.console import UsageError
from system.loading import Loader

PAPER: dict[str, Any] = {"n_way": 8, "n_shot": 1, "n_query": 2, "use_variable": True, "seed": 100}


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    tree = tmp_path_factory.mktemp("episodes") / "feat"
    write_features(tree, n_speakers=10, n_utterances=5)
    return FeatureIndex([tree])


def speaker_and_utterance(crops: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the speaker and utterance of each crop (K, W, 1, 40, T), which `write_features` wrote into its frames."""
    code = crops[:, :, 0, 1, 0].numpy().astype(int)
    return code // 1000, code % 1000 // 100


def test_an_episode_has_different_speakers_and_different_utterances(features: FeatureIndex) -> None:
    episodes = TrainingEpisodes(features, **PAPER)
    for index in range(20):
        episode = episodes[1, index]
        assert episode.support.shape == (1, 8, 1, 40, 200) and episode.query.shape[:4] == (2, 8, 1, 40)
        assert len(set(episode.speaker.tolist())) == 8
        s_speaker, s_utterance = speaker_and_utterance(episode.support)
        q_speaker, q_utterance = speaker_and_utterance(episode.query)
        assert (s_speaker == episode.speaker.numpy()).all() and (q_speaker == episode.speaker.numpy()).all()
        used = np.concatenate([s_utterance, q_utterance])
        assert all(len(set(column)) == 3 for column in used.T)


def test_a_crop_has_consecutive_frames(features: FeatureIndex) -> None:
    episode = TrainingEpisodes(features, **PAPER)[3, 0]
    for crops in (episode.support, episode.query):
        assert (crops[..., 0, 1:] - crops[..., 0, :-1] == 1).all()
        assert (crops[..., 0, -1] <= 233).all()


def test_windows_start_at_every_possible_frame(features: FeatureIndex) -> None:
    episodes = TrainingEpisodes(features, **PAPER)
    starts: dict[tuple[int, ...], set[int]] = {}
    for index in range(1500):
        episode = episodes[1, index]
        for crops in (episode.support, episode.query):
            firsts = crops[..., 0, 0, 0].numpy().astype(int).ravel()
            for speaker, utterance, first in zip(*map(np.ravel, speaker_and_utterance(crops)), firsts, strict=True):
                starts.setdefault((int(speaker), int(utterance)), set()).add(int(first))
    assert starts == {(s, u): set(range(230 + u - 200 + 1)) for s in range(10) for u in range(5)}


def test_each_episode_has_one_query_length_of_100_to_199(features: FeatureIndex) -> None:
    episodes = TrainingEpisodes(features, **PAPER | {"n_way": 2, "n_query": 1})
    lengths = [episodes[1, index].query.shape[-1] for index in range(1500)]
    assert set(lengths) == set(range(100, 200))
    fixed = TrainingEpisodes(features, **PAPER | {"use_variable": False})
    assert {fixed[1, index].query.shape[-1] for index in range(20)} == {200}


def test_a_short_query_is_the_beginning_of_the_full_window(features: FeatureIndex) -> None:
    variable = TrainingEpisodes(features, **PAPER)
    fixed = TrainingEpisodes(features, **PAPER | {"use_variable": False})
    for index in range(5):
        short, full = variable[2, index].query, fixed[2, index].query
        assert torch.equal(short, full[..., : short.shape[-1]])


def test_short_utterances_are_repeated(tmp_path: Path) -> None:
    for s in range(2):
        for u in range(2):
            feat = np.tile(np.arange(70, dtype=np.float32)[:, None], 40)
            write_feature(tmp_path / "t" / f"s{s}" / "v" / f"{u}.pkl", feat, f"s{s}")
    features = FeatureIndex([tmp_path / "t"])
    episodes = TrainingEpisodes(features, n_way=2, n_shot=1, n_query=1, use_variable=False, seed=0)
    frames = episodes[1, 0].support[0, 0, 0, 0].numpy()
    assert np.array_equal(frames, (frames[0] + np.arange(200)) % 70)


@pytest.mark.parametrize("workers", [0, 4])
def test_the_same_seed_gives_the_same_episodes_with_any_number_of_workers(features: FeatureIndex, workers: int) -> None:
    episodes = TrainingEpisodes(features, **PAPER)
    with Loader[Episode](episodes, workers, episodes.max_bytes, False).batches(episode_order(6, 1, 0, 2)) as batches:
        loaded = list(batches)
    assert len(loaded) == 6
    alone = TrainingEpisodes(features, **PAPER)
    for index, episode in enumerate(loaded):
        assert all(torch.equal(a, b) for a, b in zip(episode, alone[2, index], strict=True))


def test_other_seeds_epochs_and_indices_give_other_episodes(features: FeatureIndex) -> None:
    numbers = [(1, (1, 0)), (2, (1, 0)), (1, (1, 1)), (1, (2, 0))]
    supports = [TrainingEpisodes(features, **PAPER | {"seed": seed})[number].support for seed, number in numbers]
    assert all(not torch.equal(a, b) for i, a in enumerate(supports) for b in supports[:i])


def test_a_resumed_epoch_has_the_remaining_episodes() -> None:
    assert list(episode_order(5, 3, 3, 4)) == [(4, 3), (4, 4)]


def test_an_epoch_has_as_many_episodes_as_in_the_official_code(features: FeatureIndex) -> None:
    assert TrainingEpisodes(features, **PAPER).per_epoch == 50 // (3 * 8)
    assert TrainingEpisodes(features, **PAPER | {"n_way": 5, "n_query": 4}).per_epoch == 2  # of 25 utterances each


def test_names_are_those_of_the_utterances_in_the_episode(features: FeatureIndex) -> None:
    episodes = TrainingEpisodes(features, **PAPER)
    episode = episodes[1, 0]
    names = episodes.names((1, 0))
    for crops, part in ((episode.support, names[:8]), (episode.query, names[8:])):
        speaker, utterance = speaker_and_utterance(crops)
        assert [f"id{s:05d}/v{u % 2}/{u:05d}" for s, u in zip(speaker.ravel(), utterance.ravel(), strict=True)] == part


def test_episodes_larger_than_the_data_are_refused(features: FeatureIndex) -> None:
    with pytest.raises(UsageError, match="needs 11 speakers with 3 or more utterances each, the data has 10"):
        TrainingEpisodes(features, **PAPER | {"n_way": 11})
    with pytest.raises(UsageError, match="needs 8 speakers with 6 or more utterances each, the data has 0"):
        TrainingEpisodes(features, **PAPER | {"n_query": 5})


def test_speakers_with_too_few_utterances_are_excluded(tmp_path: Path) -> None:
    write_features(tmp_path / "t", n_speakers=3, n_utterances=4)
    write_features(tmp_path / "t", n_speakers=2, n_utterances=2, first=5)
    episodes = TrainingEpisodes(FeatureIndex([tmp_path / "t"]), **PAPER | {"n_way": 3})
    assert episodes.n_excluded == 2
    assert all(set(episodes[1, index].speaker.tolist()) == {0, 1, 2} for index in range(10))


def test_utterances_are_sampled_uniformly(features: FeatureIndex) -> None:
    rng, eligible = np.random.default_rng(0), np.arange(10)
    rows = np.concatenate([sample_utterances(features, eligible, 5, 2, rng)[1].ravel() for _ in range(2000)])
    counts = np.bincount(rows, minlength=50)  # 20,000 samples of 50 utterances
    assert counts.min() > 320 and counts.max() < 480
