"""A server leaves a running pool: its clients go elsewhere, its seats come back, none twice."""

from __future__ import annotations

import pytest

from licraft.testing import InProcessPool, run_virtual
from licraft.wire import Authorization, CheckoutRequest, Problem, ServerAnswer

LEASE_S, TTL_S, DRIFT = 3.0, 60.0, 0.01
# Until nobody may rely on what a server has granted: its last lease is over, then their time
# to live is. Both counted by the leader's clock, which may be slow.
RELIED_ON_S = (LEASE_S + TTL_S) * (1 + DRIFT)


async def held(pool: InProcessPool, at: str, count: int) -> Authorization:
    status, seat = await pool.checkout(at, CheckoutRequest("cad", count=count))
    assert status == 201, seat
    assert isinstance(seat, Authorization)
    return seat


def servers(pool: InProcessPool, by: str = "alpha") -> dict[str, str]:
    return {view.name: view.state for view in pool.server(by).pool().servers}


def free_seats(pool: InProcessPool) -> int:
    view = pool.server("alpha").feature("cad")
    assert not isinstance(view, Problem)
    return view.free


async def remove(pool: InProcessPool, name: str, at: str) -> None:
    answer = await pool.server(at).remove_server(name)
    assert isinstance(answer, ServerAnswer), answer
    assert (answer.name, answer.state) == (name, "removing")


@pytest.mark.parametrize("at", ["alpha", "beta", "gamma"])
def test_what_nobody_holds_is_there_for_others_at_once(at: str) -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 30})
            await held(pool, "gamma", 4)
            await remove(pool, "gamma", at)
            await pool.until(lambda: pool.server("gamma").status() == "removing")
            status, refusal = await pool.checkout("gamma", CheckoutRequest("cad"))
            assert isinstance(refusal, Problem)
            assert (status, refusal.code) == (503, "draining")
            await pool.advance(1.0)
            # Six of its ten are in the free pool before it is down.
            assert free_seats(pool) == 6
            await held(pool, "alpha", 26)

    run_virtual(program())


def test_what_is_held_comes_back_when_nobody_can_rely_on_it() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 30})
            await held(pool, "gamma", 10)
            await remove(pool, "gamma", "alpha")
            began_s = pool.now()
            while "gamma" in servers(pool):
                status, _ = await pool.checkout("beta", CheckoutRequest("cad", count=21))
                assert status == 409
                await pool.advance(0.5)
            # Its last renewal may have been proposed a third of a lease before.
            assert RELIED_ON_S - LEASE_S / 3 <= pool.now() - began_s <= RELIED_ON_S + 3.0
            await held(pool, "beta", 21)
            assert pool.server("gamma").status() == "removed"
            assert pool.server("gamma").may_grant() is False

    run_virtual(program())


def test_a_client_of_a_server_that_leaves_keeps_its_seat_at_another() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 30})
            seat = await held(pool, "gamma", 3)
            await remove(pool, "gamma", "beta")
            await pool.advance(LEASE_S)
            assert isinstance(await pool.heartbeat("gamma", seat.token), Problem)
            asked = await pool.heartbeat("beta", seat.token)
            assert isinstance(asked, list)
            assert asked[0].status == "confirm"
            down_index = asked[0].down_index or 0
            moved = await pool.heartbeat("beta", seat.token, confirm={asked[0].id: down_index})
            assert isinstance(moved, list)
            assert moved[0].status == "adopted"

    run_virtual(program())


def test_a_server_that_stands_still_while_it_is_removed_grants_nothing_when_it_goes_on() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 30})
            await held(pool, "gamma", 2)
            pool.pause("gamma")
            await remove(pool, "gamma", "alpha")
            await pool.until(lambda: "gamma" not in servers(pool), within_s=2 * RELIED_ON_S)
            await held(pool, "beta", 30)
            pool.resume("gamma")
            for _ in range(40):
                status, _ = await pool.checkout("gamma", CheckoutRequest("cad"))
                assert status == 503
                await pool.advance(0.05)

    run_virtual(program())


def test_a_server_that_is_down_already_is_gone_as_soon_as_its_seats_are_reclaimed() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 30})
            pool.crash("gamma")
            await pool.until(lambda: servers(pool)["gamma"] == "down")
            await remove(pool, "gamma", "beta")
            await pool.until(lambda: "gamma" not in servers(pool), within_s=TTL_S + 5.0)
            assert free_seats(pool) == 10
            # Its process, started again, is no server of the pool.
            pool.start("gamma")
            await pool.advance(5.0)
            assert pool.server("gamma").status() == "joining"
            readiness = pool.server("gamma").readiness()
            assert (readiness.ready, readiness.state) == (False, "joining")
            status, _ = await pool.checkout("gamma", CheckoutRequest("cad"))
            assert status == 503

    run_virtual(program())


def test_a_new_leader_goes_on_with_a_removal() -> None:
    async def program() -> None:
        async with InProcessPool(4) as pool:
            await pool.install({"cad": 40})
            await remove(pool, "delta", "beta")
            await pool.advance(10.0)
            pool.crash(pool.leader)
            left = pool.running[0]
            await pool.until(lambda: "delta" not in servers(pool, left), within_s=3 * RELIED_ON_S)

    run_virtual(program())
