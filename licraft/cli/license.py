"""`licraft license`: show, verify, install and compare the redundant license file; add codes.

May import click, `cli.common`, `errors` and, inside functions, the vendor room and `core`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from licraft.cli.common import (
    Pool,
    criteria,
    named,
    naming,
    pool_options,
    print_json,
    print_table,
    printable,
    read_license,
    read_text,
    say,
)
from licraft.errors import LicenseError

if TYPE_CHECKING:
    from licraft.core.license import LicenseCode, LicenseFile

_COLUMNS = ("ID", "FEATURE", "VERSION", "COUNT", "STARTS", "EXPIRES", "POOL", "VENDOR", "STATUS")
_SPARE = ("VENDOR", "VERSION", "STARTS", "POOL")


@click.group("license")
def license_() -> None:
    """Install and check license files, add codes.

    The pool has one license file: it lists the codes that were bought, and every server
    keeps a copy.
    """


@license_.command()
@click.option("--text", "as_text", is_flag=True, help="Print the file itself.")
@click.option("--feature", metavar="FEATURE", help="Only the codes of this feature.")
@pool_options
def show(pool: Pool, as_text: bool, feature: str | None) -> None:
    """What the pool has installed.

    STATUS says of each code whether its seats count: valid; or not_started, expired,
    other_pool, bad_signature; or superseded, by a code of a newer version.

    \b
    licraft license show
    licraft license show --feature cad
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
        click.echo(f"license file number {found.sequence}, codes: {len(found.codes)}")
        for conflict in found.conflicts:
            click.echo(
                f"! server {printable(conflict.server)} was given another file of this number:"
                " `licraft license diff`"
            )
        click.echo()
        print_table(
            _COLUMNS,
            [
                [getattr(code, column.lower()) for column in _COLUMNS]
                for code in found.codes
                if feature in (None, code.feature)
            ],
            _SPARE,
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
@click.option("--pool-key", metavar="KEY", help="That pool's key, by `licraft pool request`.")
@click.option("--json", "as_json", is_flag=True, help="JSON for scripts.")
def verify(
    file: str,
    keys: tuple[Path, ...],
    pool_name: str | None,
    pool_key: str | None,
    as_json: bool,
) -> None:
    """Check a license file without a server.

    Needs the vendor's public key, which the vendor publishes or sends along. Exit status 4
    if a pool would refuse the file. Codes that would be installed and
    grant nothing (expired, not started, of another pool) are listed as such.

    \b
    licraft license verify acme.lic --key vendor.pub --pool acme
    """
    from licraft.core.license import code_statuses
    from licraft.vendor.keys import load_public_key
    from licraft.vendor.license_file import parse_license_file, read_license_file

    try:
        trusted = [load_public_key(path) for path in keys]
    except LicenseError as fault:
        raise click.UsageError(str(fault)) from None
    text = read_license(file)
    with naming(file):
        name = pool_name if pool_name is not None else parse_license_file(text, trusted).pool
        read = read_license_file(text, trusted, name or "")
    statuses = code_statuses(read, name or "", datetime.now(UTC).date(), pool_key)
    rows = [
        (c.id, c.feature, c.version, c.count, c.starts, c.expires, c.pool, c.vendor, status.value)
        for c, status in zip(read.codes, statuses, strict=True)
    ]
    if as_json:
        names = [column.lower() for column in _COLUMNS]
        codes = [dict(zip(names, row, strict=True)) for row in rows]
        print_json({"pool": read.pool, "sequence": read.sequence, "codes": codes})
        return
    click.echo(f"{named(file)}: good, number {read.sequence}, for pool {read.pool or 'any'}")
    click.echo()
    print_table(_COLUMNS, rows, _SPARE)


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
    text = read_license(file)
    with pool.client() as client, naming(file):
        installed = client.install_license(text)
    if pool.as_json:
        print_json(installed)
    else:
        click.echo(f"license file number {installed.sequence} is installed on the pool")


@license_.command("add-code")
@click.argument("code", metavar="CODE")
@click.option(
    "--distribution",
    metavar="D",
    callback=criteria,
    help="Where its seats go, as in alpha:10^beta:5; else they are split evenly.",
)
@click.option(
    "--threshold",
    metavar="Q",
    type=click.FloatRange(0, 1, min_open=True),
    help="The feature's borrowing threshold.",
)
@pool_options
def add_code(pool: Pool, code: str, distribution: str | None, threshold: float | None) -> None:
    """Add one license code to the pool's license file (administrator).

    The file's number goes up by one. Adding a code again changes nothing. CODE may
    be `-` for standard input; line breaks and spaces that mail added do no harm.

    \b
    licraft license add-code LIC1.eyJ... --distribution alpha:10^beta:5
    licraft license add-code - < mail.txt
    """
    text = read_text(code, _MAX_PASTED_BYTES) if code == "-" else code
    with pool.client() as client:
        installed = client.add_code(text.strip(), distribution, threshold)
    if pool.as_json:
        print_json(installed)
    else:
        click.echo(f"the code is in license file number {installed.sequence} of the pool")


@license_.command()
@click.argument("files", metavar="[FILE [FILE]]", nargs=-1)
@pool_options
def diff(pool: Pool, files: tuple[str, ...]) -> None:
    """How two license files differ: the codes that only one of them has.

    Without FILE: the pool's, and that of every server that was given another file of
    the same number. With one FILE: the pool's and FILE. With two: these.

    \b
    licraft license diff
    licraft license diff acme.lic
    licraft license diff old.lic new.lic
    """
    if len(files) > 2:
        raise click.UsageError("two files at most")
    read = [(named(name), _parsed(name)) for name in files]
    if len(read) == 2:
        pairs = [(read[0], read[1])]
    else:
        ours, others = _installed(pool, with_refused=not read)
        pairs = [(ours, other) for other in read or others]
    shown = [_difference(*left, *right) for left, right in pairs]
    if pool.as_json:
        print_json({"differences": shown})
        return
    if not pairs:
        click.echo("no server was given a license file that contradicts the pool's")
    columns = [column for column in _DIFFERENCE if column != "code"]
    headings = [column.upper().replace("_", " ") for column in columns]
    for pair, rows in zip(pairs, shown, strict=True):
        for name, file in pair:
            count = f"{len(file.codes)} codes, for pool {file.pool or 'any'}"
            click.echo(f"{printable(name)}: number {file.sequence}, {count}, {file.sha256[:12]}")
        if rows:
            click.echo()
            rows_shown = [[row[column] for column in columns] for row in rows]
            print_table(headings, rows_shown, ("STARTS", "POOL", "VERSION", "THRESHOLD"))
        else:
            click.echo("the codes are the same")


_MAX_PASTED_BYTES = 64 * 1024
_DIFFERENCE = (
    "only_in",
    "id",
    "feature",
    "version",
    "count",
    "starts",
    "expires",
    "pool",
    "distribution",
    "threshold",
    "code",
)


def _parsed(file: str) -> LicenseFile:
    from licraft.vendor.license_file import parse_license_file

    text = read_license(file)
    with naming(file):
        return parse_license_file(text, ())


def _installed(
    pool: Pool, *, with_refused: bool
) -> tuple[tuple[str, LicenseFile], list[tuple[str, LicenseFile]]]:
    """The pool's file and those that contradict it, each with a name; from their own servers."""
    from licraft.core.license import NO_LICENSE
    from licraft.vendor.license_file import parse_license_file

    with pool.client() as client:
        found = client.license()
        urls = {server.name: server.url for server in client.pool().servers}
    ours = parse_license_file(found.text, ()) if found.sequence else NO_LICENSE
    others = []
    for conflict in found.conflicts if with_refused else ():
        with replace(pool, urls=(urls[conflict.server],)).client() as client:
            refused = client.license().refused
        if refused is None:
            say(f"{conflict.server} does not answer: its license file is not known here")
            continue
        name = f"{conflict.server}: {refused.source}"
        others.append((name, parse_license_file(refused.text, ())))
    return ("the pool's", ours), others


def _difference(
    name: str, file: LicenseFile, other_name: str, other: LicenseFile
) -> list[dict[str, object]]:
    """A row for each code that one of them lacks, or has with another distribution."""
    rows = [*_lacking(name, file, other), *_lacking(other_name, other, file)]
    return sorted(rows, key=lambda row: (str(row["feature"]), str(row["id"])))


def _lacking(name: str, file: LicenseFile, other: LicenseFile) -> Iterable[dict[str, object]]:
    from licraft.core.distribution import format_distribution

    def terms(code: LicenseCode) -> tuple[object, ...]:
        return code.code, code.distribution, code.threshold

    has = {terms(code) for code in other.codes}
    for code in file.codes:
        if terms(code) not in has:
            row = {key: getattr(code, key) for key in _DIFFERENCE[1:]}
            shares = format_distribution(code.distribution) if code.distribution else None
            yield {"only_in": name} | row | {"distribution": shares}
