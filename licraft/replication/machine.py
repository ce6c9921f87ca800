"""The replicated object: the pool's state machine, hung on PySyncObj by one method.

May import pysyncobj and `engine`. It knows no command and no state: both are bytes that
the state machine alone understands.
"""

from __future__ import annotations

from pysyncobj import SyncObjConsumer, replicated

from licraft.errors import InvariantBroken
from licraft.replication.engine import StateMachine


class ReplicatedMachine(SyncObjConsumer):  # type: ignore[misc]  # PySyncObj has no types
    """A state machine with exactly one replicated method (S12).

    PySyncObj numbers replicated methods by their rank in a sorted list, so a second
    method would change the meaning of logs that exist: there is one, and what it is
    told to do is in the command's own versioned bytes.
    """

    def __init__(self, machine: StateMachine) -> None:
        self._machine = machine
        super().__init__()

    @replicated  # type: ignore[untyped-decorator]  # PySyncObj has no types
    def execute(self, command: bytes) -> object:
        """Apply a committed command at the next log index; returns what the machine returns."""
        index: int = self._syncObj.raftLastApplied + 1
        return self._machine.apply(index, command)

    def _serialize(self) -> bytes:
        """The state after the last applied index, for a snapshot."""
        return self._machine.snapshot()

    def _deserialize(self, data: tuple[int, bytes]) -> None:
        """Replace the state by that of a snapshot: its last index, its state."""
        index, state = data
        if not isinstance(state, bytes):
            raise InvariantBroken(f"snapshot at index {index} holds no bytes")
        self._machine.restore(index, state)
