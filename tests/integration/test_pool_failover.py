"""Sixty holders of all seats there are, while a server dies, stands still, or forgets.

A short version of the chaos suite: the same holders, the same verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from chaos.play import Cast, play
from chaos.pool import ChaosPool
from chaos.scenarios import Scenario, Scene, victim_of
from chaos.verdict import Verdict
from support.processes import MakePool, ServerPool, wait_for

pytest_plugins = ["support.pool_fixtures"]

CAST = Cast(holders=60, hungry=6, seed=1, start_s=1.0)
LEASE_S, TTL_S = 1.0, 6.0
BACK_WITHIN_S = 5.0
BUSY_S = 4.0
"""Other tests may run beside: the chaos suite holds the pool to `lease + 2 s`, this to more."""


@pytest.fixture
def pool(make_pool: MakePool) -> ServerPool:
    """A pool with a seat for everybody, and not one more."""
    return make_pool(CAST.seats(full=True), lease_s=LEASE_S, ttl_s=TTL_S)


def kill(scene: Scene) -> None:
    scene.pool.kill(scene.victim)


def start(scene: Scene) -> None:
    scene.pool.start(scene.victim)


def played(scenario: Scenario, pool: ServerPool, tmp_path: Path) -> Verdict:
    """Play a scenario; nothing that the pool promises may have been broken."""
    # These scenarios harm nothing but processes, which any pool of processes can do.
    harmed = cast(ChaosPool, pool)
    scene = Scene(harmed, None, victim_of(scenario, harmed))
    verdict = play(scenario, scene, CAST, tmp_path / "holders.log", BUSY_S)
    print(f"{scenario.name} at {scene.victim}: {verdict}")
    assert verdict.violations == ()
    assert verdict.holders == CAST.holders
    return verdict


def at_home(pool: ServerPool, server: str) -> int:
    """How many authorizations a server has on record, by the word of another."""
    by = next(name for name in pool.names if name != server and pool.running(name))
    return sum(line["server"] == server for line in pool.holders(by))


def test_the_clients_of_a_dead_server_are_adopted_where_nothing_is_free(
    pool: ServerPool, tmp_path: Path
) -> None:
    def adopted(scene: Scene) -> None:
        """All that it had is elsewhere before it could have been reclaimed, and then it is back."""
        assert pool.state_of(scene.victim, scene.others[0]) == "down"
        assert at_home(pool, scene.victim) == 0
        assert len(pool.holders(scene.others[0])) == CAST.holders
        assert all(pool.allocated(scene.others[0], f)[scene.victim] == 0 for f in ("cad", "sim"))
        start(scene)

    verdict = played(Scenario("kill", "leader", kill, adopted, TTL_S - 0.5), pool, tmp_path)
    assert verdict.served >= CAST.holders // 4


def test_a_leader_that_stands_still_for_longer_than_ttl_takes_nothing_back(
    pool: ServerPool, tmp_path: Path
) -> None:
    def pause(scene: Scene) -> None:
        pool.pause(scene.victim)

    def resume(scene: Scene) -> None:
        pool.resume(scene.victim)

    verdict = played(Scenario("stop", "leader", pause, resume, TTL_S + 1.0), pool, tmp_path)
    assert verdict.served >= CAST.holders // 4


def test_a_server_killed_and_restarted_at_once_is_not_missed(
    make_pool: MakePool, tmp_path: Path
) -> None:
    """Within its lease nobody calls it down: nothing is adopted, and nobody is asked to confirm.

    Who asks another server just then waits for the seat to come from where it is.
    """
    pool = make_pool(CAST.seats(full=True), lease_s=4.0, ttl_s=16.0)
    ids: set[str] = set()

    def restart(scene: Scene) -> None:
        ids.update(line["id"] for line in pool.holders(scene.others[0]))
        kill(scene)
        start(scene)
        pool.wait_ready(scene.victim, within_s=BACK_WITHIN_S)
        # The incarnation that it came back as is the next: it was never called down before.
        assert pool.incarnation(scene.victim, scene.others[0]) == 2

    def unchanged(scene: Scene) -> None:
        assert {line["id"] for line in pool.holders(scene.victim)} == ids
        assert at_home(pool, scene.victim) >= CAST.holders // 4
        assert pool.get(scene.victim, "/readyz")["state"] == "serving"

    played(Scenario("restart", "follower", restart, unchanged, 6.0), pool, tmp_path)


def test_a_server_whose_machine_restarted_recovers_by_waiting(
    pool: ServerPool, tmp_path: Path
) -> None:
    def reboot(scene: Scene) -> None:
        kill(scene)
        pool.reboot(scene.victim)
        start(scene)
        wait_for(
            lambda: pool.get(scene.victim, "/readyz").body.get("state") == "recovering",
            BACK_WITHIN_S,
            "it recovers",
        )
        assert pool.checkout(scene.victim).code in ("recovering", "no_seats")

    def serves_again(scene: Scene) -> None:
        wait_for(lambda: pool.ready(scene.victim), TTL_S, "it grants again")

    played(Scenario("reboot", "follower", reboot, serves_again, TTL_S - 2.0), pool, tmp_path)
