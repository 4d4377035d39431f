"""The servers of VoxCeleb; a key, password or token is sent to its own server only and is never printed."""

import base64
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from system.console import UsageError

OFFICIAL = "https://cn01.mmai.io/download/voxceleb?file={name}"
HUGGING_FACE = "/datasets/ProgramComputer/voxceleb/resolve/main/{group}/{name}"
ASK_FOR_KEY = "ask for one at mm.kaist.ac.kr/datasets/voxceleb"
TRIAL_LISTS = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/{name}"

PARTIAL_SUFFIX, BAD_SUFFIX = ".partial", ".bad"  # of a file that is still growing, and of one that failed its check


class Download(NamedTuple):
    """A file to fetch."""

    name: str
    check: Callable[[Path], str | None] = lambda path: None  # says what is wrong with the file that came, if anything
    served: str = ""  # its name at the source, if another


@dataclass(frozen=True)
class Server:
    """A place that serves files by name.

    `pattern` is the address, {name} in it the file's name and {group} what comes before its first underscore.
    `headers` go to that host only. `advice` says what to do when the place refuses.
    """

    pattern: str = field(repr=False)
    advice: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def host(self) -> str:
        """The place's name, for messages."""
        return urlsplit(self.pattern).netloc

    def url(self, name: str) -> str:
        """Return a file's address; it may hold the key, so it is never to be shown."""
        return self.pattern.replace("{group}", quote(name.partition("_")[0])).replace("{name}", quote(name))

    def scrub(self, text: str) -> str:
        """Return a text, such as a server's own words, without the secrets."""
        for secret in self.secrets:
            text = text.replace(secret, "***").replace(quote(secret, safe=""), "***")
        return text


def voxceleb_server(name: str, key: str | None, user: str | None, password: str | None) -> Server:
    """Return the source that --source names: official, huggingface, or the address of any mirror.

    VOXCELEB_KEY stands in for the official source's key, VOXCELEB_PASSWORD for a user's password; HF_TOKEN and
    HF_ENDPOINT apply to huggingface as they do to its own tools. Raises UsageError.
    """
    if name == "official":
        key = key or os.environ.get("VOXCELEB_KEY")
        if not key:
            raise UsageError(f"--source official needs --key (- asks for it) or VOXCELEB_KEY: {ASK_FOR_KEY}")
        return _with_key(OFFICIAL, key, f"the key is wrong or has expired: {ASK_FOR_KEY}")
    if name == "huggingface":
        token = os.environ.get("HF_TOKEN")
        pattern = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/") + HUGGING_FACE
        advice = "it may ask for an account: put a token of yours in HF_TOKEN"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return Server(pattern, advice, headers, (token,) if token else ())
    if not re.match(r"https?://[^/]", name):
        raise UsageError("--source is official, huggingface or the address of a mirror, http:// or https://")
    if "@" in urlsplit(name).netloc:
        raise UsageError("--source: give name and password by --user and --password, not within the address")
    pattern = name if "{name}" in name else f"{name.rstrip('/')}/{{name}}"
    if key:
        return _with_key(pattern, key, "check --key")
    if user:
        password = password or os.environ.get("VOXCELEB_PASSWORD")
        if not password:
            raise UsageError("--user needs --password (- asks for it) or VOXCELEB_PASSWORD")
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        advice = "check --user and --password (or VOXCELEB_PASSWORD)"
        return Server(pattern, advice, {"Authorization": f"Basic {pair}"}, (password, pair))
    return Server(pattern, "it wants --user and --password, or --key, as its owner gave them")


def _with_key(pattern: str, key: str, advice: str) -> Server:
    separator = "&" if "?" in pattern else "?"
    return Server(f"{pattern}{separator}key={quote(key, safe='')}", advice, secrets=(key,))
