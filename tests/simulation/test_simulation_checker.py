"""What looks for broken rules in a simulation sees them, and sees none where there are none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from unittest.mock import patch

import pytest
from support.scenario_calls import take

from licraft.core.commands import Audited, InstallLicense
from licraft.core.license import packed
from licraft.core.table import FeaturePool
from licraft.server.failover import Failover
from licraft.testing import InProcessPool, run_virtual
from licraft.vendor.license_file import parse_license_file
from licraft.wire import HeartbeatResult
from simulation.checkers import Checker
from simulation.holders import Holders
from simulation.run import SafetyBroken, plan, run_plan

SEATS = 4


def test_seats_that_an_earlier_license_of_the_same_entry_deployed_may_stay() -> None:
    assert run_virtual(_licenses_in_one_entry((1, 8), (2, 1))) == ""


@pytest.mark.parametrize(
    "licenses",
    [
        pytest.param([(1, 9)], id="by the license in force"),
        pytest.param([(1, 9), (2, 1)], id="by an earlier one of the same entry"),
        pytest.param([(2, 9), (1, 20)], id="by one of the same entry that was refused"),
    ],
)
def test_more_seats_than_were_granted_are_noticed(licenses: list[tuple[int, int]]) -> None:
    grow = FeaturePool.grow

    def grow_too_far(self: FeaturePool, servers: Sequence[str]) -> int:
        with patch.object(FeaturePool, "goal", self.entitled + (self.entitled == 9)):
            return grow(self, servers)

    with patch.object(FeaturePool, "grow", grow_too_far):
        assert "10 of cad deployed" in run_virtual(_licenses_in_one_entry(*licenses))


def test_a_holder_that_loses_its_seat_though_all_faults_are_mended_is_noticed() -> None:
    chosen = plan(1, servers=3, clients=9, calm_s=1e9, wanders=1.0, hedges=0.0, duration_s=10.0)
    run_plan(chosen)

    def turned_away(self: Failover, token: str, confirm: object) -> HeartbeatResult:
        return HeartbeatResult("", "lost")

    broken = pytest.raises(SafetyBroken, match="were lost though all faults were mended")
    with patch.object(Failover, "heartbeat", turned_away), broken:
        run_plan(chosen)


def test_a_server_that_does_not_serve_again_is_noticed() -> None:
    chosen = plan(
        1, servers=3, clients=5, calm_s=5.0, faults=("crash",), records=("torn",), duration_s=20.0
    )
    run_plan(chosen)

    def an_hour_later(started_s: float, ttl_s: float, drift: float) -> float:
        return started_s + 3600.0

    broken = pytest.raises(SafetyBroken, match="not all servers serve again")
    with patch("licraft.server.standing.recovery_end", an_hour_later), broken:
        run_plan(chosen)


async def _licenses_in_one_entry(*licenses: tuple[int, int]) -> str:
    """Install licenses, each (newer by, seats), at once; returns what the checker has found."""
    async with InProcessPool(3, threshold=1.0) as pool:
        checker = Checker(pool, Holders())
        await pool.install({"cad": SEATS})
        pool.log.on_applied = checker.applied
        await pool.install({"cad": SEATS})
        await take(pool, "beta", 2)
        server = pool.server("alpha")
        now = pool.sequence + 1
        texts = [
            pool.license_text({"cad": seats}, sequence=now + by)
            for by, seats in ((0, SEATS), *licenses)
        ]
        files = [packed(parse_license_file(text, [pool.key.public])) for text in texts]
        # A server proposes one license after the other, but an entry may bring several. While
        # the first one is proposed the others wait, and then they are one entry.
        before = pool.log.index
        await asyncio.gather(
            *(
                server.proposer.submit(Audited("ann", "10.0.0.7", InstallLicense(file)))
                for file in files
            )
        )
        entries = [pool.log.entry(index) for index in range(before + 1, pool.log.index + 1)]
        counts = [entry.count(b"InstallLicense") for entry in entries if entry is not None]
        assert sum(counts) == 1 + len(licenses)
        assert max(counts) >= len(licenses)
        assert server.state.license.sequence == now + max(by for by, _ in licenses)
        return str(checker.fault or "")
