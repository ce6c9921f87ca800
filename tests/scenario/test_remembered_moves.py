"""What a pool remembers of clients that moved, and for how long (section 10)."""

from __future__ import annotations

import pytest
from support.moving_calls import (
    DRIFT,
    TTL_S,
    a_pool,
    committed,
    confirmed,
    down,
    fill,
    in_use,
    seats_are,
)
from support.scenario_calls import beat, fate_of, take

from licraft.core.commands import ForgetMoves, Reclaim
from licraft.testing import InProcessPool, late, run_virtual
from licraft.wire import Authorization, CheckoutRequest, Problem


def remembered(pool: InProcessPool, server: str = "") -> int:
    """How many moves the pool's state remembers, in all or from one server."""
    servers = pool.server(pool.leader).state.servers.values()
    return sum(len(s.gone) for s in servers if server in ("", s.name))


async def renewed(pool: InProcessPool, server: str, *tokens: str | None) -> None:
    """Renew what is held at a server."""
    for token in tokens:
        assert (await beat(pool, server, token or "")).status == "renewed"


def test_every_token_of_before_leads_to_where_it_is_now() -> None:
    """It has been everywhere, and is back; no answer but the first reached its client."""

    async def program() -> None:
        async with a_pool() as pool:
            tokens = {"gamma": (await fill(pool))["gamma"]}
            for name in ("beta", "alpha", "gamma", "beta"):
                moved = await beat(pool, name, tokens["gamma"])
                assert (moved.status, moved.server) == ("adopted", name)
                tokens[f"{name} again" if name in tokens else name] = moved.token or ""
                await pool.advance(0.1)
            await seats_are(pool, {"alpha": 2, "beta": 4})
            for token in tokens.values():
                for name in ("alpha", "beta"):
                    assert (await beat(pool, name, token)).status == "adopted"
                    await pool.advance(0.1)
            pool.crash("beta")
            await down(pool, "beta")
            for token in tokens.values():
                asked = await beat(pool, "gamma", token)
                assert (asked.status, asked.server) == ("confirm", None)
            assert (await confirmed(pool, "gamma", tokens["alpha"])).status == "adopted"
            for token in tokens.values():
                known = await beat(pool, "gamma", token)
                assert known.status in ("renewed", "converted")
            assert in_use(pool, "gamma") == 2

    run_virtual(program())


async def named(pool: InProcessPool, server: str, id: str) -> Authorization | Problem:
    """Check a seat out under a name that the client chose."""
    _, answer = await pool.checkout(server, CheckoutRequest("cad", 1, id=id))
    return answer


def test_an_id_that_has_gone_is_not_granted_anew_before_that_is_forgotten() -> None:
    """Nobody could tell the two apart, and what became of the one would be done to the other."""

    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            granted = await named(pool, "gamma", "job-17")
            assert isinstance(granted, Authorization)
            moved = await beat(pool, "beta", granted.token)
            assert await pool.checkin("beta", moved.token or "") == ["job-17"]
            again = await named(pool, "gamma", "job-17")
            assert isinstance(again, Problem)
            assert (again.status, again.code, again.field) == (400, "invalid_request", "id")
            assert (await beat(pool, "gamma", granted.token)).status == "pending"
            assert isinstance(await named(pool, "alpha", "job-17"), Authorization)
            await pool.advance(TTL_S)
            await pool.until(lambda: remembered(pool) == 0)
            await pool.advance(0.1)
            assert isinstance(await named(pool, "gamma", "job-17"), Authorization)

    run_virtual(program())


def test_who_comes_before_the_move_is_known_there_is_not_granted_a_second_time() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 18})
            token = await take(pool, "gamma", 2)
            pool.engine("alpha").lag_s = 0.3
            assert (await beat(pool, "beta", token)).status == "adopted"
            assert (await beat(pool, "alpha", token)).status == "pending"
            await pool.advance(1.0)
            assert (await beat(pool, "alpha", token)).status == "adopted"
            assert [in_use(pool, name) for name in pool.names] == [2, 0, 0]

    run_virtual(program())


@pytest.mark.parametrize("rate", [1.0, 1.0 + DRIFT])
def test_a_move_is_forgotten_when_no_client_relies_on_a_token_of_before(rate: float) -> None:
    """That is a ttl later by the slowest clock, and the leader's may be the fastest."""

    async def program() -> None:
        async with a_pool(rates={"alpha": rate}) as pool:
            tokens = await fill(pool)
            for name, to in (("gamma", "beta"), ("alpha", "gamma")):
                valid_until_s = pool.now() + TTL_S
                moved = await beat(pool, to, tokens[name])
                assert moved.status == "adopted"
                await pool.until(lambda: remembered(pool) == 1, within_s=1.0)
                await pool.until(lambda: remembered(pool) == 0)
                assert pool.now() >= valid_until_s
                assert pool.now() <= valid_until_s + TTL_S * DRIFT + 0.5

    run_virtual(program())


def test_a_new_leader_waits_anew_before_it_has_moves_forgotten() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            tokens = await fill(pool)
            assert (await beat(pool, "beta", tokens["gamma"])).status == "adopted"
            await pool.advance(TTL_S - 1.0)
            pool.log.elect("beta")
            elected_s = pool.now()
            await pool.until(lambda: remembered(pool) == 0)
            assert TTL_S * (1 + DRIFT) <= pool.now() - elected_s < TTL_S * (1 + DRIFT) + 0.5

    run_virtual(program())


@pytest.mark.parametrize("returns", [False, True])
def test_what_moved_from_a_server_that_is_down_is_forgotten_when_that_is_over(
    returns: bool,
) -> None:
    """It has to be told of it should it return, and nobody is to adopt it a second time."""

    async def program() -> None:
        async with a_pool() as pool:
            tokens = await fill(pool)
            pool.crash("gamma")
            await down(pool, "gamma")
            moved = await confirmed(pool, "beta", tokens["gamma"])
            if returns:
                pool.start("gamma")
                await pool.until(lambda: pool.server("gamma").may_grant())
            else:
                pool.log.fate = fate_of(Reclaim, late(3.0))
            moved_s = pool.now()
            await pool.until(lambda: remembered(pool, "gamma") == 1, "all know", within_s=1.0)
            while pool.now() < moved_s + TTL_S:
                assert remembered(pool, "gamma") == 1
                await renewed(pool, "beta", moved.token)
                await pool.advance(2.0)
            await pool.until(lambda: remembered(pool) == 0, within_s=6.0)
            gamma = pool.server("alpha").state.servers["gamma"]
            assert gamma.reclaimed is not returns

    run_virtual(program())


def test_clients_that_move_for_ever_take_no_more_memory() -> None:
    """Nor does the log: one entry has all forgotten that is old by then."""

    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            before, most, moves = pool.log.index, 0, 0
            while pool.now() < 6 * TTL_S:
                here, there = ("alpha", "beta") if moves % 2 else ("beta", "alpha")
                moved = await beat(pool, there, await take(pool, here))
                assert moved.status == "adopted"
                await pool.checkin(there, moved.token or "")
                moves += 1
                await pool.advance(0.3)
                most = max(most, remembered(pool))
            assert most < TTL_S * (1 + DRIFT) / 0.3 + 2 < moves / 4
            # The leader has them forgotten at most once a second.
            await pool.until(lambda: remembered(pool) == 0, within_s=TTL_S * (1 + DRIFT) + 1.5)
            assert committed(pool, ForgetMoves, before) <= moves

    run_virtual(program())
