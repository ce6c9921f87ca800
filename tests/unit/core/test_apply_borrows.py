"""apply: seats move only from who gives them, in the order of section 6."""

from __future__ import annotations

import pytest
from support.pools import ALPHA, BETA, CAD, GAMMA, Pool, code, licensed

from licraft.core.codec import decode_state, encode_state
from licraft.core.commands import (
    Borrow,
    EndBorrow,
    Entry,
    Level,
    Limits,
    Reason,
    Release,
    Solicit,
    Source,
)
from licraft.core.outcomes import (
    OVERTAKEN,
    AllocationsChanged,
    BorrowEnded,
    BorrowOpened,
    Code,
    Effect,
    Outcome,
    SeatsBorrowed,
    Solicited,
)

FAILOVER = Reason.FAILOVER


def borrow(id: str, server: str, want: int) -> Borrow:
    return Borrow(id, CAD, server, want, want, Reason.REQUEST, 0, False)


def with_a_reclaimed(free: int, left: int) -> Pool:
    """`free` free seats, `left` of alpha that is down and reclaimed, 5 each of beta and gamma."""
    pool = licensed(free + left + 10, f"alpha:{left}^beta:5^gamma:5")
    pool.down(ALPHA)
    pool.reclaim(ALPHA)
    return pool


# Borrow


@pytest.mark.parametrize(
    ("want", "moved", "free", "left"),
    [(1, 1, 2, 4), (3, 3, 0, 4), (5, 5, 0, 2), (7, 7, 0, 0), (9, 7, 0, 0)],
)
def test_a_request_takes_the_free_pool_and_then_reclaimed_servers(
    want: int, moved: int, free: int, left: int
) -> None:
    pool = with_a_reclaimed(free=3, left=4)
    assert pool.borrow(BETA, want) == Outcome(Effect.DONE, moved)
    seats = {"free": free, ALPHA: left, BETA: 5 + moved, GAMMA: 5}
    assert pool.seats() == {holder: count for holder, count in seats.items() if count}
    assert (BETA in pool.feature().pending) is (moved < want)


def test_a_server_that_never_came_up_is_a_source_too() -> None:
    pool = Pool(up=False)
    pool.up(BETA)
    pool.install(code(9))
    assert pool.seats() == {ALPHA: 3, BETA: 3, GAMMA: 3}
    assert pool.borrow(BETA, 5).count == 5
    assert pool.seats() == {BETA: 8, GAMMA: 1}


def test_reclaimed_servers_in_priority_order() -> None:
    pool = licensed(15)
    for server in (GAMMA, ALPHA):
        pool.down(server)
        pool.reclaim(server)
    assert pool.borrow(BETA, 6).count == 6
    assert pool.seats() == {BETA: 11, GAMMA: 4}


def test_what_lacks_is_pending_and_is_told() -> None:
    pool = licensed(12, "alpha:4^beta:4^gamma:2")
    applied = pool.ask(BETA)
    pool.borrow(BETA, 5, need=3, hold=True)
    pending = pool.pending(BETA)
    assert (pending.want, pending.need, pending.hold) == (3, 1, True)
    assert pending.since == applied.index + 1
    assert not pending.exhausted
    assert not pending.leader_gave


def test_a_borrow_is_over_when_it_has_all_it_wants() -> None:
    pool = licensed(12, "alpha:4^beta:4")
    events = pool.ask(BETA, borrow("b7", BETA, 4)).events
    assert events == (
        AllocationsChanged(CAD),
        SeatsBorrowed(CAD, BETA, "b7", Reason.REQUEST, Source.FREE, 4),
        BorrowEnded(CAD, BETA, "b7", False),
    )
    assert pool.feature().pending == {}
    events = pool.ask(BETA, borrow("b8", BETA, 1)).events
    assert events == (BorrowOpened(CAD, BETA),)


def test_a_fail_over_knows_what_it_got_from_where_in_this_order() -> None:
    """B14, B15: the leader, the free pool, the down servers, and then the others."""
    pool = with_a_reclaimed(free=3, left=4)
    pool.up(ALPHA)
    pool.down(GAMMA)
    pool.reclaim(GAMMA)
    pool.borrow(BETA, 13, reason=FAILOVER)
    assert pool.pending(BETA).got == {}
    pool.give(ALPHA, 2, BETA, leader=True)
    assert list(pool.pending(BETA).got.items()) == [
        (Source.LEADER, 2),
        (Source.FREE, 3),
        (Source.DOWN, 5),
    ]
    pool.give(ALPHA, 1, BETA, level=Level.UNUSED)
    pool.give(ALPHA, 1, BETA, level=Level.OFFERED)
    assert pool.pending(BETA).got[Source.OTHERS] == 2
    assert decode_state(encode_state(pool.state)) == pool.state


