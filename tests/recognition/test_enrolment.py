"""Enrolled speakers: warnings of wrong recordings, names, and removing recordings."""

import json
import math
import unicodedata
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile
from conftest import here, voice
from networks import CALIBRATION, ratio, write_checkpoint

from evaluation.calibration import save_calibration
from recognition import speakers
from recognition.batch import Candidate, EmbeddedRecording, embed_each
from recognition.enrolment import EnrolmentWarning, enrol, find_mismatches
from recognition.recognizer import Recognizer
from recognition.speakers import Speaker, load_others, load_speaker, load_speakers, save_speaker, speaker_path
from recognition.utterance import read_utterance
from system.console import UserError
from system.files import sha256

ANNA, BORIS, CLARA = np.eye(256)[:3]
SPEAKERS = {"anna": 30, "boris": 33, "clara": 32}
NETWORK, VOICES = ["--checkpoint", "calibrated.pth"], ["--voices", "voices"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, calibrated or not, and three recordings of each of three voices."""
    world = tmp_path_factory.mktemp("enrolment")
    rng = np.random.default_rng(0)
    write_checkpoint(world / "calibrated.pth", 2, [voice(s, 0.9, i) for s in SPEAKERS.values() for i in range(3)])
    (world / "plain.pth").write_bytes((world / "calibrated.pth").read_bytes())
    save_calibration(world / "calibrated.pth", sha256(world / "calibrated.pth"), CALIBRATION)
    for name, speaker in SPEAKERS.items():
        for take in (1, 2, 3):
            samples = voice(speaker, 0.9, 0) + rng.normal(0, 5, int(0.9 * 16000))
            soundfile.write(world / f"{name}{take}.wav", samples.astype(np.int16), 16000)
    return world


@pytest.fixture
def home(world: Path, tmp_path: Path) -> Path:
    """A separate copy for each test, without enrolled speakers."""
    for file in world.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


@pytest.fixture(scope="module")
def recognizer(world: Path) -> Recognizer:
    return Recognizer(world / "calibrated.pth")


def unit(*directions: np.ndarray) -> np.ndarray:
    stacked = np.stack(directions)
    return (stacked / np.linalg.norm(stacked, axis=1, keepdims=True)).astype(np.float32)


def recordings(embeddings: np.ndarray, files: Iterable[str] = (), seconds: float = 1.0) -> list[EmbeddedRecording]:
    names = [*files] or [f"{i}.wav" for i in range(len(embeddings))]
    return [EmbeddedRecording(name, embedding, seconds) for name, embedding in zip(names, embeddings, strict=True)]


def enrolled(name: str, embeddings: np.ndarray, files: Iterable[str] = (), seconds: float = 1.0) -> Speaker:
    return Speaker(name, tuple(recordings(embeddings, files, seconds)), "ab")


def nobody(name: str) -> Speaker:
    return Speaker(name, (), "ab")


def kinds(found: list[EnrolmentWarning]) -> list[tuple[str | None, str, object]]:
    return [(warning.file, warning.kind, warning.details.get("speaker")) for warning in found]


def test_a_recording_of_another_speaker_is_a_mismatch(recognizer: Recognizer) -> None:
    """By hand: a recording of 1 s has a cosine of 0 with Anna (2 s), and one of 0.8 with Boris (1 s)."""
    anna, boris = enrolled("Anna", unit(ANNA, ANNA)), enrolled("Boris", unit(BORIS), seconds=1.0)
    new = recordings(unit(4 * BORIS + 3 * CLARA, ANNA + 0.1 * CLARA), ["wrong", "right"])
    found = find_mismatches(anna, new, [boris], recognizer)
    assert kinds(found) == [("wrong", "different_speaker", "Anna"), ("wrong", "better_match", "Boris")]
    assert found[0].details["llr"] == pytest.approx(ratio(0, 2, 1)) and ratio(0, 2, 1) < 0
    assert found[1].details["llr"] == pytest.approx(ratio(0.8, 1, 1)) and ratio(0.8, 1, 1) > 0
    assert f"LLR {ratio(0, 2, 1):+.2f}" in found[0].text and "Anna" in found[0].text
    assert f"Boris (LLR {ratio(0.8, 1, 1):+.2f})" in found[1].text


def test_another_speaker_can_match_better_although_both_match(recognizer: Recognizer) -> None:
    anna, boris = enrolled("Anna", unit(ANNA)), enrolled("Boris", unit(BORIS))
    between = recordings(unit(8 * ANNA + 9 * BORIS))
    assert ratio(8 / 145**0.5, 1, 1) > 0
    assert kinds(find_mismatches(anna, between, [boris], recognizer)) == [("0.wav", "better_match", "Boris")]
    assert not find_mismatches(anna, recordings(unit(9 * ANNA + 8 * BORIS)), [boris], recognizer)
    more = [enrolled(f"N{i}", unit(np.eye(256)[i])) for i in range(9, 13)]  # the best of five is often better by chance
    assert ratio(9 / 145**0.5, 1, 1) - ratio(8 / 145**0.5, 1, 1) < math.log(5)
    assert not find_mismatches(anna, between, [boris, *more], recognizer)


def test_a_speaker_with_an_llr_below_0_is_no_better_match(recognizer: Recognizer) -> None:
    """By hand: both LLRs are below 0, with Boris (cosine 0.3) larger than with Anna (cosine 0)."""
    anna, boris = enrolled("Anna", unit(ANNA)), enrolled("Boris", unit(BORIS))
    assert ratio(0, 1, 1) < ratio(0.3, 1, 1) < 0
    found = find_mismatches(anna, recordings(unit(0.3 * BORIS + 0.91**0.5 * CLARA)), [boris], recognizer)
    assert kinds(found) == [("0.wav", "different_speaker", "Anna")]


@pytest.mark.parametrize("odd", [0, 1, 3])
def test_first_recordings_are_compared_with_each_other(recognizer: Recognizer, odd: int) -> None:
    """The warning is for the one recording that differs from the three others (3 s)."""
    rows = [ANNA, ANNA + 0.1 * CLARA, ANNA + 0.2 * CLARA]
    rows.insert(odd, BORIS)
    (warning,) = find_mismatches(nobody("Anna"), recordings(unit(*rows)), [], recognizer)
    assert kinds([warning]) == [(f"{odd}.wav", "different_speaker", "Anna")]
    assert warning.details["llr"] == pytest.approx(ratio(0, 3, 1))


def test_the_second_of_two_different_first_recordings_is_a_mismatch(recognizer: Recognizer) -> None:
    assert not find_mismatches(nobody("Anna"), recordings(unit(ANNA, ANNA + BORIS)), [], recognizer)
    (warning,) = find_mismatches(nobody("Anna"), recordings(unit(ANNA, BORIS)), [], recognizer)
    assert warning.file == "1.wav" and not find_mismatches(nobody("Anna"), recordings(unit(ANNA)), [], recognizer)


def test_a_first_recording_of_another_enrolled_speaker(recognizer: Recognizer) -> None:
    """As in `identify` with a prior of 0.5: an LLR above log(number of speakers) is needed."""
    score = 0.862
    assert math.log(3) < ratio(score, 1, 1) < math.log(5)
    new = recordings(unit(score * BORIS + (1 - score**2) ** 0.5 * ANNA))
    others = [enrolled("Boris", unit(BORIS)), *(enrolled(f"N{i}", unit(np.eye(256)[i])) for i in range(9, 13))]
    (warning,) = find_mismatches(nobody("Anna"), new, others[:3], recognizer)
    assert kinds([warning]) == [("0.wav", "better_match", "Boris")]
    assert warning.details["llr"] == pytest.approx(ratio(score, 1, 1), abs=1e-5)
    assert not find_mismatches(nobody("Anna"), new, others, recognizer)


def test_a_recording_that_is_enrolled_for_another_speaker(recognizer: Recognizer, world: Path) -> None:
    boris = enrolled("Boris", unit(BORIS, CLARA), ["one", "two"])
    found = find_mismatches(nobody("Anna"), recordings(unit(CLARA)), [boris], recognizer)
    assert kinds(found) == [("0.wav", "same_recording", "Boris")] and found[0].details["recording"] == "two"
    uncalibrated = Recognizer(world / "plain.pth")
    assert find_mismatches(nobody("Anna"), recordings(unit(CLARA, BORIS)), [boris], uncalibrated)[0] == found[0]
    assert not find_mismatches(enrolled("Anna", unit(ANNA)), recordings(unit(BORIS + CLARA)), [boris], uncalibrated)


def enroll(home: Path, name: str, *files: str, json_too: bool = True) -> tuple[dict, list[str]]:
    """Return what enroll prints as JSON and its warnings."""
    done = here("recognize.py", "enroll", *NETWORK, *VOICES, name, *files, "--json", cwd=home)
    return json.loads(done.stdout), done.stderr.splitlines()


def test_enroll_warns_of_a_recording_of_another_speaker(home: Path) -> None:
    for name, file in (("Anna", "anna1.wav"), ("Boris", "boris1.wav")):
        printed, warnings = enroll(home, name, file)
        assert printed["warnings"] == [] and not warnings
    printed, warnings = enroll(home, "Anna", "anna2.wav", "boris2.wav")
    assert [(w["file"], w["warning"], w["speaker"]) for w in printed["warnings"]] == [
        ("boris2.wav", "different_speaker", "Anna"),
        ("boris2.wav", "better_match", "Boris"),
    ]
    assert printed["warnings"][0]["llr"] < 0 < printed["warnings"][1]["llr"]
    assert [entry["file"] for entry in printed["recordings"]] == ["anna1.wav", "anna2.wav", "boris2.wav"]
    assert all(line.startswith("boris2.wav: ") and "LLR" in line for line in warnings[:2]) and len(warnings) == 3
    assert "remove --voices voices Anna FILE" in warnings[2]

    done = here("recognize.py", "remove", *VOICES, "Anna", "boris2.wav", cwd=home)
    assert done.stdout == "Anna: 2 recordings, 1.80 s of speech remain\n"
    done = here("recognize.py", "enroll", *NETWORK, *VOICES, "Anna", "boris2.wav", "--force", "True", cwd=home)
    assert done.stderr == "" and done.stdout == "Anna: 3 recordings, 2.70 s of speech; 1 added\n"


def test_enroll_warns_of_two_speakers_among_first_recordings(home: Path) -> None:
    printed, _ = enroll(home, "Anna", "anna1.wav", "clara1.wav", "anna2.wav")
    assert [(w["file"], w["warning"]) for w in printed["warnings"]] == [("clara1.wav", "different_speaker")]


def test_enroll_warns_of_a_repeated_recording(home: Path) -> None:
    enroll(home, "Boris", "boris1.wav")
    printed, _ = enroll(home, "Anna", "boris1.wav", "boris1.wav")
    assert printed["warnings"] == [
        {"file": "boris1.wav", "warning": "enrolled_already", "recording": "boris1.wav"},
        {"file": "boris1.wav", "warning": "same_recording", "speaker": "Boris", "recording": "boris1.wav"},
    ]
    assert len(printed["recordings"]) == 1


def test_enroll_warns_of_what_it_cannot_compare(home: Path) -> None:
    done = here("recognize.py", "enroll", "--checkpoint", "plain.pth", *VOICES, "Anna", "anna1.wav", cwd=home)
    assert "no calibration" in done.stderr and done.stdout.startswith("Anna: 1 recording")
    (home / "voices" / "Eve.npz").write_bytes(b"PK junk")
    save_speaker(home / "voices", enrolled("Old", unit(BORIS)))
    printed, warnings = enroll(home, "Boris", "boris1.wav")
    assert [w["warning"] for w in printed["warnings"]] == ["not_compared"] * 2 and len(warnings) == 2
    assert (
        "Eve.npz: damaged, or not a file of an enrolled" in warnings[0]
        and "Old.npz: enrolled with another checkpoint" in warnings[1]
    )


def test_list_as_json(home: Path) -> None:
    enroll(home, "Clara", "clara1.wav")
    enroll(home, "Anna", "anna1.wav", "anna2.wav")
    anna, clara = json.loads(here("recognize.py", "list", *VOICES, "--json", cwd=home).stdout)["voices"]
    assert (anna["speaker"], clara["speaker"]) == ("Anna", "Clara")
    assert [entry["file"] for entry in anna["recordings"]] == ["anna1.wav", "anna2.wav"]
    assert anna["seconds"] == pytest.approx(sum(entry["seconds"] for entry in anna["recordings"]))
    assert anna["checkpoint"] == Recognizer(home / "calibrated.pth").digest


def test_rename(home: Path) -> None:
    enroll(home, "Anna", "anna1.wav")
    enroll(home, "Boris", "boris1.wav")
    before = load_speakers(home / "voices")[0]
    assert here("recognize.py", "rename", *VOICES, "Anna", "Zoë", cwd=home).stdout == "Anna: renamed to Zoë\n"
    boris, zoe = load_speakers(home / "voices")
    assert zoe.name == "Zoë" and zoe.files == ["anna1.wav"]
    np.testing.assert_array_equal(zoe.embeddings, before.embeddings)
    for old, new, message in (
        ("Anna", "Eve", "Anna: not enrolled in voices"),
        ("Zoë", "Boris", "Boris: already enrolled in voices"),
        ("Zoë", "a/b", "invalid name"),
        ("Zoë", "unknown", "not a name"),
    ):
        done = here("recognize.py", "rename", *VOICES, old, new, cwd=home, check=1)
        assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert [voice.name for voice in load_speakers(home / "voices")] == ["Boris", "Zoë"]
    done = here("recognize.py", "rename", "--voices", "absent", "Anna", "Eve", cwd=home, check=1)
    assert "not enrolled in absent" in done.stderr and not (home / "absent").exists()
    (home / "other").mkdir()
    for command in (["rename", "--voices", "other", "Anna", "Eve"], ["remove", "--voices", "other", "Anna"]):
        here("recognize.py", *command, cwd=home, check=1)
    assert not list((home / "other").iterdir())


def test_remove_recordings(home: Path) -> None:
    _, warnings = enroll(home, "Anna", "anna1.wav", "anna2.wav", "anna3.wav")
    assert not warnings
    (before,) = load_speakers(home / "voices")
    done = here("recognize.py", "remove", *VOICES, "Anna", "anna2.wav", "absent.wav", cwd=home, check=1)
    assert "Anna: has no recording absent.wav" in done.stderr and len(load_speakers(home / "voices")[0].files) == 3
    here("recognize.py", "remove", *VOICES, "Anna", home / "anna2.wav", cwd=home)  # another path to the same file
    (left,) = load_speakers(home / "voices")
    assert left.files == ["anna1.wav", "anna3.wav"]
    np.testing.assert_array_equal(left.embeddings, before.embeddings[[0, 2]])
    assert [r.seconds for r in left.recordings] == [before.recordings[kept].seconds for kept in (0, 2)]
    done = here("recognize.py", "remove", *VOICES, "Anna", "anna3.wav", "anna1.wav", cwd=home)
    assert done.stdout == "Anna: removed\n" and not (home / "voices" / "Anna.npz").exists()


def test_the_latest_of_several_recordings_of_one_file_is_removed() -> None:
    voice_ = enrolled("Anna", unit(ANNA, BORIS, CLARA), ["-", "-", "x.wav"])
    np.testing.assert_array_equal(voice_.without(["-"]).embeddings, unit(ANNA, CLARA))
    assert voice_.without(["-", "-"]).files == ["x.wav"]
    with pytest.raises(UserError, match="has no recording -"):
        voice_.without(["-"] * 3)


def test_a_name_in_two_unicode_forms_is_one_speaker(home: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "José") for form in ("NFC", "NFD"))
    assert composed != decomposed
    enroll(home, decomposed, "anna1.wav")
    assert [path.name for path in (home / "voices").glob("[!.]*")] == [f"{composed}.npz"]
    (home / "voices" / f"{composed}.npz").rename(home / "voices" / f"{decomposed}.npz")  # as earlier versions wrote it
    printed, _ = enroll(home, composed, "anna2.wav")
    assert printed["speaker"] == composed and len(printed["recordings"]) == 2
    clip = ["identify", *NETWORK, *VOICES, "anna3.wav", "--json"]
    assert json.loads(here("recognize.py", *clip, cwd=home).stdout)["files"][0]["speaker"] == composed
    assert here("recognize.py", "rename", *VOICES, composed, "Eva", cwd=home).stdout.endswith("renamed to Eva\n")
    here("recognize.py", "rename", *VOICES, "Eva", decomposed, cwd=home)
    assert [path.name for path in (home / "voices").glob("[!.]*")] == [f"{composed}.npz"]
    here("recognize.py", "remove", *VOICES, decomposed, cwd=home)
    assert not list((home / "voices").glob("[!.]*"))


def test_threads_lose_no_recordings(tmp_path: Path, recognizer: Recognizer) -> None:
    rng = np.random.default_rng(0)
    new = [recordings(unit(*rng.normal(size=(1, 256))), [f"{number}.wav"]) for number in range(24)]

    def add(one: list[EmbeddedRecording]) -> None:
        enrol(tmp_path, "Anna", one, recognizer, compare=False)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, new))
    (anna,) = load_speakers(tmp_path)
    assert sorted(anna.files) == sorted(f"{number}.wav" for number in range(24))


def test_recordings_are_removed_by_the_listed_name_in_any_folder() -> None:
    anna = enrolled("Anna", unit(ANNA, BORIS), ["a.wav", str(Path("a.wav").absolute())])
    assert anna.without(["a.wav"]).files == [str(Path("a.wav").absolute())]


def save_three(folder: Path) -> list[Path]:
    for name in ("Anna", "Boris", "Clara"):
        save_speaker(folder, enrolled(name, unit(ANNA)))
    return sorted(folder.glob("*.npz"))


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(24, "Too many open files")])
def test_an_unreadable_file_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    path = save_three(tmp_path)[0]
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=error))
    with pytest.raises(UserError, match=rf"^{path}: cannot be read \({error.strerror}\)$"):
        load_speaker(path)


def test_too_little_memory_is_no_reason_to_enrol_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_three(tmp_path)[0]
    monkeypatch.setattr(np, "load", Mock(side_effect=MemoryError))
    with pytest.raises(UserError, match=rf"^{path}: too large for the memory, or damaged$"):
        load_speaker(path)


def test_a_speaker_whom_another_process_removes_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = speakers._files(tmp_path) or {path.stem: path for path in save_three(tmp_path)}
    files["Boris"].unlink()
    monkeypatch.setattr(speakers, "_files", lambda folder: files)
    assert [speaker.name for speaker in load_speakers(tmp_path)] == ["Anna", "Clara"]
    others, errors = load_others(tmp_path, "Anna", "ab")
    assert ([other.name for other in others], errors) == (["Clara"], [])


def test_any_damaged_byte_is_an_error_of_the_file(tmp_path: Path) -> None:
    path = save_three(tmp_path)[0]
    content = path.read_bytes()
    at = content.index(b"PK\x01\x02")
    for position in range(at, at + 46):  # a header in the directory of the zip: compression, encryption, sizes
        path.write_bytes(content[:position] + bytes([content[position] ^ 99]) + content[position + 1 :])
        try:
            load_speaker(path)
        except UserError as error:
            assert "damaged" in str(error)


def test_invalid_names_and_folders_are_errors(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: not a folder"):
        speaker_path(tmp_path / "file", "Anna")
    assert speaker_path(tmp_path, "声" * 66).name == "声" * 66 + ".npz"
    with pytest.raises(UserError, match="invalid name"):
        speaker_path(tmp_path, "声" * 67)


def test_two_files_for_one_name_are_an_error(tmp_path: Path) -> None:
    """Impossible on macOS."""
    for form in ("NFC", "NFD"):
        (tmp_path / f"{unicodedata.normalize(form, 'José')}.npz").write_bytes(b"")
    if len(list(tmp_path.iterdir())) == 2:
        with pytest.raises(UserError, match=r"rename or remove one of two files: 'Jose.*' and 'Jos.xe9.npz'"):
            speaker_path(tmp_path, "José")


def test_enrol_from_python_prints_nothing(
    recognizer: Recognizer, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [Candidate(str(world / name), True) for name in ("anna1.wav", "anna1.wav", "boris1.wav")]
    embedded = [r for r in embed_each(files, read_utterance, recognizer) if isinstance(r, EmbeddedRecording)]
    capsys.readouterr()
    anna, found = enrol(tmp_path, "Anna", embedded, recognizer)
    assert [warning.kind for warning in found] == ["enrolled_already", "different_speaker"] and len(
        anna.recordings
    ) == 2
    assert capsys.readouterr() == ("", "")
