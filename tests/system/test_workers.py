import os
import subprocess
import sys

import pytest
from conftest import PROJECT

from system.workers import CHUNK, unordered_map


def worker(item: int) -> tuple[int, int]:
    return item, os.getpid()


@pytest.mark.parametrize(
    "workers, n_items, here", [(2, 0, True), (2, CHUNK, True), (2, CHUNK + 1, False), (1, 40, True)]
)
def test_what_one_worker_would_have_to_itself_starts_no_process(workers: int, n_items: int, here: bool) -> None:
    done = list(unordered_map(worker, iter(range(n_items)), workers))
    assert sorted(item for item, _ in done) == list(range(n_items))
    assert all((process == os.getpid()) == here for _, process in done)


@pytest.mark.parametrize(
    "script, not_needed",
    [
        ("dataprep", "requests torch scipy.fft pandas librosa sklearn matplotlib"),
        ("feat_extract.feature_extraction", "requests torch scipy pandas librosa sklearn matplotlib av"),
    ],
)
def test_workers_do_not_import_what_they_do_not_use(script: str, not_needed: str) -> None:
    code = f"import sys, {script}; print([name for name in {not_needed.split()} if name in sys.modules])"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout == "[]\n"
