"""apply: what an administrator decides of a feature's seats, and how it comes about."""

from __future__ import annotations

import pytest
from support.pools import ALPHA, BETA, CAD, CAM, GAMMA, Pool, code, licensed

from licraft.core.commands import (
    AddAllocations,
    AddServer,
    DropServer,
    HandOver,
    Limits,
    Member,
    PromoteServer,
    Reason,
    RemoveServer,
    SetBorrowing,
    SetDistribution,
)
from licraft.core.distribution import parse_distribution
from licraft.core.outcomes import DONE, AllocationsChanged, BorrowEnded, Code, Effect, Outcome

NOBODY = ("", "", "", 0, "")


def distribute(pool: Pool, text: str) -> Outcome:
    target = parse_distribution(text) if text else ()
    (outcome,) = pool.now(SetDistribution(CAD, target)).outcomes
    return outcome


def add(pool: Pool, count: int, to: str = "") -> Outcome:
    (outcome,) = pool.now(AddAllocations(CAD, count, to)).outcomes
    return outcome


def bound(
    pool: Pool,
    server: str = "",
    defaults: tuple[str, ...] = (),
    *,
    enabled: bool | None = None,
    threshold: float | None = None,
    floor: int | None = None,
    cap: int | None = None,
) -> Outcome:
    limits = Limits(enabled, threshold, floor, cap)
    (outcome,) = pool.now(SetBorrowing(CAD, server, limits, defaults)).outcomes
    return outcome


def refused(code: Code, count: int = 0) -> Outcome:
    return Outcome(Effect.REFUSED, count, code)


# Distribution (B7, B21, B32)


def test_what_nobody_can_rely_on_moves_at_once_and_the_rest_as_it_comes_back() -> None:
    pool = licensed(30, "alpha:20^beta:5")
    applied = pool.now(SetDistribution(CAD, (("beta", 12), ("gamma", 15))))
    assert applied.outcomes == (DONE,)
    assert AllocationsChanged(CAD) in applied.events
    assert pool.seats() == {ALPHA: 20, BETA: 10}
    assert pool.feature().surplus == {ALPHA: 20}
    pool.give(ALPHA, 9, "")
    assert pool.seats() == {ALPHA: 11, BETA: 12, GAMMA: 7}
    assert pool.feature().surplus == {ALPHA: 11}
    pool.give(ALPHA, 11, "")
    assert pool.seats() == {"free": 3, BETA: 12, GAMMA: 15}
    assert pool.feature().surplus == {}
    assert not pool.feature().changing


def test_seats_of_servers_that_never_came_up_or_were_reclaimed_move_at_once() -> None:
    pool = licensed(30)
    pool.down(ALPHA)
    distribute(pool, "beta:15^gamma:15")
    assert pool.seats() == {ALPHA: 10, BETA: 10, GAMMA: 10}
    pool.reclaim(ALPHA)
    assert pool.seats() == {BETA: 15, GAMMA: 15}
    distribute(pool, "alpha:4^beta:13^gamma:13")
    pool.give(BETA, 2, "")
    assert pool.seats() == {ALPHA: 2, BETA: 13, GAMMA: 15}
    distribute(pool, "beta:15^gamma:15")
    assert pool.seats() == {BETA: 15, GAMMA: 15}


def test_a_rest_under_what_is_deployed_goes_to_the_free_pool() -> None:
    pool = licensed(30)
    distribute(pool, "alpha:5^beta:5")
    for name in (ALPHA, BETA, GAMMA):
        pool.give(name, pool.feature().surplus[name], "")
    assert pool.seats() == {"free": 20, ALPHA: 5, BETA: 5}


def test_more_than_may_be_deployed_is_refused_with_the_number() -> None:
    pool = licensed(30)
    assert distribute(pool, "alpha:31") == refused(Code.EXCEEDS_ENTITLEMENT, 30)
    assert distribute(pool, "alpha:30") == DONE
    add(pool, -4)
    assert distribute(pool, "alpha:27") == refused(Code.EXCEEDS_ENTITLEMENT, 26)
    assert pool.feature().target == {ALPHA: 30}


def test_criteria_name_known_servers_and_features_once() -> None:
    pool = licensed(30)
    assert distribute(pool, "delta:3") == refused(Code.NOT_FOUND)
    twice = SetDistribution(CAD, (("alpha", 1), ("alpha", 2)))
    assert pool.now(twice).outcomes == (refused(Code.INVALID_REQUEST),)
    negative = SetDistribution(CAD, (("alpha", -1), ("beta", 2)))
    assert pool.now(negative).outcomes == (refused(Code.INVALID_REQUEST),)
    for command in (
        SetDistribution("nope", ()),
        AddAllocations("nope", 1, ""),
        SetBorrowing("nope", "", Limits()),
    ):
        assert pool.now(command).outcomes == (refused(Code.UNKNOWN_FEATURE),)
    assert pool.feature().target is None


