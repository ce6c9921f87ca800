"""An administrator ends an authorization at any server: whoever waits gets its seat, for good."""

from __future__ import annotations

import asyncio

import pytest
from support.scenario_calls import allocated, beat, refused, take

from licraft.testing import InProcessPool, run_virtual
from licraft.wire import Authorization, CheckoutRequest

LEASE_S, TTL_S = 3.0, 12.0
AT_ONCE_S = 0.1


def a_pool(tick_s: float = 0.05) -> InProcessPool:
    """Its servers write down what they must before they answer, not only when they tick."""
    return InProcessPool(3, lease_s=LEASE_S, ttl_s=TTL_S, threshold=1.0, tick_s=tick_s)


async def fill(pool: InProcessPool) -> dict[str, str]:
    """Have every seat in use; returns a token of each server."""
    await pool.install({"cad": 6})
    return {name: await take(pool, name, 2) for name in pool.names}


async def strike(pool: InProcessPool, at: str, server: str) -> str:
    """`DELETE /v1/authorizations/ID` at a server, of the one that another has on record."""
    (authorization,) = pool.server(server).grants.record
    assert await pool.server(at).remove_authorization(authorization.id) is None
    return authorization.id


@pytest.mark.parametrize("waits_at", ["beta", "gamma"])
@pytest.mark.parametrize("struck_at", ["alpha", "beta", "gamma"])
def test_who_waits_gets_the_freed_seat_at_once(struck_at: str, waits_at: str) -> None:
    async def program() -> None:
        async with a_pool() as pool:
            tokens = await fill(pool)
            waits = asyncio.ensure_future(
                pool.checkout(waits_at, CheckoutRequest("cad", 2, wait=30.0))
            )
            await pool.advance(1.0)
            assert not waits.done()
            struck_s = pool.now()
            await strike(pool, struck_at, "gamma")
            status, answer = await waits
            assert isinstance(answer, Authorization)
            assert (status, answer.server) == (201, waits_at)
            assert pool.now() - struck_s < AT_ONCE_S
            assert allocated(pool, waits_at)[waits_at] == (2 if waits_at == "gamma" else 4)
            lost = await beat(pool, "gamma", tokens["gamma"])
            assert (lost.status, lost.code) == ("lost", "removed")

    run_virtual(program())


@pytest.mark.parametrize("struck_at", ["alpha", "gamma"])
def test_it_does_not_come_back_when_its_server_dies_right_after(struck_at: str) -> None:
    """Whoever struck it was told that this is done: it is written down by then."""

    async def program() -> None:
        async with a_pool(tick_s=0.5) as pool:
            await fill(pool)
            await asyncio.sleep(0.2)
            id = await strike(pool, struck_at, "gamma")
            if struck_at == "gamma":
                pool.server("gamma").settle()  # As the API does before the answer leaves.
            pool.crash("gamma")
            gamma = pool.start("gamma")
            await pool.until(lambda: gamma.status() == "serving", within_s=4.0)
            assert gamma.grants.record.get(id) is None
            await take(pool, "gamma", 2)

    run_virtual(program())


def test_what_was_checked_in_elsewhere_does_not_come_back_either() -> None:
    async def program() -> None:
        async with a_pool(tick_s=0.5) as pool:
            tokens = await fill(pool)
            await asyncio.sleep(0.2)
            assert len(await pool.checkin("beta", tokens["gamma"])) == 1
            pool.crash("gamma")
            gamma = pool.start("gamma")
            await pool.until(lambda: gamma.status() == "serving", within_s=4.0)
            assert len(gamma.grants.record) == 0

    run_virtual(program())


def test_a_seat_that_has_moved_is_struck_where_it_is_now() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            tokens = await fill(pool)
            moved = await beat(pool, "beta", tokens["gamma"])
            (id,) = [a.id for a in pool.server("beta").grants.record if a.token == moved.token]
            assert await pool.server("alpha").remove_authorization(id) is None
            lost = await beat(pool, "beta", moved.token or "")
            assert (lost.status, lost.code) == ("lost", "removed")
            await pool.advance(0.1)
            assert (await refused(pool, "gamma", 3)).code == "no_seats"
            await take(pool, "gamma", 2)

    run_virtual(program())


def test_its_client_loses_it_at_every_server() -> None:
    """Also one that turns to another server first, where there would be seats for it."""

    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 18})
            token = await take(pool, "gamma", 2)
            await strike(pool, "alpha", "gamma")
            for name in ("beta", "alpha", "gamma"):
                lost = await beat(pool, name, token)
                assert (lost.status, lost.code) == ("lost", "removed")
            assert all(not pool.server(name).grants.record for name in pool.names)

    run_virtual(program())
