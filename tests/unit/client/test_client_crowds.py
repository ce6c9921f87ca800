"""Ten thousand clients whose server dies, whose pool is away, or whose pool stands still.

Each is the client's own keeper, in virtual time (`client_world`). What is printed are the
figures; `pytest -s` shows them.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from client_world import Server, World, play

from licraft.wire import Problem

TTL_S, LEASE_S = 60.0, 3.0


def usual(clients: int, ttl_s: float = TTL_S) -> float:
    """How many heartbeats all of them send in a second when all is well."""
    return clients / (ttl_s / 3 * 0.95)


async def arrive(world: World, homes: list[Server], clients: int) -> None:
    """Everybody checks out, within the interval of a heartbeat."""
    for number in range(clients):
        world.client(homes[number % len(homes)])
        await asyncio.sleep(world.ttl_s / 3 / clients)


@pytest.mark.parametrize(("how", "clients"), [("refuses", 10_000), ("stopped", 1_000)])
def test_the_clients_of_a_dead_server_come_one_by_one(how: str, clients: int) -> None:
    """They come as their heartbeats are due; only who waits for the news comes with it."""
    down_after_s = LEASE_S + 1.0

    async def course(world: World) -> None:
        await arrive(world, [world.alpha], clients)
        world.alpha.state = how
        died_s = world.now()
        await asyncio.sleep(down_after_s)
        world.call_down(world.alpha)
        await asyncio.sleep(TTL_S / 3 + 2)
        counts = world.beta.counts(died_s, world.now())
        print(how, counts)
        news = int(down_after_s)
        others = counts[:news] + counts[news + 1 :]
        assert max(others) < 3.5 * usual(clients)
        # Those who asked in the meantime hear at once that they may confirm, and do so.
        assert counts[news] < 2.2 * usual(clients) * down_after_s
        assert sum(counts) < 4 * clients

    assert play(course, ttl_s=TTL_S, lease_s=LEASE_S).held == clients


def test_a_pool_that_was_away_is_not_run_down_when_it_is_back() -> None:
    """Clients know nothing of each other: ten times as many come ten times as often."""
    clients = 1_000

    async def course(world: World) -> None:
        await arrive(world, world.servers, clients)
        for server in world.servers:
            server.state = "refuses"
        await asyncio.sleep(TTL_S / 2)
        back_s = world.now()
        for server in world.servers:
            server.state = "up"
        await asyncio.sleep(TTL_S / 2)
        counts = world.counts(back_s, world.now())
        print(counts)
        assert max(counts) < 4.5 * usual(clients)

    assert play(course, ttl_s=TTL_S, lease_s=LEASE_S).held == clients


@pytest.mark.parametrize(("ttl_s", "lease_s"), [(12.0, 1.5), (60.0, 3.0)])
def test_a_pool_that_stood_still_is_not_buried_under_questions(
    ttl_s: float, lease_s: float
) -> None:
    """Two thirds of its capacity are in use, and it is still for a quarter of ttl."""
    clients = 600

    async def course(world: World) -> None:
        for server in world.servers:
            server.takes_s = 0.66 / (usual(clients, ttl_s) / 3)
        await arrive(world, world.servers, clients)
        await asyncio.sleep(ttl_s / 3)
        for server in world.servers:
            server.stall(ttl_s / 4)
        began_s = world.now()
        await asyncio.sleep(3 * ttl_s)
        counts = world.counts(began_s, world.now())
        first, second = counts[: int(ttl_s)], counts[int(ttl_s) : 2 * int(ttl_s)]
        times = [sum(part) / ttl_s / usual(clients, ttl_s) for part in (first, second)]
        print(times, world.moves)
        assert times[0] < 1.9
        assert times[1] < 1.25
        assert world.moves < clients / 2

    assert play(course, ttl_s=ttl_s, lease_s=lease_s).held == clients


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("ttl_s", [12.0, 60.0])
def test_who_is_refused_everywhere_asks_less_and_less(ttl_s: float, status: int) -> None:
    """As the docstring of `pace` states."""
    code = "overloaded" if status == 429 else "no_quorum"
    no = Problem(status=status, code=code, detail="", retry_after=1.0)

    async def course(world: World) -> None:
        for _ in range(100):
            (hold,) = world.client(world.alpha)
            for server in world.servers:
                server.says, server.asked_s = no, []
            await asyncio.sleep(ttl_s + 1.0)
            assert hold.tenure().ended
            asked_s = sorted(at for server in world.servers for at in server.asked_s)
            first, later = asked_s[:3], asked_s[2:]
            assert first[-1] - first[0] < 0.1
            assert {len(server.asked_s) > 1 for server in world.servers} == {True}
            gaps = [after - before for before, after in pairwise(later)]
            least_s = 1.0 if status == 429 else min(0.5, ttl_s / 15)
            assert min(gaps) >= least_s
            assert max(gaps) <= max(1.26, ttl_s / 7)
            assert len(asked_s) <= 3 + 15

    play(course, ttl_s=ttl_s)


@pytest.mark.parametrize("ttl_s", [12.0, 60.0])
def test_who_is_not_answered_asks_at_most_twice_as_often(ttl_s: float) -> None:
    async def course(world: World) -> None:
        for server in world.servers:
            server.stop()
        holds = [world.client(world.alpha)[0] for _ in range(100)]
        await asyncio.sleep(ttl_s + 1.0)
        assert all(hold.tenure().ended for hold in holds)
        each = len([at for server in world.servers for at in server.asked_s]) / len(holds)
        print(each)
        # Usually it would be two in the time that is left.
        assert 2 < each <= 4

    play(course, ttl_s=ttl_s)
