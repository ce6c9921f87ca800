"""How long a seat may be relied on: the seat's state machine, without I/O.

May import the standard library only. Reads no clock: every step is given the
time. Source of the rule: pool protocol, section 2. An authorization is valid
until `ttl` seconds after its holder *sent* the last request that was answered
with success, on the holder's own monotonic clock. Once it was not valid it never
is again, whatever answer comes late.

    HELD <-> SUSPENDED      no server answers, but the time is not over
      |          |
      +----+-----+--> LOST       the time is over, or a server said so
           +--------> RETURNED   the holder gave it back
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

EXPIRED = "expired"
"""Why a seat was lost whose time ran out before any server renewed it."""


class SeatState(StrEnum):
    """What the holder of a seat may do: use it (held, suspended) or not (lost, returned)."""

    HELD = "held"
    SUSPENDED = "suspended"
    LOST = "lost"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True)
class Tenure:
    """The right to a seat: `sent_at` + `ttl_s` is when it ends unless it is renewed."""

    sent_at: float
    ttl_s: float
    state: SeatState = SeatState.HELD
    reason: str = ""

    @property
    def valid_until(self) -> float:
        """The time at which the seat is lost unless it is renewed before."""
        return self.sent_at + self.ttl_s

    @property
    def ended(self) -> bool:
        """Whether the seat is lost or returned: final states."""
        return self.state in (SeatState.LOST, SeatState.RETURNED)

    def at(self, now: float) -> Tenure:
        """The tenure as it stands at `now`: lost for good once its time is over."""
        if self.ended or now < self.valid_until:
            return self
        return replace(self, state=SeatState.LOST, reason=EXPIRED)

    def renewed(self, now: float, sent_at: float, ttl_s: float) -> Tenure:
        """A request sent at `sent_at` was answered with success at `now`.

        An answer to an older request than the last successful one changes
        nothing. A shorter `ttl_s` than before shortens the tenure: the server
        counts with it too.
        """
        current = self.at(now)
        if current.ended or sent_at < current.sent_at:
            return current
        return Tenure(sent_at, ttl_s).at(now)

    def unanswered(self, now: float) -> Tenure:
        """No server renewed it at `now`: it may still be used until its time is over."""
        current = self.at(now)
        return current if current.ended else replace(current, state=SeatState.SUSPENDED)

    def lost(self, now: float, reason: str) -> Tenure:
        """A server said at `now` that the seat is no longer held."""
        current = self.at(now)
        return current if current.ended else replace(current, state=SeatState.LOST, reason=reason)

    def returned(self, now: float) -> Tenure:
        """The holder gave it back at `now`, and relies on it no more."""
        current = self.at(now)
        return current if current.ended else replace(current, state=SeatState.RETURNED)
