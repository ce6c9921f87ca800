"""All checkers, at every server after every log index, and at all holders when that matters.

May import the testing room and this folder. The first thing that is broken ends the run.
"""

from __future__ import annotations

from collections.abc import Mapping

from licraft.core.codec import decode_entry
from licraft.core.commands import Command, RenewLease, asked_for
from licraft.core.state import PoolState
from licraft.testing.pool import InProcessPool
from simulation.checkers.acknowledged import Acknowledged, Told
from simulation.checkers.borrows import Borrows
from simulation.checkers.conserved import Conserved
from simulation.checkers.entitlement import Entitlement
from simulation.checkers.entry import Entry, Promise
from simulation.checkers.leader_list import LeaderList
from simulation.checkers.license_order import LicenseOrder
from simulation.checkers.one_order import OneOrder
from simulation.checkers.over_issue import OverIssue
from simulation.checkers.own_seats import OwnSeats
from simulation.checkers.releases import Releases
from simulation.holders import Holders, SafetyBroken
from simulation.seen import Seen
from simulation.trace import Trace, in_words

RENEWALS_EACH = 8
"""Of entries that renew leases only so many are looked at."""


class Checker:
    """Shows every promise every entry, and keeps the first fault."""

    def __init__(
        self,
        pool: InProcessPool,
        holders: Holders,
        trace: Trace | None = None,
        knows: Mapping[str, int] | None = None,
    ) -> None:
        """`knows` is the version of commands that a server knows, where that is not 1."""
        self._pool = pool
        self._trace = trace or Trace()
        self._newest = 0
        self._commands: dict[int, tuple[Command, ...]] = {}
        self.seen = Seen(pool, holders)
        self.fault: SafetyBroken | None = None
        self._over_issue = OverIssue(holders, self.seen.counts)
        self._acknowledged = Acknowledged()
        self._promises: tuple[Promise, ...] = (
            Conserved(),
            OneOrder(),
            Entitlement(),
            self._over_issue,
            OwnSeats(pool, holders, self.seen.came_up),
            LicenseOrder(),
            Borrows(),
            LeaderList(),
            self._acknowledged,
            Releases({} if knows is None else knows),
        )

    def applied(self, server: str, index: int) -> None:
        """`server` has applied the log up to `index`."""
        self.seen.counts["entries applied"] += 1
        state = self._state(server)
        entry = Entry(server, index, state, self._at(index), self._newest)
        # Most entries renew leases, and change nothing that is promised.
        looked_at = () if entry.renews and index % RENEWALS_EACH else self._promises
        for promise in looked_at:
            if broken := promise.check(entry):
                self._broken(f"{server} at index {index}: {broken}")
        if entry.newest:
            self._newest = index
            self._tell(entry)
            self.seen.committed(index, entry.commands, state)

    def holders(self) -> None:
        """A holder has gained something."""
        if broken := self._over_issue.now():
            self._broken(broken)

    def told(self, order: str, what: Told) -> None:
        """An administrator has been told what became of an order."""
        if broken := self._acknowledged.told(order, what):
            self._broken(broken)

    def _state(self, server: str) -> PoolState:
        state = getattr(self._pool.log.engines[server].machine, "state", None)
        assert isinstance(state, PoolState)
        return state

    def _at(self, index: int) -> tuple[Command, ...]:
        """What was committed at a log index, whoever asked for it.

        Nothing if that was an election or is compacted.
        """
        known = self._commands.get(index)
        if known is None:
            log = self._pool.log
            entry = log.entry(index) if index > log.base[0] else None
            known = () if entry is None else tuple(map(asked_for, decode_entry(entry).commands))
            self._commands[index] = known
        return known

    def _tell(self, entry: Entry) -> None:
        """Tell what was committed, but for renewals of leases."""
        told = [in_words(c) for c in entry.commands if not isinstance(c, RenewLease)]
        if told:
            self._trace.tell("log", "; ".join(told), entry.index)

    def _broken(self, text: str) -> None:
        if self.fault is None:
            self.fault = SafetyBroken(f"{self._pool.now():.3f} s: {text}")
