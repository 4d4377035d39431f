"""An HTTP client that downloads files of one server and resumes them after dropped connections."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import ChunkedEncodingError, ConnectionError, HTTPError, Timeout

from corpora.servers import BAD_SUFFIX, PARTIAL_SUFFIX, Download, Server
from system import console
from system.console import UserError

BLOCK = 1 << 16  # bytes read from the network at a time; a dropped connection loses less than this
TIMEOUT = 30  # seconds without a byte before a connection counts as dropped
TRANSIENT = (408, 429, *range(500, 600))  # HTTP statuses that are worth another request
REPEATABLE = (ConnectionError, Timeout, ChunkedEncodingError, HTTPError)  # errors that are, too
Result = TypeVar("Result")


class Client:
    """Downloads of one server's files into a folder; the threads of one download share it."""

    def __init__(self, server: Server, folder: Path, jobs: int, retries: int, longest_pause: int):
        self.server, self.folder, self.retries, self.longest_pause = server, folder, retries, longest_pause
        self.sizes: dict[str, int] = {}
        self.session = requests.Session()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(pool_maxsize=jobs))
        # Without "identity" a server may compress, and ranges would count compressed bytes.
        self.session.headers.update({"User-Agent": "meta-sr", "Accept-Encoding": "identity"})

    def partial(self, file: Download) -> Path:
        """Return the path of an unfinished file."""
        return self.folder / (file.name + PARTIAL_SUFFIX)

    def n_downloaded(self, file: Download) -> int:
        """Return the size in bytes of an unfinished file, 0 if there is none."""
        path = self.partial(file)
        return path.stat().st_size if path.exists() else 0

    def size(self, file: Download) -> int:
        """Return the size in bytes that the server states for a file, 0 if it states none."""
        with self.retry(file, lambda: self.open(file, "bytes=0-0")) as response:
            self.sizes[file.name] = _total(response)
        return self.sizes[file.name]

    def download(self, file: Download, bar: console.Progress) -> str | None:
        """Download and check one file; return an error message, None after success."""
        path, bad = self.partial(file), self.folder / (file.name + BAD_SUFFIX)
        for attempt in (1, 2):
            try:
                self.retry(file, lambda: self.receive(file, bar))
            except UserError as error:
                return str(error)
            problem = file.check(path)
            if problem is None:
                os.replace(path, self.folder / file.name)
                return None
            bar.update(-path.stat().st_size)
            os.replace(path, bad)
            if attempt == 1:
                console.warn(f"{file.name}: {problem}; kept as {bad.name}, downloading it once more")
        return f"{file.name}: {problem}, twice; kept as {bad}; try another --source, or inform {self.server.host}"

    def retry(self, file: Download, action: Callable[[], Result]) -> Result:
        """Return action(), retried with growing pauses after a dropped connection or an error of the server.

        A pause that the server states in Retry-After replaces these, up to `longest_pause` seconds. UserError after
        `retries` retries in a row without a new byte.
        """
        failures = 0
        while True:
            before = self.n_downloaded(file)
            try:
                return action()
            except requests.RequestException as error:
                failures = 1 if self.n_downloaded(file) > before else failures + 1
                if failures > self.retries or not isinstance(error, REPEATABLE):
                    raise self.failure(file, _reason(error)) from None
                console.warn(f"{file.name}: {_reason(error)}; retrying")
                stated = error.response.headers.get("Retry-After", "") if error.response is not None else ""
                pause = int(stated) if stated.isdecimal() else 2**failures / 2
                time.sleep(min(self.longest_pause, pause))

    def receive(self, file: Download, bar: console.Progress) -> None:
        """Append to the unfinished file; restart it if the server does not support ranges."""
        path, size, start = self.partial(file), self.sizes[file.name], self.n_downloaded(file)
        if 0 < size == start:
            return
        with self.open(file, f"bytes={start if start < size else 0}-") as response:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                bar.update(-start)
                start = 0
            with open(path, "ab" if start else "wb", buffering=0) as out:
                for block in response.iter_content(BLOCK):
                    bar.update(out.write(block))
            lacking = _total(response) - self.n_downloaded(file)
        if lacking > 0:
            raise ConnectionError(f"{lacking} more bytes expected")

    def open(self, file: Download, byte_range: str) -> requests.Response:
        """Request a range of a file's bytes; HTTPError if a retry may succeed, UserError if the server refuses."""
        url, headers = self.server.url(file.served or file.name), {"Range": byte_range}
        response = self.session.get(url, headers=headers, auth=self.authorize, stream=True, timeout=TIMEOUT)
        code, answer = response.status_code, f"HTTP {response.status_code} {response.reason}"
        if response.ok and response.headers.get("Content-Type", "").startswith("text/html"):
            code, answer = 403, "answered with a web page"
        if code not in (200, 206):
            response.close()
            if code in TRANSIENT:
                raise HTTPError(answer, response=response)
            raise self.failure(file, answer, code)
        return response

    def authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add password or token, which requests removes after a redirect to another host or to plain http."""
        request.headers.update(self.server.headers)
        return request

    def failure(self, file: Download, answer: str, code: int = 0) -> UserError:
        """Return an error with the server's answer and what to do."""
        advice = {401: self.server.advice, 403: self.server.advice, 404: "not available there, try another --source"}
        todo = advice.get(code, "run again to continue")
        return UserError(f"{file.served or file.name}: {self.server.host}: {self.server.scrub(answer)}; {todo}")


def _reason(error: BaseException) -> str:
    """Return the message of the innermost cause, since the outer messages contain the URL and with it the key."""
    while error.__context__:
        error = error.__context__
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _total(response: requests.Response) -> int:
    """Return the size in bytes of the complete file by the response's headers, 0 if they do not state it."""
    stated = response.headers.get("Content-Range", "").rpartition("/")[2] or response.headers.get("Content-Length", "")
    return int(stated) if stated.isdecimal() else 0
