"""`licraft init`: writes the files of a new pool and says what to do with them.

May import click and `pool_files`. Starts nothing and talks to nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from licraft.config_file import MAX_SERVERS, NAME, is_loopback
from licraft.pool_files import (
    PEER_PORT_OFFSET,
    PlannedServer,
    PoolPlan,
    local_servers,
    parse_server,
    write_pool,
)

LAST_PORT = 65535 - PEER_PORT_OFFSET - MAX_SERVERS + 1


def _servers(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> tuple[PlannedServer, ...]:
    try:
        return tuple(parse_server(text) for text in texts)
    except ValueError as fault:
        raise click.BadParameter(str(fault)) from None


def _pool(context: click.Context, parameter: click.Parameter, name: str) -> str:
    if not NAME.fullmatch(name):
        raise click.BadParameter(f"{name!r} is not a name: letters, digits and . _ -, at most 64")
    return name


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--servers",
    "count",
    type=click.IntRange(1, MAX_SERVERS),
    help="This many servers, all on this machine; default: 3.",
)
@click.option(
    "--server",
    "servers",
    multiple=True,
    metavar="NAME=HOST:APIPORT:PEERPORT",
    callback=_servers,
    help="One server; repeat in leader priority order.",
)
@click.option(
    "--port",
    type=click.IntRange(1, LAST_PORT),
    default=7700,
    show_default=True,
    help=f"With --servers: the first API port; peer ports are {PEER_PORT_OFFSET} higher.",
)
@click.option("--pool", default="pool", show_default=True, callback=_pool, help="The pool's name.")
def init(
    directory: Path,
    count: int | None,
    servers: tuple[PlannedServer, ...],
    port: int,
    pool: str,
) -> None:
    """Write the configuration of a new pool.

    A file for each server, their certificates and the tokens go into DIR; what it prints
    says which to copy where.

    \b
    licraft init pool --server alpha=10.0.0.1:7700:7800 --server beta=10.0.0.2:7700:7800 \\
        --server gamma=10.0.0.3:7700:7800
    licraft init pool --servers 3
    """
    if count and servers:
        raise click.UsageError("give either --servers or --server, not both")
    if len(servers) > MAX_SERVERS:
        raise click.UsageError(
            f"{len(servers)} servers are given; a pool has at most {MAX_SERVERS}"
        )
    plan = PoolPlan(pool, servers or local_servers(count or 3, port))
    files = write_pool(directory, plan, datetime.now(UTC))
    click.echo(
        f"wrote the pool `{pool}` of {len(plan.servers)} into {directory}: {len(files)} files"
    )
    click.echo("\n".join(_advice(directory, plan)))


def _advice(directory: Path, plan: PoolPlan) -> Iterator[str]:
    """What to copy where, and the next commands."""
    away = [server for server in plan.servers if not is_loopback(server.host)]
    if away:
        yield ""
        yield "Copy to each server, into one directory there, keeping the modes:"
        for server in away:
            own = " ".join(f"{server.name}.{kind}" for kind in ("yaml", "crt", "key"))
            yield f"  {server.host}: {own} ca.crt admin.token client.token vendor.pub"
    yield ""
    yield "Keep `ca.key` to yourself: it makes certificates of this pool. No server needs it."
    yield "Programs that use licenses need `client.token`, administrators `admin.token`."
    yield ""
    yield "Next:"
    yield f"  1. put your software vendor's public key at {directory / 'vendor.pub'}"
    yield "     (vendors make theirs with `licraft vendor keygen DIR`)"
    yield "  2. on every server:"
    for server in plan.servers:
        config = directory / f"{server.name}.yaml" if server not in away else f"{server.name}.yaml"
        yield f"       licraft run --config {config}"
    url, token = plan.servers[0].api_url, directory / "admin.token"
    yield "  3. install the vendor's license file, at any server:"
    yield f"       licraft license install FILE --server {url} --token-file {token}"
