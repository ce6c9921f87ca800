"""License codes and the redundant license file, as values; what they entitle to on a day.

Signatures and the file's YAML are read elsewhere (`licraft.vendor`): here a code
is already text with a verdict. Source: claims R10, R19, B11; pool protocol, section 8.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from enum import StrEnum


class CodeStatus(StrEnum):
    """Why a license code counts or does not, in order of precedence."""

    VALID = "valid"
    BAD_SIGNATURE = "bad_signature"
    OTHER_POOL = "other_pool"
    NOT_STARTED = "not_started"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class LicenseCode:
    """One vendor-signed statement: `count` seats of `feature`.

    `starts` and `expires` are whole UTC days, both inclusive; None means no bound.
    `trusted` is the verdict on the signature. `distribution` is seats by server.
    """

    code: str
    id: str
    vendor: str
    feature: str
    count: int
    version: str | None = None
    starts: date | None = None
    expires: date | None = None
    pool: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    trusted: bool = True
    distribution: tuple[tuple[str, int], ...] | None = None
    threshold: float | None = None

    def status(self, pool: str, today: date) -> CodeStatus:
        """The code taken by itself, in `pool`, on the day `today`."""
        if not self.trusted:
            return CodeStatus.BAD_SIGNATURE
        if self.pool is not None and self.pool != pool:
            return CodeStatus.OTHER_POOL
        if self.starts is not None and today < self.starts:
            return CodeStatus.NOT_STARTED
        if self.expires is not None and today > self.expires:
            return CodeStatus.EXPIRED
        return CodeStatus.VALID


@dataclass(frozen=True, slots=True)
class LicenseFile:
    """The redundant license file: the greater `sequence` wins (R10, R19)."""

    pool: str | None
    sequence: int
    text: str
    codes: tuple[LicenseCode, ...]


NO_LICENSE = LicenseFile(pool=None, sequence=0, text="", codes=())


@dataclass(frozen=True, slots=True)
class Entitlement:
    """What the codes of one feature add up to on one day."""

    feature: str
    count: int
    status: CodeStatus
    version: str | None
    starts: date | None
    expires: date | None
    threshold: float | None
    distribution: tuple[tuple[str, int], ...]


def version_key(version: str) -> tuple[tuple[int, str], ...]:
    """An order on version texts: numeric parts as numbers, other parts as text."""
    parts = version.strip().split(".")
    return tuple((int(p), "") if p.isascii() and p.isdigit() else (0, p) for p in parts)


def covers(licensed: str | None, asked: str | None) -> bool:
    """Whether a license for `licensed` allows `asked`: "2026" covers 2025.4 and 2026.1."""
    if licensed is None or asked is None:
        return True
    bound = version_key(licensed)
    return version_key(asked)[: len(bound)] <= bound


def code_statuses(license: LicenseFile, pool: str, today: date) -> list[CodeStatus]:
    """The status of each code of the file; valid codes of an older version are superseded."""
    alone = [code.status(pool, today) for code in license.codes]
    newest: dict[str, tuple[tuple[int, str], ...]] = {}
    for code, status in zip(license.codes, alone, strict=True):
        if status is CodeStatus.VALID:
            key = version_key(code.version or "")
            newest[code.feature] = max(newest.get(code.feature, key), key)
    return [
        CodeStatus.SUPERSEDED
        if status is CodeStatus.VALID and version_key(code.version or "") < newest[code.feature]
        else status
        for code, status in zip(license.codes, alone, strict=True)
    ]


def entitlements(license: LicenseFile, pool: str, today: date) -> dict[str, Entitlement]:
    """What each feature of the file is entitled to; features that grant nothing have count 0."""
    by_feature: dict[str, list[tuple[LicenseCode, CodeStatus]]] = {}
    for code, status in zip(license.codes, code_statuses(license, pool, today), strict=True):
        by_feature.setdefault(code.feature, []).append((code, status))
    return {feature: _entitlement(feature, rows) for feature, rows in sorted(by_feature.items())}


def _entitlement(feature: str, rows: list[tuple[LicenseCode, CodeStatus]]) -> Entitlement:
    valid = [code for code, status in rows if status is CodeStatus.VALID]
    shown = valid or [code for code, _ in rows]
    status = CodeStatus.VALID if valid else rows[-1][1]
    distribution: dict[str, int] = {}
    for code in valid:
        for server, seats in code.distribution or ():
            distribution[server] = distribution.get(server, 0) + seats
    return Entitlement(
        feature=feature,
        count=sum(code.count for code in valid),
        status=status,
        version=shown[-1].version,
        starts=_latest(code.starts for code in shown),
        expires=_earliest(code.expires for code in shown),
        threshold=next((c.threshold for c in shown if c.threshold is not None), None),
        distribution=tuple(sorted(distribution.items())),
    )


def _latest(days: Iterable[date | None]) -> date | None:
    return max((day for day in days if day is not None), default=None)


def _earliest(days: Iterable[date | None]) -> date | None:
    return min((day for day in days if day is not None), default=None)
