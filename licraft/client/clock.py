"""The client's clock: monotonic seconds that go on while the machine is suspended.

May import the standard library only. An authorization that was valid when the
lid was closed must not look valid when it is opened an hour later, so the plain
monotonic clock, which stands still meanwhile on Linux, is only the second choice.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns seconds from a fixed but unknown origin, never going backwards."""

_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def boottime() -> float:
    """Seconds on CLOCK_BOOTTIME where the system has one, else on the monotonic clock."""
    if _BOOTTIME is None:
        return time.monotonic()
    return time.clock_gettime(_BOOTTIME)
