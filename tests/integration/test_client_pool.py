"""The client module on real servers: a program's many seats move together."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from support.processes import MakePool, ServerPool, wait_for

from licraft.client import Client, Seat

pytest_plugins = ["support.pool_fixtures"]

SEATS = 40
BUSY_S = 4.0
"""Other tests may run beside: the chaos suite holds the pool to `lease + 2 s`, this to more."""


def to_first(pool: ServerPool, server: str) -> list[str]:
    """The servers' URLs, one of them first."""
    return [pool.urls[server], *(url for name, url in pool.urls.items() if name != server)]


def all_leave(server: str, seats: list[Seat], within_s: float) -> float:
    """Wait until none of the seats is at a server; seconds since one was not renewed in time."""
    deadline = time.monotonic() + within_s
    missed: float | None = None
    while any(seat.server == server for seat in seats):
        assert time.monotonic() < deadline, Counter(str(seat) for seat in seats)
        assert all(seat.valid for seat in seats), Counter(str(seat) for seat in seats)
        if missed is None and any(seat.state == "suspended" for seat in seats):
            missed = time.monotonic()
        time.sleep(0.01)
    return 0.0 if missed is None else time.monotonic() - missed


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_many_seats_of_one_program_move_together_and_none_is_lost(
    make_pool: MakePool, how: str
) -> None:
    """With every seat in use: these very seats are adopted, once each."""
    pool = make_pool({"cad": SEATS}, lease_s=1.0, ttl_s=8.0)
    server = pool.leader()
    lost: list[Seat] = []
    with Client(to_first(pool, server), pool.client) as client:
        seats = [client.checkout("cad", wait=5, on_lost=lost.append) for _ in range(SEATS)]
        ids = {seat.id for seat in seats}
        (pool.kill if how == "kill" else pool.pause)(server)
        waited_s = all_leave(server, seats, 2 * pool.ttl_s)
        assert waited_s < pool.lease_s + BUSY_S
        by = next(name for name in pool.names if name != server)
        assert {seat.id for seat in seats} == ids
        wait_for(lambda: pool.feature(by)["in_use"] == SEATS, 5, "all seats are in use, once")
        if how == "pause":
            pool.resume(server)
            pool.wait_ready()
        time.sleep(pool.ttl_s / 3 + 1)  # another heartbeat of each
        assert all(seat.valid for seat in seats)
    assert not lost
    wait_for(lambda: pool.feature(by)["in_use"] == 0, 5, "all seats are back")
