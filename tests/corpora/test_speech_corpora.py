"""LibriSpeech, imports and trial lists."""

import csv
import hashlib
import io
import itertools
import os
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from archive_set import m4a, run, tone, tree
from mirror_server import Mirror

from configure import TREES, TRIALS_NAME
from corpora.check import check_openslr
from corpora.openslr import extract_subset
from corpora.servers import Server
from corpora.trial_lists import download_lists
from corpora.voxceleb import PARTS
from system.console import UserError


def librispeech(folder: Path, subset: str, speakers: Iterable[int], broken: bool = False) -> dict[str, np.ndarray]:
    """Write the archive of a subset; return its samples by the wav's path in the tree."""
    samples, path = {}, folder / f"{subset}.tar.gz"
    with tarfile.open(path, "w:gz") as out:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(f"LibriSpeech/{name}")
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))

        add("SPEAKERS.TXT", b"; the readers\n")
        for speaker, chapter, utterance in itertools.product(speakers, (7, 8), range(3)):
            name = f"{speaker}/{chapter}/{speaker}-{chapter}-{utterance:04}"
            spoken = samples[f"{name}.wav"] = tone(0.3, speaker + chapter + 10 * utterance)
            file = io.BytesIO()
            soundfile.write(file, spoken, 16000, format="FLAC")
            add(f"{subset}/{name}.flac", file.getvalue())
        if broken:
            add(f"{subset}/1/1/1-1-0000.flac", b"fLaC but no more")
    with open(folder / "md5sum.txt", "a") as sums:
        sums.write(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.name}\n")
    return samples


def read(path: Path) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == 16000 and soundfile.info(path).subtype == "PCM_16"
    return samples


@pytest.mark.slow
def test_librispeech_is_converted_into_the_trees(tmp_path: Path) -> None:
    served, root = tmp_path / "served", tmp_path / "root"
    (served / "31").mkdir(parents=True)
    train = librispeech(served / "31", "train-clean-5", (11, 12))
    test = librispeech(served / "31", "dev-clean-2", (21, 22, 23))
    with Mirror(served) as mirror:
        mirror.faults["31/dev-clean-2.tar.gz"] = ["drop"]
        command = ("--save_path", root, "--librispeech", "train-clean-5", "dev-clean-2", "--make_trials", "60",
                   "--librispeech_url", mirror.url)  # fmt: skip
        output = run(*command)
        assert output.returncode == 0, output.stderr
        before, asked = tree(root), len(mirror.requests)
        assert run(*command, "--delete_archives").returncode == 0 and run(*command).returncode == 0
        assert len(mirror.requests) == asked
    for part, samples in (("voxceleb2/dev/wav", train), ("voxceleb1/test/wav", test)):
        assert set(tree(root / part)) == set(samples)
        assert all(np.array_equal(read(root / part / name), spoken) for name, spoken in samples.items())
    lines = (root / "trial_pair_Verification.txt").read_text().splitlines()
    assert len(lines) == 60 and all(name in test for line in lines for name in line.split()[1:])
    assert {path: before[path] for path in before if path.endswith(".wav")} == tree(root, ".wav")


def test_wavs_of_librispeech_that_are_lost_after_their_archive_are_an_error(tmp_path: Path) -> None:
    served, root = tmp_path / "served", tmp_path / "root"
    (served / "31").mkdir(parents=True)
    librispeech(served / "31", "dev-clean-2", (21, 22))
    with Mirror(served) as mirror:
        command = ("--save_path", root, "--librispeech", "dev-clean-2", "--make_trials", "10", "--delete_archives",
                   "--librispeech_url", mirror.url)  # fmt: skip
        assert run(*command).returncode == 0 and run(*command).returncode == 0
        shutil.rmtree(root / "voxceleb1/test/wav/21")
        output = run(*command)
        assert output.returncode == 1 and output.stderr.count("\n") == 1
        assert "6 of its files" in output.stderr
        (root / "dev-clean-2.tar.gz.extracted").unlink()
        assert run(*command).returncode == 0 and len(tree(root, ".wav")) == 12


