"""Distribution criteria: how the seats of a feature are shared out among servers.

May import nothing. The text form is that of the redundant license file and of the
command line: "alpha:40^beta:30". Source: claims B7, B11, B32; interfaces, "CLI".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MAX_SEATS = 1_000_000
MAX_NAMED = 64
"""More servers than any pool has: those that left may still be named."""
_MAX_NAME = 64
_MAX_DIGITS = 20


def parse_distribution(text: str) -> tuple[tuple[str, int], ...]:
    """Seats by server from "alpha:40^beta:30"; raises ValueError saying what is wrong."""
    pairs: dict[str, int] = {}
    if text.count("^") >= MAX_NAMED:
        raise ValueError(f"{text.count('^') + 1} servers are named; at most {MAX_NAMED} can be")
    for part in text.split("^"):
        name, colon, number = part.rpartition(":")
        server, seats = name.strip(), number.strip()
        if not colon or not server:
            raise ValueError(f"{_short(part.strip())} is not SERVER:SEATS, as in alpha:40^beta:30")
        if len(server) > _MAX_NAME:
            raise ValueError(
                f"{_short(server)} is no server: a name has at most {_MAX_NAME} letters"
            )
        digits = seats.isascii() and seats.isdigit() and len(seats) <= _MAX_DIGITS
        if not digits or int(seats) > MAX_SEATS:
            raise ValueError(f"{_short(seats)} seats for {server}: expected 0 to {MAX_SEATS}")
        if server in pairs:
            raise ValueError(f"server {server} is named twice")
        pairs[server] = int(seats)
    return tuple(pairs.items())


def format_distribution(pairs: Iterable[tuple[str, int]]) -> str:
    """The text that `parse_distribution` reads as these pairs."""
    return "^".join(f"{server}:{seats}" for server, seats in pairs)


def even_split(seats: int, servers: Sequence[str]) -> dict[str, int]:
    """`seats` shared out evenly; what does not divide goes one each to the first servers."""
    if not servers:
        return {}
    share, rest = divmod(seats, len(servers))
    return {server: share + (place < rest) for place, server in enumerate(servers)}


def deploy(
    seats: int, allocations: dict[str, int], target: dict[str, int] | None, servers: Sequence[str]
) -> tuple[dict[str, int], int]:
    """How `seats` new seats are shared out: (seats by server, the rest for the free pool).

    With a target each server is filled up to it, in priority order; without, all is
    split evenly over the pool's servers.
    """
    if target is None:
        if not servers:
            return {}, seats
        return even_split(seats, servers), 0
    given: dict[str, int] = {}
    for server in servers:
        lacking = max(0, target.get(server, 0) - allocations.get(server, 0))
        given[server] = min(seats, lacking)
        seats -= given[server]
    return given, seats


def _short(text: str) -> str:
    """Somebody's text in quotes, not longer than a line of an error message can show."""
    return repr(text if len(text) <= _MAX_NAME else f"{text[:_MAX_NAME]}...")
