"""How long does a commit take, and how many fit into a second?

Three servers as processes on loopback: licraft's engine at its default settings (journal
synced to disk before anything is acknowledged, TLS between the servers), and in the same
run stock PySyncObj with its own transport and file journal (which syncs nothing and
encrypts nothing). Commands of 60 bytes, proposed at a follower and at the leader: the
latency of one after the other, and the rate with 256 outstanding. The state machine
counts: what is measured is the replication.

Usage: python -m benchmarks.commit_latency [--seconds 3] [--runs 3] [--no-stock]
       [--dir DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.figures import Spread, machine, machine_line
from benchmarks.members import (
    NAMES,
    MemberMain,
    Place,
    engine_at,
    members,
    obey,
    run_as_servers_do,
    write_certificates,
)
from benchmarks.stock import run_stock
from benchmarks.wrk_load import table
from licraft.replication.engine import Engine

COMMAND = bytes(60)
OUTSTANDING = 256
PROPOSE_S = 10.0
_SETTLE_S = 0.5


@dataclass(frozen=True, slots=True)
class Figures:
    """What one member measured, in one run: ms with 1 outstanding, commits/s with many."""

    latency_ms: Spread
    per_second: float


class Counter:
    """The cheapest state machine."""

    def __init__(self) -> None:
        self.count = 0

    def apply(self, index: int, command: bytes) -> object:
        """Count."""
        self.count += 1
        return index

    def snapshot(self) -> bytes:
        """The count."""
        return self.count.to_bytes(8, "big")

    def restore(self, index: int, snapshot: bytes) -> None:
        """Go on from a count."""
        self.count = int.from_bytes(snapshot, "big")


async def one_at_a_time(engine: Engine, seconds: float) -> Spread:
    """How long one command after the other takes (ms)."""
    took = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        await engine.propose(COMMAND, PROPOSE_S)
        took.append((time.perf_counter() - started) * 1e3)
    return Spread.of(took)


async def many_at_a_time(engine: Engine, seconds: float) -> float:
    """Commits per second with many outstanding."""
    end = time.perf_counter() + seconds
    count = 0

    async def propose_on() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await engine.propose(COMMAND, PROPOSE_S)
            count += 1

    started = time.perf_counter()
    await asyncio.gather(*(propose_on() for _ in range(OUTSTANDING)))
    return count / (time.perf_counter() - started)


def run_licraft(place: Place, pipe: Connection, seconds: float, certificates: Path) -> None:
    """One member with licraft's engine: a process's main function."""

    async def serve() -> None:
        engine = await engine_at(place, Counter(), certificates)

        async def leader() -> str | None:
            return engine.status().leader

        async def latency() -> Spread:
            return await one_at_a_time(engine, seconds)

        async def rate() -> float:
            return await many_at_a_time(engine, seconds)

        await obey(pipe, {"leader": leader, "latency": latency, "rate": rate})
        await engine.close()

    run_as_servers_do(serve())


def measure(
    main: MemberMain, directory: Path, seconds: float, *arguments: object
) -> dict[str, Figures]:
    """One run of one system: figures from a follower and from the leader."""
    with members(main, directory, seconds, *arguments) as running:
        leader = running.leader()
        time.sleep(_SETTLE_S)  # A pool that has just elected is not what is measured.
        follower = next(name for name in NAMES if name != leader)
        figures = {}
        for role, name in (("follower", follower), ("leader", leader)):
            latency = running.ask(name, "latency", seconds + 2 * PROPOSE_S)
            rate = running.ask(name, "rate", seconds + 2 * PROPOSE_S)
            figures[role] = Figures(latency, rate)
        return figures


def median_of(runs: Sequence[Figures]) -> Figures:
    """The medians of several runs; the worst latency is the worst of all."""
    spreads = [run.latency_ms for run in runs]
    spread = Spread(
        sum(s.count for s in spreads),
        statistics.median(s.median for s in spreads),
        statistics.median(s.p99 for s in spreads),
        max(s.worst for s in spreads),
    )
    return Figures(spread, statistics.median(run.per_second for run in runs))


def _measure_all(
    seconds: float, runs: int, stock: bool, folder: Path | None
) -> dict[tuple[str, str], Figures]:
    found: dict[tuple[str, str], list[Figures]] = {}
    for run in range(runs):
        # The systems in turn, so that a machine that gets slower does so for both.
        for system in ("licraft", "PySyncObj") if stock else ("licraft",):
            print(f"run {run + 1} of {runs}: {system}", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix="licraft-bench-", dir=folder) as place:
                directory = Path(place)
                if system == "licraft":
                    certificates = write_certificates(directory)
                    roles = measure(run_licraft, directory, seconds, certificates)
                else:
                    roles = measure(run_stock, directory, seconds, COMMAND, OUTSTANDING)
            for role, figures in roles.items():
                found.setdefault((system, role), []).append(figures)
    return {key: median_of(figures) for key, figures in found.items()}


def _row(system: str, role: str, figures: Figures) -> list[str]:
    latency = figures.latency_ms
    times = [f"{ms:.2f}" for ms in (latency.median, latency.p99, latency.worst)]
    return [system, role, *times, f"{figures.per_second:,.0f}"]


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each figure")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-stock", action="store_true", help="leave PySyncObj as it comes out")
    parser.add_argument("--dir", type=Path, help="where journals are kept: the disk that counts")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    results = _measure_all(options.seconds, options.runs, not options.no_stock, options.dir)
    print(f"{machine_line()}\nMedian of {options.runs} runs of {options.seconds:g} s.\n")
    heads = ["system", "from", "median ms", "p99 ms", "worst ms", f"commits/s at {OUTSTANDING}"]
    print(table(heads, [_row(*key, figures) for key, figures in results.items()]))
    if options.json:
        document = {
            "machine": machine(),
            "seconds": options.seconds,
            "runs": options.runs,
            "results": [
                {"system": system, "from": role} | asdict(figures)
                for (system, role), figures in results.items()
            ],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
