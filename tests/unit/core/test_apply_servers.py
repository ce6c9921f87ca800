"""apply: who acts, whose entries count, and the pool clock (protocol, sections 3, 4 and 8)."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.pools import ALPHA, BETA, CAD, GAMMA, TODAY, Pool, code, form, licensed, noon

from licraft.core.codec import digest
from licraft.core.commands import (
    Borrow,
    Command,
    Entry,
    Level,
    Reason,
    Reclaim,
    Release,
    RenewLease,
    ServerDown,
    ServerUp,
)
from licraft.core.outcomes import (
    DONE,
    OVERTAKEN,
    STALE,
    BorrowEnded,
    Effect,
    LeaseRenewed,
    LicenseChanged,
    Outcome,
    PoolFormed,
    SeatsReclaimed,
    ServerCameUp,
    ServerWentDown,
)
from licraft.core.state import ServerStatus

DAY = timedelta(days=1)
BORROW = Borrow("b1", CAD, BETA, 2, 2, Reason.REQUEST, 0, False)
GIVE = Release(CAD, ALPHA, 2, "", "", Level.OFFERED, False)


# The pool and its servers


def test_the_first_form_counts_and_later_ones_do_not() -> None:
    pool = Pool(up=False)
    assert list(pool.state.servers) == [ALPHA, BETA, GAMMA]
    assert (pool.state.pool, pool.state.ttl_s, pool.state.lease_s) == ("acme", 60.0, 3.0)
    assert {s.status for s in pool.state.servers.values()} == {ServerStatus.NEW}
    again = pool.now(form(("x", "y"), pool="other"))
    assert again.outcomes == (OVERTAKEN,)
    assert again.events == ()
    assert list(pool.state.servers) == [ALPHA, BETA, GAMMA]


def test_forming_is_told() -> None:
    pool = Pool(up=False)
    fresh = Pool(("solo",), up=False)
    assert fresh.state.formed
    assert pool.now(form()).events == ()
    pool.state.servers.clear()
    assert pool.now(form()).events == (PoolFormed(),)


def test_a_pool_without_members_is_not_formed() -> None:
    pool = Pool(())
    assert not pool.state.formed
    assert pool.now(form()).outcomes == (DONE,)


@pytest.mark.parametrize("incarnation", [0, 1, 3])
def test_only_the_next_incarnation_comes_up(incarnation: int) -> None:
    pool = Pool()
    wrong = ServerUp(ALPHA, incarnation, 0.8, "n")
    assert pool.now(wrong).outcomes == (OVERTAKEN,)
    assert pool.state.servers[ALPHA].incarnation == 1


def test_coming_up_starts_anew() -> None:
    pool = licensed(30)
    pool.borrow(ALPHA, 40)
    pool.renew(ALPHA, cad=9)
    applied = pool.now(ServerUp(ALPHA, 2, 0.5, "n2"))
    alpha = pool.state.servers[ALPHA]
    assert applied.outcomes == (DONE,)
    assert applied.events == (
        ServerCameUp(ALPHA, 2, "n2", 1, False, ()),
        BorrowEnded(CAD, ALPHA, "alpha-1", False),
    )
    assert (alpha.incarnation, alpha.threshold, alpha.status) == (2, 0.5, ServerStatus.UP)
    assert (alpha.lease_serial, alpha.requests, alpha.in_use) == (0, 0, {})
    assert pool.feature().pending == {}
    assert pool.seats() == {ALPHA: 10, BETA: 10, GAMMA: 10}


def test_it_is_told_that_its_record_is_void_only_after_a_reclaim() -> None:
    pool = Pool()
    pool.down(ALPHA)
    back = pool.now(ServerUp(ALPHA, 2, 0.8, "n")).events[0]
    assert back == ServerCameUp(ALPHA, 2, "n", 1, False, ())
    pool.down(ALPHA)
    pool.reclaim(ALPHA)
    back = pool.now(ServerUp(ALPHA, 3, 0.8, "n")).events[0]
    assert back == ServerCameUp(ALPHA, 3, "n", 2, True, ())


def test_commands_for_servers_that_are_not_there_have_no_effect() -> None:
    pool = licensed(30)
    before = pool.seats()
    table: list[tuple[Command, Outcome]] = [
        (ServerUp("nobody", 1, 0.8, "n"), OVERTAKEN),
        (RenewLease("nobody", 1, 1, {}, 1), STALE),
        (ServerDown("nobody", 1, 1), OVERTAKEN),
        (Reclaim("nobody", 1), OVERTAKEN),
    ]
    for command, outcome in table:
        assert pool.now(command).outcomes == (outcome,)
    assert pool.apply(Entry("nobody", 1, 1, (BORROW, GIVE))).outcomes == (STALE, STALE)
    assert pool.seats() == before


# Whose entries count, and how often


def test_what_an_earlier_incarnation_proposed_has_no_effect() -> None:
    """Section 3: a Release from before a crash must not take seats granted since."""
    pool = licensed(30)
    pool.up(ALPHA)
    late = pool.apply(Entry(ALPHA, 1, 1, (GIVE, BORROW)))
    assert late.outcomes == (STALE, STALE)
    assert late.events == ()
    assert pool.seats() == {ALPHA: 10, BETA: 10, GAMMA: 10}


def test_what_a_server_that_is_down_proposed_has_no_effect() -> None:
    pool = licensed(30)
    pool.down(ALPHA)
    assert pool.apply(Entry(ALPHA, 1, 1, (GIVE,))).outcomes == (STALE,)
    assert pool.seats() == {ALPHA: 10, BETA: 10, GAMMA: 10}


def test_a_server_that_never_came_up_proposes_nothing() -> None:
    pool = Pool(up=False)
    assert pool.apply(Entry(ALPHA, 0, 1, (GIVE,))).outcomes == (STALE,)


def test_a_repeated_serial_returns_the_first_outcomes_and_moves_nothing() -> None:
    pool = licensed(30)
    entry = Entry(ALPHA, 1, 1, (GIVE, Release(CAD, ALPHA, 3, "", "", Level.OFFERED, False)))
    first = pool.apply(entry)
    assert first.outcomes == (Outcome(Effect.DONE, 2), Outcome(Effect.DONE, 3))
    after = pool.seats()
    assert after == {"free": 5, ALPHA: 5, BETA: 10, GAMMA: 10}
    again = pool.apply(entry)
    assert again.outcomes == first.outcomes
    assert again.events == ()
    assert pool.seats() == after


def test_an_older_serial_is_overtaken() -> None:
    pool = licensed(30)
    pool.apply(Entry(ALPHA, 1, 2, (GIVE,)))
    assert pool.apply(Entry(ALPHA, 1, 1, (GIVE, GIVE))).outcomes == (OVERTAKEN, OVERTAKEN)
    assert pool.seats() == {"free": 2, ALPHA: 8, BETA: 10, GAMMA: 10}


def test_serials_of_servers_and_of_incarnations_are_their_own() -> None:
    pool = licensed(30)
    give = Release(CAD, BETA, 1, "", "", Level.OFFERED, False)
    assert pool.apply(Entry(ALPHA, 1, 1, (GIVE,))).outcomes == (Outcome(Effect.DONE, 2),)
    assert pool.apply(Entry(BETA, 1, 1, (give,))).outcomes == (Outcome(Effect.DONE, 1),)
    pool.up(ALPHA)
    assert pool.apply(Entry(ALPHA, 2, 1, (GIVE,))).outcomes == (Outcome(Effect.DONE, 2),)
    assert pool.seats() == {"free": 5, ALPHA: 6, BETA: 9, GAMMA: 10}


# Leases, down, reclaim


def test_renewals_count_in_order_and_for_the_acting_incarnation_only() -> None:
    pool = Pool()
    alpha = pool.state.servers[ALPHA]
    wall_s = noon(TODAY)
    for serial, in_use, incarnation, outcome in [
        (1, 5, 1, DONE),
        (1, 6, 1, OVERTAKEN),
        (3, 7, 1, DONE),
        (2, 8, 1, OVERTAKEN),
        (4, 9, 2, STALE),
        (4, 9, 0, STALE),
    ]:
        applied = pool.now(RenewLease(ALPHA, incarnation, serial, {CAD: in_use}, wall_s))
        assert applied.outcomes == (outcome,)
        told = LeaseRenewed(ALPHA, serial) in applied.events
        assert told is (outcome is DONE)
    assert (alpha.lease_serial, alpha.in_use) == (3, {CAD: 7})


def test_a_server_that_is_down_renews_no_more() -> None:
    """Section 4: X must come back with ServerUp and the next incarnation."""
    pool = Pool()
    pool.renew(ALPHA)
    pool.down(ALPHA)
    late = RenewLease(ALPHA, 1, 9, {}, noon(TODAY))
    assert pool.now(late).outcomes == (STALE,)
    pool.up(ALPHA)
    assert pool.now(late).outcomes == (STALE,)
    assert pool.renew(ALPHA).outcomes == (DONE,)


def test_down_names_the_renewal_it_waited_on() -> None:
    """R21; a later renewal that was applied before it makes it void."""
    pool = Pool()
    pool.renew(ALPHA)
    late = ServerDown(ALPHA, 1, 1)
    pool.renew(ALPHA)
    assert pool.now(late).outcomes == (OVERTAKEN,)
    assert pool.state.servers[ALPHA].acts
    applied = pool.now(ServerDown(ALPHA, 1, 2))
    assert applied.outcomes == (DONE,)
    assert applied.events == (ServerWentDown(ALPHA),)
    alpha = pool.state.servers[ALPHA]
    assert (alpha.status, alpha.down_index) == (ServerStatus.DOWN, applied.index)
    assert pool.now(ServerDown(ALPHA, 1, 2)).outcomes == (OVERTAKEN,)
    assert alpha.down_index == applied.index


def test_down_of_an_earlier_incarnation_is_void() -> None:
    pool = Pool()
    late = ServerDown(ALPHA, 1, 0)
    pool.up(ALPHA)
    assert pool.now(late).outcomes == (OVERTAKEN,)
    assert pool.state.servers[ALPHA].acts


def test_down_ends_what_the_server_had_asked_for() -> None:
    pool = licensed(30)
    pool.borrow(ALPHA, 5)
    assert BorrowEnded(CAD, ALPHA, "alpha-1", False) in pool.down(ALPHA).events
    assert pool.feature().pending == {}
    assert pool.seats() == {ALPHA: 10, BETA: 10, GAMMA: 10}


def test_seats_of_a_down_server_are_out_of_reach_until_the_reclaim() -> None:
    pool = licensed(30)
    pool.borrow(GAMMA, 4)
    pool.down(ALPHA)
    assert pool.seats() == {ALPHA: 10, BETA: 10, GAMMA: 10}
    assert pool.borrow(BETA, 3).count == 0
    applied = pool.reclaim(ALPHA)
    assert applied.outcomes == (DONE,)
    assert applied.events[0] == SeatsReclaimed(ALPHA)
    assert pool.seats() == {ALPHA: 3, BETA: 13, GAMMA: 14}


def test_what_is_left_of_a_reclaimed_server_is_its_own_when_it_returns() -> None:
    pool = licensed(30)
    pool.down(ALPHA)
    pool.reclaim(ALPHA)
    assert pool.borrow(BETA, 4).count == 4
    pool.up(ALPHA)
    assert pool.borrow(GAMMA, 4).count == 0
    assert pool.seats() == {ALPHA: 6, BETA: 14, GAMMA: 10}


def test_reclaim_is_void_after_the_server_came_up() -> None:
    """Section 4: it names the down it waited on."""
    pool = licensed(30)
    pool.down(ALPHA)
    late = Reclaim(ALPHA, pool.state.servers[ALPHA].down_index)
    pool.up(ALPHA)
    assert pool.now(late).outcomes == (OVERTAKEN,)
    pool.down(ALPHA)  # down again, but by another entry
    assert pool.now(late).outcomes == (OVERTAKEN,)
    assert not pool.state.servers[ALPHA].reclaimed
    assert pool.reclaim(ALPHA).outcomes == (DONE,)
    assert pool.reclaim(ALPHA).outcomes == (OVERTAKEN,)


def test_a_server_that_acts_is_not_reclaimed() -> None:
    pool = licensed(30)
    assert pool.now(Reclaim(ALPHA, 0)).outcomes == (OVERTAKEN,)
    assert not pool.state.servers[ALPHA].available


# The pool clock


def test_the_clock_is_the_median_and_one_clock_moves_nothing() -> None:
    pool = Pool()
    for server, wall_s, clock_s in [
        (ALPHA, 1000, 1000),
        (BETA, 5000, 1000),  # of two the lower
        (GAMMA, 2000, 2000),
        (BETA, 9000, 2000),
        (ALPHA, 3000, 3000),
        (ALPHA, 10, 3000),  # never backwards
        (GAMMA, 20, 3000),
        (BETA, 30, 3000),
        (BETA, 4000, 3000),
        (GAMMA, 4000, 4000),
    ]:
        pool.renew(server, wall_s)
        assert pool.state.clock_s == clock_s


def test_the_clock_of_a_server_that_is_down_does_not_count() -> None:
    pool = Pool()
    pool.renew(ALPHA, 1000)
    pool.renew(BETA, 5000)
    pool.down(ALPHA)
    assert pool.state.clock_s == 1000
    pool.renew(BETA, 5000)
    assert pool.state.clock_s == 5000


@pytest.mark.parametrize("wall_s", [0, -1, 10**18, -(10**18)])
def test_no_wall_clock_stops_the_state_machine(wall_s: int) -> None:
    """S11: apply is total; a renewal with an absurd time still renews the lease."""
    pool = Pool(("solo",))
    assert pool.now(RenewLease("solo", 1, 1, {}, wall_s)).outcomes == (DONE,)
    assert pool.state.pool_day.year >= 1970
    assert pool.renew("solo").outcomes == (DONE,)
    digest(pool.state)


def test_a_code_starts_and_expires_by_the_pool_clock() -> None:
    pool = Pool()
    for server in pool.state.servers:
        pool.renew(server)
    pool.install(code(9, starts=TODAY + DAY, expires=TODAY + 2 * DAY))
    assert pool.feature().goal == 0
    for days, goal in [(1, 9), (2, 9), (3, 0), (1, 0)]:
        changed = []
        for server in pool.state.servers:
            applied = pool.renew(server, noon(TODAY + days * DAY))
            changed.append(LicenseChanged(1) in applied.events)
        assert any(changed) is ((days, goal) != (1, 0))  # the last day is one gone by
        assert pool.feature().goal == goal


def test_one_wrong_clock_expires_and_extends_nothing() -> None:
    pool = licensed(30)
    pool.install(code(30, expires=TODAY))
    pool.renew(ALPHA, noon(TODAY + 400 * DAY))
    assert pool.feature().goal == 30
    for server in (BETA, GAMMA):
        pool.renew(server, noon(TODAY + DAY))
    assert pool.feature().goal == 0
    pool.renew(ALPHA, noon(TODAY - 400 * DAY))
    assert pool.feature().goal == 0
