"""How an administrator shares a feature's seats out, adds or retires some, bounds borrowing.

May import the rest of the core but `apply`, whose rules call these. Nothing is taken from a
holder: what has to go is noted, and its server gives it up when it comes back. Source: pool
protocol, section 7; claims B7 to B12, B21 to B26, B32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

from licraft.core.commands import AddAllocations, Limits, SetBorrowing, SetDistribution
from licraft.core.distribution import MAX_SEATS
from licraft.core.outcomes import DONE, Code, Effect, Outcome
from licraft.core.state import PoolState
from licraft.core.table import FeaturePool, PendingBorrow

Criteria = SetDistribution | AddAllocations | SetBorrowing

_UNKNOWN_FEATURE = Outcome(Effect.REFUSED, code=Code.UNKNOWN_FEATURE)
_UNKNOWN_SERVER = Outcome(Effect.REFUSED, code=Code.NOT_FOUND)
_DRAINING = Outcome(Effect.REFUSED, code=Code.DRAINING)
_INVALID = Outcome(Effect.REFUSED, code=Code.INVALID_REQUEST)
_NAMES = frozenset(field.name for field in fields(Limits))


def change(state: PoolState, command: Criteria) -> Outcome:
    """Apply one change of criteria to its feature; who waits for seats is the caller's to serve."""
    pool = state.table.features.get(command.feature)
    if pool is None:
        return _UNKNOWN_FEATURE
    match command:
        case SetDistribution():
            return _distribute(state, pool, command)
        case AddAllocations():
            return _add(state, pool, command)
        case SetBorrowing():
            return _bound(state, pool, command)


def hopeless(pool: FeaturePool) -> Iterator[PendingBorrow]:
    """The borrows to which nothing may come any more."""
    return (borrow for borrow in list(pool.pending.values()) if not pool.room(borrow.server))


def forget(state: PoolState, server: str) -> None:
    """A server is gone from the pool: nothing is meant for it any more."""
    for pool in state.table.features.values():
        pool.limits.pop(server, None)
        if pool.target is not None:
            pool.target.pop(server, None)


def _distribute(state: PoolState, pool: FeaturePool, command: SetDistribution) -> Outcome:
    """The seats are to be where the target has them; refused if there are not so many."""
    target = dict(command.target)
    if len(target) < len(command.target) or any(not _seats(n) for n in target.values()):
        return _INVALID
    if any(name not in state.voters for name in target):
        return _UNKNOWN_SERVER
    if sum(target.values()) > pool.goal:
        return Outcome(Effect.REFUSED, pool.goal, Code.EXCEEDS_ENTITLEMENT)
    pool.aim(target or None)
    return DONE


def _add(state: PoolState, pool: FeaturePool, command: AddAllocations) -> Outcome:
    """Deploy seats that are retired, or retire deployed ones; refused if there are not so many."""
    count, server = command.count, command.to
    if not count or abs(count) > MAX_SEATS:
        return _INVALID
    if server and server not in state.servers:
        return _UNKNOWN_SERVER
    if count > 0:
        left = pool.entitled - pool.goal
        if count > left:
            return Outcome(Effect.REFUSED, left, Code.EXCEEDS_ENTITLEMENT)
        if server and server not in state.deployable:
            return _DRAINING
        pool.extend(count, server)
        return DONE
    left = pool.goal - sum(pool.retiring.values())
    if server:
        left = min(left, pool.allocations.get(server, 0) - pool.retiring.get(server, 0))
    if -count > left:
        return Outcome(Effect.REFUSED, max(0, left), Code.EXCEEDS_ENTITLEMENT)
    pool.reduce(-count, server)
    return DONE


def _bound(state: PoolState, pool: FeaturePool, command: SetBorrowing) -> Outcome:
    """Borrowing is bounded anew; limits that say nothing are not kept."""
    server = command.server
    if server and server not in state.servers:
        return _UNKNOWN_SERVER
    if not _NAMES.issuperset(command.defaults):
        return _INVALID
    before = pool.limits.get(server, Limits())
    given = {n: v for n in _NAMES if (v := getattr(command.limits, n)) is not None}
    after = replace(before, **(dict.fromkeys(command.defaults) | given))
    pool.limits[server] = after
    if after == Limits():
        del pool.limits[server]
    if any(_contradicts(pool.limits_at(name)) for name in ("", *pool.limits)):
        pool.limits[server] = before
        if before == Limits():
            del pool.limits[server]
        return _INVALID
    return DONE


def _contradicts(limits: Limits) -> bool:
    """Whether these limits are no limits, or leave nothing between them."""
    threshold, floor, cap = limits.threshold, limits.floor, limits.cap
    if threshold is not None and not 0 < threshold <= 1:
        return True
    if not all(bound is None or _seats(bound) for bound in (floor, cap)):
        return True
    return floor is not None and cap is not None and floor > cap


def _seats(count: int) -> bool:
    return 0 <= count <= MAX_SEATS
