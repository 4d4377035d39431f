"""Files that are replaced at once."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from system.files import remove_unfinished, replacing


def replace(path: Path) -> str:
    """Replace a file, and return its content."""
    with replacing(path) as temporary:
        temporary.write_text("other")
    return path.read_text()


def test_threads_that_replace_one_file_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with replacing(path) as temporary, ThreadPoolExecutor(1) as threads:
        temporary.write_text("ours")
        assert threads.submit(replace, path).result() == "other"
        assert temporary.read_text() == "ours"
    assert path.read_text() == "ours" and os.listdir(tmp_path) == ["a.npz"]


def test_the_temporary_file_of_a_killed_process_is_found(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.npz") as temporary:
        temporary.write_text("half")
        remove_unfinished(tmp_path, os.listdir(tmp_path))
        assert not os.listdir(tmp_path)
        temporary.write_text("complete")
