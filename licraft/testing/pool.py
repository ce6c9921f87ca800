"""A pool of real license servers in one process, in virtual time.

May import the server room and what it is made of. The servers are the product's own
`LicenseServer`s, each with its data directory; only the engine between them and their
clocks are replaced, so that a test decides what fails and when.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from licraft.core.commands import Member
from licraft.core.distribution import parse_distribution
from licraft.errors import LicraftError
from licraft.server.license_server import LicenseServer, ServerConfig
from licraft.server.pool import ReplicatedPool
from licraft.server.record_log import RecordLog
from licraft.testing.clock import ManualClock
from licraft.testing.loop import VirtualLoop
from licraft.testing.raft_log import RaftEngine, RaftLog
from licraft.testing.shared_log import ScriptedEngine, SharedLog
from licraft.vendor.codes import make_code, read_code
from licraft.vendor.keys import VendorPrivateKey, generate
from licraft.vendor.license_file import write_license_file
from licraft.wire import (
    Authorization,
    CheckinRequest,
    CheckoutRequest,
    HeartbeatRequest,
    HeartbeatResult,
    Problem,
)

T = TypeVar("T")

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota")
_BOOT = "the first boot"
_MEMORY = Path("/dev/shm")  # Where the servers' fsyncs cost nothing, if there is such a place.


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A new folder for the files of a pool, in memory where that can be had."""
    memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="licraft-pool-", dir=memory)


