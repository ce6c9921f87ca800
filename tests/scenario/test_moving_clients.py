"""Clients of a server that failed, or that they left, take their seats along (section 10)."""

from __future__ import annotations

import asyncio

import pytest
from support.late_words import (
    what_comes_lasts_as_long_as_its_holder_may_rely_on_it,
    what_did_not_move_stays_where_it_was,
)
from support.moving_calls import (
    LEASE_S,
    TTL_S,
    a_pool,
    committed,
    confirmed,
    down,
    fill,
    in_use,
    seats_are,
)
from support.scenario_calls import allocated, beat, fate_of, keep, refused, take

from licraft.core.commands import Adopt, HandOver
from licraft.core.state import ServerStatus
from licraft.testing import late, run_virtual
from licraft.wire import Problem


def test_a_client_comes_with_its_seats_while_its_server_works() -> None:
    """Case 2: nothing is free anywhere, and the seats move with whoever moves."""

    async def program() -> None:
        async with a_pool() as pool:
            tokens = await fill(pool)
            moved = await beat(pool, "beta", tokens["gamma"])
            assert (moved.status, moved.server, moved.ttl) == ("adopted", "beta", TTL_S)
            assert moved.token is not None
            assert (await beat(pool, "beta", moved.token)).status == "renewed"
            await seats_are(pool, {"alpha": 2, "beta": 4})
            await pool.advance(0.2)
            assert (in_use(pool, "beta"), in_use(pool, "gamma")) == (4, 0)
            # The answer may have been lost: the old token finds it where it is.
            assert (await beat(pool, "beta", tokens["gamma"])).status == "converted"
            back = await beat(pool, "gamma", moved.token)
            assert (back.status, back.server) == ("adopted", "gamma")
            await seats_are(pool, {"alpha": 2, "beta": 2, "gamma": 2})
            assert (await refused(pool, "alpha")).code == "no_seats"

    run_virtual(program())


def test_a_server_that_does_not_have_it_any_more_says_so_and_the_client_is_converted() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            token = await take(pool, "gamma", 2)
            await pool.checkin("gamma", token)
            moved = await beat(pool, "beta", token)
            assert (moved.status, moved.server) == ("converted", "beta")

    run_virtual(program())


def test_the_same_heartbeat_sent_twice_at_once_is_converted_once() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 18})
            token = await take(pool, "gamma", 2)
            await pool.checkin("gamma", token)
            both = await asyncio.gather(beat(pool, "beta", token), beat(pool, "beta", token))
            assert [result.status for result in both] == ["converted"] * 2
            assert both[0].token == both[1].token
            assert in_use(pool, "beta") == 2

    run_virtual(program())


def test_while_the_server_is_silent_and_not_down_the_client_waits() -> None:
    """Case 3: it may still be renewing others, so nothing can be said yet."""

    async def program() -> None:
        async with a_pool() as pool:
            tokens = await fill(pool)
            pool.crash("gamma")
            answer = await beat(pool, "beta", tokens["gamma"])
            assert (answer.status, answer.ttl) == ("pending", None)
            assert answer.retry_after is not None
            assert allocated(pool)["gamma"] == 2

    run_virtual(program())


def test_who_waits_while_the_server_is_called_down_is_asked_at_once() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            tokens = await fill(pool)
            pool.crash("gamma")
            await pool.advance(LEASE_S - 1.0)
            waits = asyncio.ensure_future(beat(pool, "beta", tokens["gamma"]))
            index = await down(pool, "gamma")
            answer = await waits
            assert (answer.status, answer.down_index) == ("confirm", index)

    run_virtual(program())


def test_a_client_of_a_dead_server_keeps_its_seats_where_every_seat_is_in_use() -> None:
    """Case 4: adoption alone carries it over."""

    async def program() -> None:
        async with a_pool() as pool:
            tokens = await fill(pool)
            pool.crash("gamma")
            await down(pool, "gamma")
            moved = await confirmed(pool, "beta", tokens["gamma"])
            assert (moved.status, moved.server, moved.ttl) == ("adopted", "beta", TTL_S)
            assert moved.token is not None
            await seats_are(pool, {"alpha": 2, "beta": 4})
            assert in_use(pool, "beta") == 4
            assert (await beat(pool, "beta", moved.token)).status == "renewed"
            # It was adopted once: who asks elsewhere with the old token is handed on.
            other = await beat(pool, "alpha", tokens["gamma"])
            assert (other.status, other.server) == ("adopted", "alpha")
            await seats_are(pool, {"alpha": 4, "beta": 2})

    run_virtual(program())


def test_nothing_is_adopted_without_the_confirmation_that_fits() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            tokens = await fill(pool)
            pool.crash("gamma")
            index = await down(pool, "gamma")
            for wrong in (0, index - 1, index + 1):
                (answer,) = await pool.heartbeat(  # type: ignore[misc]  # No problem.
                    "beta", tokens["gamma"], confirm={"other": index, "X": wrong}
                )
                assert (answer.status, answer.down_index) == ("confirm", index)
            assert allocated(pool)["gamma"] == 2

    run_virtual(program())


