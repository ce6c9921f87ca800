"""check(state): what must hold of the replicated state after every entry.

May import `state`. A fault here is a broken invariant: the process must stop.
"""

from __future__ import annotations

from licraft.core.state import PoolState, ServerStatus


def check(state: PoolState) -> list[str]:
    """Every contradiction in the state, one line each; empty if there is none."""
    faults = [fault for pool in state.table.features.values() if (fault := pool.fault())]
    for name, server in state.servers.items():
        if server.name != name:
            faults.append(f"{name}: filed under another server's name")
        if (server.status is ServerStatus.DOWN) != (server.down_index > 0):
            faults.append(f"{name}: {server.status} with down index {server.down_index}")
        if server.reclaimed and server.status is not ServerStatus.DOWN:
            faults.append(f"{name}: reclaimed while {server.status}")
    if state.formed and not state.voters:
        faults.append("no server of the pool counts in a majority")
    for pool in state.table.features.values():
        for holder in pool.allocations.keys() | pool.pending.keys():
            if holder not in state.servers:
                faults.append(f"{pool.feature}: held by {holder}, who is no server of the pool")
    return faults
