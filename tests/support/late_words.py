"""Commands that come late, when what they were based on is no longer so (sections 4 and 10).

May import the testing room and the scenarios' calls. Each scenario raises AssertionError if a
client loses seats by that, or others have them while it may still rely on them.
"""

from __future__ import annotations

import asyncio
from itertools import chain, repeat

from licraft.core.codec import decode_entry
from licraft.core.commands import (
    Adopt,
    Claim,
    Command,
    ForgetMoves,
    HandOver,
    Reclaim,
    ServerDown,
    asked_for,
)
from licraft.server.license_server import LicenseServer
from licraft.testing import COMMITTED, InProcessPool, late, run_virtual
from licraft.wire import Authorization, CheckoutRequest, ClientInfo, HeartbeatResult, Problem
from support.moving_calls import a_pool, down, fill, seats_are
from support.scenario_calls import allocated, beat, fate_of, keep, refused, take

LEASE_S, TTL_S, DRIFT = 3.0, 12.0, 0.01
SEATS = 6


def a_late_designation_takes_no_seat_from_a_client() -> None:
    """A ServerDown is applied after its server has renewed its lease."""
    run_virtual(_late_designation())


def what_did_not_move_stays_where_it_was() -> None:
    """Who asked for an authorization is gone before it came."""

    async def program() -> None:
        async with a_pool() as pool:
            tokens = await fill(pool)
            pool.log.fate = fate_of(HandOver, late(6.0))
            claim = asyncio.ensure_future(beat(pool, "beta", tokens["gamma"]))
            await pool.advance(0.5)
            claim.cancel()
            pool.crash("beta")
            await down(pool, "beta")
            await pool.advance(6.0)
            assert (await beat(pool, "gamma", tokens["gamma"])).status == "renewed"
            await seats_are(pool, {"alpha": 2, "beta": 2, "gamma": 2})

    run_virtual(program())


def what_comes_lasts_as_long_as_its_holder_may_rely_on_it(again: int = 2) -> None:
    """Its client was granted others under its id, late, and was renewed since where it was."""

    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            request = CheckoutRequest("cad", 2, id="X", client=ClientInfo("ann"))
            _, first = await pool.checkout("alpha", request)
            assert isinstance(first, Authorization)
            await pool.advance(4.0)
            pool.log.fate = fate_of(Claim, late(6.0))
            claim = asyncio.ensure_future(beat(pool, "beta", first.token))
            await pool.advance(1.0)
            _, other = await pool.checkout(
                "beta", CheckoutRequest("cad", again, id="X", client=ClientInfo("ann"))
            )
            assert isinstance(other, Authorization)
            await pool.advance(4.0)
            assert (await beat(pool, "alpha", first.token)).status == "renewed"
            relied_on_s = pool.now() + TTL_S
            await claim
            await pool.until(lambda: allocated(pool).get("beta") == 4, "it has come")
            await pool.advance(relied_on_s - 0.5 - pool.now())
            assert (await refused(pool, "gamma", 5, wait=0.4)).code == "no_seats"
            await pool.advance(LEASE_S)
            await take(pool, "gamma", 4, wait=5.0)

    run_virtual(program())


def a_late_adoption_takes_no_seat_from_a_client() -> None:
    """An Adopt is applied when its issuer was back, has granted anew, and is down once more."""
    run_virtual(_late_adoption())


def a_move_that_a_snapshot_hid_is_not_made_up_for_by_the_next() -> None:
    """Two authorizations move to a server that has died: one in a snapshot, one in the log."""
    run_virtual(_hidden_move())


def what_is_handed_over_is_valid_by_its_new_server_alone() -> None:
    """Its old one hears late that it has gone, and its client asks there until then."""
    run_virtual(_late_news())


def an_old_token_takes_no_seat_from_a_client() -> None:
    """Its seat has moved, and it does not know that; who had the seat is down."""
    run_virtual(_old_token())


def a_server_that_may_return_is_told_what_was_adopted() -> None:
    """It was adopted longer than a `ttl` ago, and the server is not reclaimed yet."""
    run_virtual(_late_reclaim())


def _a_pool() -> InProcessPool:
    return InProcessPool(3, lease_s=LEASE_S, ttl_s=TTL_S, drift=DRIFT, threshold=1.0)


