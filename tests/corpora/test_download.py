"""Downloads from a server with the faults of real servers."""

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mirror_server import Mirror

from corpora import download as downloading
from corpora.download import download_files, with_md5
from corpora.servers import Server, voxceleb_server
from corpora.voxceleb import read_archives
from system.console import UserError
from system.files import digest

NAMES = ("vox1_dev_wav_partaa", "vox1_dev_wav_partab")
SECRET = "pass word/+&"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(downloading, "LONGEST_PAUSE", 0)
    folder = tmp_path / "served"
    folder.mkdir()
    for index, name in enumerate(NAMES):
        (folder / name).write_bytes(random.Random(index).randbytes(1_000_000 + index))
    return folder


def download(
    mirror: Mirror, folder: Path, server: Server | None = None, names: Sequence[str] = NAMES, retries: int = 3
) -> None:
    server = server or voxceleb_server(mirror.url, None, None, None)
    downloads = [with_md5(name, digest(mirror.folder / name, "md5")) for name in names]
    download_files(downloads, server, folder, jobs=2, retries=retries)


def have_equal_files(a: Path, b: Path) -> bool:
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in NAMES)


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
@pytest.mark.parametrize(
    "faults", [[], ["drop"], ["drop"] * 6, [500], [503, 429, 500], [500, "drop", 500], ["truncate"], ["wrong"]]
)
def test_faults_are_survived(served: Path, tmp_path: Path, ranges: bool, faults: list[str | int]) -> None:
    with Mirror(served, ranges=ranges) as mirror:
        mirror.faults[NAMES[0]] = list(faults)
        if not ranges and faults == ["drop"] * 6:  # no new byte after the first time
            with pytest.raises(UserError, match=f"{NAMES[0]}.*run again"):
                download(mirror, tmp_path)
        download(mirror, tmp_path)
    assert have_equal_files(served, tmp_path)
    assert not list(tmp_path.glob("*.partial"))


def test_resuming_requests_only_the_rest(served: Path, tmp_path: Path) -> None:
    (tmp_path / f"{NAMES[0]}.partial").write_bytes((served / NAMES[0]).read_bytes()[:400_000])
    with Mirror(served) as mirror:
        download(mirror, tmp_path)
        assert [asked for name, asked, _ in mirror.requests if name == NAMES[0]] == ["bytes=0-0", "bytes=400000-"]
        mirror.requests.clear()
        download(mirror, tmp_path)
        assert mirror.requests == []  # a verified file is not requested again
    assert have_equal_files(served, tmp_path)


@pytest.mark.parametrize("longest, pauses", [(60, [7, 2]), (5, [5, 2])])
def test_a_pause_that_the_server_states_is_kept(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int, pauses: list[int]
) -> None:
    monkeypatch.setattr(downloading, "LONGEST_PAUSE", longest)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with Mirror(served) as mirror:
        mirror.faults[NAMES[0]] = ["busy", 500]
        download(mirror, tmp_path)
    assert [pause for pause in slept if pause] == pauses
    assert have_equal_files(served, tmp_path)


def test_the_rest_of_a_short_answer_is_requested(served: Path, tmp_path: Path) -> None:
    with Mirror(served) as mirror:
        mirror.faults[NAMES[0]] = ["short"]
        download(mirror, tmp_path)
        assert [asked for name, asked, _ in mirror.requests if name == NAMES[0]][1:] == ["bytes=0-", "bytes=500001-"]
    assert have_equal_files(served, tmp_path)
    assert not list(tmp_path.glob("*.bad"))


def test_complete_or_too_long_partial_files(served: Path, tmp_path: Path) -> None:
    (tmp_path / f"{NAMES[0]}.partial").write_bytes((served / NAMES[0]).read_bytes())
    (tmp_path / f"{NAMES[1]}.partial").write_bytes((served / NAMES[1]).read_bytes() + b"more")
    with Mirror(served) as mirror:
        download(mirror, tmp_path)
        assert [asked for name, asked, _ in mirror.requests if name == NAMES[0]] == ["bytes=0-0"]
    assert have_equal_files(served, tmp_path)


def test_a_wrong_partial_file_is_detected(served: Path, tmp_path: Path) -> None:
    (tmp_path / f"{NAMES[0]}.partial").write_bytes(bytes(1000))
    with Mirror(served) as mirror:
        download(mirror, tmp_path)
    assert have_equal_files(served, tmp_path)
    assert (tmp_path / f"{NAMES[0]}.bad").exists()


def test_a_file_that_is_wrong_twice_is_named_and_kept(served: Path, tmp_path: Path) -> None:
    with Mirror(served) as mirror:
        mirror.faults[NAMES[0]] = ["wrong", "wrong"]
        with pytest.raises(UserError, match=rf"{NAMES[0]}: .*MD5 .* twice; .*{NAMES[0]}\.bad"):
            download(mirror, tmp_path)
    assert not (tmp_path / NAMES[0]).exists()
    assert (tmp_path / NAMES[1]).read_bytes() == (served / NAMES[1]).read_bytes()


def test_a_dead_server_is_an_error(served: Path, tmp_path: Path) -> None:
    with Mirror(served) as mirror:
        mirror.faults[NAMES[0]] = [500] * 10
        with pytest.raises(UserError, match=f"{NAMES[0]}.*HTTP 500.*run again"):
            download(mirror, tmp_path)
        url = mirror.url
    server = voxceleb_server(url, None, None, None)
    with pytest.raises(UserError, match="(?i)refused"):
        download_files([with_md5(NAMES[0], "0" * 32)], server, tmp_path, jobs=1, retries=1)


