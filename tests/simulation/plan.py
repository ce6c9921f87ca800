"""What a simulation does, decided by its seed before it begins.

May import `pool`'s names and the standard library.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

from licraft.testing.pool import NAMES

DURATION_S = 120.0
_CUTS = ("isolate", "isolate", "split", "pause", "cut off", "unreachable")
_CRASHES = ("crash", "crash", "crash again", "crash all", "restart", "reboot", "outage")
_MOVES = ("absent", "absent", "orphan", "return", "overthrow")
_DRAINS = ("stop", "drain")
_LOG = ("elect", "lag", "compact", "bad log", "bad network")
FAULTS = (*_CUTS, *_CRASHES, *_MOVES, *_DRAINS, *_LOG, "license")
MACHINES = ("full disk", "bad disk", "wall clock", "lone license", "offline", "suspend")
"""What only a pool on Raft can suffer: there the disks are part of the simulation."""

STORMS: tuple[tuple[str, ...], ...] = (
    FAULTS,
    (*_CRASHES, *_MOVES, "compact", "elect", "bad network"),
    (*_CUTS, *_MOVES, "compact", "bad log", "lag"),
    (*_DRAINS, *_MOVES, "crash", "restart", "isolate", "bad log", "elect"),
    ("license", *_DRAINS, "absent", "crash", "outage", "bad log", "elect", "bad network"),
)
"""What goes wrong again and again in the storms: everything, or what belongs together."""

RECORDS = ("kept", "kept", "torn", "old backup", "removed")

# More clients than seats, who stay, and go to another server when they like.
FULL: dict[str, Any] = {
    "features": {"cad": 9},
    "clients": 20,
    "loyal": 0.1,
    "wanders": 0.2,
    "hedges": 0.2,
    "heartbeats": (0.2, 1 / 3, 0.6, 0.97),
    "stays": (1.0, 5.0, 10.0),
    "pauses_s": (0.5, 5.0),
}

# The same, where nothing happens but that servers go and come back, and seats move.
MOVING: dict[str, Any] = {
    **FULL,
    "faults": (*_MOVES, "absent", "outage", "compact", "elect", "bad network"),
    "calm_s": 5.0,
    "records": ("kept", "kept", "kept", "torn"),
}

# The same, where servers are emptied and stopped.
EMPTYING: dict[str, Any] = {
    **FULL,
    "faults": (*_DRAINS, *_DRAINS, "absent", "compact", "elect", "bad network"),
    "calm_s": 5.0,
    "records": ("kept", "kept", "kept", "torn"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What one seed decides beforehand.

    `heartbeats` are the clients' pauses between heartbeats and `stays` the mean times for
    which they want their seats, as parts of `ttl_s`; `pauses_s` lie between two checkouts.
    `revives` lets them rely again on seats whose time was over when a late answer came;
    `loyal` is the part of them that know one server only. Of their heartbeats `wanders` is
    the part that goes to another server though nothing is wrong, and `hedges` the part that
    goes to several at once; `naps` is the part before which they sleep past the end of
    their time, as a laptop does; one holds up to `seats` authorizations at once. `forges` and
    `reuses` are the parts of their heartbeats with a forged token, and of their checkouts with
    an old id. `calm_s` is
    the mean time between faults, `faults` are their names (none for all), `records` what
    becomes of a record's file. With `raft` the log is PySyncObj's; servers look at their clocks
    each `tick_s`. An administrator gives orders, `orders_s` apart in the mean (0: none). If the
    license `expires`, that is in the middle of the run. With `upgrades` there is a next
    release, and a pool that begins with this one. `programs` of the clients
    embed the client module itself; all begin within `begin_s` (0: within a pause), and come
    back together each `burst_s` (0: when they like).
    """

    seed: int
    servers: int
    lease_s: float
    ttl_s: float
    drift: float
    features: dict[str, int]
    clients: int
    thresholds: dict[str, float]
    rates: dict[str, float]
    revives: bool
    calm_s: float
    loyal: float = 0.3
    wanders: float = 0.05
    hedges: float = 0.05
    naps: float = 0.02
    seats: int = 3
    forges: float = 0.0
    reuses: float = 0.0
    heartbeats: tuple[float, ...] = (1 / 3, 1 / 3, 0.6, 0.97)
    stays: tuple[float, ...] = (0.1, 1.0, 3.0)
    pauses_s: tuple[float, float] = (2.0, 20.0)
    faults: tuple[str, ...] = ()
    records: tuple[str, ...] = RECORDS
    duration_s: float = DURATION_S
    raft: bool = False
    tick_s: float = 0.1
    orders_s: float = 0.0
    expires: bool = False
    upgrades: bool = False
    programs: int = 0
    burst_s: float = 0.0
    begin_s: float = 0.0


def plan(seed: int, **changes: Any) -> Plan:
    """The plan of a seed: small pools, short times, clocks as far off as is allowed.

    Three of four pools are full: seats move there, or are not to be had. `changes` are
    fields of the plan that are to be something else.
    """
    rng = random.Random(f"plan {seed}")
    lease_s = rng.choice((2.0, 3.0))
    chosen: dict[str, Any] = {
        "servers": rng.choice((1, 2, 3, 3, 3, 4, 5, 5)),
        "lease_s": lease_s,
        "ttl_s": lease_s * rng.choice((4, 4, 5)),
        "drift": rng.choice((0.01, 0.05, 0.1)),
        "features": {name: rng.randint(2, 20) for name in ("cad", "cam")[: rng.randint(1, 2)]},
        "clients": rng.randint(5, 40),
        "revives": rng.random() < 0.5,
        "calm_s": rng.choice((2.0, 5.0, 10.0)),
        **((FULL, {}, MOVING, EMPTYING)[seed % 4]),
        **changes,
    }
    names = NAMES[: chosen["servers"]]
    return Plan(
        seed=seed,
        thresholds={name: rng.choice((0.5, 0.8, 1.0)) for name in names},
        rates={name: clock_rate(rng, chosen["drift"]) for name in names},
        **chosen,
    )


def storm(seed: int) -> dict[str, Any]:
    """What to change in the plan of a seed so that one fault follows upon another."""
    rng = random.Random(f"storm {seed}")
    faults = rng.choice(STORMS)
    return {
        "servers": rng.choice((2, 3, 3, 3, 5)),
        "calm_s": rng.choice((0.5, 1.0, 2.0)),
        "faults": faults,
        "records": rng.choice((("kept",), RECORDS)),
    }


def clock_rate(rng: random.Random, drift: float) -> float:
    """A clock's rate such that no two differ by more than `drift`."""
    widest = math.sqrt(1.0 + drift)
    return rng.choice((1.0 / widest, widest, rng.uniform(1.0 / widest, widest)))
