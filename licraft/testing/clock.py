"""A clock for tests: it stands still, or follows a source of true time at its own rate.

May import the standard library. Satisfies `licraft.server.clock.Clock`.
"""

from __future__ import annotations

from collections.abc import Callable

WALL_S = 1_795_262_400.0
"""2026-11-21 12:00 UTC: what wall clocks show when a test begins."""


class ManualClock:
    """A monotonic clock and a wall clock that move together, `rate` seconds each true second."""

    def __init__(
        self,
        *,
        now_s: float = 1_000.0,
        wall_s: float = WALL_S,
        rate: float = 1.0,
        source: Callable[[], float] | None = None,
    ) -> None:
        """Stand still until `advance` is called; with a `source` (true seconds) follow it too."""
        if rate <= 0:
            raise ValueError(f"a clock's rate must be above 0, not {rate}")
        self.rate = rate
        self._source = source or _standing
        self._begun = self._source()
        self._now_s = now_s
        self._wall_s = wall_s
        self._advanced_s = 0.0

    def now(self) -> float:
        """Seconds on the monotonic clock."""
        return self._now_s + self._elapsed()

    def true_s(self) -> float:
        """True seconds, whatever this clock shows."""
        return self._source()

    def wall(self) -> float:
        """Seconds since 1970, as this clock believes."""
        return self._wall_s + self._elapsed()

    def advance(self, seconds: float) -> None:
        """Let `seconds` of true time pass, for this clock alone; it moves by `rate` times that."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._advanced_s += seconds

    def set_wall(self, wall_s: float) -> None:
        """Set the wall clock, as an administrator can; the monotonic clock does not care."""
        self._wall_s = wall_s - self._elapsed()

    def _elapsed(self) -> float:
        return self.rate * (self._source() - self._begun + self._advanced_s)


def _standing() -> float:
    """Time stands still."""
    return 0.0
