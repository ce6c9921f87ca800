"""Clients of a server that failed, or that they left, take their seats along (section 10)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from scenario_calls import allocated, beat, fate_of, keep, refused, take

from licraft.core.codec import decode_entry
from licraft.core.commands import Adopt, Command, ForgetMoves, HandOver, Reclaim
from licraft.core.state import ServerStatus
from licraft.testing import InProcessPool, late, run_virtual
from licraft.wire import Authorization, CheckoutRequest, HeartbeatResult, Problem

LEASE_S, TTL_S, DRIFT = 3.0, 12.0, 0.1


def a_pool(servers: int = 3, rates: Mapping[str, float] | None = None) -> InProcessPool:
    return InProcessPool(
        servers,
        lease_s=LEASE_S,
        ttl_s=TTL_S,
        drift=DRIFT,
        threshold=1.0,
        rates=rates,
        leader_handback=False,
    )


async def down(pool: InProcessPool, server: str) -> int:
    """Wait until a server is called down; returns the log index of that."""

    def index() -> int:
        return pool.server(pool.leader).state.servers[server].down_index

    await pool.until(lambda: index() > 0, f"{server} is down")
    return index()


async def confirmed(pool: InProcessPool, server: str, token: str) -> HeartbeatResult:
    """Send a heartbeat to another server, and again with what that asks for."""
    asked = await beat(pool, server, token)
    assert asked.status == "confirm"
    assert asked.down_index is not None
    answer = await pool.heartbeat(server, token, confirm={asked.id: asked.down_index})
    assert not isinstance(answer, Problem)
    return answer[0]


def in_use(pool: InProcessPool, server: str) -> int:
    return pool.server(server).grants.record.in_use.get("cad", 0)


async def seats_are(pool: InProcessPool, expected: dict[str, int]) -> None:
    """Every server soon says so."""
    await pool.until(
        lambda: all(allocated(pool, name) == expected for name in pool.running),
        f"the seats are {expected}",
        within_s=3.0,
    )


def committed(pool: InProcessPool, kind: type[Command], after: int) -> int:
    """How many commands of a kind were committed after a log index."""
    entries = (pool.log.entry(index) for index in range(after + 1, pool.log.index + 1))
    commands = [c for e in entries if e is not None for c in decode_entry(e).commands]
    return sum(isinstance(command, kind) for command in commands)


async def fill(pool: InProcessPool, seats: int = 6) -> dict[str, str]:
    """Have every seat of the pool in use; returns a token of each server."""
    await pool.install({"cad": seats})
    return {name: await take(pool, name, seats // len(pool.names)) for name in pool.names}


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


# What is remembered of moves, and for how long


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
            await pool.until(lambda: remembered(pool) == 0, within_s=TTL_S * (1 + DRIFT) + 0.5)
            assert committed(pool, ForgetMoves, before) <= moves

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