def test_librispeech_removes_features_of_earlier_wavs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (name, *_) = librispeech(tmp_path, "dev-clean-2", (21,))
    feature = (tmp_path / TREES["vox1_test"].feat / name).with_suffix(".pkl")
    feature.parent.mkdir(parents=True)
    feature.write_text("of an earlier wav")
    assert not extract_subset("dev-clean-2", tmp_path, False, 1)
    assert "1 features of replaced wavs removed" in capsys.readouterr().out and not feature.exists()


def test_an_archive_of_librispeech_is_read_again_only_if_wavs_are_missing(tmp_path: Path) -> None:
    librispeech(tmp_path, "dev-clean-2", (21, 22))
    wav = tmp_path / TREES["vox1_test"].wav / "21/7/21-7-0000.wav"
    wav.parent.mkdir(parents=True)
    wav.touch()  # imported earlier, for example
    archive = next(state for state in check_openslr(tmp_path) if state)
    assert archive.description == "complete; extract with dataprep.py --librispeech dev-clean-2"
    wav.unlink()
    marker = tmp_path / "dev-clean-2.tar.gz.extracted"
    for _ in range(2):  # with all wavs missing, then with one
        assert not extract_subset("dev-clean-2", tmp_path, False, 1) and len(tree(tmp_path, ".wav")) == 12
        assert sorted(marker.read_text().splitlines()) == ["21 6", "22 6"]
        (state,) = (state for state in check_openslr(tmp_path) if state)
        assert state.description == "complete, extracted" and state.step is None
        before = marker.stat().st_ino
        assert not extract_subset("dev-clean-2", tmp_path, False, 1) and marker.stat().st_ino == before
        wav.unlink()
    assert not extract_subset("dev-clean-2", tmp_path, False, 1) and wav.exists()
    extract_subset("dev-clean-2", tmp_path, True, 1)
    assert not (tmp_path / "dev-clean-2.tar.gz").exists()
    (state,) = (state for state in check_openslr(tmp_path) if state)
    assert state.description == "extracted and removed"
    wav.unlink()
    with pytest.raises(UserError, match="1 of its files .* or omit it from --librispeech"):
        extract_subset("dev-clean-2", tmp_path, False, 1)


