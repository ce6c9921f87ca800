"""A whole pool in virtual time: servers, their clocks, a lossy log and holders of seats.

May import the core. One seed gives one run. The engine is a list that entries reach late,
twice or never; servers are cut off, paused, crash and come back; the clocks run at rates
that differ by `DRIFT`.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import count

from licraft.core.commands import Entry, InstallLicense
from support.pools import NAMES, code, form, license_file
from support.simulated_server import DRIFT, SOUND, TICK_S, TTL_S, Faults, Server

SEATS = 7


class World:
    """Virtual time, the log, the faults, and the count of what holders rely on."""

    def __init__(self, seed: int, faults: Faults = SOUND) -> None:  # frozen
        self.random = random.Random(seed)
        self.faults = faults
        self.now_s = 0.0
        self.log: list[Entry] = []
        self.most = self.grants = self.borrowed = self.reclaims = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self.ids = count()
        self.servers = {name: Server(self, name) for name in NAMES}
        self.leader = self.servers[NAMES[0]]
        self.elected_at = 0
        self.holders = [Holder(self) for _ in range(20)]
        founding = (form(), InstallLicense(license_file(1, code(SEATS, "alpha:3^beta:2^gamma:1"))))
        self.log.append(Entry("", 0, 0, founding))

    def run(self, for_s: float) -> None:
        """Let the world go on; raises AssertionError when too many rely on seats."""
        ticks = [server.tick for server in self.servers.values()]
        ticks += [holder.tick for holder in self.holders]
        for tick in ticks:
            self.after(self.random.random() * TICK_S, tick)
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
        slow = 40 if self.random.random() < 0.05 else 1
        return slow * self.random.choice([0.01, 0.05, 0.1, 0.3])

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
                server.crash(length_s)
                # A server that crashed once may well crash again, soon after its start.
                self.after(length_s + self.random.random() * 2 * TTL_S, lambda: server.crash(1.0))
            case "elect":
                reachable = [s for s in self.servers.values() if s.running and not s.cut]
                self.leader = self.random.choice(reachable or [self.leader])
                self.log.append(Entry("", 0, 0, ()))
                self.elected_at = len(self.log)
            case _:
                pass


class Holder:
    """A client: it relies on its seat until `ttl` after it sent what was last answered."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rate = 1.0 + DRIFT * world.random.random()
        self.server = world.servers[NAMES[0]]
        self.id = ""
        self.asking = ""
        self.asked_s = float("-inf")
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
        world.after(world.random.random() * 2.0, self.tick)
        if self.id and now_s >= self.valid_until_s:
            self.id = ""
        if not self.id and now_s < self.asked_s + 2.0:
            return
        if not self.id:
            self.asked_s = now_s
            server = self.server = world.random.choice(list(world.servers.values()))
            id = self.asking = f"seat-{next(world.ids)}"
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
            self.id, self.asking, self.asked_s = id, "", float("-inf")
            self.valid_until_s = sent_s + TTL_S
        elif id == self.id:
            self.valid_until_s = max(self.valid_until_s, sent_s + TTL_S)
