"""The engine in memory: applies at once, and fails on demand in every way a real one can."""

from __future__ import annotations

import asyncio

import pytest

from licraft.errors import NotExecuted, OutcomeUnknown, PeerUnreachable
from licraft.replication.engine import MAX_COMMAND_BYTES
from licraft.replication.local_engine import Gate, LocalEngine


class Recorder:
    def __init__(self) -> None:
        self.applied: list[tuple[int, bytes]] = []

    def apply(self, index: int, command: bytes) -> object:
        self.applied.append((index, command))
        return index

    def snapshot(self) -> bytes:
        return b""

    def restore(self, index: int, snapshot: bytes) -> None:
        self.applied.clear()


def test_commands_are_applied_in_order_and_answered() -> None:
    async def scenario() -> None:
        machine = Recorder()
        engine = LocalEngine(machine)
        assert [await engine.propose(b"%d" % n, 1.0) for n in range(3)] == [2, 3, 4]
        assert machine.applied == [(2, b"0"), (3, b"1"), (4, b"2")]
        status = engine.status()
        assert (status.leader, status.leads, status.applied_index) == ("alpha", True, 4)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("gate", "error", "applied"),
    [
        (Gate.DROP, NotExecuted, 0),
        (Gate.LOSE_ANSWER, OutcomeUnknown, 1),
        (Gate.LOSE_COMMAND, OutcomeUnknown, 0),
        (Gate.HOLD, OutcomeUnknown, 0),
    ],
)
def test_a_gate_fails_a_command(gate: Gate, error: type[Exception], applied: int) -> None:
    async def scenario() -> None:
        machine = Recorder()
        engine = LocalEngine(machine)
        engine.gate = gate
        with pytest.raises(error):
            await engine.propose(b"x", 0.01)
        assert len(machine.applied) == applied

    asyncio.run(scenario())


def test_what_is_held_is_applied_when_the_gate_opens() -> None:
    async def scenario() -> None:
        machine = Recorder()
        engine = LocalEngine(machine)
        engine.gate = Gate.HOLD
        waiting = [asyncio.create_task(engine.propose(b"%d" % n, 5.0)) for n in range(2)]
        await asyncio.sleep(0)  # Each task runs up to the gate.
        assert engine.held == 2
        assert machine.applied == []
        engine.gate = Gate.OPEN
        assert await asyncio.gather(*waiting) == [2, 3]

    asyncio.run(scenario())


def test_questions_go_to_the_handlers() -> None:
    async def answer(server: str, body: bytes) -> bytes:
        if body == b"fail":
            raise KeyError
        if body == b"wait":
            await asyncio.sleep(60)
        return server.encode() + body

    async def scenario() -> None:
        engine = LocalEngine(Recorder(), ask_handlers={"beta": answer})
        assert await engine.ask("beta", b"!", 1.0) == b"alpha!"
        for server, body in (("beta", b"fail"), ("beta", b"wait"), ("gamma", b"")):
            with pytest.raises(PeerUnreachable):
                await engine.ask(server, body, 0.01)

    asyncio.run(scenario())


def test_bounds_and_the_end() -> None:
    async def scenario() -> None:
        engine = LocalEngine(Recorder())
        with pytest.raises(ValueError, match="at most"):
            await engine.propose(bytes(MAX_COMMAND_BYTES + 1), 1.0)
        await engine.transfer("alpha")
        with pytest.raises(NotExecuted):
            await engine.transfer("beta")
        await engine.close()
        with pytest.raises(NotExecuted):
            await engine.propose(b"x", 1.0)
        assert engine.status().leader is None

    asyncio.run(scenario())
