"""recognize.py on many recordings: folders, lists, files that cannot be used, and bounded memory."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import soundfile
from conftest import here, voice
from networks import write_checkpoint

from recognition import batch
from recognition.batch import Candidate, EmbeddedRecording, FailedRecording, embed_each, find_candidates
from recognition.recognizer import Recognizer
from recognition.speakers import load_speakers
from recognition.utterance import Utterance
from system.console import UserError

NETWORK, VOICES = ["--checkpoint", "model.pth"], ["--voices", "voices"]
IDENTIFY = ["identify", *NETWORK, *VOICES, "--threshold", "-1"]


def write(path: Path, speaker: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, voice(speaker, 0.7, 0), 16000, format="WAV", subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, an enrolled speaker, good recordings, and files that are no recordings."""
    home = tmp_path_factory.mktemp("batches")
    write_checkpoint(home / "model.pth", 0)
    for i, name in enumerate(["a.wav", "b.wav", "c.wav"], start=1):
        write(home / name, i)
    (home / "junk.wav").write_text("no sound")
    soundfile.write(home / "silent.wav", np.zeros(8000, np.int16), 16000)
    here("recognize.py", "enroll", *NETWORK, *VOICES, "Ana", "a.wav", cwd=home)
    return home


def test_good_recordings_are_identified_despite_bad_ones(home: Path) -> None:
    files = ["a.wav", "absent.wav", "b.wav", "junk.wav", "silent.wav", "c.wav"]
    done = here("recognize.py", *IDENTIFY, *files, "--json", cwd=home, check=1)
    answers = json.loads(done.stdout)["files"]
    assert [answer["file"] for answer in answers] == files
    errors = {answer["file"]: answer["error"] for answer in answers if "error" in answer}
    assert list(errors) == ["absent.wav", "junk.wav", "silent.wav"]
    assert all(error.startswith(f"{file}: ") for file, error in errors.items())
    assert "No such file" in errors["absent.wav"] and "silent" in errors["silent.wav"]
    assert [answer["speaker"] for answer in answers if "error" not in answer] == ["Ana"] * 3
    assert done.stderr.splitlines() == [*errors.values(), "recognize.py: 3 of 6 recordings cannot be used"]

    done = here("recognize.py", *IDENTIFY, *files, cwd=home, check=1)
    assert [line.split(" ")[0] for line in done.stdout.splitlines()] == ["a.wav", "b.wav", "c.wav"]
    assert done.stderr.splitlines() == [*errors.values(), "recognize.py: 3 of 6 recordings cannot be used"]


@pytest.mark.parametrize("output", ["vectors.npz", "vectors.csv"])
def test_embed_writes_the_good_recordings(home: Path, tmp_path: Path, output: str) -> None:
    files = ["junk.wav", "a.wav", "absent.wav", "c.wav"]
    done = here("recognize.py", "embed", *NETWORK, *files, "-o", tmp_path / output, "--json", cwd=home, check=1)
    printed = json.loads(done.stdout)
    assert printed["output"] == str(tmp_path / output) and [entry["file"] for entry in printed["files"]] == files
    assert ["error" in entry for entry in printed["files"]] == [True, False, True, False]
    assert printed["files"][1]["seconds"] == pytest.approx(0.7, abs=0.05)
    if output.endswith(".npz"):
        with np.load(tmp_path / output) as content:
            names, embeddings = content["files"].tolist(), content["embeddings"]
    else:
        table = pandas.read_csv(tmp_path / output)
        names, embeddings = table["file"].tolist(), table.drop(columns="file").to_numpy()
    assert names == ["a.wav", "c.wav"]
    expected = Recognizer(home / "model.pth").embed_files([home / "a.wav", home / "c.wav"])
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)


def test_nothing_is_written_without_a_good_recording(home: Path, tmp_path: Path) -> None:
    done = here("recognize.py", "embed", *NETWORK, "junk.wav", "-o", tmp_path / "x.csv", "--json", cwd=home, check=1)
    assert not (tmp_path / "x.csv").exists() and json.loads(done.stdout)["output"] is None
    assert done.stderr.startswith("recognize.py: junk.wav: ") and len(done.stderr.splitlines()) == 1
    done = here("recognize.py", *IDENTIFY, "absent.wav", cwd=home, check=1)
    assert done.stdout == "" and done.stderr.startswith("recognize.py: absent.wav: cannot be read")


def test_a_folder_stands_for_its_recordings(home: Path, tmp_path: Path) -> None:
    """As in an import: any suffix in any case, or none, if the file contains sound; hidden files are excluded."""
    folder = tmp_path / "calls"
    for name in ("b/2.WAV", "b/10.wav", "a/deep/x.wav", "call 7", ".hidden.wav"):
        write(folder / name, 3)
    (folder / "b" / "notes.txt").write_text("who called")
    (folder / "b" / "times.csv").write_text("1,2\n")
    done = here("recognize.py", *IDENTIFY, folder, "a.wav", "--json", cwd=home)
    expected = [*(str(folder / name) for name in ("a/deep/x.wav", "b/10.wav", "b/2.WAV", "call 7")), "a.wav"]
    assert [answer["file"] for answer in json.loads(done.stdout)["files"]] == expected
    assert done.stderr == f"{folder / 'b' / 'notes.txt'} and 1 more: not recordings, skipped\n"
    (folder / "b" / "bad.WAV").write_text("no sound")
    done = here("recognize.py", *IDENTIFY, folder, "--json", cwd=home, check=1)
    (bad,) = (answer for answer in json.loads(done.stdout)["files"] if "error" in answer)
    assert bad["file"] == str(folder / "b" / "bad.WAV")


