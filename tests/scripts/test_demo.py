"""The synthetic corpus: voices, files, layout, trials, resuming after a kill."""

import contextlib
import importlib
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import PROJECT, here

pytest.importorskip("espeakng_loader", reason="pip install -r requirements-demo.txt")

import demo  # noqa: E402
import train  # noqa: E402
from configure import TREES, TRIALS_NAME  # noqa: E402
from corpora.demo import N_TEST, N_TRAIN, SECONDS, UTTERANCES, in_session, random_variant, synthesiser, write_demo  # noqa: E402
from evaluation.score_file import read_scores  # noqa: E402
from system.console import UserError  # noqa: E402
from system.files import TEMPORARY_SUFFIX  # noqa: E402

pytestmark = pytest.mark.slow

SIZE = {"n_train": 2, "n_test": 2}
TEXT = "The painter follows every river."


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def say(seed: int, texts: int = 1) -> np.ndarray:
    with synthesiser("en", random_variant(np.random.default_rng(seed))) as speak:
        return np.concatenate([speak(TEXT, 160, 50, 50, text) for text in range(texts)])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    write_demo(root, seed=1, workers=1, **SIZE)
    return root


def test_voices_differ_and_are_reproducible() -> None:
    first, second = say(1), say(2)
    assert not np.array_equal(first, second[: len(first)])
    np.testing.assert_array_equal(say(1), first)  # also after another voice has spoken


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


def test_trials_are_distinct_pairs_half_of_them_targets_across_sessions(corpus: Path) -> None:
    trials = [line.split() for line in (corpus / TRIALS_NAME).read_text().splitlines()]
    assert len({frozenset(trial[1:]) for trial in trials}) == len(trials)
    assert sum(label == "1" for label, *_ in trials) == len(trials) / 2 == 20  # all pairs of five, of two speakers
    for label, *sides in trials:
        (speaker_a, session_a, _), (speaker_b, session_b, _) = (side.split("/") for side in sides)
        assert all((corpus / TREES["vox1_test"].wav / side).is_file() for side in sides)
        assert (speaker_a == speaker_b and session_a != session_b) if label == "1" else speaker_a != speaker_b


def test_a_session_keeps_the_length_and_differs_from_others() -> None:
    rng = np.random.default_rng(0)
    speech = np.sin(np.arange(16000) / 7)
    first, second = in_session(speech, rng), in_session(speech, rng)
    assert len(first) == len(second) == len(speech)
    assert np.abs(first).max() <= 0.9
    assert not np.allclose(first / np.abs(first).max(), second / np.abs(second).max(), atol=0.05)


def test_resumes_after_a_kill(corpus: Path, tmp_path: Path) -> None:
    code = "import sys, pathlib, corpora.demo; corpora.demo.write_demo(pathlib.Path(sys.argv[1]), 1, 2, 2, workers=1)"
    root, repository = tmp_path / "demo", PROJECT
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # a killed synthesiser leaves its folder there
    process = subprocess.Popen([sys.executable, "-c", code, str(root)], cwd=repository, env=environment)
    wavs = root / TREES["vox2_dev"].wav
    deadline = time.monotonic() + 60
    while not (wavs / "train001").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # the worker ends, too
    written = {path: path.stat().st_mtime_ns for path in (wavs / "train000").glob("*/*.wav")}
    assert len(written) == len(UTTERANCES)
    write_demo(root, seed=1, workers=1, **SIZE)
    complete = {name: content for name, content in files_of(root).items() if not name.endswith(TEMPORARY_SUFFIX)}
    assert complete == files_of(corpus)
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_other_data_is_not_mixed_with_the_demo(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another seed or size"):
        write_demo(corpus, seed=2, **SIZE)
    (tmp_path / TREES["vox1_dev"].wav).mkdir(parents=True)
    with pytest.raises(UserError, match="voxceleb1.*: not part of the demo"):
        write_demo(tmp_path, seed=1, **SIZE)


def test_other_trial_lists_and_runs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / TRIALS_NAME).write_text("1 mine.wav too.wav\n")
    with pytest.raises(UserError, match=f"{TRIALS_NAME}: not part of the demo"):
        write_demo(tmp_path, seed=1, **SIZE)
    assert files_of(tmp_path) == {TRIALS_NAME: b"1 mine.wav too.wav\n"}

    def trained(script: str, *flags: str) -> None:
        if script == "train.py":
            raise UserError("stop here")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "run", trained)
    for number in (0, 1, 2):
        (demo.RUN.parent / f"baseline_00{number}").mkdir(parents=True)
    with pytest.raises(UserError, match="stop here"):
        demo.main([])
    assert sorted(os.listdir(demo.RUN.parent)) == ["baseline_001", "baseline_002"]


