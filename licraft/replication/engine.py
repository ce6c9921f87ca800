"""The small contract between a pool's state machine and whatever replicates it.

May import `errors`. Nothing above this room names PySyncObj: another engine
must be able to take its place, and `local_engine` does in unit tests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

MAX_COMMAND_BYTES = 4 * 1024 * 1024

AskHandler = Callable[[str, bytes], Awaitable[bytes]]
"""Answers another server's question: (server that asks, body) -> body."""


class StateMachine(Protocol):
    """What is replicated: a deterministic function of the log, total on any bytes."""

    def apply(self, index: int, command: bytes) -> object:
        """Apply the committed command at log index `index`; what it returns goes to its proposer.

        Called once for each index, in order, on every server. It reads no clock,
        file or random source, and raises only when the process must stop.
        """
        ...

    def snapshot(self) -> bytes:
        """The whole state after the last applied index, in canonical bytes."""
        ...

    def restore(self, index: int, snapshot: bytes) -> None:
        """Replace the state by a snapshot taken after log index `index`."""
        ...


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The engine as this server sees it: hints, not proofs; leases decide what may be done."""

    server: str
    leader: str | None
    term: int
    commit_index: int
    applied_index: int
    leads: bool  # this server is the leader and has applied an entry of its own term
    connected: frozenset[str]  # the other servers with a live peer connection


class Engine(Protocol):
    """Commits commands in one order on every server."""

    async def propose(self, command: bytes, timeout_s: float) -> object:
        """Commit a command and return what applying it here returned.

        Raises NotExecuted when it will certainly never be applied, OutcomeUnknown
        when that cannot be known within `timeout_s`. At most MAX_COMMAND_BYTES.
        """
        ...

    async def ask(self, server: str, body: bytes, timeout_s: float) -> bytes:
        """Ask one other server's `AskHandler`, outside the log; raises PeerUnreachable."""
        ...

    def status(self) -> EngineStatus:
        """The engine now."""
        ...

    async def transfer(self, server: str) -> None:
        """Hand leadership to another server; raises NotExecuted if this cannot be tried."""
        ...

    async def close(self) -> None:
        """Stop taking part; durable state is closed in order."""
        ...
