"""Large files over HTTP: several at once, resumed after any interruption, checked before they get their name."""
import functools
import hashlib
import http.client
import os
import queue
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

import console
from console import UserError
from corpora.sources import Source
from files import check_room

BLOCK = 1 << 18  # bytes taken from the network at a time
TIMEOUT = 30  # seconds without a byte before a connection counts as dropped
LONGEST_PAUSE = 60  # seconds between two attempts
PARTIAL_SUFFIX, BAD_SUFFIX = ".partial", ".bad"

Item, Result = TypeVar("Item"), TypeVar("Result")
Check = Callable[[Path], str | None]


class Wanted(NamedTuple):
    """A file to fetch: its name here, what is wrong with a fetched one (None: nothing), its name at the source."""

    name: str
    check: Check
    remote: str


class _Dropped(Exception):
    """An interruption that another attempt may overcome."""


def md5_of(path: Path) -> str:
    """Return a file's MD5 in hexadecimal."""
    found = hashlib.md5()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def with_md5(name: str, md5: str) -> Wanted:
    """Return a file to fetch that must have this MD5."""

    def check(path: Path) -> str | None:
        found = md5_of(path)
        return None if found == md5 else f"MD5 {found} where {md5} is listed"

    return Wanted(name, check, name)


def fetch(files: Sequence[Wanted], source: Source, folder: Path, jobs: int, retries: int) -> None:
    """Bring files into `folder`, `jobs` at a time; those that are there are not asked for again.

    A file grows as NAME.partial and gets its name when its check is passed, so a name means a whole, checked file.
    One that fails the check is kept as NAME.bad and fetched once more. A dropped connection or a server's error is
    retried with growing pauses, up to `retries` times without a byte of progress. Raises UserError: refused, not
    found, too little disk (before the first byte), wrong twice, or unreachable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [file for file in files if not (folder / file.name).exists()]
    client = _Client(source, folder, retries)
    sizes = _in_threads(client.size, missing, jobs)
    here = sum(client.held(file) for file in missing)
    check_room(folder, "the download", sum(sizes) - here)
    with console.progress(total=sum(sizes), initial=here, unit="B", unit_scale=True, desc="download") as bar:
        failures = _in_threads(functools.partial(client.fetch, bar=bar), missing, jobs)
    if any(failures):
        raise UserError("; ".join(filter(None, failures)))


def _in_threads(function: Callable[[Item], Result], items: Sequence[Item], jobs: int) -> list[Result]:
    """Return function(item) for every item, raising the first exception.

    The threads are daemons: Ctrl-C ends the program at once, wherever they wait.
    """
    todo, done = queue.SimpleQueue(), queue.SimpleQueue()

    def work() -> None:
        for index, item in iter(todo.get, None):
            try:
                done.put((index, function(item), None))
            except BaseException as error:  # raised again by the thread that waits
                done.put((index, None, error))

    for pair in enumerate(items):
        todo.put(pair)
    for _ in range(min(jobs, len(items))):
        todo.put(None)
        threading.Thread(target=work, daemon=True).start()
    results: list[Any] = [None] * len(items)
    for _ in items:
        index, results[index], error = done.get()
        if error:
            raise error
    return results


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but take no password or token along to another host or off an encrypted connection."""

    def redirect_request(self, req: urllib.request.Request, *args: Any) -> urllib.request.Request | None:
        """Return the request that follows the redirect."""
        new = super().redirect_request(req, *args)
        if new and (new.host != req.host or (req.type, new.type) == ("https", "http")):
            new.remove_header("Authorization")
        return new


