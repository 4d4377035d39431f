"""Large files over HTTP: several at once, resumed after any interruption, checked before they get their name."""

import functools
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

from corpora.servers import Download, Server
from system import console
from system.console import UserError
from system.files import check_room, digest

LONGEST_PAUSE = 60  # seconds between two attempts


def with_md5(name: str, md5: str) -> Download:
    """Return a file to fetch that must have this MD5."""

    def check(path: Path) -> str | None:
        found = digest(path, "md5")
        return None if found == md5 else f"MD5 {found} where {md5} is listed"

    return Download(name, check)


def download_files(files: Sequence[Download], server: Server, folder: Path, jobs: int, retries: int) -> None:
    """Bring files into `folder`, `jobs` at a time; those that are there are not asked for again.

    A file grows as NAME.partial and gets its name when its check is passed, so a name means a whole, checked file.
    One that fails the check is kept as NAME.bad and fetched once more. A dropped connection or a server's error is
    retried with growing pauses, up to `retries` times without a byte of progress. Raises UserError: refused, not
    found, too little disk (before the first byte), wrong twice, or unreachable.
    """
    from corpora.http_client import Client  # requests takes a tenth of a second to import, and few commands download

    folder.mkdir(parents=True, exist_ok=True)
    missing = [file for file in files if not (folder / file.name).exists()]
    client = Client(server, folder, jobs, retries, LONGEST_PAUSE)
    with ThreadPool(jobs) as threads:  # they are daemons: Ctrl-C ends the program at once, wherever they wait
        size = sum(threads.imap(client.size, missing))
        here = sum(client.held(file) for file in missing)
        check_room(folder, "the download", size - here)
        with console.progress_of_bytes(size, "download", here) as bar:
            failures = list(threads.imap(functools.partial(client.download, bar=bar), missing))
    if any(failures):
        raise UserError("; ".join(filter(None, failures)))
