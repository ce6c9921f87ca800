"""One program takes every seat through one server, and the seats add up at every moment."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.processes import MakePool, ServerPool, wait_for

from licraft.client import AsyncClient, AsyncSeat, NoSeatsAvailable, PoolUnavailable

pytest_plugins = ["support.pool_fixtures"]

WITHIN_S = 5.0
PAUSE_S = 0.02
SIDE_BY_SIDE = 5


class Auditor(threading.Thread):
    """Asks every server for its features, again and again, and keeps what does not add up."""

    def __init__(self, pool: ServerPool) -> None:
        super().__init__(daemon=True)
        self._pool = pool
        self._ending = threading.Event()
        self.rounds = 0
        self.wrong: list[str] = []
        self.fault: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._ending.is_set():
                self.wrong += self._pool.unbalanced()
                self.rounds += 1
                # The interpreter that this thread takes is the client's as well.
                self._ending.wait(PAUSE_S)
        except BaseException as fault:  # noqa: BLE001  # reported by `end`
            self.fault = fault

    def end(self) -> None:
        self._ending.set()
        self.join(30)
        assert self.fault is None, self.fault
        assert self.rounds > 1
        assert self.wrong == []


@contextmanager
def audited(pool: ServerPool) -> Iterator[None]:
    """Every server's answers add up all through the block."""
    auditor = Auditor(pool)
    auditor.start()
    try:
        yield
    finally:
        auditor.end()


async def take_all(pool: ServerPool, server: str, counts: dict[str, int]) -> float:
    """Take every seat of every feature through `server` and give them back; the seconds taken.

    The seats of a feature are taken one after the other, so that each borrow is waited for;
    some features are taken side by side. One more of each feature is denied.
    """
    left = list(counts.items())
    seats: list[AsyncSeat] = []

    async def take(client: AsyncClient) -> None:
        while left:
            feature, count = left.pop()
            seats.extend([await take_one(client, feature) for _ in range(count)])

    async def take_one(client: AsyncClient, feature: str) -> AsyncSeat:
        # A machine that is held up for a second loses its lease, and has it again soon.
        while True:
            try:
                return await client.checkout(feature)
            except PoolUnavailable:
                await asyncio.sleep(0.1)

    async with AsyncClient([pool.urls[server]], pool.client) as client:
        begun = time.monotonic()
        await asyncio.gather(*(take(client) for _ in range(SIDE_BY_SIDE)))
        took_s = time.monotonic() - begun
        assert {seat.server for seat in seats} == {server}
        assert all(seat.valid for seat in seats)
        for feature, count in counts.items():
            with pytest.raises(NoSeatsAvailable, match=f"{count} of {count}"):
                await client.checkout(feature)
            assert pool.feature(server, feature)["servers"][server]["in_use"] == count
    return took_s


@pytest.mark.parametrize("servers", [1, 3, 5])
@pytest.mark.parametrize("features", [1, 50])
def test_one_program_takes_all_seats_through_one_server(
    make_pool: MakePool, servers: int, features: int
) -> None:
    each = 100 if features == 1 else 2
    counts = {f"feature{i:02}" if i else "cad": each for i in range(features)}
    pool = make_pool(counts, servers=servers)
    through = pool.names[-1]  # not the leader, where there is another
    if servers == 3 and features == 1:
        assert pool.allocated(through) == {"alpha": 34, "beta": 33, "gamma": 33}
    with audited(pool):
        took_s = asyncio.run(take_all(pool, through, counts))
    print(f"{features} features, {servers} servers: {took_s:.2f} s")
    assert took_s < WITHIN_S
    wait_for(
        lambda: all(pool.feature(through, f)["in_use"] == 0 for f in counts), 5, "all given back"
    )


def test_the_leader_takes_all_seats_too(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 100})
    with audited(pool):
        took_s = asyncio.run(take_all(pool, pool.leader(), {"cad": 100}))
    print(f"through the leader: {took_s:.2f} s")
    assert took_s < WITHIN_S
