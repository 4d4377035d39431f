"""Signals during a validation, resuming from an earlier epoch, and --use_checkpoint auto."""

import csv
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import present
from harness import RUN, TRAIN, copy_of, files_of, finish, in_process, put, same_training, start, trained_folder

import train
from configure import TREES, TRIALS_NAME
from model.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint, unfinished_path
from model.encoder import Encoder
from plotting.training import read_log
from training import logbook
from training.checkpoints import clean_folder

pytestmark = pytest.mark.slow

VALIDATED = [*TRAIN, "--max_epoch", "2", "--val_trials", f"data/{TRIALS_NAME}", "--use_checkpoint", "auto"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_folder(tmp_path_factory.getbasetemp() / "trained")


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    return copy_of(trained, tmp_path / "home")


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_signal_during_validation_stops_at_once_and_the_epoch_is_saved(
    trained: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(home / RUN)
    validate, seen = train.Validation.__call__, list[bool]()

    def asked_to_stop(self: train.Validation, encoder: Encoder) -> float:
        seen.append(checkpoint_path(Path("..", "home") / RUN, 1).exists())
        os.kill(os.getpid(), signal.SIGTERM)
        seen.append(False)  # the validation continued
        return validate(self, encoder)

    monkeypatch.setattr(train.Validation, "__call__", asked_to_stop)
    outcome = in_process(train.main, VALIDATED, home)
    assert seen == [True] and outcome.status == 128 + signal.SIGTERM
    assert outcome.is_one_line() and "stopped while validating epoch 1 and saved" in outcome.stderr
    assert load_checkpoint(checkpoint_path(home / RUN, 1)).epoch == 1
    assert [row["val_eer"] for row in rows(home / RUN)] == [""]

    monkeypatch.setattr(train.Validation, "__call__", validate)
    outcome = in_process(train.main, VALIDATED, home)
    assert outcome.status == 0, outcome.stderr
    assert same_training(checkpoint_path(home / RUN, 2), checkpoint_path(trained / RUN, 2))
    printed = [line.split()[-2] for line in outcome.stdout.splitlines() if "validation EER" in line]
    assert [f"{float(row['val_eer']):.2f}" for row in rows(home / RUN)] == printed and len(printed) == 2
    assert read_log(home / RUN)["val_eer"].round(2).tolist() == [float(eer) for eer in printed]  # in percent
    outcome = in_process(train.main, VALIDATED, home)
    assert outcome.status == 0 and "validation" not in outcome.stdout  # nothing remains to do
    outcome = in_process(train.main, [*VALIDATED, "--max_epoch", "3", "--val_every", "2"], home)
    assert "epoch 3: loss" in outcome.stdout and "validation" not in outcome.stdout


def test_a_signal_to_all_processes_during_validation(trained: Path, home: Path) -> None:
    shutil.rmtree(home / RUN)
    process = start("train.py", *VALIDATED, "--num_workers", 1, cwd=home)
    while not checkpoint_path(home / RUN, 1).exists():
        time.sleep(0.002)
        assert process.poll() is None, present(process.stderr).read()
    os.killpg(process.pid, signal.SIGTERM)
    outcome = finish(process)
    assert outcome.status == 128 + signal.SIGTERM and outcome.is_one_line(), outcome.stderr
    assert in_process(train.main, VALIDATED, home).status == 0
    assert same_training(checkpoint_path(home / RUN, 2), checkpoint_path(trained / RUN, 2))
    assert all(row["val_eer"] for row in rows(home / RUN))


def test_resuming_from_an_earlier_epoch_moves_later_checkpoints(trained: Path, home: Path) -> None:
    folder = home / RUN
    put(folder / "checkpoint_002.calibration.json", "{}")
    put(folder / "checkpoint_001.calibration.json", "{}")
    put(unfinished_path(folder), b"some")
    before, log = files_of(folder), (folder / "log.csv").read_bytes()
    back = [*TRAIN, "--use_checkpoint", "True", "--cp_num", "1"]
    outcome = in_process(train.main, [*back, "--max_epoch", "1"], home)
    assert outcome.status == 0 and "3 files" in outcome.stderr and "abandoned_1" in outcome.stderr
    later = {"checkpoint_002.pth", "checkpoint_002.calibration.json", "unfinished_epoch.pth"}
    assert {name: before[name] for name in later} | {"log.csv": log} == files_of(folder / "abandoned_1")
    assert not later & set(os.listdir(folder)) and "checkpoint_001.calibration.json" in os.listdir(folder)

    again = [*TRAIN, "--use_checkpoint", "True", "--max_epoch", "2"]
    outcome = in_process(train.main, again, home)
    assert "resuming from saved_model/baseline_000/checkpoint_001.pth: 1 epochs" in outcome.stdout
    assert same_training(checkpoint_path(folder, 2), checkpoint_path(trained / RUN, 2))
    assert in_process(train.main, [*back, "--max_epoch", "1"], home).status == 0
    assert (folder / "abandoned_2" / "checkpoint_002.pth").exists()
    assert before["checkpoint_002.pth"] == (folder / "abandoned_1" / "checkpoint_002.pth").read_bytes()
    assert in_process(train.main, [*back, "--max_epoch", "1"], home).stderr == ""  # there is nothing to move


@pytest.mark.parametrize("epoch, episode, moved", [(1, 1, True), (1, 0, False), (0, 3, False)])
def test_only_a_later_state_within_an_epoch_is_moved(home: Path, epoch: int, episode: int, moved: bool) -> None:
    """As after a kill between the writing of a checkpoint and the removal of unfinished_epoch.pth."""
    folder = home / RUN
    within = load_checkpoint(checkpoint_path(folder, 1))
    within.epoch, within.episode = epoch, episode
    save_checkpoint(unfinished_path(folder), within)
    checkpoint_path(folder, 2).unlink()
    clean_folder(folder, 1)
    assert (folder / "abandoned_1" / "unfinished_epoch.pth").exists() == moved
    assert unfinished_path(folder).exists() != moved


def test_auto_starts_resumes_and_ends(trained: Path, home: Path) -> None:
    shutil.rmtree(home / RUN)
    auto = [*TRAIN, "--use_checkpoint", "auto", "--max_epoch"]
    for n_epochs, message in (("1", "first loss"), ("2", "1 epochs and 0 episodes completed"), ("2", "2 epochs and 0")):
        outcome = in_process(train.main, [*auto, n_epochs], home)
        assert outcome.status == 0 and outcome.stderr == "" and message in outcome.stdout
    assert same_training(checkpoint_path(home / RUN, 2), checkpoint_path(trained / RUN, 2))


def test_auto_starts_next_to_a_checkpoint_of_no_run(home: Path) -> None:
    shutil.rmtree(home / RUN)
    put(home / RUN / "teacher.pth", b"another's")
    auto = [*TRAIN, "--use_checkpoint", "auto", "--max_epoch", "0"]
    outcome = in_process(train.main, auto, home)
    assert outcome.status == 0 and checkpoint_path(home / RUN, 0).exists(), outcome.stderr


def test_a_broken_link_in_the_folder_is_ignored(home: Path) -> None:
    """For example the user's link to a checkpoint that --keep_last has removed."""
    (home / RUN / "best.pth").symlink_to("checkpoint_000.pth")
    put(home / RUN / ".checkpoint_003.pth.77.tmp", b"half")
    outcome = in_process(train.main, [*TRAIN, "--use_checkpoint", "auto", "--max_epoch", "2"], home)
    assert outcome.status == 0 and outcome.stderr == "", outcome.stderr
    assert not (home / RUN / ".checkpoint_003.pth.77.tmp").exists() and (home / RUN / "best.pth").is_symlink()


def test_a_trained_network_is_not_saved_as_epoch_0(home: Path) -> None:
    outcome = in_process(train.main, [*TRAIN, "--use_checkpoint", "auto", "--max_epoch", "0"], home)
    assert outcome.status == 0 and "checkpoints up to epoch 2 are in" in outcome.stdout
    assert not checkpoint_path(home / RUN, 0).exists()


def test_auto_uses_init_once(home: Path) -> None:
    auto = [*TRAIN, "--use_checkpoint", "Auto", "--n_folder", "3", "--init", str(checkpoint_path(RUN, 2))]
    assert in_process(train.main, [*auto, "--max_epoch", "1"], home).status == 0
    checkpoint_path(home / RUN, 2).unlink()  # no longer needed
    outcome = in_process(train.main, [*auto, "--max_epoch", "1"], home)
    assert outcome.status == 0 and "1 epochs and 0 episodes completed" in outcome.stdout, outcome.stderr
    assert "class vectors" not in outcome.stdout


@pytest.mark.parametrize("same", [True, False])
def test_init_takes_the_class_vectors_of_the_same_speakers(home: Path, same: bool) -> None:
    given = load_checkpoint(home / checkpoint_path(RUN, 2))
    if not same:
        given.speakers = [*reversed(given.speakers)]
    save_checkpoint(home / "given.pth", given)
    outcome = in_process(train.main, [*TRAIN, "--n_folder", "4", "--init", "given.pth", "--max_epoch", "0"], home)
    assert outcome.status == 0 and ("its class vectors are used" in outcome.stdout) is same, outcome.stderr
    begun = load_checkpoint(checkpoint_path(home / "saved_model" / "baseline_004", 0))
    for name, weight in begun.state_dict.items():
        assert torch.equal(weight, given.state_dict[name]) is (same or name != "weight"), name


@pytest.mark.parametrize("other", [[], ["--use_checkpoint", "auto"]])
def test_cp_num_needs_use_checkpoint(home: Path, other: list[str]) -> None:
    outcome = in_process(train.main, [*TRAIN, *other, "--cp_num", "1"], home)
    assert outcome.status == 2 and "--cp_num has no effect without --use_checkpoint True" in outcome.stderr


def test_a_damaged_log_during_validation(home: Path) -> None:
    put(home / RUN / "log.csv", b"no,log\n1\n")
    assert not logbook.lacks_eer(home / RUN, 1) and (home / RUN / "log.csv.damaged").exists()


AGAIN = [*TRAIN, "--use_checkpoint", "True", "--max_epoch", "3"]


def test_an_epoch_resumed_after_its_last_episode_has_no_speed(
    trained: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(train, "describe_epoch", stopped)
        outcome = in_process(train.main, [*AGAIN, "--save_every_minutes", "1e-9"], home)
    assert outcome.status == 130 and load_checkpoint(unfinished_path(home / RUN)).episode == 4
    outcome = in_process(train.main, AGAIN, home)
    assert outcome.status == 0 and "2 epochs and 4 episodes completed" in outcome.stdout
    (line,) = (line for line in outcome.stdout.splitlines() if line.startswith("epoch 3: "))
    assert line.endswith("lr 0.01") and "nan" not in line
    row = rows(home / RUN)[-1]
    assert row["epoch"] == "3" and row["utterances_per_second"] == row["waiting"] == ""
    assert float(row["loss"]) > 0 and all(float(of["utterances_per_second"]) > 0 for of in rows(home / RUN)[:-1])
    assert same_training(checkpoint_path(home / RUN, 3), trained / "third.pth")
    assert read_log(home / RUN)["epoch"].tolist() == [1, 2, 3]


def test_the_checkpoint_of_an_epoch_is_preferred_to_the_state_within_it(trained: Path, home: Path) -> None:
    """As after a kill between the writing of a checkpoint and the removal of unfinished_epoch.pth."""
    within = load_checkpoint(checkpoint_path(home / RUN, 1))
    within.episode, within.sums = 3, dict.fromkeys(within.sums, 1.0)
    save_checkpoint(unfinished_path(home / RUN), within)
    outcome = in_process(train.main, AGAIN, home)
    assert outcome.status == 0 and "checkpoint_002.pth: 2 epochs and 0 episodes completed" in outcome.stdout
    assert same_training(checkpoint_path(home / RUN, 3), trained / "third.pth")
    assert not unfinished_path(home / RUN).exists()


def test_a_warning_gives_the_number_of_missing_utterances(home: Path) -> None:
    lost = sorted((home / "data" / TREES["vox2_dev"].feat).rglob("*.pkl"))[:16:2][:6]
    for path in lost:
        path.unlink()
    outcome = in_process(train.main, AGAIN, home)
    assert outcome.status == 0 and outcome.is_one_line()
    assert "checkpoint_002.pth: trained on 16 utterances, but the data has 10" in outcome.stderr
    assert load_checkpoint(checkpoint_path(home / RUN, 3)).n_utterances == 10
    assert in_process(train.main, AGAIN, home).stderr == ""  # the new number is stored
    content = torch.load(checkpoint_path(home / RUN, 3), weights_only=True)
    torch.save(content | {"n_utterances": 16, "episode": 4}, unfinished_path(home / RUN))
    outcome = in_process(train.main, AGAIN, home)
    reasons = "(4 completed episodes in an epoch of 2; trained on 16 utterances, but the data has 10)"
    assert outcome.status == 1 and reasons in outcome.stderr and outcome.is_one_line()


def test_a_warning_names_the_number_of_threads(home: Path) -> None:
    two = ("env", "OMP_NUM_THREADS=2", sys.executable)
    outcome = finish(start("train.py", *AGAIN, "--max_epoch", 2, cwd=home, launcher=two))  # no epoch remains
    assert outcome.status == 0 and outcome.is_one_line(), outcome.stderr
    assert "config.json: " in outcome.stderr and "threads 2 (was 1)" in outcome.stderr
    assert json.loads((home / RUN / "config.json").read_text())["threads"] == 1  # nothing was trained with two
    in_process(train.main, [*AGAIN, "--seed", "7"], home)
    assert json.loads((home / RUN / "config.json").read_text())["arguments"]["seed"] == 7


def test_an_official_checkpoint_is_not_removed_by_keep_last(home: Path) -> None:
    ours = torch.load(checkpoint_path(home / RUN, 2), weights_only=True)
    shutil.rmtree(home / RUN)
    (home / RUN).mkdir()
    official = {"epoch": 101, "state_dict": ours["state_dict"], "optimizer": ours["optimizer"]}
    torch.save(official, checkpoint_path(home / RUN, 100))
    put(home / RUN / "checkpoint_100.calibration.json", "fitted on the official one")
    before = files_of(home / RUN)
    for last in ("101", "102", "103"):
        outcome = in_process(train.main, [*AGAIN, "--keep_last", "1", "--max_epoch", last], home)
        assert outcome.status == 0 and outcome.stderr == "", outcome.stderr
    after = files_of(home / RUN)
    assert after.keys() - before.keys() == {"checkpoint_103.pth", "config.json", "log.csv"}
    assert {name: after[name] for name in before} == before


def test_lack_of_memory_is_not_a_checkpoint_that_does_not_fit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.checkpoints.restore", lambda *_: torch.empty(2**60))
    outcome = in_process(train.main, AGAIN, home)
    assert outcome.status == 1 and "out of memory" in outcome.stderr and "does not fit" not in outcome.stderr
