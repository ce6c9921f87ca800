"""A crowd at a server's door, in threads: many connections at once, and what they cost it.

May import the standard library and `support.processes`. Linux only: it reads /proc.
"""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.processes import ServerPool

RESPITE_S = 0.05
"""How long one of the crowd that was turned away waits before it comes again."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process holds."""

    memory_mb: float
    descriptors: int


def cost_of(pool: ServerPool, name: str) -> Cost:
    """What a server holds now."""
    process = Path("/proc") / str(pool.processes[name].process.pid)
    pages = int((process / "statm").read_text(encoding="ascii").split()[1])
    memory_mb = pages * resource.getpagesize() / 2**20
    return Cost(memory_mb, len(list((process / "fd").iterdir())))


@dataclass(slots=True)
class Costs:
    """The most that a server held while it was measured."""

    before: Cost
    memory_mb: float = 0.0
    descriptors: int = 0

    @property
    def grown_mb(self) -> float:
        """How much memory it took."""
        return self.memory_mb - self.before.memory_mb

    @property
    def grown_descriptors(self) -> int:
        """How many descriptors it took."""
        return self.descriptors - self.before.descriptors


@contextmanager
def measured(pool: ServerPool, name: str) -> Iterator[Costs]:
    """Measure a server for as long as the block runs."""
    over = threading.Event()
    costs = Costs(cost_of(pool, name))

    def look() -> None:
        now = cost_of(pool, name)
        costs.memory_mb = max(costs.memory_mb, now.memory_mb)
        costs.descriptors = max(costs.descriptors, now.descriptors)

    def keep_looking() -> None:
        while not over.wait(0.02):
            look()

    thread = threading.Thread(target=keep_looking)
    thread.start()
    try:
        yield costs
    finally:
        over.set()
        thread.join()
        look()


@dataclass(slots=True)
class Crowd:
    """Connections of one kind, and how many there were."""

    port: int
    size: int
    greeting: bytes  # what each says at first
    murmur: bytes = b""  # what each says now and then, as slow connections do
    came: int = 0
    at_once: int = 0
    open: dict[socket.socket, float] = field(default_factory=dict)

    def gather(self, over: threading.Event) -> None:
        """Keep `size` connections open, and come again when turned away, until it is over."""
        with selectors.DefaultSelector() as selector:
            absent_until = [0.0] * self.size
            try:
                while not over.is_set():
                    now = time.monotonic()
                    due = [at for at in absent_until if at <= now]
                    absent_until = [at for at in absent_until if at > now]
                    for _ in due:
                        self._come(selector, now)
                    self.at_once = max(self.at_once, len(self.open))
                    for key, _ in selector.select(RESPITE_S):
                        sock = key.fileobj
                        assert isinstance(sock, socket.socket)
                        if self._is_shut_out(sock):
                            selector.unregister(sock)
                            del self.open[sock]
                            sock.close()
                            absent_until.append(now + RESPITE_S)
                    self._murmur(now)
            finally:
                for sock in self.open:
                    sock.close()

    def _come(self, selector: selectors.BaseSelector, now: float) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", self.port))
        selector.register(sock, selectors.EVENT_READ)
        self.open[sock] = now
        self.came += 1
        with contextlib.suppress(OSError):
            sock.send(self.greeting)

    def _is_shut_out(self, sock: socket.socket) -> bool:
        try:
            return sock.recv(65536) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _murmur(self, now: float) -> None:
        if self.murmur:
            for sock, at in self.open.items():
                if now - at > 0.2:
                    self.open[sock] = now
                    with contextlib.suppress(OSError):
                        sock.send(self.murmur)


@contextmanager
def gathered(*crowds: Crowd) -> Iterator[None]:
    """The crowds are at the door for as long as the block runs."""
    over = threading.Event()
    threads = [threading.Thread(target=crowd.gather, args=(over,)) for crowd in crowds]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def knock(port: int, tls: ssl.SSLContext, over: threading.Event) -> int:
    """Go through the whole handshake, again and again, until it is over; how many times."""
    times = 0
    while not over.is_set():
        times += 1
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=5.0) as sock,
            tls.wrap_socket(sock) as secured,
        ):
            secured.recv(1)
    return times


@dataclass(slots=True)
class Pour:
    """A flood over connections that were let in, and how much of it left."""

    port: int
    tls: ssl.SSLContext
    hello: bytes
    flood: bytes
    most: int = 2**40  # bytes, then it keeps still
    admitted: int = 0
    poured: int = 0

    def go_on(self, over: threading.Event) -> None:
        """Say hello and then the flood, again and again, and read nothing, until it is over.

        It connects again when it is turned away.
        """
        while not over.is_set():
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), timeout=5.0) as sock,
                self.tls.wrap_socket(sock) as secured,
            ):
                secured.sendall(self.hello)
                self.admitted += bool(secured.recv(65536))
                # It can go on for ever only where it is read.
                secured.settimeout(0.5)
                self._send(secured, over)
            over.wait(RESPITE_S)

    def _send(self, secured: ssl.SSLSocket, over: threading.Event) -> None:
        piece = 16 * 1024
        while not over.is_set():
            if self.poured >= self.most:
                over.wait()
                return
            for at in range(0, len(self.flood), piece):
                secured.sendall(self.flood[at : at + piece])
                self.poured += piece
                if over.is_set():
                    return
