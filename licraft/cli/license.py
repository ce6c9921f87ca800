"""`licraft license`: show, verify and install the redundant license file.

May import click, `cli.common`, `wire`, and, inside `verify`, the vendor room and `core`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from licraft.cli.common import Pool, pool_options, print_json, print_table, read_text, say
from licraft.wire import MAX_LICENSE_BYTES

_COLUMNS = ("ID", "FEATURE", "VERSION", "COUNT", "STARTS", "EXPIRES", "POOL", "VENDOR", "STATUS")


@click.group("license")
def license_() -> None:
    """The redundant license file."""


@license_.command()
@click.option("--text", "as_text", is_flag=True, help="Print the file itself.")
@pool_options
def show(pool: Pool, as_text: bool) -> None:
    """What the pool has installed.

    \b
    licraft license show
    licraft license show --text > acme.lic
    """
    with pool.client() as client:
        found = client.license()
    if pool.as_json:
        print_json(found)
    elif as_text:
        click.echo(found.text, nl=False)
    elif not found.sequence:
        say("the pool has no license file: install one with `licraft license install FILE`")
    else:
        click.echo(f"license file number {found.sequence}")
        click.echo()
        print_table(
            _COLUMNS,
            [[getattr(code, column.lower()) for column in _COLUMNS] for code in found.codes],
        )


@license_.command()
@click.argument("file", metavar="FILE")
@click.option(
    "--key",
    "keys",
    metavar="FILE",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A vendor's public key (vendor.pub); repeat for more.",
)
@click.option("--pool", "pool_name", metavar="NAME", help="The pool that is to install the file.")
@click.option("--json", "as_json", is_flag=True, help="JSON for scripts.")
def verify(file: str, keys: tuple[Path, ...], pool_name: str | None, as_json: bool) -> None:
    """Check a license file without a server.

    Exit status 4 if a pool would refuse it. Codes that would be installed and
    grant nothing (expired, not started, of another pool) are listed as such.

    \b
    licraft license verify acme.lic --key vendor.pub --pool acme
    """
    from licraft.core.license import code_statuses
    from licraft.vendor.keys import load_public_key
    from licraft.vendor.license_file import parse_license_file, read_license_file

    text = read_text(file, MAX_LICENSE_BYTES)
    trusted = [load_public_key(path) for path in keys]
    named = pool_name if pool_name is not None else parse_license_file(text, trusted).pool
    read = read_license_file(text, trusted, named or "")
    statuses = code_statuses(read, named or "", datetime.now(UTC).date())
    rows = [
        (c.id, c.feature, c.version, c.count, c.starts, c.expires, c.pool, c.vendor, status.value)
        for c, status in zip(read.codes, statuses, strict=True)
    ]
    if as_json:
        names = [column.lower() for column in _COLUMNS]
        codes = [dict(zip(names, row, strict=True)) for row in rows]
        print_json({"pool": read.pool, "sequence": read.sequence, "codes": codes})
        return
    click.echo(f"{file}: good, number {read.sequence}, for pool {read.pool or 'any'}")
    click.echo()
    print_table(_COLUMNS, rows)


@license_.command()
@click.argument("file", metavar="FILE")
@pool_options
def install(pool: Pool, file: str) -> None:
    """Install a license file on the whole pool (administrator).

    Its number must be greater than that of the file now installed. FILE may be
    `-` for standard input.

    \b
    licraft license install acme.lic --token-file admin.token
    """
    text = read_text(file, MAX_LICENSE_BYTES)
    with pool.client() as client:
        installed = client.install_license(text)
    if pool.as_json:
        print_json(installed)
    else:
        click.echo(f"license file number {installed.sequence} is installed on the pool")
