"""`licraft status`, `features`, `servers`, `authorizations`: what the pool says of itself.

May import click, `cli.common`, msgspec and `wire`. Shows; decides nothing.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import click
import msgspec

from licraft.cli.common import Pool, pool_options, print_json, print_table, printable, say
from licraft.wire import FeatureList, FeatureView, PoolView, ServerView

_MOST_FEATURES = 20
"""`status` shows no more, those first that have something to tell."""


@click.command()
@pool_options
def status(pool: Pool) -> None:
    """The pool at a glance.

    Leader, servers, license, features and trouble, as the first server that
    answers sees them.

    \b
    licraft status
    licraft status --server http://alpha:7700 --json
    """
    with pool.client() as client:
        seen = client.pool()
        features = client.features()
    troubles = trouble(seen)
    if pool.as_json:
        print_json({**msgspec.structs.asdict(seen), "features": features, "trouble": troubles})
        return
    number = seen.license.sequence or "none"
    click.echo(
        f"pool {printable(seen.pool)}   leader {printable(seen.leader or 'none')}"
        f"   license {number}   seen by {printable(seen.server)} ({printable(seen.state)})"
    )
    for line in troubles:
        click.echo(f"! {printable(line)}")
    click.echo()
    print_table(
        ("SERVER", "ROLE", "STATE", "IN USE", "ALLOCATED", "URL"),
        [(s.name, s.role, s.state, s.in_use, s.allocated, s.url) for s in seen.servers],
        ("ROLE", "ALLOCATED"),
    )
    if features:
        shown = features
        if len(features) > _MOST_FEATURES:
            by_news = sorted(features, key=lambda f: (not f.warning, -f.waiting, -f.in_use))
            shown = by_news[:_MOST_FEATURES]
        click.echo()
        print_table(
            ("FEATURE", "IN USE", "DEPLOYED", "FREE", "WAITING", "EXPIRES", "STATUS"),
            [
                (f.feature, f.in_use, f.deployed, f.free, f.waiting, f.expires, _standing(f))
                for f in shown
            ],
            ("WAITING", "FREE"),
        )
        if len(shown) < len(features):
            rest = len(features) - len(shown)
            click.echo(f"and {rest} more features: `licraft features [--match PATTERN]`")


def _standing(feature: FeatureView) -> str:
    """A feature's status in a few words, with what an administrator should know beside it."""
    if feature.over:
        return f"{feature.status}, over by {feature.over}, falling"
    if feature.status == "valid" and feature.warning and feature.expires_in_days is not None:
        return f"{feature.status}, {feature.expires_in_days} days left"
    return feature.status


def trouble(pool: PoolView) -> list[str]:
    """What an administrator should look at: what the server says, and what its figures say."""
    found = list(pool.trouble)
    if pool.leader is None:
        found.append("no leader: seats cannot move between servers until one is elected")
    for server in pool.servers:
        about = f"server {server.name} is "
        if server.state != "up" and not any(line.startswith(about) for line in found):
            found.append(about + server.state)
    return found


@click.command()
@click.argument("feature", required=False)
@click.option(
    "--match", metavar="PATTERN", help="Only features whose name fits, as in 'cad*' (in quotes)."
)
@click.option(
    "--trouble",
    "troubled",
    is_flag=True,
    help="Only those with a warning, or for which somebody waits.",
)
@pool_options
def features(pool: Pool, feature: str | None, match: str | None, troubled: bool) -> None:
    """What is licensed, in use and free.

    With FEATURE, how its seats are distributed over the servers.

    \b
    licraft features
    licraft features --match 'cad*' --trouble
    licraft features cad
    """
    if feature is not None and (match is not None or troubled):
        raise click.UsageError("FEATURE is one feature: --match and --trouble choose among all")
    with pool.client() as client:
        if feature is not None:
            _one_feature(pool, client.feature(feature))
            return
        everything = client.features()
    found = [
        f
        for f in everything
        if (match is None or fnmatchcase(f.feature, match))
        and (not troubled or f.warning or f.waiting or f.status != "valid")
    ]
    if pool.as_json:
        print_json(FeatureList(found))
        return
    print_table(
        (
            "FEATURE",
            "VERSION",
            "IN USE",
            "DEPLOYED",
            "ENTITLED",
            "FREE",
            "COMMUTERS",
            "WAITING",
            "DENIED",
            "EXPIRES",
            "STATUS",
        ),
        [
            (
                f.feature,
                f.version,
                f.in_use,
                f.deployed,
                f.entitled,
                f.free,
                f.commuters,
                f.waiting,
                f.denied,
                f.expires,
                _standing(f),
            )
            for f in found
        ],
        ("COMMUTERS", "VERSION", "DENIED", "ENTITLED", "WAITING", "FREE"),
    )
    if len(found) < len(everything):
        say(f"{len(found)} of {len(everything)} features")


