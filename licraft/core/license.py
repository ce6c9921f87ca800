"""License codes and the redundant license file, as values; what they entitle to on a day.

May import `distribution`. Signatures and the file's YAML are read elsewhere
(`licraft.vendor`): here a code is already text with a verdict. The rules:

* Valid codes of the same feature and version add up.
* A valid code of a newer version replaces those of older versions: they are `superseded`
  and count again when no newer one is valid any more. A code without a version is older
  than any with one.
* A code counts from the first second of the UTC day `starts` to the last of `expires`.
* The seats of codes with a distribution go where it says. Those of codes without one are
  split evenly and, where another code of the feature has one, added to it.
* A feature without a valid code grants nothing; the last of its codes in the file says why.

Source: claims R10, R19, B11; pool protocol, section 8.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from functools import lru_cache

from licraft.core.distribution import even_split

_CODE = re.compile(r"LIC1\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


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
    pool_key: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    trusted: bool = True
    distribution: tuple[tuple[str, int], ...] | None = None
    threshold: float | None = None

    def status(self, pool: str, today: date, pool_key: str | None = None) -> CodeStatus:
        """The code taken by itself, in `pool`, on the day `today`.

        A code that is bound to a pool's key counts there alone; without `pool_key` it
        is not known which pool this is, and not judged.
        """
        if not self.trusted:
            return CodeStatus.BAD_SIGNATURE
        if self.pool is not None and self.pool != pool:
            return CodeStatus.OTHER_POOL
        if pool_key is not None and self.pool_key not in (None, pool_key):
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

    @property
    def sha256(self) -> str:
        """SHA-256 of the text, in hexadecimal; empty for no text."""
        return text_digest(self.text)

    def says_the_same(self, other: LicenseFile) -> bool:
        """Whether the two differ in nothing but how they are written down."""
        if self.text == other.text:
            return True
        mine, theirs = (
            (file.pool, file.sequence, [(c.code, c.distribution, c.threshold) for c in file.codes])
            for file in (self, other)
        )
        return mine == theirs


NO_LICENSE = LicenseFile(pool=None, sequence=0, text="", codes=())


@lru_cache(maxsize=8)
def text_digest(text: str) -> str:
    """SHA-256 of a license file's text, in hexadecimal; empty for no text."""
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def packed(license: LicenseFile) -> LicenseFile:
    """The same file for the log, where no code is written twice: `unpacked` undoes it.

    The codes are most of a file of thousands, and stand in its text. A file whose text
    has others too, or has them wrapped, stays as it is.
    """
    if _CODE.findall(license.text) != [code.code for code in license.codes]:
        return license
    return replace(license, codes=tuple(replace(code, code="") for code in license.codes))


def unpacked(license: LicenseFile) -> LicenseFile:
    """The file that was `packed`, or any other as it is."""
    if not license.codes or any(code.code for code in license.codes):
        return license
    found = _CODE.findall(license.text)
    if len(found) != len(license.codes):
        return license
    codes = zip(license.codes, found, strict=True)
    return replace(license, codes=tuple(replace(code, code=text) for code, text in codes))


@dataclass(frozen=True, slots=True)
class Entitlement:
    """What the codes of one feature add up to on one day.

    `criteria` are what the codes say of where the seats go, whichever servers there are: seats
    by server, with an empty name for what is to be split evenly; `distribution` is that split
    over the servers. Both are empty if no code has a distribution. Of a feature that grants
    nothing, the dates and the version are those of the codes that say why.
    """

    feature: str
    count: int
    status: CodeStatus
    version: str | None
    starts: date | None
    expires: date | None
    threshold: float | None
    criteria: tuple[tuple[str, int], ...]
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


def code_statuses(
    license: LicenseFile, pool: str, today: date, pool_key: str | None = None
) -> list[CodeStatus]:
    """The status of each code of the file; valid codes of an older version are superseded."""
    alone = [code.status(pool, today, pool_key) for code in license.codes]
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


def entitlements(
    license: LicenseFile,
    pool: str,
    today: date,
    servers: Sequence[str] = (),
    pool_key: str | None = None,
) -> dict[str, Entitlement]:
    """What each feature of the file is entitled to; features that grant nothing have count 0.

    Seats that are to be split evenly are split over `servers`.
    """
    by_feature: dict[str, list[tuple[LicenseCode, CodeStatus]]] = {}
    for code, status in zip(
        license.codes, code_statuses(license, pool, today, pool_key), strict=True
    ):
        by_feature.setdefault(code.feature, []).append((code, status))
    return {
        feature: _entitlement(feature, rows, servers)
        for feature, rows in sorted(by_feature.items())
    }


def _entitlement(
    feature: str, rows: list[tuple[LicenseCode, CodeStatus]], servers: Sequence[str]
) -> Entitlement:
    valid = [code for code, status in rows if status is CodeStatus.VALID]
    status = CodeStatus.VALID if valid else rows[-1][1]
    shown = [code for code, its in rows if its is status]
    expires = _latest if status is CodeStatus.EXPIRED else _earliest
    criteria = _criteria(valid)
    return Entitlement(
        feature=feature,
        count=sum(code.count for code in valid),
        status=status,
        version=shown[-1].version,
        starts=_latest(code.starts for code in shown),
        expires=expires(code.expires for code in shown),
        threshold=next((c.threshold for c in shown if c.threshold is not None), None),
        criteria=tuple(sorted(criteria.items())),
        distribution=tuple(sorted(_distribution(criteria, servers).items())),
    )


def _criteria(codes: list[LicenseCode]) -> dict[str, int]:
    """The seats that the codes have for each server, and for all (""); nothing if for none."""
    if all(code.distribution is None for code in codes):
        return {}
    total: dict[str, int] = {}
    for code in codes:
        evenly = (("", code.count),)
        for server, seats in evenly if code.distribution is None else code.distribution:
            total[server] = total.get(server, 0) + seats
    return total


def _distribution(criteria: dict[str, int], servers: Sequence[str]) -> dict[str, int]:
    """The seats for each server, with those that are for all split evenly over `servers`."""
    shares = even_split(criteria.get("", 0), servers) if "" in criteria else {}
    named = {server: seats for server, seats in criteria.items() if server}
    return {name: shares.get(name, 0) + named.get(name, 0) for name in shares | named}


def _latest(days: Iterable[date | None]) -> date | None:
    return max((day for day in days if day is not None), default=None)


def _earliest(days: Iterable[date | None]) -> date | None:
    return min((day for day in days if day is not None), default=None)
