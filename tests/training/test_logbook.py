"""What is damaged in a run's folder is kept under a name of its own; a resumed run compares its threads."""

import json
from pathlib import Path

import pytest

from training.logbook import add_row, flags_in_force, logged_epochs, write_config


def test_damaged_logs_and_configurations_are_all_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.csv.damaged.3").symlink_to("nowhere")
    contents = [f"no log {n}" for n in range(4)]
    for content in contents:
        (tmp_path / "log.csv").write_text(f"{content}\n1\n")
        add_row(tmp_path, {"epoch": 1, "loss": 0.5})
        (tmp_path / "config.json").write_text(content)
        assert flags_in_force(tmp_path, {"lr": 1}, None) == {"lr": 1}
        assert not (tmp_path / "config.json").exists()
    kept = {path.name: path.read_text() for path in tmp_path.glob("*.damaged*") if not path.is_symlink()}
    logs = ["log.csv.damaged", "log.csv.damaged.2", "log.csv.damaged.4", "log.csv.damaged.5"]
    configs = ["config.json.damaged", *(f"config.json.damaged.{n}" for n in (2, 3, 4))]
    assert kept == dict(zip(logs, [f"{content}\n1\n" for content in contents], strict=True)) | dict(
        zip(configs, contents, strict=True)
    )
    told = capsys.readouterr().err
    assert all(f"is renamed to {name}" in told for name in kept)


@pytest.mark.parametrize("before, now, warned", [(2, 1, True), (2, 2, False), (None, 2, False), (2, None, False)])
def test_another_number_of_threads_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: int | None, now: int | None, warned: bool
) -> None:
    write_config(tmp_path, {"lr": 1}, ["anna"], before)
    assert json.loads((tmp_path / "config.json").read_text())["threads"] == before
    flags_in_force(tmp_path, {"lr": 1}, now)
    told = capsys.readouterr().err
    assert ("threads 1, before 2: " in told) is warned and bool(told) is warned


def test_a_configuration_that_does_not_say_the_threads_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"arguments": {"lr": 0.5}}')
    assert flags_in_force(tmp_path, {"lr": 1}, 2) == {"lr": 0.5}
    assert capsys.readouterr().err.count("(was") == 1  # the rate


def test_logged_epochs(tmp_path: Path) -> None:
    assert logged_epochs(tmp_path) == set()
    for epoch in (101, 102, 103, 102):
        add_row(tmp_path, {"epoch": epoch})
    assert logged_epochs(tmp_path) == {101, 102}