def test_an_impossible_file_name_is_one_bad_recording(home: Path) -> None:
    done = here("recognize.py", *IDENTIFY, "a.wav", "x" * 300, "--json", cwd=home, check=1)
    good, bad = json.loads(done.stdout)["files"]
    assert good["speaker"] == "Ana" and bad["error"].startswith("x" * 300 + ": ")


def test_folders_without_recordings_are_errors(home: Path, tmp_path: Path) -> None:
    for folder in ("texts", "empty"):
        (tmp_path / folder).mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    done = here("recognize.py", *IDENTIFY, tmp_path / "texts", cwd=home, check=1)
    assert done.stderr.splitlines()[-1] == "recognize.py: no recordings were found"
    done = here("recognize.py", *IDENTIFY, tmp_path / "empty", cwd=home, check=1)
    assert done.stderr == f"recognize.py: {tmp_path / 'empty'}: a folder without files\n"


def test_a_list_names_files_and_folders(home: Path, tmp_path: Path) -> None:
    """Relative to the working directory; with the byte order mark and line ends of other systems."""
    write(tmp_path / "more" / "d.wav", 4)
    lines = ["a.wav", "", str(tmp_path / "more"), "b.wav", "absent.wav"]
    (tmp_path / "list.txt").write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    done = here("recognize.py", *IDENTIFY, f"@{tmp_path / 'list.txt'}", "c.wav", "--json", cwd=home, check=1)
    answers = json.loads(done.stdout)["files"]
    expected = ["a.wav", str(tmp_path / "more" / "d.wav"), "b.wav", "absent.wav", "c.wav"]
    assert [answer["file"] for answer in answers] == expected and "error" in answers[3]


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="pipes have names on Linux and macOS")
def test_a_list_from_a_pipe(home: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"b.wav\na.wav\n")
    os.close(writer)
    done = here("recognize.py", *IDENTIFY, f"@/dev/fd/{reader}", "--json", cwd=home)
    os.close(reader)
    assert [answer["file"] for answer in json.loads(done.stdout)["files"]] == ["b.wav", "a.wav"]


def test_empty_and_missing_lists(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text("\n\n")
    for name, message in (("blank.txt", "names no recordings"), ("absent.txt", "no such list of recordings")):
        with pytest.raises(UserError, match=f"{name}: {message}"):
            find_candidates([f"@{tmp_path / name}"])


def test_enrolment_is_all_or_nothing(home: Path) -> None:
    before = (home / "voices" / "Ana.npz").read_bytes()
    for name in ("Ana", "Eva"):
        files = ["b.wav", "junk.wav", "c.wav", "absent.wav"]
        done = here("recognize.py", "enroll", *NETWORK, *VOICES, name, *files, "--json", cwd=home, check=1)
        printed = json.loads(done.stdout)
        assert printed["speaker"] == name and ["error" in entry for entry in printed["files"]] == [
            False,
            True,
            False,
            True,
        ]
        assert "junk.wav" in done.stderr and "absent.wav" in done.stderr
        assert done.stderr.endswith("2 of 4 recordings cannot be used; nothing was enrolled\n")
    assert (home / "voices" / "Ana.npz").read_bytes() == before and len(load_speakers(home / "voices")) == 1


def test_one_group_is_in_memory_at_a_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete group is embedded before more is read; groups change neither the order nor the embeddings."""
    recognizer, rng = Recognizer(home / "model.pth"), np.random.default_rng(0)
    features = {str(i): rng.normal(3, 20, (30, 40)).astype(np.float32) for i in range(10)}
    read: list[str] = []

    def reader(file: str) -> Utterance:
        read.append(file)
        if file == "4":
            raise UserError("4: damaged")
        return Utterance(file, features[file], 0.3, 0.3, 5.0)

    def results() -> Iterator[Any]:
        read.clear()
        return embed_each([Candidate(file, True) for file in features], reader, recognizer)

    at_once = list(results())
    assert [result.file for result in at_once] == list(features) and len(read) == 10
    monkeypatch.setattr(batch, "GROUP_FRAMES", 60)  # of two utterances
    lazily, ahead = [], []
    for result in results():
        lazily.append(result)
        ahead.append(len(read) - len(lazily))
    assert max(ahead) < 3
    for one, other in zip(at_once, lazily, strict=True):
        if isinstance(one, FailedRecording):
            assert one == other == FailedRecording("4", "4: damaged", is_other=False)
        else:
            assert isinstance(other, EmbeddedRecording) and (one.file, one.seconds) == (other.file, other.seconds)
            np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-6)
