"""A server of the simulated pool: what it decides is written as plainly as possible.

May import the core. What the pool decides is the core's own code (`apply`, `next_step`,
`leases`, `record`); the rest follows the protocol, sections 4 to 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from licraft.core.apply import apply
from licraft.core.borrowing import Ask, Exhausted, Give, Wait, next_step
from licraft.core.commands import (
    Borrow,
    Command,
    EndBorrow,
    Entry,
    Level,
    Reason,
    Reclaim,
    Release,
    RenewLease,
    ServerDown,
    ServerUp,
    Solicit,
)
from licraft.core.invariants import check
from licraft.core.leases import down_due, expiry, lease_end, reclaim_due, recovery_end
from licraft.core.outcomes import (
    Applied,
    LeaseRenewed,
    ServerCameUp,
    ServerWentDown,
    Solicited,
)
from licraft.core.record import Authorization, Record
from licraft.core.state import PoolState, ServerState, ServerStatus
from support.pools import CAD

if TYPE_CHECKING:
    from support.simulated_pool import World

LEASE_S, TTL_S, DRIFT = 3.0, 12.0, 0.2
TICK_S = LEASE_S / 3


@dataclass(frozen=True)
class Faults:
    """Rules left out on purpose, to see that the simulation notices."""

    ignores_lease: bool = False
    hasty_reclaim: bool = False
    gives_without_setting_aside: bool = False
    forgets_and_grants: bool = False
    believes_a_record_of_recovery: bool = False


SOUND = Faults()


class Server:
    """One license server, as plain as the protocol's sections 4 to 6 allow."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.rate = 1.0 + DRIFT * world.random.random()
        self.cut = False
        self.running = True
        self.paused_until_s = 0.0
        self.state = PoolState()
        self.position = 0
        self.record = Record()
        self.recovering_until_s = float("-inf")
        self.heard: dict[str, float] = {}
        self.downs: dict[str, tuple[int, float]] = {}
        self.lead: tuple[int, float] = (0, 0.0)
        self.lives = 0
        self._begin(0)

    def _begin(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.lease_until_s = float("-inf")
        self.renewal = 0
        self.proposed: dict[int, float] = {}
        self.set_aside = 0
        self.serial = 0
        self.outstanding: Entry | None = None
        self.queue: list[Command] = []

    def clock(self) -> float:
        """This server's own clock."""
        return self.world.now_s * self.rate

    def mend(self) -> None:
        self.cut = False

    def crash(self, for_s: float) -> None:
        if self.running:
            self.running = False
            loses_record = self.world.random.random() < 0.5
            self.world.after(for_s, lambda: self.start(loses_record=loses_record))

    def start(self, *, loses_record: bool) -> None:
        """A new process; its state is on disk, its record perhaps not."""
        self.running = True
        self.lives += 1
        was_recovering = self.clock() < self.recovering_until_s
        was_recovering &= not self.world.faults.believes_a_record_of_recovery
        self._begin(0)
        self.recovering_until_s = float("-inf")
        kept = list(self.record)
        self.record = Record()
        if loses_record or was_recovering:
            if not self.world.faults.forgets_and_grants:
                self.recovering_until_s = recovery_end(self.clock(), TTL_S, DRIFT)
            return
        for old in kept:
            self.record.grant(old, self.clock(), expiry(self.clock(), TTL_S, DRIFT))

    def tick(self) -> None:
        """Everything a server does by the clock."""
        self.world.after(TICK_S / self.rate, self.tick)
        if not self.up():
            return
        self._apply()
        self.record.expire(self.clock())
        member = self.state.servers.get(self.name)
        if member is None:
            return
        if not self.incarnation or not member.acts or member.incarnation != self.incarnation:
            self._propose(
                ServerUp(self.name, member.incarnation + 1, 0.8, f"{self.name}-{self.lives}")
            )
            return
        self.renewal += 1
        self.proposed[self.renewal] = self.clock()
        in_use = dict(self.record.in_use)
        self._propose(RenewLease(self.name, self.incarnation, self.renewal, in_use, 1))
        if self.outstanding is not None:
            self.world.commit(self, self.outstanding)
        if self.world.leader is self:
            self._duties()

    def up(self) -> bool:
        return self.running and self.world.now_s >= self.paused_until_s

    def _propose(self, command: Command) -> None:
        self.world.commit(self, Entry(self.name, self.incarnation, 0, (command,)))

    def _submit(self, command: Command) -> None:
        self.queue.append(command)
        if self.outstanding is None:
            self._next()

    def _next(self) -> None:
        if self.queue:
            self.serial += 1
            commands = tuple(self.queue)
            self.queue = []
            self.outstanding = Entry(self.name, self.incarnation, self.serial, commands)
            self.world.commit(self, self.outstanding)

    def _apply(self) -> None:
        """Apply what has arrived of the log, perhaps not yet all of it."""
        end = len(self.world.log)
        if self.world.random.random() < 0.2:
            end = self.world.random.randint(self.position, end)
        while not self.cut and self.position < end:
            self.position += 1
            applied = apply(self.state, self.position, self.world.log[self.position - 1])
            assert check(self.state) == []
            self._note(applied)

    def _note(self, applied: Applied) -> None:
        now_s = self.clock()
        if self.position == self.world.elected_at:
            self.lead = (self.position, now_s)
        mine = (applied.server, applied.incarnation, applied.serial)
        if self.outstanding and mine == (self.name, self.incarnation, self.outstanding.serial):
            for command, outcome in zip(self.outstanding.commands, applied.outcomes, strict=True):
                if isinstance(command, Release):
                    self.set_aside -= command.count
                self.world.borrowed += isinstance(command, Borrow) and outcome.count
            self.outstanding = None
            self._next()
        for event in applied.events:
            match event:
                case ServerCameUp(server=server):
                    self.heard[server] = now_s
                    if server == self.name:
                        self._came_up(event)
                case LeaseRenewed(server=server, serial=serial):
                    self.heard[server] = now_s
                    if server == self.name and serial in self.proposed:
                        end_s = lease_end(self.proposed[serial], LEASE_S)
                        self.lease_until_s = max(self.lease_until_s, end_s)
                case ServerWentDown(server=server):
                    self.downs[server] = (applied.index, now_s)
                case Solicited(giver=self.name, borrower=to, borrow=borrow, level=level):
                    self._give(to, borrow, Level(level), leader=False)
                case _:
                    pass

    def _came_up(self, event: ServerCameUp) -> None:
        if event.reclaimed:
            self.record = Record()
            self.recovering_until_s = float("-inf")
        self._begin(event.incarnation if event.nonce == f"{self.name}-{self.lives}" else 0)

    # Grants and gifts

    def may_grant(self) -> bool:
        """Whether the lease runs and the record is whole."""
        leased = self.clock() < self.lease_until_s or self.world.faults.ignores_lease
        return self.up() and leased and self.clock() >= self.recovering_until_s

    def unused(self) -> int:
        pool = self.state.table.features.get(CAD)
        allocation = pool.allocations.get(self.name, 0) if pool else 0
        return allocation - self.record.in_use.get(CAD, 0) - self.set_aside

    def grant(self, id: str) -> bool:
        """Grant one seat from what this server has, or ask the pool for more."""
        if not self.may_grant():
            return False
        if self.unused() < 1:
            if self.incarnation and not self.outstanding:
                hold = self.world.random.random() < 0.5
                want = self.world.random.choice([1, 1, 2])
                reason = self.world.random.choice(list(Reason))
                name = f"{self.name}:{self.incarnation}:{self.serial}"
                self._submit(Borrow(name, CAD, self.name, want, want, reason, 0, hold))
            return False
        now_s = self.clock()
        seat = Authorization(id, CAD, 1, id, ("", "", "", 0, ""), 0.0)
        self.record.grant(seat, now_s, expiry(now_s, TTL_S, DRIFT))
        self.world.grants += 1
        return True

    def renew(self, id: str) -> bool:
        seat = self.record.get(id)
        if seat is None or not self.may_grant():
            return False
        self.record.renew(seat, self.clock(), expiry(self.clock(), TTL_S, DRIFT))
        return True

    def release(self, id: str) -> None:
        self.record.release(id)
        if self.incarnation and self.may_grant() and self.world.random.random() < 0.2:
            self._set_free(max(0, self.unused()), "", "", Level.OFFERED, leader=False)

    def _give(self, to: str, borrow: str, level: Level, *, leader: bool) -> None:
        if not self.incarnation or any(isinstance(c, Release) and c.to == to for c in self.queue):
            return
        spare = 0 if self.clock() < self.recovering_until_s or to == self.name else self.unused()
        self._set_free(max(0, min(spare, 2)), to, borrow, level, leader=leader)

    def _set_free(self, seats: int, to: str, borrow: str, level: Level, *, leader: bool) -> None:
        if not self.world.faults.gives_without_setting_aside:
            self.set_aside += seats
        self._submit(Release(CAD, self.name, seats, to, borrow, level, leader))

    # The leader's duties

    def _duties(self) -> None:
        index, since_s = self.lead
        if index != self.world.elected_at and self.world.elected_at:
            return
        for member in self.state.servers.values():
            self._watch(member, since_s)
        for pool in self.state.table.features.values():
            for borrow in list(pool.pending.values()):
                spare = {s.name: 1 for s in self.state.servers.values() if s.acts}
                match next_step(pool, borrow, self.name, spare):
                    case Give(level=level):
                        self._give(borrow.server, borrow.id, level, leader=True)
                    case Ask(giver=giver, level=level) | Wait(giver=giver, level=level):
                        self._propose(Solicit(CAD, borrow.server, borrow.id, giver, level))
                    case Exhausted():
                        self._propose(EndBorrow(CAD, borrow.server, borrow.id, True))

    def _watch(self, member: ServerState, since_s: float) -> None:
        now_s = self.clock()
        if member.acts and member is not self.state.servers[self.name]:
            heard_s = max(since_s, self.heard.get(member.name, 0.0))
            if now_s > down_due(heard_s, LEASE_S, DRIFT):
                self._propose(ServerDown(member.name, member.incarnation, member.lease_serial))
        elif member.status is ServerStatus.DOWN and not member.reclaimed:
            index, applied_s = self.downs.get(member.name, (0, 0.0))
            down_s = max(since_s, applied_s if index == member.down_index else 0.0)
            due_s = reclaim_due(down_s, TTL_S, DRIFT)
            due_s = down_s if self.world.faults.hasty_reclaim else due_s
            if now_s > due_s:
                self.world.reclaims += 1
                self._propose(Reclaim(member.name, member.down_index))
