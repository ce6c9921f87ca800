"""The simulation can fail: a product with any one of its safety rules removed is caught.

Each mutation takes one rule of the protocol away. It must be caught within the number of
seeds that stands beside it, or by its scenario, and there the product itself must pass. By
default those run that are found soon, and the seeds begin where most are;
LICRAFT_MUTATIONS=all runs all of them.
"""

from __future__ import annotations

import os
from functools import partial

import pytest
from mutations import MUTATIONS, Mutation, mutated

from licraft.errors import InvariantBroken
from licraft.testing.simulation import plan, run_plan

ALL = os.environ.get("LICRAFT_MUTATIONS") == "all"
FIRST = 7
CHOSEN = [mutation for mutation in MUTATIONS if ALL or not mutation.slow]


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
