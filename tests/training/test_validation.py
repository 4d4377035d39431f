"""The EER in the log of a training equals the one that EER_full.py prints for the checkpoint."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import in_process

import EER_full
import train
from configure import TREES
from dataset.features import write_feature
from model.checkpoint import checkpoint_path, run_folder

pytestmark = pytest.mark.slow

TRAIN = "--backbone resnet18 --nb_class_train 2 --n_query 1 --lr 0.01 --max_epoch 1 --precision bf16".split()


def write_speech(root: Path, tree: str, speakers: range, n_utterances: int) -> list[str]:
    """Write features of noise around the mean of each speaker; return the names of the utterances."""
    names = []
    for s in speakers:
        rng = np.random.default_rng(s)
        mean = 4 * rng.normal(size=40)
        for u in range(n_utterances):
            names.append(f"id{s:05d}/v/{u:05d}")
            feat = mean + 8 * rng.normal(size=(205 + u, 40))
            write_feature(root / TREES[tree].feat / f"{names[-1]}.pkl", feat, f"id{s:05d}")
    return names


def warnings_of(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if "trained on" in line]


def test_the_logged_eer_and_warning_equal_those_of_eer_full(tmp_path: Path) -> None:
    trained_on = write_speech(tmp_path / "data", "vox1_dev", range(4), 4)
    names = trained_on[:8] + write_speech(tmp_path / "data", "vox1_test", range(30, 38), 4)
    pairs = [(a, b) for a in names for b in names if a < b]
    (tmp_path / "list.txt").write_text("".join(f"{int(a[:7] == b[:7])} {a}.wav {b}.wav\n" for a, b in pairs))
    outcome = in_process(train.main, [*TRAIN, "--data_type", "vox1", "--val_trials", "list.txt"], tmp_path)
    assert outcome.status == 0 and "on cpu in bfloat16" in outcome.stdout, outcome.stderr
    folder = tmp_path / run_folder("saved_model", 0)
    with open(folder / "log.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    full = ["--checkpoint", str(checkpoint_path(folder, 1)), "--trials", "list.txt", "--json", "--precision"]
    scored = {precision: in_process(EER_full.main, [*full, precision], tmp_path) for precision in ("fp32", "bf16")}
    eer = {precision: json.loads(done.stdout.splitlines()[-1])["eer"] for precision, done in scored.items()}
    assert float(row["val_eer"]) == eer["fp32"] and eer["fp32"] != eer["bf16"]
    n_seen = len(pairs) - 32 * 31 // 2  # all pairs except those of the 32 utterances of unseen speakers
    warning = [f"{n_seen} of the trials are of speakers that the network was trained on"]
    assert warnings_of(outcome.stderr) == warnings_of(scored["fp32"].stderr) == warning

    write_speech(tmp_path / "data", "vox2_dev", range(10, 14), 4)
    (tmp_path / "unseen.txt").write_text("1 id00030/v/00000 id00030/v/00001\n0 id00030/v/00000 id00001/v/00001\n")
    flags = [*TRAIN, "--n_folder", "1", "--val_trials", "unseen.txt"]
    assert warnings_of(in_process(train.main, flags, tmp_path).stderr) == []
