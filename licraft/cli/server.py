"""`licraft server`: servers join the pool, are drained, and leave it while it runs.

May import click, `cli.common`, `pool_files`, the client, `wire` and `errors`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from licraft.cli.common import DENIED, Pool, pool_options, print_json, printable, say
from licraft.config_file import is_loopback
from licraft.errors import PoolUnavailable
from licraft.pool_files import Address, PlannedServer, parse_server, write_joining
from licraft.wire import PoolView, ServerAnswer, ServerView

if TYPE_CHECKING:
    from licraft.client import Client

_LOOK_S = 0.5
_NAMED_HOLDERS = 5
MAX_TOKEN_BYTES = 4096


@click.group()
def server() -> None:
    """Add, drain and remove servers."""


@server.command()
@click.argument("name", metavar="NAME")
@click.argument("address", metavar="HOST:APIPORT:PEERPORT")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="The directory that `licraft init` wrote, with the pool's ca.key; default: this one.",
)
@pool_options
def add(pool: Pool, name: str, address: str, directory: Path) -> None:
    """Have the server NAME join the running pool (administrator).

    Writes its certificate, key and configuration into the pool's directory, and asks
    the pool to let it in. It counts once it runs and has caught up: until then it
    changes nothing for the others. May be repeated.

    \b
    licraft server add delta 10.0.0.4:7700:7800 --dir pool --server http://10.0.0.1:7700
    """
    try:
        planned = parse_server(f"{name}={address}")
    except ValueError as fault:
        raise click.UsageError(str(fault)) from None
    with _with_token(pool, directory).client() as client:
        seen = client.pool()
        present = tuple(
            Address(s.name, s.url, s.peer)
            for s in seen.servers
            if s.name != name and s.state != "removing"
        )
        files = write_joining(directory, seen.pool, present, planned, datetime.now(UTC))
        for file in files:
            say(f"wrote {directory / file.name}")
        answer = client.add_server(name, planned.api_url, planned.peer)
    if pool.as_json:
        print_json(answer)
        return
    click.echo(f"{name} is {answer.state} in the pool {seen.pool}")
    click.echo("\n".join(_advice(directory, planned)))


@server.command()
@click.argument("name", metavar="NAME")
@click.option("--wait/--no-wait", default=True, help="Wait until it is gone; default: wait.")
@pool_options
def remove(pool: Pool, name: str, wait: bool) -> None:
    """Have the server NAME leave the running pool (administrator).

    It grants nothing from now on, and its clients go to the others. Its seats stay
    theirs until nobody can rely on them any more: the pool's `lease` and `ttl`. Then it
    is gone, its certificate lets it in no more, and its process can be stopped.

    \b
    licraft server remove delta
    """
    with pool.client() as client:
        answer = client.remove_server(name)
        last = answer.state
        if not pool.as_json:
            say(f"{name} is {last}" + ("; waiting until it is gone" if wait else ""))
        told = ""
        while wait and last != "removed":
            time.sleep(_LOOK_S)
            try:
                last = _state(client.pool(), name)
            except PoolUnavailable as fault:
                # The leader may be the one that leaves: who takes over answers in a moment.
                if str(fault) != told:
                    say(f"{fault}; still waiting")
                told = str(fault)
    if pool.as_json:
        print_json(ServerAnswer(name, last, answer.index))
    else:
        click.echo(f"{name} is {last}")


@server.command()
@click.argument("name", metavar="NAME")
@click.option("--wait/--no-wait", default=True, help="Wait until it is empty; default: wait.")
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0.0),
    help="Wait so long at most; default: as long as it takes.",
)
@pool_options
def drain(pool: Pool, name: str, wait: bool, timeout_s: float | None) -> None:
    """Empty the server NAME without harm to its users (administrator).

    It grants nothing new from now on. Seats that nobody holds return to the pool at
    once, its clients move to the other servers with theirs, and it can be stopped when
    the command returns. It stays so, restarts included, until `undrain`.

    Exit status 1 if it is not empty in the end; the message says who holds what.

    \b
    licraft server drain beta --timeout 120
    """
    with pool.client() as client:
        answer = client.drain_server(name)
        end = _watch(client, name, answer.index, timeout_s, quiet=pool.as_json) if wait else None
        left = _left(client, end) if end is not None else ""
    state = answer.state if end is None else end.state
    if pool.as_json:
        print_json(ServerAnswer(name, state, answer.index))
    elif not left:
        click.echo(f"{name} is {state}" + (" and empty" if end else ""))
    if left:
        say(f"{name} is not empty: {left}")
        click.get_current_context().exit(DENIED)


@server.command()
@click.argument("name", metavar="NAME")
@pool_options
def undrain(pool: Pool, name: str) -> None:
    """Have the drained server NAME grant seats again (administrator).

    It borrows seats from the others as it is asked for them.

    \b
    licraft server undrain beta
    """
    with pool.client() as client:
        answer = client.undrain_server(name)
    if pool.as_json:
        print_json(answer)
    else:
        click.echo(f"{name} is {answer.state}")


def _watch(
    client: Client, name: str, index: int, timeout_s: float | None, *, quiet: bool
) -> ServerView:
    """A server when it is empty, drains no more, or the time is over; tells how far it is.

    What a server of the pool says counts if it knows the log up to `index`.
    """
    deadline_s = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
    told = ""
    last = _view(name, "draining", allocated=1)  # As if it had something, until that is known.
    while True:
        try:
            seen = client.pool()
        except PoolUnavailable as fault:
            news = f"{fault}; still waiting"
        else:
            if seen.leader is not None and seen.applied_index >= index:
                found = next((s for s in seen.servers if s.name == name), None)
                if found is None:
                    return _view(name, "removed", allocated=0)
                last = found
            news = f"{name} is {last.state}: {last.allocated} seats to go, {last.in_use} in use"
        if not last.allocated or last.state == "up" or time.monotonic() >= deadline_s:
            return last
        if news != told and not quiet:
            say(news)
            told = news
        time.sleep(min(_LOOK_S, max(0.0, deadline_s - time.monotonic())))


def _view(name: str, state: str, allocated: int) -> ServerView:
    return ServerView(name, "follower", state, "", 0, None, 0, allocated)


def _left(client: Client, end: ServerView) -> str:
    """Why a server is not empty, in one line, with who holds what; nothing if it is."""
    if end.state == "up":
        return "somebody has undrained it"
    if not end.allocated:
        return ""
    listed = client.authorizations(server=end.name).authorizations
    seats = Counter[str]()
    for line in listed:
        seats[line.feature] += line.count
    users = dict.fromkeys(f"{line.client.user}@{line.client.host}" for line in listed)
    who = ", ".join(list(users)[:_NAMED_HOLDERS]) + (", ..." if len(users) > _NAMED_HOLDERS else "")
    what = ", ".join(f"{count} of {feature}" for feature, count in sorted(seats.items()))
    return printable(f"{what} held by {who}" if listed else f"{end.allocated} seats to go")


def _state(seen: PoolView, name: str) -> str:
    """A server's state, as far as the one that was asked can know it."""
    if seen.server == name:
        return seen.state if seen.state == "removed" else "removing"
    if seen.leader is None:
        return "removing"
    return next((s.state for s in seen.servers if s.name == name), "removed")


def _with_token(pool: Pool, directory: Path) -> Pool:
    """The pool with the administrators' token of its directory, unless one was given."""
    path = directory / "admin.token"
    if pool.token is not None or not path.exists():
        return pool
    try:
        with path.open("rb") as stream:
            token = stream.read(MAX_TOKEN_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as fault:
        raise click.UsageError(f"{path}: {fault}") from None
    return replace(pool, token=token or None)


def _advice(directory: Path, planned: PlannedServer) -> Iterator[str]:
    """What to copy where, and what to do next."""
    config = f"{planned.name}.yaml"
    yield ""
    if is_loopback(planned.host):
        config = str(directory / config)
    else:
        own = " ".join(f"{planned.name}.{kind}" for kind in ("yaml", "crt", "key"))
        yield f"Copy to {planned.host}, into one directory there, keeping the modes:"
        yield f"  {own} ca.crt admin.token client.token vendor.pub"
        yield ""
    yield "Next:"
    yield f"  1. on {planned.host}: licraft run --config {config}"
    yield f"  2. `licraft servers` shows {planned.name} as `joining` until it has caught up"
    yield f"  3. add {planned.name} to `servers` in the configurations of the others, for the day"
    yield "     on which one of them has to find the pool without having seen this change"
