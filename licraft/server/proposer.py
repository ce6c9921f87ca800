"""Proposes this server's commands so that each takes effect once.

May import the core, the engine's contract and `errors`. Commands that must not take
effect twice are gathered into one sequenced entry at a time, which is proposed until its
fate is known: the replicated state knows its serial, so proposing it again is harmless.
Source: pool protocol, section 3 (`applied[server]`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine

from licraft.core.codec import encode_entry
from licraft.core.commands import Command, Entry, asked_for
from licraft.core.outcomes import Applied, Outcome
from licraft.core.state import PoolState
from licraft.core.versions import first_version
from licraft.errors import NotExecuted, OutcomeUnknown, Overloaded
from licraft.replication.engine import Engine

_ATTEMPT_S = 1.0
_PAUSE_S = 0.05
_BATCH = 64
_QUEUE = 10_000

Waiting = tuple[Command, "asyncio.Future[Outcome]"]


class Proposer:
    """One server's way into the log."""

    def __init__(self, server: str, engine: Engine, version: Callable[[], int]) -> None:
        """`version` tells the version of commands that the pool speaks (see `versions`)."""
        self._server = server
        self._version = version
        self._engine = engine
        self._incarnation = 0
        self._serial = 0
        self._queue: deque[Waiting] = deque()
        self._batch: list[Waiting] = []
        self._attempts: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, command: Command) -> asyncio.Future[Outcome]:
        """Commit a command once; the future raises NotExecuted if it never will be.

        It is resolved when the command is applied on this server, or when this server
        has come back as another incarnation, which makes it void.
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieve)
        if len(self._queue) >= _QUEUE:
            future.set_exception(Overloaded("too many commands wait to be committed"))
            return future
        if _since(command) > self._version():
            name = type(asked_for(command)).__name__
            why = f"{name} has to wait until every server of the pool is upgraded"
            future.set_exception(NotExecuted(why))
            return future
        self._queue.append((command, future))
        self._next()
        return future

    def attempt(self, *commands: Command, timeout_s: float = _ATTEMPT_S) -> asyncio.Task[None]:
        """Try once to commit commands that are harmless when repeated; failures are ignored.

        So are commands that not every server of the pool knows yet.
        """
        version = self._version()
        known = tuple(c for c in commands if _since(c) <= version)
        return self._spawn(self._try(Entry(self._server, self._incarnation, 0, known), timeout_s))

    async def change(self, command: Command, timeout_s: float) -> Outcome:
        """Commit a change of members, audited or not; raises NotExecuted or OutcomeUnknown."""
        entry = Entry(self._server, self._incarnation, 0, (command,))
        data = encode_entry(entry, self._version())
        applied = await self._engine.change_members(data, timeout_s)
        if not isinstance(applied, Applied):
            raise TypeError(f"the engine returned {applied!r} for a change of members")
        return applied.outcomes[0]

    def begin(self, incarnation: int) -> None:
        """Start numbering anew: what an earlier incarnation had proposed is void."""
        self._cancel()
        self._incarnation = incarnation
        self._serial = 0
        self._void(self._batch)
        self._batch = []
        self._void(self._queue)
        self._queue.clear()

    def note(self, applied: Applied) -> None:
        """See an entry applied; resolves the outstanding one if it is that."""
        if (
            self._batch
            and applied.server == self._server
            and applied.incarnation == self._incarnation
            and applied.serial == self._serial
        ):
            self._resolve(applied.outcomes)

    def note_restored(self, state: PoolState) -> None:
        """See the state replaced by a snapshot, which may include the outstanding entry."""
        server = state.servers.get(self._server)
        if (
            self._batch
            and server is not None
            and server.incarnation == self._incarnation
            and server.requests == self._serial
        ):
            self._resolve(server.results)

    def close(self) -> None:
        """Stop proposing; what is outstanding stays unknown and its waiters are told so."""
        self._cancel()
        for task in self._tasks:
            task.cancel()
        for _, future in (*self._batch, *self._queue):
            if not future.done():
                future.set_exception(OutcomeUnknown("the server is stopping"))
        self._batch = []
        self._queue.clear()

    def _next(self) -> None:
        """Propose what waits, if nothing is outstanding."""
        if self._batch or not self._queue or not self._incarnation:
            return
        while self._queue and len(self._batch) < _BATCH:
            self._batch.append(self._queue.popleft())
        self._serial += 1
        commands = tuple(command for command, _ in self._batch)
        entry = Entry(self._server, self._incarnation, self._serial, commands)
        self._attempts = self._spawn(self._until_known(encode_entry(entry, self._version())))

    async def _until_known(self, data: bytes) -> None:
        """Propose the same bytes until the entry is applied here; `note` ends it."""
        while True:
            try:
                await self._engine.propose(data, _ATTEMPT_S)
            except (NotExecuted, OutcomeUnknown):
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    async def _try(self, entry: Entry, timeout_s: float) -> None:
        if not entry.commands:
            return
        try:
            await self._engine.propose(encode_entry(entry, self._version()), timeout_s)
        except (NotExecuted, OutcomeUnknown):
            return

    def _resolve(self, outcomes: tuple[Outcome, ...]) -> None:
        batch, self._batch = self._batch, []
        self._cancel()
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if not future.done():
                future.set_result(outcome)
        self._next()

    def _void(self, waiting: deque[Waiting] | list[Waiting]) -> None:
        for _, future in waiting:
            if not future.done():
                future.set_exception(
                    NotExecuted("this server has come back as another incarnation")
                )

    def _cancel(self) -> None:
        if self._attempts is not None:
            self._attempts.cancel()
            self._attempts = None

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _since(command: Command) -> int:
    """The version that a pool must speak to understand a command and what is wrapped in it."""
    return max(first_version(type(command)), first_version(type(asked_for(command))))


def _retrieve(future: asyncio.Future[Outcome]) -> None:
    """Look at a failure, so that one whose waiter has gone is not reported as forgotten."""
    if not future.cancelled():
        future.exception()
