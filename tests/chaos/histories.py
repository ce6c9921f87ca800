"""Small histories for the tests of what reads them.

May import `history`. Ten minutes of a pool of three to which nothing happens, to which a test
adds what it is about.
"""

from __future__ import annotations

from chaos.history import (
    AnyEntry,
    Audited,
    Began,
    Broken,
    Checked,
    Ended,
    Held,
    History,
    Mended,
    Seen,
    history_of,
)
from chaos.reports import NEAR

SERVERS = ["alpha", "beta", "gamma"]
LENGTH_S = 600.0


def began(at_s: float = 0.0) -> Began:
    """The begin of a run with two seats of cad."""
    return Began(
        at_s,
        "2026-11-22T12:00:00+00:00",
        "make chaos ARGS='--minutes 10 --seed 7'",
        7,
        SERVERS,
        {"cad": 2},
        100,
        1.5,
        12.0,
        LENGTH_S,
    )


def held(
    from_s: float,
    until_s: float,
    count: int = 1,
    lost: str = "",
    renewed_s: float = 0.0,
    side: str = NEAR,
) -> Held:
    """Seats of cad."""
    return Held("cad", count, side, from_s, until_s, renewed_s or from_s, "beta", lost)


def fault(
    id: int, kind: str, from_s: float, until_s: float, *hurt: str, far_cut: bool = False
) -> list[AnyEntry]:
    """A fault that hurts these servers, and is over."""
    targets = list(hurt) or ["alpha"]
    broken = Broken(from_s, id, kind, targets, list(hurt), f"{kind} of {targets}", far_cut)
    return [broken, Mended(until_s, id)]


def quiet(*entries: AnyEntry) -> History:
    """A run in which all goes well, but for these entries."""
    well: list[AnyEntry] = [Seen(1.0, name, "serving", name == "alpha") for name in SERVERS]
    busy: list[AnyEntry] = [held(float(at_s), at_s + 9.0) for at_s in range(0, int(LENGTH_S), 10)]
    ends: list[AnyEntry] = [Audited([26])]
    ends += [Checked(LENGTH_S, check, "") for check in ("table", "audit", "digests", "logs")]
    ends.append(Ended(LENGTH_S))
    return history_of([began(), *well, *busy, *entries, *ends])
