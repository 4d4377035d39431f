"""Reading recordings of any format."""

import io
import os
import re
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from audio_table import CASES, CLEAN, FLOATS, PCM, Case, encoded, near, riff, sound
from conftest import peak_memory

from feat_extract.audio import read_recording, read_samples
from feat_extract.recording import NotAudioError, RecordingError, SilentError
from system.console import UserError

CASES_AND_MARKS = [pytest.param(case, marks=[pytest.mark.slow] * ("hours" in case.given)) for case in CASES]


@pytest.mark.parametrize("case", CASES_AND_MARKS, ids=lambda case: case.given[:50])
def test_recordings_are_read_or_refused_as_in_the_table(tmp_path: Path, case: Case) -> None:
    for at, content in enumerate(case.variants()):
        (tmp_path / "file").write_bytes(content)
        if case.refused:
            with pytest.raises(RecordingError, match=f"file: .*({case.refused})"):
                read_recording(tmp_path / "file", case.channel)
            continue
        found = read_recording(tmp_path / "file", case.channel)
        assert found.samples.dtype == np.int16 and case.like(found.samples, case.expected), at
        remarks = "; ".join(found.remarks)
        assert re.search(case.remark, remarks) if case.remark else not remarks, (at, remarks)


def test_each_kind_of_unusable_recording_has_its_error(tmp_path: Path) -> None:
    empty, silent = sound(CLEAN[:0]), sound(0 * CLEAN)
    for content, kind in ((b"text", NotAudioError), (silent, SilentError), (empty, RecordingError)):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(kind) as error:
            read_recording(tmp_path / "file")
        assert type(error.value) is kind and str(error.value) == f"{tmp_path / 'file'}: {error.value.reason}"
    with pytest.raises(UserError, match=r"absent.wav: cannot be read \(No such file"):
        read_recording(tmp_path / "absent.wav")


def test_a_playlist_opens_no_other_file_or_address(tmp_path: Path) -> None:
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "clean.wav").write_bytes(sound(CLEAN))
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.ts"
        for text in (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{address}\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile '{address}'\n",
            "ffconcat version 1.0\nfile 'clean.wav'\n",
        ):
            (tmp_path / "list.m3u8").write_text(text)
            with pytest.raises(NotAudioError):
                read_recording(tmp_path / "list.m3u8")
        server.shutdown()
    assert not asked


@pytest.mark.parametrize("name", [b"12:30", b"-a", b"line\nend", b"caf\xe9", "é".encode(), b"%03d", b"http:a", b"a'b"])
@pytest.mark.parametrize("content", [sound(CLEAN), sound(CLEAN, format="FLAC")], ids=["wav", "flac"])
def test_file_names_may_contain_any_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(os.fsdecode(name + b".wav"))
    path.write_bytes(content)
    assert np.array_equal(read_recording(path).samples, CLEAN)
    for damaged in (b"", b"fLaC but no more"):
        path.write_bytes(damaged)
        with pytest.raises(NotAudioError):
            read_recording(path)


def test_pipes_and_open_files_are_read(tmp_path: Path) -> None:
    for content in (sound(CLEAN), sound(CLEAN, format="FLAC")):
        assert np.array_equal(read_recording(io.BytesIO(content), name="a").samples, CLEAN)
        os.mkfifo(tmp_path / "pipe")
        writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
        writer.start()
        assert np.array_equal(read_recording(tmp_path / "pipe").samples, CLEAN)
        writer.join()
        (tmp_path / "pipe").unlink()


def test_segments_have_the_samples_of_the_recording(tmp_path: Path) -> None:
    for content in (sound(CLEAN), riff(PCM, 0), riff(PCM, len(PCM) + 16), sound(CLEAN, format="FLAC")):
        (tmp_path / "a").write_bytes(content)
        for start, n in ((0, 100), (500, 1000), (len(CLEAN) - 10, 100), (len(CLEAN) + 5, 3)):
            samples, n_samples = read_samples(tmp_path / "a", start, n)
            assert np.array_equal(samples, CLEAN[start : start + n]) and n_samples == len(CLEAN)


def test_a_segment_of_a_long_wav_takes_little_memory(tmp_path: Path) -> None:
    (tmp_path / "long.wav").write_bytes(riff(bytes(20_000_000)))
    tracemalloc.start()
    read_samples(tmp_path / "long.wav", 5_000_000, 1000)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_rate_and_channels_may_change_within_a_file(tmp_path: Path) -> None:
    (tmp_path / "two.aac").write_bytes(encoded("adts", "aac") + encoded("adts", "aac", 32000))
    found = read_recording(tmp_path / "two.aac").samples
    assert len(found) == pytest.approx(2 * len(CLEAN), abs=4000)
    (tmp_path / "more.aac").write_bytes(b"".join(encoded("adts", "aac", layout=layout) for layout in ("stereo", "5.1")))
    assert len(read_recording(tmp_path / "more.aac").samples) == pytest.approx(2 * len(CLEAN), abs=4000)
    both = sound(FLOATS, format="OGG") + sound(np.stack([FLOATS] * 2, axis=1), format="OGG")
    (tmp_path / "chained.ogg").write_bytes(both)  # FFmpeg cannot decode the second stream
    samples, _, remarks = read_recording(tmp_path / "chained.ogg")
    assert near(samples, CLEAN) and remarks[0].startswith("only its first part could be decoded (")


@pytest.mark.slow
def test_an_hour_in_stereo_takes_little_memory(tmp_path: Path) -> None:
    """Ten minutes at 48 kHz take at most 500 / 6 MB more than the libraries, and an hour therefore at most 500 MB."""
    code = "import sys; from pathlib import Path; from feat_extract.audio import read_recording; "
    code += "samples = read_recording(Path(sys.argv[1])).samples; "
    code += "assert abs(len(samples) - int(sys.argv[2])) < 100"
    block, used = np.repeat(np.repeat(CLEAN, 3)[:, None], 2, axis=1), []
    for n in (1, 250):
        with open(tmp_path / "a.wav", "wb") as file:
            file.write(riff(b"", n * block.nbytes, channels=2, rate=48000))
            file.truncate(44 + n * block.nbytes)  # a sparse file: zeros except for the end
            file.seek(44 + (n - 1) * block.nbytes)
            file.write(block.tobytes())
        used.append(peak_memory(code, tmp_path / "a.wav", n * len(CLEAN)))
    assert used[1] - used[0] < 500_000 / 6
