"""This server's lease: until when it may grant, renew and adopt.

May import the core's lease arithmetic. Source: pool protocol, section 4.
"""

from __future__ import annotations

from licraft.core.leases import lease_end

_REMEMBERED = 64


class Lease:
    """Renewals by serial, and the end of the lease that the applied ones give."""

    def __init__(self) -> None:
        self._serial = 0
        self._proposed: dict[int, float] = {}
        self.until_s = float("-inf")

    def begin(self) -> None:
        """A new incarnation: no lease, and serials from 1."""
        self._serial = 0
        self._proposed.clear()
        self.until_s = float("-inf")

    def propose(self, now_s: float) -> int:
        """The serial of a renewal that is first proposed now."""
        self._serial += 1
        self._proposed[self._serial] = now_s
        self._proposed.pop(self._serial - _REMEMBERED, None)
        return self._serial

    def renewed(self, serial: int, lease_s: float) -> None:
        """The renewal `serial` was applied here: the lease runs from its first proposal."""
        first_s = self._proposed.pop(serial, None)
        if first_s is not None:
            self.until_s = max(self.until_s, lease_end(first_s, lease_s))

    def runs(self, now_s: float) -> bool:
        """Whether this server may act now."""
        return now_s < self.until_s

    def remaining_s(self, now_s: float) -> float:
        """How long it may act without another renewal."""
        return max(0.0, self.until_s - now_s)
