"""What holds on the CPU holds on a CUDA device. Needs torch and NumPy only, no pytest, for machines that have no more:

    python tests/test_cuda.py
    METASR_TEST_DEVICE=cpu python tests/test_cuda.py  # the same checks without a GPU: of the checks themselves

METASR_SHARED names the folder that may hold golden/release_checkpoint.pth (shared, beside the checkout).
"""

import os

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when CUDA starts; deterministic algorithms need it

import sys
import tempfile
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))  # run as a file, Python sees only this folder

from dataset.episodes import TrainingEpisodes  # noqa: E402
from dataset.features import write_feature  # noqa: E402
from dataset.index import FeatureIndex  # noqa: E402
from evaluation.embedding import Segments, embed  # noqa: E402
from loss import Objective  # noqa: E402
from model.checkpoint import load_checkpoint  # noqa: E402
from model.encoder import Encoder  # noqa: E402
from system.compute import Compute, inference  # noqa: E402
from training.loop import EpisodeLoss, Run  # noqa: E402

DEVICE = os.environ.get("METASR_TEST_DEVICE", "cuda")
RELEASE = Path(os.environ.get("METASR_SHARED", PROJECT.parent / "shared")) / "golden" / "release_checkpoint.pth"
PER_EPOCH = 4


class StopRun(Exception):
    """Ends an epoch after an episode."""


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
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # as train.py has it

    def embeddings(self, encoder: Encoder, compute: Compute) -> torch.Tensor:
        rows = np.arange(len(self.features))
        torch.manual_seed(0)
        whole, windows = Segments.whole(self.features, rows), Segments(rows, rows % 7, np.full(len(rows), 100))
        prepared = encoder.for_inference(compute.device)
        both = [embed(prepared, self.features, segments, compute) for segments in (whole, windows)]
        return torch.nn.functional.normalize(torch.cat(both), dim=1)

    def assert_embeddings_agree(self, encoder: Encoder) -> None:
        ours = self.embeddings(encoder, self.compute)
        expected = self.embeddings(encoder.cpu(), inference("cpu"))
        self.assertEqual(ours.shape, (48, 256))
        self.assertLess(float((ours - expected).abs().max()), 1e-4)

    def test_embeddings_are_the_cpus(self) -> None:
        torch.manual_seed(1)
        self.assert_embeddings_agree(Encoder("resnet34"))

    @unittest.skipUnless(RELEASE.is_file(), "no release checkpoint beside the checkout")
    def test_the_releases_checkpoint_embeds_as_on_the_cpu(self) -> None:
        self.assert_embeddings_agree(load_checkpoint(RELEASE).encoder())

    def new_run(self, compute: Compute) -> Run:
        episodes = TrainingEpisodes(self.features, n_way=3, n_shot=1, n_query=1, use_variable=True, seed=7)
        self.assertEqual(episodes.per_epoch, PER_EPOCH)
        torch.manual_seed(7)
        model = EpisodeLoss(Encoder("resnet18"), Objective("prototypical", True, 4, 256))
        return Run(model, episodes, compute, lr=0.05)

    def stop_after(self, run: Run, n_episodes: int) -> None:
        def after_episode() -> None:
            if (run.epoch, run.episode) == divmod(n_episodes, PER_EPOCH):
                raise StopRun

        with self.assertRaises(StopRun):
            while True:
                run.train_epoch(after_episode)

    def weights(self, run: Run) -> dict[str, torch.Tensor]:
        return {name: value.detach().cpu().clone() for name, value in run.model.state_dict().items()}

    def test_losses_and_a_training_step_are_the_cpus(self) -> None:
        found = []
        for compute in (self.compute, inference("cpu")):
            run = self.new_run(compute)
            before = self.weights(run)
            self.stop_after(run, 1)
            steps = {name: value - before[name] for name, value in self.weights(run).items() if "batches" not in name}
            found.append((run.mean_terms(), steps))
        (ours, our_steps), (expected, steps) = found
        for name, value in expected._asdict().items():
            self.assertAlmostEqual(getattr(ours, name), value, delta=1e-4 * max(1, abs(value)), msg=name)
        # Against float64 a layer's step is off by up to 2.5e-3 of its norm on a CPU and 6.5e-3 on an H100, in float32.
        for name, step in steps.items():
            self.assertLess(float((our_steps[name] - step).norm()), 3e-2 * float(step.norm()) + 1e-7, msg=name)

    def test_deterministic_runs_are_equal_and_go_on_bit_by_bit(self) -> None:
        with deterministic():
            runs = [self.new_run(self.compute) for _ in range(3)]
            for run in runs[:2]:
                while run.epoch < 2:
                    run.train_epoch(lambda: None)
            self.stop_after(runs[2], PER_EPOCH + 1)
            runs[2].save(self.folder / "stopped.pth", speakers=self.features.speakers)
            resumed = self.new_run(self.compute)
            resumed.restore(load_checkpoint(self.folder / "stopped.pth"))
            self.assertEqual((resumed.epoch, resumed.episode), (1, 1))
            while resumed.epoch < 2:
                resumed.train_epoch(lambda: None)
        expected = self.weights(runs[0])
        for other in (runs[1], resumed):
            for name, value in self.weights(other).items():
                self.assertTrue(torch.equal(value, expected[name]), name)

    def test_bfloat16_begins_as_float32_does_and_keeps_float32_weights(self) -> None:
        losses = []
        for dtype in (torch.float32, torch.bfloat16):
            run = self.new_run(self.compute._replace(dtype=dtype))
            self.stop_after(run, 1)
            losses.append(run.mean_terms().loss)
            self.assertTrue(all(parameter.dtype is torch.float32 for parameter in run.model.parameters()))
        self.assertNotEqual(*losses)
        self.assertLess(abs(losses[1] - losses[0]), 0.05 * losses[0])

    def test_loader_processes_change_nothing(self) -> None:
        with deterministic():
            runs = [self.new_run(self.compute._replace(num_workers=n)) for n in (0, 2)]
            for run in runs:
                run.train_epoch(lambda: None)
        alone, fed = (self.weights(run) for run in runs)
        self.assertTrue(all(torch.equal(alone[name], fed[name]) for name in alone))


if __name__ == "__main__":
    unittest.main()