def test_a_borrow_that_takes_seats_away_lowers_what_is_to_be_given() -> None:
    pool = licensed(30)
    distribute(pool, "alpha:4^beta:13^gamma:13")
    pool.borrow(GAMMA, 5)
    pool.give(ALPHA, 5, GAMMA)
    assert pool.feature().surplus == {ALPHA: 1}
    pool.give(ALPHA, 1, "")
    # Beta lacks what gamma borrowed: nothing drags it back.
    assert pool.seats() == {ALPHA: 4, BETA: 11, GAMMA: 15}
    pool.give(GAMMA, 3, "")
    assert pool.seats() == {"free": 3, ALPHA: 4, BETA: 11, GAMMA: 12}


def test_what_a_server_gets_while_it_has_a_surplus_is_not_part_of_it() -> None:
    pool = licensed(30)
    distribute(pool, "alpha:4^beta:13^gamma:13")
    pool.ask(BETA, HandOver("id", CAD, 2, NOBODY, BETA, ALPHA, 1))
    assert pool.seats()[ALPHA] == 12
    pool.give(ALPHA, 6, "")
    assert pool.seats()[ALPHA] == 6
    assert pool.feature().surplus == {}


def test_without_criteria_seats_stay_where_they_are() -> None:
    pool = licensed(30)
    distribute(pool, "alpha:30")
    distribute(pool, "")
    assert (pool.feature().target, pool.feature().surplus) == (None, {})
    pool.give(BETA, 3, "")
    assert pool.seats() == {"free": 3, ALPHA: 10, BETA: 7, GAMMA: 10}


def test_a_distribution_holds_until_the_license_file_says_another_than_it_did() -> None:
    pool = licensed(30, "alpha:10^beta:10^gamma:10")
    distribute(pool, "alpha:5^beta:5^gamma:20")
    pool.install(code(36, "alpha:10^beta:10^gamma:10"))
    assert pool.feature().target == {ALPHA: 5, BETA: 5, GAMMA: 20}
    assert pool.seats()[GAMMA] == 16
    pool.install(code(36, "alpha:12^beta:12^gamma:12"))
    assert pool.feature().target == {ALPHA: 12, BETA: 12, GAMMA: 12}
    assert pool.feature().surplus == {}


def test_a_distribution_holds_when_codes_without_one_are_split_over_other_servers() -> None:
    """The license file does not say another than it did because servers come and go."""
    codes = (code(9), code(4, "gamma:4", id="more"))
    pool = licensed(9)
    pool.install(*codes)
    assert pool.feature().target == {ALPHA: 3, BETA: 3, GAMMA: 7}
    distribute(pool, "alpha:13")
    pool.now(AddServer(Member("delta", "http://delta:7700", "delta:7800")))
    pool.now(PromoteServer("delta"))
    pool.install(*codes, code(2, feature=CAM))
    assert pool.feature().target == {ALPHA: 13}
    pool.now(RemoveServer(GAMMA))
    pool.down(GAMMA)
    pool.reclaim(GAMMA)
    pool.now(DropServer(GAMMA))
    pool.install(*codes, code(3, feature=CAM))
    assert pool.feature().target == {ALPHA: 13}
    pool.install(*codes, code(3, "beta:3", id="another"))
    assert pool.feature().target == {ALPHA: 3, BETA: 6, "delta": 3, GAMMA: 4}


def test_who_lacks_seats_is_filled_before_a_borrow_that_waits() -> None:
    pool = licensed(30)
    pool.borrow(ALPHA, 3)
    distribute(pool, "alpha:5^beta:15^gamma:10")
    pool.give(ALPHA, 5, "")
    assert pool.seats() == {ALPHA: 5, BETA: 15, GAMMA: 10}
    assert pool.pending(ALPHA).want == 3


# Allocations (B9, B23)


def test_a_negative_count_retires_unused_seats_at_once_and_the_rest_as_they_come_back() -> None:
    pool = licensed(30, "alpha:10^beta:10^gamma:5")
    assert add(pool, -8) == DONE
    assert pool.seats() == {ALPHA: 10, BETA: 10, GAMMA: 5}
    assert (pool.feature().deployed, pool.feature().over) == (25, 3)
    pool.give(GAMMA, 2, "")
    assert (pool.feature().deployed, pool.feature().over) == (23, 1)
    pool.give(BETA, 4, "")
    assert pool.seats() == {"free": 3, ALPHA: 10, BETA: 6, GAMMA: 3}
    assert pool.feature().over == 0


