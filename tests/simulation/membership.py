"""Servers are replaced while everything else goes wrong: one joins, then another leaves.

May import the testing room and this folder. A name is used once. What is begun is carried
on, whatever happens, since it is that which must not fail.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from licraft.core.state import PoolState, ServerState
from licraft.server.license_server import LicenseServer
from licraft.wire import ServerRequest
from simulation.holders import SafetyBroken

if TYPE_CHECKING:
    from simulation.faults import Misfortunes

LOOK_S = 0.5
PATIENCE_S = 8.0


class Membership:
    """The changes of members of one run, one after the other."""

    def __init__(self, run: Misfortunes) -> None:
        self._run = run
        self._made = 0
        self._change: asyncio.Task[None] | None = None

    def faults(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """By their names."""
        return {"replace": self._begin}

    async def finished(self, within_s: float) -> None:
        """Wait for the change that is under way; raises SafetyBroken if it does not end."""
        if self._change is None:
            return
        done, _ = await asyncio.wait([self._change], timeout=within_s)
        if not done:
            raise SafetyBroken(f"a change of members does not end within {within_s:g} s")
        self._change.result()

    def close(self) -> None:
        """The run is over."""
        if self._change is not None:
            self._change.cancel()

    async def _begin(self) -> None:
        if self._change is None or self._change.done():
            self._change = asyncio.get_running_loop().create_task(self._replace())

    async def _replace(self) -> None:
        """Have a new server join and count; then have another one leave, and end it."""
        run, pool = self._run, self._run.pool
        self._made += 1
        new = f"new{self._made}"
        old = run.rng.choice(pool.names)
        request = ServerRequest(new, f"http://{new}.invalid:7700", f"{new}.invalid:7800")
        await self._ask(lambda s: s.add_server(request), lambda: self._member(new) is not None)
        run.note(f"{new} joins")
        pool.join(new)
        await pool.until(lambda: self._counts(new), f"{new} counts", math.inf)
        run.note(f"{new} counts, {old} is to leave")
        await self._ask(lambda s: s.remove_server(old), lambda: self._leaves(old))
        await pool.until(lambda: self._member(old) is None, f"{old} has left", math.inf)
        run.note(f"{old} has left")
        run.down.pop(old, None)
        pool.forget(old)
        run.done["replaced"] += 1

    async def _ask(
        self, ask: Callable[[LicenseServer], Awaitable[object]], done: Callable[[], bool]
    ) -> None:
        """Ask server after server until the pool has done it, whatever they answered."""
        pool = self._run.pool
        while not done():
            for at in pool.running:
                if at not in pool.running or pool.engine(at).paused or done():
                    continue
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        await ask(pool.server(at))
                except TimeoutError:
                    pass
            await asyncio.sleep(LOOK_S)

    def _newest(self) -> PoolState | None:
        """The state of the foremost server that runs."""
        pool = self._run.pool
        states = [pool.server(name).state for name in pool.running]
        return max(states, key=lambda state: state.index, default=None)

    def _member(self, name: str) -> ServerState | None:
        state = self._newest()
        return state.servers.get(name) if state is not None else None

    def _counts(self, name: str) -> bool:
        member = self._member(name)
        return member is not None and member.votes

    def _leaves(self, name: str) -> bool:
        member = self._member(name)
        return self._newest() is not None and (member is None or member.removing)
