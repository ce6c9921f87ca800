"""In which order a client tries the servers of its pool; and what an address may look like.

May import `errors`, `wire`, `clock` (the type) and the standard library. Does no
I/O and reads no clock by itself. Source: claims R8, R26; pool protocol, section 9.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import urlsplit

from licraft.client.clock import Clock
from licraft.errors import InvalidRequest
from licraft.wire import ServerEntry, ServerList

MAX_SERVERS = 16
MAX_URL_CHARS = 512
MAX_VERSION = 2**63 - 1
MAX_FAILED = 4 * MAX_SERVERS
SUSPECT_S = 5.0

_PORT_AT_HOST = re.compile(r"(\d{1,5})@(\[[0-9A-Fa-f:.%]+\]|[^\s:@\[\]/]+)")
_NAME = re.compile(r"[!-~]{1,128}")


def server_url(text: str) -> str:
    """The normal form `scheme://host[:port]` of a server's URL; raises InvalidRequest."""
    wrong = f"server {text[:80]!r}: expected a URL like http://host:7700"
    if len(text) > MAX_URL_CHARS or not text.isascii() or not text.isprintable():
        raise InvalidRequest(wrong)
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise InvalidRequest(f"{wrong} ({error})") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or " " in parts.netloc:
        raise InvalidRequest(wrong)
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise InvalidRequest(f"{wrong}, with nothing after the port and no user in it")
    if port == 0:
        raise InvalidRequest(f"{wrong}, with a port from 1 to 65535")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")


def server_urls(text: str) -> tuple[str, ...]:
    """The servers named by LICRAFT_SERVERS, as URLs; raises InvalidRequest.

    URLs separated by commas, or `port@host` separated by commas, colons or
    semicolons, as FlexNet's variables have it.
    """
    urls: list[str] = []
    for part in (part.strip() for part in re.split("[,;]", text)):
        if "://" in part:
            urls.append(server_url(part))
        elif part:
            urls.extend(_port_at_host(part))
    return _bounded(urls)


def given_urls(urls: Iterable[str]) -> tuple[str, ...]:
    """The normal forms of a program's own list, without repetitions; raises InvalidRequest."""
    if isinstance(urls, str):
        raise InvalidRequest("urls: expected a list of URLs, found one text")
    return _bounded([server_url(url) for url in urls])


def _bounded(urls: list[str]) -> tuple[str, ...]:
    unique = tuple(dict.fromkeys(urls))
    if not unique:
        raise InvalidRequest("no server named: give at least one URL like http://host:7700")
    if len(unique) > MAX_SERVERS:
        raise InvalidRequest(f"{len(unique)} servers named: at most {MAX_SERVERS} are possible")
    return unique


def _port_at_host(text: str) -> list[str]:
    """`7700@alpha:7701@beta` as URLs."""
    found = list(_PORT_AT_HOST.finditer(text))
    if ":".join(match.group(0) for match in found) != text:
        raise InvalidRequest(f"server {text[:80]!r}: expected http://host:port or port@host")
    return [server_url(f"http://{match.group(2)}:{match.group(1)}") for match in found]


class Routes:
    """The leader priority list as far as this client knows it, and who was of no use lately.

    The order is: where the seat is or the last good answer came from, so that
    connections stay warm and clients stay spread; then the pool's list, leader
    first; then the URLs that the program was given, which always stay as a way
    back. A server that did not answer, or sent the client away, goes to the end for
    a while, so that it costs its timeout once and not in every round. If that is so
    of all, the one of which it is longest ago comes first: each has its turn.
    """

    def __init__(self, given: Sequence[str]) -> None:
        self.given = given_urls(given)
        self.version = 0
        self.listed: tuple[str, ...] = ()
        self._named: dict[str, str] = {}
        self._preferred: str | None = None
        self._failed_at: dict[str, float] = {}
        self._secure_only = all(url.startswith("https://") for url in self.given)

    def adopt(self, servers: ServerList | None) -> bool:
        """Take a newer priority list; whether it was newer and usable.

        Entries that are not plain server URLs are left out, and so is plain
        HTTP when every given URL is HTTPS: an answer must not lead the access
        token onto an open wire.
        """
        if servers is None or not self.version < servers.version <= MAX_VERSION:
            return False
        if len(servers.list) > MAX_SERVERS:
            return False
        named = {entry.name: self._checked(entry) for entry in servers.list}
        usable = {name: url for name, url in named.items() if url is not None}
        if not usable:
            return False
        self.version = servers.version
        self.listed = tuple(dict.fromkeys(usable.values()))
        self._named = usable
        if self._preferred not in (*self.listed, *self.given):
            self._preferred = None
        return True

    def _checked(self, entry: ServerEntry) -> str | None:
        try:
            url = server_url(entry.url)
        except InvalidRequest:
            return None
        if not _NAME.fullmatch(entry.name) or (self._secure_only and url.startswith("http://")):
            return None
        return url

    def url_of(self, server: str | None) -> str | None:
        """Where the server of that name is, if the list has it."""
        return None if server is None else self._named.get(server)

    def prefer(self, url: str) -> None:
        """`url` served a request: it is the first to be asked next time."""
        self._preferred = url
        self.answered(url)

    def answered(self, url: str) -> None:
        """`url` gave a useful answer."""
        self._failed_at.pop(url, None)

    def failed(self, url: str, now: float) -> None:
        """`url` did not answer at `now`, or could not help."""
        self._failed_at.pop(url, None)
        self._failed_at[url] = now
        if len(self._failed_at) > MAX_FAILED:
            del self._failed_at[next(iter(self._failed_at))]

    def order(
        self,
        now: float,
        home: str | None = None,
        *,
        trust_home: bool = False,
        suspect_s: float = SUSPECT_S,
    ) -> tuple[str, ...]:
        """Every known server once, in the order in which to try them at `now`.

        `home` comes first; with `trust_home` even if it was of no use lately: a
        seat that was not yet refused there must not move for another call's sake.
        """
        first = home or self._preferred
        known = dict.fromkeys([*([first] if first else []), *self.listed, *self.given])
        trusted = home if trust_home else None

        def rank(url: str) -> tuple[bool, bool, float]:
            at = self._failed_at.get(url)
            suspected = at is not None and now < at + suspect_s
            return url != trusted, suspected, at if at is not None and suspected else 0.0

        return tuple(sorted(known, key=rank))

    def walk(
        self,
        clock: Clock,
        home: str | None = None,
        *,
        trust_home: bool = False,
        suspect_s: float = SUSPECT_S,
    ) -> Iterator[str]:
        """Server after server in the order of that moment, each once.

        A refusal may bring a newer list: what it adds is tried as well.
        """
        tried: set[str] = set()
        while len(tried) < 2 * MAX_SERVERS:
            order = self.order(clock(), home, trust_home=trust_home, suspect_s=suspect_s)
            url = next((url for url in order if url not in tried), None)
            if url is None:
                return
            tried.add(url)
            yield url
