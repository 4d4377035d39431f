"""A small set of archives with VoxCeleb's names and layout, and functions that run dataprep.py."""

import hashlib
import io
import os
import subprocess
import sys
import tempfile
import wave
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
from conftest import here

REPOSITORY = Path(__file__).resolve().parent.parent
PART_BYTES = 60_000


def tone(seconds: float, seed: int, rate: int = 16000) -> np.ndarray:
    """Return noisy samples (S,) int16 that differ from seed to seed."""
    rng, t = np.random.default_rng(seed), np.arange(int(seconds * rate)) / rate
    return (8000 * np.sin(2 * np.pi * (150 + 40 * seed) * t) + rng.normal(0, 300, len(t))).astype(np.int16)


def m4a(samples: np.ndarray, rate: int = 16000, index_first: bool = False) -> bytes:
    """Return samples (S,) or (S, 2) int16 as an AAC file; with `index_first` a truncated file can be decoded."""
    options = {"movflags": "faststart"} if index_first else {}  # FFmpeg then reads the file again by its name
    with tempfile.NamedTemporaryFile(suffix=".m4a") as file:
        with av.open(file.name, "w", format="ipod", options=options) as container:
            stream = container.add_stream("aac", rate=rate, layout="mono" if samples.ndim == 1 else "stereo")
            frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=stream.layout.name)
            frame.sample_rate, frame.pts = rate, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return Path(file.name).read_bytes()


def wav(samples: np.ndarray, rate: int = 16000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, rate, 0, "NONE", ""))
        out.writeframes(samples.tobytes())
    return file.getvalue()


def build(folder: Path, speakers: int = 3, utterances: int = 4) -> dict[str, bytes]:
    """Write parts, parts.txt and files.txt into `folder`; return the files that --extract writes, path -> content."""
    expected: dict[str, bytes] = {}
    parts, zips = [], []
    for archive, inside, tree, make, suffix in (
        ("vox1_dev_wav", "wav", "voxceleb1/dev/wav", wav, "wav"),
        ("vox1_test_wav", "wav", "voxceleb1/test/wav", wav, "wav"),
        ("vox2_dev_aac", "dev/aac", "voxceleb2/dev/wav", m4a, "m4a"),
    ):
        members = {
            f"id{len(tree)}{speaker:03}/video{utterance % 2}/{utterance:05}.{suffix}": make(
                tone(0.5 + 0.1 * utterance, 10 * speaker + utterance)
            )
            for speaker in range(speakers)
            for utterance in range(utterances)
        }
        expected |= {f"{tree}/{name}": content for name, content in members.items()}
        data = zipped({f"{inside}/{name}": content for name, content in members.items()})
        pieces = {f"{archive}.zip": data}
        if archive != "vox1_test_wav":
            zips.append(f"{archive}_parta* {archive}.zip {hashlib.md5(data).hexdigest()}\n")
            starts = range(0, len(data), PART_BYTES)
            pieces = {f"{archive}_parta{chr(97 + i)}": data[s : s + PART_BYTES] for i, s in enumerate(starts)}
        for name, piece in pieces.items():
            (folder / name).write_bytes(piece)
            parts.append(f"{name} {hashlib.md5(piece).hexdigest()}\n")
    (folder / "parts.txt").write_text("".join(parts))
    (folder / "files.txt").write_text("".join(zips))
    return expected


def private_set(folder: Path, root: Path) -> tuple[str | Path, ...]:
    """Write an archive of one wav into `root` and its lists into `folder`; return the flags for the lists."""
    root.mkdir(parents=True)
    data = zipped({"wav/id1/v/a.wav": wav(tone(0.5, 1))})
    (root / "mine_partaa").write_bytes(data)
    (folder / "parts.txt").write_text(f"mine_partaa {hashlib.md5(data).hexdigest()}\n")
    (folder / "zips.txt").write_text(f"mine_part* vox1_test_wav.zip {hashlib.md5(data).hexdigest()}\n")
    return "--parts_list", folder / "parts.txt", "--zip_list", folder / "zips.txt"


def zipped(members: Mapping[Any, bytes]) -> bytes:
    """Return a zip of members; a member is a name or a ZipInfo."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
        for name, content in members.items():
            out.writestr(name, content)
    return file.getvalue()


def tree(root: Path, *suffixes: str) -> dict[str, bytes]:
    """Return the files below `root` with these suffixes, or all but locks, path -> content."""
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
    files = (path for path in files if path.suffix in (suffixes or (path.suffix,)))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def start(*arguments: object, **environment: str) -> subprocess.Popen:
    """Start dataprep.py in a separate session."""
    command = [sys.executable, str(REPOSITORY / "dataprep.py"), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=os.environ | environment, start_new_session=True
    )


def run(*arguments: object, typed: str = "", **environment: str) -> subprocess.CompletedProcess:
    """Run dataprep.py, in a separate process if there is typed input or a changed environment."""
    if not typed and not environment:
        return here("dataprep.py", *arguments, cwd=Path.cwd(), check=None)
    process = start(*arguments, **environment)
    stdout, stderr = process.communicate(typed, timeout=120)
    assert "Traceback" not in stderr, stderr
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
