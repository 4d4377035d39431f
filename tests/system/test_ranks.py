"""Two ranks on one processor train, score and extract like one."""

import functools
import json
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import PROJECT, TORCHRUN, here, present, run_script, voice, write_wavs
from torch.nn.utils import convert_conv2d_weight_memory_format

from configure import TREES
from dataset.episodes import TrainingEpisodes, episode_order
from dataset.index import FeatureIndex
from loss import Objective
from model.checkpoint import Checkpoint, load_checkpoint, parameters_of
from system.console import UsageError
from training.step import EpisodeLoss

TRAIN = "--backbone resnet18 --nb_class_train 4 --n_query 1 --precision fp32 --lr 0.01 --num_workers 0".split()
pytestmark = pytest.mark.slow


torchrun = functools.partial(run_script, launcher=TORCHRUN)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/: 16 utterances, so that an epoch has one episode for each rank; and some to score."""
    home = tmp_path_factory.mktemp("ranks")
    write_wavs(home / "data", "vox2_dev", range(4), 4)
    write_wavs(home / "data", "vox1_test", range(30, 33), 3)
    broken = home / "data" / TREES["vox1_test"].wav / "id00031" / "video0" / "00009.wav"
    broken.write_bytes(b"no wav")
    done = torchrun("feat_extract/feature_extraction.py", cwd=home, check=1)
    assert done.stdout.count("features: 25 files written, 0 existed already, 1 failed") == 1
    assert f"{broken.relative_to(home)}: no readable audio" in (home / "data" / "feature_errors.csv").read_text()
    return home


def test_two_ranks_extract_the_features_of_one(home: Path, tmp_path: Path) -> None:
    path = Path("id00002", "video1", "00001")
    wav = tmp_path / "data" / TREES["vox2_dev"].wav / f"{path}.wav"
    wav.parent.mkdir(parents=True)
    soundfile.write(wav, voice(2, 2.7, 1), 16000, subtype="PCM_16")
    here("feat_extract/feature_extraction.py", cwd=tmp_path)
    alone, shared = (root / "data" / TREES["vox2_dev"].feat / f"{path}.pkl" for root in (tmp_path, home))
    assert alone.read_bytes() == shared.read_bytes()


def gradients(start: Checkpoint, home: Path, at: tuple[int, int]) -> list[torch.Tensor]:
    """Return the gradients of one episode, computed by one process."""
    features = FeatureIndex([home / "data" / TREES["vox2_dev"].feat])
    episodes = TrainingEpisodes(features, n_way=4, n_shot=1, n_query=1, use_variable=True, seed=100)
    assert episodes.per_epoch == 2
    model = EpisodeLoss(start.encoder(), Objective("prototypical", True, 4, 256))
    present(model.objective.class_vectors).data.copy_(present(start.class_vectors))
    convert_conv2d_weight_memory_format(model, torch.channels_last)  # contiguous convolutions would round differently
    model(*episodes[at]).loss.backward()
    return [present(parameter.grad) for parameter in parameters_of(model.encoder, model.objective.class_vectors)]


def test_two_ranks_use_the_mean_gradient_and_one_resumes_with_their_learning_rate(home: Path) -> None:
    here("train.py", *TRAIN, "--max_epoch", 0, cwd=home)
    flags = [*TRAIN, "--n_folder", 1]
    done = torchrun("train.py", *flags, "--scale_lr", True, "--max_epoch", 1, cwd=home)
    assert done.stdout.count("epoch 1: loss") == 1 and "2 ranks share the episodes" in done.stdout
    begun = load_checkpoint(home / "saved_model" / "baseline_000" / "checkpoint_000.pth")
    after = load_checkpoint(home / "saved_model" / "baseline_001" / "checkpoint_001.pth")
    weights = [value for name, value in begun.state_dict.items() if "running" not in name and "num_" not in name]
    both = zip(gradients(begun, home, (1, 0)), gradients(begun, home, (1, 1)), weights, strict=True)
    for at, (one, other, weight) in enumerate(both):
        # The first momentum of SGD is the gradient with weight decay.
        stepped_along = after.optimizer["state"][at]["momentum_buffer"] - 1e-4 * weight
        torch.testing.assert_close(stepped_along, (one + other) / 2, rtol=1e-4, atol=1e-5)
    folder = home / "saved_model" / "baseline_001"
    assert json.loads((folder / "config.json").read_text())["ranks"] == 2
    done = here("train.py", *flags, "--use_checkpoint", True, "--max_epoch", 2, cwd=home)
    assert "1 epochs and 0 episodes completed" in done.stdout and "lr 0.02" in done.stdout


def test_two_ranks_compute_the_scores_of_one(home: Path) -> None:
    here("train.py", *TRAIN, "--n_folder", 3, "--max_epoch", 0, cwd=home)
    flags = ["--n_folder", 3, "--test_length", 50, "--json"]
    together = torchrun("EER_short.py", *flags, "--save_scores", "two.csv", cwd=home)
    assert together.stderr.count("scored: 600 trials") == 1
    alone = here("EER_short.py", *flags, "--save_scores", "one.csv", cwd=home)
    assert together.stdout == alone.stdout
    assert (home / "one.csv").read_bytes() == (home / "two.csv").read_bytes()


def test_an_error_of_two_ranks_is_one_line(home: Path) -> None:
    done = torchrun("train.py", *TRAIN, "--n_folder", 4, "--nb_class_train", 9, cwd=home, check=1)
    errors = [line for line in done.stderr.splitlines() if "train.py" in line and "needs 9 speakers" in line]
    assert errors and 'Traceback (most recent call last):\n  File "' + str(PROJECT / "train.py") not in done.stderr
    done = here("train.py", *TRAIN, "--n_folder", 4, "--sync_bn", True, cwd=home, check=2)
    assert "--sync_bn True: torch synchronises batch norm on CUDA only" in done.stderr


def test_ranks_take_turns_and_equally_many_episodes() -> None:
    assert [list(episode_order(8, 0, 0, 2, rank, 3)) for rank in range(3)] == [
        [(1, 0), (1, 3), (2, 0), (2, 3)], [(1, 1), (1, 4), (2, 1), (2, 4)], [(1, 2), (1, 5), (2, 2), (2, 5)]
    ]  # fmt: skip
    saved_by_two = [list(episode_order(8, 1, 4, 3, rank, 3)) for rank in range(3)]
    assert saved_by_two == [[(2, 4), (3, 0), (3, 3)], [(2, 5), (3, 1), (3, 4)], [(2, 6), (3, 2), (3, 5)]]


def test_more_ranks_than_episodes_are_an_error(home: Path) -> None:
    features = FeatureIndex([home / "data" / TREES["vox2_dev"].feat])
    with pytest.raises(UsageError, match="an epoch has 2 episodes, too few for 3 ranks"):
        TrainingEpisodes(features, n_way=4, n_shot=1, n_query=1, use_variable=True, seed=100, n_ranks=3)
