"""What `GET /v1/features/F` shows of borrows, at every server (B3, B13 to B15)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from support.scenario_calls import allocated, beat, take

from licraft.core.codec import decode_entry
from licraft.core.commands import Release
from licraft.testing import COMMITTED, Fate, InProcessPool, late, run_virtual
from licraft.wire import CheckoutRequest

LEASE_S, TTL_S = 3.0, 12.0
ANN = ("c-17", "ann", "ws12", 4711, "cad.exe")


def a_pool(servers: int) -> InProcessPool:
    return InProcessPool(servers, lease_s=LEASE_S, ttl_s=TTL_S, drift=0.01, threshold=1.0)


def seen(pool: InProcessPool) -> dict[str, Any]:
    """The `borrowing` of the feature, of which all servers show the same but their own sources."""
    shown = [
        msgspec.to_builtins(pool.server(name).feature("cad"))["borrowing"] for name in pool.running
    ]
    borrowing: dict[str, Any] = shown[0]
    assert all(other | {"sources": borrowing["sources"]} == borrowing for other in shown)
    assert borrowing["pending"] == len(borrowing["open"])
    return borrowing


def open_borrow(pool: InProcessPool) -> dict[str, Any]:
    (borrow,) = seen(pool)["open"]
    assert isinstance(borrow, dict)
    return borrow


def gives_late(after_s: float) -> Callable[[str, bytes], Fate]:
    """What servers give takes so long to be committed."""

    def choose(server: str, command: bytes) -> Fate:
        gives = any(isinstance(c, Release) for c in decode_entry(command).commands)
        return late(after_s) if gives else COMMITTED

    return choose


def test_a_fail_over_is_seen_to_ask_the_leader_and_then_all_others() -> None:
    """B14, B15: the free pool and what a down server left go in between, at once."""

    async def program() -> None:
        async with a_pool(4) as pool:
            await pool.install({"cad": 12}, distribution={"cad": "alpha:2^gamma:4^delta:3"})
            parts = {"alpha": 2, "gamma": 4, "delta": 3, "free": 3}
            assert allocated(pool) == parts
            pool.crash("gamma")
            gamma = pool.server("alpha").state.servers["gamma"]
            await pool.until(lambda: gamma.reclaimed, "gamma is reclaimed")
            nothing = {"leader": 0, "free": 0, "down": 0, "others": 0}
            unbounded = dict.fromkeys(("threshold", "floor", "cap"))
            idle = {"enabled": True, "pending": 0, "open": [], "sources": nothing}
            assert seen(pool) == idle | unbounded
            pool.log.fate = gives_late(0.3)
            # Ten seats that gamma had granted, once.
            token = pool.server("beta").grants.mint.seal("A", "cad", 10, "gamma", 1, ANN)
            moves = asyncio.ensure_future(beat(pool, "beta", token))
            await pool.advance(0.15)
            borrow = {
                "id": "beta:1:1",
                "server": "beta",
                "reason": "failover",
                "want": 10,
                "need": 10,
                "source": "leader",
                "asked": [],
                "got": {},
            }
            assert open_borrow(pool) == borrow
            assert allocated(pool) == parts
            await pool.advance(0.3)
            asks_others = borrow | {"want": 1, "need": 1, "source": "others", "asked": ["delta"]}
            got = {"leader": 2, "free": 3, "down": 4}
            assert open_borrow(pool) == asks_others | {"got": got}
            assert list(open_borrow(pool)["got"]) == list(got)
            assert allocated(pool) == {"beta": 9, "delta": 3}
            assert (await moves).status == "converted"
            await pool.advance(0.1)
            assert allocated(pool) == {"beta": 10, "delta": 2}
            assert seen(pool)["open"] == []
            borrower = msgspec.to_builtins(pool.server("beta").feature("cad"))
            assert borrower["borrowing"]["sources"] == got | {"others": 1}
            assert seen(pool)["sources"] == nothing  # The leader's own.

    run_virtual(program())


def test_who_waits_for_seats_that_come_back_is_seen_in_the_order_of_being_served() -> None:
    async def program() -> None:
        async with a_pool(3) as pool:
            await pool.install({"cad": 6})
            tokens = {name: await take(pool, name, 2) for name in pool.names}
            waits = {}
            for name, count in (("gamma", 1), ("alpha", 2), ("beta", 2)):
                waits[name] = asyncio.ensure_future(
                    pool.checkout(name, CheckoutRequest("cad", count, wait=30.0))
                )
                await pool.advance(1.0)
            shown = seen(pool)["open"]
            assert [(b["server"], b["need"], b["source"]) for b in shown] == [
                ("gamma", 1, None),
                ("alpha", 2, None),
                ("beta", 2, None),
            ]
            assert {b["reason"] for b in shown} == {"request"}
            assert sorted(shown[1]["asked"]) == ["beta", "gamma"]
            await pool.checkin("beta", tokens["beta"])
            assert (await waits["gamma"])[0] == 201
            await pool.advance(0.2)
            assert [(b["server"], b["need"]) for b in seen(pool)["open"]] == [
                ("alpha", 1),
                ("beta", 2),
            ]
            for name in ("alpha", "beta"):
                waits[name].cancel()

    run_virtual(program())
