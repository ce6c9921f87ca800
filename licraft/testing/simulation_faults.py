"""All that can go wrong in a simulated pool, and the end of it.

May import this room. Each fault begins, lasts a while and is mended; several are under
way at once, and one that is mended may mend another early.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from licraft.testing.pool import InProcessPool
from licraft.testing.shared_log import COMMITTED, DROPPED, LOST, UNHEARD, Fate, late, twice
from licraft.testing.simulated_clients import Network, Trouble
from licraft.testing.simulation_plan import FAULTS, Plan

_HISTORY = 40
_LONG_LOG = 300  # Longer logs are compacted: what restarts would replay them.


@dataclass(slots=True)
class Misfortunes:
    """What goes wrong in one run: crashes, partitions, pauses, lost messages and files."""

    plan: Plan
    pool: InProcessPool
    rng: random.Random
    network: Network
    down: dict[str, str] = field(default_factory=dict)
    old_records: dict[str, bytes] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    history: deque[str] = field(default_factory=lambda: deque(maxlen=_HISTORY))

    def note(self, text: str) -> None:
        """Remember what happened, to tell it if something breaks."""
        self.history.append(f"{self.pool.now():9.3f} s  {text}")

    # -- faults ---------------------------------------------------------------------------

    async def misfortune(self) -> None:
        """Let things go wrong, one after another and several at once."""
        loop = asyncio.get_running_loop()
        pending: set[asyncio.Task[None]] = set()
        names = self.plan.faults or FAULTS
        try:
            while True:
                await asyncio.sleep(self.rng.expovariate(1.0 / self.plan.calm_s))
                if self.pool.log.length > _LONG_LOG:
                    self.pool.log.compact()
                name = self.rng.choice(names)
                self.done[name] += 1
                self.note(name)
                task = loop.create_task(self._faults()[name]())
                pending.add(task)
                task.add_done_callback(pending.discard)
        finally:
            for task in pending:
                task.cancel()

    def _faults(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        return {
            "isolate": self._isolate,
            "split": self._split,
            "pause": self._pause,
            "crash": self._crash,
            "crash again": self._crash_again,
            "outage": self._outage,
            "cut off": self._cut_off,
            "stop": self._stop,
            "crash all": self._crash_all,
            "elect": self._elect,
            "lag": self._lag,
            "compact": self._compact,
            "bad log": self._bad_log,
            "bad network": self._bad_network,
            "unreachable": self._unreachable,
            "license": self._license,
        }

    def _while(self) -> float:
        """A while: shorter than a lease, some leases, or longer than all that waits."""
        lease_s, ttl_s = self.plan.lease_s, self.plan.ttl_s
        return self.rng.choice(
            (
                self.rng.uniform(0.1, lease_s),
                self.rng.uniform(lease_s, 3 * lease_s),
                self.rng.uniform(lease_s + ttl_s, lease_s + 2 * ttl_s),
            )
        )

    def _any(self) -> str:
        return self.rng.choice(self.pool.names)

    async def _isolate(self) -> None:
        self.pool.log.isolate(self._any())
        await asyncio.sleep(self._while())
        self.pool.log.heal()

    async def _split(self) -> None:
        group = self.rng.sample(self.pool.names, self.rng.randint(1, len(self.pool.names)))
        self.pool.log.isolate(*group)
        await asyncio.sleep(self._while())
        self.pool.log.heal()

    async def _pause(self) -> None:
        name = self._any()
        if name in self.pool.running:
            engine = self.pool.engine(name)
            engine.pause()
            await asyncio.sleep(self._while())
            engine.resume()

    async def _crash(self) -> None:
        name = self._any()
        if name in self.pool.running:
            self._kill(name)
            await asyncio.sleep(self.rng.choice((0.0, self._while())))
            self._revive(name)

    def _until_reclaimed(self) -> float:
        """Long enough for a server to be reclaimed, and soon after for its clients to remember."""
        waits_s = (self.plan.lease_s + self.plan.ttl_s) * (1 + self.plan.drift)
        return waits_s + self.rng.uniform(0.5, self.plan.lease_s)

    async def _outage(self) -> None:
        name = self._any()
        if name in self.pool.running:
            self._kill(name)
            await asyncio.sleep(self._until_reclaimed())
            self._revive(name)

    async def _cut_off(self) -> None:
        self.pool.log.isolate(self._any())
        await asyncio.sleep(self._until_reclaimed())
        self.pool.log.heal()

    async def _crash_again(self) -> None:
        """A server that has just come back is killed again, soon."""
        name = self._any()
        for _ in range(self.rng.randint(2, 3)):
            if name in self.pool.running:
                self._kill(name)
                await asyncio.sleep(self.rng.uniform(0.0, self.plan.lease_s))
                self._revive(name)
            await asyncio.sleep(self.rng.uniform(0.0, 2 * self.plan.lease_s))

    async def _stop(self) -> None:
        name = self._any()
        if name in self.pool.running and not self.pool.engine(name).paused:
            self.down[name] = "stopped"
            await self.pool.stop(name)
            await asyncio.sleep(self._while())
            self._revive(name)

    async def _crash_all(self) -> None:
        for name in list(self.pool.running):
            self._kill(name)
        await asyncio.sleep(self.rng.uniform(0.0, self.plan.ttl_s / 2))
        for name in list(self.down):
            self._revive(name)

    async def _elect(self) -> None:
        able = [name for name in self.pool.names if self.pool.log.commits(name)]
        if able:
            self.pool.log.elect(self.rng.choice(able))

    async def _lag(self) -> None:
        name = self._any()
        if name in self.pool.running:
            engine = self.pool.engine(name)
            engine.lag_s = self.rng.uniform(0.05, self.plan.lease_s)
            await asyncio.sleep(self._while())
            engine.lag_s = 0.0

    async def _compact(self) -> None:
        self.pool.log.compact()

    async def _bad_log(self) -> None:
        """Proposals are dropped, lost, unheard, late and committed twice."""
        part = self.rng.uniform(0.1, 0.6)
        self.pool.log.fate = lambda server, command: self._fate(part)
        self.pool.log.ask_lost = lambda asker, asked: self.rng.random() < part
        await asyncio.sleep(self._while())
        self._good_log()

    def _good_log(self) -> None:
        self.pool.log.fate = lambda server, command: COMMITTED
        self.pool.log.ask_lost = lambda asker, asked: False

    def _fate(self, part: float) -> Fate:
        if self.rng.random() >= part:
            return COMMITTED
        delay_s = self.rng.uniform(0.0, self.rng.choice((1.0, self.plan.ttl_s)))
        return self.rng.choice((DROPPED, LOST, UNHEARD, late(delay_s), twice(delay_s)))

    async def _bad_network(self) -> None:
        rng = self.rng
        self.network.trouble = Trouble(
            rng.uniform(0.0, 0.3),
            rng.uniform(0.0, 0.5),
            rng.uniform(0.0, 0.3),
            rng.uniform(0.0, 0.3),
            rng.choice((1.0, 2 * self.plan.ttl_s)),
        )
        await asyncio.sleep(self._while())
        self.network.trouble = Trouble()

    async def _unreachable(self) -> None:
        name = self._any()
        self.network.unreachable.add(name)
        await asyncio.sleep(self._while())
        self.network.unreachable.discard(name)

    async def _license(self) -> None:
        """Install more seats, or fewer."""
        text = self.pool.license_text({f: self.rng.randint(1, 20) for f in self.plan.features})
        name = self._any()
        if name in self.pool.running:
            await self.pool.server(name).install_license(text)

    def _kill(self, name: str) -> None:
        path = self.pool.data_dir(name) / "record.log"
        if path.exists() and name not in self.old_records:
            self.old_records[name] = path.read_bytes()
        self.down[name] = "crashed"
        self.note(f"{name} is killed")
        self.pool.crash(name)

    def _revive(self, name: str) -> None:
        """Start a server again; its record may have suffered, as from a loss of power."""
        if name not in self.down or name in self.pool.running:
            return
        cause = self.down.pop(name)
        path = self.pool.data_dir(name) / "record.log"
        fate = self.rng.choice(self.plan.records)
        # What a machine loses with its power is what it had not written to its disk.
        reboot = fate == "torn" or (cause == "stopped" and self.rng.random() < 0.5)
        if fate == "old backup" and name in self.old_records:
            path.write_bytes(self.old_records[name])
        elif fate == "removed":
            path.unlink(missing_ok=True)
        elif fate == "torn" and cause == "crashed" and path.exists():
            data = path.read_bytes()
            path.write_bytes(data[: self.rng.randint(0, len(data))])
        self.done[f"record {fate}"] += 1
        self.note(f"{name} starts{' after a reboot' if reboot else ''}, record {fate}")
        self.done["reboot"] += reboot
        self.pool.start(name, reboot=reboot, replayed=self.rng.randint(0, self.pool.log.index))

    def heal(self) -> None:
        """Everything works from now on."""
        log = self.pool.log
        self._good_log()
        self.network.trouble = Trouble()
        self.network.unreachable.clear()
        for name in self.pool.names:
            if name not in self.pool.running:
                self.down.setdefault(name, "crashed")
                self._revive(name)
            log.engines[name].lag_s = 0.0
            log.engines[name].resume()
        log.heal()
