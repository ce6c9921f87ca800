"""Plays the scenarios on real servers and prints what came of it: `python -m tests.chaos`.

May import the other modules of this folder. With `--minutes` it plays one long run instead
(`continuous`). Exit status 0 if every promise was kept, 1 if one was broken or the run was
cut short, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import random
import shlex
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from support.processes import wait_for

from chaos import continuous
from chaos.network import Network, NotPossible, enter_own_world, private
from chaos.play import Cast, play
from chaos.pool import ChaosPool, Machine, own_clocks
from chaos.reports import FAR, NEAR
from chaos.scenarios import Scenario, Scene, every, some, victim_of
from chaos.verdict import Verdict
from licraft.pool_files import NAMES

LEASE_S, TTL_S = 1.5, 12.0
HOLDERS, LONG_HOLDERS = 1000, 300
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
    # As Ctrl-C: what was started is ended, and what was seen is told.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    if options.report:
        return 1 if continuous.show(options.report).violations else 0
    scenarios = _chosen(options)
    if not scenarios:
        names = "\n  ".join(s.name for s in every(TTL_S))
        print(f"no such scenario; there are\n  {names}", file=sys.stderr)
        return 2
    machine = _machine(options.servers)
    try:
        if options.minutes is not None:
            return continuous.run(_long_run(options), machine)
        return _play_all(scenarios, machine, options)
    except KeyboardInterrupt:
        print("interrupted: servers, clients, namespaces and disks are gone", file=sys.stderr)
        return 130


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="A thousand holders on three servers, which are killed, stopped, cut off,"
        " given wrong clocks and full disks. With --minutes: one pool for a long time, with"
        " faults of all kinds drawn from the seed, and a report as an HTML file.",
        epilog="served: the holders of the victim, and the seconds from their next heartbeat to"
        " its success; ran out: holders cut off with the victim, whose seats ended by ttl",
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    parser.add_argument("--holders", type=int, help="default: 1000, and 300 with --minutes")
    parser.add_argument("--all", action="store_true", help="each kind at each server, twice")
    parser.add_argument(
        "--scenario", action="append", metavar="NAME", help="only those that begin so; repeatable"
    )
    parser.add_argument("--minutes", type=float, help="play one long run of so many minutes")
    parser.add_argument("--servers", type=int, choices=(3, 5), default=3, help="with --minutes")
    parser.add_argument("--out", type=Path, help="where a long run's history and report go")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="judge the history in DIR again, play nothing"
    )
    return parser.parse_args()


def _chosen(options: argparse.Namespace) -> list[Scenario]:
    if not options.scenario:
        return every(TTL_S) if options.all else some(TTL_S)
    return [s for s in every(TTL_S) if any(s.name.startswith(name) for name in options.scenario)]


def _machine(servers: int) -> Machine:
    """What of its own each server can be given here; says what is skipped, and why."""
    network, clocks = None, True
    try:
        enter_own_world()
        network = Network([*NAMES[:servers], NEAR, FAR])
    except NotPossible as reason:
        print(f"skipped, since {reason}: all cuts and full disks", flush=True)
    try:
        with tempfile.TemporaryDirectory(prefix="licraft-clock-", dir=private()) as folder:
            own_clocks(Path(folder))
    except NotPossible as reason:
        print(f"skipped, since {reason}: all that moves wall clocks", flush=True)
        clocks = False
    return Machine(network, clocks, own_disks=network is not None)


def _long_run(options: argparse.Namespace) -> continuous.Run:
    holders = options.holders or LONG_HOLDERS
    arguments = f"--minutes {options.minutes:g} --seed {options.seed} --holders {holders}"
    arguments += f" --servers {options.servers}" if options.servers != 3 else ""
    started = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return continuous.Run(
        options.seed,
        options.minutes * 60,
        options.servers,
        holders,
        LEASE_S,
        TTL_S,
        (options.out or Path("build") / "chaos" / f"{started}-seed-{options.seed}").absolute(),
        f"make chaos ARGS={shlex.quote(arguments)}",
    )


def _play_all(scenarios: list[Scenario], machine: Machine, options: argparse.Namespace) -> int:
    """Play the scenarios, each on a new pool, and print a row for each."""
    can = {"network": machine.network is not None, "disk": machine.own_disks}
    can["clock"] = machine.own_clocks
    skipped = [s.name for s in scenarios if not all(can[need] for need in s.needs)]
    if skipped:
        print(f"skipped: {', '.join(skipped)}", flush=True)
    scenarios = [s for s in scenarios if s.name not in skipped]
    cast = Cast(options.holders or HOLDERS, HUNGRY, options.seed, START_S)
    print(f"seed {cast.seed}, {cast.holders} holders, lease {LEASE_S:g} s, ttl {TTL_S:g} s")
    print(_TITLE, flush=True)
    broken = 0
    for scenario in scenarios:
        victim, verdict = _on_a_new_pool(scenario, machine, cast)
        print(_row(scenario, victim, verdict), flush=True)
        for violation in verdict.violations:
            print(f"  VIOLATED: {violation}", flush=True)
        broken += bool(verdict.violations)
    print(f"{len(scenarios)} scenarios, {broken} with violations")
    return 1 if broken else 0


def _on_a_new_pool(scenario: Scenario, machine: Machine, cast: Cast) -> tuple[str, Verdict]:
    """Play one scenario on a pool of its own; who was hit, and what came of it."""
    network = machine.network
    with tempfile.TemporaryDirectory(prefix="licraft-chaos-", dir=private()) as folder:
        given = Machine(network, "clock" in scenario.needs, "disk" in scenario.needs)
        pool = ChaosPool(Path(folder) / "pool", given, lease_s=LEASE_S, ttl_s=TTL_S)
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
