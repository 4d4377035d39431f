"""Shared by the tests: golden values, synthetic speakers, scripts in this or another process."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads do not accelerate such small networks

import contextlib
import functools
import importlib
import io
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import soundfile

from configure import TREES
from dataset.features import write_feature
from system import console


def pytest_configure() -> None:
    """Print warnings as scripts do."""
    console.script_runs = True


PROJECT = Path(__file__).resolve().parent.parent
GOLDEN = PROJECT / "tests" / "golden"
Thing = TypeVar("Thing")
PYTHON, HERE = (sys.executable,), ()
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def present(value: Thing | None) -> Thing:
    """Return a value that is not None."""
    assert value is not None
    return value


def run_script(
    *arguments: object, cwd: Path, check: int | None = 0, launcher: tuple[str, ...] = PYTHON
) -> subprocess.CompletedProcess:
    """Run a script of the project as a user does, in the folder `cwd`; its exit status must be `check`.

    With `launcher` HERE, in this process, which spares importing PyTorch.
    """
    script, *rest = map(str, arguments)
    if launcher == HERE:
        outcome = in_process(importlib.import_module(script.removesuffix(".py").replace("/", ".")).main, rest, cwd)
        done = subprocess.CompletedProcess([script, *rest], outcome.status, outcome.stdout, outcome.stderr)
    else:
        environment = {k: v for k, v in os.environ.items() if k != "METASR_SAVE_PATH"}
        command = [*launcher, str(PROJECT / script), *rest]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    if check is not None:
        assert done.returncode == check, f"{script} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


here = functools.partial(run_script, launcher=HERE)  # for scripts that another test runs in a new process


class Outcome:
    """Exit status and output of a script."""

    def __init__(self, status: int, stdout: str, stderr: str) -> None:
        self.status, self.stdout, self.stderr = status, stdout, stderr

    def is_one_line(self) -> bool:
        return len(self.stderr.splitlines()) == 1 and "Traceback" not in self.stderr


def in_process(main: Callable, argv: list[str], cwd: Path) -> Outcome:
    """Run a script's main like its command line, but in this process: starting Python and torch takes seconds."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    out, err, before, argv_before = io.StringIO(), io.StringIO(), Path.cwd(), sys.argv
    sys.argv = [main.__module__ + ".py", *argv]
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
            console.run(main)
    finally:
        os.chdir(before)
        sys.argv = argv_before
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Outcome(int(left.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real speech and the official checkpoint; without it the test is skipped."""
    folder = Path(os.environ.get("METASR_SHARED", PROJECT.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip("no folder of reference recordings")
    return folder


def peak_memory(code: str, *arguments: object) -> int:
    """Return the peak memory (kB) of a new process that runs some code (getrusage's would include the parent's)."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux's /proc")
    code += "\nprint(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return int(subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split()[-1])


def voice(speaker: int, seconds: float, seed: int) -> np.ndarray:
    """Return int16 samples of a simple synthetic voice: pitch and formants of a speaker, with noise."""
    rng, speaker_rng = np.random.default_rng([speaker, seed]), np.random.default_rng(speaker)
    time = np.arange(int(16000 * seconds)) / 16000
    pitch = speaker_rng.uniform(80, 250) * (1 + 0.03 * np.sin(2 * np.pi * rng.uniform(2, 5) * time))
    formants = speaker_rng.uniform([300, 900, 2200], [800, 1900, 3300])
    harmonics = np.arange(1, 30)[:, None]
    gains = sum(np.exp(-(((harmonics * pitch.mean() - f) / 150) ** 2)) for f in formants) + 0.05
    x = (gains * np.sin(2 * np.pi * harmonics * np.cumsum(pitch) / 16000)).sum(axis=0)
    x = x * (1 + 0.5 * np.sin(2 * np.pi * rng.uniform(3, 6) * time)) + 0.1 * rng.normal(size=len(time))
    return (8000 * x / np.abs(x).max()).astype(np.int16)


def write_wavs(root: Path, tree: str, speakers: range, n_utterances: int, seconds: float = 2.6) -> None:
    """Write a wav tree of synthetic voices below the data root; lengths differ by up to 0.9 s."""
    for speaker in speakers:
        for at in range(n_utterances):
            path = root / TREES[tree].wav / f"id{speaker:05d}" / f"video{at % 2}" / f"{at:05d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, voice(speaker, seconds + 0.1 * (at % 10), at), 16000, subtype="PCM_16")


def write_features(folder: Path, n_speakers: int, n_utterances: int, n_frames: int = 230, first: int = 0) -> None:
    """Write a feature tree; frame t of utterance u of speaker s is t, then 1000 s + 100 u in all other coefficients."""
    for s in range(first, first + n_speakers):
        for u in range(n_utterances):
            feat = np.full((n_frames + u, 40), 1000 * s + 100 * u, np.float32)
            feat[:, 0] = np.arange(len(feat))
            write_feature(folder / f"id{s:05d}" / f"v{u % 2}" / f"{u:05d}.pkl", feat, f"id{s:05d}")
