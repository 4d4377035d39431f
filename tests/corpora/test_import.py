"""dataprep.py --import_dir on typical folders of recordings."""

import csv
import errno
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from archive_set import run, tone, tree
from conftest import here, voice

from configure import TREES
from corpora import demo, naming

RATE = 16000
STRICT = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
WAVS = "voxceleb2/dev/wav"


def report(root: Path) -> dict[str, dict[str, str]]:
    """Return the rows of the import's report by the files' names."""
    with open(root / "import_report.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {Path(row["file"]).name: row for row in csv.DictReader(file)}


def test_every_file_is_read_and_listed(tmp_path: Path) -> None:
    folder = tmp_path / "recordings" / "anna"
    folder.mkdir(parents=True)
    for number, kind in enumerate(("AIFF", "AU", "CAF", "W64", "NIST")):
        soundfile.write(folder / f"{kind}.{kind.lower()}", tone(1.5, number), RATE, format=kind)
    soundfile.write(folder / "no suffix", tone(1.5, 10), RATE, format="WAV")
    soundfile.write(folder / "same.wav", tone(1.5, 11), RATE)
    (folder / "same.txt").write_text("the text of the recording\n")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "recordings" / "README").write_text("about these recordings\n")
    (folder / ".hidden").write_text("a file of the system\n")
    output = run("--save_path", tmp_path / "root", "--import_dir", tmp_path / "recordings")
    assert output.returncode == 0, output.stderr
    assert "7 recordings, 7 imported: 1 speakers" in output.stdout and "skipped, not audio: 3" in output.stdout
    assert "from one speaker, anna" in output.stdout and "--speaker_from" in output.stdout
    left_out = {name: row["left_out"] for name, row in report(tmp_path / "root").items() if row["left_out"]}
    assert left_out == dict.fromkeys(["same.txt", "picture.png", "README"], "not audio")
    assert "anna/all/same.wav" in tree(tmp_path / "root" / WAVS)  # same.txt does not change this name


def test_no_speaker_in_any_path(tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    (folder / "about").mkdir(parents=True)
    (folder / "about" / "README.txt").write_text("no recording, so no speaker\n")
    for number, name in enumerate(("ann_1", "ann_2", "bob_1")):
        soundfile.write(folder / f"{name}.wav", tone(1.5, number), RATE)
    output = run("--save_path", tmp_path / "root", "--import_dir", folder)
    assert output.returncode == 1
    (line,) = output.stderr.splitlines()
    assert "ann_1.wav" in line and "--speaker_from" in line
    rule = line.split("'")[1]  # the expression that the message shows
    output = run("--save_path", tmp_path / "root", "--import_dir", folder, "--speaker_from", rule)
    assert output.returncode == 0, (line, output.stderr)
    assert {path.split("/")[0] for path in tree(tmp_path / "root" / WAVS)} == {"ann", "bob"}


def test_the_depth_of_a_speakers_folder_is_1_or_more(tmp_path: Path) -> None:
    (tmp_path / "in" / "ann").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "ann" / "a.wav", tone(1.5, 1), RATE)
    output = run("--save_path", tmp_path / "root", "--import_dir", tmp_path / "in", "--speaker_from", "0")
    assert output.returncode == 2 and "--speaker_from 0: " in output.stderr


def test_a_folder_without_recordings(tmp_path: Path) -> None:
    (tmp_path / "in" / "notes").mkdir(parents=True)
    output = run("--save_path", tmp_path / "root", "--import_dir", tmp_path / "in")
    assert output.returncode == 1 and f"--import_dir {tmp_path / 'in'}: " in output.stderr
    (tmp_path / "in" / "README").write_text("not audio")
    output = run("--save_path", tmp_path / "root", "--import_dir", tmp_path / "in")
    assert output.returncode == 1 and "--speaker_from" in output.stderr
    (tmp_path / "in" / "notes" / "a.txt").write_text("not audio")
    output = run("--save_path", tmp_path / "root", "--import_dir", tmp_path / "in")
    assert output.returncode == 1 and output.stderr.count("\n") == 1
    assert f"no recordings imported; {tmp_path / 'root' / 'import_report.csv'} lists" in output.stderr
    assert "0 recordings, 0 imported: 0 speakers" in output.stdout and "skipped, not audio: 2" in output.stdout


