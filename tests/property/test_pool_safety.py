"""The one invariant (protocol, section 2) in simulated pools, and that breaking it is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.profiles import examples
from support.simulated_pool import SEATS, World
from support.simulated_server import Faults

VIRTUAL_S = 200.0


@examples(0.5)
@given(st.integers(0, 2**32))
def test_no_more_rely_on_seats_than_are_licensed(seed: int) -> None:
    """Replay a failure with `World(seed).run(200)`."""
    World(seed).run(VIRTUAL_S)


def test_the_simulation_lives() -> None:
    """It would be easy never to grant too much by never granting."""
    worlds = [World(seed) for seed in range(5)]
    for world in worlds:
        world.run(VIRTUAL_S)
    assert max(world.most for world in worlds) == SEATS
    assert min(world.grants for world in worlds) > 2 * SEATS
    assert sum(world.borrowed for world in worlds) > 0
    assert sum(world.reclaims for world in worlds) > 0


@pytest.mark.parametrize(
    "faults",
    [
        Faults(ignores_lease=True),
        Faults(hasty_reclaim=True),
        Faults(gives_without_setting_aside=True),
        Faults(forgets_and_grants=True),
        Faults(believes_a_record_of_recovery=True),
    ],
    ids=lambda faults: next(name for name, left_out in vars(faults).items() if left_out),
)
def test_a_rule_left_out_is_noticed(faults: Faults) -> None:
    def try_many_seeds() -> None:
        for seed in range(150):
            World(seed, faults).run(VIRTUAL_S)

    with pytest.raises(AssertionError, match=f"rely on {SEATS} seats"):
        try_many_seeds()
