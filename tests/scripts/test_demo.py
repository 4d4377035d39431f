"""The synthetic corpus: voices, files, layout, trials, continuing after a kill."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import PROJECT, here

pytest.importorskip("espeakng_loader", reason="pip install -r requirements-demo.txt")

import demo  # noqa: E402
from configure import TREES, TRIALS_NAME  # noqa: E402
from corpora.demo import SECONDS, UTTERANCES, draw_channel, draw_trials, write_demo  # noqa: E402
from corpora.voices import Engine, draw_voice  # noqa: E402
from system.console import UserError  # noqa: E402
from system.files import TEMPORARY_SUFFIX  # noqa: E402

pytestmark = pytest.mark.slow

SIZE = {"n_train": 2, "n_test": 2}
TEXT = "The painter follows every river."


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def say(seed: int, texts: int = 1) -> np.ndarray:
    with Engine(draw_voice(np.random.default_rng(seed))) as engine:
        return np.concatenate([engine.say(TEXT, 160, 50, 50, seed=text) for text in range(texts)])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    write_demo(root, seed=1, workers=1, **SIZE)
    return root


def test_a_voice_is_its_own_and_stays_the_same() -> None:
    first, second = say(1), say(2)
    assert not np.array_equal(first, second[: len(first)])
    np.testing.assert_array_equal(say(1), first)  # whatever another engine has said in between


def test_speech_is_16_khz_and_does_not_clip() -> None:
    speech = say(3, texts=2)
    assert speech.dtype == np.float32
    assert 2.5 < len(speech) / 16000 < 8  # twice five words
    assert 0.02 < np.abs(speech).max() < 0.99


def test_files_have_voxcelebs_layout_and_format(corpus: Path) -> None:
    for tree, speakers in (("vox2_dev", {"train000", "train001"}), ("vox1_test", {"test000", "test001"})):
        folder = corpus / TREES[tree].wav
        assert {path.name for path in folder.iterdir()} == speakers
        for name in speakers:
            assert {str(path.relative_to(folder / name)) for path in (folder / name).glob("*/*")} == set(UTTERANCES)
        for path in folder.glob("*/*/*"):
            info = soundfile.info(path)
            assert (info.samplerate, info.channels, info.subtype, info.format) == (16000, 1, "PCM_16", "WAV")
            assert SECONDS[0] - 0.001 <= info.duration <= SECONDS[1] + 0.001
            samples, _ = soundfile.read(path, dtype="int16")
            assert 0.25 * 32768 < np.abs(samples.astype(int)).max() < 0.95 * 32768


def test_same_bytes_for_a_seed_with_any_number_of_workers(corpus: Path, tmp_path: Path) -> None:
    write_demo(tmp_path / "again", seed=1, workers=2, **SIZE)
    assert files_of(tmp_path / "again") == files_of(corpus)
    write_demo(tmp_path / "other", seed=2, workers=2, **SIZE)
    other, first = files_of(tmp_path / "other"), files_of(corpus)
    assert other.keys() == first.keys() and all(other[name] != first[name] for name in first)


def test_trials_are_distinct_pairs_half_of_them_targets_across_videos(corpus: Path) -> None:
    trials = [line.split() for line in (corpus / TRIALS_NAME).read_text().splitlines()]
    assert len({frozenset(trial[1:]) for trial in trials}) == len(trials)
    assert sum(label == "1" for label, *_ in trials) == len(trials) / 2 > 0
    for label, *sides in trials:
        (speaker_a, video_a, _), (speaker_b, video_b, _) = (side.split("/") for side in sides)
        assert all((corpus / TREES["vox1_test"].wav / side).is_file() for side in sides)
        assert (speaker_a == speaker_b and video_a != video_b) if label == "1" else speaker_a != speaker_b
    assert [label for label, *_ in trials] != sorted((label for label, *_ in trials), reverse=True)


def test_trials_of_twenty_speakers() -> None:
    names = [f"test{index:03d}" for index in range(20)]
    trials = draw_trials(names, np.random.default_rng(0))
    assert len(trials) == len(set(trials)) == 800
    assert trials == draw_trials(names, np.random.default_rng(0))


def test_channel_keeps_length_and_differs_between_videos() -> None:
    rng = np.random.default_rng(0)
    speech = np.sin(np.arange(16000) / 7)
    first, second = (draw_channel(rng).record(speech, np.random.default_rng(5)) for _ in range(2))
    assert len(first) == len(second) == len(speech)
    assert np.abs(first).max() <= 0.9
    assert not np.allclose(first / np.abs(first).max(), second / np.abs(second).max(), atol=0.05)


def test_continues_after_a_kill(corpus: Path, tmp_path: Path) -> None:
    code = "import sys, pathlib, corpora.demo; corpora.demo.write_demo(pathlib.Path(sys.argv[1]), 1, 2, 2, workers=1)"
    root, repository = tmp_path / "demo", PROJECT
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # a killed engine leaves its folder there
    process = subprocess.Popen([sys.executable, "-c", code, str(root)], cwd=repository, env=environment)
    wavs = root / TREES["vox2_dev"].wav
    deadline = time.monotonic() + 60
    while not (wavs / "train001").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # its worker notices and ends
    written = {path: path.stat().st_mtime_ns for path in (wavs / "train000").glob("*/*.wav")}
    assert len(written) == len(UTTERANCES)
    write_demo(root, seed=1, workers=1, **SIZE)
    whole = {name: content for name, content in files_of(root).items() if not name.endswith(TEMPORARY_SUFFIX)}
    assert whole == files_of(corpus)
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_refuses_to_mix_with_other_data(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another seed or size"):
        write_demo(corpus, seed=2, **SIZE)
    (tmp_path / TREES["vox1_dev"].wav).mkdir(parents=True)
    with pytest.raises(UserError, match="other recordings"):
        write_demo(tmp_path, seed=1, **SIZE)


def test_keeps_a_trial_list_and_runs_that_are_not_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / TRIALS_NAME).write_text("1 mine.wav too.wav\n")
    with pytest.raises(UserError, match=f"{TRIALS_NAME}: not the demo's trial list; move it away"):
        write_demo(tmp_path, seed=1, **SIZE)
    assert files_of(tmp_path) == {TRIALS_NAME: b"1 mine.wav too.wav\n"}

    def trained(script: str, *flags: str) -> str:
        if script == "train.py":
            raise UserError("far enough")
        return ""

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "run", trained)
    for number in (0, 1, 2):
        (demo.MODELS / f"baseline_00{number}").mkdir(parents=True)
    with pytest.raises(UserError, match="far enough"):
        demo.main([])
    assert os.listdir(demo.MODELS) == ["baseline_002"]


def test_a_missing_engine_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)  # its import now fails
    with pytest.raises(UserError, match="pip install -r requirements-demo.txt"):
        write_demo(tmp_path, seed=1, **SIZE)


def test_the_statistics_are_scored_on_what_the_evaluators_draw(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(corpus, tmp_path / demo.ROOT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "N_WAY", 2)
    monkeypatch.setattr(demo, "EPISODES", ["--nb_class_test", "2", "--nb_episode", "10"])
    here("feat_extract/feature_extraction.py", *demo.COMMON[:2], cwd=tmp_path)
    flags = ["--backbone", "resnet18", "--nb_class_train", 2, "--max_epoch", 0]
    here("train.py", *flags, *demo.COMMON, *demo.model_flags(demo.UNTRAINED), cwd=tmp_path)
    result = demo.evaluate_statistics()
    *eers, accuracy = result
    assert len(eers) == 3 and all(0 <= eer <= 100 for eer in eers)
    assert accuracy > 50  # chance
