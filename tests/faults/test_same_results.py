"""The same command gives bit-identical results; scores do not depend on other trials or the number of processes."""

from pathlib import Path

import numpy as np
import pandas
import pytest
from harness import RUN, TRAIN, copy_of, finish, in_process, put, same_training, start, trained_folder

import EER_full
from configure import TRIALS_NAME
from evaluation import embedding
from model.checkpoint import checkpoint_path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_folder(tmp_path_factory.getbasetemp() / "trained")


def test_two_trainings_are_bit_identical(trained: Path, tmp_path: Path) -> None:
    home = copy_of(trained, tmp_path / "home")  # the first training was in this process
    done = finish(start("train.py", *TRAIN, "--max_epoch", 2, "--n_folder", 1, "--deterministic", True, cwd=home))
    assert done.status == 0, done.stderr
    assert same_training(checkpoint_path(home / RUN.with_name("baseline_001"), 2), checkpoint_path(trained / RUN, 2))


def scores(home: Path, *flags: str) -> pandas.Series:
    outcome = in_process(EER_full.main, ["--save_scores", "scores.csv", *flags], home)
    assert outcome.status == 0, outcome.stderr
    return pandas.read_csv(home / "scores.csv").set_index(["enrol", "test"])["score"]


def test_scores_do_not_depend_on_batches_order_or_workers(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = copy_of(trained, tmp_path / "home")
    expected = scores(home)
    lines = (home / "data" / TRIALS_NAME).read_text().splitlines(keepends=True)
    put(home / "data" / TRIALS_NAME, "".join(lines[::-1]))
    reversed_ = scores(home)
    assert list(reversed_.index) == list(expected.index[::-1])
    put(home / "data" / TRIALS_NAME, "".join(line for line in lines if "id00032" not in line))
    fewer = scores(home)
    put(home / "data" / TRIALS_NAME, "".join(lines))
    with_workers = scores(home, "--num_workers", "2")
    monkeypatch.setitem(embedding.BATCH_FRAMES, "cpu", 1)
    one_by_one = scores(home)
    for other in (reversed_, fewer, with_workers, one_by_one):
        np.testing.assert_allclose(other, expected[other.index], atol=1e-5)
