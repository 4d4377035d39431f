"""As-norm against its definition, and EER_short.py with it at several lengths."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import write_features
from torch.nn import functional as F

import EER_short
from configure import TREES
from dataset.features import read_feature, write_feature
from evaluation.metrics import verification_metrics
from evaluation.normalisation import Cohort, as_norm, load_cohort
from model.checkpoint import Checkpoint, save_checkpoint, state_dict_of
from model.encoder import Encoder
from system.compute import inference
from system.console import UsageError


def test_as_norm_by_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    cohort, embeddings = (torch.randn(n, 8, generator=generator) for n in (7, 5))
    left, right = torch.tensor([0, 1, 4]), torch.tensor([2, 3, 4])
    scores = as_norm(Cohort(cohort, 3), embeddings, left, right)
    for a, b, score in zip(left, right, scores, strict=True):
        sides = [embeddings[a] - cohort.mean(0), embeddings[b] - cohort.mean(0)]
        raw, expected = float(F.cosine_similarity(sides[0], sides[1], dim=0)), 0.0
        for side in sides:
            impostors = sorted(float(F.cosine_similarity(side, c - cohort.mean(0), dim=0)) for c in cohort)[-3:]
            expected += (raw - np.mean(impostors)) / np.std(impostors, ddof=1) / 2
        assert score == pytest.approx(expected, rel=1e-4)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with features of four training and three other speakers and an untrained checkpoint."""
    home = tmp_path_factory.mktemp("as_norm")
    write_features(home / TREES["vox2_dev"].feat, 4, 3, n_frames=60)
    write_features(home / TREES["vox1_test"].feat, 3, 3, n_frames=60, first=20)
    torch.manual_seed(0)
    speakers = [f"id{s:05d}" for s in range(4)]
    checkpoint = Checkpoint(1, state_dict_of(Encoder("resnet18"), None), speakers=speakers, data_type="vox2")
    save_checkpoint(home / "model.pth", checkpoint)
    return home


def run_short(home: Path, *flags: object) -> None:
    EER_short.main(["--checkpoint", str(home / "model.pth"), "--save_path", str(home), *map(str, flags)])


@pytest.mark.slow
def test_several_lengths_equal_separate_runs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = home / "curve.csv"
    flags = ["--as_norm", 3, "--json"]
    run_short(home, "--test_length", 30, "full", "--save_scores", scores, *flags)
    printed = capsys.readouterr()
    curve, lines = json.loads(printed.out)["lengths"], printed.err.splitlines()
    assert [result["length"] for result in curve] == ["30", "full"]
    assert "as-norm: the 3 nearest of 4 training speakers" in lines
    assert sum(line.startswith(("test 30: EER", "test 30: as-norm EER", "test full: EER")) for line in lines) == 3
    run_short(home, "--test_length", 30, *flags)
    alone = json.loads(capsys.readouterr().out)
    assert alone == {name: value for name, value in curve[0].items() if name != "length"}
    table = pandas.read_csv(scores, dtype={"length": str})
    columns = "label enrol test length score score_as_norm enrol_seconds test_seconds enrol_speaker test_speaker"
    assert list(table) == columns.split()
    for result in curve:
        of_length = table[table["length"] == result["length"]]
        for column, rates in (("score", result), ("score_as_norm", result["as_norm"])):
            eer = verification_metrics(of_length[column].to_numpy(), of_length["label"].to_numpy()).eer
            assert 100 * eer == pytest.approx(rates["eer"], abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("trained_on", [{"id00000", "id00001", "id00003"}, set()], ids=["listed", "official"])
def test_the_cohort_is_the_means_of_ten_utterances(tmp_path: Path, trained_on: set[str]) -> None:
    encoder, compute, rng = Encoder("resnet18").eval(), inference("cpu"), np.random.default_rng(0)
    for speaker, at in itertools.product(range(4), range(12)):
        feat = rng.normal(0, 3 + at, (30 + 5 * at, 40)).astype(np.float32)
        write_feature(tmp_path / "feat" / f"id{speaker:05d}" / "v" / f"{at:05d}.pkl", feat, f"id{speaker:05d}")
    of_tree = load_cohort(encoder, tmp_path / "feat", trained_on, 3, compute)
    expected = []
    for speaker_name in sorted(trained_on) or [f"id{s:05d}" for s in range(4)]:
        files = [tmp_path / "feat" / speaker_name / "v" / f"{at:05d}.pkl" for at in range(12)]
        with torch.inference_mode():
            embeddings = [encoder(torch.from_numpy(read_feature(file).T[None, None])) for file in files]
        ten = torch.cat([embeddings[at] for at in (0, 1, 2, 3, 4, 6, 7, 8, 9, 11)])  # evenly over the twelve
        expected.append(F.normalize(ten, dim=1).mean(dim=0))
        assert (F.normalize(torch.cat(embeddings), dim=1).mean(dim=0) - expected[-1]).abs().max() > 1e-4
    assert of_tree.size == 3
    torch.testing.assert_close(of_tree.means, torch.stack(expected), atol=1e-5, rtol=0)


def test_a_cohort_larger_than_the_data_is_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="--as_norm 5: .* 4 training speakers"):
        run_short(home, "--test_length", 30, "--as_norm", 5)
