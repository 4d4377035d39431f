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

from dataset.episodes import Episode, TrainingEpisodes
from dataset.features import write_feature
from dataset.index import FeatureIndex
from evaluation.embedding import Segments, score
from loss import Objective
from model.checkpoint import load_checkpoint, parameters_of, state_dict_of
from model.encoder import Encoder
from system.compute import Compute
from system.console import UserError
from training.loop import EpisodeLoss, Run

CPU = Compute(torch.device("cpu"), torch.float32, 0)


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Train a small network: what is tested here does not depend on its size."""
    with small_network("resnet18"):
        yield


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    tree, rng = tmp_path_factory.mktemp("training") / "feat", np.random.default_rng(0)
    for s in range(4):
        for u in range(6):
            write_feature(tree / f"s{s}" / "v" / f"{u}.pkl", 5 * rng.normal(size=(210 + s, 40)) + s, f"s{s}")
    return FeatureIndex([tree])


def new_run(
    features: FeatureIndex, compute: Compute = CPU, lr: float = 0.05, max_grad_norm: float | None = None
) -> Run:
    episodes = TrainingEpisodes(features, n_way=3, n_shot=1, n_query=1, use_variable=True, seed=7)
    torch.manual_seed(7)
    model = EpisodeLoss(Encoder("resnet18"), Objective("prototypical", True, len(features.speakers), 256))
    return Run(model, episodes, compute, lr, max_grad_norm)


def state(run: Run) -> list[torch.Tensor]:
    momentum = [entry["momentum_buffer"] for entry in run.optimizer.state_dict()["state"].values()]
    return [*run.model.state_dict().values(), *momentum]


class Stop(Exception):
    pass


def stop_after(run: Run, n_episodes: int) -> None:
    def after_episode() -> None:
        if (run.epoch, run.episode) == divmod(n_episodes, 4):
            raise Stop

    with pytest.raises(Stop):
        while True:
            run.train_epoch(after_episode)


@pytest.fixture(scope="module")
def undisturbed(features: FeatureIndex) -> tuple[Run, list]:
    run = new_run(features)
    assert run._episodes.per_epoch == 4
    return run, [run.train_epoch(lambda: None).terms for _ in range(2)]


@pytest.mark.parametrize("n_done", [1, 3, 5])
def test_a_run_stopped_anywhere_goes_on_bit_by_bit(
    features: FeatureIndex, undisturbed: tuple[Run, list], tmp_path: Path, n_done: int
) -> None:
    stopped = new_run(features)
    stop_after(stopped, n_done)
    stopped.save(tmp_path / "x.pth", speakers=features.speakers)

    torch.manual_seed(99)
    resumed = Run(
        EpisodeLoss(Encoder("resnet18"), Objective("prototypical", True, 4, 256)), stopped._episodes, CPU, lr=0.3
    )
    resumed.restore(load_checkpoint(tmp_path / "x.pth"))
    assert (resumed.epoch, resumed.episode) == divmod(n_done, 4)
    while resumed.epoch < 2:
        terms = resumed.train_epoch(lambda: None).terms
    run, expected = undisturbed
    assert terms == expected[-1]
    assert all(torch.equal(a, b) for a, b in zip(state(run), state(resumed), strict=True))
    assert run.scheduler.state_dict() == resumed.scheduler.state_dict()


def test_the_same_seed_trains_the_same_with_loader_processes(
    features: FeatureIndex, undisturbed: tuple[Run, list]
) -> None:
    run = new_run(features, CPU._replace(num_workers=2))
    for _ in range(2):
        run.train_epoch(lambda: None)
    assert all(torch.equal(a, b) for a, b in zip(state(undisturbed[0]), state(run), strict=True))


def test_gradients_are_clipped_on_demand(features: FeatureIndex) -> None:
    norms = []
    for limit in (None, 0.01):
        run = new_run(features, max_grad_norm=limit)
        stop_after(run, 1)
        norms.append(sum(float(present(of.grad).square().sum()) for of in run.model.parameters()) ** 0.5)
    assert norms[0] > 0.1 and norms[1] == pytest.approx(0.01, rel=1e-3)


def test_the_plateau_scheduler_sees_epoch_means(features: FeatureIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = new_run(features), list[float]()
    monkeypatch.setattr(run.scheduler, "step", seen.append)
    means = [run.train_epoch(lambda: None).terms.loss for _ in range(2)]
    assert seen == means


def test_bf16_begins_as_fp32_does_and_keeps_fp32_weights(features: FeatureIndex) -> None:
    losses = []
    for dtype in (torch.bfloat16, torch.float32):
        run = new_run(features, CPU._replace(dtype=dtype))
        stop_after(run, 1)
        losses.append(run.mean_terms().loss)
        assert all(parameter.dtype is torch.float32 for parameter in run.model.parameters())
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_episode(features: FeatureIndex) -> None:
    run = new_run(features)
    run.train_epoch(lambda: None)
    run.model.encoder.projection.weight.data.fill_(float("inf"))
    with pytest.raises(UserError, match=r"epoch 2, episode 1: the loss is not finite.*s\d/v/\d"):
        run.train_epoch(lambda: None)


def test_a_checkpoint_of_other_speakers_is_refused(features: FeatureIndex, tmp_path: Path) -> None:
    new_run(features).save(tmp_path / "x.pth")
    episodes = TrainingEpisodes(features, n_way=3, n_shot=1, n_query=1, use_variable=True, seed=7)
    other = Run(EpisodeLoss(Encoder("resnet18"), Objective("prototypical", True, 9, 256)), episodes, CPU, lr=0.1)
    with pytest.raises(ValueError, match="class vectors of 4 speakers, this training needs 9"):
        other.restore(load_checkpoint(tmp_path / "x.pth"))


class DoubleEpisodes(TrainingEpisodes):
    """Float64: convolutions of another memory format round otherwise, here by far less than what is compared."""

    def __getitem__(self, at: tuple[int, int]) -> Episode:
        support, query, speaker = super().__getitem__(at)
        return Episode(support.double(), query.double(), speaker)


@pytest.mark.parametrize("use_GC", [True, False])
def test_a_releases_file_goes_on_as_a_plain_loop_does(features: FeatureIndex, tmp_path: Path, use_GC: bool) -> None:
    """The plain loop is the release's: contiguous, unfused, class vectors in the optimiser whether used or not."""
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
    run = Run(fresh, episodes, CPU, lr=0.3)
    run.restore(load_checkpoint(tmp_path / "release.pth"))
    assert run.epoch == 1 and run.optimizer.param_groups[0]["lr"] == 0.05
    stop_after(run, 5)
    before = [parameter.clone() for parameter in model.parameters()]
    plain_step((2, 0))
    for old, expected, ours in zip(before, model.parameters(), run.model.parameters(), strict=True):
        assert (ours - expected).norm() <= 1e-6 * (expected - old).norm()