def test_what_was_retired_can_be_added_again_and_no_more() -> None:
    pool = licensed(30)
    assert add(pool, 1) == refused(Code.EXCEEDS_ENTITLEMENT, 0)
    add(pool, -6)
    for name in (ALPHA, BETA):
        pool.give(name, 3, "")
    assert add(pool, 7) == refused(Code.EXCEEDS_ENTITLEMENT, 6)
    assert add(pool, 2) == DONE
    assert add(pool, 3, GAMMA) == DONE
    assert pool.seats() == {"free": 2, ALPHA: 7, BETA: 7, GAMMA: 13}
    assert add(pool, -29) == DONE
    assert add(pool, -1) == refused(Code.EXCEEDS_ENTITLEMENT, 0)


def test_seats_are_added_to_who_stays_only() -> None:
    pool = licensed(30)
    add(pool, -6)
    assert add(pool, 1, "delta") == refused(Code.NOT_FOUND)
    pool.now(RemoveServer(GAMMA))
    assert add(pool, 1, GAMMA) == refused(Code.DRAINING)
    assert add(pool, 0) == refused(Code.INVALID_REQUEST)


def test_what_was_about_to_retire_stays_when_it_is_added_again() -> None:
    pool = licensed(30)
    add(pool, -6)
    assert pool.feature().over == 6
    add(pool, 4)
    assert (pool.feature().over, pool.feature().deployed) == (2, 30)


def test_from_a_server_only_its_own_seats_retire() -> None:
    pool = licensed(30)
    assert add(pool, -11, BETA) == refused(Code.EXCEEDS_ENTITLEMENT, 10)
    assert add(pool, -4, BETA) == DONE
    assert add(pool, -7, BETA) == refused(Code.EXCEEDS_ENTITLEMENT, 6)
    assert pool.feature().over == 0  # The others go on granting.
    pool.give(ALPHA, 2, "")
    pool.give(BETA, 3, "")
    assert pool.seats() == {"free": 2, ALPHA: 8, BETA: 7, GAMMA: 10}
    assert pool.feature().retiring == {BETA: 1}
    pool.give(BETA, 2, "")
    assert pool.seats() == {"free": 3, ALPHA: 8, BETA: 5, GAMMA: 10}
    assert (pool.feature().retiring, pool.feature().goal) == ({}, 26)


def test_seats_that_retire_do_not_count_for_a_target() -> None:
    pool = licensed(20, "alpha:8^beta:6^gamma:6")
    add(pool, -1, GAMMA)
    distribute(pool, "alpha:8^gamma:6")
    pool.give(BETA, 6, "")
    assert pool.seats() == {"free": 5, ALPHA: 8, GAMMA: 7}
    pool.give(GAMMA, 1, "")
    assert pool.seats() == {"free": 5, ALPHA: 8, GAMMA: 6}


def test_what_is_to_retire_already_cannot_retire_again() -> None:
    pool = licensed(30)
    add(pool, -4, BETA)
    assert add(pool, -27) == refused(Code.EXCEEDS_ENTITLEMENT, 26)
    assert add(pool, -26) == DONE


def test_from_a_down_server_seats_retire_when_it_is_reclaimed() -> None:
    pool = licensed(30)
    pool.down(BETA)
    add(pool, -4, BETA)
    assert pool.feature().deployed == 30
    pool.reclaim(BETA)
    assert pool.seats() == {ALPHA: 10, BETA: 6, GAMMA: 10}


def test_what_goes_away_with_its_holders_retires_where_they_give_it_back() -> None:
    pool = licensed(3, "alpha:3")
    add(pool, -3, ALPHA)
    pool.ask(ALPHA, HandOver("id", CAD, 2, NOBODY, ALPHA, BETA, 1))
    assert pool.feature().retiring == {ALPHA: 1, BETA: 2}
    pool.give(BETA, 2, "")
    pool.give(ALPHA, 1, "")
    assert pool.seats() == {}


def test_retired_seats_stay_retired_under_a_new_license() -> None:
    pool = licensed(30)
    add(pool, -6)
    pool.install(code(40))
    assert (pool.feature().goal, pool.feature().entitled) == (34, 40)


# Borrowing (B1, B5, B13)


def test_borrowing_takes_nobody_under_its_floor() -> None:
    pool = licensed(30)
    bound(pool, floor=8)
    bound(pool, GAMMA, floor=2)
    pool.borrow(ALPHA, 20)
    assert pool.give(BETA, 5, ALPHA).count == 2
    assert pool.give(GAMMA, 9, ALPHA).count == 8
    assert pool.seats() == {ALPHA: 20, BETA: 8, GAMMA: 2}


