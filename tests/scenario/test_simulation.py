"""Section 2's invariant on real servers: seeded pools in which everything goes wrong.

LICRAFT_SEEDS=1000 runs more seeds, LICRAFT_FIRST_SEED=5000 others. A failure names the
command that replays it.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from licraft.testing.simulation import FAULTS, plan, run_plan, run_seed

FIRST = int(os.environ.get("LICRAFT_FIRST_SEED", "0"))
SEEDS = int(os.environ.get("LICRAFT_SEEDS", "50"))
VIRTUAL_S = 90.0


@pytest.mark.timeout(60 + 10 * SEEDS)
def test_no_more_seats_are_relied_on_than_licensed_and_the_pool_recovers() -> None:
    happened: Counter[str] = Counter()
    for seed in range(FIRST, FIRST + SEEDS):
        happened.update(run_seed(seed, VIRTUAL_S))
    if SEEDS < 50:
        return
    # A simulation in which nothing happens would find nothing.
    for what in (*FAULTS, "granted", "renewed", "converted", "pending", "lost"):
        assert happened[what], what
    for what in ("down", "reclaimed", "over", "borrow pending", "recovering", "no_quorum"):
        assert happened[what], what
    for what in ("reboot", "record kept", "record torn", "record old backup", "record removed"):
        assert happened[what], what


def test_one_seed_is_one_run() -> None:
    chosen = plan(4, servers=3, clients=10, duration_s=30.0)
    assert run_plan(chosen) == run_plan(chosen)


def test_in_good_weather_nobody_is_lost_and_nothing_fails() -> None:
    chosen = plan(1, servers=3, clients=12, calm_s=1e9, duration_s=60.0)
    happened = run_plan(chosen)
    assert happened["granted"] > 20
    for what in ("lost", "pending", "converted", "recovering", "no_quorum", "down"):
        assert not happened[what], what
