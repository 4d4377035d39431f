"""Used from Python, the project changes nothing of the calling program."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import PROJECT, voice, write_features, write_wavs
from torch.nn import functional as F

from dataset.index import FeatureIndex
from dataset.trials import Trials
from evaluation import identification
from evaluation.context import EvaluationContext
from evaluation.embedding import Segments, cosine, embed
from evaluation.identification import EpisodeSize, sample_episodes
from evaluation.normalisation import Cohort, as_norm
from evaluation.verification import find_trials, score_trials
from model.checkpoint import Checkpoint, save_checkpoint, state_dict_of
from model.encoder import Encoder
from recognition.recognizer import Recognizer
from system.compute import Compute, inference, without_tf32


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the program reads /proc")
def test_the_calling_program_is_unchanged(tmp_path: Path) -> None:
    write_features(tmp_path / "many", 50, 50, n_frames=60)
    write_wavs(tmp_path, "vox2_dev", range(2), 20, seconds=0.5)
    command = [sys.executable, str(PROJECT / "tests" / "host_program.py"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    assert done.stderr == ""
    assert (tmp_path / "lived").exists()  # its child process was not killed


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="terminals are POSIX's")
def test_nothing_is_printed_on_the_terminal_and_problems_are_warnings(tmp_path: Path) -> None:
    write_features(tmp_path / "feat", 2, 2)
    soundfile.write(tmp_path / "two.wav", np.stack([voice(1, 2, 1), voice(2, 2, 2)], axis=1), 16000)
    code = """
import sys, warnings
from pathlib import Path
from dataset.index import FeatureIndex
from recognize import Recognizer

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    Recognizer(device="cpu").embed_files([Path(sys.argv[1], "two.wav")])
    FeatureIndex([Path(sys.argv[1], "feat")])
