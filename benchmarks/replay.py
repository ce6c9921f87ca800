"""What servers that were killed have on their disks: the state that each would come back with.

May import the engine and the server room's state machine. Each data directory is opened
by a lone engine, which applies what it knows to be committed; the digests of the states
are noted index by index, so that servers that are not equally far can be compared.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from licraft.core.outcomes import Applied
from licraft.replication.pysyncobj_engine import EngineConfig, start_engine
from licraft.server.pool import ReplicatedPool

_WITHIN_S = 60.0


class _Noting(ReplicatedPool):
    """The pool's state machine, which notes its digest after each entry."""

    def __init__(self) -> None:
        super().__init__()
        self.digests: dict[int, str] = {}

    def apply(self, index: int, command: bytes) -> Applied:
        """Apply, and note the state's digest."""
        applied = super().apply(index, command)
        self.digests[index] = self.digest()
        return applied

    def restore(self, index: int, snapshot: bytes) -> None:
        """Start from a snapshot."""
        super().restore(index, snapshot)
        self.digests[index] = self.digest()


async def digests_of(
    pool: str, server: str, members: Mapping[str, str], data_dir: Path
) -> dict[int, str]:
    """The state's digest by log index, as far as this server knows the log to be committed.

    `members` are addresses at which nobody listens. SystemExit if it takes too long.
    """
    machine = _Noting()
    config = EngineConfig(pool, server, members, data_dir)
    engine = await start_engine(config, machine, _no_answer, _no_change)
    try:
        deadline = time.monotonic() + _WITHIN_S
        while (status := engine.status()).applied_index < status.commit_index:
            if time.monotonic() > deadline:
                sys.exit(f"{server} did not apply its log within {_WITHIN_S:.0f} s: {status}")
            await asyncio.sleep(0.02)
    finally:
        await engine.close()
    return machine.digests


def last_common(digests: Mapping[str, Mapping[int, str]]) -> tuple[int, set[str]]:
    """The last log index that all servers reached, and their digests there; (0, none) if none."""
    common = set.intersection(*(set(by_index) for by_index in digests.values()))
    if not common:
        return 0, set()
    index = max(common)
    return index, {by_index[index] for by_index in digests.values()}


async def _no_answer(server: str, body: bytes) -> bytes:
    return b""


def _no_change() -> None:
    """Nobody here follows elections."""
