import errno
import hashlib
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from conftest import PROJECT, present

import model.checkpoint
from model.checkpoint import (
    Checkpoint,
    checkpoint_path,
    holds_run,
    load_checkpoint,
    newest_checkpoint,
    numbered_checkpoints,
    save_checkpoint,
    state_dict_of,
    unfinished_path,
)
from model.encoder import Encoder
from system import console
from system.console import UserError


def some(epoch: int, **metadata: Any) -> Checkpoint:
    return Checkpoint(epoch=epoch, state_dict=state_dict_of(Encoder("resnet18"), torch.randn(7, 256)), **metadata)


def test_a_saved_checkpoint_is_loaded(tmp_path: Path) -> None:
    sums = {"loss": 1.5, "global_loss": math.nan}
    saved = some(4, speakers=["a", "b"], data_type="vox1", episode=3, sums=sums)
    save_checkpoint(tmp_path / "x.pth", saved)
    loaded = load_checkpoint(tmp_path / "x.pth")
    assert (loaded.epoch, loaded.speakers, loaded.episode) == (4, ["a", "b"], 3)
    assert loaded.sums["loss"] == 1.5 and math.isnan(loaded.sums["global_loss"]) and len(loaded.sums) == 2
    assert loaded.backbone == "resnet18" and present(loaded.class_vectors).shape == (7, 256)
    assert all(torch.equal(saved.state_dict[name], value) for name, value in loaded.state_dict.items())
    assert os.listdir(tmp_path) == ["x.pth"]


