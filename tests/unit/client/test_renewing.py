"""Heartbeats when servers die, hang or are slow, in virtual time (`client_world`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import msgspec
import pytest
from client_world import Server, World, play

from licraft.client.renewing import Renewal, Renewer, _Question, _Try
from licraft.client.routes import Routes
from licraft.client.seats import Hold
from licraft.client.tenure import SeatState
from licraft.client.transport import Answer, Transport
from licraft.testing import run_virtual
from licraft.wire import Authorization, HeartbeatAnswer, HeartbeatResult, Problem, ServerList

TTL_S = 60.0


async def until(world: World, condition: Callable[[], object], within_s: float) -> float:
    """Wait for a condition; the seconds that it took."""
    began_s = world.now()
    while not condition():
        assert world.now() < began_s + within_s, "this did not happen in time"
        await asyncio.sleep(0.001)  # whatever makes it true is not ours to signal
    return world.now() - began_s


async def next_heartbeat(world: World, server: Server) -> None:
    """Wait until a server is asked again."""
    before = len(server.asked_s)
    await until(world, lambda: len(server.asked_s) > before, world.ttl_s)


def due_in(world: World, hold: Hold) -> float:
    """Seconds to the next heartbeat of a seat."""
    for keeper in world.keepers:
        if hold in keeper._renewals:
            return keeper._renewals[hold].due_at - world.now()
    raise AssertionError("nobody keeps it")


@pytest.mark.parametrize("seats", [1, 700])
@pytest.mark.parametrize("kept_alive", [False, True])
def test_a_server_without_a_network_costs_less_than_half_a_second(
    seats: int, kept_alive: bool
) -> None:
    """Whether it is connected to or was before; and all seats move together."""

    async def course(world: World) -> None:
        holds = world.client(world.alpha, seats)
        if kept_alive:
            await next_heartbeat(world, world.alpha)
            await asyncio.sleep(1.0)
        world.alpha.state = "gone"
        world.call_down(world.alpha)
        await asyncio.sleep(min(due_in(world, hold) for hold in holds))
        # Two for each 500: the second one confirms.
        batches = (seats + 499) // 500
        took_s = await until(world, lambda: len(world.beta.asked_s) == 2 * batches, 5.0)
        assert took_s < 0.5
        await asyncio.sleep(0.1)
        assert {hold.server for hold in holds} == {"beta"}
        assert {str(hold.tenure().state) for hold in holds} == {"held"}
        assert not world.gamma.asked_s
        assert world.moves == seats

    play(course)


def test_a_server_that_refuses_costs_nothing() -> None:
    async def course(world: World) -> None:
        (hold,) = world.client(world.alpha)
        world.alpha.state = "refuses"
        world.call_down(world.alpha)
        await asyncio.sleep(due_in(world, hold))
        assert await until(world, lambda: hold.server == "beta", 5.0) < 0.05

    play(course)


@pytest.mark.parametrize(("ttl_s", "lease_s"), [(12.0, 1.5), (60.0, 3.0)])
@pytest.mark.parametrize("how", ["refuses", "gone", "stopped"])
@pytest.mark.parametrize("known_after_s", [0.2, 1.0], ids=["follower", "leader"])
def test_the_holders_of_a_dead_server_are_served_within_a_lease_and_two_seconds(
    ttl_s: float, lease_s: float, how: str, known_after_s: float
) -> None:
    """Of their next heartbeat, at the 99th percentile; the dead leader's after an election."""
    clients = 300

    async def course(world: World) -> None:
        holds = []
        for _ in range(clients):
            holds += world.client(world.alpha)
            await asyncio.sleep(ttl_s / 3 / clients)
        await asyncio.sleep(ttl_s / 3)
        world.alpha.state = how
        died_s = world.now()
        beats_s = {hold: died_s + due_in(world, hold) for hold in holds}
        served_s: dict[Hold, float] = {}
        while len(served_s) < clients:
            if world.now() > died_s + lease_s + known_after_s and not world.down:
                world.call_down(world.alpha)
            for hold in holds:
                if hold not in served_s and hold.server != "alpha":
                    served_s[hold] = world.now()
            assert world.now() < died_s + ttl_s
            await asyncio.sleep(0.02)
        waits_s = sorted(served_s[hold] - beats_s[hold] for hold in holds)
        print(waits_s[clients // 2], waits_s[-4], waits_s[-1])
        assert waits_s[-4] < lease_s + 2.0

    assert play(course, ttl_s=ttl_s, lease_s=lease_s).held == clients


def test_who_is_late_is_listened_to_and_nobody_else_is_troubled() -> None:
    """The server needs two seconds; the next one is asked, and cannot help yet."""

    async def course(world: World) -> None:
        (hold,) = world.client(world.alpha)
        await asyncio.sleep(due_in(world, hold) - 0.01)
        world.alpha.stall(2.0)
        world.beta.stop()
        began_s = world.now()
        await next_heartbeat(world, world.beta)
        assert hold.tenure().state is SeatState.SUSPENDED
        await until(world, lambda: hold.tenure().state is SeatState.HELD, 2.0)
        assert hold.tenure().sent_at == pytest.approx(began_s, abs=0.05)
        assert (hold.server, world.moves) == ("alpha", 0)
        assert not world.gamma.asked_s
        # Next time it is waited for.
        world.alpha.takes_s = 2.0
        await next_heartbeat(world, world.alpha)
        await asyncio.sleep(2.1)
        assert hold.tenure().sent_at > began_s + 5
        assert len(world.beta.asked_s) == 1

    play(course)


@pytest.mark.parametrize("first", ["home", "elsewhere"])
def test_of_two_answers_the_one_that_moved_the_seat_counts(first: str) -> None:
    """Its server confirms late what another one takes over: whichever is heard first."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        routes = Routes(["http://alpha:7700", "http://beta:7700"])
        renewer = Renewer(
            cast(Transport, None),
            routes,
            loop.time,
            client_id="",
            chance=lambda: 0.5,
            give_back=lambda tokens, url: None,
        )
        granted = Authorization(
            "0", "0|alpha", "cad", 1, "alpha", TTL_S, 20.0, "", ServerList(1, [])
        )
        hold = Hold(granted, "http://alpha:7700", loop.time(), loop.time)
        renewal = Renewal(hold, 0.0)
        this = _Try(hold.url, iter(()), {renewal: None}, TTL_S)
        question = _Question([renewal])
        await asyncio.sleep(1.0)
        at_home = (1.0, "alpha", HeartbeatResult("0", "renewed", TTL_S))
        moved = (2.0, "beta", HeartbeatResult("0", "adopted", TTL_S, "0|beta", "beta"))
        await asyncio.sleep(2.0)
        for sent_s, server, result in (at_home, moved) if first == "home" else (moved, at_home):
            body = msgspec.json.encode(HeartbeatAnswer([result]))
            renewer._hear(this, question, Answer(f"http://{server}:7700", sent_s, 200, body))
        assert (hold.server, hold.token, hold.url) == ("beta", "0|beta", "http://beta:7700")
        assert hold.tenure().sent_at == 2.0
        assert not this.waiting
        # And what is told to the one who was too late is of no interest.
        late = HeartbeatAnswer([HeartbeatResult("0", "lost", code="no_seats")])
        body = msgspec.json.encode(late)
        renewer._hear(this, question, Answer("http://alpha:7700", 1.0, 200, body))
        assert hold.tenure().state is SeatState.HELD

    run_virtual(run())


def test_each_seat_of_a_call_has_its_own_fate() -> None:
    async def course(world: World) -> None:
        holds = world.client(world.alpha, 6)
        told = (
            HeartbeatResult("0", "renewed", 30.0),
            HeartbeatResult("1", "adopted", TTL_S, "1|beta", "beta"),
            HeartbeatResult("new", "converted", TTL_S, "new|beta", "beta"),
            HeartbeatResult("3", "pending", retry_after=2.0),
            HeartbeatResult("4", "lost", code="no_seats"),
            HeartbeatResult("another", "renewed", TTL_S),
        )
        world.alpha.state = "refuses"
        world.beta.says = HeartbeatAnswer(list(told))
        await next_heartbeat(world, world.beta)
        await asyncio.sleep(0.01)
        states = [str(hold.tenure().state) for hold in holds]
        assert states == ["held", "held", "held", "suspended", "lost", "suspended"]
        assert holds[0].tenure().ttl_s == 30.0
        assert [hold.id for hold in holds[:3]] == ["0", "1", "new"]
        assert [hold.server for hold in holds[:3]] == ["alpha", "beta", "beta"]
        assert 1.0 <= due_in(world, holds[3]) <= 2.0
        assert 0.4 <= due_in(world, holds[5]) <= 1.0
        assert holds[4].tenure().reason == "no_seats"
        assert [hold.url == world.beta.url for hold in holds[:3]] == [True] * 3

    play(course)


def test_only_those_who_are_asked_confirm() -> None:
    async def course(world: World) -> None:
        holds = world.client(world.alpha, 3)
        world.alpha.state = "refuses"
        world.holder["1"] = "beta"  # it moved before, and its client did not hear of it
        world.call_down(world.alpha)
        await until(world, lambda: {hold.server for hold in holds} == {"beta"}, TTL_S)
        assert len(world.beta.asked_s) == 2
        assert world.moves == 2

    play(course)


def test_a_server_that_always_wants_a_confirmation_is_not_asked_in_a_row() -> None:
    async def course(world: World) -> None:
        (hold,) = world.client(world.alpha)
        world.alpha.says = HeartbeatAnswer([HeartbeatResult("0", "confirm", down_index=3)])
        await asyncio.sleep(TTL_S / 3)
        assert hold.tenure().state is SeatState.SUSPENDED
        await asyncio.sleep(TTL_S)
        assert len(world.alpha.asked_s) < 40
        gaps = sorted(
            after - before
            for before, after in zip(world.alpha.asked_s, world.alpha.asked_s[2:], strict=False)
        )
        assert gaps[0] >= 0.5

    play(course)


def test_a_refusal_sends_to_the_next_and_what_was_refused_is_asked_last() -> None:
    """A cut-off server says so each time; the one that has the seat by then is not missed."""

    async def course(world: World) -> None:
        (hold,) = world.client(world.alpha)
        world.alpha.says = Problem(503, "no_quorum", "")
        world.alpha.state = "up"
        world.holder["0"] = "gamma"
        world.gamma.stop()
        await next_heartbeat(world, world.beta)
        await asyncio.sleep(world.lease_s + 1.0)
        world.call_down(world.gamma)
        await until(world, lambda: hold.server == "beta", 2.0)

    play(course)


@pytest.mark.parametrize("how", ["refuses", "gone", "stopped"])
def test_a_server_that_is_back_and_hands_nothing_over_is_asked_itself(how: str) -> None:
    """It recovers from a crash: only its own clients' heartbeats rebuild its record."""

    async def course(world: World) -> None:
        holds = []
        for _ in range(60):
            holds += world.client(world.alpha)
            await asyncio.sleep(0.03)
        world.alpha.state = how
        await asyncio.sleep(1.0)
        world.alpha.state = "recovers"
        world.alpha.goes_on.set()
        await asyncio.sleep(2 * world.ttl_s)
        assert {hold.server for hold in holds} == {"alpha"}

    assert play(course, ttl_s=6.0, lease_s=1.0).held == 60


def test_a_server_that_is_back_is_found_while_another_says_pending() -> None:
    """Also if it was cut off meanwhile, and said so."""

    async def course(world: World) -> None:
        (hold,) = world.client(world.alpha)
        world.alpha.says = Problem(503, "no_quorum", "")
        world.alpha.state = "recovers"
        await next_heartbeat(world, world.beta)
        await asyncio.sleep(3.0)
        assert hold.tenure().state is SeatState.SUSPENDED
        world.alpha.says = None
        await until(world, lambda: hold.tenure().state is SeatState.HELD, 3.0)
        assert hold.server == "alpha"
        assert len(world.alpha.asked_s) >= 2

    play(course)


@pytest.mark.parametrize("named", ["gamma", "delta", None])
def test_who_is_told_where_its_seat_is_asks_there(named: str | None) -> None:
    """It had moved, unheard, to a server that has lost its record and only recovers."""

    async def course(world: World) -> None:
        (hold,) = world.client(world.alpha)
        world.holder[hold.id] = "gamma"
        world.gamma.state = "recovers"
        told = HeartbeatResult(hold.id, "pending", retry_after=1.0, server=named)
        world.alpha.says = world.beta.says = HeartbeatAnswer([told])
        await next_heartbeat(world, world.alpha)
        if named != "gamma":
            await asyncio.sleep(world.ttl_s)
            assert hold.tenure().ended
            return
        await until(world, lambda: hold.tenure().state is SeatState.HELD, 3.0)
        await until(world, lambda: hold.server == "gamma", 3.0)
        assert not world.beta.asked_s

    play(course)


@pytest.mark.parametrize("bad", [float("inf"), -1.0, 0.0, 1e12])
def test_a_nonsensical_ttl_is_not_believed(bad: float) -> None:
    async def course(world: World) -> None:
        (hold,) = world.client(world.alpha)
        world.alpha.says = HeartbeatAnswer([HeartbeatResult("0", "renewed", bad)])
        await next_heartbeat(world, world.alpha)
        await asyncio.sleep(0.1)
        assert hold.tenure().ttl_s == TTL_S

    play(course)
