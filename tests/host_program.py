"""A program that uses the project from Python; it prints its state that each use has changed.

The argument is the folder of its data.
"""

import atexit
import json
import locale
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special  # noqa: F401  # its first import adds a filter for its own warnings
import torch
from conftest import voice

from dataset.episodes import TrainingEpisodes
from dataset.index import FeatureIndex
from evaluation.embedding import Segments, embed
from feat_extract.feature_extraction import extract_features, find_jobs, find_trees
from model.encoder import Encoder
from recognize import Recognizer
from system.compute import Compute
from system.loading import Loader
from system.workers import unordered_map

folder = Path(sys.argv[1])


def live_beyond_the_programs_end() -> None:
    while not (folder / "exiting").exists():
        time.sleep(0.05)
    time.sleep(1)
    (folder / "lived").touch()


def children() -> list[str]:
    return sorted(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())


def state() -> dict[str, Any]:
    settings, generator = (torch.backends.cudnn, torch.backends.cuda.matmul), np.random.get_state()
    return {
        "signal handlers": {number: repr(signal.getsignal(number)) for number in signal.valid_signals()},
        "signal mask": repr(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "environment": dict(os.environ),
        "exit handlers": atexit._ncallbacks(),
        "torch's random state": torch.get_rng_state().tolist(),
        "NumPy's random state": [repr(part.tolist() if isinstance(part, np.ndarray) else part) for part in generator],
        "Python's random state": random.getstate(),
        "torch": [
            torch.get_num_threads(),
            str(torch.get_default_dtype()),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            *(setting.allow_tf32 for setting in settings),
        ],
        "numpy": repr(np.geterr()),
        "warnings filters": repr(warnings.filters),
        "loggers": {name: logging.getLogger(name).level for name in loggers},
        "log handlers": repr(logging.getLogger().handlers),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "children": children(),
        "places": [os.getcwd(), sys.path[:], sys.argv[:], locale.setlocale(locale.LC_ALL)],
        "hooks": repr([sys.stdout, sys.stderr, sys.excepthook, threading.excepthook]),
    }


def work() -> Iterator[str]:
    wave = voice(1, 2.0, 0)
    recognizer = Recognizer(device="cpu")
    yield "Recognizer"
    recognizer.embed(wave, 16000)
    yield "embed"
    recognizer.embed_files(sorted(folder.rglob("*.wav"))[:2])
    yield "embed_files"
    features = FeatureIndex([folder / "many"])
    assert len(features) == 2500
    yield "FeatureIndex"
    episodes = TrainingEpisodes(features, n_way=2, n_shot=1, n_query=2, use_variable=True, seed=1)
    assert len(episodes[1, 0].speaker) == 2
    yield "TrainingEpisodes"
    encoder = Encoder("resnet18").for_inference()
    yield "for_inference"
    for n_workers in (0, 2):
        compute = Compute(torch.device("cpu"), torch.float32, n_workers)
        embed(encoder, features, Segments.full(features, np.arange(8)), compute)
        yield f"evaluation's embed, {n_workers} processes"
    try:
        with Loader(episodes, 2, episodes.max_bytes, pin_memory=False).batches([(1, 0)] * 99) as batches:
            next(batches)
            raise ZeroDivisionError
    except ZeroDivisionError:
        yield "an abandoned loop"
    assert len(list(unordered_map(extract_features, jobs, 2))) == 40
    yield "extraction"


def changes() -> Iterator[tuple[str, ...]]:
    """Yield each use that changed the state: the use, the name of the state, and its values before and after."""
    before = state()
    for done in work():
        deadline = time.monotonic() + 5  # stopped threads may take a moment to end
        while (after := state())["threads"] != before["threads"] and time.monotonic() < deadline:
            time.sleep(0.05)
        if done == "for_inference":  # the new weights are random numbers of torch
            before["torch's random state"] = after["torch's random state"]
        for aspect in before:
            if before[aspect] != after[aspect]:
                yield done, aspect, repr(before[aspect]), repr(after[aspect])
        before = after


if __name__ == "__main__":
    jobs, _ = find_jobs(folder, find_trees(folder))
    handled: list[int] = []
    signal.signal(signal.SIGCHLD, lambda number, _: handled.append(number))
    signal.signal(signal.SIGTERM, lambda number, _: handled.append(number))
    process = multiprocessing.get_context("fork").Process(target=live_beyond_the_programs_end)
    process.start()
    loggers = ["root", *logging.root.manager.loggerDict]
    try:
        print(json.dumps(list(changes())))
        assert process.is_alive() and signal.SIGCHLD in handled
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as a server that does not wait for its children
        for done in work():
            assert process.is_alive(), done
    finally:
        (folder / "exiting").touch()