def test_too_little_disk_is_an_error_before_the_first_byte(served: Path, tmp_path: Path) -> None:
    with Mirror(served, size=10**16) as mirror:
        with pytest.raises(UserError, match=r"20000000\.0 GB"):
            download(mirror, tmp_path)
        assert {asked for _, asked, _ in mirror.requests} == {"bytes=0-0"}
    assert not list(tmp_path.glob("vox*"))


def test_refusals_name_the_flag_to_use_and_no_secret(served: Path, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], tuple, str]] = [
        (dict(user="ann", password="right"), (None, "ann", SECRET), "HTTP 401.*--password"),
        (dict(user="ann", password="right"), (None, None, None), "HTTP 401.*--user"),
        (dict(key="right"), (SECRET, None, None), r"HTTP 403.*no such key.*\*\*\*.*--key"),
    ]
    for server, (key, user, password), message in cases:
        with Mirror(served, **server) as mirror, pytest.raises(UserError, match=message) as caught:
            download(mirror, tmp_path, voxceleb_server(mirror.url, key, user, password))
        assert SECRET not in str(caught.value) and "pass+word" not in str(caught.value)
    with Mirror(tmp_path) as mirror, pytest.raises(UserError, match="HTTP 404.*--source"):
        download_files([with_md5("absent", "0" * 32)], voxceleb_server(mirror.url, None, None, None), tmp_path, 1, 1)
    with Mirror(served) as mirror, pytest.raises(UserError, match="web page"):
        mirror.faults[NAMES[0]] = ["page"]
        download(mirror, tmp_path)


def test_the_key_is_sent_as_a_query(served: Path, tmp_path: Path) -> None:
    with Mirror(served, key=SECRET) as mirror:
        download(mirror, tmp_path, voxceleb_server(mirror.url + "/download?file={name}", SECRET, None, None))
    assert have_equal_files(served, tmp_path)


def test_the_password_is_not_sent_to_another_host_after_a_redirect(served: Path, tmp_path: Path) -> None:
    with Mirror(served) as target, Mirror(served, redirect=target.url) as mirror:
        download(mirror, tmp_path, voxceleb_server(mirror.url, None, "ann", SECRET))
        assert all(authorization for *_, authorization in mirror.requests)
        assert not any(authorization for *_, authorization in target.requests)
    assert have_equal_files(served, tmp_path)


def test_a_netrc_entry_does_not_replace_the_password_given(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login eve password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Mirror(served, user="ann", password=SECRET) as mirror:
        download(mirror, tmp_path, voxceleb_server(mirror.url, None, "ann", SECRET))
    assert have_equal_files(served, tmp_path)


def test_files_are_requested_uncompressed(served: Path, tmp_path: Path) -> None:
    with Mirror(served) as mirror:
        download(mirror, tmp_path)
    assert mirror.encodings == {"identity"}  # otherwise ranges count compressed bytes


def test_retries_are_reported_without_the_key(served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Mirror(served, key=SECRET) as mirror:
        mirror.faults[NAMES[0]] = [503, "drop"]
        download(mirror, tmp_path, voxceleb_server(mirror.url, SECRET, None, None))
    printed = capsys.readouterr().err
    assert "HTTP 503" in printed and "500000 more expected" in printed
    with pytest.raises(UserError) as caught:
        (tmp_path / NAMES[0]).unlink()
        server = voxceleb_server(mirror.url, SECRET, None, None)  # the server has stopped
        download_files([with_md5(NAMES[0], "0" * 32)], server, tmp_path, jobs=1, retries=1)
    printed += capsys.readouterr().err + str(caught.value)
    assert printed.count("Connection refused") == 2
    assert "key=" not in printed and SECRET not in printed and "pass%20word" not in printed


def test_addresses_of_the_public_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_123")
    monkeypatch.setenv("VOXCELEB_KEY", "a&b")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    official = voxceleb_server("official", None, None, None)
    assert (
        official.url("vox1_test_wav.zip") == "https://cn01.mmai.io/download/voxceleb?file=vox1_test_wav.zip&key=a%26b"
    )
    faces = voxceleb_server("huggingface", None, None, None)
    base = "https://huggingface.co/datasets/ProgramComputer/voxceleb/resolve/main"
    assert faces.url("vox2_dev_aac_partaa") == f"{base}/vox2/vox2_dev_aac_partaa"
    assert faces.headers == {"Authorization": "Bearer hf_123"}
    assert "hf_123" not in repr(faces) and "a&b" not in repr(official) and "a%26b" not in repr(official)
    assert "a%26b" not in voxceleb_server("http://h/f", None, None, None).url("x")  # another host gets no key


def test_an_unknown_archive_is_named_with_its_list(tmp_path: Path) -> None:
    parts, zips = tmp_path / "parts.txt", tmp_path / "zips.txt"
    zips.write_text(f"vox1_dev_* other.zip {'0' * 32}\n")
    for part, message in (("vox1_dev_partaa", "zips.txt: 'other.zip'"), ("other_partaa", "parts.txt: 'other_partaa'")):
        parts.write_text(f"{part} {'0' * 32}\n")
        with pytest.raises(UserError, match=message):
            read_archives("all", parts, zips)
    with pytest.raises(UserError, match="zips.txt: 'other.zip'"):
        read_archives("all", None, zips)
