"""How often a checkout that waits asks, in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import msgspec
import pytest

from licraft.client.grants import Granter, checkout_request
from licraft.client.keeper import Keeper
from licraft.client.routes import Routes
from licraft.client.transport import Answer, Gate, Transport
from licraft.errors import PoolUnavailable
from licraft.testing import run_virtual
from licraft.wire import CheckoutRequest, ClientInfo, Problem

URLS = [f"http://{name}:7700" for name in ("alpha", "beta", "gamma", "delta", "epsilon")]


@dataclass
class Refusing:
    """Servers that refuse every checkout, in place of `Transport`."""

    problem: Problem
    asked: list[tuple[float, str, str]] = field(default_factory=list)

    async def ask(
        self, method: str, url: str, path: str, content: bytes, *, gate: Gate, **_: Any
    ) -> Answer:
        await asyncio.sleep(0.001)
        assert gate.enter(url)
        now = asyncio.get_running_loop().time()
        request = msgspec.json.decode(content, type=CheckoutRequest)
        self.asked.append((now, url, str(request.id)))
        return Answer(url, now, self.problem.status, msgspec.json.encode(self.problem))

    def unheard(self, url: str) -> bool:
        return False


def refused(problem: Problem, wait_s: float, times: int) -> list[Refusing]:
    """Check out from servers that refuse, as often as told."""

    async def run() -> list[Refusing]:
        loop = asyncio.get_running_loop()
        made = []
        for _ in range(times):
            refusing = Refusing(problem)
            wire, routes = cast(Transport, refusing), Routes(URLS)
            keeper = Keeper(wire, routes, loop.time, client_id="", read_timeout_s=5.0)
            granter = Granter(wire, routes, keeper, loop.time, read_timeout_s=5.0)
            request = checkout_request("cad", 1, wait_s, None, None, ClientInfo())
            with pytest.raises(PoolUnavailable):
                await granter.grant(request)
            made.append(refusing)
        return made

    return run_virtual(run())


@pytest.mark.parametrize("told_s", [None, 1.0, 30.0])
def test_a_checkout_that_waits_asks_less_and_less(told_s: float | None) -> None:
    """As the module's docstring states: ten thousand of them must not run a pool down."""
    problem = Problem(503, "no_quorum", "", retry_after=told_s)
    for refusing in refused(problem, 600.0, 20):
        times_s = [at for at, _, _ in refusing.asked]
        gaps = [after - before for before, after in pairwise(times_s)]
        assert sum(gaps[:4]) < 0.02
        assert min(gaps[4:]) >= (0.375 if told_s is None else 0.75)
        assert max(gaps) <= 4.4
        assert min(gaps[12:]) >= 2.6
        assert 120 < len(times_s) < 220
        # One after the other, each always by its own name.
        assert {url for _, url, _ in refusing.asked[5:10]} == set(URLS)
        assert len({(url, id) for _, url, id in refusing.asked}) == 5


def test_a_checkout_that_does_not_wait_asks_each_server_once() -> None:
    (refusing,) = refused(Problem(429, "overloaded", "", retry_after=1.0), 0.0, 1)
    assert sorted(url for _, url, _ in refusing.asked) == sorted(URLS)
