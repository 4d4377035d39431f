"""Errors of train.py that do not depend on the data come before the data is indexed, which takes minutes."""

import os
from pathlib import Path

import pytest
import torch
from conftest import in_process, run_script

import EER_short
import train
from model.checkpoint import Checkpoint, checkpoint_path, run_folder, save_checkpoint, state_dict_of, unfinished_path
from model.encoder import Encoder
from system.files import locked

RUN = ["--backbone", "resnet18", "--save_path", "no_data"]
AGAIN = [*RUN, "--use_checkpoint", "True"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a run of one epoch with class vectors, a checkpoint without them, a trial list, and no features."""
    for number, vectors in ((0, torch.randn(3, 256)), (1, None)):
        state = state_dict_of(Encoder("resnet18"), vectors)
        folder = tmp_path / run_folder("saved_model", number)
        save_checkpoint(checkpoint_path(folder, 1), Checkpoint(1, state, speakers=["anna", "ben", "cleo"]))
    save_checkpoint(unfinished_path(tmp_path / run_folder("saved_model", 2)), Checkpoint(0, state, episode=3))
    (tmp_path / "labels.txt").write_text("2 a/b/c.wav d/e/f.wav\n")
    (tmp_path / "blind.txt").write_text("a/b/c.wav d/e/f.wav\n")
    (tmp_path / "good.txt").write_text("1 a/b/c.wav a/e/f.wav\n0 a/b/c.wav d/e/f.wav\n")
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "no_wavs").mkdir()
    return tmp_path


REFUSALS = [
    ([*RUN, "--lr", "0"], 2, "--lr: '0' is not a number above 0"),
    ([*RUN, "--n_query", "0"], 2, "--n_query 0: a prototypical episode needs queries"),
    ([*RUN, "--augment", "babble", "--babble_snr", "9", "1"], 2, "--babble_snr 9 1: "),
    ([*RUN, "--device", "cuda:77"], 2, "--device cuda:77"),
    ([*RUN, "--device", "cpu", "--sync_bn", "True"], 2, "--sync_bn True: torch synchronises batch norm on CUDA only"),
    (RUN, 1, "baseline_000: already contains a run"),
    ([*RUN, "--n_folder", "2"], 1, "baseline_002: already contains a run"),
    ([*RUN, "--init", "elsewhere.pth"], 1, "baseline_000: already contains a run"),
    ([*AGAIN, "--n_folder", "9"], 1, "baseline_009: no checkpoint"),
    ([*AGAIN, "--cp_num", "5"], 1, "checkpoint_005.pth: no such checkpoint"),
    ([*AGAIN, "--backbone", "resnet34"], 1, "checkpoint_001.pth: its backbone is resnet18; add --backbone resnet18"),
    ([*AGAIN, "--use_GC", "False"], 1, "checkpoint_001.pth: does not fit --loss_type and --use_GC"),
    ([*AGAIN, "--n_folder", "1"], 1, "checkpoint_001.pth: does not fit --loss_type and --use_GC"),
    ([*RUN, "--n_folder", "8", "--init", "nowhere.pth"], 1, "nowhere.pth: no such checkpoint"),
    ([*RUN, "--n_folder", "8", "--init", "good.txt"], 1, "good.txt: truncated or corrupt"),
    (
        [
            *RUN,
            "--n_folder",
            "8",
            "--backbone",
            "resnet50",
            "--init",
            str(checkpoint_path(run_folder("saved_model", 0), 1)),
        ],
        2,
        "its backbone is resnet18; add --backbone resnet18",
    ),
    ([*AGAIN, "--val_trials", "nowhere.txt"], 1, "nowhere.txt: no such trial list"),
    ([*AGAIN, "--val_trials", "labels.txt"], 1, "labels.txt: line 1: "),
    ([*AGAIN, "--val_trials", "blind.txt"], 1, "blind.txt: its trials have no labels"),
    ([*RUN, "--n_folder", "8", "--model_path", "file"], 1, "file/baseline_008: Not a directory"),
    ([*AGAIN, "--augment", "noise", "--noise_dir", "nowhere"], 1, "nowhere: no such folder"),
    ([*AGAIN, "--augment", "reverb", "--rir_dir", "no_wavs"], 1, "no_wavs: no recordings"),
    # for comparison: only the data is missing
    ([*AGAIN, "--val_trials", "good.txt"], 1, "no features in no_data"),
    ([*RUN, "--n_folder", "8", "--use_checkpoint", "auto"], 1, "no features in no_data"),
    ([*AGAIN, "--n_folder", "1", "--use_GC", "False"], 1, "no features in no_data"),
]


@pytest.mark.parametrize("argv, status, message", REFUSALS, ids=range(len(REFUSALS)))
def test_errors_that_do_not_depend_on_the_data_come_first(
    home: Path, argv: list[str], status: int, message: str
) -> None:
    outcome = in_process(train.main, argv, home)
    assert outcome.status == status and message in outcome.stderr and outcome.is_one_line(), outcome.stderr


@pytest.mark.slow
def test_a_locked_folder_is_an_error_before_the_data_is_read(home: Path) -> None:
    with locked(home / run_folder("saved_model", 0) / ".train.lock"):
        done = run_script(
            "train.py", *AGAIN, cwd=home, check=1
        )  # in another process, because a process can repeat its lock
    assert f"process {os.getpid()} on" in done.stderr and "is writing there" in done.stderr


@pytest.mark.parametrize("lock_is_there", [False, True])
def test_a_folder_that_is_not_writable_is_an_error_before_the_data_is_read(
    home: Path, monkeypatch: pytest.MonkeyPatch, lock_is_there: bool
) -> None:
    folder = home / run_folder("saved_model", 0)
    if lock_is_there:
        (folder / ".train.lock").touch()
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):  # the superuser: answer as for another user
        monkeypatch.setattr(os, "access", lambda path, mode: bool(Path(path).stat().st_mode & 0o200))
    outcome = in_process(train.main, AGAIN, home)
    folder.chmod(0o755)
    assert outcome.status == 1 and "baseline_000: not writable" in outcome.stderr and outcome.is_one_line()


def test_folders_without_recordings_are_an_error_before_the_data_is_read(home: Path) -> None:
    for flags in (["--noise_snr", "5", "--noise_dir", "no_wavs"], ["--reverb", "True", "--rir_dir", "no_wavs"]):
        outcome = in_process(EER_short.main, ["--save_path", "no_data", *flags], home)
        assert outcome.status == 1 and "no_wavs: no recordings" in outcome.stderr and outcome.is_one_line()