def test_momentum_of_class_vectors_is_not_dropped_where_there_are_none(features: FeatureIndex, tmp_path: Path) -> None:
    """A release's file trained with global classification, gone on with by --use_GC False."""
    encoder, class_vectors = Encoder("resnet18"), torch.nn.Parameter(torch.randn(4, 256))
    optimizer = torch.optim.SGD(parameters_of(encoder, class_vectors), 0.05, momentum=0.9)
    for parameter in parameters_of(encoder, class_vectors):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    weights = {"state_dict": state_dict_of(encoder, class_vectors)}
    torch.save({"epoch": 2, **weights, "optimizer": optimizer.state_dict()}, tmp_path / "release.pth")
    episodes = TrainingEpisodes(features, n_way=3, n_shot=1, n_query=1, use_variable=True, seed=7)
    run = Run(EpisodeLoss(Encoder("resnet18"), Objective("prototypical", False, 4, 256)), episodes, CPU, lr=0.3)
    n_ours = len(list(encoder.parameters()))
    with pytest.raises(ValueError, match=f"its optimiser steps {n_ours + 1} parameters, this training's {n_ours}"):
        run.restore(load_checkpoint(tmp_path / "release.pth"))


def test_only_the_trunk_computes_in_bfloat16(features: FeatureIndex) -> None:
    run, seen = new_run(features, CPU._replace(dtype=torch.bfloat16)), dict[str, Any]()
    encoder, objective = run.model.encoder, run.model.objective
    encoder.trunk.register_forward_hook(lambda _, x, y: seen.setdefault("maps", []).append(y.detach()))
    objective.register_forward_hook(lambda _, x, y: seen.update(embeddings=x[:2], speaker=x[2], terms=y))
    vectors = F.normalize(present(objective.class_vectors).detach().double(), dim=1)
    projection = encoder.projection.weight.detach().double()
    stop_after(run, 1)
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
    assert seen["terms"].loss.item() == pytest.approx((episodic + everywhere).item(), rel=1e-5)


class NoFloat64(TorchFunctionMode):
    """A device without float64, as MPS is: what parameters were computed with is on it, until cpu() copies it."""

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


def test_nothing_is_float64_before_it_is_on_the_cpu(features: FeatureIndex, tmp_path: Path) -> None:
    run, rows = new_run(features), np.arange(8)
    with NoFloat64():
        run.train_epoch(lambda: None)
        run.save(tmp_path / "x.pth")
        new_run(features).restore(load_checkpoint(tmp_path / "x.pth"))
        whole = Segments.whole(features, rows)
        score(run.model.encoder.for_inference(), features, whole, whole, CPU)