def test_channels_and_silence(tmp_path: Path) -> None:
    (tmp_path / "calls" / "anna").mkdir(parents=True)
    anna, ben, pause = voice(1, 2, 0), voice(2, 2, 0), np.zeros(3 * RATE, np.int16)
    padded = [np.concatenate([pause, samples, pause]) for samples in (ben, anna)]
    soundfile.write(tmp_path / "calls" / "anna" / "call.wav", np.stack(padded, axis=1), RATE)
    soundfile.write(tmp_path / "calls" / "anna" / "mono.wav", anna, RATE)
    imports = {"with silence": [], "trimmed": ["--channel", "2", "--trim_silence", "True"]}
    for name, flags in imports.items():
        output = run("--save_path", tmp_path / name, "--import_dir", tmp_path / "calls", *flags)
        assert output.returncode == (1 if flags else 0), output.stderr  # a mono file has no second channel
    rows = {name: report(tmp_path / name) for name in imports}
    assert "carry different sound" in rows["with silence"]["call.wav"]["remark"]
    assert rows["with silence"]["call.wav"]["seconds"] == rows["trimmed"]["call.wav"]["seconds"] == "8.00"
    assert float(rows["trimmed"]["call.wav"]["speech"]) == pytest.approx(2, abs=0.06)
    assert "has no channel 2" in rows["trimmed"]["mono.wav"]["detail"] and not rows["trimmed"]["call.wav"]["remark"]
    written, _ = soundfile.read(tmp_path / "trimmed" / WAVS / "anna" / "all" / "call.wav", dtype="int16")
    assert abs(len(written) - len(anna)) < 0.05 * RATE and bytes(written[500:1000]) in anna.tobytes()
    complete, _ = soundfile.read(tmp_path / "with silence" / WAVS / "anna" / "all" / "call.wav")
    assert len(complete) == 8 * RATE


