"""`licraft distribution`, `allocations`, `borrowing`: how a feature's seats are shared out.

May import click, `cli.common`, the client and `wire`.
"""

from __future__ import annotations

from collections.abc import Callable

import click

from licraft.cli.common import Pool, pool_options, print_json, print_table
from licraft.cli.common import criteria as well_formed
from licraft.wire import MAX_COUNT, AllocationView, FeatureView

DEFAULT = "default"
_SWITCH: dict[str, bool | str] = {"on": True, "off": False, DEFAULT: DEFAULT}


Limit = float | int | str | None


def _limit(
    kind: type[int] | type[float], fits: Callable[[float], bool], expected: str
) -> Callable[[click.Context, click.Parameter, str | None], Limit]:
    """What reads a number, or `default` as it is: None is an option that was not given."""

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> Limit:
        if value is None or value == DEFAULT:
            return value
        try:
            number = kind(value)
        except ValueError:
            number = -1
        if not fits(number):
            raise click.BadParameter(f"{value!r}: expected {expected}, or {DEFAULT}")
        return number

    return read


_threshold = _limit(float, lambda part: 0 < part <= 1, "a part over 0 and up to 1, as in 0.8")
_seats = _limit(int, lambda seats: 0 <= seats <= MAX_COUNT, f"0 to {MAX_COUNT} seats")


@click.group()
def distribution() -> None:
    """How a feature's seats are shared out."""


@distribution.command(short_help="Show where seats are, and how far a change is.")
@click.argument("feature", metavar="FEATURE")
@pool_options
def show(pool: Pool, feature: str) -> None:
    """Show where the seats of FEATURE are, and how far a change of distribution is.

    \b
    licraft distribution show cad
    """
    with pool.client() as client:
        found = client.feature(feature)
    if pool.as_json:
        print_json(found)
        return
    print_table(
        ("SERVER", "TARGET", "ALLOCATED", "IN USE", "TO GIVE", "FLOOR", "CAP"),
        [
            (name, part.target, part.allocated, part.in_use, _to_give(part), part.floor, part.cap)
            for name, part in found.servers.items()
        ],
    )
    click.echo(f"free pool: {found.free} of {found.deployed} deployed seats")
    click.echo(_progress(found))


@distribution.command("set", short_help="Share seats out by criteria (administrator).")
@click.argument("feature", metavar="FEATURE")
@click.argument("criteria", metavar="CRITERIA", callback=well_formed)
@pool_options
def set_(pool: Pool, feature: str, criteria: str) -> None:
    """Share the seats of FEATURE out by CRITERIA, as in alpha:10^beta:20 (administrator).

    Seats that nobody holds move at once, the others as they are checked in; what is not
    named goes to the free pool. `none` takes the criteria back: seats stay where they are.
    Exit status 1 if there are not so many seats.

    \b
    licraft distribution set cad alpha:10^beta:20
    """
    with pool.client() as client:
        changed = client.distribute(feature, None if criteria == "none" else criteria)
    _told(pool, changed, _progress(changed))


@click.group()
def allocations() -> None:
    """How many licensed seats are deployed."""