def test_a_stale_claim_does_not_carry_off_somebody_elses_seat() -> None:
    """The claim was made while the server was down, and arrives when it is down anew."""

    async def program() -> None:
        async with a_pool() as pool:
            tokens = await fill(pool)
            pool.crash("gamma")
            index = await down(pool, "gamma")
            asked = await beat(pool, "beta", tokens["gamma"])
            # The client falls silent; its server comes back, and its seats are another's.
            pool.start("gamma")
            await pool.until(lambda: pool.server("gamma").may_grant())
            await pool.until(lambda: in_use(pool, "gamma") == 0, within_s=20)
            await take(pool, "gamma", 2)
            pool.crash("gamma")
            assert await down(pool, "gamma") > index
            late_claim = await pool.heartbeat("beta", tokens["gamma"], confirm={asked.id: index})
            assert not isinstance(late_claim, Problem)
            assert late_claim[0].status == "confirm"  # It has expired: the client does not.
            assert allocated(pool)["gamma"] == 2

    run_virtual(program())


def test_an_adoption_that_is_late_has_no_effect_after_the_return() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            tokens = await fill(pool)
            pool.crash("gamma")
            await down(pool, "gamma")
            pool.log.fate = fate_of(Adopt, late(5.0))
            adoption = asyncio.ensure_future(confirmed(pool, "beta", tokens["gamma"]))
            await pool.advance(1.0)
            pool.start("gamma")
            await pool.until(lambda: pool.server("gamma").may_grant())
            assert (await adoption).status == "pending"
            assert (await beat(pool, "gamma", tokens["gamma"])).status == "renewed"
            await seats_are(pool, {"alpha": 2, "beta": 2, "gamma": 2})

    run_virtual(program())


@pytest.mark.parametrize("how", ["restart", "reboot", "snapshot", "pause"])
def test_a_server_that_returns_does_not_have_what_was_adopted(how: str) -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            first, second = await take(pool, "gamma"), await take(pool, "gamma")
            if how == "pause":
                pool.pause("gamma")
            else:
                pool.crash("gamma")
            await down(pool, "gamma")
            moved = await confirmed(pool, "beta", first)
            assert moved.token is not None
            if how == "snapshot":
                await pool.advance(0.5)
                pool.log.compact()
            if how == "pause":
                pool.resume("gamma")
            else:
                pool.start("gamma", reboot=how == "reboot")
            await pool.until(
                lambda: pool.server("gamma").status() in ("serving", "recovering"), within_s=5
            )
            assert (await keep(pool, "gamma", second)).status == "renewed"
            assert in_use(pool, "gamma") == 1
            assert (await beat(pool, "beta", moved.token)).status == "renewed"
            await seats_are(pool, {"alpha": 2, "beta": 3, "gamma": 1})

    run_virtual(program())


def test_what_came_to_a_server_unheard_is_rebuilt_there_after_its_record_was_lost() -> None:
    """Whoever knows its old token only is as good a witness as those it granted itself."""

    async def program() -> None:
        async with a_pool() as pool:
            tokens = await fill(pool)
            pool.crash("beta")
            await down(pool, "beta")
            assert (await confirmed(pool, "gamma", tokens["beta"])).status == "adopted"
            pool.crash("gamma")
            pool.start("gamma", reboot=True)
            await pool.until(lambda: pool.server("gamma").status() == "recovering")
            assert (await beat(pool, "gamma", tokens["beta"])).status == "confirm"
            assert in_use(pool, "gamma") == 0
            kept = await confirmed(pool, "gamma", tokens["beta"])
            assert (kept.status, kept.server) == ("converted", "gamma")
            assert kept.token is not None
            assert (await beat(pool, "gamma", kept.token)).status == "renewed"
            assert in_use(pool, "gamma") == 2
            assert (await keep(pool, "gamma", tokens["gamma"])).status == "renewed"
            await seats_are(pool, {"alpha": 2, "gamma": 4})

    run_virtual(program())


def test_what_has_left_a_server_that_recovers_is_had_from_where_it_is() -> None:
    """It came back for a while, and its client knows the token of then only."""

    async def program() -> None:
        async with a_pool() as pool:
            tokens = await fill(pool)
            assert (await beat(pool, "alpha", tokens["gamma"])).status == "adopted"
            pool.crash("gamma")
            pool.start("gamma", reboot=True)
            await pool.until(lambda: pool.server("gamma").status() == "recovering")
            assert (await beat(pool, "gamma", tokens["gamma"])).status == "adopted"
            assert in_use(pool, "gamma") == 2
            await seats_are(pool, {"alpha": 2, "beta": 2, "gamma": 2})

    run_virtual(program())


