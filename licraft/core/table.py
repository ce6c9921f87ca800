"""AllocationTable: how the seats of each feature are shared out (B4), and its invariant.

May import `license` and `distribution`. Every method keeps, for every feature,
`free + sum(allocations) + commuters == deployed`, with no part below zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date

from licraft.core.commands import Level, Reason, Source
from licraft.core.distribution import deploy
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
    """All that the pool knows of one feature's seats."""

    feature: str
    entitled: int = 0
    retired: int = 0
    deployed: int = 0
    free: int = 0
    commuters: int = 0
    allocations: dict[str, int] = field(default_factory=dict)
    target: dict[str, int] | None = None
    threshold: float | None = None
    borrowing: bool = True
    pending: dict[str, PendingBorrow] = field(default_factory=dict)
    status: CodeStatus = CodeStatus.VALID
    version: str | None = None
    starts: date | None = None
    expires: date | None = None

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
        self._add(source, -count)
        self._add(to, count)

    def give_back(self, server: str, available: Iterable[str]) -> bool:
        """Put what is in a server's name into the free pool; whether there was anything."""
        count = self.allocations.pop(server, 0)
        self.free += count
        self.retire(available)
        return count > 0

    def retire(self, available: Iterable[str]) -> int:
        """Withdraw what is over the goal from the free pool and `available` servers."""
        before = self.deployed
        for source in ("", *available):
            count = min(self.over, self._held_by(source))
            self._add(source, -count)
            self.deployed -= count
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

    def _held_by(self, holder: str) -> int:
        return self.allocations.get(holder, 0) if holder else self.free

    def _add(self, holder: str, count: int) -> None:
        if holder:
            self.allocations[holder] = self.allocations.get(holder, 0) + count
        else:
            self.free += count


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
    if entitlement.status is CodeStatus.VALID:
        pool.target = dict(entitlement.distribution) or None
