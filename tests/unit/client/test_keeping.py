"""Batches of heartbeats, and holds in threads and processes."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licraft.client.renewing import BATCH_BYTES, BATCH_TOKENS, batches
from licraft.client.seats import FORKED, Hold, SeatView
from licraft.client.tenure import SeatState
from licraft.wire import MAX_BODY_BYTES, Authorization, ServerList


@given(st.lists(st.integers(1, 2048), max_size=1200))
def test_batches_hold_everything_in_order_and_fit_into_a_request(sizes: list[int]) -> None:
    tokens = ["x" * size for size in sizes]
    parts = [tokens[part] for part in batches(tokens)]
    assert [token for part in parts for token in part] == tokens
    assert all(0 < len(part) <= BATCH_TOKENS for part in parts)
    assert all(sum(map(len, part)) <= BATCH_BYTES + 2048 < MAX_BODY_BYTES for part in parts)


def hold(now: list[float], heartbeat: float = 20.0) -> Hold:
    granted = Authorization(
        "id-1", "secret-token", "cad", 1, "alpha", 60.0, heartbeat, "", ServerList(1, [])
    )
    return Hold(granted, "http://alpha:7700", now[0], lambda: now[0])


def test_once_seen_invalid_it_stays_so_even_if_the_clock_is_wrong() -> None:
    now = [100.0]
    seat = SeatView(hold(now))
    now[0] = 160.0
    assert not seat.valid
    now[0] = 150.0
    assert not seat.valid
    assert seat.remaining == 0


@pytest.mark.parametrize(("told", "used"), [(20.0, 20.0), (0.001, 3.0), (600.0, 30.0)])
def test_a_nonsensical_heartbeat_is_kept_within_bounds(told: float, used: float) -> None:
    assert hold([100.0], told).heartbeat_s == pytest.approx(used)


def test_the_token_is_in_no_repr() -> None:
    assert "secret-token" not in repr(SeatView(hold([100.0])))


def test_returning_happens_once_whichever_thread_comes_first() -> None:
    for _ in range(50):
        shared = hold([100.0])
        won: list[bool] = []

        def give_back(shared: Hold = shared, won: list[bool] = won) -> None:
            won.append(shared.returned())

        threads = [threading.Thread(target=give_back) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won.count(True) == 1


def test_another_process_s_copy_is_lost_and_takes_no_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = hold([100.0])
    seat = SeatView(shared)
    with shared._lock:  # some thread of the parent held it at the fork
        monkeypatch.setattr(os, "getpid", lambda: -1)
        assert (seat.state, seat.lost_reason) == (SeatState.LOST, FORKED)
        assert not shared.returned()
    monkeypatch.undo()
    assert seat.valid