def test_recordings_without_a_voice_are_remarked(tmp_path: Path) -> None:
    (tmp_path / "in" / "anna").mkdir(parents=True)
    pytest.importorskip("espeakng_loader")
    rng = np.random.default_rng(0)
    with demo.synthesiser("en", demo.random_variant(rng)) as speak:
        spoken = (20000 * speak("The birch canoe slid on the smooth planks.", 160, 50, 50, 0)).astype(np.int16)
    fan = rng.normal(0, 1000, 2 * RATE).astype(np.int16)
    for name, samples in (("spoken", spoken), ("fan", fan), ("brief", fan[: RATE // 2])):
        soundfile.write(tmp_path / "in" / "anna" / f"{name}.wav", samples, RATE)
    output = run("--save_path", tmp_path / "root", "--import_dir", tmp_path / "in")
    assert output.returncode == 0 and "3 imported" in output.stdout
    remarks = {name: row["remark"] for name, row in report(tmp_path / "root").items()}
    both = "no voice found and shorter than 1 s"
    assert remarks == {"spoken.wav": "", "fan.wav": "no voice found", "brief.wav": both}
    assert ", no voice found: 1\n" in output.stdout and f", {both}: 1" in output.stdout


def test_truncated_recordings_are_remarked(tmp_path: Path) -> None:
    (tmp_path / "in" / "anna").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "anna" / "a.wav", tone(2, 1), RATE)
    content = (tmp_path / "in" / "anna" / "a.wav").read_bytes()
    for name, size in (("a", 48_044), ("b", 20_044)):
        (tmp_path / "in" / "anna" / f"{name}.wav").write_bytes(content[:size])
    output = run("--save_path", tmp_path / "root", "--import_dir", tmp_path / "in")
    rows = report(tmp_path / "root")
    assert output.returncode == 1 and "0.50 of its 2.00 s are missing and no voice found: 1" in output.stdout
    assert rows["b.wav"]["left_out"] == "unreadable" and "1.38 of its 2.00 s" in rows["b.wav"]["detail"]


@pytest.mark.skipif(os.name != "posix", reason="other systems do not allow these names")
def test_names_of_any_bytes_on_a_strict_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    names = [os.fsdecode(name + b".wav") for name in (b"12:30", b"caf\xe9", "é".encode(), b"line\nend", b"-a")]
    (folder / os.fsdecode(b"Andr\xe9")).mkdir(parents=True)
    for number, name in enumerate(names):
        with open(os.fsencode(folder / os.fsdecode(b"Andr\xe9") / name), "wb") as file:
            soundfile.write(file, tone(1.5, number), RATE, format="WAV")
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


def write_tones(folder: Path, names: dict[str, int]) -> None:
    """Write recordings of one second, each with the tone of a number."""
    for name, number in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, tone(1.2, number), RATE)


def numbers(root: Path) -> dict[str, int]:
    """Return the wavs of the training tree and the number of the tone in each."""
    known = {tone(1.2, number).tobytes(): number for number in range(20)}
    found = {name: soundfile.read(root / WAVS / name, dtype="int16")[0] for name in tree(root / WAVS)}
    return {name: known[samples.tobytes()] for name, samples in found.items()}


def test_an_import_does_not_change_or_repeat_wavs_of_earlier_imports(tmp_path: Path) -> None:
    command = ("dataprep.py", "--save_path", tmp_path / "root", "--import_dir")
    write_tones(tmp_path / "in", {"anna/b.wav": 1, "anna/one.wav": 2, "anna/x y.wav": 3})
    output = here(*command, tmp_path / "in", cwd=tmp_path)
    assert "already had" not in output.stdout
    first = {"anna/all/b.wav": 1, "anna/all/one.wav": 2, "anna/all/x_y.wav": 3}
    assert numbers(tmp_path / "root") == first
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "root" / WAVS).rglob("*.wav")}
    # A copy that precedes its original in the order of names, and files of equal stems.
    write_tones(tmp_path / "in", {"anna/a.wav": 1, "anna/one.flac": 4, "anna/x-y.wav": 5, "anna/x y.flac": 3})
    output = here(*command, tmp_path / "in", cwd=tmp_path, check=1)
    assert "one.flac" in output.stderr and "rename the file" in output.stderr and output.stderr.count("\n") == 1
    assert numbers(tmp_path / "root") == first | {"anna/all/x-y.wav": 5}
    (tmp_path / "in/anna/one.flac").rename(tmp_path / "in/anna/two.flac")
    here(*command, tmp_path / "in", cwd=tmp_path)
    second = first | {"anna/all/x-y.wav": 5, "anna/all/two.wav": 4}
    assert numbers(tmp_path / "root") == second
    assert {path: path.stat().st_mtime_ns for path in written} == written
    row = report(tmp_path / "root")["a.wav"]
    assert (row["left_out"], row["detail"]) == ("same content as another", str(tmp_path / "in/anna/b.wav"))
    # The same recordings from another folder, under other names.
    write_tones(tmp_path / "other", {"anna/c.wav": 1, "anna/d.wav": 7, "ben/b.wav": 1})
    output = here(*command, tmp_path / "other", cwd=tmp_path, check=1)
    assert "skipped, already in the tree under another name: 1" in output.stdout
    assert "added to speakers that the tree already had: 1, for example anna" in output.stdout
    assert "ben/b.wav: same content under another speaker" in output.stderr and output.stderr.count("\n") == 1
    assert numbers(tmp_path / "root") == second | {"anna/all/d.wav": 7}
    assert report(tmp_path / "root")["c.wav"]["detail"] == str(tmp_path / "root" / WAVS / "anna/all/b.wav")
    # Without the files that had the first choice of a name.
    for name in ("anna/b.wav", "anna/x y.flac"):
        (tmp_path / "in" / name).unlink()
    output = here(*command, tmp_path / "in", cwd=tmp_path, check=None)
    assert output.returncode == 0 and numbers(tmp_path / "root") == second | {"anna/all/d.wav": 7}


