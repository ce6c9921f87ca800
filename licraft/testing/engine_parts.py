"""What stands in a simulated engine's real places: it does the same, and the checker sees it.

May import this room, `replication` and `errors`. Each part is handed what it needs, and
knows neither the network nor other servers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, cast

from licraft.errors import DataError, OutcomeUnknown
from licraft.replication.engine import Members
from licraft.replication.journal import DurableJournal
from licraft.replication.messages import Message, Piece
from licraft.replication.proposals import Proposal
from licraft.replication.snapshot import SnapshotStore
from licraft.testing.disk import MemoryDisk
from licraft.testing.engine_checker import Checker, Entry, chain
from licraft.testing.engine_roll import NOBODY, Roll, decode, is_change

POOL = "simulated"
DIRECTORY = Path("/simulated")
_DIGEST_BYTES = 32


class Machine:
    """A state machine whose state is a digest of all that was applied, and who takes part."""

    def __init__(
        self, server: str, checker: Checker, applied: Callable[[int], None], state_bytes: int
    ) -> None:
        """`applied` is told each index that is applied, that of a no-op too."""
        self.index = 1
        self.digest = b""
        self.roll = NOBODY
        self.on_restored: Callable[[], None] = _ignore
        self._server = server
        self._checker = checker
        self._applied = applied
        self._padding = bytes(state_bytes)

    def apply(self, index: int, command: bytes) -> int:
        """Apply a command; the entries before it that are not commands are no-ops."""
        if index <= self.index:
            raise self._checker.broken(f"{self._server} applies {index} after {self.index}")
        self.catch_up(index)
        self.digest = chain(self.digest, index, command)
        if self.digest != self._checker.history[index].digest:
            raise self._checker.broken(f"{self._server} has another state at {index}")
        self._follow(self.roll.after(index, command))
        return index

    def _follow(self, roll: Roll) -> None:
        """Take note of who takes part."""
        if roll is not self.roll:
            self.roll = roll
            self._checker.follows(self._server, roll)

    # Roster

    @property
    def members_index(self) -> int:
        """Log index of the last change of members."""
        return self.roll.index

    def members(self) -> Members | None:
        """Who takes part; None before the pool is formed."""
        return self.roll.members

    def voters_after(self, command: bytes) -> frozenset[str] | None:
        """The voters if `command` were applied now; None if it is not a change of members."""
        if not is_change(command):
            return None
        return frozenset(self.roll.after(self.index + 1, command).voters)

    # Snapshots.

    def catch_up(self, index: int) -> None:
        """Take note of all entries up to `index`: they are applied now."""
        while self.index < index:
            self.index += 1
            self._applied(self.index)

    def snapshot(self) -> bytes:
        """The digest, who takes part, and as much more as makes several pieces."""
        return self.digest + self.roll.encode() + self._padding

    def restore(self, index: int, snapshot: bytes) -> None:
        """Take over a state; it may not be older than the own one."""
        if index < self.index:
            raise self._checker.broken(f"{self._server} goes back from {self.index} to {index}")
        content = snapshot[: -len(self._padding)]
        self.index, self.digest = index, content[:_DIGEST_BYTES]
        self._checker.restored(self._server, index, self.digest)
        self._follow(decode(content[_DIGEST_BYTES:]))
        self.on_restored()


class WatchedJournal(DurableJournal):
    """A journal that tells the checker what is appended, and keeps what is truncated."""

    def __init__(self, server: str, checker: Checker, disk: MemoryDisk) -> None:
        self._appended = partial(checker.appended, server)
        self.truncated: list[Entry] = []
        super().__init__(DIRECTORY, POOL, server, disk)

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry."""
        previous = self[-1] if len(self) else None
        super().add(command, idx, term)
        self._appended((command, idx, term), previous)

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Truncate the log."""
        self.truncated += self[entryFrom:]
        super().deleteEntriesFrom(entryFrom)


class CarelessStore(SnapshotStore):
    """Snapshots as PySyncObj takes them: pieces without identity, failures swallowed (S8)."""

    _taken = b""

    def take_piece(self, node: Any, piece: Piece) -> bool:
        """Append whatever comes; the last piece counts as a snapshot taken."""
        self._taken = piece.data if piece.first else self._taken + piece.data
        if not piece.last:
            return False
        content, self._taken = self._taken, b""
        super().take_piece(node, Piece(content, True, True, piece.id, offset=0, total=len(content)))
        return True


class LyingDisk(MemoryDisk):
    """A disk that syncs files that are replaced, and never what is appended to a journal (S9)."""

    def sync_data(self, file: int) -> None:
        """Forget it."""


class Writing(Future[bytes]):
    """A snapshot on its way to the disk; who waits for it has it done at once."""

    def __init__(self, work: Callable[[], bytes]) -> None:
        super().__init__()
        self.work = work

    def finish(self) -> None:
        """Do it now, unless it is done."""
        if not self.done():
            try:
                self.set_result(self.work())
            except DataError as fault:
                self.set_exception(fault)

    def result(self, timeout: float | None = None) -> bytes:
        """What was written; raises DataError."""
        self.finish()
        return super().result(timeout)


class WatchedProposal(Proposal):
    """A proposal whose outcome the checker hears of."""

    __slots__ = ("_checker", "_on_success", "_server", "command")

    def __init__(
        self,
        server: str,
        checker: Checker,
        command: bytes,
        on_success: Callable[[str, bytes], None],
    ) -> None:
        # A future without a loop will do: nobody awaits it.
        super().__init__(cast("asyncio.Future[object]", Future()))
        self.command = command
        self._server = server
        self._checker = checker
        self._on_success = on_success

    def __call__(self, result: object, reason: int) -> None:
        """Be told the outcome by PySyncObj."""
        if self.future.done():
            return
        super().__call__(result, reason)
        fault = self.future.exception()
        if fault is None:
            self._checker.success(self._server, self.command, result)
            self._on_success(self._server, self.command)
        else:
            self._checker.failure(self._server, self.command, fault)

    def give_up(self) -> None:
        """Be told nothing before the deadline, or by a server that is gone."""
        if self.future.cancel():
            unknown = OutcomeUnknown("no outcome in time")
            self._checker.failure(self._server, self.command, unknown)


class Wire:
    """A member's connections in the shape of PySyncObj's Transport."""

    ready = True

    def __init__(self, say: Callable[[str, Message], bool]) -> None:
        """`say` keeps a message for a server until its turn is durable."""
        self._say = say
        self.on_message: Callable[[Any, Message], None] = _ignore
        self.on_connected: Callable[[Any], None] = _ignore
        self.on_disconnected: Callable[[Any], None] = _ignore

    def send(self, node: Any, message: Message) -> bool:
        """Send a message; whether the server is connected."""
        return self._say(node.id, message)

    def setOnMessageReceivedCallback(self, callback: Callable[[Any, Message], None]) -> None:
        """Who hears messages."""
        self.on_message = callback

    def setOnNodeConnectedCallback(self, callback: Callable[[Any], None]) -> None:
        """Who hears of new connections."""
        self.on_connected = callback

    def setOnNodeDisconnectedCallback(self, callback: Callable[[Any], None]) -> None:
        """Who hears of ended connections."""
        self.on_disconnected = callback

    def setOnReadonlyNodeConnectedCallback(self, callback: object) -> None:
        """There are no such nodes."""

    def setOnReadonlyNodeDisconnectedCallback(self, callback: object) -> None:
        """There are no such nodes."""

    def setOnUtilityMessageCallback(self, message: str, callback: object) -> None:
        """There are no such messages."""


def _ignore(*_: object) -> None:
    """Nobody listens yet."""
