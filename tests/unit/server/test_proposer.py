"""The proposer: each command takes effect once, whatever the engine says of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar, cast

import pytest

from licraft.core.apply import apply
from licraft.core.codec import decode_entry, encode_state
from licraft.core.commands import Borrow, Command, Entry, FormPool, Member, Reason, ServerUp
from licraft.core.outcomes import Applied, Effect
from licraft.core.state import PoolState
from licraft.core.versions import KNOWN
from licraft.errors import NotExecuted, OutcomeUnknown
from licraft.replication.local_engine import Gate, LocalEngine
from licraft.server.proposer import Proposer
from licraft.testing import VirtualLoop, run_virtual

FORM = FormPool("acme", (Member("alpha", "", ""),), 3.0, 60.0, 0.01, "00")


class Machine:
    """Applies entries and tells the proposer, as a license server does."""

    def __init__(self) -> None:
        self.state = PoolState()
        self.serials: list[int] = []
        self.entries: list[Entry] = []
        self.proposer: Proposer | None = None

    def apply(self, index: int, command: bytes) -> Applied:
        entry = decode_entry(command)
        self.entries.append(entry)
        if entry.serial:
            self.serials.append(entry.serial)
        applied = apply(self.state, index, entry)
        if self.proposer is not None:
            self.proposer.note(applied)
        return applied

    def snapshot(self) -> bytes:
        return encode_state(self.state)

    def restore(self, index: int, snapshot: bytes) -> None:
        raise NotImplementedError


class Engine(LocalEngine):
    """As over a network, every answer takes a moment."""

    async def propose(self, command: bytes, timeout_s: float) -> object:
        await asyncio.sleep(0.001)
        return await super().propose(command, timeout_s)


async def a_proposer() -> tuple[Machine, Engine, Proposer]:
    """A proposer of alpha, which is up as incarnation 1."""
    machine = Machine()
    engine = Engine(machine)
    machine.proposer = proposer = Proposer("alpha", engine, lambda: KNOWN)
    await proposer.attempt(FORM, ServerUp("alpha", 1, 0.8, "n"))
    proposer.begin(1)
    return machine, engine, proposer


def command(number: int = 1) -> Borrow:
    return Borrow(f"b{number}", "cad", "alpha", 1, 1, Reason.REQUEST, 0, False)


def test_commands_that_are_submitted_together_are_one_entry_and_have_their_own_outcomes() -> None:
    async def program() -> None:
        machine, engine, proposer = await a_proposer()
        engine.gate = Gate.HOLD
        futures = [proposer.submit(command(n)) for n in range(3)]
        await asyncio.sleep(0.01)
        engine.gate = Gate.OPEN
        outcomes = await asyncio.gather(*futures)
        # The first goes alone, what comes while it is under way goes together.
        assert machine.serials == [1, 2]
        assert [outcome.effect for outcome in outcomes] == [Effect.REFUSED] * 3

    run_virtual(program())


@pytest.mark.parametrize("gate", [Gate.DROP, Gate.LOSE_ANSWER, Gate.LOSE_COMMAND, Gate.HOLD])
def test_a_command_is_proposed_until_its_fate_is_known_and_counts_once(gate: Gate) -> None:
    async def program() -> None:
        machine, engine, proposer = await a_proposer()
        engine.gate = gate
        future = proposer.submit(command())
        await asyncio.sleep(2.5)
        assert future.done() is (gate is Gate.LOSE_ANSWER)
        engine.gate = Gate.OPEN
        await future
        assert set(machine.serials) == {1}
        await proposer.submit(command(2))
        assert machine.state.servers["alpha"].requests == 2

    run_virtual(program())


def test_nothing_is_proposed_before_the_server_is_up() -> None:
    async def program() -> None:
        machine = Machine()
        machine.proposer = proposer = Proposer("alpha", Engine(machine), lambda: KNOWN)
        future = proposer.submit(command())
        await asyncio.sleep(1.0)
        assert machine.serials == []
        proposer.begin(1)
        with pytest.raises(NotExecuted):
            await future

    run_virtual(program())


def test_a_new_incarnation_voids_what_the_old_one_had_proposed() -> None:
    async def program() -> None:
        machine, engine, proposer = await a_proposer()
        engine.gate = Gate.HOLD
        futures = [proposer.submit(command(n)) for n in range(3)]
        await asyncio.sleep(0.1)
        proposer.begin(2)
        for future in futures:
            with pytest.raises(NotExecuted):
                await future
        engine.gate = Gate.OPEN
        await proposer.attempt(ServerUp("alpha", 2, 0.8, "m"))
        await proposer.submit(command())
        assert machine.state.servers["alpha"].requests == 1

    run_virtual(program())


def test_when_it_stops_what_is_outstanding_is_unknown() -> None:
    async def program() -> None:
        _, engine, proposer = await a_proposer()
        engine.gate = Gate.HOLD
        futures = [proposer.submit(command(n)) for n in range(3)]
        await asyncio.sleep(0.1)
        proposer.close()
        for future in futures:
            with pytest.raises(OutcomeUnknown):
                await future

    run_virtual(program())


def test_a_snapshot_that_includes_the_outstanding_entry_answers_it() -> None:
    async def program() -> None:
        machine, engine, proposer = await a_proposer()
        machine.proposer = None  # The entry is applied unseen, as within a snapshot.
        engine.gate = Gate.LOSE_ANSWER
        future = proposer.submit(command())
        await asyncio.sleep(0.1)
        assert not future.done()
        proposer.note_restored(machine.state)
        assert (await future).effect is Effect.REFUSED

    run_virtual(program())


def test_the_queue_is_bounded() -> None:
    async def program() -> None:
        _, engine, proposer = await a_proposer()
        engine.gate = Gate.HOLD
        futures = [proposer.submit(command(n)) for n in range(10_002)]
        with pytest.raises(NotExecuted, match="too many"):
            await futures[-1]
        assert not futures[0].done()
        proposer.close()
        await asyncio.sleep(0)

    run_virtual(program())


def test_an_attempt_that_fails_is_not_repeated() -> None:
    async def program() -> None:
        machine, engine, proposer = await a_proposer()
        engine.gate = Gate.DROP
        await proposer.attempt(ServerUp("alpha", 2, 0.8, "m"))
        engine.gate = Gate.OPEN
        await asyncio.sleep(5.0)
        assert machine.state.servers["alpha"].incarnation == 1
        assert cast(VirtualLoop, asyncio.get_running_loop()).time() >= 5.0

    run_virtual(program())


def test_an_engine_that_fails_at_once_does_not_keep_the_loop_from_turning() -> None:
    class Hasty(LocalEngine):
        calls = 0

        async def propose(self, command: bytes, timeout_s: float) -> object:
            self.calls += 1
            if self.calls > 1000:
                await asyncio.sleep(timeout_s)
            raise OutcomeUnknown("at once")

    async def program() -> None:
        engine = Hasty(Machine())
        proposer = Proposer("alpha", engine, lambda: KNOWN)
        proposer.begin(1)
        proposer.submit(command())
        for _ in range(10):
            await asyncio.sleep(0)
        proposer.close()
        assert engine.calls <= 10

    run_virtual(program())


@dataclass(frozen=True)
class New:
    """A command of the next version."""

    SINCE: ClassVar[int] = KNOWN + 1


def test_what_some_server_cannot_read_is_not_proposed() -> None:
    async def program() -> None:
        machine, _, proposer = await a_proposer()
        before = len(machine.entries)
        new = cast(Command, New())
        with pytest.raises(NotExecuted, match="until every server of the pool is upgraded"):
            await proposer.submit(new)
        await proposer.attempt(new)
        assert len(machine.entries) == before
        await proposer.attempt(new, ServerUp("alpha", 2, 0.8, "m"))
        assert [type(c) for c in machine.entries[-1].commands] == [ServerUp]

    asyncio.run(program())