async def _late_designation() -> None:
    async with _a_pool() as pool:
        await pool.install({"cad": SEATS})
        token = await take(pool, "gamma", 2)
        # The leader gives gamma up, and its word is under way for so long that gamma is back.
        pool.log.fate = fate_of(ServerDown, late(2.5))
        pool.log.isolate("gamma")
        await pool.advance(LEASE_S * (1 + DRIFT) + 0.3)
        pool.log.heal()
        await pool.until(lambda: pool.server("gamma").may_grant(), "gamma is back", within_s=2.0)
        pool.engine("gamma").lag_s = 0.3
        await pool.until(lambda: _committed(pool, ServerDown), "the word arrives", within_s=3.0)
        assert pool.server("gamma").may_grant()
        # gamma has not heard it, is cut off at once, and serves its client as long as it may.
        pool.log.isolate("gamma")
        pool.log.fate = lambda server, command: COMMITTED
        others = asyncio.ensure_future(
            pool.checkout("alpha", CheckoutRequest("cad", SEATS, wait=3 * TTL_S))
        )
        valid_until_s = 0.0
        while not isinstance(await pool.heartbeat("gamma", token), Problem):
            valid_until_s = pool.now() + TTL_S
            await pool.advance(0.1)
        _, answer = await others
        assert isinstance(answer, Authorization)
        assert pool.now() >= valid_until_s, f"{valid_until_s - pool.now():.1f} s too early"


async def _late_adoption() -> None:
    async with _a_pool() as pool:
        await pool.install({"cad": SEATS})
        first = await take(pool, "gamma", 2)
        pool.crash("gamma")
        await _down(pool)
        pool.log.fate = fate_of(Adopt, late(19.0))
        claim = asyncio.ensure_future(_confirmed(pool, "beta", first))
        await pool.advance(1.0)
        pool.start("gamma")
        # The first client falls silent; gamma grants its seats to a second one, and dies.
        await pool.until(lambda: pool.server("gamma").may_grant(), "gamma is back")
        await pool.until(lambda: not any(pool.server("gamma").grants.record), within_s=30.0)
        second = await take(pool, "gamma", 2)
        pool.crash("gamma")
        await _down(pool)
        await pool.until(lambda: _committed(pool, Adopt), "the late adoption", within_s=10.0)
        await pool.advance(0.2)
        claim.cancel()
        pool.log.fate = lambda server, command: COMMITTED
        assert (await _confirmed(pool, "alpha", second)).status == "adopted"


async def _hidden_move() -> None:
    async with _a_pool() as pool:
        await pool.install({"cad": SEATS})
        await take(pool, "alpha", 2)
        await take(pool, "beta", 2)
        tokens = [await take(pool, "gamma"), await take(pool, "gamma")]
        fates = chain((COMMITTED,), repeat(late(1.0)))
        pool.log.fate = lambda server, command: (
            next(fates) if _has(command, HandOver) else COMMITTED
        )
        pool.engine("beta").lag_s = 0.3
        claims = [asyncio.ensure_future(beat(pool, "beta", token)) for token in tokens]
        await pool.until(lambda: _committed(pool, HandOver), "the first moves", within_s=2.0)
        pool.crash("beta")
        await pool.advance(0.2)
        pool.log.compact()
        await pool.until(lambda: _committed(pool, HandOver), "the second moves", within_s=2.0)
        await pool.advance(0.1)
        assert allocated(pool, "alpha") == {"alpha": 2, "beta": 4}
        pool.start("beta")
        await pool.until(lambda: pool.server("beta").standing.acts(), "beta is up")
        for claim in claims:
            claim.cancel()
        assert isinstance(await refused(pool, "beta"), Problem)


async def _late_news() -> None:
    async with _a_pool() as pool:
        await pool.install({"cad": SEATS})
        token = await take(pool, "gamma", 2)
        pool.log.fate = fate_of(HandOver, late(0.3))
        claim = asyncio.ensure_future(beat(pool, "beta", token))
        gamma = pool.server("gamma")
        await pool.until(lambda: _leaves(gamma), "it is on its way", within_s=1.0)
        pool.engine("gamma").lag_s = 1.8
        await pool.until(lambda: _committed(pool, HandOver), "it has moved", within_s=1.0)
        others = asyncio.ensure_future(
            pool.checkout("alpha", CheckoutRequest("cad", SEATS, wait=3 * TTL_S))
        )
        valid_until_s = 0.0
        for _ in range(16):
            if (await beat(pool, "gamma", token)).status == "renewed":
                valid_until_s = pool.now() + TTL_S
            await pool.advance(0.1)
        claim.cancel()
        _, answer = await others
        assert isinstance(answer, Authorization)
        assert pool.now() >= valid_until_s, f"{valid_until_s - pool.now():.1f} s too early"


