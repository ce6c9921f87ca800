"""AllocationTable: how the seats of each feature are shared out (B4), and its invariant.

May import `license`, `distribution` and `commands`. Every method keeps, for every feature,
`free + sum(allocations) + commuters == deployed`, with no part below zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TypeVar

from licraft.core.commands import Level, Limits, Reason, Source
from licraft.core.distribution import MAX_SEATS, deploy
from licraft.core.license import CodeStatus, Entitlement


@dataclass(slots=True)
class PendingBorrow:
    """A borrow that still lacks seats; replicated, so that a new leader continues it.

    `asked` and `answered` name, by server, the hardest level it was asked at and has
    answered. `leader_gave` says that the leader's own seats were considered. `got` is how many
    seats it has from where, in the order in which they came.
    """

    id: str
    server: str
    want: int
    need: int
    reason: Reason
    since: int
    hold: bool
    leader_gave: bool = False
    exhausted: bool = False
    asked: dict[str, Level] = field(default_factory=dict)
    answered: dict[str, Level] = field(default_factory=dict)
    got: dict[Source, int] = field(default_factory=dict)


@dataclass(slots=True)
class FeaturePool:
    """All that the pool knows of one feature's seats.

    `target` are the distribution criteria, `licensed_target` those that the license file
    names, with an empty name for what it has split evenly. `surplus` is what a server has to
    give up for the sake of the target, `retiring` what it has to give up for good, as its seats
    come back. The distribution is `changing` from when a target is set until nobody has a
    surplus. `limits` bound borrowing, by server, with an empty name for all; `threshold` is
    the license file's.
    """

    feature: str
    entitled: int = 0
    retired: int = 0
    deployed: int = 0
    free: int = 0
    commuters: int = 0
    allocations: dict[str, int] = field(default_factory=dict)
    target: dict[str, int] | None = None
    threshold: float | None = None
    pending: dict[str, PendingBorrow] = field(default_factory=dict)
    status: CodeStatus = CodeStatus.VALID
    version: str | None = None
    starts: date | None = None
    expires: date | None = None
    licensed_target: dict[str, int] | None = None
    changing: bool = False
    surplus: dict[str, int] = field(default_factory=dict)
    retiring: dict[str, int] = field(default_factory=dict)
    limits: dict[str, Limits] = field(default_factory=dict)

    @property
    def goal(self) -> int:
        """The seats that should be deployed: the entitlement less what was retired."""
        return max(0, self.entitled - self.retired)

    @property
    def over(self) -> int:
        """The seats deployed beyond the goal; they retire as they come back."""
        excess = self.deployed - self.entitled + self.retired
        return min(excess, self.deployed) if excess > 0 else 0

    def fault(self) -> str | None:
        """What is wrong with these numbers, or None: the table's invariant."""
        parts = [self.free, self.commuters, *self.allocations.values()]
        if any(part < 0 for part in parts):
            return f"{self.feature}: a negative part in {parts}"
        if sum(parts) != self.deployed:
            return f"{self.feature}: the parts {parts} add up to {sum(parts)}, not {self.deployed}"
        if self.over and self.free:
            return f"{self.feature}: {self.free} free seats while {self.over} too many"
        for server, count in self.surplus.items():
            if not 0 < count <= self._beyond_target(server):
                return f"{self.feature}: {server} has no surplus of {count} seats"
        for server, count in self.retiring.items():
            if not 0 < count <= self.allocations.get(server, 0):
                return f"{self.feature}: {server} has no {count} seats that could retire"
        for server, borrow in self.pending.items():
            if borrow.server != server or not 0 <= borrow.need <= borrow.want or borrow.want < 1:
                return f"{self.feature}: a malformed borrow of {server}"
        return None

    def move(self, source: str, to: str, count: int) -> None:
        """Move seats between two servers; an empty name is the free pool."""
        if count < 0 or count > self._held_by(source):
            raise ValueError(
                f"{self.feature}: cannot move {count} from {source or 'the free pool'}"
            )
        if not to:
            count -= self.withdraw(source, count)
        self._add(source, -count)
        self._add(to, count)
        beyond = max(0, self.retiring.get(source, 0) - self.allocations.get(source, 0))
        if beyond:
            # Seats that went away with their holders retire where those give them back.
            self._retires(source, -beyond)
            self._retires(to, beyond)
        self._clip(source, self.surplus.get(source, 0) - count)

    def give_back(self, server: str, available: Iterable[str]) -> bool:
        """Put what is in a server's name into the free pool; whether there was anything."""
        count = self.allocations.get(server, 0)
        self.move(server, "", count)
        del self.allocations[server]
        self.retire(available)
        return count > 0

    def retire(self, available: Iterable[str]) -> int:
        """Withdraw what is over the goal from the free pool and `available` servers."""
        before = self.deployed
        for source in available:
            self.withdraw(source, self.retiring.get(source, 0))
        for source in ("", *available):
            count = min(self.over, self._held_by(source))
            self._add(source, -count)
            self.deployed -= count
            self._clip(source, self.surplus.get(source, 0))
        return before - self.deployed

    def grow(self, servers: Sequence[str]) -> int:
        """Deploy what lacks to the goal: up to the target, or evenly (B11, B32)."""
        count = self.goal - self.deployed
        if count <= 0:
            return 0
        given, rest = deploy(count, self.allocations, self.target, servers)
        for server, seats in given.items():
            self._add(server, seats)
        self.free += rest
        self.deployed += count
        return count

    def aim(self, target: dict[str, int] | None) -> None:
        """Share the seats out by `target` from now on; what is beyond it is to be given up."""
        self.target = target
        self.changing = target is not None
        self.surplus = {}
        for server in self.allocations if self.changing else ():
            self._clip(server, self.allocations[server])

    def extend(self, count: int, to: str) -> None:
        """Deploy `count` seats more, to a server or to the free pool; first, fewer retire."""
        self.retired = self.entitled - self.goal - count
        lacking = max(0, self.goal - self.deployed)
        self.deployed += lacking
        self._add(to, lacking)

    def reduce(self, count: int, server: str) -> None:
        """Have `count` seats retire, of a server or of whoever has unused ones first."""
        if server:
            self._retires(server, count)
        else:
            self.retired = self.entitled - self.goal + count

    def withdraw(self, server: str, count: int) -> int:
        """Retire up to `count` seats of those that a server has to give up for good."""
        count = min(count, self.retiring.get(server, 0))
        if count:
            self.deployed -= count
            self.retired += count
            self._add(server, -count)
            self._retires(server, -count)
        return count

    def settle(self, servers: Iterable[str], available: Sequence[str]) -> bool:
        """Move the seats that nobody relies on to where they are to be; whether any moved.

        Those of `available` servers that are to be given up go; then, while the distribution
        changes, `servers` under their target are filled up from the free pool.
        """
        moved = self.retire(available)
        for name in available:
            if count := self.surplus.get(name, 0):
                self.move(name, "", count)
                moved += count
        target = self.target or {}
        for name in servers if self.changing else ():
            lacking = target.get(name, 0) - self._kept(name)
            if (count := min(self.free, lacking)) > 0:
                self.move("", name, count)
                moved += count
        self.changing = bool(self.surplus)
        return moved > 0

    def owed(self, server: str) -> int:
        """The seats that a server has to give up as soon as nobody holds them."""
        return self.surplus.get(server, 0) + self.retiring.get(server, 0)

    def due(self, server: str) -> int:
        """The most that a server is to give up now: what it owes, or what is over in the pool."""
        return max(self.over, self.owed(server))

    # What bounds borrowing: a server's own limits come before those for all.

    def limits_at(self, server: str) -> Limits:
        """The limits that count at a server."""
        own, everywhere = self.limits.get(server, _NO_LIMITS), self.limits.get("", _NO_LIMITS)
        return Limits(
            _first(own.enabled, everywhere.enabled),
            _first(own.threshold, everywhere.threshold),
            _first(own.floor, everywhere.floor),
            _first(own.cap, everywhere.cap),
        )

    def borrows(self, server: str) -> bool:
        """Whether a server's seats may come and go by themselves."""
        return self.limits_at(server).enabled is not False

    def threshold_at(self, server: str, own: float) -> float:
        """A server's borrowing threshold: the administrator's, the license's, else its `own`."""
        limit = self.limits_at(server).threshold if self.limits else None
        found = _first(limit, self.threshold)
        return own if found is None else found

    def room(self, server: str) -> int:
        """The seats that borrowing may still bring to a server."""
        if not self.borrows(server):
            return 0
        cap = self.limits_at(server).cap
        return MAX_SEATS if cap is None else max(0, cap - self.allocations.get(server, 0))

    def lendable(self, server: str) -> int:
        """The seats that borrowing may take from a server."""
        if not self.borrows(server):
            return 0
        return max(0, self.allocations.get(server, 0) - (self.limits_at(server).floor or 0))

    def _held_by(self, holder: str) -> int:
        return self.allocations.get(holder, 0) if holder else self.free

    def _add(self, holder: str, count: int) -> None:
        if holder:
            self.allocations[holder] = self.allocations.get(holder, 0) + count
        else:
            self.free += count

    def _kept(self, server: str) -> int:
        """The seats of a server that are not to retire."""
        return self.allocations.get(server, 0) - self.retiring.get(server, 0)

    def _beyond_target(self, server: str) -> int:
        target = self.target or {}
        return max(0, self._kept(server) - target.get(server, 0))

    def _retires(self, server: str, count: int) -> None:
        """So many seats more, or fewer, of a server are to retire."""
        retiring = self.retiring.pop(server, 0) + count
        if retiring:
            self.retiring[server] = retiring
        self._clip(server, self.surplus.get(server, 0))

    def _clip(self, server: str, surplus: int) -> None:
        """A server has this surplus, as far as it has more than its target."""
        self.surplus.pop(server, None)
        surplus = min(surplus, self._beyond_target(server))
        if surplus > 0:
            self.surplus[server] = surplus


