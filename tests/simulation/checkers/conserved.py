"""Seats are conserved: free and allocated ones are what is deployed, whoever has them.

The rules are the core's own (`licraft.core.invariants`); nobody looks at them so often.
"""

from __future__ import annotations

from licraft.core.invariants import check as faults
from simulation.checkers.entry import Entry


class Conserved:
    """Looks at the whole state after each new entry, and now and then at every server's."""

    def check(self, entry: Entry) -> str:
        """After each entry; all have applied the same ones."""
        changed = entry.newest and not entry.renews
        return "; ".join(faults(entry.state)) if changed or entry.whole else ""
