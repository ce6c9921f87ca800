"""A dumb model of where the seats are: one dict for each feature, one seat at a time.

May import the core's values (commands, license), nothing that moves seats: it is
compared with `apply` and must not share its mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta

from licraft.core.commands import (
    AddServer,
    Adopt,
    Borrow,
    Command,
    DropServer,
    EndBorrow,
    Entry,
    FormPool,
    HandOver,
    InstallLicense,
    PromoteServer,
    Reason,
    Reclaim,
    Release,
    RemoveServer,
    RenewLease,
    ServerDown,
    ServerUp,
    asked_for,
)
from licraft.core.license import NO_LICENSE, CodeStatus, LicenseFile, entitlements

FREE = ""


@dataclass
class Wish:
    """A borrow that lacks seats."""

    id: str
    want: int
    need: int
    failover: bool
    since: int
    hold: bool
    open: bool  # the free pool and the reclaimed servers are open to it


@dataclass
class Life:
    """One server."""

    incarnation: int = 0
    state: str = "new"
    renewal: int = 0
    down_at: int = 0
    wall_s: int = 0
    last: int = 0
    leaving: bool = False
    adopted: set[str] = field(default_factory=set)


@dataclass
class SeatModel:
    """Seats by feature and holder; the wishes by feature and server."""

    pool: str = ""
    lives: dict[str, Life] = field(default_factory=dict)
    highest: int = 0
    seats: dict[str, dict[str, int]] = field(default_factory=dict)
    goal: dict[str, int] = field(default_factory=dict)
    valid: dict[str, bool] = field(default_factory=dict)
    target: dict[str, dict[str, int] | None] = field(default_factory=dict)
    wishes: dict[str, dict[str, Wish]] = field(default_factory=dict)
    license: LicenseFile = NO_LICENSE
    clock_s: int = 0

    def apply(self, index: int, entry: Entry) -> None:
        """Follow one entry."""
        if entry.serial:
            life = self.lives.get(entry.server, Life())
            acts = life.state == "up" and life.incarnation == entry.incarnation
            if not acts or entry.serial <= life.last:
                return
            life.last = entry.serial
        for command in entry.commands:
            self._step(index, asked_for(command))

    def placed(self, feature: str) -> dict[str, int]:
        """Where a feature's seats are, without zeros."""
        return {holder: n for holder, n in self.seats[feature].items() if n}

    def _step(self, index: int, command: Command) -> None:
        match command:
            case FormPool(pool=pool, members=members) if not self.lives:
                self.pool = pool
                self.lives = {member.name: Life() for member in members}
            case AddServer(member=member) if member.name not in self.lives:
                self.lives[member.name] = Life(self.highest, "joining")
            case PromoteServer(server=name) if name in self.lives:
                life = self.lives[name]
                if life.state == "joining" and not life.leaving:
                    life.state = "new"
            case RemoveServer(server=name) if name in self.lives:
                if self._voters() != [name] and not self.lives[name].leaving:
                    self.lives[name].leaving = True
                    self._forget(name)
            case DropServer(server=name) if name in self.lives:
                life = self.lives[name]
                if life.leaving and life.state in ("joining", "new", "reclaimed"):
                    self.highest = max(self.highest, life.incarnation)
                    del self.lives[name]
                    for feature, seats in self.seats.items():
                        seats[FREE] = seats.get(FREE, 0) + seats.pop(name, 0)
                        self._settle(feature)
            case ServerUp(server=name, incarnation=number) if name in self._voters():
                life = self.lives[name]
                if number == life.incarnation + 1:
                    self.lives[name] = Life(number, "up", wall_s=life.wall_s)
                    self._forget(name)
            case RenewLease(server=name) if name in self._voters():
                life = self.lives[name]
                same = (life.state, life.incarnation) == ("up", command.incarnation)
                if same and command.serial > life.renewal:
                    life.renewal, life.wall_s = command.serial, command.wall_s
                    self._tell_time()
            case ServerDown(server=name) if name in self.lives:
                life = self.lives[name]
                named = ("up", command.incarnation, command.lease_serial)
                if (life.state, life.incarnation, life.renewal) == named:
                    life.state, life.down_at = "down", index
                    self._forget(name)
            case Reclaim(server=name) if name in self.lives:
                life = self.lives[name]
                if (life.state, life.down_at) == ("down", command.down_index):
                    life.state = "reclaimed"
                    for feature in self.seats:
                        self._settle(feature)
            case InstallLicense(license=new):
                fits = new.pool in (None, self.pool)
                if fits and new.sequence > self.license.sequence:
                    self.license = new
                    self._entitle()
            case Borrow():
                self._borrow(index, command)
            case Release():
                self._release(command)
            case HandOver(issuer=giver, server=to) if to in self._voters() and to != giver:
                life = self.lives[to]
                if (life.state, life.incarnation) == ("up", command.server_incarnation):
                    self._carry(command)
            case Adopt(issuer=giver, server=to) if to in self._voters() and giver in self.lives:
                life = self.lives[giver]
                down = (life.state, life.down_at) == ("down", command.down_index)
                if down and command.id not in life.adopted and self._carry(command):
                    life.adopted.add(command.id)
            case EndBorrow(feature=feature, server=name):
                wish = self.wishes.get(feature, {}).get(name)
                if wish and wish.id == command.borrow:
                    if command.exhausted and wish.hold and wish.need:
                        wish.want = wish.need
                    else:
                        del self.wishes[feature][name]

    def _voters(self) -> list[str]:
        return [n for n, li in self.lives.items() if li.state != "joining" and not li.leaving]

    def _borrow(self, index: int, command: Borrow) -> None:
        feature, name = command.feature, command.server
        acts = name in self._voters() and self.lives[name].state == "up"
        if not self.valid.get(feature) or self._over(feature) or not acts or command.want < 1:
            return
        need = max(0, min(command.need, command.want))
        failover = command.reason is Reason.FAILOVER
        since = command.since or index
        self.wishes[feature][name] = Wish(
            command.id, command.want, need, failover, since, command.hold, not failover
        )
        self._draw(feature, name)

    def _release(self, command: Release) -> None:
        feature, name = command.feature, command.server
        if feature not in self.seats or self.lives[name].state != "up" or command.count < 0:
            return
        if not command.to:
            count = command.count
            if command.due:
                count = min(count, self._over(feature))
            for _ in range(count):
                self._move(feature, name, FREE)
            self._settle(feature)
            return
        wish = self.wishes[feature].get(command.to)
        if not wish or wish.id != command.borrow or self._over(feature):
            return
        for _ in range(command.count):
            self._fulfil(feature, name, command.to)
        if command.leader:
            wish.open = True
            self._draw(feature, command.to)

    def _carry(self, command: HandOver | Adopt) -> bool:
        """A whole authorization from a server to another, or nothing."""
        feature, count = command.feature, command.count
        if count < 1 or self.seats.get(feature, {}).get(command.issuer, 0) < count:
            return False
        for _ in range(count):
            self._move(feature, command.issuer, command.server)
        return True

    def _move(self, feature: str, source: str, to: str) -> bool:
        seats = self.seats[feature]
        if seats.get(source, 0) < 1:
            return False
        seats[source] -= 1
        seats[to] = seats.get(to, 0) + 1
        return True

    def _fulfil(self, feature: str, source: str, to: str) -> bool:
        """One seat from `source` to the wish of `to`, if there are both."""
        wish = self.wishes[feature].get(to)
        if not wish or not self._move(feature, source, to):
            return False
        wish.want, wish.need = wish.want - 1, max(0, wish.need - 1)
        if not wish.want:
            del self.wishes[feature][to]
        return True

    def _open(self) -> list[str]:
        """Whose seats anybody may take, the free pool first."""
        idle = [name for name, life in self.lives.items() if life.state in ("new", "reclaimed")]
        return [FREE, *idle]

    def _draw(self, feature: str, name: str) -> None:
        wish = self.wishes[feature].get(name)
        if wish and wish.open:
            for source in self._open():
                while self._fulfil(feature, source, name):
                    pass

    def _over(self, feature: str) -> int:
        return max(0, sum(self.seats[feature].values()) - self.goal[feature])

    def _settle(self, feature: str) -> None:
        """Seats that anybody may take: withdrawn if there are too many, else to who waits."""
        for source in self._open():
            while self._over(feature) and self.seats[feature].get(source, 0):
                self.seats[feature][source] -= 1
        waiting = self.wishes[feature]
        for name in sorted(waiting, key=lambda name: (waiting[name].since, name)):
            self._draw(feature, name)

    def _forget(self, name: str) -> None:
        for waiting in self.wishes.values():
            waiting.pop(name, None)

    def _tell_time(self) -> None:
        walls = sorted(li.wall_s for li in self.lives.values() if li.state == "up" and li.wall_s)
        day = self._today()
        self.clock_s = max(self.clock_s, walls[(len(walls) - 1) // 2])
        if self._today() != day:
            self._entitle()

    def _today(self) -> date:
        return date(1970, 1, 1) + timedelta(seconds=self.clock_s)

    def _entitle(self) -> None:
        granted = entitlements(self.license, self.pool, self._today())
        for feature in granted:
            self.seats.setdefault(feature, {})
            self.wishes.setdefault(feature, {})
        for feature in list(self.seats):
            now = granted.get(feature)
            self.goal[feature] = now.count if now else 0
            self.valid[feature] = now is not None and now.status is CodeStatus.VALID
            if now and self.valid[feature]:
                self.target[feature] = dict(now.distribution) or None
            if not now:
                self.wishes[feature].clear()
            self._grow(feature)
            self._settle(feature)
            if not now and not sum(self.seats[feature].values()):
                del self.seats[feature], self.wishes[feature], self.goal[feature]
                del self.valid[feature]
                self.target.pop(feature, None)

    def _grow(self, feature: str) -> None:
        """Deal the new seats out, one by one."""
        seats, target = self.seats[feature], self.target.get(feature)
        turn, names = 0, self._voters()
        while sum(seats.values()) < self.goal[feature]:
            to = names[turn % len(names)]
            turn += 1
            if target is not None:
                short = [name for name in names if seats.get(name, 0) < target.get(name, 0)]
                to = short[0] if short else FREE
            seats[to] = seats.get(to, 0) + 1
