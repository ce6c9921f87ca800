"""check(state): what must hold of the replicated state after every entry.

May import `state`. A fault here is a broken invariant: the process must stop.
"""

from __future__ import annotations

from collections.abc import Iterator

from licraft.core.state import PoolState, ServerState, ServerStatus
from licraft.core.table import FeaturePool


def check(state: PoolState) -> list[str]:
    """Every contradiction in the state, one line each; empty if there is none."""
    pools = state.table.features.values()
    faults = [fault for pool in pools if (fault := pool.fault())]
    for pool in pools:
        faults += _holders(state, pool)
    for name, server in state.servers.items():
        if server.name != name:
            faults.append(f"{name}: filed under another server's name")
        faults += _standing(server)
        faults += _moves(state, server)
    if broken := state.audit.fault():
        faults.append(broken)
    if state.formed and not state.voters:
        faults.append("no server of the pool counts in a majority")
    first = state.preferred_leader
    if first and (first not in state.servers or not state.servers[first].grants):
        faults.append(f"{first} is to lead, and does not grant")
    return faults


def _standing(server: ServerState) -> Iterator[str]:
    """A server is down by one entry, reclaimed only then, and drains because it was drained."""
    name, status = server.name, server.status
    if (status is ServerStatus.DOWN) != (server.down_index > 0):
        yield f"{name}: {status} with down index {server.down_index}"
    if server.reclaimed and status is not ServerStatus.DOWN:
        yield f"{name}: reclaimed while {status}"
    if server.acts and (status is ServerStatus.DRAINING) is not server.drained:
        yield f"{name}: {status} and {'' if server.drained else 'not '}drained"


def _holders(state: PoolState, pool: FeaturePool) -> Iterator[str]:
    """Seats are in the name of servers of the pool, and borrowed by those that grant."""
    for holder, count in pool.allocations.items():
        server = state.servers.get(holder)
        if server is None:
            yield f"{pool.feature}: held by {holder}, who is no server of the pool"
        elif count and server.drained and server.available:
            yield f"{pool.feature}: {count} left at {holder}, which is drained and available"
        elif count and server.status is ServerStatus.JOINING:
            yield f"{pool.feature}: {count} at {holder}, which has not joined yet"
    for borrower in pool.pending:
        if borrower not in state.servers or not state.servers[borrower].grants:
            yield f"{pool.feature}: borrowed by {borrower}, who does not grant"


def _moves(state: PoolState, server: ServerState) -> Iterator[str]:
    """What is gone from a server went to another, later than it had come, and ends somewhere.

    No move of an authorization is earlier than the one before it: so its way has no circle,
    and whoever follows it finds the one server that may have it, which knows when it came.
    """
    name = server.name
    if server.moved_index > state.index:
        yield f"{name}: moved at {server.moved_index}, after log index {state.index}"
    for id, (to, index) in server.gone.items():
        new = state.servers.get(to)
        if to == name or not 0 < index <= state.index:
            yield f"{name}: {id} gone to {to} at {index}, by log index {state.index}"
        elif new is None:
            if to not in state.past_names:
                yield f"{name}: {id} gone to {to}, who was never a server of the pool"
        elif new.moved_index < index:
            yield f"{name}: {id} gone to {to} at {index}, where the last came at {new.moved_index}"
        elif id in new.gone and new.gone[id][1] < index:
            yield f"{name}: {id} gone to {to} at {index}, and on from there before"
