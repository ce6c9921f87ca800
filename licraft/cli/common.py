"""What the commands share: options that name the pool, output, errors and exit statuses.

May import click, `errors` and, inside functions, the client, msgspec and rich, so that
it costs little to import. Standard output is for results only; standard error for the rest.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

import click

from licraft.errors import (
    ClientError,
    DataError,
    Denied,
    DiskError,
    InvalidRequest,
    InvariantBroken,
    LicenseError,
    LicraftError,
    NoSeatsAvailable,
    NotAuthorized,
    PoolUnavailable,
    SettingsError,
    UnknownFeature,
)

if TYPE_CHECKING:
    from licraft.client import Client

P = ParamSpec("P")
R = TypeVar("R")

OK, DENIED, USAGE, UNAVAILABLE, BAD_LICENSE, NOT_AUTHORIZED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
STOPPED = 70  # A server that must not go on; whoever supervises it may start it again.

DEFAULT_URL = "http://127.0.0.1:7700"
MAX_TOKEN_BYTES = 4096

_STATUSES: tuple[tuple[type[BaseException], int], ...] = (
    (InvalidRequest, USAGE),
    (SettingsError, USAGE),
    (DiskError, STOPPED),
    (DataError, USAGE),
    (InvariantBroken, STOPPED),
    (PoolUnavailable, UNAVAILABLE),
    (LicenseError, BAD_LICENSE),
    (NotAuthorized, NOT_AUTHORIZED),
    (Denied, DENIED),
    (ClientError, DENIED),
    (LicraftError, DENIED),
    (click.Abort, INTERRUPTED),
    (KeyboardInterrupt, INTERRUPTED),
)

_NEXT: tuple[tuple[type[BaseException], str], ...] = (
    (NoSeatsAvailable, "`licraft authorizations` shows who holds them, --wait waits for one"),
    (UnknownFeature, "`licraft features` lists what the pool has"),
    (
        PoolUnavailable,
        "check that the servers run, or name them with --server or LICRAFT_SERVERS",
    ),
    (
        NotAuthorized,
        "give the pool's token with --token-file or LICRAFT_TOKEN (changes need the"
        " administrator's)",
    ),
)


_NO_ARGUMENTS: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""What click raises, from 8.2, to show the help of a group that was given nothing."""


def exit_status(error: BaseException) -> int | None:
    """The exit status of the contract for an error, or None if it is a fault of ours."""
    if isinstance(error, click.ClickException):
        return error.exit_code
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), None)


def message(error: BaseException) -> None:
    """Say on standard error, in one line, what happened and what to do next."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        say("interrupted")
    elif isinstance(error, _NO_ARGUMENTS):
        error.show()
    elif isinstance(error, click.UsageError):
        where = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
        say(f"{error.format_message()}{where}")
    elif isinstance(error, click.ClickException):
        say(error.format_message())
    elif isinstance(error, SettingsError):
        for line in str(error).splitlines():
            say(line)
    else:
        step = next((text for kind, text in _NEXT if isinstance(error, kind)), "")
        say(f"{error}; {step}" if step else str(error))


def say(text: str) -> None:
    """One line on standard error, for people."""
    click.echo(f"licraft: {printable(text)}", err=True)


@dataclass(frozen=True)
class Pool:
    """Which pool a command is about, and how its result is to be shown."""

    urls: tuple[str, ...]
    as_json: bool
    ca: Path | None
    token: str | None = field(default=None, repr=False)

    def client(self) -> Client:
        """A client of the pool; use it with `with`."""
        from licraft.client import Client

        return Client(self.urls, self.token, verify=self.ca)


_OPTIONS = (
    click.option(
        "--server",
        "servers",
        metavar="URL",
        multiple=True,
        help="A license server, as URL or port@host; repeat for more. Else LICRAFT_SERVERS,"
        f" else {DEFAULT_URL}.",
    ),
    click.option("--token", metavar="TOKEN", help="Access token; better LICRAFT_TOKEN or a file."),
    click.option(
        "--token-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File that holds the access token.",
    ),
    click.option(
        "--ca",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="Certificate authorities (PEM) to check https servers with.",
    ),
    click.option("--json", "as_json", is_flag=True, help="JSON for scripts."),
)


def pool_options(command: Callable[Concatenate[Pool, P], R]) -> Callable[..., R]:
    """Give a command the options that name the pool; it gets a `Pool` first."""

    @functools.wraps(command)
    def with_pool(
        *args: Any,
        servers: tuple[str, ...],
        token: str | None,
        token_file: Path | None,
        ca: Path | None,
        as_json: bool,
        **options: Any,
    ) -> R:
        pool = Pool(_urls(servers), as_json, ca, _token(token, token_file))
        return command(pool, *args, **options)

    wrapped: Callable[..., R] = with_pool
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def _urls(servers: tuple[str, ...]) -> tuple[str, ...]:
    from licraft.client import server_urls

    return server_urls(",".join(servers) or os.environ.get("LICRAFT_SERVERS", "") or DEFAULT_URL)


def _token(token: str | None, file: Path | None) -> str | None:
    """The access token of the options, or else of LICRAFT_TOKEN."""
    if token is not None and file is not None:
        raise click.UsageError("--token and --token-file: give one of them")
    if file is not None:
        try:
            with file.open("rb") as stream:
                token = stream.read(MAX_TOKEN_BYTES).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--token-file {file}: {error}") from None
        if not token:
            raise click.UsageError(f"--token-file {file}: the file is empty")
    return token or os.environ.get("LICRAFT_TOKEN", "").strip() or None


def read_bytes(path: str, limit: int) -> bytes:
    """The first `limit` bytes of a file, `-` for standard input; a usage error if there is none."""
    try:
        with click.open_file(path, "rb") as stream:
            data: bytes = stream.read(limit)
    except OSError as error:
        raise click.UsageError(f"{named(path)}: {error.strerror or error}") from None
    return data


def read_text(path: str, limit: int) -> str:
    """The text of a file, `-` for standard input; a usage error says what is wrong with it."""
    data = read_bytes(path, limit + 1)
    if len(data) > limit:
        raise click.UsageError(f"{named(path)}: larger than {limit} bytes")
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{named(path)}: {error}") from None


def read_license(path: str) -> str:
    """The text of a license file, `-` for standard input; LicenseError if it cannot be one."""
    from licraft.vendor.license_file import decode_license_file
    from licraft.wire import MAX_LICENSE_BYTES

    data = read_bytes(path, MAX_LICENSE_BYTES + 1)
    with naming(path):
        return decode_license_file(data)


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Have what is wrong with a license file tell which file it is."""
    try:
        yield
    except LicenseError as fault:
        raise LicenseError(f"{named(path)}: {fault}", fault.code) from None


