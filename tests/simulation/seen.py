"""What a run of a simulated pool has really exercised, counted from its log.

May import this room and the core. It judges nothing: a simulation in which a thing never
happens finds nothing wrong with it, so the tests ask these counters.
"""

from __future__ import annotations

from collections import Counter

from licraft.core.commands import (
    Adopt,
    Claim,
    Command,
    Drain,
    ForgetMoves,
    HandOver,
    ServerDown,
    ServerUp,
)
from licraft.core.state import PoolState, ServerState, ServerStatus
from licraft.server.license_server import LicenseServer
from licraft.testing.pool import InProcessPool
from simulation.holders import Holders


class Seen:
    """Counts what happens, from each entry that is proposed and applied."""

    def __init__(self, pool: InProcessPool, holders: Holders) -> None:
        self._pool = pool
        self._holders = holders
        self._terms: dict[bytes, int] = {}
        self._claims: dict[str, tuple[str, float]] = {}
        self._gone: set[tuple[str, str]] = set()
        self._full: set[str] = set()
        self._draining: set[str] = set()
        self.counts: Counter[str] = Counter()

    def proposed(self, entry: bytes) -> None:
        """A server proposes an entry, perhaps again."""
        self._terms.setdefault(entry, self._pool.log.view.term)

    def committed(self, index: int, commands: tuple[Command, ...], state: PoolState) -> None:
        """The foremost server has applied an entry; `state` is what that made of its state."""
        counts = self.counts
        for pool in state.table.features.values():
            counts["over"] += pool.over > 0
            counts["borrow pending"] += bool(pool.pending)
        counts["down"] += any(s.status is ServerStatus.DOWN for s in state.servers.values())
        counts["reclaimed"] += any(s.reclaimed for s in state.servers.values())
        entry = self._pool.log.entry(index) if commands else None
        deposed = self._terms.pop(entry or b"", self._pool.log.view.term) < self._pool.log.view.term
        for command in commands:
            match command:
                case Adopt():
                    self._adopted(index, command, state, deposed)
                case HandOver():
                    self._handed_over(index, command, state, deposed)
                case Claim(id=id, issuer=issuer):
                    self._claims[id] = issuer, self._pool.now()
                case ServerDown(server=server) if server in state.servers:
                    if state.servers[server].down_index == index:
                        self._interrupted(server, "down during a claim")
                case ServerUp(server=server, incarnation=incarnation) if server in state.servers:
                    if state.servers[server].incarnation == incarnation:
                        self._interrupted(server, "back during a claim")
                case ForgetMoves():
                    self._forgot(state)
                case Drain(server=server, on=on):
                    (self._draining.add if on else self._draining.discard)(server)
        self._emptied(state)
        if any(isinstance(command, Adopt | HandOver | ForgetMoves) for command in commands):
            self._gone = {(s.name, id) for s in state.servers.values() for id in s.gone}

    def came_up(self, server: LicenseServer) -> None:
        """A server has just applied that it is up, and decided what it knows of its record."""
        if server.standing.recovering_s():
            self.counts["came back and recovers"] += 1
        elif len(server.grants.record):
            self.counts["came back with its record"] += 1

    def _adopted(self, index: int, command: Adopt, state: PoolState, deposed: bool) -> None:
        issuer = state.servers.get(command.issuer)
        if issuer is None:
            return
        if issuer.gone.get(command.id) == (command.server, index):
            self._moved("adopted", command.count, deposed)
        elif (command.issuer, command.id) in self._gone:
            self.counts["asked to adopt what had gone"] += 1
        elif issuer.acts or issuer.down_index != command.down_index:
            self.counts["asked to adopt when its issuer was back"] += 1
        elif issuer.reclaimed:
            self.counts["asked to adopt what was reclaimed"] += 1

    def _handed_over(self, index: int, command: HandOver, state: PoolState, deposed: bool) -> None:
        self._claims.pop(command.id, None)
        issuer = state.servers.get(command.issuer)
        if not command.count:
            self.counts["claimed in vain"] += 1
        if (
            not command.count
            or issuer is None
            or issuer.gone.get(command.id) != (command.server, index)
        ):
            return
        self._moved("handed over", command.count, deposed)
        running = self._pool.running
        if issuer.status is ServerStatus.DRAINING:
            self.counts["handed over while draining"] += 1
        elif issuer.name in running and self._pool.server(issuer.name).standing.stopping:
            self.counts["handed over while stopping"] += 1

    def _moved(self, how: str, count: int, deposed: bool) -> None:
        self.counts[f"{how} in the log"] += 1
        self.counts[f"{how}, three seats at once"] += count == 3
        self.counts[f"{how} under another leader than it was begun"] += deposed

    def _interrupted(self, server: str, what: str) -> None:
        """What a server was asked for lately, and has not answered, when it went or came."""
        since_s = self._pool.now() - 2 * self._pool.lease_s
        for id, (issuer, asked_s) in list(self._claims.items()):
            if issuer == server or asked_s < since_s:
                del self._claims[id]
                self.counts[f"issuer {what}"] += issuer == server and asked_s >= since_s

    def _forgot(self, state: PoolState) -> None:
        """Moves are forgotten: of what ended long ago, or of what is still held."""
        left = {(s.name, id) for s in state.servers.values() for id in s.gone}
        over = self._gone - left
        self._holders.forgotten |= over
        self.counts["moves forgotten"] += len(over)
        self.counts["moves forgotten of what is held"] += sum(
            self._holders.relies(id) for _, id in over
        )

    def _emptied(self, state: PoolState) -> None:
        """A drained server that acts has given its last seat away."""
        for name in sorted(self._draining & state.servers.keys()):
            server = state.servers[name]
            if _has_seats(state, server):
                self._full.add(name)
            elif name in self._full:
                self._full.discard(name)
                self.counts["emptied while draining"] += server.acts


def _has_seats(state: PoolState, server: ServerState) -> bool:
    return any(pool.allocations.get(server.name) for pool in state.table.features.values())
