"""Servers join, count, leave and are gone: what becomes of their seats on the way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.pools import ALPHA, BETA, CAD, GAMMA, Pool, code, licensed

from licraft.core.commands import (
    AddServer,
    Borrow,
    DropServer,
    Level,
    Member,
    MembershipCommand,
    PreferLeader,
    PromoteServer,
    Reason,
    Release,
    RemoveServer,
    RenewLease,
    ServerUp,
)
from licraft.core.membership import MAX_PAST_NAMES, MAX_SERVERS, voters_after
from licraft.core.outcomes import (
    DONE,
    OVERTAKEN,
    STALE,
    AllocationsChanged,
    Code,
    Effect,
    MembersChanged,
    Outcome,
)
from licraft.core.priority import priority_list
from licraft.core.state import ServerStatus

DELTA = "delta"


def member(name: str) -> Member:
    return Member(name, f"http://{name}:7700", f"{name}:7800")


def refused(code: Code) -> tuple[Outcome, ...]:
    return (Outcome(Effect.REFUSED, code=code),)


def with_delta(*, counts: bool = True) -> Pool:
    pool = licensed(30)
    pool.now(AddServer(member(DELTA)))
    if counts:
        pool.now(PromoteServer(DELTA))
    return pool


# In


def test_who_joins_counts_for_nothing() -> None:
    pool = licensed(30)
    applied = pool.now(AddServer(member(DELTA)))
    assert applied.outcomes == (DONE,)
    assert applied.events == (MembersChanged(DELTA, "joining"),)
    assert pool.state.members_index == applied.index
    assert pool.state.voters == [ALPHA, BETA, GAMMA]
    assert pool.up(DELTA).outcomes == (OVERTAKEN,)
    assert DELTA not in [place.name for place in priority_list(pool.state, ALPHA)]
    pool.install(code(60))
    assert DELTA not in pool.state.table.features[CAD].allocations


def test_who_counts_comes_up_like_any_other_and_is_last_to_lead() -> None:
    pool = with_delta()
    assert pool.state.voters == [ALPHA, BETA, GAMMA, DELTA]
    assert pool.up(DELTA).outcomes == (DONE,)
    assert [p.name for p in priority_list(pool.state, ALPHA)] == [ALPHA, BETA, GAMMA, DELTA]
    pool.install(code(60))
    assert pool.state.table.features[CAD].allocations[DELTA] > 0


def test_adding_and_promoting_again_has_no_effect() -> None:
    pool = with_delta()
    index = pool.state.members_index
    assert pool.now(AddServer(member(DELTA))).outcomes == (OVERTAKEN,)
    assert pool.now(PromoteServer(DELTA)).outcomes == (OVERTAKEN,)
    assert pool.now(PromoteServer(ALPHA)).outcomes == (OVERTAKEN,)
    assert pool.state.members_index == index


@pytest.mark.parametrize(
    "taken",
    [
        Member(ALPHA, "http://other:1", "other:2"),
        Member(DELTA, "http://alpha:7700", "other:2"),
        Member(DELTA, "http://other:1", "alpha:7800"),
    ],
)
def test_a_name_and_an_address_are_one_servers(taken: Member) -> None:
    pool = Pool()
    assert pool.now(AddServer(taken)).outcomes == refused(Code.INVALID_REQUEST)
    assert list(pool.state.servers) == [ALPHA, BETA, GAMMA]


def test_a_pool_has_nine_servers_at_most() -> None:
    pool = Pool()
    outcomes = [pool.now(AddServer(member(f"s{n}"))).outcomes for n in range(7)]
    assert outcomes == [(DONE,)] * 6 + [refused(Code.LIMIT_REACHED)]
    assert len(pool.state.servers) == MAX_SERVERS


def test_there_is_nothing_to_join_before_there_is_a_pool() -> None:
    pool = Pool(())
    assert pool.now(AddServer(member(DELTA))).outcomes == (OVERTAKEN,)
    assert not pool.state.formed


# Out


def test_who_leaves_acts_until_its_lease_is_over_and_is_not_given_another() -> None:
    pool = licensed(30)
    pool.now(PreferLeader(GAMMA))
    applied = pool.now(RemoveServer(GAMMA))
    assert applied.events == (MembersChanged(GAMMA, "removing"),)
    assert pool.state.voters == [ALPHA, BETA]
    assert pool.state.preferred_leader == ""
    assert pool.now(RenewLease(GAMMA, 1, 7, {}, 0)).outcomes == (STALE,)
    assert pool.now(PreferLeader(GAMMA)).outcomes == (STALE,)
    states = {place.name: place.status for place in priority_list(pool.state, ALPHA)}
    assert states[GAMMA] is ServerStatus.DRAINING
    borrow = Borrow("b", CAD, GAMMA, 1, 1, Reason.REQUEST, 0, False)
    assert pool.ask(GAMMA, borrow).outcomes == (OVERTAKEN,)
    assert pool.ask(GAMMA, Release(CAD, GAMMA, 4, "", "", Level.OFFERED, False)).outcomes == (
        Outcome(Effect.DONE, 4),
    )
    assert pool.state.table.features[CAD].free == 4
    pool.down(GAMMA)
    assert pool.state.servers[GAMMA].status is ServerStatus.DOWN
    assert pool.up(GAMMA).outcomes == (OVERTAKEN,)


def test_a_borrow_of_who_leaves_is_over() -> None:
    pool = licensed(30)
    pool.ask(GAMMA, Borrow("b", CAD, GAMMA, 5, 5, Reason.REQUEST, 0, True))
    assert GAMMA in pool.state.table.features[CAD].pending
    pool.now(RemoveServer(GAMMA))
    assert GAMMA not in pool.state.table.features[CAD].pending


def test_its_seats_are_free_when_nobody_can_rely_on_them_and_not_before() -> None:
    pool = licensed(30)
    pool.now(RemoveServer(GAMMA))
    assert pool.now(DropServer(GAMMA)).outcomes == (OVERTAKEN,)
    pool.down(GAMMA)
    assert pool.now(DropServer(GAMMA)).outcomes == (OVERTAKEN,)
    assert pool.state.table.features[CAD].allocations[GAMMA] == 10
    pool.reclaim(GAMMA)
    applied = pool.now(DropServer(GAMMA))
    assert applied.outcomes == (DONE,)
    assert applied.events == (AllocationsChanged(CAD), MembersChanged(GAMMA, ""))
    assert list(pool.state.servers) == [ALPHA, BETA]
    cad = pool.state.table.features[CAD]
    assert (cad.free, cad.allocations) == (10, {ALPHA: 10, BETA: 10})
    assert pool.now(DropServer(GAMMA)).outcomes == refused(Code.NOT_FOUND)


def test_its_seats_go_to_who_waits() -> None:
    pool = licensed(30)
    pool.now(RemoveServer(GAMMA))
    pool.down(GAMMA)
    # Somebody borrows it empty before it is dropped, as from any reclaimed server.
    pool.ask(ALPHA, Borrow("b", CAD, ALPHA, 14, 14, Reason.REQUEST, 0, True))
    pool.reclaim(GAMMA)
    assert pool.state.table.features[CAD].allocations == {ALPHA: 20, BETA: 10, GAMMA: 0}
    pool.now(DropServer(GAMMA))
    assert pool.state.table.features[CAD].allocations == {ALPHA: 20, BETA: 10}


def test_seats_too_many_are_withdrawn_when_they_come_free() -> None:
    pool = licensed(30)
    pool.install(code(20))
    pool.now(RemoveServer(GAMMA))
    pool.down(GAMMA)
    pool.reclaim(GAMMA)
    pool.now(DropServer(GAMMA))
    cad = pool.state.table.features[CAD]
    assert (cad.deployed, cad.free, cad.over) == (20, 0, 0)


def test_who_never_acted_is_gone_at_once() -> None:
    for pool in (with_delta(counts=False), with_delta()):
        assert pool.now(DropServer(DELTA)).outcomes == (OVERTAKEN,)
        pool.now(RemoveServer(DELTA))
        assert pool.now(PromoteServer(DELTA)).outcomes == (OVERTAKEN,)
        assert pool.now(DropServer(DELTA)).outcomes == (DONE,)
        assert list(pool.state.servers) == [ALPHA, BETA, GAMMA]


def test_the_last_that_counts_stays() -> None:
    pool = Pool((ALPHA,))
    assert pool.now(RemoveServer(ALPHA)).outcomes == refused(Code.LIMIT_REACHED)
    pool.now(AddServer(member(DELTA)))
    assert pool.now(RemoveServer(ALPHA)).outcomes == refused(Code.LIMIT_REACHED)
    assert pool.now(RemoveServer(DELTA)).outcomes == (DONE,)
    assert pool.now(RemoveServer("zeta")).outcomes == refused(Code.NOT_FOUND)


def test_a_name_is_used_once() -> None:
    """A stale server would take the vote of a new one for that of the one that it remembers."""
    pool = licensed(30)
    pool.now(RemoveServer(GAMMA))
    assert pool.now(AddServer(member(GAMMA))).outcomes == refused(Code.INVALID_REQUEST)
    pool.down(GAMMA)
    pool.reclaim(GAMMA)
    pool.now(DropServer(GAMMA))
    assert pool.state.past_names == (GAMMA,)
    assert pool.now(AddServer(member(GAMMA))).outcomes == refused(Code.INVALID_REQUEST)
    assert GAMMA not in pool.state.servers
    again = replace(member("gamma2"), api=member(GAMMA).api, peer=member(GAMMA).peer)
    assert pool.now(AddServer(again)).outcomes == (DONE,)


def test_names_that_were_used_are_bounded() -> None:
    pool = licensed(30)
    pool.state.past_names = tuple(f"old{n}" for n in range(MAX_PAST_NAMES))
    assert pool.now(AddServer(member(DELTA))).outcomes == refused(Code.LIMIT_REACHED)


# What the engine asks


@pytest.mark.parametrize(
    ("command", "voters"),
    [
        (AddServer(member("epsilon")), {ALPHA, BETA, GAMMA}),
        (PromoteServer(DELTA), {ALPHA, BETA, GAMMA, DELTA}),
        (RemoveServer(ALPHA), {BETA, GAMMA}),
        (RemoveServer("zeta"), {ALPHA, BETA, GAMMA}),
        (DropServer(GAMMA), {ALPHA, BETA, GAMMA}),
    ],
)
def test_what_the_voters_would_be(command: MembershipCommand, voters: set[str]) -> None:
    pool = with_delta(counts=False)
    assert voters_after(pool.state, command) == voters
    assert pool.state.voters == [ALPHA, BETA, GAMMA]
    assert len(pool.state.servers) == 4


def test_an_up_that_comes_late_does_not_bring_a_leaving_server_back() -> None:
    pool = licensed(30)
    up = ServerUp(GAMMA, 2, 0.8, "late")
    pool.now(RemoveServer(GAMMA))
    pool.down(GAMMA)
    assert pool.now(up).outcomes == (OVERTAKEN,)
