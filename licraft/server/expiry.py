"""Expiry on one server: warnings ahead, and the heartbeats of features that have expired.

May import the core, `wire`, `errors` and this room. Days and seconds are the pool clock's.
When the last valid code of a feature expires nothing more of it is granted at once; who
holds it is renewed for the server's `expiry_grace` more, and then told that it is lost.
Its seats stay on record for the rest of their time to live: whoever does not hear of it
relies on them. Source: pool protocol, section 8.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby

import msgspec

from licraft.core.expiry import Expiring, expired, expiring
from licraft.core.license import CodeStatus
from licraft.core.outcomes import Code
from licraft.core.state import PoolState
from licraft.server.pool import ReplicatedPool
from licraft.server.tokens import TokenMint
from licraft.wire import HeartbeatAnswer, HeartbeatRequest, HeartbeatResult, Problem

log = logging.getLogger(__name__)

_NAMED = 5
_OVER = -1  # In the place of the days of a notice: it has expired.

HeartbeatsResult = tuple[int, HeartbeatAnswer | Problem]
Renew = Callable[[HeartbeatRequest], HeartbeatsResult | Awaitable[HeartbeatsResult]]


class Expiry:
    """What expires, as one server sees it."""

    def __init__(self, pool: ReplicatedPool, grace_s: float) -> None:
        self._pool = pool
        self._grace_s = grace_s
        self._soon: dict[str, Expiring] = {}
        self._gone: dict[str, date] = {}
        self._told: set[tuple[str, date, int]] = set()

    @property
    def state(self) -> PoolState:
        """The replicated state, to be read."""
        return self._pool.state

    def changed(self) -> None:
        """The license or the pool's day is another: look anew, and log what is due."""
        state = self.state
        which = (state.license, state.pool, state.pool_day, state.pool_key)
        self._soon = expiring(*which)
        self._gone = expired(*which)
        soon = {(e.feature, e.day, e.notice): e for e in self._soon.values()}
        gone = {(feature, day, _OVER): feature for feature, day in self._gone.items()}
        told, self._told = self._told, soon.keys() | gone.keys()
        for line in _soon_lines(soon[key] for key in soon.keys() - told):
            log.warning("%s", line)
        for line in self._gone_lines({gone[key]: key[1] for key in gone.keys() - told}):
            log.error("%s", line)

    def notice(self, feature: str) -> Expiring | None:
        """What is about to expire of a feature, if it is time to say so."""
        return self._soon.get(feature)

    def trouble(self) -> list[str]:
        """What has expired and what soon will, one line for each day."""
        return self._gone_lines(self._gone) + _soon_lines(self._soon.values())

    def any_ended(self) -> bool:
        """Whether the holders of any feature are to be told that it is lost."""
        return any(map(self.ended, self._gone))

    def ended(self, feature: str) -> bool:
        """Whether the holders of a feature are not renewed any more."""
        day = self._gone.get(feature)
        pool = self.state.table.features.get(feature)
        if day is None or (pool is not None and pool.status is CodeStatus.VALID):
            return False
        return self.state.clock_s >= _end_s(day) + self._grace_s

    def heartbeat(
        self, request: HeartbeatRequest, mint: TokenMint, renew: Renew
    ) -> HeartbeatsResult | Awaitable[HeartbeatsResult]:
        """Answer a heartbeat while some feature has ended; the other tokens are `renew`ed."""
        lost: dict[int, HeartbeatResult] = {}
        for place, token in enumerate(request.tokens):
            fields = mint.open(token)
            if fields is not None and self.ended(fields.feature):
                lost[place] = HeartbeatResult(fields.id, "lost", code=Code.NOT_LICENSED)
        if not lost:
            return renew(request)
        rest = [token for place, token in enumerate(request.tokens) if place not in lost]
        answer = renew(msgspec.structs.replace(request, tokens=rest))
        if inspect.isawaitable(answer):
            return _later(answer, lost)
        return _merged(answer, lost)

    def _gone_lines(self, gone: dict[str, date]) -> list[str]:
        lines = []
        for day, features in _by_day(gone):
            renewed_s = _end_s(day) + self._grace_s
            line = f"{some(features)}: expired on {day}: ask the vendor for a new code"
            if self.state.clock_s < renewed_s:
                until = datetime.fromtimestamp(renewed_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
                line += f"; who holds it now is renewed until {until}"
            lines.append(line)
        return lines


async def _later(
    answer: Awaitable[HeartbeatsResult], lost: dict[int, HeartbeatResult]
) -> HeartbeatsResult:
    return _merged(await answer, lost)


def _merged(answer: HeartbeatsResult, lost: dict[int, HeartbeatResult]) -> HeartbeatsResult:
    """The results in the order of the request's tokens."""
    status, body = answer
    if isinstance(body, HeartbeatAnswer):
        results = list(body.results)
        for place, result in sorted(lost.items()):
            results.insert(place, result)
        body = msgspec.structs.replace(body, results=results)
    return status, body


def _end_s(day: date) -> float:
    """The second at which a UTC day is over."""
    return datetime.combine(day, time(), UTC).timestamp() + timedelta(days=1).total_seconds()


def _soon_lines(soon: Iterable[Expiring]) -> list[str]:
    by_day = sorted(soon, key=lambda e: (e.day, e.feature))
    lines = []
    for day, group in groupby(by_day, lambda e: e.day):
        rows = list(group)
        names = [f"{e.feature} ({e.seats} seats)" for e in rows]
        days = rows[0].days
        when = "today" if days == 0 else "tomorrow" if days == 1 else f"in {days} days"
        lines.append(f"{some(names)}: expires on {day}, {when}, at the end of the day (UTC)")
    return lines


def _by_day(gone: dict[str, date]) -> list[tuple[date, list[str]]]:
    days: dict[date, list[str]] = {}
    for feature, day in sorted(gone.items()):
        days.setdefault(day, []).append(feature)
    return sorted(days.items())


def some(names: list[str]) -> str:
    """Some names, and how many more there are: a line stays a line with a thousand of them."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
