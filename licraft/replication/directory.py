"""Who may connect to this server, and where they are: what it knows of the pool's members.

May import `engine` and `errors`. It holds names and addresses, no connections.

First it is the configuration's list, then what the log says (`Members`). A server that was
away does not have that part of the log yet, perhaps because only a server that it does not
know could send it: so servers tell each other whom they know, and the newest word counts
here. It counts for connections only: majorities are counted by what a server has applied.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from licraft.errors import SettingsError
from licraft.replication.engine import Members

MAX_NAMES = 16


class Directory:
    """The names and addresses of the pool's servers, by the newest word."""

    def __init__(self, server: str, configured: Mapping[str, str]) -> None:
        """`configured` maps names to peer addresses; raises SettingsError for a malformed one."""
        for address in configured.values():
            split_address(address)
        self._server = server
        self._configured = dict(configured)
        self._known = dict(configured)
        self._failures: dict[str, int] = {}
        self.index = 0

    @property
    def others(self) -> frozenset[str]:
        """All servers but this one."""
        return frozenset(self._known) - {self._server}

    @property
    def entries(self) -> list[tuple[str, str]]:
        """Names and addresses, to be told to others."""
        return list(self._known.items())

    def apply(self, members: Members) -> bool:
        """Follow the log; whether that was news, which it is not after newer hearsay."""
        return self._take(members.index, members.addresses)

    def hear(self, index: int, entries: Iterable[tuple[str, str]]) -> bool:
        """Follow another server's word; whether it was newer. Raises ValueError if malformed.

        A word of servers among whom this one is not is not followed: it may be back already
        in the log that it does not have.
        """
        addresses = dict(entries)
        if len(addresses) > MAX_NAMES:
            raise ValueError(f"a list of {len(addresses)} servers")
        try:
            for address in addresses.values():
                split_address(address)
        except SettingsError as fault:
            raise ValueError(str(fault)) from None
        return self._server in addresses and self._take(index, addresses)

    def address(self, server: str) -> str | None:
        """Where to try a server next: where the log says, or the configuration if that fails."""
        known = self._known.get(server)
        if known is None:
            return None
        places = list(dict.fromkeys([known, self._configured.get(server, known)]))
        return places[self._failures.get(server, 0) % len(places)]

    def failed(self, server: str) -> None:
        """A server was not where it was looked for."""
        self._failures[server] = self._failures.get(server, 0) + 1

    def _take(self, index: int, addresses: Mapping[str, str]) -> bool:
        if index <= self.index:
            return False
        self.index = index
        self._known = dict(addresses)
        self._failures.clear()
        return True


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`; raises SettingsError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise SettingsError("servers", [f"peer: {address!r} is not host:port"])
    return host.removeprefix("[").removesuffix("]"), int(port)