async def _old_token() -> None:
    async with _a_pool() as pool:
        await pool.install({"cad": SEATS})
        for name in ("alpha", "beta"):
            await take(pool, name, 2)
        first, second = await take(pool, "gamma"), await take(pool, "gamma")
        # The answer to the first client is lost. A new leader does not know when that was.
        assert (await beat(pool, "beta", first)).status == "adopted"
        await pool.advance(0.5)
        pool.log.elect("beta")
        await pool.advance(0.5)
        pool.crash("gamma")
        await _down(pool)
        assert (await keep(pool, "alpha", first)).status == "adopted"
        assert (await keep(pool, "beta", second)).status == "adopted"
        await pool.advance(0.5)
        assert allocated(pool) == {"alpha": 3, "beta": 3}


async def _late_reclaim() -> None:
    async with _a_pool() as pool:
        await pool.install({"cad": SEATS})
        wanders = await take(pool, "alpha", 2)
        adopted, stays = await take(pool, "gamma"), await take(pool, "gamma")
        pool.crash("gamma")
        await _down(pool)
        tokens = [(await keep(pool, "beta", token)).token for token in (adopted, wanders)]
        pool.log.fate = fate_of(Reclaim, late(6.0))
        while not _committed(pool, ForgetMoves):
            assert pool.now() < 3 * TTL_S, "nothing is forgotten"
            for token in tokens:
                assert (await beat(pool, "beta", token or "")).status == "renewed"
            await pool.advance(1.0)
        await pool.advance(0.1)
        assert not _committed(pool, Reclaim)
        # It does not see in the log what became of its seats: it has to be told.
        pool.log.compact()
        gamma = pool.start("gamma")
        await pool.until(lambda: gamma.status() == "serving", "gamma is back", within_s=3.0)
        # It may ask for the seat. What it has on record has its seat there.
        assert (await beat(pool, "gamma", tokens[0] or "")).status == "adopted"
        assert (await beat(pool, "gamma", stays)).status == "renewed"
        await pool.advance(0.2)
        in_use = gamma.grants.record.in_use["cad"]
        assert in_use <= allocated(pool)["gamma"], f"{in_use} in use of {allocated(pool)}"


def _leaves(server: LicenseServer) -> bool:
    """Whether an authorization is on its way from a server."""
    record = server.grants.record
    return any(record.leaves(authorization.id) for authorization in record)


async def _down(pool: InProcessPool) -> None:
    alpha = pool.server("alpha")
    await pool.until(lambda: alpha.state.servers["gamma"].down_index > 0, "gamma is down")


async def _confirmed(pool: InProcessPool, server: str, token: str) -> HeartbeatResult:
    """Send a heartbeat to another server than its own, and again with what that asks for."""
    asked = await beat(pool, server, token)
    answer = await pool.heartbeat(server, token, confirm={asked.id: asked.down_index or 0})
    assert not isinstance(answer, Problem)
    return answer[0]


def _committed(pool: InProcessPool, kind: type[Command]) -> bool:
    """Whether such a command is in the log, after its snapshot."""
    entries = (pool.log.entry(index) for index in range(pool.log.base[0] + 1, pool.log.index + 1))
    return any(_has(entry, kind) for entry in entries if entry is not None)


def _has(entry: bytes, kind: type[Command]) -> bool:
    return any(isinstance(asked_for(c), kind) for c in decode_entry(entry).commands)


def a_machine_that_slept_grants_nothing_that_others_have() -> None:
    """It wakes before its network does: its lease is over, whatever PySyncObj's clock says."""

    async def program() -> None:
        async with InProcessPool(
            3, lease_s=LEASE_S, ttl_s=TTL_S, drift=DRIFT, raft=True, seed=1
        ) as pool:
            await pool.install({"cad": SEATS})
            pool.suspend("gamma")
            others = ("alpha", "beta")
            await pool.until(
                lambda: pool.server("beta").state.servers["gamma"].reclaimed, "gamma is reclaimed"
            )
            held = 0
            while isinstance(await _one_of(pool, others), Authorization):
                held += 1
            pool.log.isolate("gamma")
            pool.resume("gamma")
            while isinstance(await _one_of(pool, ("gamma",)), Authorization):
                held += 1
            assert held == SEATS

    run_virtual(program())


async def _one_of(pool: InProcessPool, names: tuple[str, ...]) -> Authorization | Problem:
    """What the first of some servers says that grants a seat, or else the last."""
    for name in names:
        _, answer = await pool.checkout(name, CheckoutRequest("cad", wait=2.0))
        if isinstance(answer, Authorization):
            break
    return answer
