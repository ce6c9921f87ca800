"""`licraft leader`: who leads the pool.

May import click and `cli.common`.
"""

from __future__ import annotations

import click

from licraft.cli.common import Pool, pool_options, print_json


@click.group()
def leader() -> None:
    """Who leads the pool."""


@leader.command()
@click.argument("name", metavar="NAME")
@pool_options
def transfer(pool: Pool, name: str) -> None:
    """Hand leadership to the server NAME (administrator).

    It leads until it goes down; then the servers' order of leader priority counts
    again. Exit status 3 if it does not lead in the end.

    \b
    licraft leader transfer beta
    """
    with pool.client() as client:
        answer = client.lead(name)
    if pool.as_json:
        print_json(answer)
    else:
        click.echo(f"{answer.leader} leads, in term {answer.term}")
