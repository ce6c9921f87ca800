"""Everything that a peer or a client can make grow is small again when all is quiet.

Looked at once, after a run has settled: what was kept for somebody must be gone with him.
"""

from __future__ import annotations

from collections.abc import Iterator

from licraft.server.license_server import LicenseServer
from licraft.testing.pool import InProcessPool

MOST_ENTRIES = 1_000
"""A journal is cut when it has 150 entries more than its snapshot; meanwhile some come."""

MOST_WAITING = 64


def grown(pool: InProcessPool) -> Iterator[str]:
    """What has grown beyond its bound, in words."""
    for name in pool.running:
        for what, count, most in _sizes(pool, name, pool.server(name)):
            if count > most:
                yield f"{name} keeps {count} {what}, at most {most}"


def _sizes(pool: InProcessPool, name: str, server: LicenseServer) -> Iterator[tuple[str, int, int]]:
    desks = server.grants.desks.values()
    yield "authorizations", len(server.grants.record), 0
    yield "waiting requests", sum(len(desk.queue) for desk in desks), 0
    yield "commands to be proposed", len(server.proposer._queue) + len(server.proposer._batch), 0
    yield "pending borrows", sum(len(p.pending) for p in server.state.table.features.values()), 0
    yield "claims", len(server.moves._claims), 0
    yield "adoptions under way", len(server.moves._adoptions), 0
    yield "borrows that were asked for", len(server.leader._asked), MOST_WAITING
    member = pool.engine(name).member
    yield "log entries", len(member.journal), MOST_ENTRIES
    yield "proposals without an answer", len(member.proposals), MOST_WAITING
    replies = member.node._SyncObj__commandsWaitingReply
    yield "replies that are waited for", len(replies), MOST_WAITING
