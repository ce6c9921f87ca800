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
FAULTS = (
    *("isolate", "isolate", "split", "pause", "crash", "crash", "crash again", "crash all"),
    *(
        "outage",
        "cut off",
        "stop",
        "elect",
        "lag",
        "compact",
        "bad log",
        "bad network",
        "unreachable",
        "license",
    ),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one seed decides beforehand.

    `heartbeats` are the clients' pauses between heartbeats as parts of `ttl_s`. `revives`
    lets them rely again on seats whose time was over when a late answer came; `loyal` is
    the part of them that know one server only. `calm_s` is the mean time between faults,
    `faults` are their names (none for all), `records` what becomes of a record's file.
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
    heartbeats: tuple[float, ...] = (1 / 3, 1 / 3, 0.6, 0.97)
    faults: tuple[str, ...] = ()
    records: tuple[str, ...] = ("kept", "kept", "torn", "old backup", "removed")
    duration_s: float = DURATION_S


def plan(seed: int, **changes: Any) -> Plan:
    """The plan of a seed: small pools, short times, clocks as far off as is allowed.

    `changes` are fields of the plan that are to be something else.
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
        **changes,
    }
    names = NAMES[: chosen["servers"]]
    return Plan(
        seed=seed,
        thresholds={name: rng.choice((0.5, 0.8, 1.0)) for name in names},
        rates={name: clock_rate(rng, chosen["drift"]) for name in names},
        **chosen,
    )


def clock_rate(rng: random.Random, drift: float) -> float:
    """A clock's rate such that no two differ by more than `drift`."""
    widest = math.sqrt(1.0 + drift)
    return rng.choice((1.0 / widest, widest, rng.uniform(1.0 / widest, widest)))
