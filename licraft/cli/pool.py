"""`licraft pool`: what the pool is to its software vendor.

May import click and `cli.common`.
"""

from __future__ import annotations

import click

from licraft.cli.common import Pool, pool_options, print_json, printable
from licraft.errors import PoolUnavailable


@click.group()
def pool() -> None:
    """What the software vendor needs to know of the pool."""


@pool.command()
@pool_options
def request(pool: Pool) -> None:
    """Print what the vendor needs to bind licenses to this pool.

    Codes that are bound to its key count in this pool alone, and programs can have its
    servers prove that they belong to it. Nothing in it is secret: mail it.

    \b
    licraft pool request --server http://alpha:7700 > request.txt
    """
    with pool.client() as client:
        seen = client.pool()
    if not seen.pool_key:
        raise PoolUnavailable(f"{seen.server} has not joined its pool yet: ask again in a moment")
    if pool.as_json:
        print_json({"pool": seen.pool, "pool_key": seen.pool_key})
        return
    click.echo("Request for license codes that are bound to this pool")
    click.echo(f"  pool      {printable(seen.pool)}")
    click.echo(f"  pool key  {printable(seen.pool_key)}")
    click.echo("The vendor makes each code with:")
    click.echo(
        f"  licraft vendor code --pool {printable(seen.pool)} --pool-key={printable(seen.pool_key)}"
        " --key vendor.key --feature ... --count ..."
    )
