"""Short names for the client calls of scenarios; the feature is `cad` throughout."""

from __future__ import annotations

from collections.abc import Callable

from licraft.core.codec import decode_entry
from licraft.core.commands import Command
from licraft.testing import COMMITTED, Fate, InProcessPool
from licraft.wire import Authorization, CheckoutRequest, HeartbeatResult, Problem


async def take(pool: InProcessPool, server: str, count: int = 1, wait: float = 0.0) -> str:
    """Check out seats, which must succeed; returns the token."""
    status, answer = await pool.checkout(server, CheckoutRequest("cad", count, wait))
    assert isinstance(answer, Authorization), answer
    assert status == 201
    return answer.token


async def refused(pool: InProcessPool, server: str, count: int = 1, wait: float = 0.0) -> Problem:
    """Check out seats, which must fail; returns the problem."""
    _, answer = await pool.checkout(server, CheckoutRequest("cad", count, wait))
    assert isinstance(answer, Problem), answer
    return answer


async def beat(pool: InProcessPool, server: str, token: str) -> HeartbeatResult:
    """Send a heartbeat, which the server must understand; returns its result."""
    answer = await pool.heartbeat(server, token)
    assert not isinstance(answer, Problem), answer
    (result,) = answer
    return result


async def keep(pool: InProcessPool, server: str, token: str) -> HeartbeatResult:
    """Send a heartbeat as a client does that is still valid: it confirms what it is asked to."""
    result = await beat(pool, server, token)
    if result.status != "confirm" or result.down_index is None:
        return result
    answer = await pool.heartbeat(server, token, confirm={result.id: result.down_index})
    assert not isinstance(answer, Problem), answer
    return answer[0]


def allocated(pool: InProcessPool, at: str = "") -> dict[str, int]:
    """Where the seats are by the word of the server `at`, without zeros; `free` is the pool."""
    table = pool.server(at or pool.running[0]).state.table.features["cad"]
    parts = {"free": table.free, **table.allocations}
    return {holder: count for holder, count in parts.items() if count}


def fate_of(kind: type[Command], fate: Fate) -> Callable[[str, bytes], Fate]:
    """A script for `SharedLog.fate`: `fate` for entries with this command, else committed."""

    def choose(server: str, command: bytes) -> Fate:
        found = any(isinstance(c, kind) for c in decode_entry(command).commands)
        return fate if found else COMMITTED

    return choose
