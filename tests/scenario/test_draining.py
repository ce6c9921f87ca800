"""A server is drained, or stops in an orderly way: its seats and clients go, none is lost."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from support.scenario_calls import allocated, beat, fate_of, keep, refused, take

from licraft.core.codec import decode_entry
from licraft.core.commands import Adopt, Borrow, Drain, HandOver, Reason, Solicit
from licraft.core.outcomes import Effect
from licraft.core.state import ServerStatus
from licraft.errors import NotExecuted
from licraft.server.leader import HANDBACK_S
from licraft.testing import InProcessPool, late, run_virtual
from licraft.testing.shared_log import ScriptedEngine
from licraft.wire import CheckoutRequest, Problem, ServerAnswer

LEASE_S, TTL_S, DRIFT = 3.0, 60.0, 0.01
HEARTBEAT_S = TTL_S / 3


def a_pool(servers: int = 3, *, ttl_s: float = TTL_S) -> InProcessPool:
    return InProcessPool(servers, lease_s=LEASE_S, ttl_s=ttl_s, drift=DRIFT, threshold=1.0)


async def drain(pool: InProcessPool, name: str, at: str = "alpha", *, on: bool = True) -> None:
    answer = await pool.server(at).drain(name, on=on)
    assert isinstance(answer, ServerAnswer), answer
    assert (answer.name, answer.state) == (name, "draining" if on else "up")


async def drained(pool: InProcessPool, name: str, at: str = "alpha") -> None:
    """Drain a server, and wait until it knows."""
    await drain(pool, name, at)
    await pool.until(lambda: pool.server(name).status() == "draining", within_s=2.0)


def in_use(pool: InProcessPool, server: str) -> int:
    return pool.server(server).grants.record.in_use.get("cad", 0)


def state_of(pool: InProcessPool, server: str, by: str = "alpha") -> str:
    return {view.name: view.state for view in pool.server(by).pool().servers}[server]


async def sent_away(pool: InProcessPool, server: str, token: str) -> Problem:
    """Send a heartbeat, which must be answered with where to go; returns that."""
    answer = await pool.heartbeat(server, token)
    assert isinstance(answer, Problem), answer
    assert (answer.status, answer.code) == (503, "draining")
    return answer


def _entries(problem: Problem) -> list[dict[str, str]]:
    """The servers in the order in which a client is told to try them."""
    decoded = msgspec.json.decode(msgspec.json.encode(problem))
    entries = decoded["servers"]["list"]
    assert isinstance(entries, list)
    return entries


def committed(pool: InProcessPool, kind: type, after: int) -> int:
    """How many commands of a kind were committed after a log index."""
    entries = (pool.log.entry(index) for index in range(after + 1, pool.log.index + 1))
    commands = [c for e in entries if e is not None for c in decode_entry(e).commands]
    return sum(isinstance(command, kind) for command in commands)


@pytest.mark.parametrize("at", ["alpha", "beta", "gamma"])
def test_what_nobody_holds_is_there_for_others_at_once(at: str) -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 30})
            await take(pool, "gamma", 4)
            await drained(pool, "gamma", at)
            answer = await refused(pool, "gamma")
            assert (answer.status, answer.code) == (503, "draining")
            assert "gamma is being drained" in answer.detail
            assert [entry["name"] for entry in _entries(answer)] == ["alpha", "beta", "gamma"]
            assert state_of(pool, "gamma") == "draining"
            await pool.until(lambda: allocated(pool).get("gamma") == 4, within_s=1.0)
            await take(pool, "alpha", 26)
            assert not pool.server("gamma").readiness().ready
            assert "drained" in pool.server("gamma").readiness().detail

    run_virtual(program())


def test_seats_go_as_they_come_free_and_who_waits_elsewhere_gets_them() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            tokens = [await take(pool, "gamma") for _ in range(2)]
            await take(pool, "alpha", 4)
            await drained(pool, "gamma")
            waiting = asyncio.ensure_future(
                pool.checkout("beta", CheckoutRequest("cad", 1, wait=30.0))
            )
            await pool.advance(1.0)
            assert not waiting.done()
            await pool.checkin("gamma", tokens[0])
            assert (await waiting)[0] == 201
            await pool.advance(0.5)
            assert allocated(pool)["gamma"] == 1

    run_virtual(program())


def test_a_client_goes_elsewhere_with_its_seats_though_all_are_in_use() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            tokens = {name: await take(pool, name, 2) for name in pool.names}
            await drained(pool, "gamma")
            await pool.advance(HEARTBEAT_S)
            answer = await sent_away(pool, "gamma", tokens["gamma"])
            assert _entries(answer)[0]["name"] == "alpha"
            moved = await beat(pool, "alpha", tokens["gamma"])
            assert (moved.status, moved.server) == ("adopted", "alpha")
            await pool.until(lambda: in_use(pool, "gamma") == 0, within_s=1.0)
            assert allocated(pool) == {"alpha": 4, "beta": 2}

    run_virtual(program())


def test_a_client_that_finds_nobody_else_keeps_its_seat_where_it_is() -> None:
    """The others work, and this client cannot reach them: it never sends them anything."""

    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            token = await take(pool, "gamma", 2)
            await drained(pool, "gamma")
            renewed_s, refusals = pool.now(), 0
            while pool.now() < 4 * TTL_S:
                answer = await pool.heartbeat("gamma", token)
                if isinstance(answer, Problem):
                    refusals += 1
                    assert pool.now() - renewed_s < TTL_S / 2 + 1.0
                else:
                    assert answer[0].status == "renewed"
                    renewed_s = pool.now()
                await pool.advance(1.0)
            assert in_use(pool, "gamma") == 2
            assert refusals > 100

    run_virtual(program())


def test_a_client_that_has_not_called_since_a_restart_is_renewed_first() -> None:
    """How much of its time is over this server cannot know."""

    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            token = await take(pool, "gamma", 2)
            await drained(pool, "gamma")
            await pool.advance(TTL_S - LEASE_S)
            pool.crash("gamma")
            pool.start("gamma")
            await pool.until(lambda: pool.server("gamma").status() == "draining", within_s=2.0)
            assert (await beat(pool, "gamma", token)).status == "renewed"
            await sent_away(pool, "gamma", token)

    run_virtual(program())


@pytest.mark.parametrize("reboot", [False, True])
def test_it_goes_on_after_a_restart_of_the_server_and_a_change_of_leader(reboot: bool) -> None:
    async def program() -> None:
        async with a_pool(ttl_s=12.0) as pool:
            await pool.install({"cad": 6})
            await take(pool, "gamma")
            await drained(pool, "gamma")
            await pool.until(lambda: allocated(pool).get("gamma") == 1, within_s=1.0)
            pool.crash("gamma")
            pool.log.elect("beta")
            pool.log.compact()
            pool.start("gamma", reboot=reboot)
            await pool.until(
                lambda: pool.server("gamma").status() in ("draining", "recovering"), within_s=6.0
            )
            assert state_of(pool, "gamma") == "draining"
            refusal = await refused(pool, "gamma")
            assert refusal.code == ("recovering" if reboot else "draining")
            assert allocated(pool)["gamma"] == 1
            # Its holder is gone: the seat goes when nobody can rely on it.
            await pool.until(lambda: "gamma" not in allocated(pool), within_s=20.0)
            assert (await refused(pool, "gamma")).code == "draining"

    run_virtual(program())


def test_one_that_dies_while_it_drains_is_empty_once_it_is_reclaimed() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            tokens = [await take(pool, "gamma") for _ in range(2)]
            await drained(pool, "gamma")
            pool.crash("gamma")
            await pool.until(lambda: state_of(pool, "gamma") == "down", within_s=10.0)
            down_index = pool.server("alpha").state.servers["gamma"].down_index
            asked = await beat(pool, "beta", tokens[0])
            confirm = {asked.id: down_index}
            moved = await pool.heartbeat("beta", tokens[0], confirm=confirm)
            assert not isinstance(moved, Problem)
            assert moved[0].status == "adopted"
            await pool.until(lambda: allocated(pool)["gamma"] == 1, "all know", within_s=1.0)
            await pool.until(lambda: "gamma" not in allocated(pool), within_s=TTL_S + 5.0)
            assert pool.server("alpha").state.servers["gamma"].reclaimed

    run_virtual(program())


def test_one_that_is_down_is_drained_by_a_wish_that_holds_when_it_is_back() -> None:
    async def program() -> None:
        async with a_pool(ttl_s=12.0) as pool:
            await pool.install({"cad": 6})
            pool.crash("gamma")
            await pool.until(
                lambda: pool.server("alpha").state.servers["gamma"].reclaimed, within_s=30.0
            )
            assert allocated(pool)["gamma"] == 2
            answer = await pool.server("beta").drain("gamma", on=True)
            assert isinstance(answer, ServerAnswer)
            assert answer.state == "down"
            assert allocated(pool, "beta") == {"alpha": 2, "beta": 2, "free": 2}
            pool.start("gamma")
            await pool.until(lambda: pool.server("gamma").status() == "draining", within_s=6.0)
            assert (await refused(pool, "gamma")).code == "draining"

    run_virtual(program())


def test_undrained_it_grants_again() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            await drained(pool, "gamma")
            await pool.until(lambda: "gamma" not in allocated(pool), within_s=1.0)
            await drain(pool, "gamma", "gamma", on=False)
            await pool.until(lambda: pool.server("gamma").may_grant(), within_s=1.0)
            assert state_of(pool, "gamma") == "up"
            await take(pool, "gamma", 2)
            assert allocated(pool, "gamma")["gamma"] == 2

    run_virtual(program())


def test_a_server_that_drains_is_not_given_what_it_asked_for_before() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            token = await take(pool, "alpha", 6)
            asked = asyncio.ensure_future(
                pool.checkout("gamma", CheckoutRequest("cad", 2, wait=20.0))
            )
            await pool.advance(1.0)
            await drained(pool, "gamma")
            assert not pool.server("alpha").state.table.features["cad"].pending
            status, answer = await asked
            assert isinstance(answer, Problem)
            assert (status, answer.code) == (503, "draining")
            await pool.checkin("alpha", token)
            # What it had asked for just before, and is committed after it, finds nothing.
            borrow = Borrow("gamma:1:99", "cad", "gamma", 2, 2, Reason.REQUEST, 0, hold=True)
            outcome = await pool.server("gamma").proposer.submit(borrow)
            assert outcome.effect is Effect.NONE
            assert "gamma" not in allocated(pool, "gamma")

    run_virtual(program())


def test_it_is_not_asked_for_seats_and_gets_none_of_a_new_license() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 9})
            await take(pool, "gamma", 2)
            await drained(pool, "gamma")
            await pool.until(lambda: allocated(pool)["gamma"] == 2, within_s=1.0)
            before = pool.log.index
            assert (await refused(pool, "beta", 8)).code == "no_seats"
            assert committed(pool, Solicit, before) == 0
            await pool.install({"cad": 12, "sim": 4}, distribution={"sim": "gamma:3^beta:1"})
            assert allocated(pool)["gamma"] == 2
            sim = pool.server("alpha").state.table.features["sim"]
            assert (sim.allocations.get("gamma", 0), sim.free) == (0, 3)

    run_virtual(program())


def test_a_leader_that_is_drained_hands_over_and_does_not_lead_again() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            assert pool.leader == "alpha"
            await drained(pool, "alpha", "gamma")
            await pool.until(lambda: pool.leader == "beta", within_s=1.0)
            await pool.advance(2 * HANDBACK_S)
            assert pool.leader == "beta"
            wish = await pool.server("beta").lead("alpha")
            assert isinstance(wish, Problem)
            assert "undrain" in wish.detail
            pool.log.elect("alpha")
            await pool.until(lambda: pool.leader == "beta", within_s=3.0)
            await drain(pool, "alpha", "alpha", on=False)
            await pool.until(lambda: pool.leader == "alpha", within_s=2 * HANDBACK_S)

    run_virtual(program())


def test_a_leader_that_cannot_hand_over_is_not_the_first_that_clients_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def cannot(self: ScriptedEngine, server: str) -> None:
        raise NotExecuted(f"{server} does not have the whole log")

    monkeypatch.setattr(ScriptedEngine, "transfer", cannot)

    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            await drained(pool, "alpha", "gamma")
            await pool.advance(5.0)
            assert pool.leader == "alpha"
            entries = _entries(await refused(pool, "alpha"))
            assert [e["name"] for e in entries] == ["beta", "gamma", "alpha"]
            assert entries[-1] == {**entries[-1], "role": "leader", "state": "draining"}
            for name in pool.names:
                view = pool.server(name).pool()
                assert (view.leader, view.priority) == ("alpha", ["beta", "gamma", "alpha"])

    run_virtual(program())


def test_where_all_are_drained_nobody_is_sent_away_and_nothing_is_granted() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            token = await take(pool, "beta")
            for name in pool.names:
                await drain(pool, name, "beta")
            await pool.advance(1.0)
            for name in pool.names:
                assert (await refused(pool, name)).code == "draining"
            for _ in range(5):
                assert (await beat(pool, "beta", token)).status == "renewed"
                await pool.advance(HEARTBEAT_S)
            # One that dies loses no client either.
            pool.crash("beta")
            await pool.until(lambda: state_of(pool, "beta") == "down", within_s=10.0)
            asked = await beat(pool, "gamma", token)
            moved = await pool.heartbeat("gamma", token, confirm={asked.id: asked.down_index or 0})
            assert not isinstance(moved, Problem)
            assert moved[0].status == "adopted"

    run_virtual(program())


def test_what_cannot_be_drained_is_said() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            unknown = await pool.server("alpha").drain("zeta", on=True)
            assert isinstance(unknown, Problem)
            assert (unknown.status, unknown.code) == (404, "not_found")
            await drain(pool, "beta")
            await drain(pool, "beta")  # Repeated, it changes nothing.
            assert pool.server("alpha").state.servers["beta"].status is ServerStatus.DRAINING
            await pool.server("alpha").remove_server("gamma")
            leaving = await pool.server("alpha").drain("gamma", on=True)
            assert isinstance(leaving, Problem)
            assert (leaving.status, leaving.code) == (409, "invalid_request")

    run_virtual(program())


def test_one_that_recovers_gives_nothing_back_before_it_knows_what_it_granted() -> None:
    async def program() -> None:
        async with a_pool(ttl_s=12.0) as pool:
            await pool.install({"cad": 6})
            token = await take(pool, "gamma", 2)
            pool.crash("gamma")
            pool.start("gamma", reboot=True)
            await pool.until(lambda: pool.server("gamma").status() == "recovering", within_s=6.0)
            await drain(pool, "gamma")
            await pool.advance(3.0)
            assert allocated(pool)["gamma"] == 2
            assert (await keep(pool, "gamma", token)).status == "renewed"
            assert in_use(pool, "gamma") == 2

    run_virtual(program())


# An orderly stop


async def stopped(pool: InProcessPool, name: str) -> float:
    """Stop a server; returns how long that took."""
    began_s = pool.now()
    await pool.stop(name)
    return pool.now() - began_s


def test_a_stop_gives_back_what_nobody_holds() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 30})
            assert await stopped(pool, "gamma") < 1.0
            assert allocated(pool) == {"alpha": 10, "beta": 10, "free": 10}
            await take(pool, "beta", 20)

    run_virtual(program())


def test_a_stop_lets_holders_move_and_loses_nobody() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            early, silent = await take(pool, "gamma"), await take(pool, "gamma")
            stop = asyncio.ensure_future(stopped(pool, "gamma"))
            await pool.advance(0.3)
            moved = await beat(pool, "beta", early)
            assert (moved.status, moved.server) == ("adopted", "beta")
            assert 1.0 < await stop < 4.0
            assert allocated(pool) == {"alpha": 2, "beta": 3, "gamma": 1}
            pool.start("gamma", reboot=True)
            await pool.until(lambda: pool.server("gamma").status() == "serving", within_s=6.0)
            assert (await beat(pool, "gamma", silent)).status == "renewed"
            assert in_use(pool, "gamma") == 1
            await take(pool, "gamma", 1)  # It borrows again.

    run_virtual(program())


def test_a_holder_on_its_way_while_the_server_stops_is_on_one_record_in_the_end() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            token = await take(pool, "gamma", 2)
            pool.log.fate = fate_of(HandOver, late(5.0))
            claim = asyncio.ensure_future(beat(pool, "beta", token))
            await pool.advance(0.2)
            assert await stopped(pool, "gamma") < 4.0
            assert (await claim).status == "pending"
            pool.start("gamma")
            await pool.until(lambda: pool.server("gamma").standing.up, within_s=6.0)
            await pool.advance(6.0)
            assert in_use(pool, "beta") + in_use(pool, "gamma") == 2
            (holder,) = [n for n in ("beta", "gamma") if in_use(pool, n)]
            assert allocated(pool)[holder] >= 2
            assert (await beat(pool, holder, token)).status in ("renewed", "converted")

    run_virtual(program())


def test_a_leader_that_stops_hands_over_first_and_to_one_that_is_not_drained() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 30})
            await drained(pool, "beta")
            assert await stopped(pool, "alpha") < 1.0
            assert pool.log.leader == "gamma"
            assert "alpha" not in allocated(pool, "gamma")

    run_virtual(program())


def test_a_stop_without_a_majority_is_as_fast_and_keeps_everything() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 30})
            token = await take(pool, "gamma", 2)
            pool.crash("alpha")
            pool.crash("beta")
            assert await stopped(pool, "gamma") < 4.0
            for name in pool.names:
                pool.start(name)
            await pool.until(pool.serving, within_s=10.0)
            assert (await beat(pool, "gamma", token)).status == "renewed"
            assert allocated(pool)["gamma"] == 10

    run_virtual(program())


def test_a_drain_that_is_late_is_nothing_to_adopt() -> None:
    """Adoption is for servers that are down: one that drains is asked."""

    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            token = await take(pool, "gamma", 2)
            pool.log.fate = fate_of(Drain, late(1.0))
            answer = asyncio.ensure_future(pool.server("alpha").drain("gamma", on=True))
            await pool.advance(0.5)
            assert pool.server("gamma").status() == "serving"
            before = pool.log.index
            await pool.until(lambda: pool.server("gamma").status() == "draining", within_s=3.0)
            assert isinstance(await answer, ServerAnswer)
            assert (await beat(pool, "beta", token)).status == "adopted"
            assert committed(pool, Adopt, before) == 0

    run_virtual(program())
