"""Building one license server from its settings, starting it and stopping it.

May import this room, the replication room, the vendor room, settings and `errors`.
What answers HTTP is put in front of it by `licraft.cli.run`.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
from collections.abc import Callable
from pathlib import Path

from licraft.core.commands import Member
from licraft.errors import DataError
from licraft.replication.files import make_directory
from licraft.replication.pysyncobj_engine import (
    EngineConfig,
    PeerTls,
    PySyncObjEngine,
    start_engine,
    stop_process,
)
from licraft.server.config import ServerConfig
from licraft.server.license_server import LicenseServer
from licraft.server.pool import ReplicatedPool
from licraft.settings import Settings
from licraft.vendor.keys import load_trusted_keys

log = logging.getLogger(__name__)

_COLLECT_S = 1.0
_FULL_EVERY = 3600


def prepare_data_dir(path: Path) -> None:
    """Make the data directory, for its owner only; raises DataError saying what is wrong."""
    try:
        make_directory(path)
    except OSError as fault:
        raise DataError(f"data_dir {path}: cannot be made: {fault.strerror}") from fault
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise DataError(f"data_dir {path}: this user may not read and write it")


class RunningServer:
    """A license server with its engine, ticking on the running event loop."""

    def __init__(self, server: LicenseServer, engine: PySyncObjEngine) -> None:
        self.server = server
        self.engine = engine
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(server.run()), loop.create_task(tend_garbage())]
        self._tasks[0].add_done_callback(_stop_if_failed)

    async def stop(self) -> None:
        """Stop in an orderly way: hand over, save the record, leave the pool."""
        self._tasks[1].cancel()
        self._tasks[0].cancel()
        await self.server.stop()
        await self.engine.close()


async def start_server(settings: Settings) -> RunningServer:
    """Start one license server; raises DataError, SettingsError, LicenseError, InvariantBroken.

    Missing vendor keys and license files are no error: the server then says so.
    """
    prepare_data_dir(settings.data_dir)
    keys, missing = load_trusted_keys(settings.vendor_keys)
    for path in missing:
        log.warning("vendor key %s does not exist yet: its codes will not be trusted", path)
    config = ServerConfig(
        pool=settings.pool,
        server=settings.server,
        members=tuple(Member(s.name, s.api, s.peer) for s in settings.servers),
        data_dir=settings.data_dir,
        lease_s=settings.lease_s,
        ttl_s=settings.ttl_s,
        drift=settings.drift,
        threshold=settings.threshold,
        vendor_keys=tuple(keys),
        license_file=settings.license_file,
        leader_handback=settings.leader_handback,
        expiry_grace_s=settings.expiry_grace_s,
    )
    tls = settings.peer_tls
    engine_config = EngineConfig(
        pool=settings.pool,
        server=settings.server,
        members={s.name: s.peer for s in settings.servers},
        data_dir=settings.data_dir,
        tls=PeerTls(tls.ca, tls.cert, tls.key) if tls else None,
        listen=f"{_bracketed(settings.peer_host)}:{settings.peer_port}",
        joining=settings.join,
    )
    return await assemble(config, engine_config)


async def assemble(
    config: ServerConfig,
    engine_config: EngineConfig,
    on_fatal: Callable[[BaseException], None] = stop_process,
) -> RunningServer:
    """Hang a license server on an engine; the two know each other only by their contracts."""
    pool = ReplicatedPool()
    server: LicenseServer | None = None

    async def answer(peer: str, body: bytes) -> bytes:
        if server is None:
            raise DataError("the server is still starting")
        return await server.answer(peer, body)

    def changed() -> None:
        if server is not None:
            server.engine_changed()

    engine = await start_engine(
        engine_config, pool, answer, changed, on_fatal=on_fatal, roster=pool
    )
    try:
        server = LicenseServer(config, pool, engine)
        server.on_fatal = on_fatal
    except BaseException:
        await engine.close()
        raise
    return RunningServer(server, engine)


async def tend_garbage() -> None:
    """Collect young garbage often and leave what is old alone, until cancelled.

    A full collection looks at every live authorization and would stop the server for
    tens of milliseconds with 200,000 of them. What survives a young collection is frozen:
    it is freed by its reference count as usual. Once an hour everything is looked at, for
    the sake of cycles that became garbage after they were frozen.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for turn in itertools.count(1):
            await asyncio.sleep(_COLLECT_S)
            if turn % _FULL_EVERY:
                gc.collect(1)
            else:
                gc.unfreeze()
                gc.collect()
            gc.freeze()
    finally:
        gc.enable()
        gc.unfreeze()


def _stop_if_failed(task: asyncio.Task[None]) -> None:
    """A server whose clock work failed must not go on answering."""
    if not task.cancelled() and (fault := task.exception()) is not None:
        stop_process(fault)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