def test_a_request_knows_it_too() -> None:
    pool = with_a_reclaimed(free=3, left=4)
    pool.borrow(BETA, 9)
    assert list(pool.pending(BETA).got.items()) == [(Source.FREE, 3), (Source.DOWN, 4)]


def test_a_new_borrow_takes_the_place_of_the_old_one() -> None:
    pool = licensed(10, "alpha:5^beta:5")
    pool.borrow(BETA, 2, id="old")
    pool.borrow(BETA, 3, id="new")
    assert [p.id for p in pool.feature().pending.values()] == ["new"]
    assert pool.give(ALPHA, 2, BETA, id="old") == OVERTAKEN
    assert pool.give(ALPHA, 3, BETA, id="new") == Outcome(Effect.DONE, 3)


@pytest.mark.parametrize(
    ("want", "need", "kept"), [(3, 9, 3), (3, -2, 0), (3, 3, 3), (3, 0, 0), (0, 0, None)]
)
def test_need_is_part_of_want(want: int, need: int, kept: int | None) -> None:
    pool = licensed(10, "alpha:5^beta:5")
    pool.borrow(BETA, want, need=need)
    assert {p.need for p in pool.feature().pending.values()} == ({kept} - {None})


def test_what_cannot_be_borrowed_is_refused_with_the_reason() -> None:
    pool = licensed(10, "alpha:5^beta:5")
    assert pool.borrow(BETA, 1, feature="nope").code == Code.UNKNOWN_FEATURE
    pool.feature().limits[""] = Limits(enabled=False)
    assert pool.borrow(BETA, 1) == Outcome(Effect.REFUSED, 0, Code.NOT_LICENSED)
    pool.feature().limits.clear()
    pool.install(code(4, "alpha:5^beta:5"))
    assert pool.feature().over == 6
    assert pool.borrow(BETA, 1).code == Code.NOT_LICENSED
    assert pool.feature().pending == {}


# Fail-over: leader, free pool, down servers (B14)


@pytest.mark.parametrize(
    ("leader_gives", "seats"),
    [
        (0, {"free": 0, ALPHA: 2, BETA: 10, GAMMA: 5}),
        (1, {"free": 0, ALPHA: 3, BETA: 10, GAMMA: 4}),
        (4, {"free": 2, ALPHA: 4, BETA: 10, GAMMA: 1}),
        (5, {"free": 3, ALPHA: 4, BETA: 10, GAMMA: 0}),
    ],
)
def test_failover_takes_from_the_leader_then_free_then_down(
    leader_gives: int, seats: dict[str, int]
) -> None:
    pool = with_a_reclaimed(free=3, left=4)
    assert pool.borrow(BETA, 5, reason=FAILOVER).count == 0
    assert pool.seats() == {"free": 3, ALPHA: 4, BETA: 5, GAMMA: 5}
    assert pool.give(GAMMA, leader_gives, BETA, leader=True).count == leader_gives
    assert pool.seats() == {holder: count for holder, count in seats.items() if count}


def test_only_the_leaders_gift_opens_the_free_pool_to_a_failover() -> None:
    pool = licensed(20, "alpha:5^beta:5")
    pool.borrow(BETA, 8, reason=FAILOVER)
    pool.give(ALPHA, 2, BETA)
    assert pool.seats() == {"free": 10, ALPHA: 3, BETA: 7}
    pool.give(ALPHA, 1, BETA, leader=True)
    assert pool.seats() == {"free": 5, ALPHA: 2, BETA: 13}


@pytest.mark.parametrize("gives", [0, 2])
def test_a_leader_that_borrows_opens_the_free_pool_to_itself(gives: int) -> None:
    """What it gives to itself is nothing, even if seats came free since it borrowed."""
    pool = licensed(20, "alpha:5^beta:5")
    pool.borrow(ALPHA, 3, reason=FAILOVER)
    assert pool.give(ALPHA, gives, ALPHA, leader=True) == Outcome(Effect.DONE)
    assert pool.seats() == {"free": 7, ALPHA: 8, BETA: 5}