def test_what_a_down_server_left_is_drawn_down_to_its_floor() -> None:
    pool = licensed(30)
    bound(pool, GAMMA, floor=4)
    pool.down(GAMMA)
    pool.reclaim(GAMMA)
    assert pool.borrow(ALPHA, 9).count == 6
    assert pool.seats() == {ALPHA: 16, BETA: 10, GAMMA: 4}


@pytest.mark.parametrize("reason", [Reason.REQUEST, Reason.FAILOVER])
def test_borrowing_raises_nobody_over_its_cap(reason: Reason) -> None:
    pool = licensed(36, "alpha:10^beta:10^gamma:10")
    bound(pool, BETA, cap=13)
    pool.borrow(BETA, 9, reason=reason)
    pool.give(ALPHA, 9, BETA, leader=True)
    assert pool.seats()[BETA] == 13
    assert pool.feature().pending == {}
    assert pool.borrow(BETA, 1).effect is not Effect.DONE


def test_off_keeps_seats_where_they_are() -> None:
    pool = licensed(36, "alpha:10^beta:10^gamma:10")
    bound(pool, BETA, enabled=False)
    assert pool.borrow(BETA, 1) == refused(Code.NOT_LICENSED)
    pool.borrow(ALPHA, 9)
    assert pool.give(BETA, 3, ALPHA).count == 0
    assert pool.give(GAMMA, 3, ALPHA).count == 3
    bound(pool, enabled=False)
    bound(pool, BETA, enabled=True)
    assert pool.borrow(ALPHA, 1) == refused(Code.NOT_LICENSED)
    assert pool.give(BETA, 3, "").count == 3
    assert pool.borrow(BETA, 3) == Outcome(Effect.DONE, 3)


def test_a_borrow_that_has_nothing_to_hope_for_ends() -> None:
    pool = licensed(30)
    pool.borrow(BETA, 5)
    pool.borrow(ALPHA, 5)
    applied = pool.now(SetBorrowing(CAD, BETA, Limits(cap=10)))
    assert applied.events == (AllocationsChanged(CAD), BorrowEnded(CAD, BETA, "beta-1", False))
    assert list(pool.feature().pending) == [ALPHA]


def test_a_threshold_of_the_administrator_beats_the_licenses_and_the_servers_own() -> None:
    pool = licensed(30)
    feature = pool.feature()
    assert feature.threshold_at(BETA, 0.8) == 0.8
    pool.install(code(30, threshold=0.7))
    assert feature.threshold_at(BETA, 0.8) == 0.7
    bound(pool, threshold=0.6)
    bound(pool, BETA, threshold=0.5)
    assert [feature.threshold_at(name, 0.8) for name in (ALPHA, BETA)] == [0.6, 0.5]
    bound(pool, BETA, ("threshold",), cap=11)
    assert feature.limits == {"": Limits(threshold=0.6), BETA: Limits(cap=11)}
    bound(pool, BETA, ("cap",))
    bound(pool, "", ("threshold", "enabled"))
    assert feature.limits == {}
    assert feature.threshold_at(BETA, 0.8) == 0.7


@pytest.mark.parametrize(
    "limits",
    [
        Limits(threshold=0.0),
        Limits(threshold=1.5),
        Limits(floor=-1),
        Limits(cap=-1),
        Limits(cap=10**7),
        Limits(floor=5, cap=4),
        Limits(cap=2),
    ],
)
def test_limits_that_leave_nothing_between_them_are_refused(limits: Limits) -> None:
    pool = licensed(30)
    bound(pool, floor=3)
    command = SetBorrowing(CAD, BETA, limits)
    assert pool.now(command).outcomes == (refused(Code.INVALID_REQUEST),)
    assert pool.feature().limits == {"": Limits(floor=3)}
    assert bound(pool, "delta", cap=3) == refused(Code.NOT_FOUND)
    assert bound(pool, "", ("colour",)) == refused(Code.INVALID_REQUEST)


def test_nothing_is_meant_for_a_server_that_is_gone() -> None:
    pool = licensed(30)
    bound(pool, GAMMA, floor=3)
    distribute(pool, "beta:10^gamma:15")
    pool.now(RemoveServer(GAMMA))
    pool.down(GAMMA)
    pool.reclaim(GAMMA)
    pool.now(DropServer(GAMMA))
    pool.now(PromoteServer(GAMMA))
    assert pool.feature().limits == {}
    assert pool.feature().target == {BETA: 10}
