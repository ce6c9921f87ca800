"""A pool in a test's hand: commands go in, the invariants are checked after each.

May import the core. It numbers log indices, serials and renewals as the servers would.
"""

from __future__ import annotations

from datetime import UTC, date, datetime

from licraft.core.apply import apply
from licraft.core.commands import (
    Borrow,
    Command,
    EndBorrow,
    Entry,
    FormPool,
    InstallLicense,
    Level,
    Member,
    Reason,
    Reclaim,
    Release,
    RenewLease,
    ServerDown,
    ServerUp,
    Solicit,
)
from licraft.core.distribution import parse_distribution
from licraft.core.invariants import check
from licraft.core.license import LicenseCode, LicenseFile
from licraft.core.outcomes import Applied, Outcome
from licraft.core.state import PoolState
from licraft.core.table import FeaturePool, PendingBorrow

ALPHA, BETA, GAMMA = NAMES = ("alpha", "beta", "gamma")
CAD, CAM = FEATURES = ("cad", "cam")
TODAY = date(2026, 11, 21)


def noon(day: date) -> int:
    """Seconds since 1970 at noon (UTC) of a day."""
    return int(datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp())


def form(names: tuple[str, ...] = NAMES, pool: str = "acme") -> FormPool:
    """The command that makes a pool of these servers."""
    members = tuple(Member(n, f"http://{n}:7700", f"{n}:7800") for n in names)
    return FormPool(pool, members, lease_s=3.0, ttl_s=60.0, drift=0.01, secret="s3cret")


def code(
    count: int,
    distribution: str = "",
    feature: str = CAD,
    *,
    id: str = "",
    version: str | None = None,
    starts: date | None = None,
    expires: date | None = None,
    pool: str | None = None,
    trusted: bool = True,
    threshold: float | None = None,
) -> LicenseCode:
    """A license code of `count` seats."""
    return LicenseCode(
        code=f"LIC1.{id or feature}-{count}.sig",
        id=id or f"{feature}-{count}",
        vendor="acme-software",
        feature=feature,
        count=count,
        version=version,
        starts=starts,
        expires=expires,
        pool=pool,
        trusted=trusted,
        distribution=parse_distribution(distribution) if distribution else None,
        threshold=threshold,
    )


def license_file(sequence: int, *codes: LicenseCode, pool: str | None = None) -> LicenseFile:
    """A redundant license file with these codes."""
    return LicenseFile(pool, sequence, f"file {sequence}", codes)


class Pool:
    """The replicated state, and the log that led to it."""

    def __init__(self, names: tuple[str, ...] = NAMES, *, up: bool = True) -> None:
        self.state = PoolState()
        self.log: list[Entry] = []
        self._serials: dict[tuple[str, int], int] = {}
        self.now(form(names))
        if up:
            for name in names:
                self.up(name)

    def apply(self, entry: Entry) -> Applied:
        """Apply an entry at the next log index; the invariants must hold after it."""
        self.log.append(entry)
        applied = apply(self.state, len(self.log), entry)
        assert check(self.state) == []
        assert len(applied.outcomes) == len(entry.commands)
        return applied

    def now(self, command: Command) -> Applied:
        """Commit a command that is harmless twice."""
        return self.apply(Entry("", 0, 0, (command,)))

    def ask(self, server: str, *commands: Command) -> Applied:
        """Commit a sequenced entry of `server`."""
        incarnation = self.state.servers[server].incarnation
        serial = self._serials.get((server, incarnation), 0) + 1
        self._serials[server, incarnation] = serial
        return self.apply(Entry(server, incarnation, serial, commands))

    def up(self, server: str, threshold: float = 0.8) -> Applied:
        """`server` comes up as its next incarnation."""
        incarnation = self.state.servers[server].incarnation + 1
        return self.now(ServerUp(server, incarnation, threshold, f"nonce-{len(self.log)}"))

    def down(self, server: str) -> Applied:
        """The leader calls `server` down."""
        member = self.state.servers[server]
        return self.now(ServerDown(server, member.incarnation, member.lease_serial))

    def reclaim(self, server: str) -> Applied:
        """The leader reclaims what `server` left."""
        return self.now(Reclaim(server, self.state.servers[server].down_index))

    def renew(self, server: str, wall_s: int = 0, **in_use: int) -> Applied:
        """`server` renews its lease."""
        member = self.state.servers[server]
        serial = member.lease_serial + 1
        wall_s = wall_s or noon(TODAY)
        return self.now(RenewLease(server, member.incarnation, serial, in_use, wall_s))

    def install(self, *codes: LicenseCode) -> Outcome:
        """Install a newer license file of these codes."""
        newer = license_file(self.state.license.sequence + 1, *codes)
        (outcome,) = self.now(InstallLicense(newer)).outcomes
        return outcome

    def borrow(
        self,
        server: str,
        want: int,
        need: int | None = None,
        *,
        id: str = "",
        feature: str = CAD,
        reason: Reason = Reason.REQUEST,
        since: int = 0,
        hold: bool = False,
    ) -> Outcome:
        """`server` borrows; its borrow is called `<server>-1` unless `id` says otherwise."""
        need = want if need is None else need
        id = id or f"{server}-1"
        command = Borrow(id, feature, server, want, need, reason, since, hold)
        (outcome,) = self.ask(server, command).outcomes
        return outcome

    def give(
        self,
        server: str,
        count: int,
        to: str,
        *,
        id: str = "",
        feature: str = CAD,
        level: Level = Level.SPARE,
        leader: bool = False,
    ) -> Outcome:
        """`server` releases seats to a borrow, or to the free pool if `to` is empty."""
        borrow = (id or f"{to}-1") if to else ""
        command = Release(feature, server, count, to, borrow, level, leader)
        (outcome,) = self.ask(server, command).outcomes
        return outcome

    def solicit(self, giver: str, borrower: str, level: Level = Level.SPARE) -> Applied:
        """The leader asks `giver` for a borrow's seats."""
        return self.now(Solicit(CAD, borrower, f"{borrower}-1", giver, level))

    def end(self, server: str, *, exhausted: bool, id: str = "") -> Applied:
        """A borrow ends."""
        return self.now(EndBorrow(CAD, server, id or f"{server}-1", exhausted))

    def feature(self, feature: str = CAD) -> FeaturePool:
        """All that the pool knows of a feature."""
        return self.state.table.features[feature]

    def pending(self, server: str, feature: str = CAD) -> PendingBorrow:
        """The borrow of `server` that lacks seats."""
        return self.feature(feature).pending[server]

    def seats(self, feature: str = CAD) -> dict[str, int]:
        """Where the seats are, without zeros; the free pool is called `free`."""
        pool = self.feature(feature)
        parts = {"free": pool.free, **pool.allocations}
        return {holder: count for holder, count in parts.items() if count}


def licensed(count: int, distribution: str = "", names: tuple[str, ...] = NAMES) -> Pool:
    """A pool whose servers are all up and share `count` seats of cad."""
    pool = Pool(names)
    for name in names:
        pool.renew(name)
    pool.install(code(count, distribution))
    return pool
