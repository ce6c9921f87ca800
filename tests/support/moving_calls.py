"""A pool whose clients move between its servers, and short names for what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping

from licraft.core.codec import decode_entry
from licraft.core.commands import Command
from licraft.testing import InProcessPool
from licraft.wire import HeartbeatResult, Problem
from support.scenario_calls import allocated, beat, take

LEASE_S, TTL_S, DRIFT = 3.0, 12.0, 0.1


def a_pool(servers: int = 3, rates: Mapping[str, float] | None = None) -> InProcessPool:
    return InProcessPool(
        servers,
        lease_s=LEASE_S,
        ttl_s=TTL_S,
        drift=DRIFT,
        threshold=1.0,
        rates=rates,
        leader_handback=False,
    )


async def down(pool: InProcessPool, server: str) -> int:
    """Wait until a server is called down; returns the log index of that."""

    def index() -> int:
        return pool.server(pool.leader).state.servers[server].down_index

    await pool.until(lambda: index() > 0, f"{server} is down")
    return index()


async def confirmed(pool: InProcessPool, server: str, token: str) -> HeartbeatResult:
    """Send a heartbeat to another server, and again with what that asks for."""
    asked = await beat(pool, server, token)
    assert asked.status == "confirm"
    assert asked.down_index is not None
    answer = await pool.heartbeat(server, token, confirm={asked.id: asked.down_index})
    assert not isinstance(answer, Problem)
    return answer[0]


def in_use(pool: InProcessPool, server: str) -> int:
    return pool.server(server).grants.record.in_use.get("cad", 0)


async def seats_are(pool: InProcessPool, expected: dict[str, int]) -> None:
    """Every server soon says so."""
    await pool.until(
        lambda: all(allocated(pool, name) == expected for name in pool.running),
        f"the seats are {expected}",
        within_s=3.0,
    )


def committed(pool: InProcessPool, kind: type[Command], after: int) -> int:
    """How many commands of a kind were committed after a log index."""
    entries = (pool.log.entry(index) for index in range(after + 1, pool.log.index + 1))
    commands = [c for e in entries if e is not None for c in decode_entry(e).commands]
    return sum(isinstance(command, kind) for command in commands)


async def fill(pool: InProcessPool, seats: int = 6) -> dict[str, str]:
    """Have every seat of the pool in use; returns a token of each server."""
    await pool.install({"cad": seats})
    return {name: await take(pool, name, seats // len(pool.names)) for name in pool.names}
