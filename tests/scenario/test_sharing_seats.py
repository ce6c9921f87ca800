"""What administrators decide of seats, on servers in virtual time (sections 6 and 7)."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from support.scenario_calls import allocated, fate_of, refused, take

from licraft.core.commands import AddAllocations, Release, SetDistribution
from licraft.testing import DROPPED, LOST, UNHEARD, Fate, InProcessPool, late, run_virtual, twice
from licraft.wire import (
    AllocationsRequest,
    Authorization,
    BorrowingRequest,
    CheckoutRequest,
    DistributionRequest,
    FeatureView,
    Problem,
)


def a_pool(servers: int = 3, **options: Any) -> InProcessPool:
    return InProcessPool(servers, **({"threshold": 1.0} | options))


def done(answer: FeatureView | Problem) -> FeatureView:
    assert isinstance(answer, FeatureView), answer
    return answer


async def distribute(pool: InProcessPool, at: str, text: str | None) -> FeatureView:
    return done(await pool.server(at).distribute("cad", DistributionRequest(text)))


async def add(pool: InProcessPool, at: str, count: int, to: str | None = None) -> FeatureView:
    return done(await pool.server(at).add_allocations("cad", AllocationsRequest(count, to)))


async def bound(pool: InProcessPool, at: str, **limits: Any) -> FeatureView:
    return done(await pool.server(at).bound_borrowing("cad", BorrowingRequest(**limits)))


def view(pool: InProcessPool, at: str) -> FeatureView:
    return done(pool.server(at).feature("cad"))


@pytest.mark.parametrize("at", ["alpha", "beta", "gamma"])
def test_a_change_of_distribution_moves_what_is_unused_at_once_and_the_rest_later(at: str) -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 30}, distribution={"cad": "alpha:30"})
            held = [await take(pool, "alpha", 1) for _ in range(20)]
            answer = await distribute(pool, at, "alpha:5^beta:10^gamma:15")
            assert answer.index <= pool.server(at).state.index
            await pool.advance(0.5)
            assert allocated(pool, at) == {"alpha": 20, "beta": 10}
            shown = view(pool, "gamma")
            assert (shown.to_give, shown.missing, shown.servers["alpha"].to_give) == (15, 15, 15)
            for number, token in enumerate(held[:15], 1):
                await pool.checkin("alpha", token)
                await pool.advance(0.2)
                assert allocated(pool) == {"alpha": 20 - number, "beta": 10, "gamma": number}
            assert (view(pool, "beta").to_give, view(pool, "beta").missing) == (0, 0)
            # It is done: what comes back now stays, and can be lent as ever.
            await pool.checkin("alpha", held[15])
            await take(pool, "gamma", 16)
            assert allocated(pool) == {"alpha": 4, "beta": 10, "gamma": 16}
            await pool.advance(20.0)
            assert allocated(pool) == {"alpha": 4, "beta": 10, "gamma": 16}

    run_virtual(program())


def test_the_seats_of_a_down_server_follow_once_nobody_can_rely_on_them() -> None:
    async def program() -> None:
        async with a_pool(ttl_s=12.0) as pool:
            await pool.install({"cad": 30})
            await take(pool, "gamma", 4)
            pool.crash("gamma")
            await distribute(pool, "beta", "alpha:15^beta:15")
            assert allocated(pool) == {"alpha": 10, "beta": 10, "gamma": 10}
            await pool.advance(5.0)
            assert view(pool, "alpha").servers["gamma"].to_give == 10
            await pool.until(lambda: allocated(pool) == {"alpha": 15, "beta": 15}, within_s=30)
            assert view(pool, "alpha").to_give == 0

    run_virtual(program())


def test_who_waits_where_seats_have_to_go_does_not_keep_them() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6}, distribution={"cad": "alpha:6"})
            held = [await take(pool, "alpha") for _ in range(6)]
            waiting = asyncio.get_running_loop().create_task(take(pool, "alpha", 1, wait=50))
            await pool.advance(1.0)
            await bound(pool, "beta", server="beta", floor=3)
            await distribute(pool, "beta", "alpha:3^beta:3")
            for number, token in enumerate(held[:3], 1):
                await pool.checkin("alpha", token)
                await pool.advance(0.5)
                assert allocated(pool) == {"alpha": 6 - number, "beta": number}
                assert not waiting.done()
            await pool.checkin("alpha", held[3])
            await waiting

    run_virtual(program())


def test_without_a_floor_who_waits_gets_a_seat_that_was_moved_away() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 3}, distribution={"cad": "alpha:3"})
            held = [await take(pool, "alpha") for _ in range(3)]
            waiting = asyncio.get_running_loop().create_task(take(pool, "alpha", 1, wait=50))
            await pool.advance(1.0)
            await distribute(pool, "gamma", "beta:3")
            await pool.checkin("alpha", held[0])
            await pool.advance(1.0)
            assert waiting.done()

    run_virtual(program())


def test_a_server_that_recovers_gives_its_surplus_when_it_knows_what_it_granted() -> None:
    async def program() -> None:
        async with a_pool(ttl_s=12.0) as pool:
            await pool.install({"cad": 12}, distribution={"cad": "beta:12"})
            await take(pool, "beta", 2)
            pool.crash("beta")
            await pool.advance(1.0)
            pool.start("beta", reboot=True)
            await pool.until(lambda: pool.server("beta").status() == "recovering")
            await distribute(pool, "gamma", "alpha:6^gamma:6")
            await pool.advance(3.0)
            assert allocated(pool) == {"beta": 12}
            await pool.until(lambda: allocated(pool) == {"alpha": 6, "gamma": 6}, within_s=20)

    run_virtual(program())


def test_a_new_leader_goes_on_with_a_change() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 30}, distribution={"cad": "beta:30"})
            token = await take(pool, "beta", 20)
            await distribute(pool, "alpha", "beta:5^gamma:25")
            pool.crash("alpha")
            await pool.until(lambda: pool.log.leader not in ("alpha", None), within_s=20)
            await pool.checkin("beta", token)
            await pool.until(
                lambda: allocated(pool, "gamma") == {"beta": 5, "gamma": 25}, within_s=10
            )

    run_virtual(program())


def test_who_asks_where_seats_have_to_go_gets_unused_ones_of_others() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 30}, distribution={"cad": "alpha:30"})
            held = await take(pool, "alpha", 20)
            await distribute(pool, "gamma", "alpha:5^beta:5^gamma:20")
            await pool.until(lambda: allocated(pool) == {"alpha": 20, "beta": 5, "gamma": 5})
            more = await take(pool, "alpha", 7)
            borrowed = allocated(pool)["alpha"] - 20
            assert borrowed >= 7
            await pool.checkin("alpha", held)
            await pool.advance(1.0)
            # What was to go has gone; what was borrowed meanwhile is alpha's as ever.
            assert allocated(pool)["alpha"] == 5 + borrowed
            assert view(pool, "beta").to_give == 0
            await pool.checkin("alpha", more)
            await take(pool, "beta", 15, wait=2)

    run_virtual(program())


# Allocations


def test_seats_retire_as_they_come_back_and_new_grants_stop_meanwhile() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 9})
            tokens = {name: await take(pool, name, 3) for name in pool.names}
            shown = await add(pool, "gamma", -5)
            assert (shown.over, shown.deployed) == (5, 9)
            await pool.checkin("beta", tokens["beta"])
            await pool.advance(0.5)
            assert (view(pool, "alpha").over, view(pool, "alpha").deployed) == (2, 6)
            assert (await refused(pool, "beta")).code == "no_seats"
            await pool.checkin("gamma", tokens["gamma"])
            await pool.advance(0.5)
            assert (view(pool, "alpha").over, view(pool, "alpha").deployed) == (0, 4)
            await take(pool, "beta", 1, wait=2)
            assert (await refused(pool, "gamma")).code == "no_seats"
            await add(pool, "beta", 5, "gamma")
            await pool.advance(0.5)
            await take(pool, "gamma", 5)

    run_virtual(program())


def test_from_a_server_only_its_own_seats_retire_and_the_others_go_on_granting() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 9})
            token = await take(pool, "beta", 2)
            shown = await add(pool, "gamma", -3, "beta")
            assert shown.servers["beta"].retiring == 3
            await pool.advance(0.5)
            assert allocated(pool) == {"alpha": 3, "beta": 2, "gamma": 3}
            assert "cad at beta over by 2" in str(pool.server("alpha").pool().trouble)
            await take(pool, "alpha", 3)
            await pool.checkin("beta", token)
            await pool.advance(0.5)
            assert allocated(pool) == {"alpha": 3, "gamma": 3}
            assert pool.server("alpha").pool().trouble == []

    run_virtual(program())


@pytest.mark.parametrize("fate", [late(4.0), LOST, UNHEARD, DROPPED, twice(0.5), twice(5.0)])
@pytest.mark.parametrize("kind", [AddAllocations, Release, SetDistribution])
def test_whatever_becomes_of_a_change_it_counts_once(
    kind: type[AddAllocations | Release | SetDistribution], fate: Fate
) -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 30}, distribution={"cad": "alpha:20"})
            pool.log.fate = fate_of(kind, fate)
            server = pool.server("beta")
            asked = asyncio.gather(
                server.add_allocations("cad", AllocationsRequest(-10)),
                server.distribute("cad", DistributionRequest("beta:12^gamma:6")),
            )
            await pool.advance(5.5)
            pool.log.fate = fate_of(Release, twice(1.0))
            for answer in await asked:
                assert isinstance(answer, FeatureView) or answer.code == "outcome_unknown"
            await pool.advance(12.0)
            assert allocated(pool) == {"free": 2, "beta": 12, "gamma": 6}
            assert view(pool, "gamma").deployed == 20

    run_virtual(program())


# Borrowing


def test_borrowing_keeps_floors_and_caps() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 30})
            await bound(pool, "beta", floor=8)
            await bound(pool, "gamma", server="gamma", floor=9, cap=11)
            await take(pool, "alpha", 13, wait=2)
            assert allocated(pool) == {"alpha": 13, "beta": 8, "gamma": 9}
            assert (await refused(pool, "alpha", wait=2)).code == "no_seats"
            await bound(pool, "alpha", floor=None)
            await take(pool, "alpha", 8, wait=2)
            assert allocated(pool) == {"alpha": 21, "gamma": 9}
            await take(pool, "gamma", 9)
            shown = view(pool, "gamma").servers["gamma"]
            assert (shown.floor, shown.cap, shown.borrowing) == (9, 11, True)

    run_virtual(program())


def test_nobody_borrows_over_its_cap_however_long_somebody_waits() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 9})
            await bound(pool, "alpha", server="beta", cap=4)
            await take(pool, "beta", 4, wait=2)
            waiting = asyncio.get_running_loop().create_task(take(pool, "beta", 1, wait=50))
            await pool.advance(5.0)
            # Who waits there is nobody's hindrance elsewhere.
            for name, count in (("alpha", 3), ("gamma", 2)):
                await take(pool, name, count, wait=1)
            await pool.advance(5.0)
            assert not waiting.done()
            await bound(pool, "gamma", server="beta", cap=None)
            tokens = [a.token for a in pool.server("alpha").grants.record]
            await pool.checkin("alpha", *tokens)
            await pool.advance(1.0)
            assert waiting.done()

    run_virtual(program())


def test_seats_that_a_floor_keeps_are_for_who_waits_there() -> None:
    async def program() -> None:
        async with a_pool(2) as pool:
            await pool.install({"cad": 4})
            held = [await take(pool, "alpha", 1) for _ in range(2)]
            await take(pool, "beta", 2)
            loop = asyncio.get_running_loop()
            earlier = loop.create_task(take(pool, "beta", 1, wait=50))
            await pool.advance(1.0)
            later = loop.create_task(take(pool, "alpha", 1, wait=50))
            await bound(pool, "beta", server="alpha", floor=2)
            await pool.advance(1.0)
            await pool.checkin("alpha", held[0])
            await pool.advance(1.0)
            assert later.done()
            assert not earlier.done()
            earlier.cancel()

    run_virtual(program())


def test_nothing_is_offered_again_and_again_that_a_floor_keeps() -> None:
    async def program() -> None:
        async with a_pool(2) as pool:
            await pool.install({"cad": 4})
            await bound(pool, "beta", server="beta", floor=2)
            await take(pool, "alpha", 2)
            waiting = asyncio.get_running_loop().create_task(take(pool, "alpha", 1, wait=50))
            await pool.advance(2.0)
            index = pool.log.index
            await pool.checkin("beta", await take(pool, "beta", 1))
            await pool.advance(3.0)
            # Renewals of leases, and what alpha asks for once in a while.
            assert pool.log.index - index < 30
            waiting.cancel()

    run_virtual(program())


def test_who_has_most_to_spare_by_the_administrators_threshold_is_asked_first() -> None:
    async def program() -> None:
        async with a_pool(4) as pool:
            await pool.install({"cad": 20}, distribution={"cad": "gamma:10^delta:10"})
            await bound(pool, "beta", server="gamma", threshold=0.5)
            await take(pool, "gamma", 4)  # It has 6 unused, and 2 to spare.
            await take(pool, "delta", 5)  # It has 5 unused, all of them to spare.
            await pool.advance(2.0)
            await take(pool, "beta", 2, wait=5.0)
            assert allocated(pool, "beta") == {"beta": 2, "gamma": 10, "delta": 8}

    run_virtual(program())


def test_off_and_a_threshold_of_the_administrator() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 30})
            await bound(pool, "beta", threshold=0.5)
            await pool.advance(0.1)  # The others have applied it too.
            await take(pool, "gamma", 6)
            await pool.advance(2.0)
            assert allocated(pool)["gamma"] >= 12
            await bound(pool, "beta", enabled=False)
            await pool.advance(0.5)
            lacking = allocated(pool)["gamma"] - 5
            assert (await refused(pool, "gamma", lacking, wait=2)).code == "no_seats"
            await bound(pool, "beta", enabled=None, threshold=None)
            await take(pool, "gamma", lacking, wait=2)

    run_virtual(program())


# Refusals


@pytest.mark.parametrize(
    ("call", "request_", "status", "code", "words"),
    [
        ("distribute", DistributionRequest("alpha:20^beta:11"), 409, "exceeds_entitlement", "31"),
        ("distribute", DistributionRequest({"delta": 1}), 404, "not_found", "alpha, beta, gamma"),
        ("distribute", DistributionRequest("alpha=3"), 400, "invalid_request", "alpha:40^beta:30"),
        ("add_allocations", AllocationsRequest(2), 409, "exceeds_entitlement", "0 can be added"),
        ("add_allocations", AllocationsRequest(-31), 409, "exceeds_entitlement", "only 30"),
        ("add_allocations", AllocationsRequest(-11, "beta"), 409, "exceeds_entitlement", "only 10"),
        ("add_allocations", AllocationsRequest(0), 400, "invalid_request", "nothing"),
        ("add_allocations", AllocationsRequest(-1, "delta"), 404, "not_found", "delta"),
        ("bound_borrowing", BorrowingRequest(), 400, "invalid_request", "threshold"),
        ("bound_borrowing", BorrowingRequest(floor=5, cap=4), 409, "invalid_request", "floor"),
        ("bound_borrowing", BorrowingRequest(cap=4, server="delta"), 404, "not_found", "delta"),
    ],
)
def test_what_cannot_be_is_refused_with_the_numbers(
    call: str, request_: object, status: int, code: str, words: str
) -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 30})
            before = allocated(pool)
            answer = await getattr(pool.server("beta"), call)("cad", request_)
            assert (answer.status, answer.code) == (status, code)
            assert words in answer.detail
            if code == "exceeds_entitlement":
                assert (answer.entitled, answer.deployed) == (30, 30)
            await pool.advance(1.0)
            assert allocated(pool) == before
            nope = await getattr(pool.server("beta"), call)("nope", request_)
            assert nope.code in ("unknown_feature", "invalid_request")

    run_virtual(program())


@pytest.mark.parametrize("seed", range(10))
def test_at_random_no_seat_is_granted_twice_and_every_change_comes_about(seed: int) -> None:
    async def program() -> None:
        rng = random.Random(seed)
        async with a_pool(seed=seed, ttl_s=12.0, threshold=0.8) as pool:
            await pool.install({"cad": 20})
            held: list[tuple[str, str]] = []
            for _ in range(40):
                at = rng.choice(pool.names)
                match rng.choice(["take", "take", "take", "back", "share", "add", "bound"]):
                    case "take":
                        request = CheckoutRequest("cad", rng.randint(1, 3))
                        _, answer = await pool.checkout(at, request)
                        if isinstance(answer, Authorization):
                            held.append((at, answer.token))
                    case "back" if held:
                        name, token = held.pop(rng.randrange(len(held)))
                        await pool.checkin(name, token)
                    case "share":
                        shares = {name: rng.randint(0, 6) for name in pool.names}
                        await pool.server(at).distribute("cad", DistributionRequest(shares))
                    case "add":
                        more = AllocationsRequest(
                            rng.choice([-4, -2, 2, 4]), rng.choice([None, *pool.names])
                        )
                        await pool.server(at).add_allocations("cad", more)
                    case "bound":
                        limits = BorrowingRequest(floor=rng.choice([None, 3]), server=at)
                        await pool.server(at).bound_borrowing("cad", limits)
                    case _:
                        pass
                used = [pool.server(n).grants.record.in_use.get("cad", 0) for n in pool.names]
                assert sum(used) <= 20
                await pool.advance(rng.choice([0.0, 0.01, 0.3]))
            await pool.advance(0.5)  # alpha may not have applied the last change yet.
            goal = pool.server("alpha").state.table.features["cad"]
            expected = goal.goal - sum(goal.retiring.values())
            for name, token in held:
                await pool.checkin(name, token)
            await pool.advance(8.0)
            for name in pool.names:
                shown = view(pool, name)
                assert (shown.deployed, shown.over, shown.to_give) == (expected, 0, 0)
                assert not any(part.retiring for part in shown.servers.values())

    run_virtual(program())
