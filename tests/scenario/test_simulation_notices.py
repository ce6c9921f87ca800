"""The simulation can fail: a product with any one of its safety rules removed is caught.

Each mutation takes one rule of the protocol away. It must be caught within the number of
seeds that stands beside it, by a seed at which the product itself passes. By default those
run that are found soon; LICRAFT_MUTATIONS=all runs all of them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import pytest

from licraft.core import leases
from licraft.core.apply import apply
from licraft.core.commands import Entry
from licraft.core.outcomes import Applied, Outcome, ServerCameUp
from licraft.core.state import PoolState
from licraft.errors import InvariantBroken
from licraft.server.borrower import Borrower
from licraft.server.desk import Desk
from licraft.server.lease import Lease
from licraft.server.license_server import LicenseServer
from licraft.server.reactions import Reactions
from licraft.server.record_log import SavedRecord
from licraft.server.standing import Standing
from licraft.testing.simulated_clients import SafetyBroken
from licraft.testing.simulation import plan, run_plan

LAZY = (0.6, 0.97)
CRASHES = ("crash", "crash", "crash again", "compact", "elect")
CROWDED = {
    "servers": 3,
    "features": {"cad": 6},
    "clients": 40,
    "loyal": 0.8,
    "heartbeats": LAZY,
}
OUTAGES = ("isolate", "isolate", "split", "pause", "elect")


def no_lease(self: Lease, now_s: float) -> bool:
    """A server that has ever had a lease acts for ever."""
    return self.until_s > float("-inf")


def hasty_down(heard_s: float, lease_s: float, drift: float) -> float:
    """The leader gives up on a server before its lease is over."""
    return heard_s + 0.4 * lease_s


def hasty_reclaim(down_applied_s: float, ttl_s: float, drift: float) -> float:
    """What a down server left is taken at once."""
    return down_applied_s


def hasty_expiry(heard_s: float, ttl_s: float, drift: float) -> float:
    """Seats are taken from a holder before its time is over."""
    return heard_s + 0.8 * ttl_s


def without_drift(rule: Callable[[float, float, float], float]) -> Callable[..., float]:
    """A wait that believes that all clocks run alike."""
    return lambda since_s, wait_s, drift: rule(since_s, wait_s, 0.0)


_release = Borrower._release


def release_without_setting_aside(
    self: Borrower, desk: Desk, count: int, *rest: Any, **named: Any
) -> asyncio.Future[Outcome]:
    """What is being given away may be granted meanwhile."""
    future = _release(self, desk, count, *rest, **named)
    desk.set_aside -= count
    return future


_came_up = Reactions._came_up


def came_up_and_kept_the_record(self: Reactions, event: ServerCameUp) -> None:
    """A server whose seats were reclaimed goes on as if they had not been."""
    _came_up(self, replace(event, reclaimed=False))


def apply_again(state: PoolState, index: int, entry: Entry) -> Applied:
    """An entry that is committed twice takes effect twice."""
    server = state.servers.get(entry.server)
    if entry.serial and server is not None and server.requests == entry.serial:
        server.requests -= 1
    return apply(state, index, entry)


@dataclass(frozen=True)
class Mutation:
    """A rule less: where, what stands there instead, and the runs that show it."""

    name: str
    replaced: dict[tuple[object | str, str], Callable[..., object]]
    seeds: int
    plan: dict[str, Any] = field(default_factory=dict)


MUTATIONS = [
    Mutation(
        "grants without a lease",
        {(Lease, "runs"): no_lease},
        30,
        {"faults": ("isolate",), "servers": 3, "calm_s": 15.0},
    ),
    Mutation(
        "designates a server as down before its lease is over",
        {("licraft.server.leader", "down_due"): hasty_down},
        80,
        {**CROWDED, "faults": ("cut off",), "drift": 0.01, "calm_s": 30.0},
    ),
    Mutation(
        "reclaims without waiting",
        {("licraft.server.leader", "reclaim_due"): hasty_reclaim},
        6,
        {"faults": OUTAGES, "servers": 3},
    ),
    Mutation(
        "gives seats without setting them aside",
        {(Borrower, "_release"): release_without_setting_aside},
        6,
        {"faults": ("bad log", "elect"), "servers": 3},
    ),
    Mutation(
        "keeps the record of reclaimed seats",
        {(Reactions, "_came_up"): came_up_and_kept_the_record},
        30,
        {
            **CROWDED,
            "faults": ("outage",),
            "records": ("kept",),
            "revives": True,
            "calm_s": 15.0,
        },
    ),
    Mutation(
        "believes any record",
        {(SavedRecord, "trusted"): lambda *_: True},
        20,
        {"faults": CRASHES, "servers": 3},
    ),
    Mutation(
        "does not wait after the loss of its record",
        {(Standing, "recover"): lambda self: None},
        10,
        {"faults": CRASHES, "servers": 3},
    ),
    Mutation(
        "answers before the record is written",
        {(LicenseServer, "settle"): lambda self: None},
        20,
        {"faults": CRASHES, "servers": 3},
    ),
    Mutation(
        "applies a repeated entry again",
        {("licraft.server.pool", "apply"): apply_again},
        40,
        {"faults": ("bad log",), "servers": 3},
    ),
    Mutation(
        "believes that all clocks run alike",
        {
            ("licraft.server.grants", "expiry"): without_drift(leases.expiry),
            ("licraft.server.leader", "down_due"): without_drift(leases.down_due),
            ("licraft.server.leader", "reclaim_due"): without_drift(leases.reclaim_due),
            ("licraft.server.standing", "recovery_end"): without_drift(leases.recovery_end),
        },
        20,
        {"drift": 0.1, "heartbeats": LAZY},
    ),
    Mutation(
        "lets authorizations expire early",
        {("licraft.server.grants", "expiry"): hasty_expiry},
        10,
        {"heartbeats": LAZY},
    ),
]
SLOW = {
    "grants without a lease",
    "designates a server as down before its lease is over",
    "keeps the record of reclaimed seats",
    "applies a repeated entry again",
}
ALL = os.environ.get("LICRAFT_MUTATIONS") == "all"
CHOSEN = [mutation for mutation in MUTATIONS if ALL or mutation.name not in SLOW]


@contextmanager
def mutated(mutation: Mutation) -> Iterator[None]:
    """The product without one of its rules."""
    with ExitStack() as patches:
        for (where, name), instead in mutation.replaced.items():
            if isinstance(where, str):
                patches.enter_context(patch(f"{where}.{name}", instead))
            else:
                patches.enter_context(patch.object(where, name, instead))
        yield


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutation", CHOSEN, ids=lambda mutation: mutation.name)
def test_a_missing_rule_is_noticed(mutation: Mutation) -> None:
    for seed in range(mutation.seeds):
        chosen = plan(seed, **mutation.plan)
        with mutated(mutation):
            try:
                run_plan(chosen)
            except (SafetyBroken, InvariantBroken):
                pass
            else:
                continue
        run_plan(chosen)  # The product itself passes.
        return
    pytest.fail(f"not noticed within {mutation.seeds} seeds: {mutation.name}")
