"""Lease arithmetic: the numbers of sections 2, 4 and 5, and the order that makes them safe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licraft.core.leases import down_due, expiry, lease_end, reclaim_due, recovery_end

LEASE_S, TTL_S, DRIFT = 3.0, 60.0, 0.01


def test_the_numbers_of_the_protocol() -> None:
    assert lease_end(100.0, LEASE_S) == 103.0
    assert down_due(100.0, LEASE_S, DRIFT) == pytest.approx(103.03)
    assert reclaim_due(100.0, TTL_S, DRIFT) == pytest.approx(160.6)
    assert expiry(100.0, TTL_S, DRIFT) == pytest.approx(160.6)
    assert recovery_end(100.0, TTL_S, DRIFT) == pytest.approx(160.6)


@given(
    lease_s=st.floats(0.1, 60),
    ttl_s=st.floats(1, 3600),
    drift=st.floats(0, 0.2),
    late=st.floats(0, 1),
)
def test_others_wait_longer_than_the_slowest_clock_may_act(
    lease_s: float, ttl_s: float, drift: float, late: float
) -> None:
    """The waiting clock is the fastest, the acting one the slowest that `drift` allows."""
    fast, slow = 1.0 + drift, 1.0
    tiny = 1e-6
    applied_s = late  # a renewal is applied no earlier than it was first proposed, at 0
    assert down_due(applied_s * fast, lease_s, drift) / fast + tiny >= lease_end(0, lease_s) / slow
    assert reclaim_due(applied_s * fast, ttl_s, drift) / fast + tiny >= ttl_s / slow
    assert expiry(applied_s * fast, ttl_s, drift) / fast + tiny >= ttl_s / slow
    assert recovery_end(applied_s * fast, ttl_s, drift) / fast + tiny >= ttl_s / slow