# Release


@pytest.mark.parametrize(("gives", "moved"), [(0, 0), (1, 1), (3, 3), (4, 3), (99, 3)])
def test_a_borrow_gets_no_more_than_it_wants(gives: int, moved: int) -> None:
    pool = licensed(10, "alpha:5^beta:5")
    pool.borrow(BETA, 3)
    assert pool.give(ALPHA, gives, BETA) == Outcome(Effect.DONE, moved)
    assert pool.seats() == {ALPHA: 5 - moved, BETA: 5 + moved}


def test_nobody_gives_more_than_it_has() -> None:
    pool = licensed(10, "alpha:2^beta:8")
    pool.borrow(BETA, 7)
    assert pool.give(ALPHA, 5, BETA).count == 2
    assert pool.give(ALPHA, 5, BETA).count == 0
    assert pool.give(ALPHA, 5, "").count == 0
    assert pool.give(GAMMA, 1, "").count == 0
    assert pool.seats() == {BETA: 10}


def test_a_release_to_a_borrow_that_is_gone_moves_nothing() -> None:
    pool = licensed(10, "alpha:5^beta:5")
    assert pool.give(ALPHA, 1, BETA) == OVERTAKEN
    pool.borrow(BETA, 1)
    pool.end(BETA, exhausted=False)
    assert pool.give(ALPHA, 1, BETA) == OVERTAKEN
    pool.borrow(BETA, 1, id="other")
    assert pool.give(ALPHA, 1, BETA) == OVERTAKEN
    assert pool.seats() == {ALPHA: 5, BETA: 5}


def test_no_server_gives_to_its_own_borrow() -> None:
    pool = licensed(10, "alpha:5^beta:5")
    pool.borrow(BETA, 3)
    pool.give(BETA, 3, BETA)
    assert pool.seats() == {ALPHA: 5, BETA: 5}
    assert pool.pending(BETA).want == 3


def test_a_negative_release_takes_nothing() -> None:
    pool = licensed(10, "alpha:5")
    pool.borrow(BETA, 9)
    assert pool.give(ALPHA, -3, BETA) == OVERTAKEN
    assert pool.give(ALPHA, -3, "") == OVERTAKEN
    assert pool.seats() == {ALPHA: 5, BETA: 5}


def test_nobody_speaks_for_another_server() -> None:
    """An entry gives what its own server has set aside; its incarnation says nothing of others."""
    pool = licensed(10, "alpha:5^beta:5")
    foreign = Release(CAD, ALPHA, 5, "", "", Level.OFFERED, False)
    (outcome,) = pool.ask(BETA, foreign).outcomes
    assert pool.seats() == {ALPHA: 5, BETA: 5}
    assert outcome.effect is not Effect.DONE


def test_an_answer_is_noted_and_an_offer_is_none() -> None:
    pool = licensed(20, "alpha:5^beta:5^gamma:10")
    pool.borrow(BETA, 9)
    pool.give(ALPHA, 1, BETA, level=Level.SPARE)
    pool.give(GAMMA, 1, BETA, level=Level.OFFERED)
    assert pool.pending(BETA).answered == {ALPHA: Level.SPARE}
    pool.give(ALPHA, 1, BETA, level=Level.UNUSED)
    assert pool.pending(BETA).answered == {ALPHA: Level.UNUSED}
    assert pool.pending(BETA).want == 6


# Free seats go to who waits longest


def test_the_older_since_is_served_first() -> None:
    pool = licensed(30)
    pool.borrow(GAMMA, 3)
    pool.borrow(ALPHA, 3)
    pool.borrow(GAMMA, 3, id="again", since=pool.pending(GAMMA).since)  # the same request
    pool.give(BETA, 4, "")
    assert pool.seats() == {ALPHA: 11, BETA: 6, GAMMA: 13}
    assert list(pool.feature().pending) == [ALPHA]


def test_a_borrow_that_starts_anew_is_younger() -> None:
    pool = licensed(30)
    pool.borrow(GAMMA, 3)
    pool.borrow(ALPHA, 3)
    pool.borrow(GAMMA, 3, id="again")
    pool.give(BETA, 4, "")
    assert pool.seats() == {ALPHA: 13, BETA: 6, GAMMA: 11}


