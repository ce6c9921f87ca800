"""`licraft run`: one license server in the foreground, until SIGTERM or SIGINT.

May import everything below: it puts the HTTP API in front of a license server. SIGTERM
stops it in an orderly way; systemd is told when it is ready (`Type=notify`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
import uvloop

from licraft.api.access import Tokens
from licraft.api.server import ApiServer
from licraft.errors import LicenseError, SettingsError
from licraft.server.license_keeper import LicenseKeeper
from licraft.server.lifecycle import start_server
from licraft.settings import Settings, load_settings
from licraft.vendor.keys import load_trusted_keys

log = logging.getLogger("licraft")

_SWITCH_S = 0.0005
_LOOK_S = 0.1
_FEW_FILES = 4096
# One that recovers or drains grants nothing, but it answers heartbeats.
_SERVES = ("serving", "recovering", "draining")


@click.command()
@click.option(
    "--config",
    "config",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The server's YAML file.",
)
def run(config: Path) -> None:
    """Run one license server in the foreground.

    \b
    Examples:
      licraft run --config /etc/licraft/alpha.yaml
      LICRAFT_LOG_LEVEL=debug licraft run --config alpha.yaml

    SIGTERM and Ctrl-C stop it in an orderly way: it hands leadership over and saves
    what it has granted, so that it can grant again at once when it is back. SIGHUP has it
    read the files of `license_file` and `vendor_keys` again.
    """
    settings = load_settings(config, os.environ)
    start_logging(settings)
    raise_file_limit()
    # The disk's thread works for moments only: it must not wait 5 ms for each of them.
    sys.setswitchinterval(_SWITCH_S)
    uvloop.run(serve(settings))


async def serve(settings: Settings) -> None:
    """Run a server until a signal ends it; raises what kept it from starting."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # What is read while it starts is read then: there is nothing to read again.
    loop.add_signal_handler(signal.SIGHUP, lambda: log.info("SIGHUP: still starting"))
    tokens = read_tokens(settings)
    running = await start_server(settings)
    try:
        keeper = running.server.keeper
        loop.add_signal_handler(signal.SIGHUP, lambda: reread(settings, keeper))
        tls = settings.api_tls
        api = ApiServer(
            running.server,
            settings.api_host,
            settings.api_port,
            tls=(tls.cert, tls.key) if tls else None,
            tokens=tokens,
        )
        await api.start()
        log.info("%s serves on %s:%d", settings.server, settings.api_host, api.port)
        try:
            await until_stopped(running.server.status, stop)
        finally:
            notify("STOPPING=1")
            await running.stop()
            await api.stop()
    except BaseException:
        await running.stop()
        raise
    log.info("%s has stopped", settings.server)


def reread(settings: Settings, keeper: LicenseKeeper) -> None:
    """Read the vendor's keys and the license file again; with faulty keys the old ones stay."""
    log.info("SIGHUP: reading license_file and vendor_keys again")
    try:
        keys, missing = load_trusted_keys(settings.vendor_keys)
    except LicenseError as fault:
        log.error("the vendor keys of before stay: %s", fault)
        keeper.reread()
        return
    for path in missing:
        log.warning("vendor key %s does not exist yet: its codes will not be trusted", path)
    keeper.reread(keys)


async def until_stopped(state: Callable[[], str], stop: asyncio.Event) -> None:
    """Wait for `stop`, and tell systemd once the server serves; before that, what it waits for.

    `state` is the server's state in one word. One that only joins the pool is not ready:
    what is ordered after it may ask it for seats.
    """
    waiting = asyncio.ensure_future(stop.wait())
    told = ""
    try:
        while not waiting.done():
            word = state()
            if word in _SERVES:
                notify(f"READY=1\nSTATUS={word}")
                break
            if word != told:
                notify(f"STATUS={word}")
                told = word
            await asyncio.wait([waiting], timeout=_LOOK_S)
        await waiting
    finally:
        waiting.cancel()


def raise_file_limit() -> int:
    """Let this process open as many files as its hard limit allows; returns how many.

    Every client's connection is one, and the usual soft limit is 1,024. Source: getrlimit(2).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The kernel's own limit may have been set below the hard one: then the soft one stays.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < _FEW_FILES:
        log.warning(
            "this process may open %d files only, and each client's connection is one: "
            "raise its hard limit (systemd: LimitNOFILE=65536)",
            limit,
        )
    return limit


def read_tokens(settings: Settings) -> Tokens | None:
    """The access tokens from their files; None where the configuration says `tokens: none`."""
    if settings.tokens is None:
        return None
    values = {}
    for key, path in (("admin", settings.tokens.admin), ("client", settings.tokens.client)):
        try:
            values[key] = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as fault:
            raise SettingsError(
                f"tokens.{key}", [f"{path} cannot be read: {fault}; `licraft init` makes one"]
            ) from fault
    try:
        return Tokens.of(values["admin"], values["client"])
    except ValueError as fault:
        raise SettingsError("tokens", [str(fault)]) from fault


def notify(state: str) -> None:
    """Tell systemd, where it listens (sd_notify(3)); a failure to do so is not ours to report."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError as fault:
            log.warning("systemd was not notified: %s", fault)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def start_logging(settings: Settings) -> None:
    """Log to stderr in the configured format, from the configured level up."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    # PySyncObj and the HTTP stack speak of their own internals below this.
    for name in ("pysyncobj", "uvicorn", "asyncio", "httpx"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.root.level))
