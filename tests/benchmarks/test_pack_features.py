import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks import pack_features
from configure import TREES, TRIALS_NAME
from dataset.features import read_feature, write_feature
from dataset.index import FeatureIndex
from system.console import UserError


def test_features_come_back_to_half_a_step_with_names_labels_and_trials(tmp_path: Path) -> None:
    rng, trials = np.random.default_rng(0), "1 b/v/1.wav b/v/2.wav\n"
    here, there = tmp_path / "here", tmp_path / "there"
    written = {}
    for part, names in (("vox2_dev", ("a/v/1", "ä/2")), ("vox1_test", ("b/v/1", "b/v/2"))):
        for name in names:
            feat = (34 * rng.standard_normal((int(rng.integers(1, 300)), 40))).clip(-250, 250).astype(np.float32)
            written[TREES[part].feat, name] = feat
            write_feature(here / TREES[part].feat / f"{name}.pkl", feat, name.split("/")[0])
    (here / TRIALS_NAME).write_text(trials)
    pack_features.main(["pack", str(tmp_path / "f.zip"), "--save_path", str(here)])
    pack_features.main(["unpack", str(tmp_path / "f.zip"), "--save_path", str(there)])
    assert (there / TRIALS_NAME).read_text() == trials
    for (tree, name), feat in written.items():
        back = read_feature(there / tree / f"{name}.pkl")
        assert back.shape == feat.shape and np.abs(back - feat).max() <= 1
    for part in ("vox2_dev", "vox1_test"):
        trees = [FeatureIndex([root / TREES[part].feat]) for root in (here, there)]
        assert trees[0].speakers == trees[1].speakers and len(trees[0]) == len(trees[1]) == 2
    with zipfile.ZipFile(tmp_path / "f.zip") as archive:
        n_frames = sum(len(feat) for feat in written.values())
        assert sum(info.file_size for info in archive.infolist() if info.filename.endswith("/frames")) == 40 * n_frames


def test_what_does_not_fit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feature = tmp_path / TREES["vox2_dev"].feat / "a" / "1.pkl"
    write_feature(feature, np.full((3, 40), 300.0), "a")
    command = ["pack", str(tmp_path / "f.zip"), "--save_path", str(tmp_path)]
    with pytest.raises(UserError, match=r"1.pkl: .* 127 steps"):
        pack_features.main(command)
    assert not (tmp_path / "f.zip").exists()
    monkeypatch.setattr(pack_features, "LIMIT", 100)
    with pytest.raises(UserError, match="--step"):
        pack_features.main([*command, "--step", "3"])
    with pytest.raises(UserError, match="contains no features"):
        pack_features.main(["pack", str(tmp_path / "f.zip"), "--save_path", str(tmp_path / "nothing")])
