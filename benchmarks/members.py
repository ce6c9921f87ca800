"""Servers without an API, as processes that are told what to do through pipes.

May import the engine and what writes a pool's files. A member is a function of this
package's benchmarks, run in a process of its own: it answers orders until it is told to
stop. All end with the block that started them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop

from licraft.pool_files import PlannedServer, PoolPlan, write_pool
from licraft.replication.pysyncobj_engine import (
    EngineConfig,
    PeerTls,
    PySyncObjEngine,
    start_engine,
)

NAMES = ("alpha", "beta", "gamma")
_POOL = "bench"
_LEADER_S = 30.0
_STOP_S = 15.0
_SWITCH_S = 0.0005

Orders = Mapping[str, Callable[[], Awaitable[Any]]]


@dataclass(frozen=True, slots=True)
class Place:
    """What a member's process is given: who it is, where the others are, where its files are."""

    name: str
    members: Mapping[str, str]
    directory: Path


MemberMain = Callable[..., None]
"""A member's main function: called with its `Place`, its end of the pipe, and what else."""


class Members:
    """Running members, by name."""

    def __init__(self, pipes: Mapping[str, Connection], pids: Mapping[str, int]) -> None:
        self._pipes = pipes
        self.pids = pids

    def tell(self, name: str, order: str) -> None:
        """Give an order; `hear` takes its answer."""
        self._pipes[name].send(order)

    def hear(self, name: str, within_s: float) -> Any:
        """The answer to the last order; SystemExit if it does not come."""
        if not self._pipes[name].poll(within_s):
            sys.exit(f"{name} did not answer within {within_s:.0f} s")
        try:
            return self._pipes[name].recv()
        except EOFError:
            sys.exit(f"{name} ended before it answered")

    def ask(self, name: str, order: str, within_s: float = 10.0) -> Any:
        """Give an order and wait for its answer."""
        self.tell(name, order)
        return self.hear(name, within_s)

    def leader(self) -> str:
        """The member that leads and that the others follow; waits for one."""
        deadline = time.monotonic() + _LEADER_S
        while time.monotonic() < deadline:
            said = {self.ask(name, "leader") for name in self._pipes}
            if len(said) == 1 and (leader := said.pop()) is not None:
                return str(leader)
            time.sleep(0.05)
        sys.exit(f"no leader within {_LEADER_S:.0f} s")


@contextlib.contextmanager
def members(main: MemberMain, directory: Path, *arguments: object) -> Iterator[Members]:
    """Three members; `main` gets its place, its pipe and `arguments`, all to be pickled."""
    addresses = free_addresses()
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = {}
    for name in NAMES:
        pipes[name], theirs = context.Pipe()
        place = Place(name, addresses, directory)
        processes[name] = context.Process(
            target=main, args=(place, theirs, *arguments), daemon=True
        )
        processes[name].start()
        theirs.close()
    try:
        yield Members(pipes, {name: process.pid or 0 for name, process in processes.items()})
    finally:
        for pipe in pipes.values():
            with contextlib.suppress(OSError):
                pipe.send("stop")
        for process in processes.values():
            process.join(_STOP_S)
            if process.is_alive():
                process.kill()
                process.join()


def free_addresses() -> dict[str, str]:
    """An address of loopback for each member, free a moment ago."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in NAMES]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return {name: f"127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=True)}


# --- Members that run licraft's engine ---


def write_certificates(directory: Path) -> Path:
    """Write the certificates of a pool as `licraft init` does; returns the folder."""
    planned = tuple(
        PlannedServer(n, "127.0.0.1", 2 * i + 1, 2 * i + 2) for i, n in enumerate(NAMES)
    )
    folder = directory / "certificates"
    write_pool(folder, PoolPlan(_POOL, planned), datetime.now(UTC))
    return folder


async def engine_at(place: Place, machine: Any, certificates: Path) -> PySyncObjEngine:
    """The engine as servers have it: default settings, TLS between peers, syncs to disk."""
    tls = PeerTls(
        certificates / "ca.crt",
        certificates / f"{place.name}.crt",
        certificates / f"{place.name}.key",
    )
    config = EngineConfig(_POOL, place.name, place.members, place.directory / place.name, tls)
    return await start_engine(config, machine, _no_answer, _no_change)


def run_as_servers_do(main: Coroutine[Any, Any, None]) -> None:
    """Run a member on the loop, and with the interpreter's setting, of `licraft run`."""
    logging.getLogger("licraft").setLevel(logging.ERROR)  # Nobody is there yet: no news here.
    sys.setswitchinterval(_SWITCH_S)
    uvloop.run(main)


async def obey(pipe: Connection, orders: Orders) -> None:
    """Carry out orders until `stop`, or until whoever gave them is gone."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            order = await loop.run_in_executor(None, pipe.recv)
        except EOFError:
            return
        if order == "stop":
            return
        pipe.send(await orders[order]())


async def _no_answer(server: str, body: bytes) -> bytes:
    return b""


def _no_change() -> None:
    """Nobody here follows elections."""
