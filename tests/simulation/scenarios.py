"""What a pool of a simulation is like, by name: its size, its users' habits, its misfortunes.

May import `plan`. `--scenario NAME` of `python -m tests.simulation` chooses one; without it
each seed takes one by chance.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from simulation.plan import EMPTYING, FAULTS, FULL, MACHINES, MOVING, Plan, plan, storm

Changes = Mapping[str, Any]

DAY_S = 900.0
"""How long faults go on in a run, in virtual seconds."""

SHORT_S, PART_S, HOUR_S = 120.0, 400.0, 3600.0

QUICK: Changes = {"lease_s": 3.0, "ttl_s": 12.0}
TIMES_S = ((3.0, 12.0), (3.0, 30.0), (3.0, 60.0), (10.0, 40.0), (10.0, 60.0))
"""Leases and `ttl`s, the default among them."""


def office(rng: random.Random) -> Changes:
    """Everyone comes within ten minutes and stays."""
    clients = rng.randint(30, 120)
    return {
        "clients": clients,
        "features": {"cad": clients * 2 // 3, "cam": clients // 3},
        "seats": 2,
        "begin_s": 600.0,
        "stays": (10.0, 60.0),
        "pauses_s": (60.0, 600.0),
        "loyal": 0.1,
    }


def bursts(rng: random.Random) -> Changes:
    """Batch jobs: hundreds at once, and gone."""
    clients = rng.choice((100, 200, 500))
    return {
        "clients": clients,
        "features": {"solver": clients * rng.choice((1, 2)) // 2},
        "seats": 1,
        "burst_s": rng.choice((120.0, 300.0)),
        "stays": (0.3, 1.0),
        "loyal": 0.0,
        "duration_s": PART_S,
    }


def trickle(rng: random.Random) -> Changes:
    """A few at a time, all day."""
    return {
        "clients": rng.randint(5, 50),
        "features": {"cad": rng.randint(5, 40), "cam": rng.randint(2, 20)},
        "seats": 2,
        "stays": (0.5, 2.0, 10.0),
        "pauses_s": (30.0, 300.0),
    }


def night(rng: random.Random) -> Changes:
    """Hours in which little happens, and that little must not be left behind."""
    clients = rng.randint(10, 50)
    return {
        "lease_s": 10.0,
        "ttl_s": 60.0,
        "clients": clients,
        "features": {"cad": clients, "cam": clients},
        "seats": 1,
        "stays": (10.0, 60.0),
        "pauses_s": (300.0, 1800.0),
        "calm_s": 300.0,
        "tick_s": 0.25,
        "duration_s": 2 * HOUR_S,
    }


def full(rng: random.Random) -> Changes:
    """More users than seats: every seat is in use, and many wait."""
    return {
        "clients": rng.randint(20, 60),
        "features": {"cad": rng.randint(5, 15)},
        "stays": (0.5, 2.0, 10.0),
        "pauses_s": (5.0, 60.0),
        "loyal": 0.1,
        "duration_s": PART_S,
    }


def unruly(rng: random.Random) -> Changes:
    """Clients that are late, ask twice and everywhere, sleep, forge, and want too much."""
    return {
        **FULL,
        "clients": rng.randint(10, 40),
        "features": {"cad": rng.randint(5, 15)},
        "naps": 0.1,
        "hedges": 0.3,
        "wanders": 0.3,
        "revives": True,
        "forges": 0.1,
        "reuses": 0.1,
        "programs": 0,
        "duration_s": SHORT_S,
    }


def moving(rng: random.Random) -> Changes:
    """Servers come and go, and clients move with their seats."""
    return {**MOVING, "duration_s": SHORT_S, **QUICK}


def emptying(rng: random.Random) -> Changes:
    """Servers are drained and stopped."""
    return {**EMPTYING, "duration_s": SHORT_S, **QUICK}


def stormy(rng: random.Random) -> Changes:
    """One fault follows upon another."""
    return {**storm(rng.getrandbits(32)), **QUICK, "duration_s": SHORT_S}


def governed(rng: random.Random) -> Changes:
    """An administrator changes distribution, allocations and bounds all the time."""
    return {**trickle(rng), "orders_s": rng.choice((1.0, 5.0, 20.0)), "duration_s": PART_S}


def replacing(rng: random.Random) -> Changes:
    """Servers are replaced by new ones, again and again."""
    faults = (*FAULTS, *MACHINES, *("replace",) * 6)
    return {**trickle(rng), "servers": rng.choice((2, 3, 3, 4)), "faults": faults, **QUICK}


def upgrading(rng: random.Random) -> Changes:
    """Server after server is upgraded to the next release."""
    faults = (*FAULTS, *MACHINES, *("upgrade",) * 4)
    return {**trickle(rng), "upgrades": True, "faults": faults, "duration_s": PART_S}


def expiring(rng: random.Random) -> Changes:
    """The license ends in the middle, and no new one comes."""
    faults = tuple(f for f in (*FAULTS, *MACHINES) if "license" not in f and f != "wall clock")
    return {**trickle(rng), "expires": True, "faults": faults, "duration_s": PART_S}


def usual(rng: random.Random) -> Changes:
    """Three servers and fifty clients: what the figures of speed are measured with."""
    return {
        **trickle(rng),
        "lease_s": 3.0,
        "ttl_s": 60.0,
        "servers": 3,
        "clients": 50,
        "programs": 25,
        "features": {"cad": 40, "cam": 20},
        "calm_s": 30.0,
        "tick_s": 0.25,
    }


_MADE = (usual, office, night, bursts, trickle, full, unruly, moving, emptying)
_MADE_TOO = (stormy, governed, replacing, upgrading, expiring)
SCENARIOS: Mapping[str, Callable[[random.Random], Changes]] = {
    made.__name__: made for made in (*_MADE, *_MADE_TOO)
}
_OFTEN = ("usual", "usual", "night", "night", "night", "office", "trickle", "full")
_SELDOM = ("bursts", "unruly", "moving", "emptying", "stormy")
_TOO = ("governed", "replacing", "upgrading", "expiring")
_CHANCES = (*_OFTEN, *_SELDOM, *_TOO)


def chosen(seed: int, scenario: str = "", **changes: Any) -> tuple[str, Plan]:
    """The scenario of a seed, by name, and its plan on Raft itself."""
    rng = random.Random(f"scenario {seed}")
    name = scenario or rng.choice(_CHANCES)
    lease_s, ttl_s = rng.choice(TIMES_S)
    given: dict[str, Any] = {
        "servers": rng.choice((1, 2, 3, 3, 3, 3, 3, 4, 5, 7)),
        "lease_s": lease_s,
        "ttl_s": ttl_s,
        "drift": rng.choice((0.01, 0.01, 0.05)),
        "calm_s": rng.choice((10.0, 30.0, 60.0)),
        "duration_s": DAY_S,
        "raft": True,
        "faults": (*FAULTS, *MACHINES),
        "orders_s": rng.choice((0.0, 60.0)),
        "tick_s": rng.choice((0.1, 0.25, 0.25)),
    }
    given.update(SCENARIOS[name](rng))
    given.setdefault("programs", given["clients"] // 2 if "clients" in given else 5)
    return name, plan(seed, **{**given, **changes})
