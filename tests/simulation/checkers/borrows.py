"""A borrow takes effect once: its id is never seen again after it has ended (section 6).

That every borrow ends is for `settling`.
"""

from __future__ import annotations

from simulation.checkers.entry import Entry


class Borrows:
    """Follows each borrow from its begin to its end."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._ended: set[str] = set()

    def check(self, entry: Entry) -> str:
        """After each entry that is new."""
        if not entry.newest or entry.renews:
            return ""
        features = entry.state.table.features.values()
        pending = {borrow.id for pool in features for borrow in pool.pending.values()}
        self._ended |= self._open - pending
        self._open = pending
        again = pending & self._ended
        return f"borrows that had ended are open again: {sorted(again)}" if again else ""