def test_the_report_has_the_last_import_into_each_split(tmp_path: Path) -> None:
    for folder, split, number in (("a", "train", 1), ("b", "test", 2), ("c", "test", 3)):
        write_tones(tmp_path / folder, {f"anna/{folder}.wav": number})
        command = ("--save_path", tmp_path / "root", "--import_dir", tmp_path / folder, "--split", split)
        assert run(*command).returncode == 0
    rows = report(tmp_path / "root")
    assert {name: row["split"] for name, row in rows.items()} == {"a.wav": "train", "c.wav": "test"}
    assert rows["a.wav"]["wav"].endswith("voxceleb2/dev/wav/anna/all/a.wav") and rows["a.wav"]["seconds"] == "1.20"


def test_the_same_content_under_another_speaker_is_an_error(tmp_path: Path) -> None:
    command = ("dataprep.py", "--save_path", tmp_path / "root", "--import_dir")
    write_tones(tmp_path / "rec", {"all/anna/1.wav": 1, "all/anna/2.wav": 2, "all/ben/1.wav": 3, "all/ben/2.wav": 4})
    here(*command, tmp_path / "rec", cwd=tmp_path)  # with all recordings under the speaker "all"
    output = here(*command, tmp_path / "rec", "--speaker_from", "2", cwd=tmp_path, check=1)
    assert "skipped, same content under another speaker: 4" in output.stdout
    assert f"{tmp_path / 'root' / WAVS / 'all/anna/1.wav'}; remove this wav, or the file" in output.stderr
    assert ": 4, " in output.stderr and output.stderr.count("\n") == 1
    for wav in (tmp_path / "root" / WAVS).rglob("*.wav"):  # as the message advises
        wav.unlink()
    here(*command, tmp_path / "rec", "--speaker_from", "2", cwd=tmp_path)
    assert numbers(tmp_path / "root") == {
        "anna/all/1.wav": 1,
        "anna/all/2.wav": 2,
        "ben/all/1.wav": 3,
        "ben/all/2.wav": 4,
    }
    write_tones(tmp_path / "both", {"carl/a.wav": 5, "carl/b.wav": 5, "dora/a.wav": 5})
    output = here(*command, tmp_path / "both", cwd=tmp_path, check=1)
    assert "skipped, same content as another: 1" in output.stdout and ": 1, " in output.stderr
    assert "dora/a.wav: same content under another speaker" in output.stderr and "carl/all/a.wav" in output.stderr


def test_the_feature_of_a_replaced_wav_is_removed(tmp_path: Path) -> None:
    command = ("dataprep.py", "--save_path", tmp_path / "root", "--import_dir", tmp_path / "in")
    features = tmp_path / "root" / TREES["vox2_dev"].feat
    write_tones(tmp_path / "in", {"anna/1.wav": 1, "anna/2.wav": 2})
    assert "features" not in here(*command, cwd=tmp_path).stdout
    for name in ("anna/all/1.pkl", "anna/all/2.pkl"):
        (features / name).parent.mkdir(parents=True, exist_ok=True)
        (features / name).write_text(name)
    write_tones(tmp_path / "in", {"anna/1.wav": 3, "ben/2.wav": 2})
    errors = here(*command, cwd=tmp_path, check=1).stderr
    assert f"1.wav; rename the file, or remove this wav and its feature {features}/anna/all/1.pkl" in errors
    details = report(tmp_path / "root")["2.wav"]["detail"]
    assert f"anna/all/2.wav; remove this wav and its feature {features}/anna/all/2.pkl, or the file" in details
    (tmp_path / "root" / WAVS / "anna/all/1.wav").unlink()
    output = here(*command, cwd=tmp_path, check=1).stdout
    assert "\n1 features of replaced wavs removed; run feat_extract/feature_extraction.py again\n" in output
    assert list(tree(features)) == ["anna/all/2.pkl"] and numbers(tmp_path / "root")["anna/all/1.wav"] == 3


def test_a_suffix_in_capitals_is_the_same_name(tmp_path: Path) -> None:
    write_tones(tmp_path / "in", {"anna/1.wav": 1, "anna/2.wav": 2, "anna/3.wav": 3})
    command = ("dataprep.py", "--save_path", tmp_path / "root", "--import_dir", tmp_path / "in")
    here(*command, cwd=tmp_path)
    for name in ("1", "2"):
        wav = tmp_path / "root" / WAVS / f"anna/all/{name}.wav"
        wav.rename(wav.with_suffix(".WAV"))
    (tmp_path / "in/anna/3.wav").unlink()
    assert "2 recordings, 2 imported" in here(*command, cwd=tmp_path).stdout
    write_tones(tmp_path / "in", {"anna/1.wav": 4})
    errors = here(*command, cwd=tmp_path, check=1).stderr
    assert f"{tmp_path / 'root' / WAVS}/anna/all/1.WAV; rename the file, or remove this wav" in errors
    assert numbers(tmp_path / "root") == {"anna/all/1.WAV": 1, "anna/all/2.WAV": 2, "anna/all/3.wav": 3}


