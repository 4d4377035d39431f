"""Recordings in programs: bytes, open files, samples of any layout; and worker processes."""

import io
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import PROJECT, voice

from recognize import Recognizer, read_utterance, utterance_of
from system.console import UserError

RATE = 16000
SAMPLES = voice(1, 1.5, 0)
FLOATS = (SAMPLES / 32768).astype(np.float32)


class NotSeekable(io.RawIOBase):
    """A file like the body of an HTTP request: it has `read` and cannot seek."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)


class CannotTell:
    """A file like SpooledTemporaryFile of Python 3.10: it seeks, but has no method `seekable`."""

    def __init__(self, content: bytes) -> None:
        file = io.BytesIO(content)
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


@pytest.mark.parametrize("suffix", ["wav", "flac"])  # read directly, and decoded by FFmpeg
def test_an_upload_gives_the_same_utterance_as_its_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"anna.{suffix}"
    soundfile.write(path, SAMPLES, RATE, subtype="PCM_16")
    expected, content = read_utterance(path), path.read_bytes()
    assert len(expected.features) == 149
    at_end, spooled = io.BytesIO(content), tempfile.SpooledTemporaryFile()
    at_end.seek(0, 2)  # as after computing a checksum
    spooled.write(content)
    with open(path, "rb") as file, spooled:
        uploads = [content, bytearray(content), memoryview(content), io.BytesIO(content), at_end, file, spooled]
        for upload in [*uploads, NotSeekable(content), CannotTell(content)]:
            found = read_utterance(upload)  # type: ignore[arg-type]
            np.testing.assert_array_equal(found.features, expected.features)
            assert (found.seconds, found.speech) == (expected.seconds, expected.speech)
        assert not (file.closed or spooled.closed or at_end.closed)
        assert read_utterance(file).name == str(path) and read_utterance(content).name == "bytes"
        assert read_utterance(at_end).name == read_utterance(spooled).name == "recording"


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", SAMPLES, RATE, subtype="PCM_16")
    reading, writing = (os.fdopen(end, mode) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))

    def send() -> None:
        with writing:
            writing.write((tmp_path / "a.flac").read_bytes())

    sender = threading.Thread(target=send)
    sender.start()
    with reading:
        found = read_utterance(reading)
    sender.join()
    np.testing.assert_array_equal(found.features, read_utterance(tmp_path / "a.flac").features)


def test_a_channel_and_the_pauses_of_an_upload() -> None:
    file, pause = io.BytesIO(), np.zeros(RATE, np.int16)
    left = np.concatenate([pause, SAMPLES])
    soundfile.write(file, np.stack([left, voice(2, 2.5, 0)], axis=1), RATE, format="WAV", subtype="PCM_16")
    found = read_utterance(file.getvalue(), channel=1, trim_silence=False)
    np.testing.assert_array_equal(found.features, read_utterance(wav_of(left), trim_silence=False).features)
    assert (found.seconds, found.speech) == (2.5, pytest.approx(1.5, abs=0.02))


def wav_of(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def test_bad_uploads_are_errors(tmp_path: Path) -> None:
    (tmp_path / "junk.mp3").write_bytes(b"no sound" * 99)
    with open(tmp_path / "junk.mp3", "rb") as junk, open(tmp_path / "junk.mp3") as text:
        for upload, message in (
            (b"", "bytes: no readable audio"),
            (b"no sound" * 99, "bytes: no readable audio"),
            (io.BytesIO(wav_of(np.zeros(500, np.int16))), "recording: silent"),
            (junk, "junk.mp3: no readable audio"),
        ):
            with pytest.raises(UserError, match=message):
                read_utterance(upload)
        for other in (text, io.StringIO("a"), FLOATS, 3):
            kind = type(other).__name__
            with pytest.raises(TypeError, match=f"open in binary mode, not {kind}; utterance_of takes samples"):
                read_utterance(other)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="closed file"):
            junk.close()
            read_utterance(junk)


def test_embed_files_takes_uploads(tmp_path: Path) -> None:
    recognizer, content = Recognizer(), wav_of(SAMPLES)
    (tmp_path / "a.wav").write_bytes(content)
    of_path, *others = recognizer.embed_files([tmp_path / "a.wav", content, io.BytesIO(content)])
    np.testing.assert_allclose(others, [of_path, of_path], atol=1e-6)


@pytest.mark.parametrize("n", [9, 500, 20_000])
def test_waveforms_of_any_layout_are_the_same_utterance(n: int) -> None:
    samples = SAMPLES[2000 : 2000 + n]
    floats = torch.from_numpy(samples / np.float32(32768))
    expected = utterance_of(samples, RATE)
    assert expected.seconds == n / RATE
    layouts = [x for n in (1, 2, 3) for x in (np.stack([samples] * n), np.stack([samples] * n, axis=1))]
    waveforms: list[np.ndarray | torch.Tensor] = [*layouts, floats, floats[None], floats[:, None]]
    for waveform in waveforms:
        found = utterance_of(waveform, RATE)
        assert found.seconds == expected.seconds
        np.testing.assert_allclose(found.features, expected.features, atol=1e-3)


def test_tensors_of_any_type_and_with_a_gradient() -> None:
    expected = utterance_of(FLOATS, RATE).features
    floats = torch.from_numpy(FLOATS)
    tensors = floats.clone().requires_grad_(), floats.double(), torch.from_numpy(SAMPLES)
    for tensor, tolerance in (*((tensor, 1e-3) for tensor in tensors), (floats.bfloat16(), 10), (floats.half(), 2)):
        np.testing.assert_allclose(utterance_of(tensor, RATE).features, expected, atol=tolerance)
    for wrong in (floats.to(torch.complex64), floats > 0, torch.from_numpy(SAMPLES).int()):
        with pytest.raises(ValueError, match="floats within -1..1 or int16, not "):
            utterance_of(wrong, RATE)


def test_channels_are_averaged_in_either_layout() -> None:
    both = np.stack([FLOATS, 0.5 * FLOATS])
    for waveform in (both, both.T):
        found = utterance_of(waveform, RATE)
        np.testing.assert_allclose(found.features, utterance_of(0.75 * FLOATS, RATE).features, atol=0.1)


@pytest.mark.parametrize(
    "shape", [(), (0,), (0, 2), (1, 0), (1, 1), (2, 3), (8, 8), (16, 9000), (9000, 16), (600, 500), (1, 1, 9000)]
)
def test_ambiguous_shapes_are_errors(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a waveform is \(S,\), \(S, channels\) or \(channels, S\)") as error:
        utterance_of(np.full(shape, 0.5, np.float32), RATE)
    assert f"not {shape}; pass" in str(error.value)


def test_a_rate_is_a_whole_number_of_any_type() -> None:
    expected = utterance_of(FLOATS, 8000)
    assert expected.seconds == 3
    for rate in (8000.0, np.float32(8000), np.int64(8000), torch.tensor(8000)):
        found = utterance_of(FLOATS, rate)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.features, expected.features)
    for wrong in (16000.5, 0, -16000, 1000, 1e6, 2.0**40, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="rate is a whole number of Hz from 4000 to 768000, not ") as error:
            utterance_of(FLOATS, wrong)
        assert f"not {wrong}" in str(error.value)


WORKERS = """
import multiprocessing, sys
import numpy as np
import torch
from recognize import Recognizer, read_utterance

def start():
    global recognizer
    torch.set_num_threads(1)
    recognizer = Recognizer()

def embed(file):
    return torch.get_num_threads(), recognizer.embed_files([file])[0]

with multiprocessing.get_context("fork").Pool(2, start) as pool:
    answers = pool.map(embed, sys.argv[1:3])
start()
for (threads, embedding), file in zip(answers, sys.argv[1:3]):
    assert threads == 1
    np.testing.assert_allclose(embedding, embed(file)[1], atol=1e-6)
print("equal")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="other systems cannot fork")
def test_forked_workers_that_load_the_recognizer_themselves(tmp_path: Path) -> None:
    """As described in docs/recognition.md: torch is imported before the fork, and the network loaded after it."""
    for i, name in enumerate(("a.wav", "b.wav")):
        (tmp_path / name).write_bytes(wav_of(voice(i, 1.5, 0)))
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", WORKERS, str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "equal\n", done.stderr
