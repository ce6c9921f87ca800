"""An administrator who changes the pool all the time, at whichever server answers.

May import the testing room, the server room's askers and this folder. Every order has a name
of its own, by which the audit and the checker know it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

from licraft.server.asker import ASKER, Asker
from licraft.server.license_server import LicenseServer
from licraft.testing.chance import waiting_s
from licraft.testing.pool import InProcessPool
from licraft.wire import (
    AllocationsRequest,
    BorrowingRequest,
    DistributionRequest,
    Problem,
)
from simulation.checkers.acknowledged import Told
from simulation.trace import Trace

PATIENCE_S = 12.0
NOT_DONE = ("no_quorum", "overloaded", "draining", "exceeds_entitlement", "invalid_request")


class Administrator:
    """Gives orders; `told` hears what was answered to each."""

    def __init__(
        self,
        pool: InProcessPool,
        features: list[str],
        rng: random.Random,
        trace: Trace,
        told: Callable[[str, Told], None],
    ) -> None:
        self.done: Counter[str] = Counter()
        self._pool = pool
        self._features = features
        self._random = rng
        self._trace = trace
        self._told = told
        self._number = 0

    async def work(self, pause_s: float) -> None:
        """Give one order after the other, some before the last is answered; never returns."""
        loop = asyncio.get_running_loop()
        pending: set[asyncio.Task[None]] = set()
        try:
            while True:
                await asyncio.sleep(waiting_s(self._random, pause_s))
                task = loop.create_task(self._order())
                pending.add(task)
                task.add_done_callback(pending.discard)
        finally:
            for task in pending:
                task.cancel()

    async def lift(self) -> None:
        """Lift all bounds, asking until that is done: with them not every seat can be had."""
        while True:
            able = [n for n in self._pool.running if self._pool.server(n).may_grant()]
            for at in able[:1]:
                for name, bound in self._bounds(at):
                    wish = BorrowingRequest(server=name, floor=None)
                    await self._pool.server(at).bound_borrowing(bound, wish)
            await asyncio.sleep(1.0)

    def _bounds(self, at: str) -> list[tuple[str, str]]:
        """Which server has a floor, of which feature, as far as one of them knows."""
        features = self._pool.server(at).state.table.features
        return [
            (name, feature)
            for feature, pool in features.items()
            for name, limits in pool.limits.items()
            if name and limits.floor
        ]

    async def _order(self) -> None:
        able = [n for n in self._pool.running if not self._pool.engine(n).paused]
        if not able:
            return
        self._number += 1
        who, at = f"order {self._number}", self._random.choice(able)
        ASKER.set(Asker(who, "10.0.0.9"))
        server = self._pool.server(at)
        kind = self._random.choice(("distribute", "add", "bound"))
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await self._ask(kind, server)
        except TimeoutError:
            answer = Problem(503, "outcome_unknown", "no answer")
        if self._pool.log.engines.get(at) is None or self._pool.server(at) is not server:
            answer = Problem(503, "outcome_unknown", "it is gone")
        code = answer.code if isinstance(answer, Problem) else ""
        told = Told.DONE if not code else Told.NOT_DONE if code in NOT_DONE else Told.UNKNOWN
        self.done[f"order {told.value}"] += 1
        self._trace.tell(who, f"{kind} at {at}: {told.value} {code}".rstrip())
        self._told(who, told)

    async def _ask(self, kind: str, server: LicenseServer) -> object:
        rng, feature = self._random, self._random.choice(self._features)
        if kind == "add":
            count = rng.choice((-3, -2, -1, 1, 2, 3))
            return await server.add_allocations(feature, AllocationsRequest(count))
        if kind == "bound":
            name = rng.choice(self._pool.names)
            bounds = BorrowingRequest(server=name, floor=rng.randint(0, 2), cap=None)
            return await server.bound_borrowing(feature, bounds)
        pool = server.state.table.features.get(feature)
        seats = pool.deployed if pool is not None else 0
        shares: dict[str, int] = {}
        for name in self._pool.names:
            shares[name] = rng.randint(0, seats)
            seats -= shares[name]
        return await server.distribute(feature, DistributionRequest(rng.choice((shares, {}))))