@dataclass(slots=True)
class AllocationTable:
    """The distribution of the seats of all features over all servers (B4)."""

    features: dict[str, FeaturePool] = field(default_factory=dict)

    def entitle(
        self, entitlements: dict[str, Entitlement], servers: Sequence[str], available: Sequence[str]
    ) -> list[str]:
        """Follow what the license says now; returns the features whose numbers changed.

        New seats are deployed at once. Seats too many are withdrawn from the free pool
        and from `available` servers at once, the rest as it comes back.
        """
        changed = []
        for feature in sorted(self.features.keys() | entitlements.keys()):
            pool = self.features.setdefault(feature, FeaturePool(feature))
            before = (pool.entitled, pool.status, pool.deployed)
            _describe(pool, entitlements.get(feature))
            pool.grow(servers)
            pool.retire(available)
            if before != (pool.entitled, pool.status, pool.deployed):
                changed.append(feature)
            if feature not in entitlements and pool.deployed == 0:
                del self.features[feature]
        return changed


def _describe(pool: FeaturePool, entitlement: Entitlement | None) -> None:
    """Copy what the license says of a feature; one that is gone from it is entitled to none."""
    if entitlement is None:
        pool.entitled = 0
        pool.status = CodeStatus.REMOVED
        return
    pool.entitled = entitlement.count
    pool.status = entitlement.status
    pool.version = entitlement.version
    pool.starts = entitlement.starts
    pool.expires = entitlement.expires
    pool.threshold = entitlement.threshold
    criteria = dict(entitlement.criteria) or None
    if entitlement.status is CodeStatus.VALID and criteria != pool.licensed_target:
        # The last word counts: an administrator's, until the file says another than it did.
        # What it says does not change with the servers over which it is split.
        pool.licensed_target = criteria
        pool.target = dict(entitlement.distribution) or None
        pool.changing = False
        pool.surplus = {}


_T = TypeVar("_T")
_NO_LIMITS = Limits()


def _first(one: _T | None, other: _T | None) -> _T | None:
    return other if one is None else one
