"""The leader priority list: the order in which a client tries the servers (R26, R34).

May import `state`. Source: pool protocol, section 9.
"""

from __future__ import annotations

from dataclasses import dataclass

from licraft.core.state import PoolState, ServerState, ServerStatus

_ORDER = {
    ServerStatus.UP: 0,
    ServerStatus.DRAINING: 1,
    ServerStatus.NEW: 2,
    ServerStatus.DOWN: 3,
}
_CHANGES = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """One place of the list."""

    name: str
    api: str
    leads: bool
    status: ServerStatus


def priority_list(state: PoolState, leader: str | None) -> list[Place]:
    """The leader, then the servers that are up in priority order, then the others.

    A leader that drains, or is not up, is one of the others: it grants nothing. One that is
    joining is of no use to a client yet; one that is leaving counts as draining.
    """
    places = [
        Place(server.name, server.api, server.name == leader, _status(server))
        for server in state.servers.values()
        if server.status is not ServerStatus.JOINING
    ]
    return sorted(places, key=lambda place: (_ORDER[place.status], not place.leads))


def _status(server: ServerState) -> ServerStatus:
    """What a server is to a client."""
    return ServerStatus.DRAINING if server.removing and server.acts else server.status


def list_version(state: PoolState, leader: str | None, raft_term: int) -> int:
    """A number that grows with every change of the list, on whichever server it is asked."""
    return (raft_term * 2 + (leader is not None)) * _CHANGES + state.membership % _CHANGES