def _one_feature(pool: Pool, found: FeatureView) -> None:
    if pool.as_json:
        print_json(found)
        return
    borrowing = "on" if found.borrowing.enabled else "off"
    held = f", {found.retired} retired" if found.retired else ""
    facts = (
        ("feature", found.feature),
        ("version", found.version or "any"),
        ("license", f"{found.status}, from {found.starts or 'ever'} to {found.expires or 'ever'}"),
        (
            "seats",
            f"{found.in_use} in use of {found.deployed} deployed ({found.entitled} entitled{held});"
            f" free pool {found.free}, commuters {found.commuters}",
        ),
        ("demand", f"{found.waiting} waiting, {found.denied} denied"),
        ("borrowing", f"{borrowing}, {found.borrowing.pending} pending"),
    )
    for name, fact in facts:
        click.echo(f"{name:<10} {printable(fact)}")
    if found.warning:
        click.echo(f"! {printable(found.warning)}")
    click.echo()
    print_table(
        ("SERVER", "IN USE", "ALLOCATED", "TARGET", "BORROWS", "THRESHOLD", "FLOOR", "CAP"),
        [
            (
                name,
                share.in_use,
                share.allocated,
                share.target,
                "yes" if share.borrowing else "no",
                share.threshold,
                share.floor,
                share.cap,
            )
            for name, share in found.servers.items()
        ],
    )


@click.command()
@pool_options
def servers(pool: Pool) -> None:
    """The pool's license servers.

    In the order in which clients try them.

    \b
    licraft servers
    """
    with pool.client() as client:
        seen = client.pool()
    if pool.as_json:
        print_json({"priority": seen.priority, "servers": seen.servers})
        return
    rank = {name: i for i, name in enumerate(seen.priority)}
    print_table(
        ("SERVER", "ROLE", "STATE", "IN USE", "ALLOCATED", "LEASE", "INCARNATION", "URL"),
        [
            (s.name, s.role, s.state, s.in_use, s.allocated, _lease(s), s.incarnation, s.url)
            for s in sorted(seen.servers, key=lambda s: rank.get(s.name, len(rank)))
        ],
        ("INCARNATION", "LEASE"),
    )


def _lease(server: ServerView) -> str | None:
    """How long the server that was asked may still grant; others do not tell."""
    return None if server.lease_remaining is None else f"{server.lease_remaining:.1f} s"


@click.command()
@click.option("--feature", metavar="FEATURE", help="Only of this feature.")
@click.option("--user", metavar="USER", help="Only of this user.")
@click.option("--server-name", "--at", "server", metavar="NAME", help="Only of this server.")
@pool_options
def authorizations(pool: Pool, feature: str | None, user: str | None, server: str | None) -> None:
    """Who holds which seats.

    \b
    licraft authorizations --feature cad
    licraft authorizations --user ann --json
    """
    with pool.client() as client:
        found = client.authorizations(feature, user, server)
    if pool.as_json:
        print_json(found)
    else:
        print_table(
            ("ID", "FEATURE", "COUNT", "USER", "HOST", "PID", "APP", "SERVER", "GRANTED", "HEARD"),
            [
                (
                    a.id,
                    a.feature,
                    a.count,
                    a.client.user,
                    a.client.host,
                    a.client.pid,
                    a.client.app,
                    a.server,
                    a.granted_at,
                    a.last_heartbeat,
                )
                for a in found.authorizations
            ],
            ("PID", "GRANTED", "APP", "HEARD"),
        )
    silent = sorted(name for name, as_of in found.as_of.items() if as_of is None)
    if silent:
        say(f"without the authorizations of {', '.join(silent)}: no report from there")
    if found.truncated:
        say("the list is cut; narrow it with --feature, --user or --at")
