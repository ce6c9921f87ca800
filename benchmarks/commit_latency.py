"""How long does a commit take, and how many fit into a second?

Three servers as processes on loopback, journals synced to disk, commands of 60 bytes. From a
follower and from the leader: the latency of one command at a time, and the rate at 256
outstanding. One machine's figures: compare only what was measured in one run.

    python -m benchmarks.commit_latency [--json] [--seconds S] [--dir DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from licraft.replication.pysyncobj_engine import EngineConfig, PySyncObjEngine, start_engine

NAMES = ("alpha", "beta", "gamma")
COMMAND = bytes(60)
OUTSTANDING = 256
PROPOSE_S = 10.0


class Counter:
    """The cheapest state machine: what is measured is the engine."""

    def __init__(self) -> None:
        self.count = 0

    def apply(self, index: int, command: bytes) -> object:
        self.count += 1
        return index

    def snapshot(self) -> bytes:
        return self.count.to_bytes(8, "big")

    def restore(self, index: int, snapshot: bytes) -> None:
        self.count = int.from_bytes(snapshot, "big")


async def one_at_a_time(engine: PySyncObjEngine, seconds: float) -> dict[str, float]:
    """Latency in ms with 1 outstanding."""
    took = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        await engine.propose(COMMAND, PROPOSE_S)
        took.append((time.perf_counter() - started) * 1e3)
    took.sort()
    return {
        "median_ms": statistics.median(took),
        "p99_ms": took[int(len(took) * 0.99)],
        "max_ms": took[-1],
    }


async def many_at_a_time(engine: PySyncObjEngine, seconds: float) -> float:
    """Commits per second with 256 outstanding."""
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


async def serve(
    name: str, members: Mapping[str, str], directory: Path, seconds: float, pipe: Connection
) -> None:
    """One server: measures when it is told to, and says whether it leads."""

    async def no_answer(server: str, body: bytes) -> bytes:
        return b""

    config = EngineConfig("bench", name, members, directory / name)
    engine = await start_engine(config, Counter(), no_answer, lambda: None)
    loop = asyncio.get_running_loop()
    while True:
        order = await loop.run_in_executor(None, pipe.recv)
        if order == "leads?":
            pipe.send(engine.status().leads)
        elif order == "measure":
            latency = await one_at_a_time(engine, seconds)
            pipe.send({**latency, "per_second": await many_at_a_time(engine, seconds)})
        else:
            await engine.close()
            return


def run_server(*arguments: Any) -> None:
    """A process's main function."""
    asyncio.run(serve(*arguments))


def free_addresses() -> dict[str, str]:
    """A loopback address for each server."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in NAMES]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return {name: f"127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=True)}


def measure(directory: Path, seconds: float) -> dict[str, dict[str, float]]:
    """Figures from the leader and from a follower."""
    members = free_addresses()
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for name in NAMES:
        pipes[name], theirs = context.Pipe()
        process = context.Process(
            target=run_server, args=(name, members, directory, seconds, theirs), daemon=True
        )
        process.start()
        processes.append(process)
    try:
        leader = wait_for_leader(pipes)
        follower = next(name for name in NAMES if name != leader)
        figures = {}
        for role, name in (("follower", follower), ("leader", leader)):
            pipes[name].send("measure")
            if not pipes[name].poll(10 * seconds + 30):
                raise SystemExit(f"{name} did not finish measuring")
            figures[role] = pipes[name].recv()
        return figures
    finally:
        for name in NAMES:
            pipes[name].send("stop")
        for process in processes:
            process.join(10)


def wait_for_leader(pipes: Mapping[str, Connection]) -> str:
    """The name of the server that leads, as soon as one does."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for name, pipe in pipes.items():
            pipe.send("leads?")
            if pipe.recv():
                time.sleep(0.5)  # Let the others hear of it: a follower needs a leader.
                return name
        time.sleep(0.05)
    raise SystemExit("no leader within 30 s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each of the four figures")
    parser.add_argument("--dir", type=Path, help="where the journals are (default: a temporary)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
        figures = measure(Path(directory), arguments.seconds)
    if arguments.json:
        print(json.dumps(figures))
        return
    print(f"{'from':<10}{'median ms':>11}{'p99 ms':>9}{'max ms':>9}{'commits/s at 256':>19}")
    for role, row in figures.items():
        print(
            f"{role:<10}{row['median_ms']:>11.2f}{row['p99_ms']:>9.2f}{row['max_ms']:>9.2f}"
            f"{row['per_second']:>19,.0f}"
        )


if __name__ == "__main__":
    main()
