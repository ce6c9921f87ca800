"""Answers that come late to a client which then hears nothing any more (section 2).

May import the client and this folder. Each scenario raises AssertionError if the client still
relies on its seat when somebody else has it.
"""

from __future__ import annotations

import asyncio
import random
from unittest.mock import patch

from licraft.client.aio import AsyncClient
from licraft.testing import InProcessPool, run_virtual
from licraft.testing.clock import ManualClock
from licraft.wire import Authorization, CheckoutRequest
from simulation.network import Network
from simulation.programs import Way

LATE_S = 3.5
TTL_S = 12.0


def a_late_grant_gives_no_more_time() -> None:
    """The answer to a checkout is late."""
    run_virtual(_late("/v1/authorizations"))


def a_late_renewal_gives_no_more_time() -> None:
    """The answer to a heartbeat is late."""
    run_virtual(_late("/v1/heartbeats"))


async def _late(path: str) -> None:
    async with InProcessPool(1, lease_s=3.0, ttl_s=TTL_S) as pool:
        await pool.install({"cad": 1})
        network = Network(pool, random.Random(1))
        heard = asyncio.Event()
        client = _client(network, path, heard)
        seat = await client.checkout("cad")
        await heard.wait()
        network.offline.add("c")
        _, answer = await pool.checkout("alpha", CheckoutRequest("cad", wait=2 * TTL_S))
        assert isinstance(answer, Authorization), answer
        assert not seat.valid, f"relied on for {seat.remaining:.1f} s more"
        await client.aclose()


def _client(network: Network, path: str, heard: asyncio.Event) -> AsyncClient:
    """A client that takes note of the first answer to `path` when it is `LATE_S` old."""
    way = Way("c", network, ManualClock(source=asyncio.get_running_loop().time), lambda: None)
    ask = way.ask

    async def ask_late(method: str, url: str, asked: str, *rest: object, **named: object) -> object:
        answer = await ask(method, url, asked, *rest, **named)  # type: ignore[arg-type]  # passed on
        if asked == path and not heard.is_set():
            await asyncio.sleep(LATE_S)
            heard.set()
        return answer

    clock = way._clock.now
    way.ask = ask_late  # type: ignore[assignment,method-assign]  # it stands in its place
    with patch("licraft.client.aio.Transport", lambda *_: way):
        return AsyncClient(["http://alpha.invalid:7700"], user="c", clock=clock)
