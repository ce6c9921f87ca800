"""`licraft server`: servers join the pool and leave it while it runs.

May import click, `cli.common`, `pool_files`, `wire` and `errors`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click

from licraft.cli.common import Pool, pool_options, print_json, say
from licraft.config_file import is_loopback
from licraft.errors import PoolUnavailable
from licraft.pool_files import Address, PlannedServer, parse_server, write_joining
from licraft.wire import PoolView, ServerAnswer

_LOOK_S = 0.5
MAX_TOKEN_BYTES = 4096


@click.group()
def server() -> None:
    """Add servers to the pool, and remove them."""


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
