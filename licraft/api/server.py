"""The HTTP server of one license server: binds, serves, stops.

May import uvicorn and this room. It lives in the caller's running event loop,
installs no signal handler, changes no logging configuration and ends no process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path

import uvicorn
from starlette.routing import BaseRoute

from licraft.api.access import Gate, Tokens
from licraft.api.app import build_app
from licraft.api.calls import CALLS, CLIENT_CALLS
from licraft.api.limits import Limits
from licraft.api.openapi import OPENAPI
from licraft.api.operations import Broken, Operation
from licraft.api.protocol import LicenseProtocol, Shared
from licraft.api.service import LicenseService
from licraft.errors import InvariantBroken, SettingsError

log = logging.getLogger(__name__)

_BACKLOG = 2048
_CLOSING_S = 1.0


def stop_process(error: InvariantBroken) -> None:
    """End the process at once: a state that contradicts itself must not answer anyone."""
    log.critical("invariant broken: the process stops", exc_info=error)
    logging.shutdown()
    os._exit(70)


class ApiServer:
    """The HTTP API of `service` on one address; `tokens` None means no authorization.

    `tls` is certificate and key (PEM). `pages` are further Starlette routes
    (dashboard, metrics, events). `broken` is called with an `InvariantBroken` that a
    call raised, before anyone is answered.
    """

    def __init__(
        self,
        service: LicenseService,
        host: str,
        port: int,
        *,
        tls: tuple[Path, Path] | None,
        tokens: Tokens | None,
        pages: Sequence[BaseRoute] = (),
        limits: Limits | None = None,
        fast: bool = True,
        broken: Broken = stop_process,
    ) -> None:
        self._host = host
        self._wanted_port = port
        self._tls = tls
        self._limits = limits or Limits()
        gate = Gate(tokens)
        operations = [Operation(call, service, gate, broken) for call in (*CALLS, OPENAPI)]
        self._app = build_app(operations, pages)
        self._shared = Shared(
            _by_wire_path(operations) if fast else {}, self._limits, service.settle
        )
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._port: int | None = None

    @property
    def port(self) -> int:
        """The port that is bound; differs from the one asked for if that was 0."""
        return self._wanted_port if self._port is None else self._port

    async def start(self) -> None:
        """Bind and serve; raises SettingsError when the address or the certificate is no good."""
        loop = asyncio.get_running_loop()
        context = None if self._tls is None else _tls_context(*self._tls)
        config = uvicorn.Config(
            self._app,
            http=LicenseProtocol,
            interface="asgi3",
            lifespan="off",
            loop="none",
            ws="none",
            log_config=None,
            proxy_headers=False,
            access_log=False,
        )
        config.load()
        self._shared.set_date(formatdate(usegmt=True).encode("ascii"))
        listener = _bind(self._host, self._wanted_port)
        self._port = listener.getsockname()[1]
        self._server = await loop.create_server(
            lambda: LicenseProtocol(config, self._shared, {}, loop),
            sock=listener,
            ssl=context,
            ssl_handshake_timeout=None if context is None else self._limits.handshake_s,
            backlog=_BACKLOG,
        )
        self._sweeper = loop.create_task(self._sweep())

    async def stop(self) -> None:
        """Stop accepting, end idle connections, wait `stop_s` for requests, end the rest."""
        if self._server is None or self._sweeper is None:
            return
        self._server.close()
        for connection in self._connections():
            connection.shutdown()
        if self._shared.tasks:
            await asyncio.wait(self._shared.tasks, timeout=self._limits.stop_s)
        await self._until_closed(_CLOSING_S)
        for connection in self._connections():
            connection.transport.abort()
        await self._until_closed(_CLOSING_S)
        if self._shared.tasks:
            await asyncio.wait(self._shared.tasks, timeout=_CLOSING_S)
        self._sweeper.cancel()
        self._server = self._sweeper = None

    def _connections(self) -> list[LicenseProtocol]:
        return [c for c in self._shared.connections if isinstance(c, LicenseProtocol)]

    async def _until_closed(self, timeout_s: float) -> None:
        """Give the last answers the time to leave."""
        if self._shared.connections:
            self._shared.emptied.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._shared.emptied.wait(), timeout_s)

    async def _sweep(self) -> None:
        """Keep the Date header current and end connections that are over a bound of time."""
        loop = asyncio.get_running_loop()
        period_s = min(1.0, self._limits.sweep_s)
        next_sweep = loop.time()
        while True:
            self._shared.set_date(formatdate(usegmt=True).encode("ascii"))
            now = loop.time()
            if now >= next_sweep:
                next_sweep = now + self._limits.sweep_s
                for connection in self._connections():
                    connection.sweep(now)
            await asyncio.sleep(period_s)


def _by_wire_path(operations: Sequence[Operation]) -> dict[bytes, Operation]:
    return {o.call.path.encode("ascii"): o for o in operations if o.call in CLIENT_CALLS}


def _bind(host: str, port: int) -> socket.socket:
    """A listening address, not yet listening; raises SettingsError naming it."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsError("api.listen", [f"cannot listen on {where}: {error}"]) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        # Linux reports a port that another socket listens on only here.
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise SettingsError("api.listen", [_bind_problem(where, error)]) from error
    return listener


def _bind_problem(where: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"{where} is already in use: end the process that listens there or choose another port"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where} is not an address of this machine: name one, or 0.0.0.0 for all"
    if error.errno == errno.EACCES:
        return f"{where} needs privileges that this user does not have: use a port above 1023"
    return f"cannot listen on {where}: {error.strerror}"


def _tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        problem = f"cannot use certificate {certificate} with key {key}: {error}"
        raise SettingsError("api.tls", [problem]) from error
    return context