class InProcessPool:
    """1 to 9 license servers over one scripted log.

    Time passes by itself, at once, whenever everybody waits; `advance` lets it pass.

    >>> from licraft.testing import InProcessPool, run_virtual
    >>> from licraft.wire import CheckoutRequest
    >>> async def program() -> int:
    ...     async with InProcessPool(3) as pool:
    ...         await pool.install({"cad": 30})
    ...         status, seat = await pool.checkout("beta", CheckoutRequest("cad", count=12))
    ...         pool.crash("beta")
    ...         await pool.advance(70)
    ...         assert status == 201
    ...         return pool.server("alpha").feature("cad").deployed
    >>> run_virtual(program())
    30
    """

    def __init__(
        self,
        servers: int | Sequence[str] = 3,
        *,
        lease_s: float = 3.0,
        ttl_s: float = 60.0,
        drift: float = 0.01,
        threshold: float | Mapping[str, float] = 0.8,
        tick_s: float = 0.05,
        rates: Mapping[str, float] | None = None,
        seed: int = 0,
        data_dir: Path | None = None,
        key: VendorPrivateKey | None = None,
        strangers: Collection[str] = (),
        leader_handback: bool = True,
        expiry_grace_s: float = 0.0,
        raft: bool = False,
    ) -> None:
        """`rates` are true clock rates by server; without `data_dir` files are temporary.

        `threshold` is the servers' borrowing threshold, for all or by server. `strangers`
        are servers that do not have the vendor's key. With `raft` the log is PySyncObj's, else
        a scripted one.
        """
        self.names = NAMES[:servers] if isinstance(servers, int) else tuple(servers)
        if not 1 <= len(self.names) <= len(NAMES):
            raise ValueError(f"a pool has 1 to {len(NAMES)} servers, not {len(self.names)}")
        self.random = random.Random(seed)
        self._raft = raft
        self.log: Any = None if raft else SharedLog(self.names, self.random)
        self.lease_s = lease_s
        self.ttl_s = ttl_s
        self.drift = drift
        self.tick_s = tick_s
        self.key = key or generate()
        self.sequence = 0
        self._strangers = frozenset(strangers)
        self._leader_handback = leader_handback
        self._expiry_grace_s = expiry_grace_s
        self.clocks: dict[str, ManualClock] = {}
        self._thresholds = (
            dict.fromkeys(self.names, float(threshold))
            if isinstance(threshold, float | int)
            else {name: threshold.get(name, 0.8) for name in self.names}
        )
        self._rates = dict(rates or {})
        self._data_dir = data_dir
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._servers: dict[str, LicenseServer] = {}
        self._ticking: dict[str, asyncio.Task[None]] = {}
        self._boots = dict.fromkeys(self.names, _BOOT)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._log_task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> InProcessPool:
        """Start all servers and wait until each may grant."""
        self._loop = asyncio.get_running_loop()
        if not isinstance(self._loop, VirtualLoop):
            raise LicraftError("an InProcessPool runs in virtual time: use run_virtual(...)")
        if self._data_dir is None:
            self._temporary = scratch()
            self._data_dir = Path(self._temporary.name)
        if self._raft:
            self.log = RaftLog(self.names, self.random, self._rates)
        for name in self.names:
            self.clocks[name] = ManualClock(
                now_s=1_000.0 * (1 + len(self.clocks)),
                rate=self._rates.get(name, 1.0),
                source=self._loop.time,
            )
            self.start(name)
        if not self._raft:
            self._log_task = self._loop.create_task(self._tend_log())
            self._log_task.add_done_callback(_surface)
            self.log.elect(self.names[0])
        await self.until(self.serving, "all servers serve")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all servers."""
        for name in list(self._servers):
            self.crash(name)
        if self._log_task is not None:
            self._log_task.cancel()
        if self._temporary is not None:
            self._temporary.cleanup()

    # -- looking -------------------------------------------------------------------------

    def now(self) -> float:
        """True seconds since the loop began."""
        assert self._loop is not None, "the pool is not entered yet"
        return self._loop.time()

    def server(self, name: str) -> LicenseServer:
        """A server that runs."""
        return self._servers[name]

    def engine(self, name: str) -> Any:
        """The engine of a server that runs."""
        return self.log.engines[name]

    @property
    def running(self) -> list[str]:
        """The servers that run, paused or not, in priority order."""
        return [name for name in self.names if name in self._servers]

    @property
    def leader(self) -> str:
        """Who leads; raises LookupError while nobody does."""
        leader: str | None = self.log.leader
        if leader is None or not self.log.commits(leader):
            raise LookupError("nobody leads")
        return leader

    def serving(self) -> bool:
        """Whether every server that runs may grant."""
        return all(self._servers[name].may_grant() for name in self.running)

    def data_dir(self, name: str) -> Path:
        """Where a server keeps its files."""
        assert self._data_dir is not None, "the pool is not entered yet"
        return self._data_dir / name

    def given_license(self, name: str) -> Path:
        """The license file that a server is configured with; it need not exist."""
        return self.data_dir(name) / "given.lic"

    # -- time ----------------------------------------------------------------------------

    async def advance(self, seconds: float) -> None:
        """Let true time pass; each server's clock moves at its own rate."""
        await asyncio.sleep(seconds)

    async def until(
        self, condition: Callable[[], bool], what: str = "", within_s: float = 60.0
    ) -> None:
        """Let time pass until a condition holds; raises TimeoutError naming `what` if it does not.

        The condition is looked at each `tick_s`.
        """
        deadline_s = self.now() + within_s
        while not condition():
            if self.now() >= deadline_s:
                raise TimeoutError(f"not within {within_s:g} s: {what or condition}")
            await asyncio.sleep(self.tick_s)

    # -- licenses --------------------------------------------------------------------------

    def license_text(
        self,
        features: Mapping[str, int],
        *,
        sequence: int | None = None,
        distribution: Mapping[str, str] | None = None,
        expires: date | None = None,
        version: str | None = None,
        key: VendorPrivateKey | None = None,
    ) -> str:
        """A license file of these seats, signed; `distribution` is "alpha:4^beta:2" by feature."""
        codes = []
        for feature, count in features.items():
            text = make_code(
                key or self.key, feature=feature, count=count, expires=expires, version=version
            )
            code = read_code(text, [(key or self.key).public])
            if distribution and feature in distribution:
                code = replace(code, distribution=parse_distribution(distribution[feature]))
            codes.append(code)
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        return write_license_file(None, sequence, codes)

    async def install(
        self,
        features: Mapping[str, int],
        *,
        at: str | None = None,
        distribution: Mapping[str, str] | None = None,
        expires: date | None = None,
        version: str | None = None,
    ) -> int:
        """Install a newer license file at a server (the leader), and wait until all have it.

        Returns its sequence number; raises LicraftError with the server's reason.
        """
        text = self.license_text(
            features, distribution=distribution, expires=expires, version=version
        )
        answer = await self.server(at or self.leader).install_license(text)
        if isinstance(answer, Problem):
            raise LicraftError(f"{answer.code}: {answer.detail}")
        sequence = answer.sequence
        await self.until(
            lambda: all(
                self.server(name).state.license.sequence >= sequence for name in self.running
            ),
            f"license {sequence} is everywhere",
        )
        return sequence

    # -- client calls ------------------------------------------------------------------------

    async def checkout(
        self, name: str, request: CheckoutRequest
    ) -> tuple[int, Authorization | Problem]:
        """`POST /v1/authorizations` at a server, without HTTP."""
        server = self.server(name)
        answer = await _answer(server.checkout(request))
        server.settle()
        return answer

    async def heartbeat(
        self, name: str, *tokens: str, confirm: Mapping[str, int] | None = None
    ) -> list[HeartbeatResult] | Problem:
        """`POST /v1/heartbeats` at a server: a result for each token, or a problem."""
        server = self.server(name)
        request = HeartbeatRequest(list(tokens), confirm=dict(confirm or {}))
        _, answer = await _answer(server.heartbeat(request))
        server.settle()
        return answer if isinstance(answer, Problem) else answer.results

    async def checkin(self, name: str, *tokens: str) -> list[str]:
        """`POST /v1/checkins` at a server; returns the ids it released."""
        server = self.server(name)
        _, answer = await _answer(server.checkin(CheckinRequest(list(tokens))))
        server.settle()
        assert not isinstance(answer, Problem)
        return answer.released

    # -- faults ------------------------------------------------------------------------------

    def crash(self, name: str) -> None:
        """End a server as if killed: nothing of it is left but its files."""
        server = self._servers.pop(name)
        self._ticking.pop(name).cancel()
        if name in self.log.engines:
            self.log.engines[name].crash()
        # The kernel closes the files of a process that dies.
        for part in vars(server.grants).values():
            if isinstance(part, RecordLog):
                part.abandon()

    async def stop(self, name: str) -> None:
        """Stop a server in an orderly way; it answers until it has stopped, and may yet crash.

        Cancelled, it crashes.
        """
        assert self._loop is not None, "the pool is not entered yet"
        server, engine = self._servers[name], self.engine(name)
        self._ticking[name].cancel()
        stopping = self._ticking[name] = self._loop.create_task(server.stop())
        stopping.add_done_callback(_surface)
        try:
            await asyncio.wait([stopping])
        except asyncio.CancelledError:
            if self._ticking.get(name) is stopping:
                self.crash(name)
            raise
        if self._ticking.get(name) is stopping:
            await engine.close()
            del self._servers[name], self._ticking[name]

    def start(self, name: str, *, reboot: bool = False, replayed: int = 0) -> LicenseServer:
        """Start a server, anew or on the files that it left.

        After a `reboot` the kernel's boot id is another one. Up to log index `replayed`
        the log is applied before the server looks, as when an engine starts first.
        """
        if name in self._servers:
            raise ValueError(f"{name} runs")
        assert self._loop is not None, "the pool is not entered yet"
        if reboot:
            self._boots[name] = f"boot {self.random.randrange(10**9)}"
        config = ServerConfig(
            pool="acme",
            server=name,
            members=tuple(
                Member(n, f"http://{n}.invalid:7700", f"{n}.invalid:7800") for n in self.names
            ),
            data_dir=self.data_dir(name),
            lease_s=self.lease_s,
            ttl_s=self.ttl_s,
            drift=self.drift,
            threshold=self._thresholds[name],
            license_file=self.given_license(name),
            vendor_keys=() if name in self._strangers else (self.key.public,),
            tick_s=self.tick_s,
            leader_handback=self._leader_handback,
            expiry_grace_s=self._expiry_grace_s,
        )
        config.data_dir.mkdir(mode=0o700, exist_ok=True)
        machine = ReplicatedPool()
        engine: ScriptedEngine | RaftEngine
        if self._raft:
            if reboot:
                self.log.hosts[name].disk.lose_power()
            engine = RaftEngine(self.log, name, machine)
        else:
            engine = ScriptedEngine(self.log, name, machine)
        engine.apply_up_to(min(replayed, self.log.index))
        server = LicenseServer(config, machine, engine, self.clocks[name], self._boots[name])
        engine.handler = server.answer
        if isinstance(engine, RaftEngine):
            engine.on_change = server.engine_changed
        self._servers[name] = server
        ticking = self._loop.create_task(self._tick(server, engine))
        ticking.add_done_callback(_surface)
        self._ticking[name] = ticking
        return server

    def join(self, name: str) -> LicenseServer:
        """Start a new server with an empty disk, that joins the pool once the pool knows of it."""
        assert self._loop is not None, "the pool is not entered yet"
        if not self._raft:
            raise LicraftError("a scripted log has the members that it began with")
        self.names = (*self.names, name)
        self._thresholds[name], self._boots[name] = 0.8, _BOOT
        self.clocks[name] = ManualClock(
            rate=self._rates.get(name, 1.0),
            source=self._loop.time,
        )
        self.log.join(name)
        return self.start(name)

    def forget(self, name: str) -> None:
        """End a server that the pool has removed."""
        if name in self._servers:
            self.crash(name)
        self.names = tuple(other for other in self.names if other != name)
        self.log.forget(name)

    def pause(self, name: str) -> None:
        """Stop a server from doing anything, while its clock goes on (SIGSTOP)."""
        self.engine(name).pause()

    def suspend(self, name: str) -> None:
        """Stop a server with its machine: the clock of leases goes on, PySyncObj's does not."""
        engine = self.engine(name)
        assert isinstance(engine, RaftEngine), "a scripted engine has no clock"
        engine.suspend()

    def resume(self, name: str) -> None:
        """Let a server go on that was paused, or whose machine slept."""
        self.engine(name).resume()

    async def _tick(self, server: LicenseServer, engine: ScriptedEngine | RaftEngine) -> None:
        while True:
            await engine.awake()
            if engine.poll():
                server.engine_changed()
            server.tick()
            await asyncio.sleep(self.tick_s)

    async def _tend_log(self) -> None:
        while True:
            self.log.tend(self.now())
            await asyncio.sleep(self.tick_s)


def _surface(task: asyncio.Task[None]) -> None:
    """A server whose tick failed has stopped: say so at the end of the run."""
    if not task.cancelled() and (fault := task.exception()) is not None:
        task.get_loop().call_exception_handler({"message": "a tick failed", "exception": fault})


async def _answer(result: T | Awaitable[T]) -> T:
    """What a client call answers, at once or later."""
    return await result if isinstance(result, Awaitable) else result
