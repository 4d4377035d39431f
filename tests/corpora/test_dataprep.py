"""dataprep.py on archives: from a mirror to wavs, killed at random moments, and with bad archives."""

import contextlib
import os
import random
import shutil
import stat
import time
import zipfile
from pathlib import Path

import pytest
from archive_set import build, m4a, run, start, tone, tree, wav, zipped
from mirror_server import Mirror

import dataprep
from configure import TRIALS_NAME
from corpora.archives import extract
from corpora.voxceleb import Archive
from system.console import UserError
from system.files import locked

pytestmark = pytest.mark.slow

SECRET = "s3cret/&word"
Served = tuple[Path, dict[str, bytes]]  # archives, and what --extract must make of them
Lists = tuple[str, Path, str, Path]  # flags


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Return a folder of archives and what --extract must make of them."""
    folder = tmp_path_factory.mktemp("served")
    return folder, build(folder)


@pytest.fixture(scope="module")
def lists(served: Served) -> Lists:
    return "--parts_list", served[0] / "parts.txt", "--zip_list", served[0] / "files.txt"


def copy_archives(served: Served, root: Path) -> None:
    for path in served[0].glob("vox*"):
        (root / path.name).write_bytes(path.read_bytes())


def test_from_a_mirror_to_wavs(served: Served, lists: Lists, tmp_path: Path) -> None:
    folder, expected = served
    own_list = folder / "veri_test.txt"  # any length is valid with other archives
    own_list.write_text("1 a/b/c.wav a/b/d.wav\n0 a/b/c.wav e/f/g.wav\n")
    with Mirror(folder, "ann", SECRET) as mirror:
        source = ("--save_path", tmp_path, "--download", "--source", mirror.url, "--user", "ann")
        outputs = [run(*source, *lists, VOXCELEB_PASSWORD="wrong")]
        assert outputs[0].returncode == 1 and "HTTP 401" in outputs[0].stderr and "--password" in outputs[0].stderr
        outputs.append(run(*source, "--password", "-", *lists, typed=f"{SECRET}\n"))
        assert outputs[1].returncode == 0, outputs[1].stderr
        asked = len(mirror.requests)
        outputs.append(run(*source, "--parts", "vox2", *lists, VOXCELEB_PASSWORD=SECRET))
        assert outputs[2].returncode == 0 and len(mirror.requests) == asked  # complete, and vox2 has no trial lists
    assert (tmp_path / TRIALS_NAME).read_bytes() == own_list.read_bytes()
    (tmp_path / TRIALS_NAME).unlink()
    own_list.unlink()
    assert "--extract" in next_command(tmp_path, *lists)
    outputs.append(run("--save_path", tmp_path, "--extract", *lists))
    assert tree(tmp_path / "voxceleb1") | tree(tmp_path / "voxceleb2") == {
        path.split("/", 1)[1]: content for path, content in expected.items()
    }
    assert "--convert" in next_command(tmp_path, *lists)
    outputs.append(run("--save_path", tmp_path, "--convert"))
    assert len(tree(tmp_path, ".wav")) == len(expected) and "feature_extraction.py" in next_command(tmp_path, *lists)
    words = "".join(output.stdout + output.stderr for output in outputs).encode()
    assert not any(SECRET.encode() in content for content in [words, *tree(tmp_path).values()])


def next_command(root: Path, *lists: str | Path) -> str:
    output = run("--save_path", root, "--check", *lists)
    assert output.returncode == 0, output.stderr
    return output.stdout.rpartition("next: ")[2]


def size_below(root: Path) -> int:
    """Return the size in bytes of a folder that another process is writing to."""
    size = 0
    for path in root.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # the file was renamed or removed meanwhile
            size += path.stat().st_size
    return size


def kill_and_finish(times: int, seed: int, root: Path, *arguments: str | Path) -> dict[str, bytes]:
    """Kill the command several times at random moments after it wrote something, then run it to its end."""
    rng = random.Random(seed)
    for _ in range(times):
        process, before = start(*arguments), size_below(root)
        while size_below(root) == before and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
    output = run(*arguments)
    assert output.returncode == 0, output.stderr
    return tree(root)


def test_kills_change_nothing(served: Served, lists: Lists, tmp_path: Path) -> None:
    folder, expected = served
    quiet = {path.name: path.read_bytes() for path in folder.glob("vox*")}
    with Mirror(folder, rate=400_000) as mirror:
        command: tuple = ("--save_path", tmp_path, "--download", "--source", mirror.url, "--retries", "0", *lists)
        found = kill_and_finish(5, 1, tmp_path, *command)
    assert found == quiet
    command = ("--save_path", tmp_path, "--extract", *lists)
    found = kill_and_finish(4, 2, tmp_path, *command)
    assert found == quiet | expected
    command = ("--save_path", tmp_path, "--convert", "--num_workers", "2")
    found = kill_and_finish(5, 3, tmp_path, *command)
    wavs = {path.replace(".m4a", ".wav") for path in expected}
    assert set(found) == set(quiet) | set(expected) | wavs
    separate = tmp_path / "separate"
    for path in (path for path in expected if path.endswith(".m4a")):
        (separate / path).parent.mkdir(parents=True, exist_ok=True)
        (separate / path).write_bytes(expected[path])
    assert run("--save_path", separate, "--convert").returncode == 0
    undisturbed = tree(separate, ".wav")
    assert undisturbed == {path: found[path] for path in undisturbed} and len(undisturbed) == len(wavs) // 3


def test_removed_archives_and_m4a_are_not_downloaded_or_extracted_again(
    served: Served, lists: Lists, tmp_path: Path
) -> None:
    copy_archives(served, tmp_path)
    command = ("--save_path", tmp_path, "--extract", *lists, "--convert")
    assert run(*command, "--delete_archives", "--delete_m4a").returncode == 0
    assert not list(tmp_path.glob("vox*_part*")) and not tree(tmp_path, ".m4a")
    before = tree(tmp_path)
    with Mirror(served[0]) as mirror:
        again = run(*command, "--download", "--source", mirror.url, "--parts", "vox2")
        assert again.returncode == 0 and mirror.requests == []
    assert tree(tmp_path) == before and "extracted and removed" in run("--save_path", tmp_path, "--check").stdout


def test_recordings_are_on_the_disk_before_their_sources_are_removed(
    served: Served, lists: Lists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_archives(served, tmp_path)
    at_flush: list[dict[str, bytes]] = []
    monkeypatch.setattr(os, "sync", lambda: at_flush.append(tree(tmp_path)))
    before = tree(tmp_path)
    flags = [str(flag) for flag in ("--save_path", tmp_path, *lists, "--num_workers", "1")]
    dataprep.main([*flags, "--extract", "--delete_archives", "--convert", "--delete_m4a"])
    written, removed = tree(tmp_path, ".wav"), before.keys() - tree(tmp_path)
    assert removed and before.items() <= at_flush[0].items()
    m4a = {name for flushed in at_flush for name in flushed if name.endswith(".m4a")}
    assert m4a and m4a <= at_flush[-1].keys() and written.items() <= at_flush[-1].items()


def lose(root: Path, speaker: str = "*") -> None:
    for folder in root.glob(f"voxceleb*/*/wav/{speaker}"):
        shutil.rmtree(folder)


@pytest.mark.parametrize("lost, words", [("*", "12 of"), ("id17000", "4 of")], ids=["all", "one speaker"])
def test_wavs_that_are_lost_after_their_archive_are_an_error_that_names_the_marker(
    served: Served, lists: Lists, tmp_path: Path, lost: str, words: str
) -> None:
    copy_archives(served, tmp_path)
    flags = (*lists, "--parts", "vox2")
    extract = ("--save_path", tmp_path, "--extract", *flags, "--convert")
    assert run("--save_path", tmp_path, "--extract", *flags, "--delete_archives").returncode == 0
    assert run(*extract, "--delete_m4a").returncode == 0  # nothing is lost while only the m4a exist
    before = tree(tmp_path / "voxceleb2")
    lose(tmp_path, lost)
    marker = tmp_path / "vox2_dev_aac.zip.extracted"
    with Mirror(served[0]) as mirror:
        download = ("--save_path", tmp_path, "--download", "--source", mirror.url, *flags)
        for command in (extract, download):
            output = run(*command)
            assert output.returncode == 1 and output.stderr.count("\n") == 1, output.stderr
            assert f"{words} its files are no longer in" in output.stderr and f"remove {marker}" in output.stderr
        assert f"{words} its files are no longer in" in run("--save_path", tmp_path, "--check", *flags).stdout
        marker.unlink()
        assert run(*download).returncode == 0
    assert run(*extract).returncode == 0 and tree(tmp_path / "voxceleb2", ".wav") == before


def test_other_files_of_an_archive_do_not_count_as_lost_recordings(tmp_path: Path) -> None:
    recordings = {"wav/id1/v/a.wav": b"a", "wav/id1/v/b.WAV": b"b", "wav/id2/c.wav": b"c", "wav/id2/c.m4a": b"c"}
    others = {"wav/id1/.DS_Store": b"x", "wav/id1/v/notes.txt": b"x", "wav/README": b"x", "wav/id1/v/._a.wav": b"x"}
    (tmp_path / "vox1_test_wav_partaa").write_bytes(zipped(recordings | others))
    extract = ("--save_path", tmp_path, "--extract", *private_lists(tmp_path))
    assert run(*extract, "--delete_archives").returncode == 0
    again = run(*extract)
    assert again.returncode == 0 and again.stderr == ""
    (tmp_path / "voxceleb1/test/wav/id1/v/b.WAV").unlink()
    assert "1 of its files are no longer in" in run(*extract).stderr


def test_an_m4a_is_removed_only_when_its_wav_is_complete(served: Served, tmp_path: Path) -> None:
    folder = tmp_path / "voxceleb2/dev/wav/id1/v"
    folder.mkdir(parents=True)
    content = next(content for path, content in served[1].items() if path.endswith(".m4a"))
    for name in ("none", "complete", "half", "empty", "header"):
        (folder / f"{name}.m4a").write_bytes(content)
    assert run("--save_path", tmp_path, "--convert").stdout == "5 m4a files converted\n"
    complete = (folder / "complete.wav").read_bytes()
    damaged = {"half": complete[: len(complete) // 2], "empty": b"", "header": complete[:44]}
    (folder / "none.wav").unlink()
    for name, left in damaged.items():
        (folder / f"{name}.wav").write_bytes(left)
    output = run("--save_path", tmp_path, "--convert", "--delete_m4a")
    assert output.returncode == 1 and output.stdout == "1 m4a files converted, 2 removed\n"
    assert tree(folder, ".m4a").keys() == {f"{name}.m4a" for name in damaged}
    assert {name: tree(folder)[f"{name}.wav"] for name in damaged} == damaged
    table = (tmp_path / "convert_errors.csv").read_text()
    assert all(str(folder / f"{name}.m4a") in table for name in damaged)
    for name in damaged:
        (folder / f"{name}.wav").unlink()
    output = run("--save_path", tmp_path, "--convert", "--delete_m4a")
    assert output.returncode == 0 and output.stdout == "3 m4a files converted, 3 removed\n"
    assert set(tree(folder)) == {f"{name}.wav" for name in ("none", "complete", *damaged)}
    assert set(tree(folder).values()) == {complete}


def test_a_wav_of_another_length_is_kept_with_its_m4a(served: Served, tmp_path: Path) -> None:
    folder = tmp_path / "voxceleb2/dev/wav/id1/v"
    folder.mkdir(parents=True)
    content = next(content for path, content in served[1].items() if path.endswith(".m4a"))
    mine = {"short": wav(tone(0.2, 1)), "long": wav(tone(9, 1))}  # for example after silence was trimmed
    for name, samples in mine.items():
        (folder / f"{name}.m4a").write_bytes(content)
        (folder / f"{name}.wav").write_bytes(samples)
    before = tree(folder)
    output = run("--save_path", tmp_path, "--convert", "--delete_m4a")
    assert output.returncode == 1 and output.stdout == "0 m4a files converted, 0 removed\n"
    assert ": 2; " in output.stderr and tree(folder) == before
    table = (tmp_path / "convert_errors.csv").read_text()
    assert "its wav 0.20 s" in table and "its wav 9.00 s" in table


def test_another_file_of_a_members_name_is_an_error_before_anything_is_written(
    served: Served, lists: Lists, tmp_path: Path
) -> None:
    copy_archives(served, tmp_path)
    name = next(path for path in served[1] if "voxceleb1/test" in path)
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(b"mine")
    before = tree(tmp_path)
    output = run("--save_path", tmp_path, "--extract", *lists, "--parts", "vox1_test", "--delete_archives")
    assert output.returncode == 1 and output.stderr.count("\n") == 1
    assert str(tmp_path / name) in output.stderr and "move it away" in output.stderr
    assert tree(tmp_path) == before
    (tmp_path / name).unlink()
    assert run("--save_path", tmp_path, "--extract", *lists, "--parts", "vox1_test").returncode == 0
    assert (tmp_path / name).read_bytes() == served[1][name]


def test_a_damaged_m4a_is_kept_and_does_not_replace_a_complete_wav(tmp_path: Path) -> None:
    folder = tmp_path / "voxceleb2/dev/wav/id1/v"
    folder.mkdir(parents=True)
    sound = m4a(tone(4.0, 1), index_first=True)
    for name in ("both", "m4a only"):
        (folder / f"{name}.m4a").write_bytes(sound)
    assert run("--save_path", tmp_path, "--convert").returncode == 0
    complete = (folder / "both.wav").read_bytes()
    (folder / "m4a only.wav").unlink()
    for name in ("both", "m4a only"):
        (folder / f"{name}.m4a").write_bytes(sound[: 2 * len(sound) // 3])
    output = run("--save_path", tmp_path, "--convert", "--delete_m4a")
    assert output.returncode == 1 and output.stdout == "1 m4a files converted, 0 removed\n"
    assert "m4a only.m4a: truncated: " in output.stderr
    assert "both.m4a," in (tmp_path / "convert_errors.csv").read_text()
    assert set(tree(folder)) == {"both.wav", "both.m4a", "m4a only.wav", "m4a only.m4a"}
    assert (folder / "both.wav").read_bytes() == complete


def test_an_m4a_whose_wav_exists_is_not_extracted_again(served: Served, lists: Lists, tmp_path: Path) -> None:
    copy_archives(served, tmp_path)
    assert run("--save_path", tmp_path, "--extract", *lists, "--convert", "--delete_m4a").returncode == 0
    assert run("--save_path", tmp_path, "--extract", *lists).returncode == 0
    assert not tree(tmp_path, ".m4a")


def link(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


UNSAFE = ["wav/../../../out.wav", "/wav/out.wav", "C:/out.wav", "wav\\..\\out.wav", "../out.wav"]


@pytest.mark.parametrize("name", [*UNSAFE, link("wav/id1/v/link.wav")], ids=str)
def test_an_unsafe_member_is_an_error_that_names_it(tmp_path: Path, name: str | zipfile.ZipInfo) -> None:
    root = tmp_path / "deep" / "root"
    root.mkdir(parents=True)
    (root / "vox1_test_wav.zip").write_bytes(zipped({"wav/id1/v/good.wav": b"good", name: b"/etc/passwd"}))
    before = tree(tmp_path)
    output = run("--save_path", root, "--extract", "--parts", "vox1_test")
    assert output.returncode == 1 and "vox1_test_wav.zip" in output.stderr
    assert repr(getattr(name, "filename", name)) in output.stderr
    assert tree(tmp_path) == before


def private_lists(folder: Path, md5: str = "0" * 32) -> tuple[str | Path, ...]:
    (folder / "parts.txt").write_text(f"vox1_test_wav_partaa {md5}\n")
    return "--parts_list", folder / "parts.txt", "--parts", "vox1_test"


def test_members_larger_or_smaller_than_declared_leave_nothing(tmp_path: Path) -> None:
    for declared in (10, 10**6):
        data = zipped({"wav/id1/v/bomb.wav": bytes(100_000)})
        size = (100_000).to_bytes(4, "little")
        assert data.count(size) == 2  # in the local header and in the directory
        (tmp_path / "vox1_test_wav_partaa").write_bytes(data.replace(size, declared.to_bytes(4, "little")))
        output = run("--save_path", tmp_path, "--extract", *private_lists(tmp_path))
        assert output.returncode == 1 and "bomb.wav" in output.stderr
        assert not tree(tmp_path, ".wav", ".tmp")


def test_too_little_disk_for_an_extraction_is_an_error(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_archives(served, tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    with pytest.raises(UserError, match="vox1_test_wav.zip needs .* GB more"):
        extract(Archive("vox1_test_wav.zip", None, {"vox1_test_wav.zip": ""}, "vox1_test"), tmp_path, delete=False)
    assert not tree(tmp_path, ".wav", ".tmp")


def test_missing_damaged_and_foreign_archives(served: Served, lists: Lists, tmp_path: Path) -> None:
    copy_archives(served, tmp_path)
    part = tmp_path / "vox1_dev_wav_partab"
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    output = run("--save_path", tmp_path, "--extract", *lists, "--parts", "vox1_dev")
    assert output.returncode == 1 and "MD5" in output.stderr and "vox1_dev_wav.zip" in output.stderr
    part.unlink()
    output = run("--save_path", tmp_path, "--extract", *lists, "--parts", "vox1_dev")
    assert output.returncode == 1 and str(part) in output.stderr and "--download" in output.stderr
    (tmp_path / "vox1_test_wav.zip").write_bytes(b"<html>not a zip</html>")
    output = run("--save_path", tmp_path, "--extract", "--parts", "vox1_test")
    assert output.returncode == 1 and "vox1_test_wav.zip" in output.stderr
    assert not tree(tmp_path, ".wav", ".m4a", ".tmp")


def test_undecodable_files_are_listed_and_the_others_converted(served: Served, tmp_path: Path) -> None:
    folder = tmp_path / "voxceleb2/dev/wav/id1/v"
    folder.mkdir(parents=True)
    good = next(content for path, content in served[1].items() if path.endswith(".m4a"))
    broken = {"empty": b"", "noise": random.Random(0).randbytes(3000), "cut": good[:900]}
    for name, content in {"a": good, **broken}.items():
        (folder / f"{name}.m4a").write_bytes(content)
    output = run("--save_path", tmp_path, "--convert", "--delete_m4a")
    table = (tmp_path / "convert_errors.csv").read_text()
    assert output.returncode == 1 and ": 3; " in output.stderr and "convert_errors.csv" in output.stderr
    assert all(name in table for name in ("empty.m4a", "noise.m4a", "cut.m4a")) and table.startswith("file,reason\n")
    assert set(tree(folder)) == {"a.wav", "empty.m4a", "noise.m4a", "cut.m4a"}
    for name in broken:
        (folder / f"{name}.m4a").unlink()
    assert run("--save_path", tmp_path, "--convert").returncode == 0
    assert not (tmp_path / "convert_errors.csv").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--download"),
        (["--download"], "--source"),
        (["--download", "--source", "official"], "VOXCELEB_KEY"),
        (["--download", "--source", "nowhere"], "official, huggingface"),
        (["--download", "--source", f"http://ann:{SECRET[:6]}@host/"], "--password"),
        (["--download", "--source", "http://host", "--user", "ann"], "VOXCELEB_PASSWORD"),
        (["--extract", "--key", SECRET], "--key"),
        (["--convert", "--delete_archives"], "--delete_archives"),
        (["--delete_m4a", "--keep_m4a", "--convert"], "--keep_m4a"),
        (["--librispeech", "nothing"], "nothing"),
        (["--make_trials", "1"], "--make_trials"),
        (["--make_trials", "11"], "--make_trials"),
        (["--import_dir", ".", "--speaker_from", "("], "--speaker_from"),
    ],
)
def test_wrong_flags_are_reported_in_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    output = run("--save_path", tmp_path, *arguments, VOXCELEB_KEY="", VOXCELEB_PASSWORD="")
    assert output.returncode == 2 and message in output.stderr and output.stderr.count("\n") == 1
    assert SECRET[:6] not in output.stderr


@pytest.mark.parametrize("flag", ["--import_list", "--trial_list"])
@pytest.mark.parametrize("name", ["import_report.csv", "convert_errors.csv"])
def test_a_list_that_the_command_would_overwrite_is_an_error(tmp_path: Path, flag: str, name: str) -> None:
    (tmp_path / name).write_text("1 a/b/c.wav a/b/d.wav\n0 a/b/c.wav e/f/g.wav\n")
    (tmp_path / "utt2spk").write_text("1 anna\n0 ben\n")
    (tmp_path / "link.txt").symlink_to(tmp_path / name)
    before = tree(tmp_path)
    output = run("--save_path", tmp_path, flag, tmp_path / "link.txt", "--librispeech", "dev-clean-2")
    assert output.returncode == 2 and flag in output.stderr and output.stderr.count("\n") == 1
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "text", ["vox1_test_wav.zip\n", "vox1_test_wav.zip 1\n", f"../vox1_test {'0' * 32}\n", f"a.zip {'0' * 32}\n", ""]
)
def test_bad_lists_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.txt").write_text(text)
    output = run("--save_path", tmp_path, "--extract", "--parts_list", tmp_path / "mine.txt")
    assert output.returncode == 1 and "mine.txt" in output.stderr and output.stderr.count("\n") == 1


def test_a_second_run_at_the_same_time_is_an_error(served: Served, lists: Lists, tmp_path: Path) -> None:
    copy_archives(served, tmp_path)
    with locked(tmp_path / ".dataprep.lock"):  # against other processes, so not in this one
        output = run("--save_path", tmp_path, "--extract", *lists, PYTHONUTF8="1")
    assert output.returncode == 1 and f"process {os.getpid()}" in output.stderr and not tree(tmp_path, ".wav")


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "--download" in next_command(tmp_path / "new")
    output = run("--save_path", tmp_path, "--convert")
    assert output.returncode == 1 and "voxceleb2/dev/wav" in output.stderr
    assert Path(tmp_path / "new").exists() is False
