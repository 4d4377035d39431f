"""What every script shares at its command line: user errors, argument types, progress bars."""
import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm


class UserError(Exception):
    """Wrong data or surroundings: one line that names the file or speaker and says what to do; exit status 1."""

    status = 1


class UsageError(UserError):
    """Wrong flags, alone or together; exit status 2."""

    status = 2


class Parser(argparse.ArgumentParser):
    """An argument parser that shows the script's docstring as help and reports a mistake in one line."""

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Print the mistake in one line and leave with status 2."""
        self.exit(UsageError.status, f"{self.prog}: {message} (--help lists the flags)\n")


def boolean(text: str) -> bool:
    """Read True/False as the paper's commands write them (any case; 1/0 and yes/no too)."""
    value = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(text.lower())
    if value is None:
        raise argparse.ArgumentTypeError(f"'{text}' is neither True nor False")
    return value


def integer(minimum: int) -> Callable[[str], int]:
    """Return an argument type: a whole number not below the minimum."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{value} is below {minimum}")
        return value

    return parse


def progress(*args, **kwargs) -> tqdm:
    """Return a tqdm bar on standard error, silent where that is not a terminal."""
    return tqdm(*args, disable=None, dynamic_ncols=True, **kwargs)


def warn(message: str) -> None:
    """Print one line to standard error, above any progress bar."""
    tqdm.write(message, file=sys.stderr)


def run(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Run a script's main on the command line; turn what the user can mend into one line and an exit status."""
    program = Path(sys.argv[0]).name
    try:
        status = main(sys.argv[1:])
    except UserError as error:
        # From a torch loader process the error comes with that process's traceback, the message being its last line.
        message, status = str(error).splitlines()[-1].removeprefix("console.UserError: "), error.status
    except KeyboardInterrupt:
        message, status = "interrupted", 130
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        message, status = f"{error.filename or 'operating system'}: {error.strerror}", 1
    else:
        message = None
    if message is not None:
        print(f"{program}: {message}", file=sys.stderr)
    sys.exit(status)
