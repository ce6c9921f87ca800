"""What goes wrong in a simulation of the engine, and its mending.

May import this room. Every fault is drawn from the run's seeded source, mends itself after
a while, and leaves a line in the run's history.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from itertools import permutations
from typing import Protocol

from licraft.testing.disk import Fault
from licraft.testing.engine_member import WORK_STEPS, Member
from licraft.testing.engine_world import DISK_S, Host, World

WEIGHTS = {
    "reset": 3,
    "one way": 3,
    "isolate": 2,
    "isolate the leader": 3,
    "split": 1,
    "slow network": 2,
    "pause": 2,
    "pause the leader": 1,
    "slow disk": 2,
    "broken disk": 1,
    "kill": 2,
    "kill at a file operation": 4,
    "power loss": 2,
    "power loss at a file operation": 3,
    "kill many": 1,
    "power loss of many": 1,
    "compaction": 3,
    "hand-over": 2,
}
"""Every kind of fault, and how often it comes beside others."""
BETWEEN = ("reset", "one way", "isolate", "isolate the leader", "split", "slow network")
"""Those that need two servers."""


class Pool(Protocol):
    """What faults need of a run."""

    world: World
    hosts: dict[str, Host]

    def end(self, host: Host, why: str, *, power: bool = False) -> None:
        """End a server's process, or its machine; it starts again by itself."""
        ...


