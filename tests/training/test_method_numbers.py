"""The numbers of the method (docs/method.md) as literals, compared with those of a training."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import present, write_features
from torch import nn

import train
from configure import TREES
from dataset.episodes import Episode, TrainingEpisodes
from loss import EpisodeMetrics, Objective
from model.encoder import Encoder
from system.compute import Compute
from training.step import EpisodeLoss, TrainingState, end_epoch, train_step

SHAPES = {"support": (1, 100, 1, 40, 200), "query": (2, 100, 1, 40)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a VoxCeleb2 tree of 101 speakers with 6 utterances each."""
    root = tmp_path_factory.mktemp("numbers")
    write_features(root / TREES["vox2_dev"].feat, n_speakers=101, n_utterances=6)
    return root


class Prepared(NamedTuple):
    """The arguments of train.py's loop."""

    state: TrainingState
    episodes: TrainingEpisodes


def prepared(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *flags: object) -> Prepared:
    """Run train.py up to its loop, with the flags of its folders and `flags`."""
    made: list[Prepared] = []

    def loop(args: object, folder: Path, state: TrainingState, episodes: TrainingEpisodes, validation: object) -> None:
        made.append(Prepared(state, episodes))

    monkeypatch.setattr(train, "train", loop)
    folders = ["--save_path", data, "--model_path", tmp_path / "models"]
    train.main([str(flag) for flag in (*folders, "--backbone", "resnet18", *flags)])
    return made[0]


def test_defaults_of_train() -> None:
    args = vars(train.parse_args([]))
    expected = {
        "loss_type": "prototypical", "use_GC": True, "n_shot": 1, "n_query": 2, "use_variable": True,
        "nb_class_train": 100, "data_type": "vox2", "n_folder": 0, "max_epoch": 300, "lr": 0.1, "seed": 100,
        "backbone": "resnet34", "max_grad_norm": None, "scale_lr": False, "sync_bn": False, "init": None,
    }  # fmt: skip
    assert {name: args[name] for name in expected} == expected


def test_episodes_of_a_default_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, sampler = prepared(data, tmp_path, monkeypatch)
    assert sampler.per_epoch == 606 // ((1 + 2) * 100)
    episodes = [sampler[1, index] for index in range(12)]
    lengths = {episode.query.shape[-1] for episode in episodes}
    assert all(episode.support.shape == SHAPES["support"] for episode in episodes)
    assert all(episode.query.shape[:-1] == SHAPES["query"] for episode in episodes)
    assert len(lengths) > 6 and lengths <= set(range(100, 200))
    assert all(len(set(episode.speaker.tolist())) == 100 for episode in episodes)
    # numpy's generator of (seed, epoch, index), which samples the speakers first
    speakers = np.random.default_rng([100, 1, 0]).choice(101, 100, replace=False)
    assert episodes[0].speaker.tolist() == speakers.tolist()
    torch.manual_seed(100)
    drawn_first = Objective("prototypical", True, 101, 256).class_vectors
    assert torch.equal(present(state.model.objective.class_vectors), present(drawn_first))
    assert state.model.objective.episodic


@pytest.mark.parametrize("use_variable", [[], ["--use_variable", False]])
def test_softmax_windows_have_200_frames(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use_variable: list
) -> None:
    flags = ["--loss_type", "softmax", "--nb_class_train", 5, *use_variable]
    episodes = prepared(data, tmp_path, monkeypatch, *flags).episodes
    assert {episodes[1, index].query.shape for index in range(8)} == {(2, 5, 1, 40, 200)}


