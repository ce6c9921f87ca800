"""The clocks of a license server: one that runs through suspends, and the wall's.

May import the standard library. Leases and validity are measured on `now`; wall time is
for people and for the pool clock. Source: pool protocol, section 4.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the time is; tests give their own."""

    def now(self) -> float:
        """Seconds on a monotonic clock that also counts while the machine is suspended."""
        ...

    def wall(self) -> float:
        """Seconds since 1970, as this machine believes."""
        ...


class SystemClock:
    """The machine's clocks: CLOCK_BOOTTIME where there is one, else CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self._clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def now(self) -> float:
        """Seconds on the monotonic clock."""
        return time.clock_gettime(self._clock)

    def wall(self) -> float:
        """Seconds since 1970."""
        return time.time()
