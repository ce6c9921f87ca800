"""What goes wrong in one machine: its disk, its clock, its release, what is put on it.

May import the testing room and this folder. Each of these is a fault as those of `faults`
are: it begins, lasts a while, and is mended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from licraft.testing.disk import Fault, Step

if TYPE_CHECKING:
    from simulation.faults import Misfortunes

JUMPS_S = (60.0, 3600.0, 86_400.0, 30 * 86_400.0)
WRITING = ("write", "create", "append_to", "sync", "sync_data")


class Machines:
    """The faults of single machines."""

    def __init__(self, run: Misfortunes) -> None:
        self._run = run
        if run.plan.raft:
            run.pool.log.on_ended = self._stopped

    def faults(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """By their names."""
        return {
            "full disk": self._full_disk,
            "bad disk": self._bad_disk,
            "wall clock": self._wall_clock,
            "lone license": self._lone_license,
            "offline": self._offline,
            "suspend": self._suspend,
        }

    def mend(self) -> None:
        """Every disk works."""
        if self._run.plan.raft:
            for host in self._run.pool.log.hosts.values():
                host.disk.on_step = None

    async def _full_disk(self) -> None:
        """Nothing can be written: the server stops, or goes on without a snapshot."""
        await self._fail(lambda step: Fault.NO_SPACE if step.call in WRITING else None)

    async def _bad_disk(self) -> None:
        """Now and then a step fails, and reading at a restart most of all."""
        run = self._run
        rng = run.rng
        name = run.any_server()
        if rng.random() < 0.5 and name in run.pool.running:
            run.kill(name)
            host = run.pool.log.hosts[name]
            host.fails = True
            host.disk.on_step = lambda step: Fault.IO_ERROR if step.call == "read" else None
            run.revive(name)
            await asyncio.sleep(rng.uniform(0.1, 3 * run.plan.lease_s))
            host.disk.on_step = None
            run.revive(name)
            return
        await self._fail(lambda step: Fault.IO_ERROR if rng.random() < 0.02 else None)

    async def _fail(self, fault: Callable[[Step], Fault | None]) -> None:
        run = self._run
        name = run.any_server()
        if name not in run.pool.running:
            return
        host = run.pool.log.hosts[name]
        host.fails = True
        host.disk.on_step = fault
        await asyncio.sleep(run.a_while())
        host.disk.on_step = None
        await asyncio.sleep(run.rng.choice((0.0, run.a_while())))
        run.revive(name)

    def _stopped(self, name: str, why: str) -> None:
        """An engine has met an error that its server does not outlive."""
        run = self._run
        run.done["stopped by its disk"] += 1
        run.note(f"{name} stops: {why}")
        asyncio.get_running_loop().call_soon(self._bury, name, run.pool.log.engines.get(name))

    def _bury(self, name: str, engine: object) -> None:
        run = self._run
        if name in run.pool.running and run.pool.log.engines.get(name) is engine:
            run.down[name] = "crashed"
            run.pool.crash(name)

    async def _wall_clock(self) -> None:
        """A wall clock is set to another time, and perhaps back."""
        run = self._run
        clock = run.pool.clocks[run.any_server()]
        jump_s = run.rng.choice((-1, 1)) * run.rng.choice(JUMPS_S)
        run.note(f"a wall clock is set by {jump_s:g} s")
        clock.set_wall(clock.wall() + jump_s)
        await asyncio.sleep(run.a_while())
        if run.rng.random() < 0.7:
            clock.set_wall(clock.wall() - jump_s)

    async def _lone_license(self) -> None:
        """A server is given a newer license while it is down, which wins on its return."""
        run = self._run
        name = run.any_server()
        if name not in run.pool.running:
            return
        run.kill(name)
        await asyncio.sleep(run.a_while())
        run.pool.given_license(name).write_text(run.a_license())
        run.note(f"{name} is given license {run.pool.sequence} while it is down")
        run.revive(name)

    async def _suspend(self) -> None:
        """A machine sleeps: the time of leases goes on meanwhile, the engine's stands still."""
        run = self._run
        name = run.any_server()
        if name not in run.pool.running:
            return
        run.note(f"the machine of {name} sleeps")
        alone = run.rng.random() < 0.5
        if alone:
            run.pool.log.isolate(name)
        long_s = run.until_reclaimed() + run.rng.uniform(0.0, 3 * run.plan.lease_s)
        run.pool.suspend(name)
        await asyncio.sleep(run.rng.choice((run.a_while(), long_s, long_s)))
        if name in run.pool.running:
            run.pool.resume(name)
        run.note(f"the machine of {name} is awake")
        if alone:
            # Its users are there before the other servers are.
            await asyncio.sleep(run.rng.uniform(0.0, run.plan.lease_s))
            run.pool.log.heal()

    async def _offline(self) -> None:
        """Some clients have no network, perhaps until all they have is over."""
        run = self._run
        names = [f"c{n}" for n in range(run.plan.clients) if run.rng.random() < 0.3]
        run.note(f"{len(names)} clients are offline")
        run.network.offline.update(names)
        await asyncio.sleep(run.a_while())
        run.network.offline.difference_update(names)