class _Client:
    """What the threads of one download share."""

    def __init__(self, source: Source, folder: Path, retries: int):
        self.source, self.folder, self.retries = source, folder, retries
        self.opener = urllib.request.build_opener(_Redirects)
        self.lock = threading.Lock()
        self.sizes: dict[str, int] = {}

    def partial(self, file: Wanted) -> Path:
        return self.folder / (file.name + PARTIAL_SUFFIX)

    def held(self, file: Wanted) -> int:
        """Return how many bytes of a file lie here from earlier."""
        path = self.partial(file)
        return path.stat().st_size if path.exists() else 0

    def size(self, file: Wanted) -> int:
        """Return the size in bytes that the source states for a file, 0 if it states none."""

        def ask() -> int:
            with self.open(file, "bytes=0-0") as response:
                return _total(response) or 0

        self.sizes[file.name] = self.persist(file, ask)
        return self.sizes[file.name]

    def fetch(self, file: Wanted, bar: tqdm) -> str | None:
        """Bring one file here; return why that failed, None if it did not."""
        path, bad = self.partial(file), self.folder / (file.name + BAD_SUFFIX)
        for attempt in (1, 2):
            try:
                self.persist(file, functools.partial(self.transfer, file, bar))
            except UserError as error:
                return str(error)
            problem = file.check(path)
            if problem is None:
                os.replace(path, self.folder / file.name)
                return None
            self.advance(bar, -path.stat().st_size)
            os.replace(path, bad)
            if attempt == 1:
                console.warn(f"{file.name}: {problem}; kept as {bad.name}, fetching it once more")
        return f"{file.name}: {problem}, twice; kept as {bad}: try another --source, or tell {self.source.host}"

    def persist(self, file: Wanted, attempt: Callable[[], Result]) -> Result:
        """Return attempt(), repeated when the connection drops; progress by a byte renews the patience."""
        failures = 0
        while True:
            before = self.held(file)
            try:
                return attempt()
            except _Dropped as dropped:
                failures = 1 if self.held(file) > before else failures + 1
                reason = f"{file.name}: {self.source.host}: {self.source.scrub(str(dropped))}"
                if failures > self.retries:
                    raise UserError(f"{reason}; run again to continue") from None
            pause = min(LONGEST_PAUSE, 2 ** (failures - 2))
            console.warn(f"{reason}; trying again in {pause:g} s")
            time.sleep(pause)

    def transfer(self, file: Wanted, bar: tqdm) -> None:
        """Bring what the partial file lacks, over one connection; a source without Range sends it all again."""
        path, start = self.partial(file), self.held(file)
        if start and start == self.sizes[file.name]:
            return
        with self.open(file, f"bytes={start}-" if start else None) as response:
            total = _total(response)
            if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                self.advance(bar, -start)
                start = 0
            with open(path, "ab" if start else "wb", buffering=0) as out:
                while block := self.read(response):
                    self.advance(bar, out.write(block))
        if total is not None and self.held(file) != total:
            raise _Dropped(f"sent {self.held(file)} of {total} bytes")

    def open(self, file: Wanted, byte_range: str | None) -> http.client.HTTPResponse:
        """Ask for a file or a range of its bytes; raise _Dropped if asking again may help, else UserError."""
        request = urllib.request.Request(self.source.url(file.remote), headers=self.source.headers)
        request.add_header("User-Agent", "meta-sr")  # some hosts refuse urllib's own
        if byte_range:
            request.add_header("Range", byte_range)
        try:
            response = self.opener.open(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # what lies here is longer than what is served
                self.partial(file).unlink(missing_ok=True)
            if error.code >= 500 or error.code in (408, 416, 429):
                raise _Dropped(f"HTTP {error.code} {error.reason}") from None
            raise UserError(self.refusal(file, f"HTTP {error.code} {error.reason}", error.code)) from None
        except (OSError, http.client.HTTPException) as error:
            raise _Dropped(str(getattr(error, "reason", error)) or type(error).__name__) from None
        if response.headers.get_content_type() == "text/html":
            response.close()
            raise UserError(self.refusal(file, "answered with a web page", 403))
        return response

    def refusal(self, file: Wanted, answer: str, code: int) -> str:
        """Say what the source answered, and what to do about it."""
        advice = {401: self.source.advice, 403: self.source.advice, 404: "not served there: try another --source"}
        return f"{file.remote}: {self.source.host}: {self.source.scrub(answer)}; {advice.get(code, 'try again later')}"

    def read(self, response: http.client.HTTPResponse) -> bytes:
        """Return the next bytes of an answer, none at its end."""
        try:
            return response.read(BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise _Dropped(str(error) or type(error).__name__) from None

    def advance(self, bar: tqdm, count: int) -> None:
        """Move the bar, which counts bytes; threads take turns."""
        with self.lock:
            bar.update(count)


def _total(response: http.client.HTTPResponse) -> int | None:
    """Return the whole file's size in bytes as an answer states it, None if it does not."""
    stated = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", ""))
    length = stated[1] if stated else response.headers["Content-Length"]
    return int(length) if length else None
