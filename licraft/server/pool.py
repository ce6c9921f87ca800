"""The replicated pool on this server: bytes from the log become state and events.

May import the core and `errors`. It stops the process (by InvariantBroken) on a command
it does not know and on a state that contradicts itself: going on would make this server
differ from the others, or issue a seat twice.
"""

from __future__ import annotations

from collections.abc import Callable

from licraft.core.apply import apply
from licraft.core.codec import CodecError, decode_entry, decode_state, digest, encode_state
from licraft.core.invariants import check
from licraft.core.outcomes import AllocationsChanged, Applied
from licraft.core.state import PoolState
from licraft.errors import InvariantBroken


class ReplicatedPool:
    """The state machine that the engine replicates; `state` is to be read, never written."""

    def __init__(self) -> None:
        self.state = PoolState()
        self.on_applied: Callable[[Applied], None] = _ignore
        self.on_restored: Callable[[], None] = _ignore_restore

    def apply(self, index: int, command: bytes) -> Applied:
        """Apply one committed entry and tell what changed."""
        try:
            entry = decode_entry(command)
        except CodecError as fault:
            raise InvariantBroken(
                f"log index {index}: {fault}; a newer licraft wrote it: upgrade this server"
            ) from fault
        applied = apply(self.state, index, entry)
        for event in applied.events:
            if isinstance(event, AllocationsChanged):
                pool = self.state.table.features.get(event.feature)
                broken = pool.fault() if pool else None
                if broken:
                    raise InvariantBroken(f"log index {index}: {broken}")
        self.on_applied(applied)
        return applied

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
