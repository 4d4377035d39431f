"""recognize.py on real-world recordings: pauses, two-party calls, file names of any bytes, an ASCII terminal."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import here, run_script, voice

import recognize
from model.checkpoint import Checkpoint, save_checkpoint, state_dict_of
from model.encoder import Encoder
from recognition.utterance import read_utterance
from recognize import Recognizer

RATE = 16000
ANNA, BEN = (np.clip(voice(speaker, 2, 0), -20000, 20000) for speaker in (1, 2))
STRICT = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with an untrained checkpoint and a recording of each voice."""
    torch.manual_seed(0)
    state = state_dict_of(Encoder("resnet18"), None)
    save_checkpoint(tmp_path / "model.pth", Checkpoint(1, state, speakers=["id00001"], data_type="vox2"))
    write(tmp_path / "anna.wav", ANNA)
    write(tmp_path / "ben.wav", BEN)
    return tmp_path


def write(path: Path, samples: np.ndarray) -> None:
    with open(os.fsencode(path), "wb") as file:
        soundfile.write(file, samples, RATE, format="WAV")


def compare(home: Path, a: str, b: str, capsys: pytest.CaptureFixture, *flags: str) -> dict:
    """Return what `compare --json` prints of two recordings."""
    files = [str(home / a), str(home / b)]
    recognize.main(["compare", "--checkpoint", str(home / "model.pth"), "--threshold", "0", "--json", *flags, *files])
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_silence_around_a_recording_does_not_change_scores(home: Path, capsys: pytest.CaptureFixture) -> None:
    hiss = np.random.default_rng(0).normal(0, 8, 3 * RATE).astype(np.int16)
    for name, pause in (("zeros", np.zeros(3 * RATE, np.int16)), ("hiss", hiss), ("odd", np.zeros(12_345, np.int16))):
        write(home / f"{name}.wav", np.concatenate([pause, ANNA, pause]))
        expected = compare(home, "anna.wav", "ben.wav", capsys)["score"]
        found = compare(home, f"{name}.wav", "ben.wav", capsys)
        assert found["score"] == pytest.approx(expected, abs=0.02)
        assert compare(home, f"{name}.wav", "anna.wav", capsys)["score"] > 0.98
        assert found["seconds"] == pytest.approx([2, 2], abs=0.06)
        left_in = compare(home, f"{name}.wav", "anna.wav", capsys, "--trim_silence", "False")
        assert left_in["score"] < 1 - 1e-4
    assert len(read_utterance(home / "zeros.wav", trim_silence=False).features) == 799
    assert len(read_utterance(home / "zeros.wav").features) < 202


def test_one_channel_of_a_call(home: Path, capsys: pytest.CaptureFixture) -> None:
    write(home / "call.wav", np.stack([BEN, ANNA], axis=1))
    for channel, name in ((1, "ben"), (2, "anna")):
        alone = compare(home, "call.wav", "call.wav", capsys, "--channel", str(channel))
        assert alone["score"] == pytest.approx(1, abs=1e-6)
        embedded = Recognizer(home / "model.pth").embed_utterances(
            [read_utterance(home / "call.wav", channel), read_utterance(home / f"{name}.wav")]
        )
        assert embedded[0] @ embedded[1] == pytest.approx(1, abs=1e-6)
    network = ["--checkpoint", str(home / "model.pth")]
    recognize.main(["embed", *network, "-o", str(home / "e.csv"), str(home / "call.wav")])
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{home / 'call.wav'}: " + (
        "its two channels carry different sound and were averaged; --channel 1 or 2 takes one"
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="other systems allow fewer names")
@pytest.mark.parametrize("locale", [STRICT, {"PYTHONIOENCODING": "ascii:strict"}], ids=["C", "UTF-8"])
def test_file_names_of_any_bytes_on_an_ascii_terminal(
    home: Path, monkeypatch: pytest.MonkeyPatch, locale: dict
) -> None:
    names = [os.fsdecode(name + b".wav") for name in (b"12:30", b"caf\xe9", "é".encode(), b"line\nend", b"-a")]
    for name in names:
        write(home / name, ANNA)
    for variable, value in locale.items():
        monkeypatch.setenv(variable, value)
    network = ["--checkpoint", "model.pth"]
    run = lambda command, *arguments: run_script("recognize.py", command, *arguments, cwd=home)  # noqa: E731
    assert run("enroll", *network, "--voices", "v", "Ana", "--", *names[:2]).stdout.startswith("Ana: 1 recording")
    text = run("identify", *network, "--voices", "v", "--threshold", 0, "--", *names).stdout
    assert r"caf\udce9.wav (" in text and r"line\nend.wav (" in text and text.isascii() and text.count("\n") == 5
    if locale != STRICT:
        return  # files do not depend on the locale
    run("embed", *network, "-o", "e.csv", "--", *names)
    with open(home / "e.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [row["file"] for row in csv.DictReader(file)] == names
    flags = ["--json", "--threshold", 0, "--", names[1], names[4]]
    answer = here("recognize.py", "compare", *network, *flags, cwd=home).stdout
    assert json.loads(answer)["score"] == pytest.approx(1, abs=1e-6)


def test_an_empty_file_is_a_one_line_error(home: Path) -> None:
    (home / "empty.mp3").touch()
    flags = ["--checkpoint", "model.pth", "--threshold", "0"]
    done = here("recognize.py", "compare", *flags, "empty.mp3", "anna.wav", cwd=home, check=1)
    assert done.stderr == "recognize.py: empty.mp3: no readable audio (the file is empty)\n"
