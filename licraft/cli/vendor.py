"""`licraft vendor`: what the software vendor runs to make keys, codes and license files.

May import click and the vendor room. Needs no server. Codes go to standard
output, alone, so that they can be piped; everything else goes to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path

import click

from licraft.errors import LicenseError
from licraft.vendor.codes import make_code, read_code
from licraft.vendor.keys import PRIVATE_NAME, PUBLIC_NAME, load_private_key, write_keys
from licraft.vendor.license_file import MAX_CODES, MAX_SEQUENCE, write_license_file
from licraft.wire import MAX_COUNT

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
_DAY = click.DateTime(["%Y-%m-%d"])


class _Refused(click.ClickException):
    """What was asked cannot be done: exit status 2, like every fault of usage."""

    exit_code = 2


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except LicenseError as fault:
        raise _Refused(str(fault)) from fault


@click.group()
def vendor() -> None:
    """Make vendor keys, license codes and license files (for the software vendor)."""


@vendor.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@_AS_JSON
def keygen(directory: Path, as_json: bool) -> None:
    """Write a new key pair into DIR: vendor.key (private) and vendor.pub."""
    with _refusals():
        key = write_keys(directory)
    private, public = directory / PRIVATE_NAME, directory / PUBLIC_NAME
    fingerprint = key.public.fingerprint
    if as_json:
        paths = {"private": str(private), "public": str(public)}
        click.echo(json.dumps({**paths, "fingerprint": fingerprint}))
        return
    click.echo(f"vendor key {fingerprint}")
    click.echo(
        f"  {private}  private: makes license codes; back it up, keep it off license servers"
    )
    click.echo(f"  {public}  public: every license server names it in `vendor_keys`")


def _options(context: click.Context, parameter: click.Parameter, pairs: tuple[str, ...]) -> object:
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE")
        if name in options:
            raise click.BadParameter(f"{name!r} is given twice")
        options[name] = value
    return options


def _day(context: click.Context, parameter: click.Parameter, day: datetime | None) -> date | None:
    return day.date() if day else None


@vendor.command()
@click.option("--key", "key_path", metavar="FILE", required=True, type=click.Path(path_type=Path))
@click.option("--feature", required=True, help="What the seats are for.")
@click.option("--count", required=True, type=click.IntRange(1, MAX_COUNT), help="How many seats.")
@click.option("--version", help="Covers this version and older ones; default: every version.")
@click.option("--starts", type=_DAY, callback=_day, metavar="DAY", help="First day, UTC.")
@click.option("--expires", type=_DAY, callback=_day, metavar="DAY", help="Last day, UTC.")
@click.option("--pool", help="The only pool that may use the code; default: any.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", callback=_options)
@click.option("--vendor", "vendor_name", help="The vendor's name; default: the key's fingerprint.")
@click.option("--id", "code_id", help="The code's own name; default: a random UUID.")
@_AS_JSON
def code(
    key_path: Path,
    feature: str,
    count: int,
    version: str | None,
    starts: date | None,
    expires: date | None,
    pool: str | None,
    options: dict[str, str],
    vendor_name: str | None,
    code_id: str | None,
    as_json: bool,
) -> None:
    """Print one signed license code. Days are YYYY-MM-DD, both inclusive."""
    with _refusals():
        key = load_private_key(key_path)
        text = make_code(
            key,
            feature=feature,
            count=count,
            vendor=vendor_name,
            id=code_id,
            version=version,
            starts=starts,
            expires=expires,
            pool=pool,
            options=options,
        )
        made = read_code(text, [key.public])
    click.echo(json.dumps({"code": text, "id": made.id}) if as_json else text)


@vendor.command("file")
@click.argument("codes", metavar="[CODE]...", nargs=-1)
@click.option(
    "--sequence",
    required=True,
    type=click.IntRange(1, MAX_SEQUENCE),
    help="Greater than that of the file that the pool has now.",
)
@click.option("--pool", help="The only pool that may install the file; default: any.")
def license_file(codes: tuple[str, ...], sequence: int, pool: str | None) -> None:
    """Print a license file of CODEs, given here or, one a line, on standard input."""
    texts = codes or tuple(line for line in sys.stdin.read().splitlines() if line.strip())
    if not texts:
        raise click.UsageError("no license code is given, here or on standard input")
    if len(texts) > MAX_CODES:
        raise click.UsageError(f"{len(texts)} codes are given; a file holds at most {MAX_CODES}")
    with _refusals():
        read = [read_code(text, ()) for text in texts]
        click.echo(write_license_file(pool, sequence, read), nl=False)
