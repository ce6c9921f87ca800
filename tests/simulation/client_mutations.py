"""The client module without one of its rules, and the table without one of its own.

May import the product and the simulation's plans.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from licraft.client.seats import Hold
from licraft.client.tenure import Tenure
from licraft.core.apply import apply
from licraft.core.commands import Entry, RenewLease
from licraft.core.outcomes import Applied
from licraft.core.state import PoolState, ServerStatus
from licraft.core.table import FeaturePool
from licraft.server.proposer import Proposer
from simulation.late_answers import (
    a_late_grant_gives_no_more_time,
    a_late_renewal_gives_no_more_time,
)
from simulation.mutation import Mutation
from simulation.plan import FULL, MOVING

# The client


def renewed_from_the_answer(self: Tenure, now: float, sent_at: float, ttl_s: float) -> Tenure:
    """A renewal counts from when its answer came."""
    current = self.at(now)
    return current if current.ended else Tenure(now, ttl_s)


def never_over(self: Tenure, now: float) -> Tenure:
    """A seat is relied on until a server says otherwise."""
    return self


def given_back_and_kept(self: Hold) -> bool:
    """A program goes on with what it has given back."""
    return not self.tenure().ended


_init = Hold.__init__


def granted_from_the_answer(
    self: Hold, granted: object, url: str, sent_at: float, clock: Callable[[], float]
) -> None:
    """A grant counts from when its answer came."""
    _init(self, granted, url, clock(), clock)  # type: ignore[arg-type]  # as it was given


# The table and the log


def changed(change: Callable[[PoolState, Entry], Entry]) -> Callable[..., Applied]:
    """Entries are applied as `change` makes them."""

    def changing(state: PoolState, index: int, entry: Entry) -> Applied:
        return apply(state, index, change(state, entry))

    return changing


def of_any_incarnation(state: PoolState, entry: Entry) -> Entry:
    """What a server proposed before it died takes effect after its return."""
    server = state.servers.get(entry.server)
    if server is None or not entry.serial:
        return entry
    serial = entry.serial if entry.incarnation == server.incarnation else server.requests + 1
    return replace(entry, incarnation=server.incarnation, serial=serial)


def renewed_though_down(state: PoolState, index: int, entry: Entry) -> Applied:
    """A server that is down is up again when it renews its lease."""
    for command in entry.commands:
        server = state.servers.get(command.server) if isinstance(command, RenewLease) else None
        if server is not None and server.status is ServerStatus.DOWN and not server.reclaimed:
            server.status = ServerStatus.UP
    return apply(state, index, entry)


_lendable = FeaturePool.lendable


def one_too_many(self: FeaturePool, server: str) -> int:
    """A server can give one seat more than it has."""
    return _lendable(self, server) + 1


def retires_what_is_in_use(self: FeaturePool, available: object) -> int:
    """Seats too many are taken from whoever has them."""
    taken = 0
    for server in list(self.allocations):
        count = min(self.allocations[server], max(0, self.over - taken))
        if count:
            self._add(server, -count)
            taken += count
    return taken


def free_seats_stay(self: FeaturePool, source: str, to: str, count: int) -> None:
    """What a server gets from another one, that one keeps."""
    self._add(to, count)


_submit_next = Proposer._next


def without_a_serial(self: Proposer) -> None:
    """Every entry of a server has the same serial number."""
    self._serial = 0
    _submit_next(self)


PROGRAMS = {**MOVING, "servers": 3, "clients": 15, "programs": 15, "duration_s": 60.0}
OF_CLIENTS = [
    Mutation(
        "the client counts a renewal from its answer",
        {(Tenure, "renewed"): renewed_from_the_answer},
        scenario=a_late_renewal_gives_no_more_time,
    ),
    Mutation(
        "the client counts a grant from its answer",
        {(Hold, "__init__"): granted_from_the_answer},
        scenario=a_late_grant_gives_no_more_time,
    ),
    Mutation(
        "the client relies on a seat whose time is over",
        {(Tenure, "at"): never_over},
        20,
        PROGRAMS,
    ),
    Mutation(
        "the client relies on what it has given back",
        {(Hold, "returned"): given_back_and_kept},
        10,
        PROGRAMS,
    ),
]

OF_THE_TABLE = [
    Mutation(
        "a command of an earlier incarnation takes effect",
        {("licraft.server.pool", "apply"): changed(of_any_incarnation)},
        40,
        {**FULL, "servers": 3, "faults": ("restart", "crash", "bad log", "elect"), "calm_s": 2.0},
    ),
    Mutation(
        "a lease can be renewed by a server that is down",
        {("licraft.server.pool", "apply"): renewed_though_down},
        40,
        {**FULL, "servers": 3, "faults": ("pause", "isolate", "absent"), "calm_s": 5.0},
    ),
    Mutation(
        "a source gives one seat more than it has",
        {(FeaturePool, "lendable"): one_too_many},
        10,
        {**FULL, "servers": 3, "faults": ("outage", "crash")},
    ),
    Mutation(
        "seats too many are taken from their holders",
        {(FeaturePool, "retire"): retires_what_is_in_use},
        10,
        {**FULL, "servers": 3, "faults": ("license",), "calm_s": 5.0},
    ),
    Mutation(
        "who gives a seat keeps it",
        {(FeaturePool, "move"): free_seats_stay},
        5,
        {**FULL, "servers": 3},
    ),
    Mutation(
        "a server's entries have no serial numbers of their own",
        {(Proposer, "_next"): without_a_serial},
        5,
        {**FULL, "servers": 3},
    ),
]
