"""Compare the conversion from m4a to wav in the process (dataprep.py --convert) with one ffmpeg process per file.

    python -m benchmarks.decoding
    python -m benchmarks.decoding --folder DIR/voxceleb2/dev/wav --files 200

Without --folder the files are synthetic, 4 to 8 s long.
"""

import argparse
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np

from benchmarks import timing
from configure import SAMPLE_RATE, TREES
from feat_extract.audio import read_recording, write_wav
from system import console
from system.console import UserError
from system.files import utterances
from system.workers import cpu_count, unordered_map

PROJECT = Path(__file__).resolve().parent.parent
BIT_RATE = 48000  # bit/s, similar to VoxCeleb2


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = timing.parser(__doc__)
    parser.add_argument("--folder", type=Path, metavar="DIR", help="folder of m4a files (default: synthetic files)")
    parser.add_argument(
        "--files", type=console.integer(1), default=100, metavar="N", help="number of files (default: 100)"
    )
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure and print."""
    from benchmarks.decoding import in_process  # workers import the module; they cannot find a function of __main__

    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        files = real_files(args.folder, args.files) if args.folder else synthetic_files(Path(scratch), args.files)
        jobs = [(file, Path(scratch, f"{index}.wav")) for index, file in enumerate(files)]
        tree = Path(scratch, TREES["vox2_dev"].wav, "speaker", "video")
        tree.mkdir(parents=True)
        for index, file in enumerate(files):
            shutil.copy(file, tree / f"{index}.m4a")
        ways: timing.Ways = {
            "dataprep.py --convert, complete command": functools.partial(by_command, Path(scratch)),
            f"in {cpu_count()} processes, including their start": lambda: list(unordered_map(in_process, jobs)),
            "in process, 1 core": lambda: list(map(in_process, jobs)),
        }
        if shutil.which("ffmpeg"):
            ways["ffmpeg spawned, one at a time"] = lambda: list(map(by_ffmpeg, jobs))
        else:
            console.warn("ffmpeg is not installed; there is no comparison")
        timing.compare("m4a to wav", "files", len(jobs), ways, args)


def in_process(job: tuple[Path, Path]) -> None:
    """Convert a file in this process."""
    write_wav(job[1], read_recording(job[0]).samples)


def by_command(root: Path) -> None:
    """Convert all m4a files in a data root with dataprep.py."""
    for wav in root.glob("**/video/*.wav"):
        wav.unlink()
    command = [sys.executable, "dataprep.py", "--save_path", str(root), "--convert"]
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)


def by_ffmpeg(job: tuple[Path, Path]) -> None:
    """Convert a file with ffmpeg, as the official code does (but without a shell)."""
    m4a, wav = map(str, job)
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", "-i", m4a, "-ac", "1", "-ar", str(SAMPLE_RATE), wav]
    subprocess.run(command, check=True)


def real_files(folder: Path, count: int) -> list[Path]:
    """Return `count` of the m4a files in a folder, evenly spaced."""
    found = sorted(folder / f"{name}{suffix}" for name, suffix in utterances(folder, ".m4a").items())
    if len(found) < count:
        raise UserError(f"--folder {folder}: contains {len(found)} m4a files, fewer than --files {count}")
    return found[:: len(found) // count][:count]


def synthetic_files(folder: Path, count: int) -> list[Path]:
    """Write m4a files of a modulated buzz with noise, and return them."""
    rng, files = np.random.default_rng(0), [folder / f"{index}.m4a" for index in range(count)]
    for file in files:
        time_axis = np.arange(int(rng.uniform(4, 8) * SAMPLE_RATE)) / SAMPLE_RATE
        buzz = 6000 * np.sign(np.sin(2 * np.pi * rng.uniform(90, 250) * time_axis)) * np.sin(2 * np.pi * 3 * time_axis)
        samples = (buzz + rng.normal(0, 500, len(time_axis))).astype(np.int16)
        with av.open(str(file), "w", format="ipod") as container:
            stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", bit_rate=BIT_RATE)
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return files


if __name__ == "__main__":
    console.run(main)
