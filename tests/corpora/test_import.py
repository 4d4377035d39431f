"""dataprep.py --import_dir on folders as people have them."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from archive_set import run, tone, tree
from conftest import voice

RATE = 16000
STRICT = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
WAVS = "voxceleb2/dev/wav"


def report(root: Path) -> dict[str, dict[str, str]]:
    """Return the rows of the import's report by the files' names."""
    with open(root / "import_report.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {Path(row["file"]).name: row for row in csv.DictReader(file)}


def test_every_file_is_tried_and_listed(tmp_path: Path) -> None:
    folder = tmp_path / "recordings" / "anna"
    folder.mkdir(parents=True)
    for at, kind in enumerate(("AIFF", "AU", "CAF", "W64", "NIST")):
        soundfile.write(folder / f"{kind}.{kind.lower()}", tone(1.5, at), RATE, format=kind)
    soundfile.write(folder / "no suffix", tone(1.5, 10), RATE, format="WAV")
    soundfile.write(folder / "same.wav", tone(1.5, 11), RATE)
    (folder / "same.txt").write_text("what is said\n")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "recordings" / "README").write_text("about these recordings\n")
    (folder / ".hidden").write_text("the system's own\n")
    output = run("--save_path", tmp_path / "root", "--import_dir", tmp_path / "recordings")
    assert output.returncode == 0, output.stderr
    assert "7 recordings, 7 imported: 1 speakers" in output.stdout and "left out, not audio: 3" in output.stdout
    assert "all are of one speaker, anna" in output.stdout and "--speaker_from" in output.stdout
    left_out = {name: row["left_out"] for name, row in report(tmp_path / "root").items() if row["left_out"]}
    assert left_out == dict.fromkeys(["same.txt", "picture.png", "README"], "not audio")
    assert "anna/all/same.wav" in tree(tmp_path / "root" / WAVS)  # the text beside it takes no name from it


def test_no_speaker_in_any_path(tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    (folder / "about").mkdir(parents=True)
    (folder / "about" / "README.txt").write_text("no recording, so no speaker\n")
    for at, name in enumerate(("ann_1", "ann_2", "bob_1")):
        soundfile.write(folder / f"{name}.wav", tone(1.5, at), RATE)
    output = run("--save_path", tmp_path / "root", "--import_dir", folder)
    assert output.returncode == 1
    (line,) = output.stderr.splitlines()
    assert "no speaker was found in the paths" in line and "ann_1.wav" in line
    rule = line.split("'")[1]  # the expression that the message shows
    output = run("--save_path", tmp_path / "root", "--import_dir", folder, "--speaker_from", rule)
    assert "--speaker_from" in line and output.returncode == 0, (line, output.stderr)
    assert {path.split("/")[0] for path in tree(tmp_path / "root" / WAVS)} == {"ann", "bob"}


def test_a_folder_without_recordings(tmp_path: Path) -> None:
    (tmp_path / "in" / "notes").mkdir(parents=True)
    output = run("--save_path", tmp_path / "root", "--import_dir", tmp_path / "in")
    assert output.returncode == 1 and f"--import_dir {tmp_path / 'in'}: holds no files" in output.stderr
    (tmp_path / "in" / "README").write_text("nothing to hear")
    output = run("--save_path", tmp_path / "root", "--import_dir", tmp_path / "in")
    assert output.returncode == 1 and "no speaker was found in the paths, such as" in output.stderr
    (tmp_path / "in" / "notes" / "a.txt").write_text("nothing to hear")
    output = run("--save_path", tmp_path / "root", "--import_dir", tmp_path / "in")
    assert "0 recordings, 0 imported: 0 speakers" in output.stdout and "left out, not audio: 2" in output.stdout


def test_channels_and_silence(tmp_path: Path) -> None:
    (tmp_path / "calls" / "anna").mkdir(parents=True)
    anna, ben, pause = voice(1, 2, 0), voice(2, 2, 0), np.zeros(3 * RATE, np.int16)
    padded = [np.concatenate([pause, samples, pause]) for samples in (ben, anna)]
    soundfile.write(tmp_path / "calls" / "anna" / "call.wav", np.stack(padded, axis=1), RATE)
    soundfile.write(tmp_path / "calls" / "anna" / "mono.wav", anna, RATE)
    imports = {"left in": [], "cut": ["--channel", "2", "--trim_silence", "True"]}
    for name, flags in imports.items():
        output = run("--save_path", tmp_path / name, "--import_dir", tmp_path / "calls", *flags)
        assert output.returncode == (1 if flags else 0), output.stderr  # a mono file has no second channel
    rows = {name: report(tmp_path / name) for name in imports}
    assert "carry different sound" in rows["left in"]["call.wav"]["remark"]
    assert rows["left in"]["call.wav"]["seconds"] == rows["cut"]["call.wav"]["seconds"] == "8.00"
    assert float(rows["cut"]["call.wav"]["speech"]) == pytest.approx(2, abs=0.06)
    assert "has no channel 2" in rows["cut"]["mono.wav"]["detail"] and not rows["cut"]["call.wav"]["remark"]
    written, _ = soundfile.read(tmp_path / "cut" / WAVS / "anna" / "all" / "call.wav", dtype="int16")
    assert abs(len(written) - len(anna)) < 0.05 * RATE and bytes(written[500:1000]) in anna.tobytes()
    whole, _ = soundfile.read(tmp_path / "left in" / WAVS / "anna" / "all" / "call.wav")
    assert len(whole) == 8 * RATE


def test_truncated_recordings_are_remarked(tmp_path: Path) -> None:
    (tmp_path / "in" / "anna").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "anna" / "a.wav", tone(2, 1), RATE)
    content = (tmp_path / "in" / "anna" / "a.wav").read_bytes()
    for name, size in (("a", 48_044), ("b", 20_044)):
        (tmp_path / "in" / "anna" / f"{name}.wav").write_bytes(content[:size])
    output = run("--save_path", tmp_path / "root", "--import_dir", tmp_path / "in")
    rows = report(tmp_path / "root")
    assert output.returncode == 1 and "imported, but truncated: 0.50 of its 2.00 s are missing: 1" in output.stdout
    assert rows["b.wav"]["left_out"] == "unreadable" and "1.38 of its 2.00 s" in rows["b.wav"]["detail"]


@pytest.mark.skipif(os.name != "posix", reason="other systems allow fewer names")
def test_names_of_any_bytes_on_a_strict_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    names = [os.fsdecode(name + b".wav") for name in (b"12:30", b"caf\xe9", "é".encode(), b"line\nend", b"-a")]
    (folder / os.fsdecode(b"Andr\xe9")).mkdir(parents=True)
    for at, name in enumerate(names):
        with open(os.fsencode(folder / os.fsdecode(b"Andr\xe9") / name), "wb") as file:
            soundfile.write(file, tone(1.5, at), RATE, format="WAV")
    broken = os.fsdecode(b"bro\xffken.wav")
    (folder / os.fsdecode(b"Andr\xe9") / broken).write_bytes(b"RIFF")
    output = run("--save_path", tmp_path / "root", "--import_dir", folder, **STRICT)
    assert output.returncode == 1 and "5 imported: 1 speakers" in output.stdout and "UnicodeEncode" not in output.stderr
    assert set(report(tmp_path / "root")) == {*names, broken}
    assert all(path.isascii() or "é" in path for path in tree(tmp_path / "root" / WAVS))
    trees = tmp_path / "other" / WAVS / "s" / "v"
    trees.mkdir(parents=True)
    (trees / os.fsdecode(b"bro\xffken.m4a")).write_bytes(b"no audio")
    output = run("--save_path", tmp_path / "other", "--convert", **STRICT)
    assert output.returncode == 1 and "Traceback" not in output.stderr
    assert os.fsencode(str(trees)) + b"/bro\xffken.m4a" in (tmp_path / "other" / "convert_errors.csv").read_bytes()
