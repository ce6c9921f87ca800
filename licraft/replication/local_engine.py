"""An engine of one server in memory: for unit tests and for programs that embed a pool.

May import `engine` and `errors`. It keeps nothing, and applies each command at once unless
its gate says otherwise; the state machine is the same as under a real engine.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Mapping

from licraft.errors import NotExecuted, OutcomeUnknown, PeerUnreachable
from licraft.replication.engine import (
    MAX_COMMAND_BYTES,
    AskHandler,
    Engine,
    EngineStatus,
    StateMachine,
)


class Gate(enum.Enum):
    """What happens to a command that is proposed."""

    OPEN = "applied at once"
    HOLD = "waits until the gate opens, or its time is up"
    DROP = "never applied: NotExecuted"
    LOSE_ANSWER = "applied, but its proposer does not learn it: OutcomeUnknown"
    LOSE_COMMAND = "never applied, and its proposer does not know: OutcomeUnknown"


class LocalEngine(Engine):
    """Commits by itself; `gate` lets a test hold, drop or lose what is proposed."""

    def __init__(
        self,
        machine: StateMachine,
        server: str = "alpha",
        ask_handlers: Mapping[str, AskHandler] | None = None,
    ) -> None:
        """Lead a pool of one; `ask_handlers` stand for other servers, by name."""
        self._machine = machine
        self._server = server
        self._handlers = dict(ask_handlers or {})
        self._index = 1  # As in a real log, where entry 1 is the empty one that starts it.
        self._held: list[tuple[bytes, asyncio.Future[object]]] = []
        self._gate = Gate.OPEN
        self._closed = False

    @property
    def gate(self) -> Gate:
        """What happens to the next command."""
        return self._gate

    @gate.setter
    def gate(self, gate: Gate) -> None:
        """Set the gate; opening it applies what was held, in order."""
        self._gate = gate
        if gate is Gate.OPEN:
            held, self._held = self._held, []
            for command, waiting in held:
                # A proposer that gave up does not take its command back: it was proposed.
                result = self._apply(command)
                if not waiting.done():
                    waiting.set_result(result)

    @property
    def held(self) -> int:
        """How many commands wait at the gate."""
        return len(self._held)

    async def propose(self, command: bytes, timeout_s: float) -> object:
        """Commit a command and return what applying it returned (see `Engine`)."""
        if len(command) > MAX_COMMAND_BYTES:
            raise ValueError(f"a command of {len(command)} bytes: at most {MAX_COMMAND_BYTES}")
        if self._closed or self._gate is Gate.DROP:
            raise NotExecuted("not proposed: the engine is closed or its gate drops commands")
        if self._gate is Gate.LOSE_COMMAND:
            raise OutcomeUnknown("the gate lost the command")
        if self._gate is Gate.HOLD:
            return await self._hold(command, timeout_s)
        result = self._apply(command)
        if self._gate is Gate.LOSE_ANSWER:
            raise OutcomeUnknown("the gate lost the answer")
        return result

    async def ask(self, server: str, body: bytes, timeout_s: float) -> bytes:
        """Ask the handler given for `server`; raises PeerUnreachable without one."""
        handler = self._handlers.get(server)
        if handler is None or self._closed:
            raise PeerUnreachable(f"{server} is not connected")
        try:
            async with asyncio.timeout(timeout_s):
                return await handler(self._server, body)
        except Exception as fault:  # As over a network, any fault there is this one error here.
            raise PeerUnreachable(f"{server} could not answer: {fault!r}") from fault

    def status(self) -> EngineStatus:
        """The engine now."""
        return EngineStatus(
            server=self._server,
            leader=None if self._closed else self._server,
            term=1,
            commit_index=self._index,
            applied_index=self._index,
            leads=not self._closed,
            connected=frozenset(self._handlers),
        )

    async def transfer(self, server: str) -> None:
        """There is nobody else to lead; raises NotExecuted for any other name."""
        if server != self._server:
            raise NotExecuted(f"{server} is no server of this pool of one")

    async def close(self) -> None:
        """Stop; what is held is not applied, and its proposers do not learn that."""
        self._closed = True
        held, self._held = self._held, []
        for _, waiting in held:
            if not waiting.done():
                waiting.set_exception(OutcomeUnknown("the engine was closed"))

    async def _hold(self, command: bytes, timeout_s: float) -> object:
        """Wait at the gate."""
        waiting: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._held.append((command, waiting))
        try:
            async with asyncio.timeout(timeout_s):
                return await waiting
        except TimeoutError:
            raise OutcomeUnknown(f"held at the gate for {timeout_s:g} s") from None

    def _apply(self, command: bytes) -> object:
        """Apply a command at the next index."""
        self._index += 1
        return self._machine.apply(self._index, command)