@allocations.command(
    short_help="Deploy more seats, or retire some (administrator).",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("feature", metavar="FEATURE")
@click.argument("count", metavar="COUNT", type=int)
@click.option("--to", metavar="SERVER", help="Whose seats; default: the free pool's, or anybody's.")
@pool_options
def add(pool: Pool, feature: str, count: int, to: str | None) -> None:
    """Deploy COUNT more seats of FEATURE, or with a negative COUNT retire some (administrator).

    Seats retire when nobody holds them. Exit status 1 if the license does not entitle to so
    many, or if there are not so many to retire.

    \b
    licraft allocations add cad 5 --to beta
    licraft allocations add cad -5
    """
    with pool.client() as client:
        changed = client.add_allocations(feature, count, to)
    over = changed.over + sum(part.retiring for part in changed.servers.values())
    line = f"{changed.deployed} of {changed.entitled} seats are deployed"
    _told(pool, changed, line + (f", over by {over}, falling" if over else ""))


@click.group()
def borrowing() -> None:
    """When seats move between servers.

    They do so by themselves, to where they are needed. `licraft features FEATURE` shows
    what bounds it.
    """


@borrowing.command("set", short_help="Bound borrowing of a feature (administrator).")
@click.argument("feature", metavar="FEATURE")
@click.option(
    "--on/--off", "enabled", default=None, help="Whether seats move by themselves; default: on."
)
@click.option(
    "--borrowing",
    "word",
    type=click.Choice(["on", "off", DEFAULT]),
    help="The same in a word; a server's default is what counts for all.",
)
@click.option(
    "--threshold",
    metavar="PART|default",
    callback=_threshold,
    help="The part of its seats in use above which a server borrows, as in 0.8.",
)
@click.option(
    "--floor",
    metavar="SEATS|default",
    callback=_seats,
    help="Seats that borrowing leaves a server.",
)
@click.option(
    "--cap",
    metavar="SEATS|default",
    callback=_seats,
    help="Seats over which borrowing brings a server none.",
)
@click.option("--only", metavar="SERVER", help="At this server only; default: at every server.")
@pool_options
def bound(
    pool: Pool,
    feature: str,
    enabled: bool | None,
    word: str | None,
    threshold: Limit,
    floor: Limit,
    cap: Limit,
    only: str | None,
) -> None:
    """Bound borrowing of FEATURE (administrator); what is not given stays as it is.

    A server's own limits come before those for all. Without any, the threshold is the
    license code's, else the one in each server's configuration.

    \b
    licraft borrowing set cad --threshold 0.7
    licraft borrowing set cad --only beta --floor 10 --cap 40
    licraft borrowing set cad --only beta --floor default --borrowing default
    """
    if word is not None and enabled is not None:
        raise click.UsageError("--borrowing and --on/--off say the same: give one of them")
    switch = _SWITCH[word] if word else enabled
    given = {"enabled": switch, "threshold": threshold, "floor": floor, "cap": cap}
    limits = {n: None if v == DEFAULT else v for n, v in given.items() if v is not None}
    if not limits:
        raise click.UsageError("give --on, --off, --borrowing, --threshold, --floor or --cap")
    with pool.client() as client:
        # click has seen to the types of what is given.
        changed = client.set_borrowing(feature, only, **limits)  # type: ignore[arg-type]
    _told(pool, changed, _bounds(changed, only))


def _told(pool: Pool, changed: FeatureView, line: str) -> None:
    if pool.as_json:
        print_json(changed)
    else:
        click.echo(f"{changed.feature}: {line}")


def _to_give(part: AllocationView) -> int:
    return part.to_give + part.retiring


def _held(part: AllocationView) -> int:
    """How many of the seats that a server is to give up somebody holds."""
    return max(0, part.to_give - max(0, part.allocated - part.in_use))


def _progress(found: FeatureView) -> str:
    """How far a distribution is, in one line."""
    if all(part.target is None for part in found.servers.values()):
        return "no distribution criteria: seats are where they were deployed or borrowed"
    if found.to_give:
        held = sum(_held(part) for part in found.servers.values())
        parts = [f"{found.to_give - held} seats are on their way"] if held < found.to_give else []
        parts += [f"{held} seats are in use and move as they are checked in"] if held else []
        return ", ".join(parts)
    wanted = sum(part.target or 0 for part in found.servers.values())
    if wanted > found.deployed:
        return f"done, as far as it can be: it is for {wanted} seats, {found.deployed} are deployed"
    if found.missing:
        return f"done; {found.missing} seats of the targets are with other servers by now"
    return "done: every server has its seats"


def _bounds(changed: FeatureView, only: str | None) -> str:
    """The limits that count now, in one line."""
    limits = changed.servers[only] if only is not None else changed.borrowing
    enabled = limits.borrowing if isinstance(limits, AllocationView) else limits.enabled
    parts = [f"borrowing {'on' if enabled else 'off'}" + (f" at {only}" if only else "")]
    for name in ("threshold", "floor", "cap"):
        value = getattr(limits, name)
        if value is not None:
            parts.append(f"{name} {value:g}")
    return ", ".join(parts)
