"""License files that contradict the pool's: the same sequence number, other content.

May import the rest of the core. The pool keeps its own file; the server that found
another says so, and every server shows it until that server's file is settled or the pool
has a newer one. Source: pool protocol, section 8.
"""

from __future__ import annotations

from licraft.core.commands import LicenseConflict
from licraft.core.outcomes import DONE, OVERTAKEN, Outcome
from licraft.core.state import PoolState


def note_conflict(state: PoolState, command: LicenseConflict) -> Outcome:
    """Remember, or with an empty digest forget, what a server's own file has in it."""
    server = state.servers.get(command.server)
    if server is None:
        return OVERTAKEN
    if not command.sha256:
        server.license_conflict = ""
        return DONE
    pools = state.license
    if command.sequence != pools.sequence or command.sha256 == pools.sha256:
        return OVERTAKEN
    server.license_conflict = command.sha256
    return DONE


def settle_conflicts(state: PoolState) -> None:
    """The pool has a newer license file: what contradicted the one before is only old now."""
    for server in state.servers.values():
        server.license_conflict = ""


def conflicts(state: PoolState) -> dict[str, str]:
    """SHA-256 of the contradicting license file by server, in priority order."""
    servers = state.servers.values()
    return {s.name: s.license_conflict for s in servers if s.license_conflict}
