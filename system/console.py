"""What every script shares at its command line: user errors, argument types, progress bars."""

import argparse
import errno
import functools
import io
import json
import math
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from system import ranks

NO_MEMORY = "out of memory; ask for less at once (a smaller episode, shorter windows, fewer --num_workers)"
RANK_ENDED = "another rank has ended, so this one ends too; saved checkpoints are whole"
TORCH_TROUBLES = {  # words of RuntimeErrors that torch has no class for -> what we say; a test provokes each
    "can't allocate memory": NO_MEMORY,  # for the CPU
    "Connection closed by peer": RANK_ENDED,  # gloo's, where a rank ends between two messages
    "Connection reset by peer": RANK_ENDED,  # within one
}


class UserError(Exception):
    """Wrong data or surroundings: one line that names the file or speaker and says what to do; exit status 1."""

    status = 1


class UsageError(UserError):
    """Wrong flags, alone or together; exit status 2."""

    status = 2


_Formatter = functools.partial(argparse.RawDescriptionHelpFormatter, width=80)


class Parser(argparse.ArgumentParser):
    """An argument parser with the script's docstring as help, at 80 columns, and one-line errors.

    It also refuses flags that have no effect with the other ones.
    """

    def __init__(self, description: str | None = None, **kwargs: Any):
        self._conditions = [condition for parent in kwargs.get("parents", []) for condition in parent._conditions]
        self._titled: dict[str | None, Any] = {}
        super().__init__(description=description, formatter_class=_Formatter, usage="%(prog)s [flags]", **kwargs)

    def add_argument_group(self, title: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """Return the group of flags with this title, a new one if there is none."""
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
        """Let a flag be given only together with one of the others; names without dashes."""
        words = " or ".join(f"--{name}" for name in others)
        self.works_if(flag, lambda args: any(getattr(args, name) for name in others), f"without {words}")

    def works_if(self, flag: str, condition: Callable[[argparse.Namespace], object], otherwise: str) -> None:
        """Let a flag, named without dashes, be given only where a condition on all arguments holds.

        The error is `--FLAG has no effect OTHERWISE`. A flag's default is no flag that is given.
        """
        self._conditions.append((flag, condition, otherwise))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read the command line as argparse does; UsageError for a flag that has no effect."""
        read, rest = super().parse_known_args(args, namespace)
        absent = object()
        marked, _ = super().parse_known_args(args, argparse.Namespace(**dict.fromkeys(vars(read), absent)))
        for flag, condition, otherwise in self._conditions:
            if getattr(marked, flag) is not absent and not condition(read):
                raise UsageError(f"--{flag} has no effect {otherwise}")
        return read, rest

    def error(self, message: str) -> NoReturn:
        """Print the mistake in one line and leave with status 2."""
        self.exit(UsageError.status, f"{self.prog}: {one_line(message)} (--help lists the flags)\n")


def boolean(text: str) -> bool:
    """Read True or False in any case, or as the release's flags accept them: yes, t, y, 1 and no, f, n, 0."""
    word = text.lower()
    if word not in ("true", "t", "yes", "y", "1", "false", "f", "no", "n", "0"):
        raise argparse.ArgumentTypeError(f"'{text}' is neither True nor False")
    return word in ("true", "t", "yes", "y", "1")


def integer(minimum: int, maximum: int = 2**31 - 1) -> Callable[[str], int]:
    """Return an argument type: a whole number from minimum to maximum."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{value} is below {minimum}")
        if value > maximum:
            raise argparse.ArgumentTypeError(f"{text} is above {maximum}")
        return value

    return parse


def positive(text: str) -> float:
    """Read a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


def suffix_of(path: Path, *known: str) -> str:
    """Return a path's suffix in lower case; UsageError unless it is one of those known."""
    suffix = path.suffix.lower()
    if suffix not in known:
        raise UsageError(f"{path}: the name must end in {' or '.join(known)}")
    return suffix


class Bar(tqdm):
    """A tqdm bar that leaves the process as it is: tqdm's own starts a thread and settles multiprocessing's method."""

    monitor_interval = 0


Bar.set_lock(threading.RLock())
script_runs = False  # in this process: without one, which is in a program that uses the project, nothing is printed


def progress(*args: Any, **kwargs: Any) -> tqdm:
    """Return a tqdm bar on standard error, silent where that is not a terminal, and on all ranks but the first.

    One that ends while another runs is cleared.
    """
    disable = None if script_runs and ranks.is_first() else True
    return Bar(*args, disable=disable, miniters=1, dynamic_ncols=True, leave=None, **kwargs)


def progress_of_bytes(total: int, desc: str, initial: int = 0) -> tqdm:
    """Return a bar as progress() does, counting bytes."""
    return progress(total=total, desc=desc, initial=initial, unit="B", unit_scale=True)


def warn(message: str) -> None:
    """Print one line to standard error, above any progress bar; of the ranks, the first does.

    In a program that uses the project from Python it is a warning of Python's, for the program to show or not.
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

    If `wanted`, everything else that the block prints goes to standard error, so that standard output is JSON alone.
    Numbers that JSON does not have, NaN and the infinities, become null.
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
    """A standard stream of a process whose reader may leave: what nobody reads any more is discarded."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _keep_streams_open() -> None:
    """Let the process write to its standard output and error until its end, also if `| head` or `>&-` closes them.

    A log file shows each line as soon as it is printed; what the terminal cannot show is printed as an escape.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif stream is getattr(sys, f"__{name}__"):  # no one has put another in its place
            if not stream.isatty():
                pipe = io.BufferedWriter(_Pipe(stream.fileno(), "w", closefd=False))
                stream = io.TextIOWrapper(pipe, encoding=stream.encoding)
                setattr(sys, name, stream)
            stream.reconfigure(line_buffering=True, errors="backslashreplace")


def run(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Run a script's main on the command line; turn what the user can mend into one line and an exit status.

    Of several ranks the first prints; the others only say why they end. A script whose output nobody reads goes on.
    """
    global script_runs
    script_runs = True
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
        message, status = _trouble_of_torch(error), 1
        if message is None:
            raise
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        message, status = f"{error.filename or 'writing the output'}: {error.strerror}", 1
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message += "; free some space and run again, what was finished is whole"
    if message is not None:
        print(f"{program}: {one_line(message)}", file=sys.stderr)
        _drop_unwritten_output()
    if ranks.world_size() > 1:  # torch's own end may wait for ranks that wait for this one, or abort
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)
    sys.exit(status)


def lacks_memory(error: BaseException) -> bool:
    """Tell whether an error is a lack of memory, of Python or of torch."""
    of_torch = isinstance(error, RuntimeError) and _trouble_of_torch(error) == NO_MEMORY
    return of_torch or isinstance(error, MemoryError)


def _trouble_of_torch(error: RuntimeError) -> str | None:
    """Return what to tell about an error of torch that the user can mend; None for any other."""
    from torch import OutOfMemoryError  # has been imported if the error is torch's

    if isinstance(error, OutOfMemoryError):  # a GPU's
        return NO_MEMORY
    return next((ours for theirs, ours in TORCH_TROUBLES.items() if theirs in str(error)), None)


def one_line(message: str) -> str:
    """Return a message as one printable line: names of files may hold line ends and a terminal's commands."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)


def _drop_unwritten_output() -> None:
    """Discard output that cannot be written, so that Python does not report it a second time at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
