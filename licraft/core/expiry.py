"""When license codes expire: what is about to go, and what has gone.

May import `license`. Days are the pool clock's, which one machine cannot turn back.
Source: pool protocol, section 8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta

from licraft.core.license import CodeStatus, LicenseCode, LicenseFile, entitlements

NOTICE_DAYS = (30, 14, 7, 1)
"""How many days ahead people are told of it, each time once."""

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Expiring:
    """`seats` of a feature go after the UTC day `day`, in `days`; `notice` is the last one due."""

    feature: str
    day: date
    days: int
    seats: int
    notice: int


def expiring(
    license: LicenseFile, pool: str, today: date, pool_key: str | None = None
) -> dict[str, Expiring]:
    """By feature, the first day within the notice after which the license grants less of it.

    A code whose seats others take over at once is not about to take anything away; nor is
    one that is bound to another key than `pool_key`.
    """
    found = {}
    for feature, codes in _by_feature(license).items():
        ends = {
            code.expires
            for code in codes
            if code.expires and code.status(pool, today, pool_key) is CodeStatus.VALID
        }
        for day in sorted(end for end in ends if (end - today).days <= NOTICE_DAYS[0]):
            if day == date.max:
                break
            part = replace(license, codes=codes)
            before, after = (
                entitlements(part, pool, when, pool_key=pool_key)[feature].count
                for when in (day, day + _DAY)
            )
            if after < before:
                days = (day - today).days
                notice = min(n for n in NOTICE_DAYS if days <= n)
                found[feature] = Expiring(feature, day, days, before - after, notice)
                break
    return found


def expired(
    license: LicenseFile, pool: str, today: date, pool_key: str | None = None
) -> dict[str, date]:
    """The last licensed day of every feature that has no valid code any more."""
    found = {}
    for feature, codes in _by_feature(license).items():
        statuses = [code.status(pool, today, pool_key) for code in codes]
        ends = [
            code.expires
            for code, status in zip(codes, statuses, strict=True)
            if status is CodeStatus.EXPIRED and code.expires
        ]
        if ends and CodeStatus.VALID not in statuses:
            found[feature] = max(ends)
    return found


def _by_feature(license: LicenseFile) -> dict[str, tuple[LicenseCode, ...]]:
    groups: dict[str, list[LicenseCode]] = {}
    for code in license.codes:
        groups.setdefault(code.feature, []).append(code)
    return {feature: tuple(group) for feature, group in groups.items()}
