"""Argument types, the parser, one-line errors, progress bars."""

import argparse
import io
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from conftest import PROJECT

from system import console
from system.console import boolean


@pytest.mark.parametrize("word", ["True", "true", "TRUE", "t", "T", "yes", "Y", "y", "1"])
def test_what_the_official_code_accepts_as_true(word: str) -> None:
    assert boolean(word) is True


@pytest.mark.parametrize("word", ["False", "false", "f", "F", "no", "No", "n", "0"])
def test_what_the_official_code_accepts_as_false(word: str) -> None:
    assert boolean(word) is False


@pytest.mark.parametrize("word", ["", "maybe", "tr", "2", "none"])
def test_other_words_are_an_error(word: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is neither True nor False"):
        boolean(word)


def test_groups_of_flags_are_merged_by_title_and_conditions_apply(capsys: pytest.CaptureFixture[str]) -> None:
    parent = console.Parser(add_help=False)
    parent.add_argument_group("data").add_argument("--folder", default="here", help="folder (default: here)")
    parser = console.Parser(parents=[parent])
    group = parser.add_argument_group("data")
    group.add_argument("--fast", action="store_true", help="skip checks (default: False)")
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.needs("fast", "folder")
    parser.works_if("folder", lambda args: args.fast, "without --fast")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    out = capsys.readouterr().out
    assert out.splitlines()[0].endswith(" [flags] FILE...") and out.count("data:") == 1
    assert parser.parse_args(["a.wav", "--fast", "--folder", "there"]).folder == "there"
    with pytest.raises(console.UsageError, match="--folder has no effect without --fast"):
        parser.parse_args(["a.wav", "--folder", "there"])


@pytest.mark.parametrize("ask", [lambda: torch.empty(2**60), lambda: bytearray(2**62)], ids=["torch", "python"])
def test_lack_of_memory_is_a_one_line_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ask: Callable[[], Any]
) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(SystemExit) as left:
        console.run(lambda argv: ask())
    assert left.value.code == 1
    assert capsys.readouterr().err.startswith("train.py: out of memory")


def test_a_script_without_ranks_prints_also_if_a_rank_starts_it() -> None:
    rank = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    command = [sys.executable, str(PROJECT / "recognize.py"), "list", "--voices", "nowhere"]
    done = subprocess.run(command, env=os.environ | rank, capture_output=True, text=True)
    assert done.stderr.startswith("recognize.py: nowhere")


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(RuntimeError, match="size of tensor a"):
        console.run(lambda argv: int(torch.zeros(2) + torch.zeros(3)))


@pytest.mark.parametrize("wanted", [True, False])
def test_standard_output_is_valid_json_only(capsys: pytest.CaptureFixture[str], wanted: bool) -> None:
    with console.json_output(wanted) as publish:
        print("scored")
        publish({"eer": 2.5, "threshold": math.inf, "lengths": [{"llr": math.nan, "length": "full", "n": 3}]})
    out, err = capsys.readouterr()
    expected = '{"eer": 2.5, "threshold": null, "lengths": [{"llr": null, "length": "full", "n": 3}]}\n'
    assert (out, err) == ((expected, "scored\n") if wanted else ("scored\n", ""))


@pytest.mark.slow
def test_a_rank_that_ends_during_a_message_is_a_one_line_error(tmp_path: Path) -> None:
    """Rank 1 is stopped while it receives, and killed when its buffers are full: the system resets the connection."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import os, signal, sys; sys.path.insert(0, {str(PROJECT)!r})\n"
        "import torch; from system import console, ranks\n"
        "def main(argv):\n"
        "    ranks.init()\n"
        "    ranks.all_reduce_max([0])\n"
        "    if ranks.rank():\n"
        "        os.kill(os.getpid(), signal.SIGSTOP)\n"
        "    ranks.all_reduce_sum(torch.zeros(10**7))\n"
        "console.run(main, with_ranks=True)\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    first, second = (
        subprocess.Popen(
            [sys.executable, script], env=os.environ | common | {"RANK": rank}, stderr=subprocess.PIPE, text=True
        )
        for rank in "01"
    )
    os.waitid(os.P_PID, second.pid, os.WSTOPPED | os.WNOWAIT)
    time.sleep(1)  # the first rank fills the connection's buffers
    second.kill()
    _, error = first.communicate(timeout=60)
    second.communicate()
    assert first.returncode == 1 and error == f"script.py: {console.RANK_ENDED}\n"


def shown(written: str) -> list[str]:
    """Return the lines on a terminal after this output. ESC [A moves up one line."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[A|\r|\n|[^\x1b\r\n]+", written):
        if part == "\x1b[A":
            row -= 1
        elif part in "\r\n":
            row, column = row + (part == "\n"), 0
            lines += [""] * (row == len(lines))
        else:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return lines


@pytest.mark.parametrize("rank, scripts", [(0, False), (1, True)])
def test_where_nothing_is_drawn_no_tqdm_bar_is_made(monkeypatch: pytest.MonkeyPatch, rank: int, scripts: bool) -> None:
    """A disabled bar would change the set of all bars, over which a thread of the program may be iterating."""
    monkeypatch.setattr(console, "script_runs", scripts)
    monkeypatch.setattr(console.ranks, "is_first", lambda: rank == 0)
    made = Mock(side_effect=AssertionError("a bar"))
    monkeypatch.setattr(console.Bar, "__init__", made)
    monkeypatch.setattr(console.Bar, "__new__", made)
    assert list(console.progress(iter("abc"), total=3, unit="file", desc="reading")) == ["a", "b", "c"]
    with console.progress_of_bytes(10, "download", 4) as bar:
        bar.update(3)
        bar.set_postfix(loss="1.5", refresh=False)
        assert bar.n == 7
    with pytest.raises(ZeroDivisionError), console.progress(total=3, unit="segment"):
        raise ZeroDivisionError


def test_the_outer_one_of_nested_progress_bars_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, each inner bar would otherwise leave a line."""
    terminal, results = io.StringIO(), io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("sys.stdout", results)
    for at in console.progress(range(3), desc="outer"):
        list(console.progress(range(2), desc="inner"))
        console.say(f"result {at}")
    assert results.getvalue() == "result 0\nresult 1\nresult 2\n"
    (left,) = filter(str.strip, shown(terminal.getvalue()))
    assert left.startswith("outer: 100%")
