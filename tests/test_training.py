from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoint import load_checkpoint
from console import UserError
from dataset.episodes import TrainingEpisodes
from dataset.features import write_feature
from dataset.index import FeatureIndex
from loss import Objective
from model.encoder import Encoder
from runtime import Compute
from training import EpisodeLoss, Run

CPU = Compute(torch.device("cpu"), torch.float32, 0)


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> FeatureIndex:
    tree, rng = tmp_path_factory.mktemp("training") / "feat", np.random.default_rng(0)
    for s in range(4):
        for u in range(6):
            write_feature(tree / f"s{s}" / "v" / f"{u}.pkl", 5 * rng.normal(size=(210 + s, 40)) + s, f"s{s}")
    return FeatureIndex([tree])


def new_run(features: FeatureIndex, compute: Compute = CPU, lr: float = 0.05) -> Run:
    episodes = TrainingEpisodes(features, n_way=3, n_shot=1, n_query=1, use_variable=True, seed=7)
    torch.manual_seed(7)
    model = EpisodeLoss(Encoder("resnet18"), Objective("prototypical", True, len(features.speakers), 256))
    return Run(model, episodes, compute, lr)


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
def test_a_run_stopped_anywhere_goes_on_bit_by_bit(features, undisturbed, tmp_path: Path, n_done: int) -> None:
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


def test_the_same_seed_trains_the_same_with_loader_processes(features, undisturbed) -> None:
    run = new_run(features, CPU._replace(num_workers=2))
    for _ in range(2):
        run.train_epoch(lambda: None)
    assert all(torch.equal(a, b) for a, b in zip(state(undisturbed[0]), state(run), strict=True))


def test_the_plateau_scheduler_sees_epoch_means(features) -> None:
    run, seen = new_run(features), []
    run.scheduler.step = seen.append
    means = [run.train_epoch(lambda: None).terms.loss for _ in range(2)]
    assert seen == means


def test_bf16_begins_as_fp32_does_and_keeps_fp32_weights(features) -> None:
    losses = []
    for dtype in (torch.bfloat16, torch.float32):
        run = new_run(features, CPU._replace(dtype=dtype))
        stop_after(run, 1)
        losses.append(run.mean_terms().loss)
        assert all(parameter.dtype is torch.float32 for parameter in run.model.parameters())
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_episode(features) -> None:
    run = new_run(features)
    run.train_epoch(lambda: None)
    run.model.encoder.projection.weight.data.fill_(float("inf"))
    with pytest.raises(UserError, match=r"epoch 2, episode 1: the loss is not finite.*s\d/v/\d"):
        run.train_epoch(lambda: None)


def test_a_checkpoint_of_other_speakers_is_refused(features, tmp_path: Path) -> None:
    new_run(features).save(tmp_path / "x.pth")
    episodes = TrainingEpisodes(features, n_way=3, n_shot=1, n_query=1, use_variable=True, seed=7)
    other = Run(EpisodeLoss(Encoder("resnet18"), Objective("prototypical", True, 9, 256)), episodes, CPU, lr=0.1)
    with pytest.raises(ValueError, match="class vectors of 4 speakers, this training needs 9"):
        other.restore(load_checkpoint(tmp_path / "x.pth"))