def named(path: str) -> str:
    """What people call a file that `-` may stand for."""
    return "standard input" if path == "-" else path


def criteria(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Distribution criteria as they were given; a usage error for the likeliest mistake."""
    if value is not None and any(mark in value for mark in ", ;="):
        raise click.BadParameter(f"{value!r}: expected SERVER:SEATS^SERVER:SEATS, without spaces")
    return value


def print_json(value: object) -> None:
    """Print a wire value, or a dict of them, as JSON."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def printable(text: str) -> str:
    """Text without control characters: users, hosts and details come from elsewhere."""
    return "".join(c if c.isprintable() else " " for c in text)


_COLOURS = {
    **dict.fromkeys(("up", "valid", "serving", "leader"), "green"),
    **dict.fromkeys(("down", "no_quorum", "expired", "bad_signature", "other_pool"), "red"),
    **dict.fromkeys(("draining", "recovering", "starting", "not_started", "new"), "yellow"),
}


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], spare: Sequence[str] = ()
) -> None:
    """Print rows under headings: in colour on a terminal, plain and never cut elsewhere.

    A terminal that is too narrow gets it without the columns in `spare`, the first of them
    first, and is told so.
    """
    cells = list(rows)
    numeric = [_numeric([row[i] for row in cells]) for i in range(len(columns))]
    texts = [["-" if v is None else printable(str(v)) for v in row] for row in cells]
    if sys.stdout.isatty():
        _rich_table(columns, texts, numeric, spare)
        return
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    for row in [list(columns), *texts]:
        line = "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        )
        click.echo(line.rstrip())


def _numeric(values: Sequence[object]) -> bool:
    """Whether a column is one of numbers, some of which may be missing."""
    known = [value for value in values if value is not None]
    return all(isinstance(value, int | float) for value in known) and bool(known or not values)


_FOLDED = 16
"""Text longer than this may be folded; numbers, days and states never are."""


def _rich_table(
    columns: Sequence[str], rows: list[list[str]], numeric: list[bool], spare: Sequence[str]
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    widths = [
        max(map(len, column)) if right else min(_FOLDED, max(map(len, column)))
        for right, *column in zip(numeric, columns, *rows, strict=True)
    ]
    shown = list(range(len(columns)))
    left_out = []
    for name in spare:
        if sum(widths[i] + 2 for i in shown) - 2 <= console.width:
            break
        shown.remove(columns.index(name))
        left_out.append(name)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for i in shown:
        right = numeric[i]
        justify: Literal["left", "right"] = "right" if right else "left"
        table.add_column(columns[i], justify=justify, overflow="fold", no_wrap=right)
    for row in rows:
        table.add_row(*(Text(row[i], style=_COLOURS.get(row[i], "")) for i in shown))
    console.print(table)
    if left_out:
        say(f"too narrow a terminal for {', '.join(left_out)}: widen it, or pipe to `less -S`")