def test_two_copies_in_the_tree_are_kept(tmp_path: Path) -> None:
    write_tones(tmp_path / "in", {"anna/a.wav": 1, "anna/b.wav": 1})
    write_tones(tmp_path / "root" / WAVS, {"anna/all/a.wav": 1, "anna/all/b.wav": 1})
    here("dataprep.py", "--save_path", tmp_path / "root", "--import_dir", tmp_path / "in", cwd=tmp_path)
    assert numbers(tmp_path / "root") == {"anna/all/a.wav": 1, "anna/all/b.wav": 1}


@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_interrupted_import_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    write_tones(tmp_path / "in", {"anna/a.flac": 1, "anna/a.wav": 2, "anna/b.wav": 2, "ben/c.wav": 3})
    command = ("dataprep.py", "--save_path", "root", "--import_dir", "in", "--num_workers", 1)
    rename, steps = Path.rename, iter(range(step, 0, -1))

    def killed(self: Path, target: Path) -> Path:
        if next(steps) == 1:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        here(*command, cwd=tmp_path, check=130)
    assert not list((tmp_path / "root").rglob("*.tmp"))
    here(*command, cwd=tmp_path)
    assert numbers(tmp_path / "root") == {"anna/all/a.wav": 1, "anna/all/a_wav.wav": 2, "ben/all/c.wav": 3}
    assert not list((tmp_path / "root").rglob("*.tmp"))


def test_a_full_disk_leaves_no_unfinished_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tones(tmp_path / "in", {"anna/a.wav": 1, "anna/b.wav": 2, "ben/c.wav": 3})
    write, steps = naming.write_wav, iter(range(3))

    def full(path: Path, samples: np.ndarray) -> None:
        if next(steps) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, samples)

    command = ("dataprep.py", "--save_path", "root", "--import_dir", "in", "--num_workers", 1)
    with monkeypatch.context() as patched:
        patched.setattr(naming, "write_wav", full)
        errors = here(*command, cwd=tmp_path, check=1).stderr
    assert errors.startswith(f"dataprep.py: root/{WAVS}: No space left on device; the import is not finished; ")
    assert "intact" not in errors and errors.count("\n") == 1 and not tree(tmp_path / "root", ".tmp", ".wav")
    assert "3 imported" in here(*command, cwd=tmp_path).stdout


NAMES = ["Zoë", "हिन्दी", "Nguyễn", "ไทย", "Ẹ̀kọ́"]  # the third and last have two marks on a letter


