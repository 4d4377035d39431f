"""Measure memory and speed of dataprep.py --download and --extract.

    python -m benchmarks.archives
    python -m benchmarks.archives --gigabytes 0.2

Generates an archive, serves it in four parts on this machine and runs
dataprep.py. Prints a table and the same as one line of JSON. The peak memory
should not depend on the size. Needs three times the size of the archive in
--scratch.
"""

import argparse
import functools
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from system import console

MEMBER_BYTES = 200_000  # a wav of six seconds
BLOCK = 1 << 20  # bytes copied at a time
SCRIPT = Path(__file__).resolve().parent.parent / "dataprep.py"


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = console.Parser(__doc__)
    add = parser.add_argument_group("measurement").add_argument
    add("--gigabytes", type=float, default=2.0, metavar="GB", help="size of the archive in GB (default: 2)")
    add("--scratch", type=Path, metavar="DIR", help="folder of temporary files (default: the system's)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Generate, serve, download and extract an archive; print times and peak memory."""
    args = parse_args(argv)
    size = int(args.gigabytes * 1e9)
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        served, root = Path(scratch, "served"), Path(scratch, "root")
        generate(served, size)
        lists = ["--parts_list", str(served / "parts.txt")]
        with serve(served) as address:
            results = {
                "--download": run("--save_path", str(root), "--download", "--source", address, *lists),
                "--extract": run("--save_path", str(root), "--extract", *lists),
            }
    print(f"an archive of {size / 1e9:g} GB with {size // MEMBER_BYTES:,} members:")
    for step, (seconds, peak) in results.items():
        print(f"  {step:12}{seconds:7.1f} s   {size / 1e6 / seconds:6.0f} MB/s   peak memory {peak / 1e6:5.0f} MB")
    print(json.dumps({"bytes": size} | {step: {"seconds": s, "peak_bytes": p} for step, (s, p) in results.items()}))


def generate(folder: Path, size: int) -> None:
    """Write an archive of random members in four parts, and the list of the parts."""
    folder.mkdir()
    complete = folder / "complete.zip"
    with zipfile.ZipFile(complete, "w") as out:
        for index in console.progress(range(size // MEMBER_BYTES), desc="generate"):
            out.writestr(f"wav/id{index // 1000}/video/{index % 1000:05}.wav", os.urandom(MEMBER_BYTES))
    rows, blocks = [], -(-complete.stat().st_size // (4 * BLOCK))  # blocks of a part
    with open(complete, "rb") as data:
        for letter in "abcd":
            part, found = folder / f"vox1_dev_wav_parta{letter}", hashlib.md5()
            with open(part, "wb") as out:
                for block in itertools.islice(iter(functools.partial(data.read, BLOCK), b""), blocks):
                    found.update(block)
                    out.write(block)
            rows.append(f"{part.name} {found.hexdigest()}\n")
    complete.unlink()
    (folder / "parts.txt").write_text("".join(rows))


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Print nothing: a client that requests only the size of a file disconnects early."""


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine and yield its address."""
    server = _Server(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def run(*arguments: str) -> tuple[float, int]:
    """Run dataprep.py; return its seconds and its peak resident memory in bytes.

    Linux includes the memory of the parent at the start of the process, so this process must stay small.
    """
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, str(SCRIPT), *arguments], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise console.UserError(f"dataprep.py {' '.join(arguments)} failed")
    return time.perf_counter() - start, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    console.run(main)
