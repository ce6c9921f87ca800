"""Seats that nobody relies on go to who borrows them, in the order of the protocol.

May import the rest of the core but `apply`, whose rules call these. What happened is told
by events. Source: pool protocol, section 6; claims B5, B14, B33.
"""

from __future__ import annotations

from licraft.core.commands import Reason, Source
from licraft.core.outcomes import AllocationsChanged, BorrowEnded, Event, SeatsBorrowed
from licraft.core.state import PoolState
from licraft.core.table import FeaturePool, PendingBorrow


def empty(state: PoolState, server: str, events: list[Event]) -> None:
    """Put all seats in the name of a server on which nobody relies into the free pool."""
    for pool in state.table.features.values():
        if pool.give_back(server, state.available()):
            events.append(AllocationsChanged(pool.feature))
            serve(state, pool, events)


def drop_borrows(state: PoolState, server: str, events: list[Event]) -> None:
    """What a server asked for is void once it is down or back again."""
    for pool in state.table.features.values():
        borrow = pool.pending.get(server)
        if borrow is not None:
            drop(pool, borrow, events)


def drop(pool: FeaturePool, borrow: PendingBorrow, events: list[Event]) -> None:
    """End a borrow that has nothing to hope for, and say so."""
    del pool.pending[borrow.server]
    events.append(BorrowEnded(pool.feature, borrow.server, borrow.id, exhausted=False))


def serve(state: PoolState, pool: FeaturePool, events: list[Event]) -> None:
    """Seats that became available go where they are meant to be, then to who waits longest."""
    if pool.settle(state.deployable, state.available()):
        events.append(AllocationsChanged(pool.feature))
    for borrow in sorted(pool.pending.values(), key=lambda b: (b.since, b.server)):
        if borrow.reason is Reason.REQUEST or borrow.leader_gave:
            draw(state, pool, borrow, events)


def draw(state: PoolState, pool: FeaturePool, borrow: PendingBorrow, events: list[Event]) -> int:
    """Take from the free pool, then from servers that are down and reclaimed (B5, B14)."""
    moved = 0
    for source in ("", *state.available()):
        if borrow.want and source != borrow.server:
            count = pool.free if not source else pool.lendable(source)
            kind = Source.DOWN if source else Source.FREE
            moved += give(pool, borrow, source, count, kind, events)
    return moved


def give(
    pool: FeaturePool,
    borrow: PendingBorrow,
    giver: str,
    count: int,
    source: Source,
    events: list[Event],
) -> int:
    """Move up to `count` seats to a borrow; it ends when it has all it wants."""
    count = min(count, borrow.want, pool.room(borrow.server))
    if not count:
        return 0
    pool.move(giver, borrow.server, count)
    borrow.want -= count
    borrow.need = max(0, borrow.need - count)
    borrow.got[source] = borrow.got.get(source, 0) + count
    events.append(AllocationsChanged(pool.feature))
    events.append(
        SeatsBorrowed(pool.feature, borrow.server, borrow.id, borrow.reason, source, count)
    )
    if not borrow.want:
        drop(pool, borrow, events)
    return count
