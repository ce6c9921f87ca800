"""The small contract between a pool's state machine and whatever replicates it.

May import `errors`. Nothing above this room names PySyncObj: another engine
must be able to take its place, and `local_engine` does in unit tests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
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
class Members:
    """Who takes part since log index `index`: names -> peer addresses, `host:port`.

    `voters` count in majorities, and are in order of leader priority; `learners` get the log
    and count nowhere: they are joining or leaving.
    """

    index: int
    voters: Mapping[str, str]
    learners: Mapping[str, str]

    @property
    def addresses(self) -> dict[str, str]:
        """Every server's peer address."""
        return {**self.voters, **self.learners}


class Roster(Protocol):
    """The part of the replicated state that says who takes part; a function of the log."""

    @property
    def members_index(self) -> int:
        """Log index of the last change of members; 0 before the first."""
        ...

    def members(self) -> Members | None:
        """Who takes part, or None while the log has not said: then a configuration counts."""
        ...

    def voters_after(self, command: bytes) -> frozenset[str] | None:
        """The voters if `command` were applied now; None if it is not a change of members."""
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
    caught_up: frozenset[str] = frozenset()  # learners with nearly the whole log, at the leader
    # When the certificates expire that are known here, by server, in seconds since 1970.
    certificate_ends_s: Mapping[str, float] = field(default_factory=dict)
    turned_away: str = ""  # why another server refuses this one, if one does and none is there


class Engine(Protocol):
    """Commits commands in one order on every server."""

    async def propose(self, command: bytes, timeout_s: float) -> object:
        """Commit a command and return what applying it here returned.

        Raises NotExecuted when it will certainly never be applied, OutcomeUnknown
        when that cannot be known within `timeout_s`. At most MAX_COMMAND_BYTES.
        """
        ...

    async def change_members(self, command: bytes, timeout_s: float) -> object:
        """Commit a command that changes the members, as `propose` does; one at a time.

        Raises NotExecuted also while another change is under way, when no majority of the
        servers that would remain is there, and when the leader hands over first since it is
        to be removed: try again.
        """
        return await self.propose(command, timeout_s)

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
