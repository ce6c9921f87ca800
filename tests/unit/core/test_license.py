"""What license codes entitle to: dates, versions, pools, sums."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pools import CAD, CAM, TODAY, code, license_file

from licraft.core.license import (
    CodeStatus,
    Entitlement,
    LicenseCode,
    code_statuses,
    covers,
    entitlements,
)

DAY = timedelta(days=1)


def entitled(*codes: LicenseCode, pool: str = "acme", today: date = TODAY) -> Entitlement:
    return entitlements(license_file(1, *codes), pool, today)[CAD]


@pytest.mark.parametrize(
    ("starts", "expires", "status"),
    [
        (None, None, CodeStatus.VALID),
        (TODAY, TODAY, CodeStatus.VALID),  # both days are inclusive
        (TODAY + DAY, None, CodeStatus.NOT_STARTED),
        (TODAY - DAY, None, CodeStatus.VALID),
        (None, TODAY - DAY, CodeStatus.EXPIRED),
        (None, TODAY + DAY, CodeStatus.VALID),
        (TODAY + DAY, TODAY - DAY, CodeStatus.NOT_STARTED),
    ],
)
def test_dates_are_inclusive(starts: date | None, expires: date | None, status: CodeStatus) -> None:
    assert code(5, starts=starts, expires=expires).status("acme", TODAY) is status


@pytest.mark.parametrize(
    ("pool", "status"),
    [(None, CodeStatus.VALID), ("acme", CodeStatus.VALID), ("other", CodeStatus.OTHER_POOL)],
)
def test_a_code_may_be_bound_to_a_pool(pool: str | None, status: CodeStatus) -> None:
    assert code(5, pool=pool).status("acme", TODAY) is status


def test_the_first_fault_is_the_one_reported() -> None:
    bad = code(5, trusted=False, pool="other", starts=TODAY + DAY)
    faults = [CodeStatus.BAD_SIGNATURE, CodeStatus.OTHER_POOL, CodeStatus.NOT_STARTED]
    steps = [bad, replace(bad, trusted=True), replace(bad, trusted=True, pool=None)]
    assert [step.status("acme", TODAY) for step in steps] == faults


def test_codes_add_up() -> None:
    both = entitled(
        code(10, "alpha:6^beta:4", id="a", expires=TODAY + DAY, threshold=0.5),
        code(5, "beta:5", id="b", starts=TODAY - DAY, expires=TODAY, threshold=0.9),
    )
    assert both.count == 15
    assert both.status is CodeStatus.VALID
    assert both.distribution == (("alpha", 6), ("beta", 9))
    assert both.threshold == 0.5
    assert (both.starts, both.expires) == (TODAY - DAY, TODAY)


def test_a_newer_version_supersedes_an_older_one() -> None:
    file = license_file(1, code(10, version="2025"), code(3, version="2026"), code(4, feature=CAM))
    assert code_statuses(file, "acme", TODAY) == [
        CodeStatus.SUPERSEDED,
        CodeStatus.VALID,
        CodeStatus.VALID,
    ]
    assert {f: e.count for f, e in entitlements(file, "acme", TODAY).items()} == {CAD: 3, CAM: 4}


@pytest.mark.parametrize(
    "newer",
    [
        code(3, version="2026", trusted=False),
        code(3, version="2026", pool="other"),
        code(3, version="2026", starts=TODAY + DAY),
        code(3, version="2026", expires=TODAY - DAY),
    ],
)
def test_only_a_valid_code_supersedes(newer: LicenseCode) -> None:
    assert entitled(code(10, version="2025"), newer).count == 10


def test_a_feature_without_a_valid_code_is_listed_and_grants_nothing() -> None:
    none = entitled(code(10, expires=TODAY - DAY, version="7"))
    assert (none.count, none.status, none.version) == (0, CodeStatus.EXPIRED, "7")
    assert none.expires == TODAY - DAY
    assert none.distribution == ()


@pytest.mark.parametrize(
    ("licensed", "asked", "allowed"),
    [
        (None, "2026.1", True),
        ("2026", None, True),
        ("2026", "2026", True),
        ("2026", "2026.1", True),
        ("2026", "2025.4", True),
        ("2026", "2027", False),
        ("2026.1", "2026", True),
        ("2026.1", "2026.1.9", True),
        ("2026.1", "2026.2", False),
        ("1.10", "1.9", True),  # numbers, not text
        ("1.9", "1.10", False),
        ("10", "9", True),
        ("1.beta", "1.0", True),  # text comes after 0 and before 1
        ("1.beta", "1.1", False),
        ("1.1", "1.beta", True),
        (" 2026 ", "2026.1", True),
    ],
)
def test_covers(licensed: str | None, asked: str | None, allowed: bool) -> None:
    assert covers(licensed, asked) is allowed


days = st.none() | st.dates(TODAY - 5 * DAY, TODAY + 5 * DAY)
codes = st.builds(
    code,
    st.integers(0, 9),
    feature=st.sampled_from([CAD, CAM]),
    version=st.sampled_from([None, "1", "2", "10"]),
    starts=days,
    expires=days,
    pool=st.sampled_from([None, "acme", "other"]),
    trusted=st.booleans(),
)


@given(st.lists(codes, max_size=6))
def test_the_sum_is_that_of_the_valid_codes_of_the_newest_version(codes: list[LicenseCode]) -> None:
    def oracle(feature: str) -> int:
        good = [
            c
            for c in codes
            if c.feature == feature
            and c.trusted
            and c.pool in (None, "acme")
            and (c.starts or date.min) <= TODAY <= (c.expires or date.max)
        ]
        newest = max((int(c.version or 0) for c in good), default=0)
        return sum(c.count for c in good if int(c.version or 0) == newest)

    found = entitlements(license_file(1, *codes), "acme", TODAY)
    assert {f: e.count for f, e in found.items()} == {c.feature: oracle(c.feature) for c in codes}
    for entitlement in found.values():
        assert entitlement.status is CodeStatus.VALID or entitlement.count == 0
