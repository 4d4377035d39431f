"""The paper's comparison: means over seeds, and finished runs are not repeated."""

import argparse
import json
from pathlib import Path
from unittest.mock import Mock

import pandas
import pytest
from conftest import write_features

import reproduce
from configure import TREES, TRIALS_NAME
from system.console import UserError

LISTED = "id00010/v0/00000.wav"


def write_data(root: Path, n_speakers: int) -> str:
    """Write features of two training speakers, and of test speakers with ten utterances each; return the root."""
    write_features(root / TREES["vox2_dev"].feat, 2, 2, n_frames=20)
    write_features(root / TREES["vox1_test"].feat, n_speakers, 10, n_frames=20, first=10)
    (root / TRIALS_NAME).write_text(f"1 {LISTED} id00010/v1/00001\n0 {LISTED} id00011/v1/00001\n")
    return str(root)


def test_lacking_tests_are_an_error_before_the_first_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "run_script", Mock(side_effect=AssertionError("a training")))
    root = tmp_path / "data"
    flags = ["--save_path", write_data(root, 5), "--output", str(tmp_path / "table"), "--quick", "--ways", "5"]
    with pytest.raises(AssertionError, match="a training"):
        reproduce.main(flags)
    with pytest.raises(UserError, match=r"--ways 6: .* 6 speakers with 10 or more utterances each, the data has 5"):
        reproduce.main([*flags[:3], str(tmp_path / "other"), "--quick", "--ways", "2", "6"])
    write_features(root / TREES["vox2_dev"].feat, 1, 2, n_frames=20, first=14)  # a training speaker
    with pytest.raises(UserError, match=r"--ways 5: .* \(of 4 speakers\)"):
        reproduce.main(flags)
    (root / TRIALS_NAME).write_text(f"1 {LISTED} id00010/v1/00001\n0 {LISTED} id00099/v1/00001.wav\n")
    with pytest.raises(UserError, match="id00099/v1/00001.wav: no such utterance"):
        reproduce.main(flags)
    (root / TRIALS_NAME).unlink()
    with pytest.raises(UserError, match=TRIALS_NAME):
        reproduce.main(flags)


def test_table_of_stubbed_runs_and_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def stub(args: argparse.Namespace, command: list) -> str:
        script, *flags = map(str, command)
        commands.append(flags)
        seed = int(flags[flags.index("--n_folder") + 1]) % 1000
        if script == "identification.py":
            result = {"accuracy": 50.0, "n_episodes": 7, "n_way": 5}
            return json.dumps({"settings": [result | {"n_shot": n_shot} for n_shot in (1, 5)]})
        rates = {"eer": 5.0 + seed, "n_trials": 4000}
        return "text\n" + json.dumps({"lengths": [rates] * 3} if script == "EER_short.py" else rates)

    monkeypatch.setattr(reproduce, "run_script", stub)
    data = write_data(tmp_path / "data", n_speakers=5)
    flags = ["--save_path", data, "--output", str(tmp_path), "--quick", "--seeds", "1", "3", "--ways", "5"]
    reproduce.main(flags)
    table = pandas.read_csv(tmp_path / "table.csv").query("measure == 'EER, full'")
    assert table["setting"].tolist() == list(reproduce.SETTINGS)
    assert (table["mean"] == 7).all() and (table["seeds"] == 2).all() and (table["trials"] == 4000).all()
    assert "| EER, full (%) | 4,000 | 7.00 ± 1.41 |" in (tmp_path / "table.md").read_text()
    n_done = len(commands)
    reproduce.main(flags)
    assert len(commands) - n_done == 2 * len(reproduce.SETTINGS)  # no checkpoint was written, so training only
    with pytest.raises(UserError, match="--output"):
        reproduce.main([*flags, "--nb_episode", "10"])


def test_repeated_seeds_and_ways_count_once() -> None:
    flags = ["--save_path", "data", "--output", "out", "--seeds", "1", "2", "1", "--ways", "5", "5"]
    args = reproduce.parse_args(flags)
    assert (args.seeds, args.ways) == ([1, 2], [5])


def test_flags_of_an_erroneous_command_are_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "run_script", Mock(side_effect=AssertionError("a training")))
    flags = ["--save_path", write_data(tmp_path / "data", 5), "--output", str(tmp_path / "table"), "--quick", "--ways"]
    with pytest.raises(UserError, match="--ways 6"):
        reproduce.main([*flags, "6"])
    with pytest.raises(AssertionError, match="a training"):
        reproduce.main([*flags, "5"])


def test_one_command_starts_and_resumes_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(reproduce, "run_script", lambda args, command: commands.append(list(map(str, command))))
    args = reproduce.parse_args(["--save_path", "data", "--output", str(tmp_path), "--quick", "--max_epoch", "2"])
    folder = tmp_path / "saved_model" / "baseline_007"
    folder.mkdir(parents=True)
    for files in ((), ("config.json",), ("checkpoint_001.pth",), ("unfinished_epoch.pth",)):
        for name in files:
            (folder / name).touch()
        reproduce.train(args, "softmax", 7, 100)
        flags = commands[-1]
        assert flags[flags.index("--use_checkpoint") + 1] == "auto" and flags == commands[0]
    (folder / "checkpoint_002.pth").touch()
    reproduce.train(args, "softmax", 7, 100)
    assert len(commands) == 4
