"""The servers of VoxCeleb. A key, password or token is sent only to the server that it is for, and never printed."""

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

PARTIAL_SUFFIX, BAD_SUFFIX = ".partial", ".bad"  # of an unfinished download, and of a file that failed its check


class Download(NamedTuple):
    """A file to download."""

    name: str
    check: Callable[[Path], str | None] = lambda path: None  # returns an error message, None for a correct file
    served: str = ""  # its name on the server, if that differs


@dataclass(frozen=True)
class Server:
    """A server of files.

    `pattern` is the URL of a file: {name} stands for its name, {group} for the part of its name before the first
    underscore. `headers` are sent to this host only. `advice` is the hint in the error message if the server refuses.
    """

    pattern: str = field(repr=False)
    advice: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def host(self) -> str:
        """The host name, for messages."""
        return urlsplit(self.pattern).netloc

    def url(self, name: str) -> str:
        """Return the URL of a file, which may contain the key and must not be printed."""
        return self.pattern.replace("{group}", quote(name.partition("_")[0])).replace("{name}", quote(name))

    def scrub(self, text: str) -> str:
        """Return a text, such as an answer of the server, with the secrets replaced by ***."""
        for secret in self.secrets:
            text = text.replace(secret, "***").replace(quote(secret, safe=""), "***")
        return text


def voxceleb_server(name: str, key: str | None, user: str | None, password: str | None) -> Server:
    """Return the server for a value of --source: official, huggingface, or the URL of a mirror.

    Environment variables are the defaults: VOXCELEB_KEY of `key` for the official server, VOXCELEB_PASSWORD of
    `password` for a mirror with `user`. HF_TOKEN and HF_ENDPOINT have the same meaning as for Hugging Face's own tools.
    UsageError if a value is missing or wrong.
    """
    if name == "official":
        key = key or os.environ.get("VOXCELEB_KEY")
        if not key:
            raise UsageError(f"--source official needs --key (- asks for it) or VOXCELEB_KEY: {ASK_FOR_KEY}")
        return _with_key(OFFICIAL, key, f"the key is wrong or has expired: {ASK_FOR_KEY}")
    if name == "huggingface":
        token = os.environ.get("HF_TOKEN")
        pattern = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/") + HUGGING_FACE
        advice = "it may require an account: set HF_TOKEN to an access token"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return Server(pattern, advice, headers, (token,) if token else ())
    if not re.match(r"https?://[^/]", name):
        raise UsageError("--source: must be official, huggingface or the URL of a mirror, http:// or https://")
    if "@" in urlsplit(name).netloc:
        raise UsageError("--source: pass name and password by --user and --password, not within the URL")
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
    return Server(pattern, "it requires --user and --password, or --key, from its owner")


def _with_key(pattern: str, key: str, advice: str) -> Server:
    separator = "&" if "?" in pattern else "?"
    return Server(f"{pattern}{separator}key={quote(key, safe='')}", advice, secrets=(key,))
