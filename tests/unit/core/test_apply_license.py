"""apply: the redundant license file, and how the seats follow it (sections 3, 7 and 8)."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.pools import (
    ALPHA,
    BETA,
    CAD,
    CAM,
    GAMMA,
    TODAY,
    Pool,
    code,
    license_file,
    licensed,
    noon,
)

from licraft.core.commands import InstallLicense, Level, Release
from licraft.core.license import CodeStatus, LicenseCode, LicenseFile
from licraft.core.outcomes import (
    AllocationsChanged,
    BorrowEnded,
    Code,
    Effect,
    LicenseChanged,
    Outcome,
)

DAY = timedelta(days=1)
FILE = license_file(7, code(30))


@pytest.mark.parametrize(
    ("offered", "outcome"),
    [
        (license_file(8, code(60)), Outcome(Effect.DONE, 8)),
        (license_file(99, code(60), pool="acme"), Outcome(Effect.DONE, 99)),
        (FILE, Outcome(Effect.DONE, 7)),  # the same again: nothing to do
        (license_file(6, code(60)), Outcome(Effect.REFUSED, 7, Code.STALE_SEQUENCE)),
        (license_file(-8, code(60)), Outcome(Effect.REFUSED, 7, Code.STALE_SEQUENCE)),
        (
            LicenseFile(None, 7, "other content", ()),
            Outcome(Effect.REFUSED, 7, Code.STALE_SEQUENCE),
        ),
        (license_file(8, pool="other"), Outcome(Effect.REFUSED, 7, Code.INVALID_LICENSE)),
    ],
)
def test_the_greater_sequence_number_wins(offered: LicenseFile, outcome: Outcome) -> None:
    pool = Pool()
    pool.now(InstallLicense(FILE))
    applied = pool.now(InstallLicense(offered))
    assert applied.outcomes == (outcome,)
    taken = outcome.effect is Effect.DONE and offered is not FILE
    assert pool.state.license is (offered if taken else FILE)
    assert (LicenseChanged(offered.sequence) in applied.events) is taken
    assert sum(pool.seats().values()) == (60 if taken else 30)


def test_a_first_license_is_deployed_evenly() -> None:
    pool = licensed(100)
    assert pool.seats() == {ALPHA: 34, BETA: 33, GAMMA: 33}


def test_a_first_license_is_deployed_by_its_distribution() -> None:
    pool = licensed(100, "gamma:40^alpha:30^nobody:9")
    assert pool.seats() == {ALPHA: 30, GAMMA: 40, "free": 30}


def test_growth_is_deployed_evenly() -> None:
    pool = licensed(30)
    pool.give(ALPHA, 10, "")
    pool.install(code(36))
    assert pool.seats() == {"free": 10, ALPHA: 2, BETA: 12, GAMMA: 12}


def test_growth_is_deployed_up_to_the_distribution() -> None:
    pool = licensed(10, "alpha:5^beta:5")
    pool.install(code(20, "alpha:8^beta:4^gamma:2"))
    assert pool.seats() == {"free": 5, ALPHA: 8, BETA: 5, GAMMA: 2}


def test_growth_is_told_and_serves_who_waits() -> None:
    pool = licensed(10, "alpha:5^beta:5")
    pool.borrow(BETA, 4)
    events = pool.now(InstallLicense(license_file(2, code(16, "alpha:5^beta:5")))).events
    assert AllocationsChanged(CAD) in events
    assert BorrowEnded(CAD, BETA, "beta-1", False) in events
    assert pool.seats() == {"free": 2, ALPHA: 5, BETA: 9}


def test_features_are_apart() -> None:
    pool = Pool()
    pool.install(code(10, "alpha:10"), code(5, "beta:5", CAM))
    pool.install(code(10, "alpha:10"), code(7, "beta:5", CAM))
    assert pool.seats(CAD) == {ALPHA: 10}
    assert pool.seats(CAM) == {BETA: 5, "free": 2}


def test_shrinking_takes_the_free_and_the_reclaimed_at_once_and_the_rest_as_it_comes_back() -> None:
    pool = licensed(30, "alpha:10^beta:10^gamma:6")
    pool.down(GAMMA)
    pool.reclaim(GAMMA)
    pool.install(code(12, "alpha:10^beta:10^gamma:6"))
    assert pool.seats() == {ALPHA: 10, BETA: 10}
    assert (pool.feature().deployed, pool.feature().over) == (20, 8)
    for server, gives, over in [(ALPHA, 3, 5), (BETA, 0, 5), (BETA, 4, 1), (ALPHA, 3, 0)]:
        assert pool.give(server, gives, "").count == gives
        assert pool.feature().over == over
        assert pool.feature().goal == 12
    assert pool.seats() == {"free": 2, ALPHA: 4, BETA: 6}


def test_what_is_given_up_since_it_is_due_goes_only_as_far_as_it_still_is() -> None:
    """All servers see at once that there are too many; what one has given the others keep."""
    pool = licensed(30, "alpha:10^beta:10^gamma:10")
    pool.install(code(18, "alpha:10^beta:4^gamma:4"))
    assert pool.feature().over == 12
    gave = [
        pool.ask(server, Release(CAD, server, 10, "", "", Level.OFFERED, False, due=True)).outcomes
        for server in (BETA, GAMMA, ALPHA)
    ]
    assert [outcome.count for (outcome,) in gave] == [10, 2, 0]
    assert pool.seats() == {ALPHA: 10, GAMMA: 8}
    assert pool.feature().over == 0


def test_over_falls_when_a_down_server_is_reclaimed() -> None:
    pool = licensed(30)
    pool.down(ALPHA)
    pool.install(code(15))
    assert (pool.feature().over, pool.feature().deployed) == (15, 30)
    pool.reclaim(ALPHA)
    assert (pool.feature().over, pool.feature().deployed) == (5, 20)
    assert pool.seats() == {BETA: 10, GAMMA: 10}


def test_while_there_are_too_many_none_are_passed_on() -> None:
    pool = licensed(30)
    pool.borrow(BETA, 4)
    pool.install(code(29))
    assert pool.give(ALPHA, 4, BETA).count == 0
    assert pool.borrow(GAMMA, 4).code == Code.NOT_LICENSED
    assert pool.seats() == {ALPHA: 10, BETA: 10, GAMMA: 10}


def test_growth_after_a_shrink_only_adds_what_lacks() -> None:
    pool = licensed(30)
    pool.install(code(12))
    pool.give(ALPHA, 10, "")
    assert pool.feature().over == 8
    pool.install(code(20))
    assert (pool.feature().over, pool.feature().deployed) == (0, 20)
    pool.install(code(23))
    assert pool.seats() == {ALPHA: 1, BETA: 11, GAMMA: 11}


@pytest.mark.parametrize(
    ("gone", "status"),
    [
        (code(30, trusted=False), CodeStatus.BAD_SIGNATURE),
        (code(30, pool="other"), CodeStatus.OTHER_POOL),
        (code(30, starts=TODAY + DAY), CodeStatus.NOT_STARTED),
        (code(30, expires=TODAY - DAY), CodeStatus.EXPIRED),
        (code(30, feature=CAM), CodeStatus.REMOVED),
    ],
)
def test_a_feature_without_a_valid_code_says_why_and_lends_nothing(
    gone: LicenseCode, status: CodeStatus
) -> None:
    pool = licensed(30)
    assert pool.install(gone).effect is Effect.DONE
    assert pool.feature().status is status
    assert (pool.feature().goal, pool.feature().over) == (0, 30)
    assert pool.borrow(BETA, 1).code == Code.NOT_LICENSED
    for server in (ALPHA, BETA, GAMMA):
        pool.give(server, 10, "")
    assert pool.seats() == {}


def test_a_feature_that_is_gone_leaves_the_table_when_its_last_seat_is_back() -> None:
    pool = licensed(30, "alpha:10")
    pool.install(code(5, feature=CAM))
    assert pool.feature().over == 10
    pool.give(ALPHA, 10, "")
    pool.install(code(6, feature=CAM))
    assert list(pool.state.table.features) == [CAM]


def test_a_feature_that_leaves_the_table_ends_its_borrows_and_says_so() -> None:
    """A borrow is never lost (section 6): its server must hear that it is over."""
    pool = licensed(30, "alpha:10^beta:10^gamma:10")
    pool.borrow(BETA, 5)
    events = list(pool.now(InstallLicense(license_file(2))).events)
    for server in (ALPHA, BETA, GAMMA):
        give = Release(CAD, server, 10, "", "", Level.OFFERED, False)
        events += pool.ask(server, give).events
    events += pool.now(InstallLicense(license_file(3))).events
    assert CAD not in pool.state.table.features
    assert [e.borrow for e in events if isinstance(e, BorrowEnded)] == ["beta-1"]


def test_a_feature_comes_back_as_it_was_first_deployed() -> None:
    pool = licensed(30)
    pool.install(code(5, feature=CAM))
    for server in (ALPHA, BETA, GAMMA):
        pool.give(server, 10, "")
    pool.install(code(9))
    assert pool.seats() == {ALPHA: 3, BETA: 3, GAMMA: 3}
    assert pool.feature().status is CodeStatus.VALID


def test_a_new_version_takes_over_the_seats_of_the_old_one() -> None:
    pool = licensed(30)
    pool.install(code(30, version="1"), code(36, version="2", starts=TODAY + DAY))
    assert (pool.feature().version, pool.feature().deployed) == ("1", 30)
    for server in (ALPHA, BETA):
        pool.renew(server, noon(TODAY + DAY))
    pool.renew(GAMMA, noon(TODAY + DAY))
    assert (pool.feature().version, pool.feature().deployed) == ("2", 36)
    assert pool.seats() == {ALPHA: 12, BETA: 12, GAMMA: 12}


def test_threshold_and_dates_are_the_codes() -> None:
    pool = licensed(30)
    pool.install(code(30, threshold=0.5, expires=TODAY + DAY, version="3"))
    feature = pool.feature()
    assert (feature.threshold, feature.expires, feature.version) == (0.5, TODAY + DAY, "3")