class Misfortunes:
    """Faults, one after the other and several at a time, until all is healed."""

    def __init__(
        self, pool: Pool, note: Callable[[str], None], kinds: Iterable[str], pause_s: float
    ) -> None:
        """`kinds` are those that happen, `pause_s` is the mean time between two of them."""
        self.seen: Counter[str] = Counter()
        self._pool = pool
        self._note = note
        self._pause_s = pause_s
        self._over = False
        self._world = pool.world
        self._rng = pool.world.rng
        self._kinds = {name: WEIGHTS[name] for name in kinds}
        self._faults: dict[str, Callable[[Host], str | None]] = {
            "reset": self._reset,
            "one way": self._one_way,
            "isolate": self._isolate,
            "isolate the leader": self._isolate_leader,
            "split": self._split,
            "slow network": self._slow_network,
            "pause": self._pause,
            "pause the leader": self._pause_leader,
            "slow disk": self._slow_disk,
            "broken disk": self._broken_disk,
            "kill": self._kill,
            "kill at a file operation": self._cut,
            "power loss": self._lose_power,
            "power loss at a file operation": self._cut_power,
            "kill many": self._kill_many,
            "power loss of many": self._lose_power_of_many,
            "compaction": self._compact,
            "hand-over": self._hand_over,
        }

    def start(self, delay_s: float) -> None:
        """Let faults begin after a while."""
        self._world.schedule.after(delay_s, self._wait)

    def heal(self) -> None:
        """Mend everything, and let nothing new happen."""
        self._over = True
        self._world.network.heal()
        for host in self._pool.hosts.values():
            host.disk.on_step = None
            host.disk_s = DISK_S
            self._continue(host.member)

    def _next(self) -> None:
        """One fault now, the next later."""
        if self._over:
            return
        rng = self._rng
        name = rng.choices(list(self._kinds), list(self._kinds.values()))[0]
        host = self._pool.hosts[rng.choice(list(self._pool.hosts))]
        alone = len(self._pool.hosts) == 1 and name in BETWEEN
        detail = None if alone else self._faults[name](host)
        if detail is not None:
            self.seen[name] += 1
            self._note(f"{name}: {detail}")
        self._wait()

    def strike_leader(self) -> None:
        """One fault now that hits the leader at what it is just about to do."""
        leader = self._leader()
        if self._over or leader is None:
            return
        host, rng = leader.host, self._rng
        fault = rng.choice([self._isolate, self._slow_disk, self._kill, self._pause, None])
        if fault is None:
            detail: str | None = self.arm(host, power=rng.random() < 0.5, steps=WORK_STEPS)
        else:
            detail = fault(host)
        self._note(f"the leader is hit: {detail}")

    def _wait(self) -> None:
        """Let some time pass until the next fault."""
        pause_s = self._rng.expovariate(1 / self._pause_s)
        self._world.schedule.after(pause_s, self._next)

    def _until(self, least_s: float, most_s: float, mend: Callable[[], None]) -> float:
        """Mend a fault after a while; how long that is."""
        lasts_s = self._rng.uniform(least_s, most_s)
        self._world.schedule.after(lasts_s, mend)
        return lasts_s

    # The network.

    def _reset(self, host: Host) -> str:
        other = self._other(host)
        self._world.network.reset(host.name, other)
        return f"{host.name} {other}"

    def _one_way(self, host: Host) -> str:
        other = self._other(host)
        return self._block([(host.name, other)])

    def _isolate(self, host: Host) -> str:
        """One server hears nobody, is heard by nobody, or both."""
        others = [name for name in self._pool.hosts if name != host.name]
        ways = [(host.name, other) for other in others]
        back = [(other, host.name) for other in others]
        return self._block(self._rng.choice([ways, back, ways + back, ways + back]))

    def _isolate_leader(self, host: Host) -> str | None:
        leader = self._leader()
        return self._isolate(leader.host) if leader is not None else None

    def _split(self, host: Host) -> str:
        """Two parts that do not hear each other."""
        names = list(self._pool.hosts)
        self._rng.shuffle(names)
        part = names[: self._rng.randint(1, len(names) - 1)]
        return self._block(
            [way for way in permutations(names, 2) if (way[0] in part) != (way[1] in part)]
        )

    def _block(self, ways: Iterable[tuple[str, str]]) -> str:
        network, ways = self._world.network, list(ways)
        for way in ways:
            network.block(way)

        def mend() -> None:
            for way in ways:
                network.unblock(way)

        lasts_s = self._until(0.2, self._rng.choice([1.0, 3.0, 8.0]), mend)
        return f"{' '.join('>'.join(way) for way in ways)} for {lasts_s:.2f} s"

    def _slow_network(self, host: Host) -> str:
        slow_s, other = self._world.network.slow_s, self._other(host)
        way = (host.name, other)
        slow_s[way] = self._rng.choice([0.05, 0.3, 1.5])

        def mend() -> None:
            slow_s.pop(way, None)

        lasts_s = self._until(0.5, 5.0, mend)
        return f"{'>'.join(way)} {slow_s[way]} s for {lasts_s:.2f} s"

    # Processes and machines.

    def _pause(self, host: Host) -> str | None:
        member = host.member
        if member is None or member.paused:
            return None
        member.paused = True
        lasts_s = self._until(0.1, self._rng.choice([1.0, 4.0]), partial(self._continue, member))
        return f"{host.name} for {lasts_s:.2f} s"

    def _pause_leader(self, host: Host) -> str | None:
        leader = self._leader()
        return self._pause(leader.host) if leader is not None else None

    def _continue(self, member: Member | None) -> None:
        if member is not None and member.paused and member.alive:
            member.resume()

    def _kill(self, host: Host) -> str | None:
        if host.member is None:
            return None
        self._pool.end(host, "killed")
        return host.name

    def _lose_power(self, host: Host) -> str | None:
        if host.member is None:
            return None
        self._pool.end(host, "lost power", power=True)
        return host.name

    def _kill_many(self, host: Host) -> str:
        return self._end_many(power=False)

    def _lose_power_of_many(self, host: Host) -> str:
        return self._end_many(power=True)

    def _end_many(self, *, power: bool) -> str:
        """All of them, or each but one, or some."""
        share = self._rng.choice([0.6, 0.9, 1.0])
        chosen = [name for name in self._pool.hosts if self._rng.random() < share]
        for name in chosen:
            if self._pool.hosts[name].member is not None:
                self._pool.end(self._pool.hosts[name], "one of many", power=power)
        return " ".join(chosen)

    # Disks.

    def _slow_disk(self, host: Host) -> str:
        host.disk_s = self._rng.choice([0.02, 0.1, 0.5])

        def mend() -> None:
            host.disk_s = DISK_S

        lasts_s = self._until(0.5, 6.0, mend)
        return f"{host.name} {host.disk_s} s for {lasts_s:.2f} s"

    def _broken_disk(self, host: Host) -> str | None:
        """From some step on every call fails: the server stops as soon as it notices."""
        if host.member is None:
            return None
        fault = self._rng.choice([Fault.NO_SPACE, Fault.IO_ERROR])
        first = host.disk.steps + self._rng.randrange(4 * WORK_STEPS)
        host.fails = True
        host.disk.on_step = lambda step: fault if step.number > first else None
        return f"{host.name} {fault.value} after step {first}"

    def _cut(self, host: Host) -> str | None:
        return self.arm(host, power=False)

    def _cut_power(self, host: Host) -> str | None:
        return self.arm(host, power=True)

    def arm(self, host: Host, *, power: bool, steps: int = 4 * WORK_STEPS) -> str:
        """End a server at one of its disk's next steps, be it in the middle of its start."""
        last = host.disk.steps + self._rng.randrange(steps)
        host.loses_power = power
        host.disk.on_step = lambda step: Fault.CUT if step.number > last else None
        return f"{host.name} after step {last}"

    # Work that is no fault, and yet makes trouble.

    def _compact(self, host: Host) -> str | None:
        if host.member is None:
            return None
        host.member.at_work(host.member.compact)
        return host.name

    def _hand_over(self, host: Host) -> str | None:
        leader = self._leader()
        if leader is None or leader.host is host:
            return None
        leader.at_work(partial(leader.transfer, host.name))
        return f"{leader.name} to {host.name}"

    def _leader(self) -> Member | None:
        """Who leads the highest term."""
        members = [host.member for host in self._pool.hosts.values()]
        terms = [(m.leading() or 0, m) for m in members if m is not None and m.leads]
        return max(terms, key=lambda found: found[0])[1] if terms else None

    def _other(self, host: Host) -> str:
        return self._rng.choice([name for name in self._pool.hosts if name != host.name])
