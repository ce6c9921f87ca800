"""The replicated pool on this server: bytes from the log become state and events.

May import the core, the engine's values and `errors`. It stops the process (by
InvariantBroken) on a command of a version that it does not know and on a state that
contradicts itself: going on would make this server differ from the others, or issue a
seat twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import get_args

from licraft.core.apply import apply
from licraft.core.codec import CodecError, TooNew, decode_entry, decode_state, digest, encode_state
from licraft.core.commands import Entry, MembershipCommand, asked_for
from licraft.core.invariants import check
from licraft.core.membership import voters_after
from licraft.core.outcomes import AllocationsChanged, Applied
from licraft.core.state import PoolState
from licraft.errors import InvariantBroken
from licraft.replication.engine import Members

log = logging.getLogger(__name__)

_NOTHING = Entry("", 0, 0, ())
_CHANGES = get_args(MembershipCommand)


class ReplicatedPool:
    """The state machine that the engine replicates, and the roster in it.

    `state` is to be read, never written.
    """

    def __init__(self) -> None:
        self.state = PoolState()
        self.on_applied: Callable[[Applied], None] = _ignore
        self.on_restored: Callable[[], None] = _ignore_restore

    def apply(self, index: int, command: bytes) -> Applied:
        """Apply one committed entry and tell what changed."""
        try:
            entry = decode_entry(command)
        except TooNew as fault:
            raise InvariantBroken(
                f"log index {index}: {fault}; a newer licraft wrote it: upgrade this server"
            ) from fault
        except CodecError as fault:
            # No server of ours writes such an entry. It is in the log of all of them, and has
            # no effect on any: to stop would stop the whole pool, and again at every start.
            log.error("log index %d has no effect: %s", index, fault)
            entry = _NOTHING
        applied = apply(self.state, index, entry)
        for event in applied.events:
            if isinstance(event, AllocationsChanged):
                pool = self.state.table.features.get(event.feature)
                broken = pool.fault() if pool else None
                if broken:
                    raise InvariantBroken(f"log index {index}: {broken}")
        self.on_applied(applied)
        return applied

    @property
    def members_index(self) -> int:
        """Log index of the last change of members."""
        return self.state.members_index

    def members(self) -> Members | None:
        """Who takes part; None before the pool is formed."""
        state = self.state
        if not state.formed:
            return None
        servers = state.servers.values()
        return Members(
            state.members_index,
            {server.name: server.peer for server in servers if server.votes},
            {server.name: server.peer for server in servers if not server.votes},
        )

    def voters_after(self, command: bytes) -> frozenset[str] | None:
        """The voters if `command` were applied now; None unless it is one change of members."""
        try:
            entry = decode_entry(command)
        except CodecError:
            return None
        change = asked_for(entry.commands[0]) if len(entry.commands) == 1 else None
        return voters_after(self.state, change) if isinstance(change, _CHANGES) else None

    def snapshot(self) -> bytes:
        """The state in canonical bytes."""
        return encode_state(self.state)

    def restore(self, index: int, snapshot: bytes) -> None:
        """Replace the state by a snapshot taken after `index`."""
        try:
            state = decode_state(snapshot)
        except CodecError as fault:
            raise InvariantBroken(f"snapshot of log index {index}: {fault}") from fault
        faults = check(state)
        if faults:
            raise InvariantBroken(f"snapshot of log index {index}: {'; '.join(faults)}")
        self.state = state
        self.on_restored()

    def digest(self) -> str:
        """The state's SHA-256; at one index the same on every server."""
        return digest(self.state)


def _ignore(applied: Applied) -> None:
    """Nobody listens yet."""


def _ignore_restore() -> None:
    """Nobody listens yet."""
