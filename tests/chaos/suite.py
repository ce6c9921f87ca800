"""Plays the scenarios on real servers and prints what came of it: `python -m tests.chaos`.

May import the other modules of this folder. Exit status 0 if every promise was kept, 1 if
one was broken, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from support.processes import wait_for

from chaos.network import Network, NotPossible, enter_own_world
from chaos.play import Cast, play
from chaos.pool import ChaosPool
from chaos.reports import FAR, NEAR
from chaos.scenarios import Scenario, Scene, every, some, victim_of
from chaos.verdict import Verdict

LEASE_S, TTL_S = 1.5, 12.0
HUNGRY = 20
START_S = 4.0
SETTLED_S = 30.0

_TITLE = (
    f"{'scenario':<26} {'victim':<6} {'holders':>7} {'lost':>5} {'ran out':>7} {'served':>6}"
    f" {'p50':>6} {'p99':>6} {'worst':>6} {'over-issued':>11} {'healed after':>12}"
)


def main() -> int:
    """Play what the command line says."""
    options = _options()
    scenarios = every(TTL_S) if options.all or options.scenario else some(TTL_S)
    if options.scenario:
        scenarios = [s for s in scenarios if any(s.name.startswith(n) for n in options.scenario)]
        if not scenarios:
            names = "\n  ".join(s.name for s in every(TTL_S))
            print(f"no such scenario; there are\n  {names}", file=sys.stderr)
            return 2
    network = None
    try:
        enter_own_world()
        network = Network(["alpha", "beta", "gamma", NEAR, FAR])
    except NotPossible as reason:
        skipped = [s.name for s in scenarios if s.cuts]
        print(f"skipped, since {reason}: {', '.join(skipped) or 'nothing'}", flush=True)
        scenarios = [s for s in scenarios if not s.cuts]
    cast = Cast(options.holders, HUNGRY, options.seed, START_S)
    print(f"seed {cast.seed}, {cast.holders} holders, lease {LEASE_S:g} s, ttl {TTL_S:g} s")
    print(_TITLE, flush=True)
    broken = 0
    for scenario in scenarios:
        victim, verdict = _on_a_new_pool(scenario, network, cast)
        print(_row(scenario, victim, verdict), flush=True)
        for violation in verdict.violations:
            print(f"  VIOLATED: {violation}", flush=True)
        broken += bool(verdict.violations)
    print(f"{len(scenarios)} scenarios, {broken} with violations")
    return 1 if broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="A thousand holders on three servers, which are killed, stopped and cut off.",
        epilog="served: the holders of the victim, and the seconds from their next heartbeat to"
        " its success; ran out: holders cut off with the victim, whose seats ended by ttl",
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    parser.add_argument("--holders", type=int, default=1000)
    parser.add_argument("--all", action="store_true", help="each kind at each server, twice")
    parser.add_argument(
        "--scenario", action="append", metavar="NAME", help="only those that begin so; repeatable"
    )
    return parser.parse_args()


def _on_a_new_pool(scenario: Scenario, network: Network | None, cast: Cast) -> tuple[str, Verdict]:
    """Play one scenario on a pool of its own; who was hit, and what came of it."""
    with tempfile.TemporaryDirectory(prefix="licraft-chaos-") as folder:
        pool = ChaosPool(Path(folder) / "pool", network, lease_s=LEASE_S, ttl_s=TTL_S)
        try:
            pool.start()
            pool.wait_ready()
            # It gives its place to the first by priority, which must not happen in the middle.
            wait_for(lambda: pool.leader() == pool.names[0], SETTLED_S, "the first leads")
            pool.install(cast.seats(scenario.full))
            scene = Scene(pool, network, victim_of(scenario, pool))
            return scene.victim, play(scenario, scene, cast, Path(folder) / "holders.log")
        except BaseException:
            print(pool.logs(), file=sys.stderr)
            raise
        finally:
            if network is not None:
                network.mend()
            pool.close()


def _row(scenario: Scenario, victim: str, v: Verdict) -> str:
    healed = "never" if v.healed_after_s == float("inf") else f"{v.healed_after_s:.1f} s"
    return (
        f"{scenario.name:<26} {victim:<6} {v.holders:>7} {v.lost:>5} {v.ran_out:>7} {v.served:>6}"
        f" {v.p50_s:>6.2f} {v.p99_s:>6.2f} {v.worst_s:>6.2f} {v.over_issued:>11} {healed:>12}"
    )