def test_names_keep_combining_marks_in_composed_form(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        written = {unicodedata.normalize(form, f"{name}/{name} 1.wav"): number for number, name in enumerate(NAMES)}
        write_tones(tmp_path / form, written)
        output = here(
            "dataprep.py",
            "--save_path",
            tmp_path / f"root {form}",
            "--import_dir",
            tmp_path / form,
            cwd=tmp_path,
            check=None,
        )
        assert output.returncode == 0, output.stderr
        expected = {
            unicodedata.normalize("NFC", f"{name}/all/{name}_1.wav"): number for number, name in enumerate(NAMES)
        }
        assert numbers(tmp_path / f"root {form}") == expected
    output = here(
        "dataprep.py", "--save_path", tmp_path / "root NFC", "--import_dir", tmp_path / "NFD", cwd=tmp_path, check=None
    )  # as from another operating system
    assert output.returncode == 0 and numbers(tmp_path / "root NFC") == expected


def test_speakers_that_differ_only_in_their_normal_form_are_an_error(tmp_path: Path) -> None:
    write_tones(tmp_path / "in", {"Zo\u00eb/a.wav": 1, "Zoe\u0308/b.wav": 2})
    if len(tree(tmp_path / "in")) < 2:
        pytest.skip("one name to this file system")
    output = here(
        "dataprep.py", "--save_path", tmp_path / "root", "--import_dir", tmp_path / "in", cwd=tmp_path, check=1
    )
    assert "differ only in their Unicode normal form" in output.stderr and "\\u03" in output.stderr
    assert output.stderr.count("\n") == 1 and not tree(tmp_path / "root", ".wav")


def test_each_of_several_files_that_would_become_one_wav_is_imported_or_named(tmp_path: Path) -> None:
    write_tones(tmp_path / "in", {"anna/x y.wav": 1, "anna/x:y.wav": 2, "anna/x;y.wav": 3})
    output = here(
        "dataprep.py", "--save_path", tmp_path / "root", "--import_dir", tmp_path / "in", cwd=tmp_path, check=1
    )
    assert ": 1, " in output.stderr and "x;y.wav" in output.stderr
    assert numbers(tmp_path / "root") == {"anna/all/x_y.wav": 1, "anna/all/x_y_wav.wav": 2}


def test_long_names_are_shortened(tmp_path: Path) -> None:
    folders, name = f"{'話' * 80}/{'y' * 180}", f"{'話' * 82}.wav"  # a name of 250 bytes
    write_tones(tmp_path / "in", {f"anna/{folders}/{name}": 1, f"anna/{folders}z/{name}": 2, f"ben/{'語' * 72}.wav": 3})
    command = ("dataprep.py", "--save_path", tmp_path / "root", "--import_dir", tmp_path / "in")
    for _ in range(2):
        assert "3 imported" in here(*command, cwd=tmp_path).stdout
        found = {number: path for path, number in numbers(tmp_path / "root").items()}
        assert found[3] == f"ben/all/{'語' * 72}.wav" and len(found) == 3
        (_, video, stem), (_, other, _) = found[1].split("/"), found[2].split("/")
        assert video.startswith("話" * 66 + "_") and stem.startswith("話" * 66 + "_") and video != other
        assert max(len(os.fsencode(part)) for part in (video, other, stem)) <= 200 + 1 + 16 + len(".wav")


def test_normal_forms_in_kaldi_lists(tmp_path: Path) -> None:
    composed, decomposed = "Zo\u00eb", "Zoe\u0308"
    write_tones(tmp_path, {"1.wav": 1, "2.wav": 2})
    command = ("dataprep.py", "--save_path", tmp_path / "root", "--import_list", tmp_path / "wav.scp")
    (tmp_path / "wav.scp").write_text(f"{decomposed}-1 {tmp_path}/1.wav\n{composed}-2 {tmp_path}/2.wav\n")
    (tmp_path / "utt2spk").write_text(f"{composed}-1 {composed}\n{decomposed}-2 {composed}\n")
    assert here(*command, cwd=tmp_path, check=None).returncode == 0
    assert numbers(tmp_path / "root") == {f"{composed}/all/{composed}-1.wav": 1, f"{composed}/all/{composed}-2.wav": 2}
    lists = {
        "two speakers": ("a 1.wav\nb 2.wav\n", f"a {composed}\nb {decomposed}\n", "utt2spk: rename a speaker"),
        "two utterances": (
            f"{composed} 1.wav\n{decomposed} 2.wav\n",
            f"{composed} anna\n",
            "wav.scp: line 2:",
        ),
    }
    for scp, utt2spk, message in lists.values():
        (tmp_path / "wav.scp").write_text(scp)
        (tmp_path / "utt2spk").write_text(utt2spk)
        output = here(*command, cwd=tmp_path, check=None)
        assert output.returncode == 1 and message in output.stderr and output.stderr.count("\n") == 1
        assert "'Zo\\xeb' and 'Zoe\\u0308' differ only in their Unicode normal form" in output.stderr
    (tmp_path / "utt2spk").write_text("a anna\nb ben\na ben\n")
    output = here(*command, cwd=tmp_path, check=None)
    assert (
        output.returncode == 1 and "utt2spk: line 3: 'a' has speaker 'ben', in an earlier line 'anna'" in output.stderr
    )
