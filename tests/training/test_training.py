import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import present
from small_network import small_network
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dataset.episodes import Episode, TrainingEpisodes, episode_order
from dataset.features import write_feature
from dataset.index import FeatureIndex
from evaluation.embedding import Segments, score
from loss import Objective
from model.checkpoint import load_checkpoint, parameters_of, state_dict_of
from model.encoder import Encoder
from system.compute import Compute
from system.console import UserError
from training.checkpoints import restore, save_state
from training.report import check_finite
from training.step import EpisodeLoss, TrainingState, end_epoch, train_step

CPU = Compute(torch.device("cpu"), torch.float32, 0)


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Train a small network: these tests do not depend on its size."""
    with small_network("resnet18"):
        yield


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    tree, rng = tmp_path_factory.mktemp("training") / "feat", np.random.default_rng(0)
    for s in range(4):
        for u in range(6):
            write_feature(tree / f"s{s}" / "v" / f"{u}.pkl", 5 * rng.normal(size=(210 + s, 40)) + s, f"s{s}")
    return FeatureIndex([tree])


@pytest.fixture(scope="module")
def episodes(features: FeatureIndex) -> TrainingEpisodes:
    return TrainingEpisodes(features, n_way=3, n_shot=1, n_query=1, use_variable=True, seed=7)


def new_state(compute: Compute = CPU, lr: float = 0.05, use_GC: bool = True, n_speakers: int = 4) -> TrainingState:
    torch.manual_seed(7)
    return TrainingState(
        EpisodeLoss(Encoder("resnet18"), Objective("prototypical", use_GC, n_speakers, 256)), compute, lr
    )


def train_steps(
    state: TrainingState, episodes: TrainingEpisodes, n_steps: int, max_grad_norm: float | None = None
) -> None:
    """Train n_steps episodes from the position of the state, end the epochs among them, and gather the metrics."""
    order = episode_order(episodes.per_epoch, state.epoch, state.episode, 99)
    for number in itertools.islice(order, n_steps):
        train_step(state, episodes[number], max_grad_norm)
        if state.episode == episodes.per_epoch:
            state.metrics.all_gather()
            end_epoch(state)
    state.metrics.all_gather()


def tensors(state: TrainingState) -> list[torch.Tensor]:
    momentum = [entry["momentum_buffer"] for entry in state.optimizer.state_dict()["state"].values()]
    return [*state.model.state_dict().values(), *momentum]


@pytest.mark.parametrize("n_before", [1, 3, 5])
def test_a_resumed_state_is_bit_identical(episodes: TrainingEpisodes, tmp_path: Path, n_before: int) -> None:
    straight, stopped, resumed = new_state(), new_state(), new_state(lr=0.3)
    assert episodes.per_epoch == 4
    train_steps(straight, episodes, 7)
    train_steps(stopped, episodes, n_before)
    save_state(tmp_path / "x.pth", stopped)
    for parameter in resumed.model.parameters():
        parameter.data.fill_(1)
    restore(resumed, load_checkpoint(tmp_path / "x.pth"), episodes.per_epoch)
    assert (resumed.epoch, resumed.episode) == divmod(n_before, 4)
    train_steps(resumed, episodes, 7 - n_before)
    assert resumed.metrics.means() == straight.metrics.means()
    assert all(torch.equal(a, b) for a, b in zip(tensors(straight), tensors(resumed), strict=True))
    schedules = ((s.lr, s.scheduler.best, s.scheduler.num_bad_epochs) for s in (straight, resumed))
    assert len(set(schedules)) == 1


def test_means_do_not_depend_on_when_metrics_are_gathered(
    episodes: TrainingEpisodes,
) -> None:
    state, losses = new_state(), list[float]()
    state.model.register_forward_hook(lambda _, given, metrics: losses.append(float(metrics.loss.detach())))
    train_steps(state, episodes, 4)  # gathered at the end of the epoch
    assert state.scheduler.best == sum(losses) / 4
    train_steps(state, episodes, 1)
    train_steps(state, episodes, 2)
    assert state.metrics.means()["loss"] == sum(losses[4:]) / 3


def test_gradients_are_clipped_to_max_grad_norm(episodes: TrainingEpisodes) -> None:
    norms = []
    for limit in (None, 0.01):
        state = new_state()
        train_steps(state, episodes, 1, limit)
        norms.append(sum(float(present(of.grad).square().sum()) for of in state.model.parameters()) ** 0.5)
    assert norms[0] > 0.1 and norms[1] == pytest.approx(0.01, rel=1e-3)


def test_bf16_has_nearly_the_loss_of_fp32_and_fp32_weights(episodes: TrainingEpisodes) -> None:
    losses = []
    for dtype in (torch.bfloat16, torch.float32):
        state = new_state(CPU._replace(dtype=dtype))
        train_steps(state, episodes, 1)
        losses.append(state.metrics.means()["loss"])
        assert all(parameter.dtype is torch.float32 for parameter in state.model.parameters())
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize("losses, weight, at", [([1, math.nan, math.inf], 0, 2), ([1, 2, 3], math.inf, 3)])
def test_a_loss_or_weight_that_is_not_finite_is_an_error_with_the_episode(
    episodes: TrainingEpisodes, losses: list[float], weight: float, at: int
) -> None:
    state = new_state()
    state.epoch, state.episode = 4, 3
    check_finite(state, torch.ones(3), episodes)
    state.model.encoder.projection.weight.data[7, 7] = weight
    utterances = ", ".join(episodes.names((5, at - 1)))
    with pytest.raises(UserError, match=rf"^epoch 5, episode {at}: the .* not finite.*--max_grad_norm.* {utterances}$"):
        check_finite(state, torch.tensor(losses), episodes)
    state.epoch = 0  # no checkpoint to resume from
    with pytest.raises(UserError, match="train again with a lower --lr"):
        check_finite(state, torch.tensor(losses), episodes)


def test_a_checkpoint_of_other_speakers_is_an_error(tmp_path: Path) -> None:
    save_state(tmp_path / "x.pth", new_state())
    with pytest.raises(ValueError, match="class vectors of 4 speakers instead of 9"):
        restore(new_state(n_speakers=9), load_checkpoint(tmp_path / "x.pth"), per_epoch=4)


class DoubleEpisodes(TrainingEpisodes):
    """Float64: convolutions of another memory format round differently, here by much less than the tolerance."""

    def __getitem__(self, number: tuple[int, int]) -> Episode:
        support, query, speaker = super().__getitem__(number)
        return Episode(support.double(), query.double(), speaker)


@pytest.mark.parametrize("use_GC", [True, False])
def test_an_official_file_is_resumed_like_a_plain_loop(features: FeatureIndex, tmp_path: Path, use_GC: bool) -> None:
    """The plain loop is the official one: contiguous, unfused, with class vectors in the optimiser even if unused."""
    torch.manual_seed(3)
    model = EpisodeLoss(Encoder("resnet18"), Objective("prototypical", use_GC, 4, 256)).double()
    class_vectors = model.objective.class_vectors if use_GC else torch.nn.Parameter(torch.randn(4, 256).double())
    parameters = parameters_of(model.encoder, class_vectors)
    optimizer = torch.optim.SGD(parameters, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=False)
    episodes = DoubleEpisodes(features, n_way=3, n_shot=1, n_query=1, use_variable=True, seed=7)

    def plain_step(at: tuple[int, int]) -> None:
        optimizer.zero_grad()
        model(*episodes[at]).loss.backward()
        optimizer.step()

    plain_step((9, 0))
    for parameter in parameters:  # the file's weights pass through a float32 encoder
        parameter.data.copy_(parameter.data.float())
    weights = {"state_dict": state_dict_of(model.encoder, class_vectors)}
    torch.save({"epoch": 2, **weights, "optimizer": optimizer.state_dict()}, tmp_path / "release.pth")
    fresh = EpisodeLoss(Encoder("resnet18"), Objective("prototypical", use_GC, 4, 256)).double()
    state = TrainingState(fresh, CPU, lr=0.3)
    restore(state, load_checkpoint(tmp_path / "release.pth"), episodes.per_epoch)
    assert (state.epoch, state.episode, state.lr) == (1, 0, 0.05)
    train_steps(state, episodes, 1)
    before = [parameter.clone() for parameter in model.parameters()]
    plain_step((2, 0))
    for old, expected, ours in zip(before, model.parameters(), state.model.parameters(), strict=True):
        assert (ours - expected).norm() <= 1e-6 * (expected - old).norm()


def test_unused_class_vectors_with_momentum_are_an_error(tmp_path: Path) -> None:
    """An official file trained with global classification, resumed with --use_GC False."""
    encoder, class_vectors = Encoder("resnet18"), torch.nn.Parameter(torch.randn(4, 256))
    optimizer = torch.optim.SGD(parameters_of(encoder, class_vectors), 0.05, momentum=0.9)
    for parameter in parameters_of(encoder, class_vectors):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    weights = {"state_dict": state_dict_of(encoder, class_vectors)}
    torch.save({"epoch": 2, **weights, "optimizer": optimizer.state_dict()}, tmp_path / "release.pth")
    n_ours = len(list(encoder.parameters()))
    with pytest.raises(ValueError, match=f"{n_ours + 1} parameters instead of {n_ours}"):
        restore(new_state(use_GC=False), load_checkpoint(tmp_path / "release.pth"), per_epoch=4)


def test_only_the_trunk_computes_in_bfloat16(episodes: TrainingEpisodes) -> None:
    state, seen = new_state(CPU._replace(dtype=torch.bfloat16)), dict[str, Any]()
    encoder, objective = state.model.encoder, state.model.objective
    encoder.trunk.register_forward_hook(lambda _, x, y: seen.setdefault("maps", []).append(y.detach()))
    objective.register_forward_hook(lambda _, x, y: seen.update(embeddings=x[:2], speaker=x[2], metrics=y))
    vectors = F.normalize(present(objective.class_vectors).detach().double(), dim=1)
    projection = encoder.projection.weight.detach().double()
    train_steps(state, episodes, 1)
    assert all(maps.dtype is torch.bfloat16 for maps in seen["maps"])
    by_hand = []
    for maps, embeddings in zip(seen["maps"], seen["embeddings"], strict=True):
        pooled = maps.double().mean(dim=(2, 3))
        normed = (pooled - pooled.mean(dim=0)) / (pooled.var(dim=0, unbiased=False) + 1e-5).sqrt()
        by_hand.append(normed.relu() @ projection.T)
        torch.testing.assert_close(embeddings[0].double(), by_hand[-1], rtol=1e-4, atol=1e-5)
    support, query = by_hand
    episodic = F.cross_entropy(query @ F.normalize(support, dim=1).T, torch.arange(3))
    everywhere = F.cross_entropy(torch.cat(by_hand) @ vectors.T, seen["speaker"].repeat(2))
    assert seen["metrics"].loss.item() == pytest.approx((episodic + everywhere).item(), rel=1e-5)


class NoFloat64(TorchFunctionMode):
    """Imitates a device without float64, such as MPS: results of parameters are on it until cpu() copies them."""

    def __torch_function__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        result = func(*args, **(kwargs or {}))
        given = [x for arg in args for x in (arg if isinstance(arg, list | tuple) else [arg])]
        on_device = any(isinstance(x, torch.nn.Parameter) or getattr(x, "on_device", False) for x in given)
        if not (on_device and isinstance(result, torch.Tensor)):
            return result
        if func is torch.Tensor.cpu:
            return result.clone()
        assert result.dtype is not torch.float64, f"{func} makes float64 on the device"
        vars(result)["on_device"] = True
        return result


def test_nothing_is_float64_before_it_is_on_the_cpu(
    features: FeatureIndex, episodes: TrainingEpisodes, tmp_path: Path
) -> None:
    state, rows = new_state(), np.arange(8)
    with NoFloat64():
        train_steps(state, episodes, 4)
        save_state(tmp_path / "x.pth", state)
        restore(new_state(), load_checkpoint(tmp_path / "x.pth"), episodes.per_epoch)
        segments = Segments.full(features, rows)
        score(state.model.encoder.for_inference(), features, segments, segments, CPU)
