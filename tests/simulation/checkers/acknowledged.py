"""What an administrator was told was done is done once; what was told not to be done never is.

The audit is part of the replicated state, so it tells which orders took effect, and how often.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum

from simulation.checkers.entry import Entry


class Told(Enum):
    """What an administrator hears of an order."""

    DONE = "done"
    NOT_DONE = "not done"
    UNKNOWN = "unknown"


class Acknowledged:
    """Counts each order's effects; `who` asked names the order."""

    def __init__(self) -> None:
        self._number = 0
        self._done: Counter[str] = Counter()
        self._never: set[str] = set()

    def check(self, entry: Entry) -> str:
        """After each entry that is new."""
        if not entry.newest or entry.renews:
            return ""
        broken = ""
        for record in entry.state.audit.recent:
            if record.number <= self._number:
                continue
            self._number = record.number
            if record.outcome != "done" or not record.who.startswith("order "):
                continue
            self._done[record.who] += 1
            if self._done[record.who] > 1:
                broken = f"{record.who} took effect twice: {record.what}"
            elif record.who in self._never:
                broken = f"{record.who} took effect, and was said not to: {record.what}"
        return broken

    def told(self, who: str, what: Told) -> str:
        """An administrator was told what became of an order; what contradicts that."""
        if what is Told.DONE and self._done[who] != 1:
            return f"{who} was said to be done, and is not"
        if what is Told.NOT_DONE:
            self._never.add(who)
            if self._done[who]:
                return f"{who} was said not to be done, and is"
        return ""
