"""Standard output of the scripts: only JSON with --json, and no error if it is closed."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import PROJECT, here, write_wavs

from configure import TRIALS_NAME
from evaluation.calibration import Calibration, save_calibration
from model.checkpoint import Checkpoint, save_checkpoint, state_dict_of
from model.encoder import Encoder
from recognition.batch import EmbeddedRecording
from recognition.speakers import Speaker, save_speaker
from system.files import sha256

pytestmark = pytest.mark.slow
NETWORK, LISTED = ["--checkpoint", "model.pth"], ["--trials", f"data/{TRIALS_NAME}", "--test_length"]
IDENTIFY = [*NETWORK, "--nb_class_test", "2", "--nb_episode", "2", "--n_query", "1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a calibrated untrained checkpoint, an enrolled speaker, and lists with and without labels."""
    home = tmp_path_factory.mktemp("output")
    for tree, speakers in (("vox2_dev", range(2)), ("vox1_test", range(30, 34))):
        write_wavs(home / "data", tree, speakers, 3)
    write_wavs(home / "data", "vox1_test", range(34, 36), 1)
    here("feat_extract/feature_extraction.py", "--num_workers", 1, cwd=home)
    names = [f"id{s:05d}/video{u % 2}/{u:05d}.wav" for s in range(30, 34) for u in range(3)]
    pairs = [(a, b) for a, b in itertools.combinations(names, 2)]
    (home / "data" / TRIALS_NAME).write_text("".join(f"{int(a[:7] == b[:7])} {a} {b}\n" for a, b in pairs))
    (home / "blind.txt").write_text("".join(f"{a} {b}\n" for a, b in pairs))
    torch.manual_seed(0)
    save_checkpoint(home / "model.pth", Checkpoint(1, state_dict_of(Encoder("resnet18"), None)))
    calibration = Calibration(0.0, (1.0, 0.0, 0.0, 0.0, 0.0), (1.0, 9.0), (0.5, 9.0), 100, 100)
    save_calibration(home / "model.pth", sha256(home / "model.pth"), calibration)
    recording = EmbeddedRecording("1.wav", np.eye(256, dtype=np.float32)[0], 1.0)
    save_speaker(home / "voices", Speaker("Ana", (recording,), sha256(home / "model.pth")))
    scores = {"label": [1, 0], "enrol": "a", "test": "b", "score": [0.7, 0.1]}
    pandas.DataFrame(scores).to_csv(home / "scores.csv", index=False)
    return home


WAV = [f"data/voxceleb1/test/wav/id00030/video{at}/0000{at}.wav" for at in range(2)]


@pytest.mark.parametrize(
    "script, flags, key",
    [
        ("EER_full.py", NETWORK, "eer"),
        ("EER_full.py", [*NETWORK, "--as_norm", "2"], "as_norm"),
        ("EER_full.py", [*NETWORK, "--trials", "blind.txt", "--save_scores", "blind.csv"], "n_trials"),
        ("EER_short.py", [*NETWORK, *LISTED, "30", "--reverb", "True", "--noise_snr", "5"], "eer"),
        ("EER_short.py", [*NETWORK, *LISTED, "30", "full"], "lengths"),
        ("identification.py", IDENTIFY, "accuracy"),
        ("recognize.py", ["compare", *NETWORK, *WAV], "same_speaker"),
        ("recognize.py", ["identify", *NETWORK, "--voices", "voices", *WAV], "files"),
        ("recognize.py", ["enroll", *NETWORK, "--voices", "more", "Ben", *WAV], "speaker"),
        ("recognize.py", ["list", "--voices", "voices"], "voices"),
        ("recognize.py", ["embed", *NETWORK, *WAV, "-o", "e.NPZ"], "output"),
    ],
)
def test_with_json_standard_output_is_only_json(home: Path, script: str, flags: list[str], key: str) -> None:
    done = here(script, *flags, "--json", cwd=home)
    assert key in json.loads(done.stdout), done.stdout
    without = here(script, *flags, cwd=home)
    if script != "recognize.py":
        assert set(without.stdout.splitlines()) <= set(done.stderr.splitlines())  # nothing that is printed gets lost


def test_speakers_with_too_few_utterances_are_counted(home: Path) -> None:
    done = here("identification.py", *IDENTIFY, "--n_shot", 1, 2, "--json", cwd=home)
    assert [kind["n_excluded"] for kind in json.loads(done.stdout)["settings"]] == [2, 2]
    assert "2 speakers have fewer than 2 utterances and are excluded\n" in done.stderr
    assert "2 speakers have fewer than 3 utterances and are excluded\n" in done.stderr
    assert "are excluded\n2 speakers have fewer than 2 utt" in here("identification.py", *IDENTIFY, cwd=home).stdout


COMMANDS = {  # script -> flags of a run that prints, and a file that it writes; all scripts share console.run
    "train.py": (["--nb_class_train", "2", "--backbone", "resnet18", "--max_epoch", "0"], "saved_model/baseline_000"),
    "EER_short.py": ([*NETWORK, *LISTED, "30", "--json", "--save_scores", "short.csv"], "short.csv"),
    "plots.py": (["scores", "scores.csv", "-o", "scores.png"], "scores.png"),
}


@pytest.mark.parametrize("script", COMMANDS)
def test_a_closed_pipe_is_no_error(home: Path, script: str) -> None:
    """As in `script | true`: the work is done and the exit status is 0."""
    flags, written = COMMANDS[script]
    reader, writer = os.pipe()
    os.close(reader)
    environment = {name: value for name, value in os.environ.items() if name != "METASR_SAVE_PATH"}
    command = [sys.executable, str(PROJECT / script), *flags]
    process = subprocess.Popen(command, cwd=home, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0 and "pipe" not in error.lower() and "Traceback" not in error, error
    assert (home / written).exists()


def closed(home: Path) -> subprocess.CompletedProcess:
    command = ["sh", "-c", f'exec "{sys.executable}" "{PROJECT}/recognize.py" list --voices voices >&-']
    return subprocess.run(command, cwd=home, capture_output=True, text=True)


def both(home: Path) -> subprocess.CompletedProcess:
    run = f'"{sys.executable}" "{PROJECT}/EER_full.py" --checkpoint model.pth --json'  # which writes to both
    command = ["sh", "-c", f"({run}; echo $? > status) 2>&1 | true"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True)
    return subprocess.CompletedProcess(command, int((home / "status").read_text()), "", done.stderr)


@pytest.mark.parametrize("redirect", [closed, both])
def test_closed_streams_are_no_error(home: Path, redirect: Callable[[Path], subprocess.CompletedProcess]) -> None:
    done = redirect(home)
    assert (done.returncode, done.stderr) == (0, "")
