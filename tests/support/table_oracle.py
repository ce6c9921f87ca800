"""Who holds what of one feature on which server, and by which tokens: dicts, and nothing else.

May import the standard library only. `apply` never sees these records: it is compared with
them, and must not take a seat from anybody who is in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Holders:
    """The servers' records, and what their clients know.

    `home` is where each authorization is. `old` has the tokens from before its moves that its
    client may still hold, by (id, server) with the log index at which it left there.
    """

    records: dict[str, dict[str, int]]
    home: dict[str, str] = field(default_factory=dict)
    old: dict[tuple[str, str], int] = field(default_factory=dict)

    def in_use(self, server: str) -> int:
        """The seats of a server on which somebody relies."""
        return sum(self.records[server].values())

    def at(self, servers: Iterable[str]) -> list[str]:
        """The authorizations of some servers."""
        return sorted(id for server in servers for id in self.records[server])

    def grant(self, id: str, server: str, count: int) -> None:
        """Somebody holds seats from now on."""
        assert id not in self.home
        self.home[id] = server
        self.records[server][id] = count

    def end(self, id: str) -> None:
        """Its client relies on it no more, by whatever token."""
        del self.records[self.home.pop(id)][id]
        self.old = {key: index for key, index in self.old.items() if key[0] != id}

    def move(self, id: str, to: str, index: int) -> None:
        """It is at another server from a log index on; what its client holds is of before."""
        home = self.home[id]
        self.records[to][id] = self.records[home].pop(id)
        self.old[id, home] = index
        self.old.pop((id, to), None)
        self.home[id] = to

    def reclaim(self, server: str, down_index: int) -> None:
        """Nobody relies any more on what a server granted that is down since that index.

        So long ago is whatever moved before: no client holds a token of then.
        """
        for id in list(self.records[server]):
            self.end(id)
        self.old = {
            key: left for key, left in self.old.items() if left > down_index and key[1] != server
        }

    def forget(self, index: int) -> None:
        """No client holds a token from before a log index."""
        self.old = {key: left for key, left in self.old.items() if left > index}


@dataclass(frozen=True)
class Numbers:
    """What a feature was before a command, to be compared with what it is after it."""

    entitled: int
    goal: int
    deployed: int
    retiring: int
    parts: dict[str, int]
