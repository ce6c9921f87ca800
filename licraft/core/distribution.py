"""Distribution criteria: how the seats of a feature are shared out among servers.

May import nothing. The text form is that of the redundant license file and of the
command line: "alpha:40^beta:30". Source: claims B7, B11, B32; interfaces, "CLI".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MAX_SEATS = 1_000_000


def parse_distribution(text: str) -> tuple[tuple[str, int], ...]:
    """Seats by server from "alpha:40^beta:30"; raises ValueError saying what is wrong."""
    pairs: list[tuple[str, int]] = []
    for part in text.split("^"):
        name, colon, number = part.rpartition(":")
        server, seats = name.strip(), number.strip()
        if not colon or not server:
            raise ValueError(f"{part.strip()!r} is not SERVER:SEATS, as in alpha:40^beta:30")
        if not (seats.isascii() and seats.isdigit()) or int(seats) > MAX_SEATS:
            raise ValueError(f"{seats!r} seats for {server}: expected 0 to {MAX_SEATS}")
        if server in dict(pairs):
            raise ValueError(f"server {server} is named twice")
        pairs.append((server, int(seats)))
    return tuple(pairs)


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
