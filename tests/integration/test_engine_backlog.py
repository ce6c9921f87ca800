"""A follower that lacks more of the log than a connection may hold still gets all of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from test_engine import Pool

from licraft.replication import guards, link, pysyncobj_engine


def test_a_long_log_reaches_a_follower_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PySyncObj hands over all that a follower lacks at once, and so ended every connection."""
    monkeypatch.setattr(link, "MAX_UNSENT_BYTES", 1_000_000)
    monkeypatch.setattr(guards, "WINDOW_BYTES", 250_000)
    monkeypatch.setattr(pysyncobj_engine, "BATCH_BYTES", 100_000)

    async def scenario() -> None:
        async with Pool(tmp_path) as pool:
            leader = await pool.elected()
            term = pool.engines[leader].status().term
            await pool.stop("gamma")
            for _ in range(30):
                await asyncio.gather(
                    *(pool.engines[leader].propose(bytes(10_000), 5.0) for _ in range(10))
                )
            await pool.start("gamma")
            await pool.same_everywhere()
            assert pool.machines["gamma"].count == 300
            # By the log itself, not by a snapshot of it.
            assert pool.machines["gamma"].restored_at == 0
            assert pool.engines[leader].status().term == term

    asyncio.run(scenario())
