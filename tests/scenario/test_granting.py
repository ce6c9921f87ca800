"""Grants, leases, waits and repeated requests, on real servers in virtual time."""

from __future__ import annotations

import asyncio

import pytest
from support.scenario_calls import refused, take

from licraft.core.codec import decode_entry
from licraft.core.commands import RenewLease
from licraft.testing import COMMITTED, DROPPED, Fate, InProcessPool, late, run_virtual
from licraft.wire import Authorization, CheckoutRequest, ClientInfo, Problem

TTL_S = 12.0


def test_a_server_cut_off_grants_until_its_lease_ends_and_not_after() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 30})
            token = await take(pool, "beta")
            pool.log.isolate("beta")
            left_s = pool.server("beta").standing.lease_remaining_s()
            assert 1.9 < left_s <= 3.0
            await pool.advance(left_s - 0.01)
            await take(pool, "beta")
            await pool.advance(0.02)
            problem = await refused(pool, "beta")
            assert (problem.status, problem.code) == (503, "no_quorum")
            assert problem.servers is not None
            renewal = await pool.heartbeat("beta", token)
            assert isinstance(renewal, Problem)
            assert renewal.code == "no_quorum"
            await take(pool, "alpha")
            pool.log.heal()
            await pool.until(pool.serving, within_s=3.0)
            await take(pool, "beta")

    run_virtual(program())


def test_a_leader_cut_off_loses_its_lease_like_any_other() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 30})
            pool.log.isolate("alpha")
            await pool.advance(3.01)
            assert (await refused(pool, "alpha")).code == "no_quorum"
            assert pool.leader != "alpha"
            await take(pool, pool.leader)

    run_virtual(program())


def test_a_paused_server_grants_nothing_when_it_wakes_without_a_lease() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 30})
            pool.pause("gamma")
            await pool.advance(3.01)
            assert (await refused(pool, "gamma")).code == "no_quorum"

    run_virtual(program())


def test_the_lease_counts_from_the_first_proposal() -> None:
    def slow(server: str, command: bytes) -> Fate:
        (renewal, *_) = decode_entry(command).commands
        return late(1.0) if isinstance(renewal, RenewLease) else COMMITTED

    async def program() -> None:
        async with InProcessPool(1) as pool:
            await pool.advance(5.0)
            pool.log.fate = slow
            standing = pool.server("alpha").standing
            await pool.advance(10.0)
            most = 0.0
            for _ in range(200):
                await pool.advance(0.05)
                most = max(most, standing.lease_remaining_s())
            assert 1.5 < most <= 2.0

    run_virtual(program())


def test_without_renewals_there_is_no_lease() -> None:
    async def program() -> None:
        async with InProcessPool(1) as pool:
            await pool.install({"cad": 1})
            pool.log.fate = lambda server, command: DROPPED
            await pool.advance(3.01)
            assert (await refused(pool, "alpha")).code == "no_quorum"
            pool.log.fate = lambda server, command: COMMITTED
            await pool.until(pool.serving, within_s=1.5)

    run_virtual(program())


def test_an_authorization_ends_when_its_holder_is_silent_for_longer_than_ttl() -> None:
    async def program() -> None:
        async with InProcessPool(1, ttl_s=TTL_S, drift=0.1) as pool:
            await pool.install({"cad": 1})
            token = await take(pool, "alpha")
            for _ in range(3):
                await pool.advance(TTL_S - 0.1)
                renewal = await pool.heartbeat("alpha", token)
                assert not isinstance(renewal, Problem)
                assert renewal[0].status == "renewed"
            await pool.advance(TTL_S * 1.1 - 0.05)
            assert (await refused(pool, "alpha")).code == "no_seats"
            await pool.advance(0.5)
            await take(pool, "alpha")

    run_virtual(program())


def test_what_is_checked_in_is_there_for_the_next_and_checking_in_twice_is_harmless() -> None:
    async def program() -> None:
        async with InProcessPool(1) as pool:
            await pool.install({"cad": 2})
            first, second = await take(pool, "alpha"), await take(pool, "alpha")
            assert len(await pool.checkin("alpha", first)) == 1
            assert await pool.checkin("alpha", first) == []
            await take(pool, "alpha")
            assert (await refused(pool, "alpha")).code == "no_seats"
            assert len(await pool.checkin("alpha", second)) == 1

    run_virtual(program())


def test_a_check_in_at_another_server_is_passed_on() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 3})
            token = await take(pool, "beta")
            assert len(await pool.checkin("gamma", token)) == 1
            assert pool.server("beta").grants.record.in_use["cad"] == 0
            assert await pool.checkin("gamma", token) == []

    run_virtual(program())


def test_who_came_first_is_served_first_however_much_it_asks() -> None:
    async def program() -> None:
        async with InProcessPool(1) as pool:
            await pool.install({"cad": 3})
            tokens = [await take(pool, "alpha") for _ in range(3)]
            loop = asyncio.get_running_loop()
            large = loop.create_task(take(pool, "alpha", 2, wait=30))
            await pool.advance(0.1)
            small = loop.create_task(take(pool, "alpha", 1, wait=30))
            await pool.advance(0.1)
            await pool.checkin("alpha", tokens[0])
            assert (await refused(pool, "alpha")).code == "no_seats"
            assert not large.done()
            assert not small.done()
            await pool.checkin("alpha", tokens[1])
            await pool.advance(0.1)
            assert large.done()
            assert not small.done()
            await pool.checkin("alpha", tokens[2])
            await pool.advance(0.1)
            assert small.done()

    run_virtual(program())


