"""Decoding gives the samples that FFmpeg's own program gives."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
from archive_set import m4a, tone, wav

from feat_extract.audio import read_recording


def differs_from_ffmpeg(path: Path) -> int:
    """Return the largest difference between the samples of a file as decoded here and by ffmpeg."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    command = [ffmpeg, "-v", "error", "-nostdin", "-i", str(path), "-ac", "1", "-ar", "16000", "-f", "s16le", "-"]
    expected = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, "<i2")
    return np.abs(read_recording(path).samples.astype(int) - expected).max()  # other lengths do not broadcast


@pytest.mark.parametrize("content", [wav(tone(1.3, 1)), m4a(tone(1.3, 1))], ids=["wav", "m4a"])
def test_decoding_keeps_the_samples(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    found, spoken = read_recording(tmp_path / "a").samples, tone(1.3, 1)
    assert found.dtype == np.int16 and len(found) >= len(spoken)
    error = np.abs(found[: len(spoken)].astype(float) - spoken)
    assert error.max() == 0 if content.startswith(b"RIFF") else np.sqrt((error**2).mean()) < 400


def test_decoding_agrees_with_ffmpeg(tmp_path: Path) -> None:
    stereo = np.stack([tone(2, 1, 44100), tone(2, 5, 44100)], axis=1)
    (tmp_path / "stereo.m4a").write_bytes(m4a(np.ascontiguousarray(stereo), 44100))
    (tmp_path / "mono.m4a").write_bytes(m4a(tone(2, 3)))
    soundfile.write(tmp_path / "low.flac", tone(2, 4, 8000), 8000)
    soundfile.write(tmp_path / "a.mp3", tone(2, 4, 22050), 22050)
    assert all(differs_from_ffmpeg(path) <= 1 for path in tmp_path.iterdir())


def test_decoding_of_real_speech_agrees_with_ffmpeg(shared: Path) -> None:
    assert all(differs_from_ffmpeg(path) <= 1 for path in sorted((shared / "corpus/vox2_dev").rglob("*.m4a"))[::100])
