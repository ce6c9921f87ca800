"""What the nemesis plans follows from its seed, and leaves a majority alone unless it says so."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.continuous import able
from chaos.nemesis import CALM_S, CLOCKS, DAY_S, IN_WORDS, OF_CUTS, WHOLE_POOL, Times, plan, ways
from chaos.pool import Machine
from chaos.reports import FAR, NEAR

THREE = ["alpha", "beta", "gamma"]
FIVE = [*THREE, "delta", "epsilon"]
TIMES = Times(lease_s=1.5, ttl_s=12.0)


@given(st.integers(0, 2**32), st.sampled_from([THREE, FIVE]), st.sampled_from([60.0, 1800.0]))
def test_never_is_more_than_a_minority_hurt_unless_that_is_the_point(
    seed: int, servers: list[str], length_s: float
) -> None:
    blows = plan(seed, length_s, servers, TIMES)
    assert blows == plan(seed, length_s, servers, TIMES)
    assert blows == sorted(blows, key=lambda blow: blow.begin_s)
    minority = (len(servers) - 1) // 2
    for blow in blows:
        assert blow.begin_s > 0
        assert blow.begin_s + blow.lasts_s <= length_s - CALM_S
        during = [b for b in blows if b.begin_s <= blow.begin_s <= b.begin_s + b.lasts_s and b.hurt]
        hurt = {name for other in during for name in other.hurt}
        if any(other.kind in WHOLE_POOL for other in during):
            assert len(during) == 1
        else:
            assert len(hurt) <= minority


@given(st.integers(0, 2**32))
def test_the_word_of_a_majority_of_clocks_stays_within_a_day(seed: int) -> None:
    clocks = [blow for blow in plan(seed, 1800.0, THREE, TIMES) if blow.kind in CLOCKS]
    for blow, after in pairwise(clocks):
        assert blow.begin_s + blow.lasts_s < after.begin_s
    assert all(abs(b.off_s) < DAY_S for b in clocks if b.kind == "clock-majority")
    assert all(len(b.targets) == 1 for b in clocks if b.kind == "clock")


def test_an_hour_has_every_kind() -> None:
    kinds = {blow.kind for blow in plan(1, 3600.0, THREE, TIMES)}
    assert kinds == set(IN_WORDS)


def test_what_a_machine_cannot_do_is_not_planned() -> None:
    kinds = able(Machine())
    assert not set(kinds) & {*OF_CUTS, "disk-full", "clock", "cut-apart"}
    assert {blow.kind for blow in plan(1, 3600.0, THREE, TIMES, kinds)} == set(kinds)


@pytest.mark.parametrize(
    ("kind", "targets", "dropped"),
    [
        ("cut-peers-out", ["beta"], {("beta", "alpha"), ("beta", "gamma")}),
        ("cut-peers-in", ["beta"], {("alpha", "beta"), ("gamma", "beta")}),
        ("cut-clients-out", ["beta"], {("beta", NEAR), ("beta", FAR)}),
        ("cut-clients-in", ["beta"], {(NEAR, "beta"), (FAR, "beta")}),
        ("cut-one-way", ["alpha", "gamma"], {("alpha", "gamma")}),
        ("kill", ["beta"], set()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_cut_drops_what_goes_its_way_only(
    kind: str, targets: list[str], dropped: set[tuple[str, str]]
) -> None:
    assert set(ways(kind, targets, THREE)) == dropped


def test_who_is_with_a_minority_reaches_it_and_nobody_else() -> None:
    dropped = set(ways("minority", ["beta"], THREE))
    assert ("beta", FAR) not in dropped
    assert (FAR, "beta") not in dropped
    assert {(FAR, "alpha"), ("gamma", FAR), (NEAR, "beta"), ("beta", "alpha")} <= dropped
    assert (NEAR, "alpha") not in dropped