def test_free_seats_wait_for_the_leader_before_a_failover_gets_them() -> None:
    pool = licensed(30)
    pool.borrow(GAMMA, 3, reason=FAILOVER)
    pool.give(BETA, 2, "")
    assert pool.seats() == {"free": 2, ALPHA: 10, BETA: 8, GAMMA: 10}
    pool.give(ALPHA, 0, GAMMA, leader=True)
    assert pool.seats() == {ALPHA: 10, BETA: 8, GAMMA: 12}
    pool.give(BETA, 2, "")
    assert pool.seats() == {"free": 1, ALPHA: 10, BETA: 6, GAMMA: 13}


# Solicit and EndBorrow


def test_solicit_is_noted_and_told_to_the_giver() -> None:
    pool = licensed(30)
    pool.borrow(BETA, 3)
    for level in (Level.SPARE, Level.UNUSED):
        applied = pool.solicit(GAMMA, BETA, level)
        assert applied.events == (Solicited(CAD, BETA, "beta-1", GAMMA, level),)
        assert pool.pending(BETA).asked == {GAMMA: level}
    assert pool.seats() == {ALPHA: 10, BETA: 10, GAMMA: 10}


@pytest.mark.parametrize(
    "late",
    [
        Solicit(CAD, BETA, "older", GAMMA, Level.SPARE),
        Solicit(CAD, ALPHA, "beta-1", GAMMA, Level.SPARE),
        Solicit("nope", BETA, "beta-1", GAMMA, Level.SPARE),
        Solicit(CAD, BETA, "beta-1", "nobody", Level.SPARE),
        EndBorrow(CAD, BETA, "older", True),
        EndBorrow(CAD, ALPHA, "beta-1", False),
        EndBorrow("nope", BETA, "beta-1", False),
    ],
)
def test_what_names_another_borrow_has_no_effect(late: Solicit | EndBorrow) -> None:
    pool = licensed(30)
    pool.borrow(BETA, 3)
    applied = pool.now(late)
    assert (applied.outcomes, applied.events) == ((OVERTAKEN,), ())
    assert pool.pending(BETA).asked == {}


@pytest.mark.parametrize(
    ("exhausted", "hold", "need", "stays"),
    [
        (True, True, 2, True),
        (True, True, 0, False),  # comfort is not waited for
        (True, False, 2, False),
        (False, True, 2, False),
        (False, False, 2, False),
    ],
)
def test_an_exhausted_borrow_stays_only_for_who_waits(
    exhausted: bool, hold: bool, need: int, stays: bool
) -> None:
    pool = licensed(30)
    pool.borrow(BETA, 5, need=need, hold=hold)
    applied = pool.end(BETA, exhausted=exhausted)
    assert applied.events == (BorrowEnded(CAD, BETA, "beta-1", exhausted),)
    assert (BETA in pool.feature().pending) is stays
    if stays:
        assert pool.pending(BETA).exhausted
        assert pool.pending(BETA).want == need
        pool.give(ALPHA, 5, "")
        assert pool.seats() == {"free": 3, ALPHA: 5, BETA: 12, GAMMA: 10}
        assert pool.feature().pending == {}


def test_a_gift_can_end_an_exhausted_borrow() -> None:
    pool = licensed(30)
    pool.borrow(BETA, 5, need=2, hold=True)
    pool.end(BETA, exhausted=True)
    assert pool.give(ALPHA, 5, BETA, level=Level.OFFERED).count == 2
    assert pool.feature().pending == {}


def test_the_two_ends_of_a_transfer_change_in_one_entry() -> None:
    """B33: both servers update their record; no seat is in two places or in none."""
    pool = licensed(30)
    pool.borrow(BETA, 4)
    applied = pool.apply(
        Entry(ALPHA, 1, 50, (Release(CAD, ALPHA, 4, BETA, "beta-1", Level.SPARE, False),))
    )
    assert applied.events == (
        AllocationsChanged(CAD),
        SeatsBorrowed(CAD, BETA, "beta-1", Reason.REQUEST, Source.OTHERS, 4),
        BorrowEnded(CAD, BETA, "beta-1", False),
    )
    assert pool.seats() == {ALPHA: 6, BETA: 14, GAMMA: 10}
