"""A member that commits for long beside a large state, and tells its pauses and its memory.

May import the engine, the server room and the core's commands. The state has 1,000
features and 9 servers, though only three take part: its size is what matters for a
snapshot. What is committed are renewals of a lease, the commonest entry of a pool.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.lag import LagProbe, Pause
from benchmarks.members import NAMES, Place, engine_at, obey, run_as_servers_do
from benchmarks.systems import POOL, write_license
from licraft.core import versions
from licraft.core.codec import encode_entry
from licraft.core.commands import (
    Command,
    Entry,
    FormPool,
    InstallLicense,
    Member,
    RenewLease,
    ServerUp,
)
from licraft.pool_files import NAMES as ALL_NAMES
from licraft.replication.engine import Engine
from licraft.server.lifecycle import tend_garbage
from licraft.server.pool import ReplicatedPool
from licraft.vendor.keys import generate
from licraft.vendor.license_file import read_license_file

FEATURES = 1_000
SERVERS = 9
OUTSTANDING = 64
_SEATS = 100
_IN_USE = 8
_WALL_S = 1_700_000_000
_PROPOSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Health:
    """A member's memory (bytes), its applied index, its snapshots, and its pauses since asked."""

    rss: int
    applied_index: int
    snapshots: int
    pauses: tuple[Pause, ...]


class _LargePool(ReplicatedPool):
    """The pool's state machine; snapshots are known to the probe."""

    def __init__(self, probe: LagProbe) -> None:
        super().__init__()
        self._probe = probe
        self.snapshots = 0

    def snapshot(self) -> bytes:
        """The state's bytes."""
        self.snapshots += 1
        with self._probe.part("encoding"):
            return super().snapshot()


def run_long(place: Place, pipe: Connection, certificates: Path, commits: int) -> None:
    """One member: a process's main function."""

    async def serve() -> None:
        probe = LagProbe()
        machine = _LargePool(probe)
        engine = await engine_at(place, machine, certificates)
        serials = itertools.count(2)

        async def leader() -> str | None:
            return engine.status().leader

        async def fill() -> None:
            # Signing a thousand codes takes a second, in which a leader must not be silent.
            for entry in await asyncio.to_thread(_large_state):
                await engine.propose(entry, _PROPOSE_S)

        async def commit() -> int:
            return await _commit(engine, serials, commits)

        async def health() -> Health:
            pauses = tuple(probe.pauses)
            probe.forget()
            applied = engine.status().applied_index
            return Health(resident_bytes("self"), applied, machine.snapshots, pauses)

        tending = asyncio.ensure_future(tend_garbage())
        await obey(pipe, {"leader": leader, "fill": fill, "commit": commit, "health": health})
        tending.cancel()
        probe.close()
        await engine.close()

    run_as_servers_do(serve())


def resident_bytes(pid: int | str) -> int:
    """The memory that a process really has (VmRSS), in bytes."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    line = next(line for line in text.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def _large_state() -> list[bytes]:
    """The entries that make a pool of 9 servers with 1,000 features, all of them in use."""
    names = ALL_NAMES[:SERVERS]
    features = [f"feature-{number:04d}" for number in range(FEATURES)]
    members = tuple(Member(name, "http://127.0.0.1:1", "127.0.0.1:1") for name in names)
    key = generate()
    text = write_license(key, 1, dict.fromkeys(features, _SEATS))
    commands: list[Command] = [FormPool(POOL, members, 3.0, 60.0, 0.01, "0" * 64)]
    commands += [ServerUp(name, 1, 0.8, "nonce", versions.KNOWN) for name in names]
    commands += [InstallLicense(read_license_file(text, [key.public], POOL))]
    in_use = dict.fromkeys(features, 5)
    commands += [RenewLease(name, 1, 1, in_use, _WALL_S) for name in names]
    return [_entry(command) for command in commands]


async def _commit(engine: Engine, serials: Iterator[int], commits: int) -> int:
    """Commit renewals, many at a time; returns how many."""
    in_use = {f"feature-{number:04d}": 5 for number in range(_IN_USE)}
    numbers = iter(range(commits))

    async def propose_on() -> None:
        for _ in numbers:
            renewal = RenewLease(NAMES[0], 1, next(serials), in_use, _WALL_S)
            await engine.propose(_entry(renewal), _PROPOSE_S)

    await asyncio.gather(*(propose_on() for _ in range(OUTSTANDING)))
    return commits


def _entry(command: Command) -> bytes:
    return encode_entry(Entry("", 0, 0, (command,)), versions.KNOWN)
