"""One source's files over HTTP, resumed where a connection breaks; requests and urllib3 do the rest."""

import os
import threading
import time
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3 import BaseHTTPResponse, Retry
from urllib3.exceptions import HTTPError, IncompleteRead, MaxRetryError

from corpora.sources import BAD_SUFFIX, PARTIAL_SUFFIX, Source, Wanted
from system import console
from system.console import UserError

BLOCK = 1 << 18  # bytes taken from the network at a time
TIMEOUT = 30  # seconds without a byte before a connection counts as dropped
TRANSIENT = (408, 429, *range(500, 600))  # HTTP statuses after which asking again may help


class _Retry(Retry):
    """urllib3's Retry that also prints why a request is repeated."""

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        """Wait before the next attempt."""
        status, error = self.history[-1].status, self.history[-1].error
        console.warn(f"download: {_reason(error) if error else f'HTTP {status}'}; trying again")
        super().sleep(response)


class Client:
    """A source's files on their way into a folder; the threads of one download share it."""

    def __init__(self, source: Source, folder: Path, jobs: int, retries: int, longest_pause: int):
        self.source, self.folder, self.longest_pause = source, folder, longest_pause
        self.lock = threading.Lock()
        self.sizes: dict[str, int] = {}
        self.retry = _Retry(retries, status_forcelist=TRANSIENT, raise_on_status=False, backoff_factor=0.5)
        self.retry.backoff_max = self.retry.retry_after_max = longest_pause
        self.session = requests.Session()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=self.retry, pool_maxsize=jobs))
        # Without "identity" a server may compress, and ranges would count compressed bytes.
        self.session.headers.update({"User-Agent": "meta-sr", "Accept-Encoding": "identity"})

    def partial(self, file: Wanted) -> Path:
        """Return where a file grows."""
        return self.folder / (file.name + PARTIAL_SUFFIX)

    def held(self, file: Wanted) -> int:
        """Return how many bytes of a file lie here from earlier."""
        path = self.partial(file)
        return path.stat().st_size if path.exists() else 0

    def size(self, file: Wanted) -> int:
        """Return the size in bytes that the source states for a file, 0 if it states none."""
        with self.open(file, "bytes=0-0") as response:
            self.sizes[file.name] = _total(response)
        return self.sizes[file.name]

    def fetch(self, file: Wanted, bar: tqdm) -> str | None:
        """Bring one file here; return why that failed, None if it did not."""
        path, bad = self.partial(file), self.folder / (file.name + BAD_SUFFIX)
        for attempt in (1, 2):
            try:
                self.transfer(file, bar)
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

    def transfer(self, file: Wanted, bar: tqdm) -> None:
        """Bring what the partial file lacks, going on where a connection breaks; progress restores all retries."""
        retry = self.retry
        while True:
            before = self.held(file)
            try:
                return self.receive(file, bar)
            except HTTPError as error:
                try:
                    retry = (self.retry if self.held(file) > before else retry).increment("GET", error=error)
                except MaxRetryError:
                    raise self.refusal(file, _reason(error)) from None
                time.sleep(min(1, self.longest_pause))  # Retry itself does not pause before its first repetition
                retry.sleep()

    def receive(self, file: Wanted, bar: tqdm) -> None:
        """Add what one connection brings to the partial file; a source without Range sends it from its start."""
        path, size, start = self.partial(file), self.sizes[file.name], self.held(file)
        if 0 < size == start:
            return
        with self.open(file, f"bytes={start if start < size else 0}-") as response:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                self.advance(bar, -start)
                start = 0
            with open(path, "ab" if start else "wb", buffering=0) as out:
                while block := response.raw.read1(BLOCK):
                    self.advance(bar, out.write(block))
            lacking = _total(response) - self.held(file)
        if lacking > 0:
            raise IncompleteRead(self.held(file), lacking)

    def open(self, file: Wanted, byte_range: str) -> requests.Response:
        """Ask for a range of a file's bytes; UserError if that is refused or does not succeed."""
        try:
            url, headers = self.source.url(file.served or file.name), {"Range": byte_range}
            response = self.session.get(url, headers=headers, auth=self.authorize, stream=True, timeout=TIMEOUT)
        except requests.RequestException as error:
            raise self.refusal(file, _reason(error)) from None
        code, answer = response.status_code, f"HTTP {response.status_code} {response.reason}"
        if response.ok and response.headers.get("Content-Type", "").startswith("text/html"):
            code, answer = 403, "answered with a web page"
        if code not in (200, 206):
            response.close()
            raise self.refusal(file, answer, code)
        return response

    def authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add password or token; requests takes them off again when redirected to another host or to plain http."""
        request.headers.update(self.source.headers)
        return request

    def refusal(self, file: Wanted, answer: str, code: int = 0) -> UserError:
        """Return the error that says what the source answered, and what to do about it."""
        advice = {401: self.source.advice, 403: self.source.advice, 404: "not served there: try another --source"}
        todo = advice.get(code, "run again to continue")
        return UserError(f"{file.served or file.name}: {self.source.host}: {self.source.scrub(answer)}; {todo}")

    def advance(self, bar: tqdm, count: int) -> None:
        """Move the bar, which counts bytes; threads take turns."""
        with self.lock:
            bar.update(count)


def _reason(error: BaseException) -> str:
    """Return the text of the innermost cause: the errors around it contain the address, and with it the key."""
    while error.__context__:
        error = error.__context__
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _total(response: requests.Response) -> int:
    """Return the whole file's size in bytes as an answer states it, 0 if it does not."""
    stated = response.headers.get("Content-Range", "").rpartition("/")[2] or response.headers.get("Content-Length", "")
    return int(stated) if stated.isdecimal() else 0
