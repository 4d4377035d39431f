"""A small HTTP server with injected faults, for the tests of downloads."""

import base64
import http.server
import re
import threading
import time
from collections import defaultdict
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


class Mirror:
    """Serve the files of `folder` on a free port of the loopback interface; a context manager.

    `faults[name]` lists the faults of the next requests for this file, one each: an HTTP status, 'drop' (half of the
    data, then the connection breaks), 'truncate' (half of the data, declared as complete), 'short' (less of the range
    than requested, declared correctly), 'wrong' (other bytes), 'page' (a web page) or 'busy' (503, to be repeated after
    7 s). Requests for one byte, which only
    ask for the size, can only have statuses. `requests` contains (name, Range, Authorization) of all requests,
    `encodings` their Accept-Encoding. `size` replaces the sizes that the server states.
    """

    def __init__(self, folder: Path, user: str = "", password: str = "", key: str = "", ranges: bool = True,
                 redirect: str = "", size: int = 0, rate: float = 0.0) -> None:  # fmt: skip
        self.folder, self.key, self.ranges, self.redirect = folder, key, ranges, redirect
        self.size, self.rate = size, rate  # bytes, and bytes per second of each answer
        self.authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode() if user else ""
        self.faults: dict[str, list[str | int]] = defaultdict(list)
        self.requests: list[tuple] = []
        self.encodings: set[str | None] = set()

    def __enter__(self) -> "Mirror":
        handler = type("Handler", (_Handler,), {"mirror": self})
        self.server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Print nothing about closed connections of killed clients and of requests for a size."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mirror: Mirror

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        mirror, address = self.mirror, urlsplit(self.path)
        query = parse_qs(address.query)
        name = query["file"][0] if "file" in query else unquote(address.path).lstrip("/")
        asked, path = self.headers["Range"], mirror.folder / name
        mirror.requests.append((name, asked, self.headers["Authorization"]))
        mirror.encodings.add(self.headers["Accept-Encoding"])
        if mirror.redirect:
            return self.answer(302, headers={"Location": f"{mirror.redirect}/{name}"})
        if mirror.authorization and self.headers["Authorization"] != mirror.authorization:
            return self.answer(401)
        if mirror.key and query.get("key") != [mirror.key]:
            return self.answer(403, reason=f"no such key {query.get('key')}")  # a server that repeats the key
        if not path.is_file():
            return self.answer(404)
        faults = mirror.faults[name]
        if faults and (asked != "bytes=0-0" or isinstance(faults[0], int)):
            return self.fail(faults.pop(0), path, asked)
        self.send_file(path.read_bytes(), asked)

    def send_file(self, data: bytes, asked: str | None, sent: float = 1.0) -> None:
        """Answer with the requested bytes, or with a share of them and a broken connection."""
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "") if self.mirror.ranges else None
        size = self.mirror.size or len(data)
        if not found:
            return self.answer(200, data, {"Content-Length": size}, sent)
        first, last = int(found[1]), int(found[2] or len(data) - 1)
        if first >= len(data):
            return self.answer(416, headers={"Content-Range": f"bytes */{size}"})
        self.answer(206, data[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{size}"}, sent)

    def fail(self, fault: int | str, path: Path, asked: str | None) -> None:
        data = path.read_bytes()
        if isinstance(fault, int):
            self.answer(fault)
        elif fault == "busy":
            self.answer(503, headers={"Retry-After": 7})
        elif fault == "drop":
            self.send_file(data, asked, sent=0.5)
        elif fault == "truncate":
            self.answer(200, data[: len(data) // 2])
        elif fault == "short":
            self.send_file(data, f"{asked}{len(data) // 2}")
        elif fault == "wrong":
            self.answer(200, bytes(byte ^ 1 for byte in data))
        elif fault == "page":
            self.answer(200, b"<html>sign in</html>", {"Content-Type": "text/html"})

    def answer(self, status: int, data: bytes = b"", headers: dict | None = None, sent: float = 1.0,
               reason: str | None = None) -> None:  # fmt: skip
        self.send_response(status, reason)
        for header, value in {"Content-Length": len(data), **(headers or {})}.items():
            self.send_header(header, str(value))
        self.end_headers()
        for start in range(0, int(len(data) * sent), 1 << 16):
            self.wfile.write(data[start : min(start + (1 << 16), int(len(data) * sent))])
            time.sleep(self.mirror.rate and 65536 / self.mirror.rate)
        if sent < 1:
            self.close_connection = True
