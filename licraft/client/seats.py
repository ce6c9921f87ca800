"""A seat that a program holds: what it is, and whether it may be relied on now.

May import `errors`, and `clock` and `tenure` of the client. `Hold` is shared by the
loop that renews it and any thread that asks about it; `SeatView` is what programs see.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from licraft.client.clock import Clock
from licraft.client.tenure import SeatState, Tenure
from licraft.errors import SeatLost
from licraft.wire import Authorization

MAX_TTL_S = 366 * 86400.0
FORKED = "forked"
"""Why a seat is lost in a child process: it belongs to the process that checked it out."""


class Hold:
    """One authorization and its tenure, safe to use from any thread.

    A child process made by fork inherits a copy, but not the right: its parent
    may give the seat back at any time. There the tenure reads as lost, without
    taking the lock, which some thread of the parent may have held.
    """

    def __init__(self, granted: Authorization, url: str, sent_at: float, clock: Clock) -> None:
        self.id = granted.id
        self.token = granted.token
        self.feature = granted.feature
        self.count = granted.count
        self.server = granted.server
        self.url = url
        self.heartbeat_ratio = _ratio(granted.heartbeat, granted.ttl)
        self.on_lost: Callable[[], None] | None = None
        self._tenure = Tenure(sent_at, granted.ttl)
        self._clock = clock
        self._lock = threading.Lock()
        self._pid = os.getpid()

    @property
    def heartbeat_s(self) -> float:
        """Seconds from one heartbeat to the next."""
        return self._tenure.ttl_s * self.heartbeat_ratio

    def tenure(self) -> Tenure:
        """The tenure now; once it has been seen expired it stays lost."""
        return self._step(lambda tenure, now: tenure.at(now))

    def renewed(self, sent_at: float, ttl_s: float | None) -> Tenure:
        """A request sent at `sent_at` was answered with success, just now."""
        return self._step(
            lambda t, now: t.renewed(now, sent_at, t.ttl_s if ttl_s is None else ttl_s)
        )

    def unanswered(self) -> Tenure:
        """No server renewed it, just now."""
        return self._step(lambda tenure, now: tenure.unanswered(now))

    def lost(self, reason: str) -> Tenure:
        """A server said just now that it is no longer held."""
        return self._step(lambda tenure, now: tenure.lost(now, reason))

    def returned(self) -> bool:
        """The holder gives it back now; whether it was still held until this."""
        before = self.tenure()
        after = self._step(lambda tenure, now: tenure.returned(now))
        return not before.ended and after.state is SeatState.RETURNED

    def moved(self, url: str, id: str, token: str, server: str | None) -> None:
        """The authorization is now another server's: `token` and `id` name it from here on."""
        self.url, self.id, self.token = url, id, token
        self.server = server or self.server

    def remaining(self) -> float:
        """Seconds for which it may be relied on if no server renews it; 0 once it has ended."""
        tenure = self.tenure()
        return 0.0 if tenure.ended else max(0.0, tenure.valid_until - self._clock())

    def _step(self, step: Callable[[Tenure, float], Tenure]) -> Tenure:
        if os.getpid() != self._pid:
            tenure = self._tenure
            return tenure if tenure.ended else tenure.lost(tenure.sent_at, FORKED)
        with self._lock:
            # The time is read under the lock: steps and their times are in one order.
            self._tenure = step(self._tenure, self._clock())
            return self._tenure


def _ratio(heartbeat_s: float, ttl_s: float) -> float:
    """Heartbeat over ttl, kept between 1/20 and 1/2 whatever a server says."""
    ratio = heartbeat_s / ttl_s if ttl_s > 0 else 1 / 3
    return min(max(ratio, 0.05), 0.5)


class SeatView:
    """What a program may ask of its seat; every answer is by its own clock, without a request."""

    def __init__(self, hold: Hold) -> None:
        self._hold = hold

    @property
    def id(self) -> str:
        """The authorization's id, as administrators see it; a conversion may change it."""
        return self._hold.id

    @property
    def token(self) -> str:
        """The secret that proves the authorization to servers."""
        return self._hold.token

    @property
    def feature(self) -> str:
        """The licensed feature."""
        return self._hold.feature

    @property
    def count(self) -> int:
        """How many seats of the feature this authorization is for."""
        return self._hold.count

    @property
    def server(self) -> str:
        """The name of the server that manages it now."""
        return self._hold.server

    @property
    def state(self) -> SeatState:
        """HELD, SUSPENDED (no server answers, but it is still valid), LOST or RETURNED."""
        return self._hold.tenure().state

    @property
    def valid(self) -> bool:
        """Whether the seat may be used now; once False it stays so."""
        return not self._hold.tenure().ended

    @property
    def remaining(self) -> float:
        """Seconds for which the seat stays valid if no server renews it; 0 when it has ended."""
        return self._hold.remaining()

    @property
    def lost(self) -> bool:
        """Whether the seat was lost: not True of one that was checked in."""
        return self._hold.tenure().state is SeatState.LOST

    @property
    def lost_reason(self) -> str | None:
        """Why it was lost (`expired`, `forked` or a server's code), or None."""
        tenure = self._hold.tenure()
        return tenure.reason if tenure.state is SeatState.LOST else None

    def ensure(self) -> None:
        """Return if the seat may be used now; raise SeatLost otherwise."""
        tenure = self._hold.tenure()
        if tenure.state is SeatState.LOST:
            raise SeatLost(f"the seat of {self.feature} was lost ({tenure.reason})", tenure.reason)
        if tenure.ended:
            raise SeatLost(f"the seat of {self.feature} was checked in", "returned")

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.id} {self.feature} x{self.count}"
            f" at {self.server}: {self.state}>"
        )
