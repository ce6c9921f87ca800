"""All that can go wrong in a simulated pool, and the end of it.

May import this room, the core, and the server room's askers. Each fault begins, lasts a
while and is mended; several are under way at once, and one that is mended may mend
another early.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from licraft.core.codec import decode_entry
from licraft.core.commands import Adopt, Claim, Command, HandOver, asked_for
from licraft.errors import DataError
from licraft.server.asker import ASKER, Asker
from licraft.testing.chance import waiting_s
from licraft.testing.pool import InProcessPool
from licraft.testing.shared_log import COMMITTED, DROPPED, LOST, UNHEARD, Fate, late, twice
from licraft.wire import ServerAnswer
from simulation.machines import Machines
from simulation.membership import Membership
from simulation.network import Network, Trouble
from simulation.plan import FAULTS, Plan
from simulation.trace import Trace
from simulation.upgrades import Upgrades

_ADMINISTRATOR = Asker("an administrator", "somewhere")
_LONG_LOG = 300  # Longer logs are compacted: what restarts would replay them.


@dataclass(slots=True, eq=False)
class _Watch:
    """A fault that waits for a command to be proposed, to strike while it is under way."""

    of: Callable[[Command], bool]
    came: asyncio.Future[None]


@dataclass(slots=True)
class Misfortunes:
    """What goes wrong in one run: crashes, partitions, pauses, lost messages and files."""

    plan: Plan
    pool: InProcessPool
    rng: random.Random
    network: Network
    trace: Trace
    down: dict[str, str] = field(default_factory=dict)
    old_records: dict[str, bytes] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    watches: list[_Watch] = field(default_factory=list)
    machines: Machines = field(init=False)
    membership: Membership = field(init=False)
    upgrades: Upgrades = field(init=False)

    def __post_init__(self) -> None:
        self.machines = Machines(self)
        self.membership = Membership(self)
        self.upgrades = Upgrades(self)

    def note(self, text: str) -> None:
        """Tell what went wrong, or was mended."""
        self.trace.tell("nemesis", text)

    def proposed(self, entry: bytes) -> None:
        """A server proposes an entry: a fault may have waited for that."""
        if not self.watches:
            return
        commands = tuple(map(asked_for, decode_entry(entry).commands))
        for watch in self.watches:
            if not watch.came.done() and any(watch.of(command) for command in commands):
                watch.came.set_result(None)

    async def _proposal(self, of: Callable[[Command], bool], within_s: float) -> bool:
        """Wait until such a command is proposed; whether it was, in time."""
        watch = _Watch(of, asyncio.get_running_loop().create_future())
        self.watches.append(watch)
        try:
            async with asyncio.timeout(within_s):
                await watch.came
        except TimeoutError:
            return False
        finally:
            self.watches.remove(watch)
        return True

    # -- faults ---------------------------------------------------------------------------

    async def misfortune(self) -> None:
        """Let things go wrong, one after another and several at once."""
        loop = asyncio.get_running_loop()
        pending: dict[asyncio.Task[None], None] = {}  # in the order in which they began
        names = self.plan.faults or FAULTS
        try:
            while True:
                await asyncio.sleep(waiting_s(self.rng, self.plan.calm_s))
                if self.pool.log.length > _LONG_LOG:
                    self.pool.log.compact()
                name = self.rng.choice(names)
                self.done[name] += 1
                self.note(name)
                task = loop.create_task(self._faults()[name]())
                pending[task] = None
                task.add_done_callback(pending.pop)
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    def _faults(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        return {
            "isolate": self._isolate,
            "split": self._split,
            "pause": self._pause,
            "crash": self._crash,
            "crash again": self._crash_again,
            "restart": self._restart,
            "reboot": self._reboot,
            "return": self._return,
            "overthrow": self._overthrow,
            "outage": self._outage,
            "cut off": self._cut_off,
            "absent": self._absent,
            "orphan": self._orphan,
            "stop": self._stop,
            "drain": self._drain,
            "crash all": self._crash_all,
            "elect": self._elect,
            "lag": self._lag,
            "compact": self._compact,
            "bad log": self._bad_log,
            "bad network": self._bad_network,
            "unreachable": self._unreachable,
            "license": self._license,
            **self.machines.faults(),
            **self.membership.faults(),
            **self.upgrades.faults(),
        }

    def a_while(self) -> float:
        """A while: shorter than a lease, some leases, or longer than all that waits."""
        lease_s, ttl_s = self.plan.lease_s, self.plan.ttl_s
        return self.rng.choice(
            (
                self.rng.uniform(0.1, lease_s),
                self.rng.uniform(lease_s, 3 * lease_s),
                self.rng.uniform(lease_s + ttl_s, lease_s + 2 * ttl_s),
            )
        )

    def any_server(self) -> str:
        """One of the servers, whether it runs or not."""
        return self.rng.choice(self.pool.names)

    async def _isolate(self) -> None:
        self.pool.log.isolate(self.any_server())
        await asyncio.sleep(self.a_while())
        self.pool.log.heal()

    async def _split(self) -> None:
        group = self.rng.sample(self.pool.names, self.rng.randint(1, len(self.pool.names)))
        self.pool.log.isolate(*group)
        await asyncio.sleep(self.a_while())
        self.pool.log.heal()

    async def _pause(self) -> None:
        name = self.any_server()
        if name in self.pool.running:
            engine = self.pool.engine(name)
            engine.pause()
            await asyncio.sleep(self.a_while())
            engine.resume()

    async def _crash(self) -> None:
        name = self.any_server()
        if name in self.pool.running:
            self.kill(name)
            await asyncio.sleep(self.rng.choice((0.0, self.a_while())))
            self.revive(name)

    def until_reclaimed(self) -> float:
        """Long enough for a server to be reclaimed, and soon after for its clients to remember."""
        waits_s = (self.plan.lease_s + self.plan.ttl_s) * (1 + self.plan.drift)
        return waits_s + self.rng.uniform(0.5, self.plan.lease_s)

    async def _outage(self) -> None:
        name = self.any_server()
        if name in self.pool.running:
            self.kill(name)
            await asyncio.sleep(self.until_reclaimed())
            self.revive(name)

    async def _cut_off(self) -> None:
        self.pool.log.isolate(self.any_server())
        await asyncio.sleep(self.until_reclaimed())
        self.pool.log.heal()

    async def _absent(self) -> None:
        """A server is called down, its clients begin to move, and it is back in the middle."""
        name = self.any_server()
        down_s = self.plan.lease_s * (1 + self.plan.drift) + self.rng.uniform(0.2, 4.0)
        if name not in self.pool.running:
            return
        match self.rng.choice(("killed", "paused", "cut off")):
            case "killed":
                self.kill(name)
                await asyncio.sleep(down_s)
                if self.rng.random() < 0.3:
                    self.pool.log.compact()
                self.revive(name)
            case "paused":
                engine = self.pool.engine(name)
                engine.pause()
                await asyncio.sleep(down_s)
                engine.resume()
            case _:
                self.pool.log.isolate(name)
                await asyncio.sleep(down_s)
                self.pool.log.heal()

    async def _orphan(self) -> None:
        """A server dies when others know what moved to it, and it does not yet."""
        name = self.any_server()
        if name not in self.pool.running:
            return
        engine = self.pool.engine(name)
        engine.lag_s = self.rng.uniform(0.1, 0.5)
        for _ in range(200):
            await asyncio.sleep(0.02)
            if self.pool.log.engines.get(name) is not engine:
                return
            if self._known_of(name) > engine.applied:
                self.done["orphaned"] += 1
                self.kill(name)
                await asyncio.sleep(self.rng.uniform(0.0, self.plan.lease_s))
                if self.rng.random() < 0.5:
                    self.pool.log.compact()
                self.revive(name)
                return
        engine.lag_s = 0.0

    def _known_of(self, name: str) -> int:
        """The log index of the last move of or to a server that any server knows."""
        states = (self.pool.server(other).state for other in self.pool.running)
        return max((s.servers[name].moved_index for s in states if name in s.servers), default=0)

    async def _crash_again(self) -> None:
        """A server that has just come back is killed again, soon."""
        name = self.any_server()
        for _ in range(self.rng.randint(2, 3)):
            if name in self.pool.running:
                self.kill(name)
                await asyncio.sleep(self.rng.uniform(0.0, self.plan.lease_s))
                self.revive(name)
            await asyncio.sleep(self.rng.uniform(0.0, 2 * self.plan.lease_s))

    async def _restart(self) -> None:
        """A server is killed and back within a second, with its record as it was."""
        name = self.any_server()
        if name in self.pool.running:
            self.kill(name)
            await asyncio.sleep(self.rng.uniform(0.05, 0.9))
            self.revive(name, "kept")

    async def _reboot(self) -> None:
        """A machine is back soon, with all its files, but the kernel's boot id is another."""
        name = self.any_server()
        if name in self.pool.running:
            self.kill(name)
            await asyncio.sleep(self.rng.uniform(0.1, 3 * self.plan.lease_s))
            self.revive(name, "rebooted")

    async def _return(self) -> None:
        """A server is back just when what it had granted is asked for, or before it is adopted."""
        name = self.any_server()
        if name not in self.pool.running:
            return
        self.kill(name)
        kind = self.rng.choice((Adopt, Adopt, Claim))
        fate = late(self.rng.uniform(0.5, 2.0))
        if kind is Adopt:
            self.pool.log.fate = lambda server, entry: (
                fate
                if any(isinstance(c, Adopt) for c in decode_entry(entry).commands)
                else COMMITTED
            )
        wait_s = self.plan.lease_s * (1 + self.plan.drift) + self.plan.ttl_s
        await self._proposal(lambda c: isinstance(c, kind) and c.issuer == name, wait_s)
        await asyncio.sleep(self.rng.uniform(0.0, 0.02))
        self.revive(name)
        await asyncio.sleep(2.0)
        self._good_log()

    async def _overthrow(self) -> None:
        """Leaders change while authorizations move."""
        for _ in range(5):
            moves = await self._proposal(lambda c: isinstance(c, Adopt | HandOver), 5.0)
            if moves and self.rng.random() < 0.5:
                self.pool.log.fate = lambda server, command: self.rng.choice((LOST, COMMITTED))
            await self._elect()
            await asyncio.sleep(self.rng.uniform(0.0, 1.0))
            self._good_log()

    async def _stop(self) -> None:
        name = self.any_server()
        if name in self.pool.running and not self.pool.engine(name).paused:
            self.down[name] = "stopped"
            await self.pool.stop(name)
            await asyncio.sleep(self.a_while())
            self.revive(name)

    async def _drain(self) -> None:
        """An administrator empties a server, asking whichever answers, and later fills it."""
        name = self.any_server()
        await self._order(name, on=True)
        await asyncio.sleep(self.a_while())
        await self._order(name, on=False)

    async def _order(self, name: str, *, on: bool) -> bool:
        """Ask server after server to drain one, or not any more; whether that was committed."""
        ASKER.set(_ADMINISTRATOR)  # Every fault is a task of its own.
        for at in self.pool.running:
            if at in self.pool.running and not self.pool.engine(at).paused:
                answer = await self.pool.server(at).drain(name, on=on)
                if isinstance(answer, ServerAnswer):
                    self.done["drained"] += on
                    return True
        return False

    async def undrain(self) -> None:
        """Look again and again whether a server drains, and end that; never returns.

        An order that nobody answered in time may yet be committed.
        """
        while True:
            for at in self.pool.running:
                state = self.pool.server(at).state
                for server in [s.name for s in state.servers.values() if s.drained]:
                    await self._order(server, on=False)
            await asyncio.sleep(0.5)

    async def _crash_all(self) -> None:
        for name in list(self.pool.running):
            self.kill(name)
        await asyncio.sleep(self.rng.uniform(0.0, self.plan.ttl_s / 2))
        for name in list(self.down):
            self.revive(name)

    async def _elect(self) -> None:
        able = [name for name in self.pool.names if self.pool.log.commits(name)]
        if able:
            self.pool.log.elect(self.rng.choice(able))

    async def _lag(self) -> None:
        name = self.any_server()
        if name in self.pool.running:
            engine = self.pool.engine(name)
            engine.lag_s = self.rng.uniform(0.05, self.plan.lease_s)
            await asyncio.sleep(self.a_while())
            engine.lag_s = 0.0

    async def _compact(self) -> None:
        self.pool.log.compact()

    async def _bad_log(self) -> None:
        """Proposals are dropped, lost, unheard, late and committed twice."""
        if self.plan.raft:
            await self._bad_wires()
            return
        part = self.rng.uniform(0.1, 0.6)
        self.pool.log.fate = lambda server, command: self._fate(part)
        self.pool.log.ask_lost = lambda asker, asked: self.rng.random() < part
        await asyncio.sleep(self.a_while())
        self._good_log()

    async def _bad_wires(self) -> None:
        """Connections between servers break, pass one way only, or are slow."""
        network, names = self.pool.log.world.network, list(self.pool.names)
        end_s = self.pool.now() + self.a_while()
        while self.pool.now() < end_s and len(names) > 1:
            way = tuple(self.rng.sample(names, 2))
            match self.rng.choice(("reset", "one way", "slow")):
                case "reset":
                    network.reset(*way)
                case "one way":
                    network.block(way)
                case "slow":
                    network.slow_s[way] = self.rng.uniform(0.05, 1.5)
            await asyncio.sleep(waiting_s(self.rng, 1.0))
            network.unblock(way)
            network.slow_s.pop(way, None)

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
        await asyncio.sleep(self.a_while())
        self.network.trouble = Trouble()

    async def _unreachable(self) -> None:
        name = self.any_server()
        self.network.unreachable.add(name)
        await asyncio.sleep(self.a_while())
        self.network.unreachable.discard(name)

    async def _license(self) -> None:
        """Install more seats, or fewer."""
        text = self.a_license()
        name = self.any_server()
        ASKER.set(_ADMINISTRATOR)
        if name in self.pool.running:
            await self.pool.server(name).install_license(text)

    def a_license(self) -> str:
        """The text of a newer license: more seats of each feature, or fewer."""
        features = self.plan.features
        most = {feature: max(20, count + count // 4) for feature, count in features.items()}
        return self.pool.license_text({f: self.rng.randint(1, most[f]) for f in features})

    def kill(self, name: str) -> None:
        """End a server's process, and keep a backup of its record, to be found later."""
        path = self.pool.data_dir(name) / "record.log"
        if path.exists() and name not in self.old_records:
            self.old_records[name] = path.read_bytes()
        self.down[name] = "crashed"
        self.note(f"{name} is killed")
        self.pool.crash(name)

    def revive(self, name: str, fate: str = "") -> None:
        """Start a server again; its record may have suffered, as from a loss of power."""
        if name not in self.down or name in self.pool.running or name not in self.pool.names:
            return
        cause = self.down.pop(name)
        path = self.pool.data_dir(name) / "record.log"
        fate = fate or self.rng.choice(self.plan.records)
        # What a machine loses with its power is what it had not written to its disk.
        reboot = fate in ("torn", "rebooted") or (cause == "stopped" and self.rng.random() < 0.5)
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
        try:
            self.pool.start(name, reboot=reboot, replayed=self.rng.randint(0, self.pool.log.index))
        except DataError as fault:
            self.done["did not start"] += 1
            self.note(f"{name} does not start: {fault}")
            self.down[name] = cause

    def heal(self) -> None:
        """Everything works from now on."""
        log = self.pool.log
        self._good_log()
        self.machines.mend()
        self.network.trouble = Trouble()
        self.network.unreachable.clear()
        self.network.offline.clear()
        for name in self.pool.names:
            if name not in self.pool.running:
                self.down.setdefault(name, "crashed")
                self.revive(name)
            if name in log.engines:
                log.engines[name].lag_s = 0.0
                log.engines[name].resume()
        log.heal()
