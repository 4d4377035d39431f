"""dataprep.py --musan and --rirs."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from archive_set import run, tone, wav
from conftest import here
from mirror_server import Mirror

FILES = {
    "musan": ("musan/noise/free-sound/noise-1.wav", "musan/music/fma/music-1.wav", "musan/speech/us-gov/speech-1.wav"),
    "RIRS_NOISES": ("RIRS_NOISES/simulated_rirs/smallroom/Room001/Room001-00001.wav",),
}


def serve(folder: Path, more: str = "") -> dict[str, bytes]:
    """Write the two archives as on OpenSLR, with an additional member `more`; return their files."""
    content = {name: wav(tone(0.2, number)) for number, name in enumerate(sum(FILES.values(), ()))}
    content["musan/README"] = b"A music, speech and noise corpus"
    (folder / "17").mkdir(parents=True)
    (folder / "28").mkdir()
    with tarfile.open(folder / "17" / "musan.tar.gz", "w:gz") as tar:
        for name in [name for name in content if name.startswith("musan")] + [more] * bool(more):
            entry = tarfile.TarInfo(name)
            entry.size = len(content.get(name, b"!"))
            tar.addfile(entry, io.BytesIO(content.get(name, b"!")))
    with zipfile.ZipFile(folder / "28" / "rirs_noises.zip", "w") as archive:
        archive.writestr("RIRS_NOISES/", b"")
        for name in FILES["RIRS_NOISES"]:
            archive.writestr(name, content[name])
    return content


def found(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for folder in FILES for path in (root / folder).rglob("*.*")}


@pytest.mark.slow
def test_noise_and_impulse_responses_are_downloaded_and_extracted_once(tmp_path: Path) -> None:
    served, root = tmp_path / "served", tmp_path / "root"
    content = serve(served)
    with Mirror(served) as mirror:
        mirror.faults["17/musan.tar.gz"] = ["drop"]
        command = ("--save_path", root, "--musan", "--rirs", "--openslr_url", mirror.url)
        output = run(*command)
        assert output.returncode == 0, output.stderr
        assert "musan: 4 files extracted" in output.stdout and "RIRS_NOISES: 1 files extracted" in output.stdout
        assert found(root) == {name: data for name, data in content.items() if "." in name}
        assert (root / "musan" / "README").read_bytes() == content["musan/README"]
        asked = len(mirror.requests)
        assert run(*command, "--delete_archives").returncode == 0 and run(*command).returncode == 0
        assert len(mirror.requests) == asked and not list(root.glob("*.gz")) and not list(root.glob("*.zip"))
        for path in sorted((root / "musan").rglob("*"), reverse=True):  # a lost folder is downloaded again
            path.unlink() if path.is_file() else path.rmdir()
        (root / "musan").rmdir()
        assert run(*command).returncode == 0 and found(root).keys() == content.keys() - {"musan/README"}


@pytest.mark.slow
def test_a_damaged_archive_leaves_no_folder_and_can_be_downloaded_again(tmp_path: Path) -> None:
    served, root = tmp_path / "served", tmp_path / "root"
    serve(served)
    complete = (served / "17" / "musan.tar.gz").read_bytes()
    root.mkdir()
    (root / "musan.tar.gz").write_bytes(complete[: len(complete) // 2])
    (root / "rirs_noises.zip").write_bytes(b"no zip")
    with Mirror(served) as mirror:
        for flag, name, folder in (("--musan", "musan.tar.gz", "musan"), ("--rirs", "rirs_noises.zip", "RIRS_NOISES")):
            command = ("--save_path", root, flag, "--openslr_url", mirror.url)
            output = run(*command)
            assert output.returncode == 1 and len(output.stderr.splitlines()) == 1
            assert f"{name}: " in output.stderr and "remove it and run again" in output.stderr
            assert not (root / folder).exists()
            (root / name).unlink()
            assert run(*command).returncode == 0
    assert found(root) and not list(root.glob(".*.tmp"))


@pytest.mark.parametrize("more", ["../outside.txt", "/outside.txt"])
def test_a_member_outside_the_folder_is_an_error(tmp_path: Path, more: str) -> None:
    served, root = tmp_path / "served", tmp_path / "root"
    serve(served, more)
    with Mirror(served) as mirror:
        output = run("--save_path", root, "--musan", "--openslr_url", mirror.url)
    assert output.returncode == 1 and "leads outside the folder" in output.stderr
    assert not (root / "musan").exists() and not list(tmp_path.rglob("outside.txt"))


FOLDERS = {"musan": "musan", "rirs": "RIRS_NOISES"}
MUSAN = {"music/fma": 660, "noise/free-sound": 930, "speech/librivox": 426}  # folder -> wavs, as published by OpenSLR


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("kind", ["folder", "empty folder", "link", "link to nowhere", "file"])
def test_an_incomplete_folder_is_an_error_before_the_download_and_is_not_changed(
    tmp_path: Path, name: str, kind: str
) -> None:
    root = tmp_path / "root"
    mine = tmp_path / "mine" if "link" in kind else root / FOLDERS[name]
    root.mkdir()
    if kind == "file":
        mine.write_bytes(b"mine")
    elif kind != "link to nowhere":
        mine.mkdir()
    if kind in ("folder", "link"):
        (mine / "noise").mkdir()
        (mine / "noise" / "mine.wav").write_bytes(b"mine")
    if "link" in kind:
        (root / FOLDERS[name]).symlink_to(mine)
    before = contents(tmp_path)
    with Mirror(tmp_path) as mirror:
        command = ("--save_path", root, "--librispeech", "dev-clean-2", "--musan", "--rirs", "--delete_archives")
        output = here("dataprep.py", *command, "--openslr_url", mirror.url, cwd=tmp_path, check=None)
        assert mirror.requests == []
    (line,) = output.stderr.splitlines()
    assert output.returncode == 1 and str(root / FOLDERS[name]) in line
    assert "cannot be read" in line if "nowhere" in kind else "move it away" in line and f"omit --{name}" in line
    assert contents(tmp_path) == before | {str(root / ".dataprep.lock"): contents(root)[str(root / ".dataprep.lock")]}


def test_an_existing_complete_folder_is_used(tmp_path: Path) -> None:
    root, linked = tmp_path / "root", tmp_path / "linked"
    for folder, count in MUSAN.items():
        (root / "musan" / folder).mkdir(parents=True)
        for number in range(count):
            (root / "musan" / folder / f"{number}.wav").touch()
    linked.mkdir()
    (linked / "musan").symlink_to(root / "musan")
    with Mirror(tmp_path) as mirror:
        command = ("--musan", "--openslr_url", mirror.url)
        for place in (root, linked):
            output = here("dataprep.py", "--save_path", place, *command, cwd=tmp_path)
            assert output.stdout == f"{place / 'musan'}: complete\n"
        (root / "musan/music/fma/0.wav").unlink()
        output = here("dataprep.py", "--save_path", linked, *command, cwd=tmp_path, check=1)
        assert "2,015 of 2,016 wavs" in output.stderr and mirror.requests == []


@pytest.mark.slow
def test_an_extraction_that_was_killed_at_its_end_is_repeated(tmp_path: Path) -> None:
    served, root = tmp_path / "served", tmp_path / "root"
    content = serve(served)
    root.mkdir()
    (served / "17" / "musan.tar.gz").rename(root / "musan.tar.gz")
    (root / "musan.tar.gz.extracted").touch()  # written before the folder gets its name
    (root / ".musan.tmp" / "musan").mkdir(parents=True)
    assert run("--save_path", root, "--musan", "--openslr_url", "http://127.0.0.1:9").returncode == 0
    assert found(root).keys() == {name for name in content if name.startswith("musan") and "." in name}