def test_librispeech_with_a_broken_recording_or_archive(tmp_path: Path) -> None:
    served, root = tmp_path / "served", tmp_path / "root"
    (served / "12").mkdir(parents=True)
    samples = librispeech(served / "12", "test-clean", (11, 12), broken=True)
    command = ("--save_path", root, "--librispeech", "test-clean", "--make_trials", "10", "--librispeech_url")
    with Mirror(served) as mirror:
        output = run(*command, mirror.url, "--delete_archives")
    assert output.returncode == 1 and "convert_errors.csv" in output.stderr
    assert len(tree(root, ".wav")) == len(samples) and (root / "test-clean.tar.gz").exists()
    (root / "convert_errors.csv").unlink()
    with Mirror(served) as mirror:
        assert run(*command, mirror.url, "--musan").returncode == 1  # which the mirror does not have, so the run aborts
        assert len((root / "convert_errors.csv").read_text().splitlines()) == 2
        output = run(*command, mirror.url, "--convert")  # which has no failures
    assert output.returncode == 1 and len((root / "convert_errors.csv").read_text().splitlines()) == 2
    complete = (root / "test-clean.tar.gz").read_bytes()
    (root / "test-clean.tar.gz").write_bytes(complete[: len(complete) // 2])
    output = run(*command, "http://127.0.0.1:9")
    assert output.returncode == 1 and "test-clean.tar.gz" in output.stderr and "remove it" in output.stderr


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Return a folder of recordings of every form and fault."""
    folder = tmp_path / "my recordings"
    for speaker in ("Ann Lee", "bob"):
        (folder / speaker / "day 1").mkdir(parents=True)
    soundfile.write(folder / "Ann Lee/day 1/one.wav", tone(1.5, 1, 44100), 44100)
    soundfile.write(folder / "Ann Lee/day 1/one.flac", tone(1.5, 2), 16000)
    soundfile.write(folder / "Ann Lee/two.mp3", tone(1.5, 3, 22050), 22050)
    soundfile.write(folder / "bob/day 1/a.ogg", tone(1.5, 4), 16000)
    (folder / "bob/day 1/b.m4a").write_bytes(m4a(tone(1.5, 5)))
    soundfile.write(folder / "bob/copy.wav", tone(1.5, 2), 16000)
    soundfile.write(folder / "bob/silent.wav", np.zeros(20000, np.int16), 16000)
    soundfile.write(folder / "bob/short.wav", tone(0.4, 6), 16000)
    soundfile.write(folder / "bob/loud.wav", np.clip(tone(1.5, 7) * 8.0, -32768, 32767).astype(np.int16), 16000)
    (folder / "bob/broken.wav").write_bytes(b"RIFF....")
    (folder / "bob/notes.txt").write_text("not audio")
    soundfile.write(folder / "nobody.wav", tone(1.5, 8), 16000)
    return folder


def test_import_reports_and_keeps_the_originals(recordings: Path, tmp_path: Path) -> None:
    originals = tree(recordings)
    command = ("--save_path", tmp_path / "root", "--import_dir", recordings, "--split", "test", "--make_trials", "4")
    output = run(*command)
    assert output.returncode == 1 and ": 3, " in output.stderr
    assert "11 recordings, 7 imported: 2 speakers" in output.stdout
    wavs = tree(tmp_path / "root/voxceleb1/test/wav")
    assert set(wavs) == {
        "Ann_Lee/day_1/one.wav", "Ann_Lee/day_1/one_wav.wav", "Ann_Lee/all/two.wav",
        "bob/day_1/a.wav", "bob/day_1/b.wav", "bob/all/short.wav", "bob/all/loud.wav",
    }  # fmt: skip
    assert np.array_equal(read(tmp_path / "root/voxceleb1/test/wav/Ann_Lee/day_1/one.wav"), tone(1.5, 2))
    with open(tmp_path / "root/import_report.csv", newline="") as file:
        rows = {Path(row["file"]).name: row for row in csv.DictReader(file)}
    assert {name: row["left_out"] for name, row in rows.items() if row["left_out"]} == {
        "copy.wav": "same content under another speaker", "silent.wav": "silent",
        "broken.wav": "unreadable", "nobody.wav": "no speaker", "notes.txt": "not audio",
    }  # fmt: skip
    assert rows["copy.wav"]["detail"].startswith(f"{tmp_path / 'root/voxceleb1/test/wav/Ann_Lee/day_1/one.wav'}; ")
    assert rows["short.wav"]["remark"] == "no voice found and shorter than 1 s"  # steady tones are none
    assert rows["loud.wav"]["remark"] == "no voice found and clipped"
    assert rows["short.wav"]["seconds"] == "0.40"
    trials = (tmp_path / "root/trial_pair_Verification.txt").read_bytes()
    assert run(*command).returncode == 1 and tree(tmp_path / "root/voxceleb1/test/wav") == wavs
    assert (tmp_path / "root/trial_pair_Verification.txt").read_bytes() == trials
    assert tree(recordings) == originals


def test_a_damaged_wav_of_the_same_name_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mine/ann").mkdir(parents=True)
    for seed, name in enumerate(("a", "b")):
        soundfile.write(tmp_path / f"mine/ann/{name}.wav", tone(1.2, seed), 16000)
    command = ("--save_path", tmp_path / "root", "--import_dir", tmp_path / "mine")
    assert run(*command).returncode == 0
    damaged = tmp_path / "root/voxceleb2/dev/wav/ann/all/a.wav"
    for content in (b"", b"RIFF....", b"junk" * 100, damaged.read_bytes()[:44]):
        damaged.write_bytes(content)
        output = run(*command)
        assert output.returncode == 1 and output.stderr.count("\n") == 1, output.stderr
        assert ": 1, " in output.stderr and str(damaged) in output.stderr
        assert "remove this wav" in output.stderr and "1 imported" in output.stdout and damaged.read_bytes() == content
    damaged.unlink()
    assert run(*command).returncode == 0 and np.array_equal(read(damaged), tone(1.2, 0))


def test_import_with_other_rules(tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    (folder / "x").mkdir(parents=True)
    for seed, name in enumerate(("s1-a", "s1-b", "s2-a", "x/s2-a")):
        soundfile.write(folder / f"{name}.wav", tone(1.2, seed), 16000)
    output = run("--save_path", tmp_path / "root", "--import_dir", folder, "--speaker_from", r"(s\d)-")
    assert output.returncode == 0, output.stderr
    assert set(tree(tmp_path / "root/voxceleb2/dev/wav")) == {
        "s1/all/s1-a.wav", "s1/all/s1-b.wav", "s2/all/s2-a.wav", "s2/x/s2-a.wav"
    }  # fmt: skip
    soundfile.write(folder / "s1-a.wav", tone(1.2, 99), 16000)
    output = run("--save_path", tmp_path / "root", "--import_dir", folder, "--speaker_from", r"(s\d)-")
    assert "another recording" in output.stdout  # existing wavs are never overwritten
    assert output.returncode == 1 and f"{folder / 's1-a.wav'}: " in output.stderr
    assert "rename the file, or remove this wav" in output.stderr and output.stderr.count("\n") == 1
    for wrong in (tmp_path / "root/voxceleb2", tmp_path, tmp_path / "absent"):
        output = run("--save_path", tmp_path / "root", "--import_dir", wrong)
        assert output.returncode == 1 and "--import_dir" in output.stderr


def test_a_kaldi_directory_is_imported(tmp_path: Path) -> None:
    for seed, name in enumerate(("one.wav", "two words.wav", "three.flac", "four.wav")):
        soundfile.write(tmp_path / name, tone(1.2, seed), 16000)
    scp = tmp_path / "kaldi" / "wav.scp"
    scp.parent.mkdir()
    scp.write_text(
        f"anna-1 {tmp_path}/one.wav\nanna-2   ../two words.wav\n\nben-1 ../three.flac\nnobody-1 ../four.wav\n"
    )
    refused = run("--save_path", tmp_path / "root", "--import_list", scp)
    assert refused.returncode == 2 and "--utt2spk" in refused.stderr
    (scp.parent / "utt2spk").write_text("anna-1 anna\nanna-2 anna\nben-1 ben\n")
    (scp.parent / "segments").write_text("anna-1-a anna-1 0 1\n")
    output = run("--save_path", tmp_path / "root", "--import_list", scp, "--split", "test")
    assert output.returncode == 1 and "segments" in output.stderr
    assert "four.wav: no speaker" in output.stderr
    assert set(tree(tmp_path / "root/voxceleb1/test/wav")) == {
        "anna/all/anna-1.wav", "anna/all/anna-2.wav", "ben/all/ben-1.wav"
    }  # fmt: skip
    other = tmp_path / "who"
    other.write_text("anna-1 carla\nanna-2 carla\nben-1 dora\nnobody-1 dora\n")
    output = run("--save_path", tmp_path / "more", "--import_list", scp, "--utt2spk", other)
    assert output.returncode == 0, output.stderr
    assert set(tree(tmp_path / "more/voxceleb2/dev/wav")) == {
        "carla/all/anna-1.wav", "carla/all/anna-2.wav", "dora/all/ben-1.wav", "dora/all/nobody-1.wav"
    }  # fmt: skip


@pytest.mark.parametrize(
    "line, message",
    [
        ("ben-1 touch ran |", "line 2: 'touch ran |' is a command"),
        ("ben-1", "line 2: 'ben-1'"),
        ("anna:1 b.wav", "line 2: rename an utterance, one wav for 'anna?1' and 'anna:1'"),
        ("anna?1 a.wav", "line 2: 'anna?1' is listed twice"),
        ("b c.wav\nb d.wav", "line 3: 'b' is listed twice"),
    ],
)
def test_wrong_lines_of_a_kaldi_list(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "wav.scp").write_text(f"anna?1 a.wav\n{line}\n")
    (tmp_path / "utt2spk").write_text("anna?1 anna\nanna:1 anna\nben-1 ben\n")
    output = run("--save_path", tmp_path / "root", "--import_list", tmp_path / "wav.scp")
    assert output.returncode == 1 and f"wav.scp: {message}" in output.stderr
    assert not (tmp_path / "ran").exists()


def test_the_files_of_a_list_are_recordings(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b.bin").write_bytes(b"no audio" * 99)
    os.mkfifo(tmp_path / "pipe")  # would block
    (tmp_path / "wav.scp").write_text("anna-1 a\nanna-2 b.bin\nanna-3 pipe\nanna-4 .\n")
    (tmp_path / "utt2spk").write_text("".join(f"anna-{number} anna\n" for number in range(1, 5)))
    output = run("--save_path", tmp_path / "root", "--import_list", tmp_path / "wav.scp")
    assert output.returncode == 1 and "4 recordings, 0 imported" in output.stdout
    assert "recordings not imported: 4, " in output.stderr and output.stderr.count("\n") == 1
    assert (tmp_path / "root/import_report.csv").read_text().count("not a regular file") == 2


def test_trials_over_a_tree_without_videos_with_links_and_capitals(tmp_path: Path) -> None:
    wav_tree = tmp_path / "root" / TREES["vox1_test"].wav
    wavs = {f"{speaker}/{name}" for speaker in "abc" for name in ("1.wav", "2.WAV", "v/1.wav")}
    for name in wavs:
        (wav_tree / name).parent.mkdir(parents=True, exist_ok=True)
        (wav_tree / name).touch()
    (wav_tree / "b").rename(tmp_path / "b")
    (wav_tree / "b").symlink_to(tmp_path / "b")
    run("--save_path", tmp_path / "root", "--make_trials", "18")  # all nine targets that there are
    lines = [line.split() for line in (tmp_path / "root" / TRIALS_NAME).read_text().splitlines()]
    assert {name for _, *sides in lines for name in sides} == wavs
    assert [label for label, *_ in lines] == ["1", "0"] * 9
    assert all((a[0] == b[0]) == (label == "1") for label, a, b in lines)


def test_an_added_trial_list_is_checked(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("1 a/b/c.wav a/b/d.wav\n0 a/b/c.wav e/f/g.wav\n")
    (tmp_path / "veri_test2.txt").write_text("1 a/b/c.wav a/b/d.wav\n0 a/b/c.wav e/f/g.wav\n")
    (tmp_path / "bad.txt").write_text("1 a/b/c.wav\n")
    root = tmp_path / "root"
    assert run("--save_path", root, "--trial_list", tmp_path / "mine.txt").returncode == 0
    assert (root / "trial_pair_Verification.txt").read_bytes() == (tmp_path / "mine.txt").read_bytes()
    for name, message in (("veri_test2.txt", "37,611"), ("bad.txt", "bad.txt"), ("none.txt", "none.txt")):
        output = run("--save_path", tmp_path / "other", "--trial_list", tmp_path / name)
        assert output.returncode == 1 and message in output.stderr
    (tmp_path / "new.txt").write_text("0 a/b/c.wav e/f/g.wav\n1 a/b/c.wav a/b/d.wav\n")
    for name, status in (("mine.txt", 0), ("new.txt", 1)):
        output = run("--save_path", root, "--trial_list", tmp_path / name)
        assert output.returncode == status and ("move it away" in output.stderr) == status
    assert (root / "trial_pair_Verification.txt").read_bytes() == (tmp_path / "mine.txt").read_bytes()


@pytest.mark.parametrize("published", [True, False])
def test_lists_of_voxceleb_are_downloaded_only_with_their_length(
    tmp_path: Path, capsys: pytest.CaptureFixture, published: bool
) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "veri_test2.txt").write_text("1 a/b/c.wav a/b/d.wav\n0 a/b/c.wav e/f/g.wav\n")
    root = tmp_path / "new" / "root"
    with Mirror(tmp_path / "served") as mirror:
        download_lists(Server(f"{mirror.url}/{{name}}", ""), root, published)
    printed = capsys.readouterr().err
    assert "veri_test.txt, " in printed and "--trial_list" in printed and ("veri_test2.txt" in printed) == published
    assert any(path.suffix == ".txt" for path in root.iterdir()) != published
    (root / "veri_test2.txt").write_text("1 x/b/c x/b/d\n0 x/b/c y/f/g\n")  # as after --make_trials
    with Mirror(tmp_path / "served") as mirror:
        download_lists(Server(f"{mirror.url}/{{name}}", ""), root, published)
    assert ("veri_test2.txt: 2 trials instead of the published" in capsys.readouterr().err) == published
    assert (root / "veri_test2.txt").read_text().startswith("1 x/")


def test_parts_are_the_published_ones(shared: Path) -> None:
    assert sorted(PARTS.split()) == sorted((shared / "golden/voxceleb_parts.txt").read_text().split())
