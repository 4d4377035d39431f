"""feature_extraction.py after a killed run and after changes of the wavs."""

from pathlib import Path

from conftest import here, write_wavs

from configure import TREES
from system.files import remove_unfinished_below, replacing


def test_unfinished_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    write_wavs(tmp_path / "data", "vox2_dev", range(1), 2, seconds=0.5)
    features = tmp_path / "data" / TREES["vox2_dev"].feat
    half = features / "id00000" / "video0" / ".00000.pkl.77.tmp"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    here("feat_extract/feature_extraction.py", cwd=tmp_path)
    assert sorted(path.name for path in features.rglob("*.*")) == ["00000.pkl", "00001.pkl"]


def test_a_name_of_250_bytes_is_written_and_its_unfinished_file_removed(tmp_path: Path) -> None:
    write_wavs(tmp_path / "data", "vox2_dev", range(1), 1, seconds=0.5)
    wav = tmp_path / "data" / TREES["vox2_dev"].wav / "id00000/video0/00000.wav"
    wav.rename(wav.with_stem("話" * 82))
    here("feat_extract/feature_extraction.py", cwd=tmp_path)
    (feature,) = (tmp_path / "data" / TREES["vox2_dev"].feat).rglob("*.pkl")
    assert feature.stem == "話" * 82
    with replacing(feature) as temporary:
        temporary.write_text("unfinished")
        remove_unfinished_below(tmp_path)
        assert not temporary.exists()
        temporary.write_text("finished")
    assert feature.read_text() == "finished"


def test_features_without_a_wav_are_reported(tmp_path: Path) -> None:
    write_wavs(tmp_path / "data", "vox2_dev", range(1), 3, seconds=0.5)
    assert not here("feat_extract/feature_extraction.py", cwd=tmp_path).stderr
    for number in (0, 1):
        (tmp_path / "data" / TREES["vox2_dev"].wav / f"id00000/video{number}/0000{number}.wav").unlink()
    (line,) = here("feat_extract/feature_extraction.py", cwd=tmp_path).stderr.splitlines()
    assert ": 2 features have no wav, for example id00000/video0/00000.pkl; " in line
