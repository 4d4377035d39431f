"""Results on a CUDA device equal those on the CPU. Needs only torch and NumPy, not pytest:

    python tests/test_cuda.py
    METASR_TEST_DEVICE=cpu python tests/test_cuda.py  # tests these tests without a GPU

METASR_SHARED is the folder with golden/release_checkpoint.pth (default: shared, next to the checkout).
"""

import os

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # required by deterministic algorithms, read when CUDA starts

import itertools
import sys
import tempfile
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))  # this file may run as a script

from dataset.episodes import Episode, TrainingEpisodes, episode_order  # noqa: E402
from dataset.features import write_feature  # noqa: E402
from dataset.index import FeatureIndex  # noqa: E402
from evaluation.embedding import Segments, embed  # noqa: E402
from loss import Objective  # noqa: E402
from model.checkpoint import load_checkpoint  # noqa: E402
from model.encoder import Encoder  # noqa: E402
from system.compute import Compute, inference  # noqa: E402
from system.loading import Loader  # noqa: E402
from training.checkpoints import restore, save_state  # noqa: E402
from training.step import EpisodeLoss, TrainingState, end_epoch, train_step  # noqa: E402

DEVICE = os.environ.get("METASR_TEST_DEVICE", "cuda")
OFFICIAL = Path(os.environ.get("METASR_SHARED", PROJECT.parent / "shared")) / "golden" / "release_checkpoint.pth"
PER_EPOCH = 4


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@unittest.skipUnless(DEVICE == "cpu" or torch.cuda.is_available(), "no CUDA device")
class TestCuda(unittest.TestCase):
    features: FeatureIndex
    compute: Compute
    folder: Path

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        rng = np.random.default_rng(0)
        for s in range(4):
            for u in range(6):
                feat = 5 * rng.normal(size=(210 + 17 * u, 40)) + s
                write_feature(cls.folder / "feat" / f"s{s}" / "v" / f"{u}.pkl", feat, f"s{s}")
        cls.features = FeatureIndex([cls.folder / "feat"])
        cls.compute = inference(DEVICE)  # float32
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # as in train.py

    def embeddings(self, encoder: Encoder, compute: Compute) -> torch.Tensor:
        rows = np.arange(len(self.features))
        torch.manual_seed(0)
        full, windows = Segments.full(self.features, rows), Segments(rows, rows % 7, np.full(len(rows), 100))
        prepared = encoder.for_inference(compute.device)
        both = [embed(prepared, self.features, segments, compute) for segments in (full, windows)]
        return torch.nn.functional.normalize(torch.cat(both), dim=1)

    def assert_embeddings_agree(self, encoder: Encoder) -> None:
        ours = self.embeddings(encoder, self.compute)
        expected = self.embeddings(encoder.cpu(), inference("cpu"))
        self.assertEqual(ours.shape, (48, 256))
        self.assertLess(float((ours - expected).abs().max()), 1e-4)

    def test_embeddings_equal_those_of_the_cpu(self) -> None:
        torch.manual_seed(1)
        self.assert_embeddings_agree(Encoder("resnet34"))

    @unittest.skipUnless(OFFICIAL.is_file(), "no official checkpoint")
    def test_embeddings_of_the_official_checkpoint_equal_those_of_the_cpu(self) -> None:
        self.assert_embeddings_agree(load_checkpoint(OFFICIAL).encoder())

    def new_state(self, compute: Compute) -> TrainingState:
        torch.manual_seed(7)
        model = EpisodeLoss(Encoder("resnet18"), Objective("prototypical", True, 4, 256))
        return TrainingState(model, compute, lr=0.05, speakers=self.features.speakers)

    def train_steps(self, state: TrainingState, n_steps: int, num_workers: int = 0) -> None:
        """Train n_steps episodes from the position of the state, end the epochs among them, and gather the metrics."""
        episodes = TrainingEpisodes(self.features, n_way=3, n_shot=1, n_query=1, use_variable=True, seed=7)
        self.assertEqual(episodes.per_epoch, PER_EPOCH)
        order = episode_order(PER_EPOCH, state.epoch, state.episode, 99)
        loader = Loader[Episode](episodes, num_workers, episodes.max_bytes, state.compute.device.type == "cuda")
        with loader.batches(order) as batches:
            for episode in itertools.islice(batches, n_steps):
                train_step(state, episode)
                if state.episode == PER_EPOCH:
                    state.metrics.all_gather()
                    end_epoch(state)
        state.metrics.all_gather()

    def weights(self, state: TrainingState) -> dict[str, torch.Tensor]:
        return {name: value.detach().cpu().clone() for name, value in state.model.state_dict().items()}

    def test_losses_and_a_training_step_equal_those_of_the_cpu(self) -> None:
        found = []
        for compute in (self.compute, inference("cpu")):
            state = self.new_state(compute)
            before = self.weights(state)
            self.train_steps(state, 1)
            steps = {name: value - before[name] for name, value in self.weights(state).items() if "batches" not in name}
            found.append((state.metrics.means(), steps))
        (ours, our_steps), (expected, steps) = found
        for name, value in expected.items():
            self.assertAlmostEqual(ours[name], value, delta=1e-4 * max(1, abs(value)), msg=name)
        # In float32 the step of a layer differs from float64 by up to 2.5e-3 of its norm on a CPU, 6.5e-3 on an H100.
        for name, step in steps.items():
            self.assertLess(float((our_steps[name] - step).norm()), 3e-2 * float(step.norm()) + 1e-7, msg=name)

    def test_deterministic_runs_are_bit_identical_also_resumed(self) -> None:
        with deterministic():
            states = [self.new_state(self.compute) for _ in range(3)]
            for state in states[:2]:
                self.train_steps(state, 2 * PER_EPOCH)
            self.train_steps(states[2], PER_EPOCH + 1)
            save_state(self.folder / "stopped.pth", states[2])
            resumed = self.new_state(self.compute)
            restore(resumed, load_checkpoint(self.folder / "stopped.pth"), PER_EPOCH)
            self.assertEqual((resumed.epoch, resumed.episode), (1, 1))
            self.train_steps(resumed, PER_EPOCH - 1)
        expected = self.weights(states[0])
        for other in (states[1], resumed):
            for name, value in self.weights(other).items():
                self.assertTrue(torch.equal(value, expected[name]), name)

    def test_bfloat16_has_nearly_the_loss_of_float32_and_float32_weights(self) -> None:
        losses = []
        for dtype in (torch.float32, torch.bfloat16):
            state = self.new_state(self.compute._replace(dtype=dtype))
            self.train_steps(state, 1)
            losses.append(state.metrics.means()["loss"])
            self.assertTrue(all(parameter.dtype is torch.float32 for parameter in state.model.parameters()))
        self.assertNotEqual(*losses)
        self.assertLess(abs(losses[1] - losses[0]), 0.05 * losses[0])

    def test_loader_processes_do_not_change_the_result(self) -> None:
        with deterministic():
            states = [self.new_state(self.compute) for _ in range(2)]
            for state, num_workers in zip(states, (0, 2), strict=True):
                self.train_steps(state, PER_EPOCH, num_workers)
        alone, fed = (self.weights(state) for state in states)
        self.assertTrue(all(torch.equal(alone[name], fed[name]) for name in alone))


if __name__ == "__main__":
    unittest.main()
