"""Borrowing and giving between real servers in virtual time (section 6; claims B1 to B6)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from support.scenario_calls import allocated, beat, fate_of, refused, take

from licraft.core.codec import decode_entry
from licraft.core.commands import Borrow, Command, Release, RenewLease
from licraft.testing import DROPPED, LOST, UNHEARD, Fate, InProcessPool, late, run_virtual, twice
from licraft.wire import Authorization, CheckoutRequest


def test_seats_come_from_the_free_pool_then_the_leader_then_the_others() -> None:
    async def program() -> None:
        async with InProcessPool(3, threshold=1.0) as pool:
            await pool.install({"cad": 10}, distribution={"cad": "alpha:2^beta:2^gamma:2"})
            assert allocated(pool, "beta") == {"free": 4, "alpha": 2, "beta": 2, "gamma": 2}
            await take(pool, "beta", 5)
            assert allocated(pool, "beta") == {"free": 1, "alpha": 2, "beta": 5, "gamma": 2}
            await pool.advance(2.0)
            await take(pool, "beta", 2)
            assert allocated(pool, "beta") == {"alpha": 1, "beta": 7, "gamma": 2}
            await pool.advance(2.0)
            await take(pool, "beta", 2)
            assert allocated(pool, "beta") == {"beta": 9, "gamma": 1}
            await pool.advance(2.0)
            await take(pool, "beta", 1)
            assert allocated(pool, "beta") == {"beta": 10}

    run_virtual(program())


def test_what_a_down_server_left_comes_before_the_leaders_seats() -> None:
    async def program() -> None:
        async with InProcessPool(3, threshold=1.0, ttl_s=12.0) as pool:
            await pool.install({"cad": 6})
            pool.crash("gamma")
            await pool.until(lambda: pool.server("alpha").state.servers["gamma"].reclaimed)
            assert allocated(pool, "beta") == {"alpha": 2, "beta": 2, "gamma": 2}
            await take(pool, "beta", 4)
            assert allocated(pool, "beta") == {"alpha": 2, "beta": 4}
            await pool.advance(2.0)
            await take(pool, "beta", 1)
            assert allocated(pool, "beta") == {"alpha": 1, "beta": 5}

    run_virtual(program())


def test_for_a_client_that_moves_the_leaders_seats_come_first() -> None:
    async def program() -> None:
        async with InProcessPool(3, threshold=1.0) as pool:
            await pool.install({"cad": 12}, distribution={"cad": "alpha:3^beta:2^gamma:3"})
            _, seat = await pool.checkout("gamma", CheckoutRequest("cad", 3))
            assert isinstance(seat, Authorization)
            pool.crash("gamma")
            await pool.until(
                lambda: pool.server("beta").state.servers["gamma"].reclaimed, within_s=100
            )
            await take(pool, "beta", 2)
            await pool.advance(2.0)
            # Nobody can say any more that its seats are still its own: it asks for others.
            assert (await beat(pool, "beta", seat.token)).status == "converted"
            assert allocated(pool, "beta") == {"free": 4, "beta": 5, "gamma": 3}

    run_virtual(program())


def test_27_of_33_are_too_many_and_one_or_two_more_seats_make_it_sufficient() -> None:
    async def program() -> None:
        async with InProcessPool(3, threshold=0.8) as pool:
            await pool.install({"cad": 100}, distribution={"cad": "alpha:33^beta:33^gamma:33"})
            await take(pool, "beta", 26)
            await pool.advance(5.0)
            assert allocated(pool)["beta"] == 33
            await take(pool, "beta", 1)
            await pool.advance(1.0)
            # One suffices: 27 / 34 = 0.794. The last second's demand may add one more.
            assert allocated(pool)["beta"] in (34, 35)
            assert 27 / allocated(pool)["beta"] <= 0.8

    run_virtual(program())


def test_a_giver_keeps_its_threshold_for_comfort_and_gives_all_for_need() -> None:
    async def program() -> None:
        thresholds = {"alpha": 0.5, "beta": 0.5}
        async with InProcessPool(["alpha", "beta"], threshold=thresholds) as pool:
            await pool.install({"cad": 20})
            await take(pool, "alpha", 4)
            await pool.advance(2.0)
            await take(pool, "beta", 10)  # Insufficient: it would like 20 in all.
            await pool.advance(2.0)
            assert allocated(pool) == {"alpha": 8, "beta": 12}
            await take(pool, "beta", 6)
            assert allocated(pool, "beta") == {"alpha": 4, "beta": 16}
            assert (await refused(pool, "beta", 1)).code == "no_seats"

    run_virtual(program())


def test_who_waits_gets_what_is_checked_in_elsewhere() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 3})
            tokens = [await take(pool, "alpha", 1, wait=5) for _ in range(3)]
            waiting = asyncio.get_running_loop().create_task(take(pool, "gamma", 1, wait=50))
            await pool.advance(10.0)
            assert not waiting.done()
            freed_s = pool.now()
            await pool.checkin("alpha", tokens[0])
            await waiting
            assert pool.now() - freed_s < 0.5

    run_virtual(program())


def test_the_oldest_wait_of_the_pool_is_served_first() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 2})
            token = await take(pool, "alpha", 2, wait=5)
            loop = asyncio.get_running_loop()
            first = loop.create_task(take(pool, "gamma", 2, wait=40))
            await pool.advance(2.0)
            second = loop.create_task(take(pool, "beta", 2, wait=40))
            await pool.advance(2.0)
            await pool.checkin("alpha", token)
            await pool.advance(1.0)
            assert first.done()
            assert not second.done()
            await pool.checkin("gamma", await first)
            await pool.advance(1.0)
            assert second.done()

    run_virtual(program())


def test_need_is_asked_for_at_once_after_comfort_was_not_to_be_had() -> None:
    async def program() -> None:
        async with InProcessPool(["alpha", "beta"], threshold=0.5) as pool:
            await pool.install({"cad": 20})
            await take(pool, "alpha", 5)
            await pool.advance(2.0)
            await take(pool, "beta", 10)  # It would like more than alpha can spare.
            await pool.advance(0.2)
            begun_s = pool.now()
            await take(pool, "beta", 5)
            assert pool.now() - begun_s < 0.2

    run_virtual(program())


@pytest.mark.parametrize("seed", range(20))
def test_no_seat_stays_unused_while_somebody_waits_for_it(seed: int) -> None:
    async def program() -> None:
        rng = random.Random(seed)
        async with InProcessPool(3, seed=seed) as pool:
            await pool.install({"cad": 7})
            loop = asyncio.get_running_loop()
            for _ in range(3):
                held = [await take(pool, "beta", 1, wait=3) for _ in range(7)]
                requests = [("gamma", 5), ("alpha", 1), ("beta", 1), ("alpha", 3), ("beta", 2)]
                waiting: list[tuple[int, asyncio.Task[str]]] = []
                for name, count in rng.sample(requests, 3):
                    waiting.append((count, loop.create_task(take(pool, name, count, wait=60))))
                    await pool.advance(rng.choice([0.0, 0.001, 0.003, 0.01, 0.03]))
                for token in held:
                    await pool.checkin("beta", token)
                    await pool.advance(rng.choice([0.0, 0.001, 0.002, 0.005, 0.01]))
                while waiting:
                    await pool.advance(0.5)
                    served = [(count, task) for count, task in waiting if task.done()]
                    waiting = [(count, task) for count, task in waiting if not task.done()]
                    in_use = sum(count for count, _ in served)
                    assert any(count > 7 - in_use for count, _ in waiting) or not waiting
                    assert served
                    for _, task in served:
                        token = task.result()
                        await asyncio.gather(*(pool.checkin(name, token) for name in pool.names))

    run_virtual(program())


def test_what_was_kept_for_who_gives_up_is_for_the_next() -> None:
    async def program() -> None:
        async with InProcessPool(["alpha", "beta"]) as pool:
            await pool.install({"cad": 5})
            held = [await take(pool, "alpha", 1, wait=3) for _ in range(5)]
            loop = asyncio.get_running_loop()
            large = loop.create_task(refused(pool, "alpha", 5, wait=5))
            await pool.advance(0.5)
            here = loop.create_task(take(pool, "alpha", 1, wait=30))
            there = loop.create_task(take(pool, "beta", 1, wait=30))
            await pool.advance(0.5)
            for token in held[:2]:
                await pool.checkin("alpha", token)
            await pool.advance(2.0)
            assert not here.done()
            assert not there.done()
            await large
            await pool.advance(0.5)
            assert here.done()
            assert there.done()

    run_virtual(program())


def test_seats_that_moved_do_not_move_back_by_themselves() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 30})
            await take(pool, "alpha", 9)
            await take(pool, "beta", 9)
            await take(pool, "gamma", 9)
            await pool.advance(10.0)
            seats = allocated(pool)
            moves: list[Command] = []
            fate: Callable[[str, bytes], Fate] = pool.log.fate

            def watch(server: str, command: bytes) -> Fate:
                commands = decode_entry(command).commands
                moves.extend(c for c in commands if not isinstance(c, RenewLease))
                return fate(server, command)

            pool.log.fate = watch
            await pool.advance(40.0)
            assert moves == []
            assert allocated(pool) == seats

    run_virtual(program())


@pytest.mark.parametrize("fate", [late(4.0), LOST, UNHEARD, DROPPED, twice(0.5), twice(5.0)])
@pytest.mark.parametrize("kind", [Release, Borrow])
def test_whatever_becomes_of_a_move_no_seat_is_in_two_places(
    kind: type[Command], fate: Fate
) -> None:
    async def program() -> None:
        async with InProcessPool(3, threshold=1.0) as pool:
            await pool.install({"cad": 6}, distribution={"cad": "alpha:6"})
            pool.log.fate = fate_of(kind, fate)
            loop = asyncio.get_running_loop()
            asked = loop.create_task(
                pool.checkout("beta", CheckoutRequest("cad", 5, wait=30, id="B"))
            )
            await pool.advance(0.02)
            # The giver has set the seats aside, and does not know yet what became of them.
            here = [
                loop.create_task(
                    pool.checkout("alpha", CheckoutRequest("cad", 1, wait=1.0, id=f"A{n}"))
                )
                for n in range(6)
            ]
            for _ in range(400):
                await pool.advance(0.05)
                used = [pool.server(n).grants.record.in_use.get("cad", 0) for n in pool.names]
                assert sum(used) <= 6, used
                if pool.now() > 10.0:
                    pool.log.fate = fate_of(kind, twice(3.0))
            await asyncio.gather(asked, *here)
            for name in pool.names:
                for authorization in list(pool.server(name).grants.record):
                    await pool.checkin(name, authorization.token)
            await pool.advance(5.0)
            await take(pool, "gamma", 6, wait=10)

    run_virtual(program())


def test_seats_set_aside_are_not_granted_while_their_release_is_under_way() -> None:
    async def program() -> None:
        async with InProcessPool(3, threshold=1.0) as pool:
            await pool.install({"cad": 3}, distribution={"cad": "alpha:3"})
            pool.log.fate = fate_of(Release, late(2.5))
            asked = asyncio.get_running_loop().create_task(take(pool, "beta", 3, wait=30))
            await pool.advance(0.1)
            assert pool.server("alpha").grants.desk("cad").set_aside == 3
            assert pool.server("alpha").grants.record.in_use == {}
            assert (await refused(pool, "alpha")).code == "no_seats"
            await asked
            await pool.until(lambda: allocated(pool) == {"beta": 3}, within_s=1.0)

    run_virtual(program())


def test_a_new_leader_continues_a_borrow() -> None:
    async def program() -> None:
        async with InProcessPool(3, threshold=1.0) as pool:
            await pool.install({"cad": 9})
            await take(pool, "alpha", 3)
            await pool.advance(2.0)
            pool.pause("gamma")  # Only it could give, and cannot be asked yet.
            asked = asyncio.get_running_loop().create_task(take(pool, "beta", 5, wait=20))
            await pool.advance(0.1)
            pool.crash("alpha")
            pool.resume("gamma")
            await asked
            assert allocated(pool, "beta") == {"alpha": 3, "beta": 5, "gamma": 1}

    run_virtual(program())


def test_a_borrow_that_ended_within_a_snapshot_does_not_block_the_next_one() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 9})
            asked = asyncio.get_running_loop().create_task(take(pool, "gamma", 5, wait=2))
            await pool.advance(0.0001)
            assert pool.server("gamma").grants.desk("cad").asking
            pool.engine("gamma").lag_s = 0.6
            await pool.advance(0.4)
            pool.log.compact()
            pool.engine("gamma").lag_s = 0.0
            await pool.checkin("gamma", await asked)
            await pool.advance(10.0)
            await take(pool, "gamma", 9, wait=10)

    run_virtual(program())
