"""A server whose peer port anyone on loopback can reach, of either kind, in threads of its own."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pysyncobj import SyncObj, SyncObjConf
from stock_bench import StockMachine
from sync_bench import Recorder

from licraft.certificates import issue, make_authority
from licraft.replication.peers import PeerTls
from licraft.replication.pysyncobj_engine import EngineConfig, PySyncObjEngine, start_engine

NAMES = ("alpha", "beta", "gamma")
SERVER = "beta"


class Exposed(Protocol):
    """What the tests look at from outside."""

    port: int

    @property
    def log(self) -> list[tuple[bytes, int, int]]:
        """The entries."""
        ...

    @property
    def term(self) -> int:
        """The Raft term."""
        ...

    @property
    def member_count(self) -> int:
        """How many servers it counts majorities of."""
        ...


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in held]
    for listener in held:
        listener.close()
    return ports


def wait_for(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


# PySyncObj as it comes.


class StockExposed:
    """A SyncObj with its own transport, ticking in its own thread."""

    def __init__(self, others: Sequence[int], *, dials: bool, **options: Any) -> None:
        # Of two servers the one dials whose address is greater, as text.
        own_host, host = ("localhost", "127.0.0.1") if dials else ("127.0.0.1", "localhost")
        (self.port,) = free_ports(1)
        self.others = [f"{host}:{port}" for port in others]
        conf = SyncObjConf(
            autoTickPeriod=0.005,
            bindAddress=f"127.0.0.1:{self.port}",
            appendEntriesPeriod=0.02,
            raftMinTimeout=0.1,
            raftMaxTimeout=0.2,
            **options,
        )
        self.node = SyncObj(
            f"{own_host}:{self.port}",
            self.others,
            conf,
            consumers=[StockMachine(Recorder())],
        )

    @property
    def log(self) -> list[tuple[bytes, int, int]]:
        return list(self.node._SyncObj__raftLog[:])

    @property
    def term(self) -> int:
        return int(self.node.raftCurrentTerm)

    @property
    def member_count(self) -> int:
        return len(self.node.otherNodes) + 1

    def tick(self, times: int) -> None:
        """Wait until it has ticked so often."""
        left = [None] * times

        def count() -> None:
            if left:
                left.pop()

        self.node.addOnTickCallback(count)
        wait_for(lambda: not left)
        self.node.removeOnTickCallback(count)

    @property
    def transport(self) -> Any:
        """Its TCPTransport."""
        return self.node._SyncObj__transport


@contextmanager
def stock_exposed(
    others: Sequence[int] = (), *, dials: bool = False, **options: Any
) -> Iterator[StockExposed]:
    """`others` are the ports of the other members; with `dials` it dials them."""
    exposed = StockExposed(others, dials=dials, **options)
    try:
        wait_for(lambda: exposed.transport.ready)
        yield exposed
    finally:
        exposed.node.destroy_synchronous()


def stock_frame(message: object) -> bytes:
    """A message as PySyncObj sends it."""
    return stock_frame_of(pickle.dumps(message, 2))


def stock_frame_of(pickled: bytes) -> bytes:
    body = zlib.compress(pickled)
    return struct.pack("i", len(body)) + body


# Ours.


class GuardedExposed:
    """An engine on an event loop in a thread of its own; its peers are not there."""

    def __init__(self, directory: Path, tls: PeerTls | None, first: int | None) -> None:
        ports = free_ports(3)
        self.port = ports[1]
        members = dict(zip(NAMES, ports, strict=True))
        if first is not None:
            members["alpha"] = first
        self._config = EngineConfig(
            "pool",
            SERVER,
            {name: f"127.0.0.1:{port}" for name, port in members.items()},
            directory / "data",
            tls=tls,
        )
        self.engine: PySyncObjEngine | None = None
        self._stopping: Callable[[], object] = lambda: None
        self.thread = threading.Thread(target=asyncio.run, args=(self._run(),), daemon=True)

    async def _run(self) -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        self._stopping = lambda: loop.call_soon_threadsafe(stopped.set)
        engine = await start_engine(self._config, Recorder(), _ask, lambda: None)
        self.engine = engine
        await stopped.wait()
        await engine.close()

    def stop(self) -> None:
        self._stopping()
        self.thread.join(10.0)

    @property
    def log(self) -> list[tuple[bytes, int, int]]:
        assert self.engine is not None
        return list(self.engine._journal[:])

    @property
    def term(self) -> int:
        assert self.engine is not None
        return self.engine.status().term

    @property
    def member_count(self) -> int:
        assert self.engine is not None
        return len(self.engine._node.otherNodes) + 1


async def _ask(server: str, body: bytes) -> bytes:
    raise AssertionError("nobody may ask")


@contextmanager
def guarded_exposed(
    directory: Path, tls: PeerTls | None = None, first: int | None = None
) -> Iterator[GuardedExposed]:
    """`first` is the port of alpha, which this server dials."""
    exposed = GuardedExposed(directory, tls, first)
    exposed.thread.start()
    try:
        wait_for(lambda: exposed.engine)
        yield exposed
    finally:
        exposed.stop()


def certificates(directory: Path) -> PeerTls:
    """The certificate of the exposed server, by an authority of its own."""
    now = datetime.now(UTC)
    authority = make_authority("pool", now)
    own = issue(authority, SERVER, "127.0.0.1", now)
    tls = PeerTls(directory / "ca.pem", directory / "own.pem", directory / "own.key")
    for path, text in ((tls.ca, authority.cert), (tls.cert, own.cert), (tls.key, own.key)):
        path.write_text(text)
    return tls


@contextmanager
def exposed_server(case: str, directory: Path) -> Iterator[Exposed]:
    """The server of a case: `bare`, `plain` (ours on loopback), `tls` (ours elsewhere)."""
    if case == "bare":
        with stock_exposed(dynamicMembershipChange=True) as stock:
            wait_for(stock.node._isLeader)  # Of itself alone.
            yield stock
    else:
        with guarded_exposed(directory, certificates(directory) if case == "tls" else None) as ours:
            yield ours


# Attackers.


class Intruder:
    """A plain TCP connection to a port of this machine."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=5.0)

    def send(self, data: bytes) -> bool:
        """Send; whether the other side has left the connection open until then."""
        try:
            self._socket.sendall(data)
        except OSError:
            return False
        return True

    def receive(self) -> bytes:
        """What comes next; nothing if the connection is closed."""
        try:
            return self._socket.recv(1 << 20)
        except ConnectionError:
            return b""

    def hear(self) -> object:
        """The next of PySyncObj's messages, or None if the connection is closed instead."""
        data = b""
        while len(data) < 4 or len(data) < 4 + struct.unpack_from("i", data)[0]:
            received = self.receive()
            if not received:
                return None
            data += received
        length = struct.unpack_from("i", data)[0]
        return pickle.loads(zlib.decompress(data[4 : 4 + length]))

    def is_shut_out(self, within_s: float = 5.0) -> bool:
        """Whether the other side closes the connection, whatever it says before."""
        self._socket.settimeout(within_s)
        with contextlib.suppress(ConnectionError):
            try:
                while self._socket.recv(1 << 20):
                    pass
            except TimeoutError:
                return False
        return True

    def close(self) -> None:
        self._socket.close()


@contextmanager
def intruder(port: int) -> Iterator[Intruder]:
    connection = Intruder(port)
    try:
        yield connection
    finally:
        connection.close()
