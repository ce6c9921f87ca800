"""The door of a server: it accepts connections, and few of them are unfinished at a time.

May import asyncio, socket and ssl. It knows nothing of servers, frames or pools.

Anyone who reaches the port can open a connection and then say nothing. What that may cost
is bounded here, where the connection begins: each unfinished TLS handshake holds some 100 KB
and a descriptor. When there are too many the oldest one ends, not the newest: a server of
the pool is done within milliseconds, and only those who are not grow old.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable

log = logging.getLogger(__name__)

MAX_HANDSHAKES = 64
BACKLOG = 512
PAUSE_S = 0.1
GOODBYE_S = 1.0
"""How long a connection that was ended politely waits for the other side's TLS goodbye."""


class Listener:
    """The listening sockets of one server, and the connections that are not secure yet."""

    def __init__(
        self,
        make: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
        handshake_s: float,
    ) -> None:
        """`make` makes the protocol of a connection; a handshake may take `handshake_s`."""
        self._make = make
        self._tls = tls
        self._handshake_s = handshake_s
        self._listening: list[socket.socket] = []
        # In the order in which they came.
        self._greeting: dict[asyncio.Task[None], None] = {}
        self._told = False

    async def open(self, host: str, port: int) -> None:
        """Listen on every address that `host` has; raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
                self._listening.append(_listen(family, address))
        except OSError:
            self.close()
            raise
        for listening in self._listening:
            loop.add_reader(listening, self._accept, listening)

    def close(self) -> None:
        """Accept nobody any more, and give up on who is not secure yet."""
        for listening in self._listening:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()
        self._listening.clear()
        for task in self._greeting:
            task.cancel()

    def _accept(self, listening: socket.socket) -> None:
        """Let in one connection; a crowd at the door waits while those inside are served."""
        try:
            sock, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as fault:
            self._pause(listening, fault)
            return
        self._told = False
        sock.setblocking(False)
        if len(self._greeting) >= MAX_HANDSHAKES:
            oldest = next(iter(self._greeting))
            del self._greeting[oldest]
            oldest.cancel()
        task = asyncio.get_running_loop().create_task(self._greet(sock))
        self._greeting[task] = None
        task.add_done_callback(lambda ended: self._greeting.pop(ended, None))

    async def _greet(self, sock: socket.socket) -> None:
        """Make a connection secure; whoever cannot is not heard."""
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make,
                sock,
                ssl=self._tls,
                ssl_handshake_timeout=self._handshake_s if self._tls else None,
                ssl_shutdown_timeout=GOODBYE_S if self._tls else None,
            )

    def _pause(self, listening: socket.socket, fault: OSError) -> None:
        """Try again in a while: out of descriptors, mostly, and it must not be the end (L5)."""
        if not self._told:
            log.warning("cannot accept connections of other servers: %s", fault)
            self._told = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        loop.call_later(PAUSE_S, self._go_on, listening)

    def _go_on(self, listening: socket.socket) -> None:
        """Accept again, unless this server has stopped listening meanwhile."""
        if listening in self._listening:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)


def _listen(family: int, address: tuple[object, ...]) -> socket.socket:
    """A socket that listens on one address; raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # IPv4 has a socket of its own, where the host has such an address.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
