"""How long until a pool commits again after `kill -9` of its leader, and is anything lost?

A pool of three real servers at default settings works under load: clients check seats out
and in, at all servers, some so many that seats must be moved between servers first; and
at the leader somebody commits numbers (license files of growing sequence number), one
after the other. Again and again the leader is killed. Then every 25 ms each survivor is
asked to commit something that changes nothing, until one has: the time from the kill to
that. Then, before any other number is committed, every number that was acknowledged is
looked for at both survivors, and the leader is started again. At the end all are killed,
and the states on their disks are compared.

A killed process's connections are closed by its kernel, which the others notice at once.
With --silent the leader is stopped instead (SIGSTOP) and killed when the pool has gone
on without it: as when its machine dies, nobody says so.

With --etcd the same is done to three etcd nodes at default settings in the same run:
numbers are keys, the clients' work puts and deletes. In etcd each of those is committed; in
licraft only moves of seats and license files are.

Usage: python -m benchmarks.leader_kill [--kills 100] [--clients 4] [--silent] [--etcd]
       [--seed N] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import logging
import random
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.figures import Spread, machine, machine_line
from benchmarks.kill_targets import SEATS, EtcdLedger, Ledger, LicraftLedger, Standing
from benchmarks.members import free_addresses
from benchmarks.replay import digests_of, last_common
from benchmarks.systems import POOL, Cluster, etcd_nodes, licraft_servers
from benchmarks.wrk_load import table

_SERVERS = 3
_PROBE_EVERY_S = 0.025
_WRITE_EVERY_S = 0.01
_WORK_EVERY_S = 0.02
_CALM_S = (0.5, 1.5)
_COMMIT_WITHIN_S = 30.0
_WHOLE_WITHIN_S = 60.0
_KEPT_WITHIN_S = 5.0


@dataclass(slots=True)
class Course:
    """What happened in one run.

    `lost` are acknowledged numbers that a server had not; `already_moved` are kills of a
    server that did not lead any more, whose times do not count.
    """

    outages_s: list[float] = field(default_factory=list)
    acknowledged: int = 0
    lost: int = 0
    rounds: int = 0
    refused: int = 0
    already_moved: int = 0
    digests: str = "not compared"


class Load:
    """Numbers that are committed, and clients that work, at every server that runs."""

    def __init__(self, ledger: Ledger, clients: int, course: Course) -> None:
        self._ledger = ledger
        self._clients = clients
        self._course = course
        self._numbers = itertools.count(2)  # The license that the pool started with is 1.
        self.running = set(ledger.cluster.nodes)
        self.leader: str | None = None
        """Where numbers are committed; None: nowhere."""
        self.acknowledged: list[int] = []
        """Since the last look at what is kept."""

    @contextlib.asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Work until the block is left."""
        works = [self._write(), *(self._work(number) for number in range(self._clients))]
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self) -> None:
        """Commit one number after the other at the leader."""
        while True:
            leader = self.leader
            number = next(self._numbers)
            if leader is not None and await self._ledger.record(leader, number):
                self.acknowledged.append(number)
                self._course.acknowledged += 1
            await asyncio.sleep(_WRITE_EVERY_S)

    async def _work(self, client: int) -> None:
        """Be a client that goes from server to server."""
        for turn in itertools.count():
            names = sorted(self.running)
            name = names[(client + turn) % len(names)]
            if await self._ledger.work(name, turn * self._clients + client):
                self._course.rounds += 1
            else:
                self._course.refused += 1
            await asyncio.sleep(_WORK_EVERY_S)


async def kill_again_and_again(
    ledger: Ledger, kills: int, clients: int, silent: bool, rng: random.Random
) -> Course:
    """Kill the leader `kills` times under load; the pool is whole again between two kills."""
    course = Course()
    load = Load(ledger, clients, course)
    async with load.going_on():
        while len(course.outages_s) < kills:
            load.leader = (await _whole(ledger)).leader
            await asyncio.sleep(rng.uniform(*_CALM_S))
            before = await _whole(ledger)
            if before.leader != load.leader:
                continue
            await _kill_once(ledger, load, course, before, silent)
            done = len(course.outages_s)
            if done % 10 == 0:
                print(f"{done} kills, {course.lost} numbers lost", file=sys.stderr)
    await _whole(ledger)
    return course


async def _kill_once(
    ledger: Ledger, load: Load, course: Course, before: Standing, silent: bool
) -> None:
    """Kill the leader, see the others go on and what they kept, and start it again."""
    victim = ledger.cluster.nodes[before.leader]
    load.running.discard(before.leader)
    load.leader = None
    killed_at = time.perf_counter()
    await asyncio.to_thread(victim.freeze if silent else victim.kill)
    term = await _first_commit(ledger, load.running)
    outage_s = time.perf_counter() - killed_at
    after = await _whole(ledger, load.running)
    if after.term == before.term:
        # Somebody else had taken over in the very moment: a follower was killed.
        course.already_moved += 1
    elif term == before.term:
        sys.exit(f"a survivor answered in term {term}, of the leader that was dead: no commit")
    else:
        course.outages_s.append(outage_s)
    course.lost += await _not_kept(ledger, load)
    await asyncio.to_thread(victim.kill)
    victim.start()
    load.running.add(before.leader)