print([str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)])
"""
    terminal, its_end = os.openpty()
    command, environment = [sys.executable, "-c", code, str(tmp_path)], os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=its_end, text=True, timeout=60)
    os.set_blocking(terminal, False)
    with pytest.raises(BlockingIOError):
        assert os.read(terminal, 10_000) == b""
    assert done.returncode == 0 and "two.wav: its two channels carry different sound" in done.stdout


def in_threads(work: Callable[[int], np.ndarray], n_threads: int = 4) -> list[np.ndarray]:
    """Return the results of work(0), work(1), ..., started at the same time in one thread each."""
    gate = threading.Barrier(n_threads)

    def begin(number: int) -> np.ndarray:
        gate.wait()
        return work(number)

    with ThreadPoolExecutor(n_threads) as threads:
        return list(threads.map(begin, range(n_threads)))


@pytest.mark.slow
def test_threads_can_share_a_recognizer() -> None:
    recognizer = Recognizer(device="cpu")
    waves = [voice(n, 0.5 + n / 10, n) for n in range(4)]
    expected = np.stack([recognizer.embed(wave, 16000) for wave in waves])

    def work(number: int) -> np.ndarray:
        mine = np.roll(np.arange(len(waves)), number).repeat(2)
        found = np.stack([recognizer.embed(waves[i], 16000) for i in mine])
        return found - expected[mine]

    assert np.abs(in_threads(work)).max() < 1e-6


@contextmanager
def default_type() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


HOSTS = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default type": default_type,
    "default device": default_device,
    "device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
}


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_settings_of_torch_change_no_embedding(tmp_path: Path, host: Callable[[], AbstractContextManager]) -> None:
    """Not those under which the recogniser is made, and not those under which it is used."""
    write_features(tmp_path / "feat", 2, 2, n_frames=40)
    wave, path = voice(1, 0.6, 1), tmp_path / "network.pth"
    save_checkpoint(path, Checkpoint(1, state_dict_of(Encoder("resnet18"), None)))

    def embeddings(recognizer: Recognizer) -> np.ndarray:
        features, segments = FeatureIndex([tmp_path / "feat"]), Segments.full(index, np.arange(4))
        found = [recognizer.embed(wave, 16000)[None]]
        for n_workers in (0, 2):
            compute = Compute(torch.device("cpu"), torch.float32, n_workers)
            found.append(embed(recognizer.encoder, features, segments, compute).numpy())
        assert {array.dtype for array in found} == {np.dtype(np.float32)}
        return np.concatenate(found)

    index = FeatureIndex([tmp_path / "feat"])
    before = Recognizer(path, "cpu")
    expected = embeddings(before)
    with host():
        made_within = Recognizer(path, "cpu")
        np.testing.assert_array_equal(embeddings(before), expected)
        np.testing.assert_array_equal(embeddings(made_within), expected)
    np.testing.assert_array_equal(embeddings(made_within), expected)


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_settings_of_torch_change_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: Callable[[], AbstractContextManager]
) -> None:
    write_features(tmp_path / "feat", 12, 3, n_frames=4)
    features, encoder = FeatureIndex([tmp_path / "feat"]), Encoder("resnet18").for_inference()
    compute = Compute(torch.device("cpu"), torch.float32, 0)
    context = EvaluationContext(Checkpoint(1, {}), tmp_path, encoder, features, np.arange(12), compute)
    size = EpisodeSize(n_way=12, n_shot=1, n_query=2, enroll_length=4, test_length=4)
    windows = sample_episodes(features, np.arange(12), size, 1, seed=1)
    angles = 0.01 * torch.arange(12).repeat_interleave(3)  # their cosines are equal in bfloat16
    close = torch.stack([angles.cos(), angles.sin()], dim=1)
    monkeypatch.setattr(identification, "embed", lambda encoder, features, segments, compute: close[segments.row])
    embeddings = F.normalize(torch.randn(9, 256, generator=torch.Generator().manual_seed(0)), dim=1)
    left, right = torch.arange(4), torch.arange(4, 8)
    labels, enrol = np.array([True, False]), np.array(["a", "b"], object)
    listed = Trials(labels, enrol, np.array(["id00000/v0/00002", "id00001/v0/00002"], object))
    models = {"a": ["id00000/v0/00000", "id00000/v1/00001"], "b": ["id00001/v0/00000"]}
    trial_set = find_trials(features, listed, models)
    tests = {"full": Segments.full(features, trial_set.test)}

    def scores() -> list[np.ndarray]:
        normalised = as_norm(Cohort(embeddings, 3), embeddings, left, right)
        verified = [of_test.plain for of_test in score_trials(context, trial_set, tests)]
        accuracies = identification.accuracies(context, [size], [windows])
        return [cosine(embeddings, left, right), normalised, *verified, *accuracies]

    expected = scores()
    assert expected[-1] == 1
    with host():
        for found, without in zip(scores(), expected, strict=True):
            np.testing.assert_array_equal(found, without)


def test_threads_can_share_an_encoder(tmp_path: Path) -> None:
    write_features(tmp_path / "feat", 4, 2, n_frames=40)
    features, compute = FeatureIndex([tmp_path / "feat"]), inference("cpu")
    encoder = Encoder("resnet18").for_inference()
    segments = Segments.full(features, np.arange(len(features)))

    expected = embed(encoder, features, segments, compute)

    def work(number: int) -> np.ndarray:
        return np.stack([embed(encoder, features, segments, compute).numpy() for _ in range(5)])

    assert np.abs(np.stack(in_threads(work)) - expected.numpy()).max() < 1e-5


def test_an_encoder_in_training_mode_is_an_error(tmp_path: Path) -> None:
    write_features(tmp_path / "feat", 1, 1)
    features = FeatureIndex([tmp_path / "feat"])
    with pytest.raises(ValueError, match="for_inference"):
        embed(Encoder("resnet18"), features, Segments.full(features, np.arange(1)), inference("cpu"))


def tf32() -> list[bool]:
    return [torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32]


def test_tf32_is_off_while_threads_embed_on_cuda_and_then_as_before() -> None:
    before, cuda = tf32(), torch.device("cuda:0")  # the settings need no GPU
    assert before == [True, False]

    def work(number: int) -> np.ndarray:
        time.sleep(0.05 * number)
        with without_tf32(cuda):
            settings = [tf32()]
            time.sleep(0.12)
            return np.array([*settings, tf32()])

    assert not np.array(in_threads(work, 2)).any()
    assert tf32() == before
    with without_tf32(torch.device("cpu")):
        assert tf32() == before
