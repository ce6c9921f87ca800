"""The simulation can fail: a product with any one of its rules removed is caught.

Each mutation takes one rule of the protocol away. It must be caught within the number of
seeds that stands beside it, or by its scenario, and there the product itself must pass. Each
day a third of them is run, another one than the day before; LICRAFT_MUTATIONS=all runs all.
The engine's own are in `test_engine_simulation`.
"""

from __future__ import annotations

import os
from datetime import date
from functools import partial

import pytest

from licraft.errors import InvariantBroken
from simulation.client_mutations import OF_CLIENTS, OF_THE_TABLE
from simulation.mutation import Mutation, mutated
from simulation.mutations import OF_SERVERS
from simulation.run import plan, run_plan

ALL = os.environ.get("LICRAFT_MUTATIONS") == "all"
FIRST = 7
MUTATIONS = [*OF_SERVERS, *OF_THE_TABLE, *OF_CLIENTS]
THIRD = date.today().toordinal() % 3
CHOSEN = [m for n, m in enumerate(MUTATIONS) if ALL or (n % 3 == THIRD and not m.slow)]
SCENARIOS = {m.scenario.__name__: m.scenario for m in MUTATIONS if m.scenario is not None}


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_with_all_rules_a_scenario_passes(name: str) -> None:
    SCENARIOS[name]()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutation", CHOSEN, ids=lambda mutation: mutation.name)
def test_a_missing_rule_is_noticed(mutation: Mutation) -> None:
    for seed in range(FIRST, FIRST + mutation.seeds):
        run = mutation.scenario or partial(run_plan, plan(seed, **mutation.plan))
        with mutated(mutation):
            try:
                run()
            except (AssertionError, InvariantBroken, ValueError):
                pass  # SafetyBroken is the first of them; the last is a record's own alarm.
            else:
                continue
        run()  # The product itself passes.
        return
    pytest.fail(f"not noticed within {mutation.seeds} seeds: {mutation.name}")
