"""Shared by the fault-injection tests: a small trained network, and scripts in this or another process."""

import functools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import PROJECT, Outcome, in_process

import train
from configure import TREES, TRIALS_NAME
from dataset.features import write_feature
from model.checkpoint import load_checkpoint

SOAK = os.environ.get("METASR_SOAK") == "1"  # make soak: the same tests with more repetitions
TRAIN = "--backbone resnet18 --nb_class_train 2 --n_query 1 --precision fp32 --lr 0.01 --num_workers 0".split()
RUN = Path("saved_model", "baseline_000")


def soaked(usual: int, in_soak: int) -> int:
    """Return the number of repetitions: in a usual test run or in the soak."""
    return in_soak if SOAK else usual


def write_speech(root: Path, tree: str, speakers: range, n_utterances: int) -> None:
    """Write features of noise around the mean of each speaker; lengths differ."""
    for s in speakers:
        rng = np.random.default_rng(s)
        mean = 10 * rng.normal(size=40)
        for u in range(n_utterances):
            feat = mean + 5 * rng.normal(size=(205 + u, 40))
            write_feature(root / TREES[tree].feat / f"id{s:05d}" / "v" / f"{u:05d}.pkl", feat, f"id{s:05d}")


def trial_list(speakers: range, n_utterances: int) -> str:
    """Return a trial list of all pairs."""
    names = [f"id{s:05d}/v/{u:05d}.wav" for s in speakers for u in range(n_utterances)]
    return "".join(f"{int(a[:7] == b[:7])} {a} {b}\n" for a in names for b in names if a < b)


@functools.cache
def trained_folder(folder: Path) -> Path:
    """Make data/ and saved_model/baseline_000 with two epochs in a folder, third.pth with one more; return it.

    Made once for all tests, which work on copies.
    """
    folder.mkdir()
    write_speech(folder / "data", "vox2_dev", range(4), 4)
    write_speech(folder / "data", "vox1_test", range(30, 33), 3)
    (folder / "data" / TRIALS_NAME).write_text(trial_list(range(30, 33), 3))
    outcome = in_process(train.main, [*TRAIN, "--max_epoch", "2"], folder)
    assert outcome.status == 0, outcome.stderr
    further = copy_of(folder, folder / "further")
    outcome = in_process(train.main, [*TRAIN, "--use_checkpoint", "True", "--max_epoch", "3"], further)
    assert outcome.status == 0, outcome.stderr
    (further / RUN / "checkpoint_003.pth").rename(folder / "third.pth")
    shutil.rmtree(further)
    return folder


def copy_of(trained: Path, to: Path) -> Path:
    """Return a copy with hard links to the files: use `put` to change one."""
    return Path(shutil.copytree(trained, to, copy_function=os.link))


def put(path: Path, content: str | bytes) -> None:
    """Replace a file without changing other hard links to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def start(*arguments: object, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    """Start a script of the project as a user does, in a new process group."""
    script, *rest = map(str, arguments)
    return subprocess.Popen(
        [*options.pop("launcher", (sys.executable,)), str(PROJECT / script), *rest],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "METASR_SAVE_PATH"},
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def by_start_method(method: str) -> tuple[str, ...]:
    """Return a launcher that runs a script with a default start method of processes: "fork", "spawn", ..."""
    program = (
        "import multiprocessing, os, runpy, sys\n"
        f"multiprocessing.set_start_method({method!r})\n"
        "del sys.argv[0]\n"
        "sys.path.insert(0, os.path.dirname(sys.argv[0]))\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    return sys.executable, "-c", program


def finish(process: subprocess.Popen, timeout: float = 180) -> Outcome:
    """Wait for a script; kill it with all its processes after the timeout."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return Outcome(process.returncode, stdout or "", stderr)


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the files in a folder, path -> content, without locks."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def same_training(one: Path, other: Path) -> bool:
    """Return whether network, momentum, schedule and position of two checkpoints are bit-identical."""
    a, b = load_checkpoint(one), load_checkpoint(other)
    momenta = ([entry["momentum_buffer"] for entry in c.optimizer["state"].values()] for c in (a, b))
    return (
        list(a.state_dict) == list(b.state_dict)
        and all(torch.equal(a.state_dict[name], b.state_dict[name]) for name in a.state_dict)
        and all(torch.equal(x, y) for x, y in zip(*momenta, strict=True))
        and a.optimizer["param_groups"] == b.optimizer["param_groups"]
        and (a.scheduler, a.epoch, a.episode, a.sums) == (b.scheduler, b.epoch, b.episode, b.sums)
    )
