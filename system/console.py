"""The command line of every script: errors, argument parser and types, progress bars, exit status."""

import argparse
import errno
import functools
import io
import json
import math
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from system import ranks

NO_MEMORY = "out of memory; use smaller episodes, shorter windows or fewer --num_workers"
RANK_ENDED = "aborted because another rank has ended; saved checkpoints are intact"
TORCH_MESSAGES = {  # text of a RuntimeError for which torch has no class -> our message; a test provokes each
    "can't allocate memory": NO_MEMORY,  # on the CPU
    "Connection closed by peer": RANK_ENDED,  # gloo's, if a rank ends between two messages
    "Connection reset by peer": RANK_ENDED,  # if it ends during one
}


class UserError(Exception):
    """An error in the data or the environment: one line with the file or speaker and what to do; exit status 1."""

    status = 1


class UsageError(UserError):
    """An invalid flag or combination of flags; exit status 2."""

    status = 2


_Formatter = functools.partial(argparse.RawDescriptionHelpFormatter, width=80)


class Parser(argparse.ArgumentParser):
    """An argument parser whose help is the script's docstring at 80 columns and whose errors are one line.

    It also rejects flags that have no effect in combination with the others.
    """

    def __init__(self, description: str | None = None, **kwargs: Any):
        self._conditions = [condition for parent in kwargs.get("parents", []) for condition in parent._conditions]
        self._titled: dict[str | None, Any] = {}
        super().__init__(description=description, formatter_class=_Formatter, usage="%(prog)s [flags]", **kwargs)

    def add_argument_group(self, title: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """Return the group of flags with this title; create it if it does not exist."""
        if title not in self._titled:
            self._titled[title] = super().add_argument_group(title, *args, **kwargs)
        return self._titled[title]

    def add_argument(self, *names: str, **kwargs: Any) -> argparse.Action:
        """Add an argument as argparse does, and its name to the usage line unless it is a flag."""
        action = super().add_argument(*names, **kwargs)
        if not action.option_strings:
            name = str(action.metavar or action.dest)
            form = {"+": f"{name}...", "*": f"[{name}...]"}.get(str(action.nargs))
            self.usage = f"{self.usage} {form or ' '.join([name] * int(action.nargs or 1))}"
        return action

    def add_subparsers(self, **kwargs: Any) -> Any:
        """Add subcommands as argparse does, and their metavar to the usage line."""
        self.usage = f"%(prog)s {kwargs.get('metavar', 'COMMAND')} [flags]"
        return super().add_subparsers(prog=self.prog, **kwargs)

    def needs(self, flag: str, *others: str) -> None:
        """Reject a flag that is given without any of the others; names without dashes."""
        listed = " or ".join(f"--{name}" for name in others)
        self.works_if(flag, lambda args: any(getattr(args, name) for name in others), f"without {listed}")

    def works_if(self, flag: str, condition: Callable[[argparse.Namespace], object], otherwise: str) -> None:
        """Reject a flag that is given, named without dashes, unless a condition on all arguments holds.

        The error is `--FLAG has no effect OTHERWISE`.
        """
        self._conditions.append((flag, condition, otherwise))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the command line as argparse does; UsageError for a flag that has no effect."""
        read, rest = super().parse_known_args(args, namespace)
        absent = object()
        marked, _ = super().parse_known_args(args, argparse.Namespace(**dict.fromkeys(vars(read), absent)))
        for flag, condition, otherwise in self._conditions:
            if getattr(marked, flag) is not absent and not condition(read):
                raise UsageError(f"--{flag} has no effect {otherwise}")
        return read, rest

    def error(self, message: str) -> NoReturn:
        """Print the error in one line and exit with status 2."""
        self.exit(UsageError.status, f"{self.prog}: {one_line(message)} (--help lists the flags)\n")


def boolean(text: str) -> bool:
    """Parse True or False, or what the official code accepts: yes, t, y, 1 and no, f, n, 0; in upper or lower case."""
    word = text.lower()
    if word not in ("true", "t", "yes", "y", "1", "false", "f", "no", "n", "0"):
        raise argparse.ArgumentTypeError(f"'{text}' is neither True nor False")
    return word in ("true", "t", "yes", "y", "1")


def integer(minimum: int, maximum: int = 2**31 - 1) -> Callable[[str], int]:
    """Return an argument type: an integer from minimum to maximum."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d+", text) or not minimum <= int(text) <= maximum:
            raise argparse.ArgumentTypeError(f"'{text}' is not an integer from {minimum} to {maximum:,}")
        return int(text)

    return parse


def path(text: str) -> Path:
    """Parse a path; an empty text is no path, although pathlib reads it as the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("an empty name")
    return Path(text)


def positive(text: str) -> float:
    """Parse a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


def suffix_of(path: Path, *known: str) -> str:
    """Return a path's suffix in lower case; UsageError unless it is one of `known`."""
    suffix = path.suffix.lower()
    if suffix not in known:
        raise UsageError(f"{path}: the name must end in {' or '.join(known)}")
    return suffix


def refuse_overwriting(output: Path, inputs: Iterable[str | Path | None]) -> None:
    """Raise UsageError if a file to write is one of the files to read; None and files that do not exist are no files.

    The comparison follows links.
    """
    for path in inputs:
        if path is not None and os.path.exists(path) and output.exists() and output.samefile(path):
            raise UsageError(f"{output}: is also an input; choose another output file")


class Bar(tqdm):
    """A tqdm bar without side effects: tqdm's starts a thread and fixes multiprocessing's start method."""

    monitor_interval = 0


