"""Who leads: the leader priority list, handing back, and an administrator's wish."""

from __future__ import annotations

import pytest

from licraft.errors import NotExecuted
from licraft.server.leader import HANDBACK_S
from licraft.testing import InProcessPool, run_virtual
from licraft.wire import LeaderAnswer, Problem


async def lead(pool: InProcessPool, at: str, server: str) -> LeaderAnswer | Problem:
    return await pool.server(at).lead(server)


def test_leadership_goes_back_to_the_highest_server_once_it_is_steady() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            pool.crash("alpha")
            await pool.until(lambda: pool.log.leader not in (None, "alpha"), "another leads")
            pool.start("alpha")
            await pool.until(lambda: pool.server("alpha").may_grant(), "alpha serves")
            await pool.advance(HANDBACK_S - 1.0)
            assert pool.leader != "alpha"
            await pool.advance(2.0)
            assert pool.leader == "alpha"

    run_virtual(program())


def test_a_server_that_comes_and_goes_is_not_handed_leadership() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            pool.log.elect("gamma")
            for _ in range(4):
                for name in ("alpha", "beta"):
                    pool.crash(name)
                    pool.start(name)
                    await pool.advance(HANDBACK_S / 2 - 1.0)
                    assert pool.leader == "gamma"

    run_virtual(program())


def test_a_server_that_is_cut_off_names_no_leader_though_its_engine_remembers_one() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            before = pool.server("gamma").pool()
            assert (before.leader, before.priority[0]) == ("alpha", "alpha")
            pool.log.isolate("gamma")
            assert pool.engine("gamma").status().leader == "alpha"
            view = pool.server("gamma").pool()
            assert view.leader is None
            assert {server.role for server in view.servers} == {"follower"}
            for name in ("alpha", "beta"):
                view = pool.server(name).pool()
                assert view.leader == "alpha"
                roles = {server.name: server.role for server in view.servers}
                assert roles == {"alpha": "leader", "beta": "follower", "gamma": "follower"}
            pool.log.heal()
            assert pool.server("gamma").pool().leader == "alpha"

    run_virtual(program())


def test_a_server_that_lost_its_link_to_the_leader_alone_names_none() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            pool.log.cut("alpha", "gamma")
            assert pool.server("gamma").pool().leader is None
            assert pool.server("beta").pool().leader == "alpha"

    run_virtual(program())


def test_without_handback_leadership_stays() -> None:
    async def program() -> None:
        async with InProcessPool(3, leader_handback=False) as pool:
            pool.log.elect("gamma")
            await pool.advance(5 * HANDBACK_S)
            assert pool.leader == "gamma"

    run_virtual(program())


@pytest.mark.parametrize("at", ["alpha", "beta", "gamma"])
def test_an_administrator_hands_leadership_over_at_any_server(at: str) -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            answer = await lead(pool, at, "gamma")
            assert isinstance(answer, LeaderAnswer)
            assert answer.leader == pool.leader == "gamma"
            # It is not handed back: that was not the wish.
            await pool.advance(5 * HANDBACK_S)
            assert pool.leader == "gamma"
            # Whoever stands in for it gives it back, as for the highest.
            pool.log.elect("beta")
            await pool.advance(HANDBACK_S + 1.0)
            assert pool.leader == "gamma"

    run_virtual(program())


def test_the_wish_is_over_when_its_server_goes_down() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await lead(pool, "alpha", "gamma")
            pool.crash("gamma")
            await pool.until(
                lambda: pool.server("alpha").state.servers["gamma"].status == "down", "it is down"
            )
            pool.start("gamma")
            await pool.advance(5 * HANDBACK_S)
            assert pool.leader == "alpha"

    run_virtual(program())


def test_what_cannot_lead_is_refused() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            answer = await lead(pool, "alpha", "delta")
            assert isinstance(answer, Problem)
            assert (answer.status, answer.code, answer.field) == (404, "not_found", "server")
            pool.crash("gamma")
            await pool.until(
                lambda: pool.server("alpha").state.servers["gamma"].status == "down", "it is down"
            )
            answer = await lead(pool, "beta", "gamma")
            assert isinstance(answer, Problem)
            assert (answer.status, answer.code) == (503, "no_quorum")
            assert "gamma is down" in answer.detail
            assert pool.leader == "alpha"
            assert pool.server("alpha").state.preferred_leader == ""

    run_virtual(program())


def test_a_wish_that_cannot_be_followed_says_so() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            pool.log.cut("alpha", "gamma")
            answer = await lead(pool, "beta", "gamma")
            assert isinstance(answer, Problem)
            assert (answer.status, answer.code) == (503, "no_quorum")
            assert "gamma went down" in answer.detail


def test_a_wish_that_is_not_followed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(server: str) -> None:
        raise NotExecuted(f"{server} has not caught up with the log; try again")

    async def program() -> None:
        async with InProcessPool(3) as pool:
            monkeypatch.setattr(pool.server("alpha").leader, "_transfer", refuse)
            answer = await lead(pool, "beta", "gamma")
            assert isinstance(answer, Problem)
            assert (answer.status, answer.code) == (503, "outcome_unknown")
            assert "alpha leads, not gamma" in answer.detail

    run_virtual(program())
