"""`licraft demo`: a whole pool on this machine, to look at and to play with.

May import click, httpx, `pool_files`, `processes`, `settings` and the vendor
room. The servers are real processes with real peer certificates, talked to
only through their HTTP API; nothing of the server runs in this process.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import httpx

from licraft.cli.init import LAST_PORT
from licraft.cli.processes import ServerProcess, end_all, outcome, run_command, start
from licraft.config_file import MAX_SERVERS
from licraft.pool_files import PoolPlan, local_servers, write_new, write_pool
from licraft.settings import OWN_VARIABLES, Settings, load_settings
from licraft.vendor.codes import make_code, read_code
from licraft.vendor.keys import write_keys
from licraft.vendor.license_file import write_license_file

POOL = "demo"
LICENSE_NAME = "demo.lic"
READY_WITHIN_S = 15.0
END_WITHIN_S = 5.0
DEFAULT_SERVERS = 3
DEFAULT_PORT = 7700
EXPIRES_SOON = timedelta(days=14)
_POLL_S = 0.1
_LOG_LINES = 10


class _NotPossible(click.ClickException):
    """The demo cannot start as it was asked to."""

    exit_code = 2


class _NotUp(click.ClickException):
    """The servers do not do what they should."""

    exit_code = 3


class _Asked(Exception):
    """Ctrl-C, SIGTERM or a closed terminal: end everything in order."""


@dataclass(frozen=True, slots=True)
class _Member:
    """One server of the demo: its settings and the file they come from."""

    settings: Settings
    config: Path


@click.command()
@click.option("--servers", "count", type=click.IntRange(1, MAX_SERVERS), help="Default: 3.")
@click.option("--port", type=click.IntRange(1, LAST_PORT), help="First API port. Default: 7700.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the pool here, for the next start; default: a directory that is removed.",
)
def demo(count: int | None, port: int | None, directory: Path | None) -> None:
    """Run a whole pool on this machine, to try things.

    It has a license for features that do not exist, and runs until Ctrl-C.

    \b
    licraft demo
    licraft demo --dir demo-pool --port 7800
    """
    with _directory(directory) as place, _stopped_by_signals() as stopped:
        members = _members(place, count, port)
        _check_ports(members)
        servers: list[ServerProcess] = []
        try:
            for member in members:
                servers.append(_start(place, member))
            _wait_until_ready(members, servers, stopped)
            _install_license(place, members)
            click.echo("\n".join(_welcome(members, place if directory else None)))
            _watch(servers, stopped)
        except _Asked:
            click.echo("ending the servers")
        finally:
            stubborn = end_all(servers, END_WITHIN_S)
            if stubborn:
                click.echo(f"killed, since they did not end by themselves: {', '.join(stubborn)}")


@contextmanager
def _directory(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        yield chosen.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="licraft-demo-") as temporary:
        yield Path(temporary)


class _Stop:
    """Whether a signal asked for the end; looked at between short sleeps."""

    def __init__(self) -> None:
        self.asked = False

    def sleep(self) -> None:
        """Sleep for one poll; raises _Asked when a signal came."""
        time.sleep(_POLL_S)
        if self.asked:
            raise _Asked


@contextmanager
def _stopped_by_signals() -> Iterator[_Stop]:
    """Turn the signals that end a program into a flag, so that no clean-up is cut short."""
    stop = _Stop()

    def note(number: int, frame: object) -> None:
        stop.asked = True

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- The files ---


def _members(place: Path, count: int | None, port: int | None) -> list[_Member]:
    """The servers of the pool in `place`, in priority order; writes the pool if there is none."""
    if not any(place.glob("*.yaml")):
        _write(place, count or DEFAULT_SERVERS, port or DEFAULT_PORT)
        return _read(place)
    members = _read(place)
    first = members[0].settings
    if count not in (None, len(members)) or port not in (None, first.api_port):
        raise _NotPossible(
            f"{place} holds a demo pool of {len(members)} servers at port {first.api_port}:"
            " leave --servers and --port out, or choose another --dir",
        )
    return members


def _read(place: Path) -> list[_Member]:
    found = {}
    for config in place.glob("*.yaml"):
        settings = load_settings(config, {})
        if settings.pool != POOL or settings.tokens is not None:
            raise _NotPossible(f"{config} is of no demo pool: choose another --dir")
        found[settings.server] = _Member(settings, config)
    names = [entry.name for entry in next(iter(found.values())).settings.servers]
    missing = [name for name in names if name not in found]
    if missing or not (place / LICENSE_NAME).exists():
        lost = f"{missing[0]}.yaml" if missing else LICENSE_NAME
        raise _NotPossible(f"{place} has lost its {lost}: choose another --dir")
    return [found[name] for name in names]


def _write(place: Path, count: int, port: int) -> None:
    now = datetime.now(UTC)
    write_pool(place, PoolPlan(POOL, local_servers(count, port), tokens=False), now)
    key = write_keys(place)
    sample = [
        make_code(key, feature="cad", count=100),
        make_code(key, feature="sim", count=50, version="2026", options={"module": "flow"}),
        make_code(key, feature="render", count=20, expires=(now + EXPIRES_SOON).date()),
    ]
    codes = [read_code(text, [key.public]) for text in sample]
    write_new(place / LICENSE_NAME, write_license_file(POOL, 1, codes))


# --- The servers ---


def _check_ports(members: Sequence[_Member]) -> None:
    """Refuse, before anything starts, ports that somebody else listens on."""
    for member in members:
        settings = member.settings
        for port in (settings.api_port, settings.peer_port):
            fault = _port_fault(settings.api_host, port)
            if fault:
                raise _NotPossible(
                    f"port {port} {fault}; choose others with --port, for example"
                    f" `licraft demo --port {_free_port(len(members))}`",
                )


def _port_fault(host: str, port: int) -> str | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port of connections that just ended is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as fault:
            if fault.errno == errno.EADDRINUSE:
                return "is in use"
            return f"cannot be used ({fault.strerror})"
    return None


def _free_port(count: int) -> int:
    """The first hundred whose API and peer ports are all free; the default if none is."""
    for base in range(DEFAULT_PORT + 300, LAST_PORT, 300):
        servers = local_servers(count, base)
        ports = [port for server in servers for port in (server.api_port, server.peer_port)]
        if not any(_port_fault("127.0.0.1", port) for port in ports):
            return base
    return DEFAULT_PORT


def _start(place: Path, member: _Member) -> ServerProcess:
    environ = {key: value for key, value in os.environ.items() if key not in OWN_VARIABLES}
    name = member.settings.server
    return start(name, run_command(member.config), place / f"{name}.log", environ)


def _wait_until_ready(
    members: Sequence[_Member], servers: Sequence[ServerProcess], stop: _Stop
) -> None:
    """Return when every server may grant; _NotUp with the ends of the logs if that takes long."""
    deadline = time.monotonic() + READY_WITHIN_S
    waiting = {member.settings.server: member for member in members}
    with _http() as http:
        while True:
            waiting = {n: m for n, m in waiting.items() if not _is_ready(http, m.settings)}
            if not waiting:
                return
            dead = [server for server in servers if server.process.poll() is not None]
            if dead or time.monotonic() > deadline:
                suspects = dead or [server for server in servers if server.name in waiting]
                click.echo("\n".join(_post_mortem(suspects)), err=True)
                raise _NotUp("the pool did not become ready; the servers' last words are above")
            stop.sleep()


def _is_ready(http: httpx.Client, settings: Settings) -> bool:
    try:
        return http.get(f"{settings.address.api}/readyz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _post_mortem(servers: Sequence[ServerProcess]) -> Iterator[str]:
    for server in servers:
        code = server.process.poll()
        state = f"not ready within {READY_WITHIN_S:g} s" if code is None else outcome(code)
        yield f"server {server.name}: {state}; the end of its log:"
        yield from (f"  {line}" for line in server.end_of_log(_LOG_LINES) or ["(empty)"])


def _install_license(place: Path, members: Sequence[_Member]) -> None:
    """Give the pool its sample license, unless it has one from an earlier start."""
    url = members[0].settings.address.api
    try:
        with _http() as http:
            if http.get(f"{url}/v1/license").raise_for_status().json()["sequence"] > 0:
                return
            text = (place / LICENSE_NAME).read_bytes()
            http.put(f"{url}/v1/license", content=text, timeout=READY_WITHIN_S).raise_for_status()
    except httpx.HTTPStatusError as fault:
        detail = fault.response.text
        raise _NotUp(f"{url} refused the sample license: {detail}") from fault
    except httpx.TransportError as fault:
        raise _NotUp(f"{url} did not answer: {fault}") from fault


def _watch(servers: Sequence[ServerProcess], stop: _Stop) -> None:
    """Report servers that end by themselves, until a signal comes or none is left."""
    running = list(servers)
    while running:
        for server in [server for server in running if server.process.poll() is not None]:
            running.remove(server)
            code = server.process.returncode
            click.echo(f"server {server.name} ended: {outcome(code)}; its log is {server.log}")
        stop.sleep()
    raise _NotUp("every server has ended")


def _http() -> httpx.Client:
    # trust_env: a proxy of the environment must not come between us and loopback.
    return httpx.Client(timeout=1.0, trust_env=False)


# --- What the user sees ---


def _welcome(members: Sequence[_Member], kept: Path | None) -> Iterator[str]:
    """The line that says it is up, the URLs, and three commands to try."""
    first = members[0].settings.address.api
    yield f"pool ready: {len(members)} servers, features cad, sim and render"
    for member in members:
        yield f"  {member.settings.server:8} {member.settings.address.api}"
    if kept:
        yield f"  kept in {kept}"
    yield "try, in another terminal:"
    program, option = _program(), "" if first.endswith(":7700") else f" --server {first}"
    yield f"  {program} status{option}"
    yield f"  {program} exec{option} cad -- sh -c 'echo working; sleep 30'"
    yield f"  curl {first}/v1/features"
    yield "Ctrl-C ends the pool"


def _program() -> str:
    """How this user can call licraft: by name if the shell finds it, else by its path."""
    if shutil.which("licraft"):
        return "licraft"
    script = Path(sys.executable).parent / "licraft"
    if not script.exists():
        return f"{shlex.quote(sys.executable)} -m licraft"
    here = Path.cwd()
    shown = script.relative_to(here) if script.is_relative_to(here) else script
    return shlex.quote(str(shown))