Bar.set_lock(threading.RLock())
script_runs = False  # whether this process is a script of the project; otherwise nothing is printed


class Silent:
    """The progress of a program that is no script; tqdm's disabled bars share a set with the bars of that program."""

    def __init__(self, items: Iterable[Any] = (), initial: int = 0):
        self._items, self.n = items, initial

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        """Add n to the progress."""
        self.n += n

    def set_postfix(self, **shown: Any) -> None:
        """Show nothing."""


Progress = Bar | Silent


def progress(items: Iterable[Any] = (), initial: int = 0, **kwargs: Any) -> Progress:
    """Return a tqdm bar on standard error, disabled if that is no terminal; on other ranks and for programs, no bar.

    A bar that ends within another bar is cleared.
    """
    if not (script_runs and ranks.is_first()):
        return Silent(items, initial)
    return Bar(items, initial=initial, disable=None, miniters=1, dynamic_ncols=True, leave=None, **kwargs)


def progress_of_bytes(total: int, desc: str, initial: int = 0) -> Progress:
    """Return the bar of progress() with bytes as unit."""
    return progress(total=total, desc=desc, initial=initial, unit="B", unit_scale=True)


def warn(message: str) -> None:
    """Print one line on the first rank to standard error, above any progress bar.

    In a program that imports the project it is a Python warning instead.
    """
    if not script_runs:
        warnings.warn(one_line(message), stacklevel=2)
    elif ranks.is_first():
        Bar.write(one_line(message), file=sys.stderr)


def say(line: str) -> None:
    """Print one line to standard output, above any progress bar."""
    Bar.write(line, file=sys.stdout)


@contextmanager
def json_output(wanted: bool) -> Iterator[Callable[[dict], None]]:
    """Yield a function that prints a result as one line of JSON if `wanted`, and otherwise does nothing.

    If `wanted`, all other output of the block goes to standard error. NaN and infinities become null.
    """
    stdout = sys.stdout

    def publish(result: dict) -> None:
        if wanted:
            print(json.dumps(_with_nulls(result), allow_nan=False), file=stdout)

    with redirect_stdout(sys.stderr if wanted and ranks.is_first() else stdout):
        yield publish


def _with_nulls(value: Any) -> Any:
    match value:
        case dict():
            return {name: _with_nulls(part) for name, part in value.items()}
        case list():
            return [_with_nulls(part) for part in value]
        case float() if not math.isfinite(value):
            return None
    return value


class _Pipe(io.FileIO):
    """A standard stream that discards its output once the reader has ended, as in `| head`."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _keep_streams_open() -> None:
    """Make standard output and error writable until the process ends, also after `| head` and with `>&-`.

    Each line is written immediately; characters that the terminal's encoding lacks are escaped.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif stream is getattr(sys, f"__{name}__"):  # not replaced, as by a test
            if not stream.isatty():
                pipe = io.BufferedWriter(_Pipe(stream.fileno(), "w", closefd=False))
                stream = io.TextIOWrapper(pipe, encoding=stream.encoding)
                setattr(sys, name, stream)
            stream.reconfigure(line_buffering=True, errors="backslashreplace")


def run(main: Callable[[list[str]], int | None], with_ranks: bool = False) -> NoReturn:
    """Run a script's main and exit; an error that the user can fix is printed in one line.

    With `with_ranks`, torchrun may start the script: the first rank alone prints; the others print only errors.
    Otherwise the script is alone, even if a rank of another program starts it.
    """
    global script_runs
    script_runs = True
    if not with_ranks:
        ranks.ignore_torchrun()
    program, message = Path(sys.argv[0]).name, None
    if not ranks.is_first():
        program = f"{program}, rank {os.environ['RANK']}"
        sys.stdout = open(os.devnull, "w")
    _keep_streams_open()
    try:
        status = main(sys.argv[1:])
        ranks.barrier()
        sys.stdout.flush()
    except UserError as error:
        message, status = str(error), error.status
    except SystemExit as leaving:
        message, status = (leaving.code, 1) if isinstance(leaving.code, str) else (None, leaving.code)
    except KeyboardInterrupt:
        message, status = "interrupted", 130
    except MemoryError:
        message, status = NO_MEMORY, 1
    except RuntimeError as error:
        message, status = _message_of_torch(error), 1
        if message is None:
            raise
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        message, status = f"{error.filename or 'writing the output'}: {error.strerror}", 1
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message += "; free some space and run again, finished files are intact"
    if message is not None:
        print(f"{program}: {one_line(message)}", file=sys.stderr)
        _drop_unwritten_output()
    if ranks.world_size() > 1:  # a normal exit may wait for ranks that wait for this one, or abort
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)
    sys.exit(status)


def lacks_memory(error: BaseException) -> bool:
    """Return whether Python or torch raised an error for lack of memory."""
    of_torch = isinstance(error, RuntimeError) and _message_of_torch(error) == NO_MEMORY
    return of_torch or isinstance(error, MemoryError)


def _message_of_torch(error: RuntimeError) -> str | None:
    """Return our message for an error of torch that the user can fix; None for any other."""
    from torch import OutOfMemoryError  # already imported if the error is torch's

    if isinstance(error, OutOfMemoryError):  # on a GPU
        return NO_MEMORY
    return next((ours for theirs, ours in TORCH_MESSAGES.items() if theirs in str(error)), None)


def one_line(message: str) -> str:
    """Return a message as one printable line: names of files may contain line ends and control sequences."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)


def _drop_unwritten_output() -> None:
    """Discard output that cannot be written, so that Python does not report it again at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
