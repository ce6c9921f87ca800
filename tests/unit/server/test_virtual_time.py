"""What the scenarios stand on: the clock, the loop and the log of `licraft.testing`."""

from __future__ import annotations

import asyncio
import doctest
import time

import pytest

import licraft.testing.pool
from licraft.errors import LicraftError, NotExecuted, OutcomeUnknown
from licraft.testing import (
    DROPPED,
    LOST,
    UNHEARD,
    Answer,
    Fate,
    InProcessPool,
    ManualClock,
    ScriptedEngine,
    SharedLog,
    late,
    run_virtual,
    twice,
)


class Words:
    """A state machine that remembers what was applied."""

    def __init__(self) -> None:
        self.applied: list[bytes] = []

    def apply(self, index: int, command: bytes) -> object:
        self.applied.append(command)
        return index

    def snapshot(self) -> bytes:
        return b" ".join(self.applied)

    def restore(self, index: int, snapshot: bytes) -> None:
        self.applied = snapshot.split()


def three() -> tuple[SharedLog, dict[str, Words]]:
    log = SharedLog(("a", "b", "c"))
    machines = {name: Words() for name in log.servers}
    for name, machine in machines.items():
        ScriptedEngine(log, name, machine)
    log.elect("a")
    return log, machines


def test_a_manual_clock_moves_only_when_told_and_at_its_rate() -> None:
    clock = ManualClock(now_s=5.0, wall_s=100.0, rate=1.1)
    assert (clock.now(), clock.wall()) == (5.0, 100.0)
    clock.advance(10.0)
    assert clock.now() == pytest.approx(16.0)
    assert clock.wall() == pytest.approx(111.0)
    clock.set_wall(50.0)
    assert clock.wall() == pytest.approx(50.0)
    assert clock.now() == pytest.approx(16.0)
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1.0)
    with pytest.raises(ValueError, match="rate"):
        ManualClock(rate=0.0)


def test_virtual_time_takes_no_time_and_keeps_the_order() -> None:
    seen: list[float] = []

    async def sleeper(seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append(asyncio.get_running_loop().time())

    async def program() -> None:
        await asyncio.gather(sleeper(3600), sleeper(10), sleeper(86_400))

    begun = time.monotonic()
    run_virtual(program())
    assert time.monotonic() - begun < 5.0
    assert seen == pytest.approx([10, 3600, 86_400])


def test_what_fails_unseen_fails_the_run() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    async def program() -> None:
        asyncio.get_running_loop().call_later(1.0, fail)
        await asyncio.sleep(2.0)

    with pytest.raises(ZeroDivisionError):
        run_virtual(program())


def test_waiting_for_what_never_comes_is_told() -> None:
    async def program() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="no timer"):
        run_virtual(program())


def test_a_pool_outside_virtual_time_says_what_to_do() -> None:
    async def program() -> None:
        async with InProcessPool(1):
            pass

    with pytest.raises(LicraftError, match="run_virtual"):
        asyncio.run(program())


def test_the_example_of_the_pool_works() -> None:
    assert doctest.testmod(licraft.testing.pool).attempted > 0
    assert doctest.testmod(licraft.testing.pool).failed == 0


def test_all_apply_the_same_in_the_same_order() -> None:
    async def program() -> None:
        log, machines = three()
        results = await asyncio.gather(
            *(log.engines[name].propose(name.encode(), 1.0) for name in log.servers)
        )
        await asyncio.sleep(0.1)
        assert sorted(map(int, map(str, results))) == [3, 4, 5]
        assert sorted(machines["a"].applied) == [b"a", b"b", b"c"]
        assert machines["a"].applied == machines["b"].applied == machines["c"].applied

    run_virtual(program())


@pytest.mark.parametrize(
    ("fate", "raised", "times"),
    [
        (DROPPED, NotExecuted, 0),
        (LOST, OutcomeUnknown, 0),
        (UNHEARD, OutcomeUnknown, 1),
        (late(5.0), OutcomeUnknown, 1),
        (twice(5.0), None, 2),
    ],
)
def test_a_proposal_has_the_fate_that_was_written(
    fate: Fate, raised: type[Exception] | None, times: int
) -> None:
    async def program() -> None:
        log, machines = three()
        log.fate = lambda server, command: fate
        if raised is None:
            await log.engines["b"].propose(b"x", 1.0)
        else:
            with pytest.raises(raised):
                await log.engines["b"].propose(b"x", 1.0)
        await asyncio.sleep(6.0)
        assert machines["c"].applied == [b"x"] * times

    run_virtual(program())


def test_a_promise_that_is_no_promise_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="refused"):
        Fate((0.0,), Answer.REFUSED)


def test_without_a_majority_nothing_is_committed_and_an_isolated_leader_believes_for_a_while() -> (
    None
):
    async def program() -> None:
        log, machines = three()
        await asyncio.sleep(0.1)
        engine = log.engines["a"]
        assert engine.status().leads
        log.isolate("a")
        assert engine.status().leads
        with pytest.raises(OutcomeUnknown):
            await engine.propose(b"x", 1.0)
        await asyncio.sleep(1.0)
        assert engine.status().leader is None
        with pytest.raises(NotExecuted):
            await engine.propose(b"x", 1.0)
        log.tend(0.0)
        log.tend(1.0)
        assert log.leader in ("b", "c")
        await log.engines["b"].propose(b"y", 1.0)
        log.heal()
        await asyncio.sleep(0.1)
        assert machines["a"].applied == [b"y"]
        assert engine.status().leader == log.leader

    run_virtual(program())


def test_a_paused_server_applies_nothing_and_catches_up() -> None:
    async def program() -> None:
        log, machines = three()
        log.engines["c"].pause()
        await log.engines["b"].propose(b"x", 1.0)
        await asyncio.sleep(1.0)
        assert machines["c"].applied == []
        log.engines["c"].resume()
        await asyncio.sleep(0.1)
        assert machines["c"].applied == [b"x"]

    run_virtual(program())


def test_who_lags_behind_a_compacted_log_gets_a_snapshot() -> None:
    async def program() -> None:
        log, machines = three()
        log.engines["c"].pause()
        for word in (b"x", b"y"):
            await log.engines["b"].propose(word, 1.0)
        await asyncio.sleep(0.1)
        log.compact()
        assert log.length == 0
        await log.engines["b"].propose(b"z", 1.0)
        log.engines["c"].resume()
        await asyncio.sleep(0.1)
        assert machines["c"].applied == [b"x", b"y", b"z"]
        log.engines["b"].crash()
        again = Words()
        ScriptedEngine(log, "b", again)
        await asyncio.sleep(0.1)
        assert again.applied == [b"x", b"y", b"z"]

    run_virtual(program())