def test_fixed_queries_have_200_frames(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = prepared(data, tmp_path, monkeypatch, "--nb_class_train", 5, "--use_variable", False).episodes
    assert {episodes[1, index].query.shape for index in range(8)} == {(2, 5, 1, 40, 200)}


class Scripted(EpisodeLoss):
    """A model with a loss that the test sets; its gradient in the class vectors is constant."""

    def __init__(self, gradient: torch.Tensor | None = None) -> None:
        super().__init__(Encoder("resnet18"), Objective("prototypical", True, 101, 256))
        self.gradient, self.loss = gradient, 1.0

    def forward(
        self,
        support: torch.Tensor,
        query: torch.Tensor,
        speaker: torch.Tensor,
        trunk_dtype: torch.dtype = torch.float32,
    ) -> EpisodeMetrics:
        vectors = present(self.objective.class_vectors)
        slope = torch.zeros_like(vectors) if self.gradient is None else self.gradient
        product = (vectors * slope).sum()
        return EpisodeMetrics(product - product.detach() + self.loss, *(torch.zeros(4)))


@pytest.fixture
def scripted() -> TrainingState:
    """A training with train.py's defaults for SGD and schedule, and a scripted model."""
    return TrainingState(Scripted(), Compute(torch.device("cpu"), torch.float32, 0), lr=train.parse_args([]).lr)


def train_epoch(state: TrainingState) -> None:
    """Train two steps on episodes, which the scripted model ignores."""
    for _ in range(2):
        train_step(state, Episode(torch.zeros(1), torch.zeros(1), torch.zeros(1)))
    state.metrics.all_gather()
    end_epoch(state)


def test_sgd_with_nesterov_momentum_and_weight_decay_by_hand(scripted: TrainingState) -> None:
    gradient = torch.randn(101, 256)
    scripted.model.gradient = gradient
    vectors = present(scripted.model.objective.class_vectors)
    hand, momentum = vectors.detach().double().clone(), torch.zeros(101, 256, dtype=torch.float64)
    train_epoch(scripted)
    for _ in range(2):
        slope = gradient.double() + 1e-4 * hand
        momentum = 0.9 * momentum + slope
        hand -= 0.1 * (slope + 0.9 * momentum)
    torch.testing.assert_close(vectors.detach().double(), hand, rtol=0, atol=1e-6)


def rates(state: TrainingState, losses: list[float]) -> list[float]:
    """Return the learning rates of epochs with these losses."""
    found = []
    assert isinstance(state.model, Scripted)
    for loss in losses:
        state.model.loss = loss
        found.append(state.lr)
        train_epoch(state)
    return found


def test_the_learning_rate_drops_after_a_plateau_of_more_than_three_epochs(scripted: TrainingState) -> None:
    expected = [0.1] * 5 + [0.01] * 4 + [1e-3] * 4 + [1e-4] * 4 + [1e-5] * 8
    assert rates(scripted, [1.0] * len(expected)) == pytest.approx(expected)


def test_an_improvement_is_at_least_1e_4(scripted: TrainingState) -> None:
    better, worse = ([(1 - step) ** epoch for epoch in range(7)] for step in (1.2e-4, 0.2e-4))
    assert rates(scripted, better) == pytest.approx([0.1] * 7)
    assert rates(scripted, [0.5, *(0.5 * loss for loss in worse)])[-1] == pytest.approx(0.01)


def test_the_initial_network() -> None:
    torch.manual_seed(0)
    encoder, objective = Encoder(), Objective("softmax", False, 5994, 256)
    stages = [getattr(encoder.trunk, f"layer{stage}") for stage in (1, 2, 3, 4)]
    assert [len(stage) for stage in stages] == [3, 4, 6, 3]
    assert [stage[0].conv1.out_channels for stage in stages] == [32, 64, 128, 256]
    assert [stage[0].conv1.stride[0] for stage in stages] == [1, 2, 2, 2]
    first = encoder.trunk.conv1
    assert (first.out_channels, first.kernel_size, first.stride, first.padding) == (32, (7, 7), (1, 1), (3, 3))
    assert encoder.trunk(torch.zeros(1, 1, 40, 200)).shape == (1, 256, 5, 25)  # no max-pooling
    assert 5.3e6 < sum(parameter.numel() for parameter in encoder.parameters()) < 5.5e6
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            k, channels = module.kernel_size[0], module.out_channels
            deviation = math.sqrt(2 / (k * k * channels))
            assert module.bias is None
            assert module.weight.std().item() == pytest.approx(deviation, rel=5 / math.sqrt(module.weight.numel()))
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    for matrix in (encoder.projection.weight, present(objective.class_vectors)):
        bound = math.sqrt(6 / sum(matrix.shape))  # Xavier-uniform
        assert 0.999 * bound < matrix.abs().max().item() <= bound and abs(matrix.mean().item()) < 0.01 * bound