def test_loading_in_one_thread_repeats_no_random_numbers_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread samples numbers while the encoder is built."""
    checkpoint, sampled = some(1), []

    def sample() -> None:
        sampled.append(torch.rand(4))

    class Slow(Encoder):
        def __init__(self, backbone: str):
            thread = threading.Thread(target=sample)
            thread.start()
            thread.join()
            super().__init__(backbone)

    monkeypatch.setattr(model.checkpoint, "Encoder", Slow)
    encoder = checkpoint.encoder()
    sample()
    assert not torch.equal(*sampled)
    state = state_dict_of(encoder, checkpoint.class_vectors)
    assert list(state) == list(checkpoint.state_dict)
    assert all(torch.equal(state[name], value) for name, value in checkpoint.state_dict.items())


def test_the_digest_is_computed_from_the_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.pth", some(4))
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    assert "digest" not in content
    torch.save(content | {"digest": "of another file"}, tmp_path / "x.pth")
    loaded = load_checkpoint(tmp_path / "x.pth")
    assert loaded.digest == hashlib.sha256((tmp_path / "x.pth").read_bytes()).hexdigest()
    save_checkpoint(tmp_path / "again.pth", loaded)
    assert torch.load(tmp_path / "again.pth", weights_only=True).keys() == content.keys()


def test_sums_of_earlier_versions_are_loaded(tmp_path: Path) -> None:
    content = vars(some(4, speakers=["a"], episode=3)) | {"sums": [6.0, 2.0, 4.0, 1.5, 0.5]}
    torch.save(content, tmp_path / "x.pth")
    names = "loss episodic_loss global_loss episodic_accuracy global_accuracy".split()
    assert load_checkpoint(tmp_path / "x.pth").sums == dict(zip(names, [6.0, 2.0, 4.0, 1.5, 0.5], strict=True))


@pytest.mark.parametrize("n_classes", [3, 5994])
def test_official_checkpoints_of_any_number_of_classes_are_loaded(tmp_path: Path, n_classes: int) -> None:
    state = state_dict_of(Encoder(), torch.randn(n_classes, 256))
    torch.save({"epoch": 13, "state_dict": state, "optimizer": {}}, tmp_path / "release.pth")
    loaded = load_checkpoint(tmp_path / "release.pth")
    assert loaded.epoch == 12 and loaded.backbone == "resnet34" and loaded.speakers == []
    assert len(present(loaded.class_vectors)) == n_classes


def test_bare_and_data_parallel_state_dicts_are_loaded(tmp_path: Path) -> None:
    state = some(1).state_dict
    wrapped = {f"module.{name}": value for name, value in state.items()}
    contents = {
        "bare": state,
        "wrapped": wrapped,
        "release": {"epoch": 5, "state_dict": wrapped, "optimizer": {}},
        "no_epoch": {"state_dict": state},
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / f"{name}.pth")
        loaded = load_checkpoint(tmp_path / f"{name}.pth")
        assert loaded.epoch == (4 if name == "release" else 0)
        assert list(loaded.state_dict) == list(state)
        assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict.items())


def test_missing_and_unexpected_content_is_named(tmp_path: Path) -> None:
    state = some(1).state_dict
    lacking = {name: value for name, value in state.items() if name != "fc1"}
    cases = {
        "model": ({"model": state}, "no state_dict but model"),
        "list": ([1], "no state_dict but list"),
        "other": ({"conv1.weight": torch.zeros(3)}, "its parameters .conv1.weight, .* do not belong to .*resnet34"),
        "lacking": (lacking, "1 missing parameters: fc1"),
        "more": (state | {"head.bias": torch.zeros(3)}, "1 unexpected parameters: head.bias"),
        "shape": (state | {"fc1": torch.zeros(3, 3)}, "size mismatch|shape"),
    }
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match=f"{name}.pth: not a checkpoint.*{message}") as refused:
            load_checkpoint(tmp_path / f"{name}.pth")
        assert "damaged" not in str(refused.value)


def test_names_and_order_are_the_official_ones(shared: Path) -> None:
    expected = [line.split(" ", 1)[0] for line in (shared / "golden" / "state_dict_keys.txt").read_text().splitlines()]
    assert list(state_dict_of(Encoder(), torch.randn(50, 256))) == expected


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_that_would_run_code_is_an_error(tmp_path: Path, legacy: bool) -> None:
    trace = tmp_path / "trace"
    content = {"epoch": 1, "state_dict": {"x": Payload(trace)}, "optimizer": {}}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match="evil.pth.*would run code"):
        load_checkpoint(tmp_path / "evil.pth")
    assert not trace.exists()


def test_a_truncated_checkpoint_of_any_length_is_an_error(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.pth", some(1))
    blob = (tmp_path / "x.pth").read_bytes()
    for size in (0, 1, 100, 4096, len(blob) // 2, len(blob) - 1000, len(blob) - 1):
        (tmp_path / "cut.pth").write_bytes(blob[:size])
        with pytest.raises(UserError, match="cut.pth"):
            load_checkpoint(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    "content", [[1, 2], {"state_dict": {}}, {"epoch": 1, "state_dict": {"conv.weight": torch.zeros(3)}}, {"epoch": 1}]
)
def test_other_content_is_an_error(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match="x.pth"):
        load_checkpoint(tmp_path / "x.pth")


def test_an_unreadable_disk_is_not_a_damaged_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for epoch in (1, 2):
        save_checkpoint(checkpoint_path(tmp_path, epoch), some(epoch))

    def fail(path: Path) -> bytes:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(OSError, match="checkpoint_002.pth"):  # an earlier one does not replace it
        newest_checkpoint(tmp_path)


def test_the_newest_intact_checkpoint_is_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        newest_checkpoint(tmp_path)
    for epoch in (1, 2, 10):
        save_checkpoint(checkpoint_path(tmp_path, epoch), some(epoch))
    assert newest_checkpoint(tmp_path)[0].name == "checkpoint_010.pth"
    assert newest_checkpoint(tmp_path, 2)[1].epoch == 2
    with pytest.raises(UserError, match="checkpoint_003.pth: no such checkpoint"):
        newest_checkpoint(tmp_path, 3)
    save_checkpoint(unfinished_path(tmp_path), some(10, episode=5))
    assert newest_checkpoint(tmp_path)[1].episode == 5
    assert newest_checkpoint(tmp_path, within_epoch=False)[1].episode == 0
    save_checkpoint(unfinished_path(tmp_path), some(9, episode=5))  # a kill after epoch 10's checkpoint was written
    assert newest_checkpoint(tmp_path)[0].name == "checkpoint_010.pth"
    intact = checkpoint_path(tmp_path, 10).read_bytes()
    checkpoint_path(tmp_path, 10).write_bytes(intact[:5000])
    assert newest_checkpoint(tmp_path)[1].episode == 5
    checkpoint_path(tmp_path, 10).write_bytes(intact)
    for damaged in (unfinished_path(tmp_path), checkpoint_path(tmp_path, 10)):
        damaged.write_bytes(damaged.read_bytes()[:5000])
    assert newest_checkpoint(tmp_path)[1].epoch == 2


def test_a_folder_with_only_damaged_checkpoints_is_an_error(tmp_path: Path) -> None:
    unfinished_path(tmp_path).write_bytes(b"PK")
    with pytest.raises(UserError, match="no checkpoint"):
        newest_checkpoint(tmp_path, within_epoch=False)
    checkpoint_path(tmp_path, 1).write_bytes(b"PK")
    with pytest.raises(UserError, match="no intact checkpoint"):
        newest_checkpoint(tmp_path)


def test_an_unreadable_folder_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(checkpoint_path(tmp_path, 1), some(1))
    (tmp_path / "teacher.pth").write_bytes(b"another's")
    assert holds_run(tmp_path) and list(numbered_checkpoints(tmp_path)) == [1]
    assert not holds_run(tmp_path / "nowhere")

    def forbidden(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, forbidden)
    for ask in (holds_run, numbered_checkpoints, newest_checkpoint):
        with pytest.raises(PermissionError):
            ask(tmp_path)


def test_lack_of_memory_is_not_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "x.pth", some(1))
    monkeypatch.setattr(torch, "load", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        load_checkpoint(tmp_path / "x.pth")


WITH_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from model.checkpoint import checkpoint_path, load_checkpoint, newest_checkpoint
from system import console

folder, share = Path(sys.argv[1]), float(sys.argv[2])
load_checkpoint(checkpoint_path(folder, 1))  # without limit: imports and caches
used = 1024 * int(Path("/proc/self/status").read_text().split("VmSize:")[1].split()[0])
limit = used + int(share * checkpoint_path(folder, 2).stat().st_size)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
console.run(lambda argv: print(newest_checkpoint(folder)[0]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's memory limits")
def test_lack_of_memory_in_torch_is_not_a_damaged_file(tmp_path: Path) -> None:
    """With memory for 1.2 times the file torch cannot load it; with 2.2 times the weights cannot be checked."""
    save_checkpoint(checkpoint_path(tmp_path, 1), some(1))
    state = state_dict_of(Encoder("resnet18"), torch.randn(100_000, 256))
    save_checkpoint(checkpoint_path(tmp_path, 2), Checkpoint(2, state))
    for share in ("1.2", "2.2"):
        command = [sys.executable, "-c", WITH_LITTLE_MEMORY, str(tmp_path), share]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr == f"-c: {console.NO_MEMORY}\n" and not done.stdout, share


def test_loading_does_not_change_the_random_state(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.pth", some(1))
    before = torch.random.get_rng_state()
    encoder = load_checkpoint(tmp_path / "x.pth").encoder()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert {value.device.type for value in encoder.state_dict().values()} == {"cpu"}


def test_the_number_of_utterances_is_optional(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.pth", some(1, n_utterances=1_092_009))
    assert load_checkpoint(tmp_path / "x.pth").n_utterances == 1_092_009
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    del content["n_utterances"]
    torch.save(content, tmp_path / "before.pth")
    assert load_checkpoint(tmp_path / "before.pth").n_utterances == 0
