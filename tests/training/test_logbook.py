"""The records of a run: comparison of the hardware, and the rows of the log."""

import json
from pathlib import Path

import pytest
import torch

from training.logbook import add_row, compare_config, hardware_of, logged_epochs, write_config

CPU = {"device": "cpu with AVX2", "ranks": 1, "threads": 2}


@pytest.mark.parametrize(
    "now, named",
    [
        (CPU, None),
        (CPU | {"threads": 1}, "threads 1 (was 2)"),
        (CPU | {"ranks": 4}, "ranks 4 (was 1)"),
        (CPU | {"device": "NVIDIA H100", "threads": None}, "device NVIDIA H100 (was cpu with AVX2)"),
    ],
)
def test_a_warning_names_different_hardware(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], now: dict[str, object], named: str | None
) -> None:
    write_config(tmp_path, {"lr": 1}, CPU, ["anna"])
    compare_config(tmp_path, {"lr": 1}, now)
    warned = capsys.readouterr().err
    assert (named or "") in warned and warned.count("(was") == (named is not None)


def test_the_configuration_contains_the_hardware(tmp_path: Path) -> None:
    write_config(tmp_path, {"lr": 1}, hardware_of(torch.device("cpu")), ["anna"])
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["threads"], written["ranks"]) == (torch.get_num_threads(), 1)
    assert written["device"].startswith("cpu")


def test_a_configuration_without_hardware_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"arguments": {"lr": 0.5}}')
    assert compare_config(tmp_path, {"lr": 1}, CPU) == {"lr": 0.5}
    assert capsys.readouterr().err.count("(was") == 1  # the learning rate


def test_logged_epochs(tmp_path: Path) -> None:
    assert logged_epochs(tmp_path) == set()
    for epoch in (101, 102, 103, 102):
        add_row(tmp_path, {"epoch": epoch})
    assert logged_epochs(tmp_path) == {101, 102}


def test_a_log_with_fewer_columns_is_continued(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("epoch,loss\n1,0.5\n")
    add_row(tmp_path, {"epoch": 2, "loss": 0.25, "waiting": 0.125})
    assert (tmp_path / "log.csv").read_text() == "epoch,loss,waiting\n1,0.5,\n2,0.25,0.125\n"


@pytest.mark.parametrize("now, warned", [("a.txt", False), ("b.txt", True), (None, False)])
def test_another_list_of_validation_trials_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], now: str | None, warned: bool
) -> None:
    write_config(tmp_path, {"lr": 1, "val_trials": Path("a.txt")}, CPU, ["anna"])
    compare_config(tmp_path, {"lr": 1, "val_trials": now and Path(now)}, CPU)
    assert ("(was a.txt)" in capsys.readouterr().err) == warned