def test_a_wait_lasts_as_long_as_was_asked_and_no_longer() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 3})
            await take(pool, "alpha", 3)
            await pool.advance(2.0)
            for wait in (0.0, 5.0, 20.0):
                begun_s = pool.now()
                problem = await refused(pool, "beta", wait=wait)
                assert (problem.status, problem.code) == (409, "no_seats")
                assert (problem.in_use, problem.deployed) == (3, 3)
                assert wait <= pool.now() - begun_s < wait + 1.0

    run_virtual(program())


def test_more_than_there_is_is_refused_at_once() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 3})
            begun_s = pool.now()
            assert (await refused(pool, "beta", 4, wait=60)).code == "no_seats"
            assert pool.now() == begun_s

    run_virtual(program())


def test_who_waits_is_sent_elsewhere_when_the_lease_ends() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 3})
            await take(pool, "alpha", 3)
            waiting = asyncio.get_running_loop().create_task(refused(pool, "gamma", wait=60))
            await pool.advance(1.0)
            pool.log.isolate("gamma")
            problem = await waiting
            assert problem.code == "no_quorum"
            assert pool.now() < 7.0

    run_virtual(program())


def test_a_repeated_request_gets_the_same_authorization() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 9})
            request = CheckoutRequest("cad", 2, id="R1", client=ClientInfo("ann"))
            status, first = await pool.checkout("beta", request)
            again_status, again = await pool.checkout("beta", request)
            assert isinstance(first, Authorization)
            assert isinstance(again, Authorization)
            assert (status, again_status) == (201, 200)
            assert (again.id, again.token) == (first.id, first.token)
            assert pool.server("beta").grants.record.in_use["cad"] == 2

    run_virtual(program())


@pytest.mark.parametrize(
    "other",
    [
        CheckoutRequest("cad", 2, id="R1", client=ClientInfo("bob")),
        CheckoutRequest("cad", 1, id="R1", client=ClientInfo("ann")),
    ],
)
def test_an_id_that_another_request_used_is_refused(other: CheckoutRequest) -> None:
    async def program() -> None:
        async with InProcessPool(1) as pool:
            await pool.install({"cad": 9})
            await pool.checkout(
                "alpha", CheckoutRequest("cad", 2, id="R1", client=ClientInfo("ann"))
            )
            status, answer = await pool.checkout("alpha", other)
            assert isinstance(answer, Problem)
            assert (status, answer.code, answer.field) == (400, "invalid_request", "id")

    run_virtual(program())


def test_the_same_request_waiting_twice_is_granted_once() -> None:
    async def program() -> None:
        async with InProcessPool(1) as pool:
            await pool.install({"cad": 2})
            token = await take(pool, "alpha", 2)
            request = CheckoutRequest("cad", 1, wait=30, id="R1", client=ClientInfo("ann"))
            loop = asyncio.get_running_loop()
            waiting = [loop.create_task(pool.checkout("alpha", request)) for _ in range(2)]
            await pool.advance(1.0)
            await pool.checkin("alpha", token)
            (_, first), (_, second) = await asyncio.gather(*waiting)
            assert isinstance(first, Authorization)
            assert isinstance(second, Authorization)
            assert first.token == second.token
            assert pool.server("alpha").grants.record.in_use["cad"] == 1

    run_virtual(program())


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[:-3],
        lambda t: ("B" if t[0] == "A" else "A") + t[1:],
        lambda t: "x",
        str.swapcase,
    ],
)
def test_forged_and_truncated_tokens_are_lost(change: object) -> None:
    async def program() -> None:
        async with InProcessPool(1) as pool:
            await pool.install({"cad": 2})
            token = await take(pool, "alpha")
            assert callable(change)
            forged = change(token)
            assert forged != token
            answer = await pool.heartbeat("alpha", forged, token)
            assert not isinstance(answer, Problem)
            assert [(r.status, r.code) for r in answer] == [
                ("lost", "not_authorized"),
                ("renewed", None),
            ]
            assert await pool.checkin("alpha", forged) == []
            assert pool.server("alpha").grants.record.in_use["cad"] == 1

    run_virtual(program())


def test_a_removed_authorization_is_lost_for_its_holder() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 3})
            _, seat = await pool.checkout("gamma", CheckoutRequest("cad", id="R1"))
            assert isinstance(seat, Authorization)
            assert await pool.server("beta").remove_authorization("R1") is None
            answer = await pool.heartbeat("gamma", seat.token)
            assert not isinstance(answer, Problem)
            assert (answer[0].status, answer[0].code) == ("lost", "removed")
            missing = await pool.server("beta").remove_authorization("R1")
            assert missing is not None
            assert missing.status == 404

    run_virtual(program())