def test_a_client_is_told_where_its_seat_went_if_only_that_server_can_tell() -> None:
    """It moved unheard, and where it went the record was lost: that server must be asked."""

    async def program() -> None:
        async with a_pool() as pool:
            token = (await fill(pool))["beta"]
            assert (await beat(pool, "gamma", token)).status == "adopted"
            pool.crash("gamma")
            pool.start("gamma", reboot=True)
            await pool.until(lambda: pool.server("gamma").status() == "recovering")
            for server in ("alpha", "beta"):
                told = await beat(pool, server, token)
                assert (told.status, told.server) == ("pending", "gamma")
            assert (await confirmed(pool, "gamma", token)).status == "converted"

    run_virtual(program())


def test_two_servers_asked_at_once_adopt_it_once() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            tokens = await fill(pool)
            pool.crash("gamma")
            await down(pool, "gamma")
            results = await asyncio.gather(
                confirmed(pool, "alpha", tokens["gamma"]), confirmed(pool, "beta", tokens["gamma"])
            )
            assert sorted(result.status for result in results) == ["adopted", "pending"]
            await pool.advance(0.2)
            assert sorted(allocated(pool).values()) == [2, 4]

    run_virtual(program())


def test_after_the_reclaim_it_is_a_request_like_any_other() -> None:
    """Case 5."""

    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            token = await take(pool, "gamma", 2)
            pool.crash("gamma")
            await pool.until(lambda: pool.server(pool.leader).state.servers["gamma"].reclaimed)
            assert (await beat(pool, "beta", token)).status == "converted"

    run_virtual(program())


def test_what_is_on_its_way_is_neither_renewed_nor_given_away_nor_expires() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            tokens = await fill(pool)
            pool.log.fate = fate_of(HandOver, late(5.0))
            claim = asyncio.ensure_future(beat(pool, "beta", tokens["gamma"]))
            await pool.advance(1.0)
            assert (await beat(pool, "gamma", tokens["gamma"])).status == "pending"
            assert in_use(pool, "gamma") == 2
            assert (await claim).status == "pending"
            await pool.until(lambda: allocated(pool).get("gamma", 0) == 0, within_s=10)
            assert in_use(pool, "beta") == 4
            assert in_use(pool, "gamma") == 0

    run_virtual(program())


def test_if_the_one_who_asked_is_gone_it_stays_where_it_was() -> None:
    what_did_not_move_stays_where_it_was()


@pytest.mark.parametrize("by_snapshot", [False, True])
@pytest.mark.parametrize("reboot", [False, True])
def test_a_server_that_dies_before_it_knew_what_it_got_does_not_give_it_away(
    by_snapshot: bool, reboot: bool
) -> None:
    """Its record does not have the authorization, and its client may still rely on it."""

    async def program() -> None:
        async with a_pool() as pool:
            tokens = await fill(pool)
            pool.crash("gamma")
            await down(pool, "gamma")
            asked = await beat(pool, "beta", tokens["gamma"])
            assert asked.down_index is not None
            before = pool.log.index
            claim = asyncio.ensure_future(
                pool.heartbeat("beta", tokens["gamma"], confirm={asked.id: asked.down_index})
            )
            await pool.until(lambda: committed(pool, Adopt, before) > 0, within_s=1.0)
            pool.crash("beta")  # Its command is committed, and it does not know.
            claim.cancel()
            await pool.advance(0.2)
            assert allocated(pool)["beta"] == 4
            if by_snapshot:
                pool.log.compact()
            pool.start("beta", reboot=reboot)
            await pool.until(lambda: pool.server("beta").standing.up, within_s=6)
            for name in ("alpha", "beta"):
                assert (await refused(pool, name, 1)).status in (409, 503)
            back = await keep(pool, "beta", tokens["gamma"])
            assert back.status in ("converted", "adopted", "pending", "renewed")
            assert (await keep(pool, "beta", tokens["beta"])).status == "renewed"

    run_virtual(program())


def test_a_server_that_works_on_through_a_snapshot_over_a_move_waits() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await fill(pool)
            beta = pool.server("beta")
            beta.state.servers["beta"].moved_index = pool.log.index + 5
            beta.pool_machine.on_restored()
            assert beta.status() == "recovering"
            assert len(beta.grants.record) == 0
            assert (await refused(pool, "beta")).code == "recovering"

    run_virtual(program())


def test_status_of_a_server_that_is_down_is_told_by_its_index() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await fill(pool)
            pool.crash("gamma")
            index = await down(pool, "gamma")
            state = pool.server("alpha").state
            assert state.servers["gamma"].status is ServerStatus.DOWN
            assert 0 < index <= state.index

    run_virtual(program())


@pytest.mark.parametrize("again", [1, 2])
def test_what_comes_lasts_though_its_client_was_granted_others_under_its_id(again: int) -> None:
    what_comes_lasts_as_long_as_its_holder_may_rely_on_it(again)