async def _first_commit(ledger: Ledger, survivors: set[str]) -> int:
    """Let every survivor try to commit until one has; the term in which it did."""
    terms: asyncio.Queue[int] = asyncio.Queue()

    async def probe(name: str) -> None:
        term = await ledger.probe(name)
        if term is not None:
            terms.put_nowait(term)

    probes: list[asyncio.Task[None]] = []
    deadline = time.monotonic() + _COMMIT_WITHIN_S
    try:
        while time.monotonic() < deadline:
            probes += [asyncio.create_task(probe(name)) for name in sorted(survivors)]
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(terms.get(), _PROBE_EVERY_S)
        sys.exit(f"no commit within {_COMMIT_WITHIN_S:.0f} s of the leader's death")
    finally:
        for task in probes:
            task.cancel()
        await asyncio.gather(*probes, return_exceptions=True)


async def _whole(ledger: Ledger, names: set[str] | None = None) -> Standing:
    """Wait until all servers, or these, serve and agree."""
    wanted = sorted(names or ledger.cluster.nodes)
    deadline = time.monotonic() + _WHOLE_WITHIN_S
    while time.monotonic() < deadline:
        standing = await ledger.standing(wanted)
        if standing is not None:
            return standing
        await asyncio.sleep(0.05)
    sys.exit(f"not whole again within {_WHOLE_WITHIN_S:.0f} s: {', '.join(wanted)}")


async def _not_kept(ledger: Ledger, load: Load) -> int:
    """How many of the numbers acknowledged since the last look some server has not."""
    numbers, load.acknowledged = load.acknowledged, []
    deadline = time.monotonic() + _KEPT_WITHIN_S
    while True:
        lacking = [await ledger.missing(name, numbers) for name in sorted(load.running)]
        # A follower hears that an entry is committed a little later than the leader.
        if lacking == [0] * len(lacking):
            return 0
        if time.monotonic() > deadline:
            if None in lacking:
                sys.exit(f"a server did not say what it has within {_KEPT_WITHIN_S:.0f} s")
            return max(count or 0 for count in lacking)
        await asyncio.sleep(0.05)


async def _compared(cluster: Cluster) -> str:
    """Kill all servers, and compare the states on their disks."""
    for node in cluster.nodes.values():
        node.kill()
    logging.getLogger("licraft").setLevel(logging.ERROR)  # Alone, it warns of the others.
    members = free_addresses()
    found = {
        name: await digests_of(POOL, name, members, cluster.folder / "data" / name)
        for name in cluster.nodes
    }
    index, digests = last_common(found)
    if not index:
        return "no log index in common"
    if len(digests) != 1:
        return f"DIFFERENT at log index {index}: {sorted(digests)}"
    return f"equal at log index {index}: {digests.pop()[:16]}"


@contextlib.contextmanager
def _licraft() -> Iterator[Ledger]:
    with licraft_servers(_SERVERS, SEATS) as cluster:
        yield LicraftLedger(cluster)


@contextlib.contextmanager
def _etcd() -> Iterator[Ledger]:
    with etcd_nodes(_SERVERS) as cluster:
        yield EtcdLedger(cluster)


async def _run(
    ledger: Ledger, kills: int, clients: int, silent: bool, rng: random.Random
) -> Course:
    try:
        return await kill_again_and_again(ledger, kills, clients, silent, rng)
    finally:
        await ledger.close()


def _measure(system: str, kills: int, clients: int, silent: bool, rng: random.Random) -> Course:
    print(f"{system}: {kills} kills", file=sys.stderr)
    with _licraft() if system == "licraft" else _etcd() as ledger:
        course = asyncio.run(_run(ledger, kills, clients, silent, rng))
        if system == "licraft":
            course.digests = asyncio.run(_compared(ledger.cluster))
    return course


def _row(system: str, course: Course) -> list[str]:
    spread = Spread.of(course.outages_s)
    times = [f"{seconds:.3f}" for seconds in (spread.median, spread.p99, spread.worst)]
    return [
        system,
        str(spread.count),
        *times,
        f"{course.acknowledged:,}",
        str(course.lost),
        f"{course.rounds:,}",
        course.digests,
    ]


def main() -> None:
    """Measure, print the table, write the JSON; exit status 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--clients", type=int, default=4, help="that work meanwhile")
    parser.add_argument(
        "--silent", action="store_true", help="stop it first, as if it had no power"
    )
    parser.add_argument("--etcd", action="store_true", help="the same with three etcd nodes")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    systems = ["licraft"]
    if options.etcd and shutil.which("etcd") is None:
        sys.exit("etcd is not installed (Debian: apt-get install etcd-server)")
    systems += ["etcd"] if options.etcd else []
    rng = random.Random(options.seed)
    courses = {
        name: _measure(name, options.kills, options.clients, options.silent, rng)
        for name in systems
    }
    print(
        f"{machine_line()}\nKills of the leader, seconds to the next commit, seed {options.seed}.\n"
    )
    heads = ["system", "kills", "median s", "p99 s", "worst s", "acknowledged", "lost", "rounds"]
    print(table([*heads, "states"], [_row(name, course) for name, course in courses.items()]))
    if options.json:
        document = {
            "machine": machine(),
            "seed": options.seed,
            "silent": options.silent,
            "results": {
                name: asdict(Spread.of(course.outages_s)) | asdict(course)
                for name, course in courses.items()
            },
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    licraft = courses["licraft"]
    if licraft.lost or not licraft.digests.startswith("equal"):
        sys.exit("licraft lost an acknowledged command, or its servers differ")


if __name__ == "__main__":
    main()
