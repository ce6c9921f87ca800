"""A whole pool in virtual time: servers, their clocks, a lossy log and holders of seats.

May import the core. One seed gives one run. The engine is a list that entries reach late,
twice or never; servers are cut off, paused, crash and come back; the clocks run at rates
that differ by `DRIFT`. What a server decides is written here as plainly as possible; what
the pool decides is the core's own code.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from licraft.core.apply import apply
from licraft.core.borrowing import Ask, Exhausted, Give, Wait, next_step
from licraft.core.commands import (
    Borrow,
    Command,
    EndBorrow,
    Entry,
    InstallLicense,
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
from support.pools import CAD, NAMES, code, form, license_file

LEASE_S, TTL_S, DRIFT = 3.0, 12.0, 0.2
SEATS = 7
TICK_S = LEASE_S / 3


@dataclass(frozen=True)
class Faults:
    """Rules left out on purpose, to see that the simulation notices."""

    ignores_lease: bool = False
    hasty_down: bool = False
    hasty_reclaim: bool = False
    gives_without_setting_aside: bool = False
    forgets_and_grants: bool = False
    believes_a_record_of_recovery: bool = False


class World:
    """Virtual time, the log, the faults, and the count of what holders rely on."""

    def __init__(self, seed: int, faults: Faults = Faults()) -> None:  # frozen
        self.random = random.Random(seed)
        self.faults = faults
        self.now_s = 0.0
        self.log: list[Entry] = []
        self.most = self.grants = self.borrowed = self.reclaims = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self.servers = {name: Server(self, name) for name in NAMES}
        self.leader = self.servers[NAMES[0]]
        self.elected_at = 0
        self.holders = [Holder(self) for _ in range(14)]
        founding = (form(), InstallLicense(license_file(1, code(SEATS, "alpha:3^beta:2^gamma:1"))))
        self.log.append(Entry("", 0, 0, founding))

    def run(self, for_s: float) -> None:
        """Let the world go on; raises AssertionError when too many rely on seats."""
        for actor in (*self.servers.values(), *self.holders):
            self.after(self.random.random() * TICK_S, actor.tick)
        self.after(5.0, self._misfortune)
        while self._events and self._events[0][0] <= for_s:
            self.now_s, _, event = heapq.heappop(self._events)
            event()
            relied = sum(holder.relies() for holder in self.holders)
            self.most = max(self.most, relied)
            assert relied <= SEATS, f"{relied} rely on {SEATS} seats at {self.now_s:.3f} s"

    def after(self, delay_s: float, event: Callable[[], None]) -> None:
        """Have something happen later."""
        heapq.heappush(self._events, (self.now_s + delay_s, next(self._order), event))

    def delay_s(self) -> float:
        """How long a message takes: mostly little, sometimes longer than any limit."""
        return self.random.choice([0.01, 0.01, 0.05, 0.3, 1.0]) * self.random.choice(
            [1, 1, 1, 1, 1, 20]
        )

    def commit(self, server: Server, entry: Entry) -> None:
        """Propose an entry: it is committed late, twice or never."""
        if server.cut or self.random.random() < 0.05:
            return
        for _ in range(self.random.choice([1, 1, 1, 2])):
            self.after(self.delay_s(), lambda: self.log.append(entry))

    def _misfortune(self) -> None:
        self.after(self.random.expovariate(0.25), self._misfortune)
        server = self.random.choice(list(self.servers.values()))
        length_s = self.random.choice([0.5, 2.0, 10.0, 40.0, 60.0]) * self.random.random()
        kinds = ["cut", "cut", "cut", "pause", "crash", "crash", "elect"]
        lost = self.leader.cut or not self.leader.running
        match "elect" if lost else self.random.choice(kinds):
            case "cut" if not server.cut:
                server.cut = True
                self.after(length_s, server.mend)
            case "pause":
                server.paused_until_s = max(server.paused_until_s, self.now_s + length_s)
            case "crash" if server.running:
                server.running = False
                loses = self.random.random() < 0.5
                self.after(length_s, lambda: server.start(loses_record=loses))
            case "elect":
                reachable = [s for s in self.servers.values() if s.running and not s.cut]
                self.leader = self.random.choice(reachable or [self.leader])
                self.log.append(Entry("", 0, 0, ()))
                self.elected_at = len(self.log)
            case _:
                pass


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
        now_s, faults = self.clock(), self.world.faults
        if member.acts and member is not self.state.servers[self.name]:
            heard_s = max(since_s, self.heard.get(member.name, 0.0))
            due_s = heard_s if faults.hasty_down else down_due(heard_s, LEASE_S, DRIFT)
            if now_s > due_s:
                self._propose(ServerDown(member.name, member.incarnation, member.lease_serial))
        elif member.status is ServerStatus.DOWN and not member.reclaimed:
            index, applied_s = self.downs.get(member.name, (0, 0.0))
            down_s = max(since_s, applied_s if index == member.down_index else 0.0)
            due_s = down_s if faults.hasty_reclaim else reclaim_due(down_s, TTL_S, DRIFT)
            if now_s > due_s:
                self.world.reclaims += 1
                self._propose(Reclaim(member.name, member.down_index))


class Holder:
    """A client: it relies on its seat until `ttl` after it sent what was last answered."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rate = 1.0 + DRIFT * world.random.random()
        self.server = world.servers[NAMES[0]]
        self.id = ""
        self.asking = ""
        self.valid_until_s = 0.0

    def clock(self) -> float:
        """This client's own clock."""
        return self.world.now_s * self.rate

    def relies(self) -> bool:
        """Whether it may use its seat now."""
        return bool(self.id) and self.clock() < self.valid_until_s

    def tick(self) -> None:
        """Ask for a seat, keep it, or give it back."""
        world, now_s = self.world, self.clock()
        world.after(world.random.random() * 3.0, self.tick)
        if self.id and now_s >= self.valid_until_s:
            self.id = ""
        if not self.id:
            server = self.server = world.random.choice(list(world.servers.values()))
            id = self.asking = f"seat-{next(_IDS)}"
            world.after(world.delay_s(), lambda: self._answer(server.grant(id), id, now_s))
        elif world.random.random() < 0.1:
            id, server = self.id, self.server
            self.id = ""
            world.after(world.delay_s(), lambda: server.release(id) if server.up() else None)
        else:
            id, server = self.id, self.server
            world.after(world.delay_s(), lambda: self._answer(server.renew(id), id, now_s))

    def _answer(self, granted: bool, id: str, sent_s: float) -> None:
        """The server has decided; its answer travels."""
        if granted and self.world.random.random() > 0.05:
            self.world.after(self.world.delay_s(), lambda: self._heard(id, sent_s))

    def _heard(self, id: str, sent_s: float) -> None:
        if id == self.asking:
            self.id, self.asking = id, ""
            self.valid_until_s = sent_s + TTL_S
        elif id == self.id:
            self.valid_until_s = max(self.valid_until_s, sent_s + TTL_S)


_IDS = count()
