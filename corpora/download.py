"""Download large files over HTTP: several at once, resumed after an interruption, checked before they are renamed."""

import functools
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

from corpora.servers import Download, Server
from system import console
from system.console import UserError
from system.files import check_free_space, digest

LONGEST_PAUSE = 60  # seconds between two attempts


def with_md5(name: str, md5: str) -> Download:
    """Return the download of a file with this MD5."""

    def check(path: Path) -> str | None:
        found = digest(path, "md5")
        return None if found == md5 else f"its MD5 is {found}, not {md5} as listed"

    return Download(name, check)


def download_files(files: Sequence[Download], server: Server, folder: Path, jobs: int, retries: int) -> None:
    """Download the files that `folder` does not contain yet, `jobs` at a time.

    An unfinished file is called NAME.partial; it is renamed after its check, so every file called NAME is complete and
    correct. A file that fails its check is kept as NAME.bad and downloaded once more. Dropped connections and errors of
    the server are retried with growing pauses, up to `retries` times in a row without a new byte. UserError if the
    server refuses, does not have a file or is unreachable, if a file is wrong twice, and, before the first byte, if the
    disk is too small.
    """
    from corpora.http_client import Client  # importing requests takes 0.1 s

    folder.mkdir(parents=True, exist_ok=True)
    missing = [file for file in files if not (folder / file.name).exists()]
    client = Client(server, folder, jobs, retries, LONGEST_PAUSE)
    with ThreadPool(jobs) as threads:  # daemons, so Ctrl-C stops the program at once
        size = sum(threads.imap(client.size, missing))
        n_downloaded = sum(client.n_downloaded(file) for file in missing)
        check_free_space(folder, "the download", size - n_downloaded)
        with console.progress_of_bytes(size, "download", n_downloaded) as bar:
            failures = list(threads.imap(functools.partial(client.download, bar=bar), missing))
    if any(failures):
        raise UserError("; ".join(filter(None, failures)))