def test_a_missing_synthesiser_is_an_error_with_the_command_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)  # as if it were not installed
    with pytest.raises(UserError, match="pip install -r requirements-demo.txt"):
        write_demo(tmp_path, seed=1, **SIZE)


def test_identification_by_hand() -> None:
    """Two speakers of two utterances: in one of four tests, the 1 s window resembles the other speaker."""
    full = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    short = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.6, 0.8]])
    unused = torch.full_like(full, torch.nan)
    assert demo.identify(torch.stack([full, unused, short]), n_speakers=2) == 75
    same_utterance = torch.tensor(
        [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]
    )  # correct only if compared with itself
    assert demo.identify(torch.stack([same_utterance, unused, same_utterance]), n_speakers=2) == 0


@pytest.fixture(scope="module")
def small_demo(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, UserError]:
    """Run the demo with two unseen speakers and without training; return its folder, output and error."""
    folder = tmp_path_factory.mktemp("small")
    shutil.copytree(corpus, folder / demo.ROOT)
    scripts = []

    def run(script: str, *flags: str) -> None:
        scripts.append(script)
        if script != "dataprep.py":  # the corpus exists
            here(script, *flags, cwd=folder)

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        patch.setattr(demo, "run", run)
        patch.setattr(demo, "TRAINING", ["--backbone", demo.BACKBONE, "--nb_class_train", "2", "--max_epoch", "0"])
        with pytest.raises(UserError) as failure:
            demo.main([])
    assert scripts == ["dataprep.py", "feat_extract/feature_extraction.py", "train.py", "plots.py"]
    return folder, printed.getvalue(), failure.value


def test_a_training_that_does_not_help_is_an_error_after_the_results(
    small_demo: tuple[Path, str, UserError],
) -> None:
    folder, printed, failure = small_demo
    assert "does not beat" in str(failure)
    rows = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")]
    assert rows[2:] == ["untrained network", "MFCC statistics", "trained here", "bundled model"]
    (picture,) = (word for word in printed.split() if word.endswith(".png"))
    assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    assert printed.count(demo.NOTICE) == 2  # at the start and below the table
    assert printed.index("librispeech") > printed.index(picture)


def test_scores_and_eers_are_those_of_the_evaluators(small_demo: tuple[Path, str, UserError], tmp_path: Path) -> None:
    folder, printed, _ = small_demo
    flags = ["--checkpoint", PROJECT / "pretrained/open_speech.pth", "--save_path", demo.ROOT, "--json"]
    done = here("EER_full.py", *flags, "--save_scores", tmp_path / "full.csv", cwd=folder)
    expected, found = read_scores(tmp_path / "full.csv"), read_scores(folder / demo.ROOT / "bundled model.csv")
    full = found[found["length"] == "full"]
    assert list(full["enrol_speaker"]) == list(expected["enrol_speaker"])
    for column in ("score", "enrol_seconds", "test_seconds"):
        np.testing.assert_allclose(full[column], expected[column], atol=1e-4)
    eer = next(line for line in printed.splitlines() if "| bundled model" in line).split("|")[2]
    assert float(eer.strip(" %")) == pytest.approx(json.loads(done.stdout)["eer"], abs=0.051)
    assert [int(length) for length in set(found["length"]) - {"full"}] in ([100, 200], [200, 100])


def test_the_commands_of_the_next_step_are_valid() -> None:
    lines = demo.NEXT_STEP.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("python ")]
    assert [command[0] for command in commands] == ["dataprep.py", "feat_extract/feature_extraction.py", "train.py"]
    for script, *flags in commands:
        importlib.import_module(script.removesuffix(".py").replace("/", ".")).parse_args(flags)


def test_its_size_takes_five_minutes_on_two_cores() -> None:
    """Two cores at 2.4 GHz without AVX-512 train on 13 utterances or embed 3,400 frames a second.

    The former is for ResNet-18, the latter for ResNet-34. Fifty seconds remain for everything else.
    """
    args = train.parse_args(demo.TRAINING)
    assert args.backbone == "resnet18" and not args.augment
    training = N_TRAIN * len(UTTERANCES) * args.max_epoch / 13
    mean_frames = 100 * sum(SECONDS) / 2 + 200 + 100
    scoring = N_TEST * len(UTTERANCES) * mean_frames * 2 / 3_400  # three networks; two ResNet-18 count as one ResNet-34
    assert training + scoring < 250
