"""How many checkouts and checkins does a pool serve, and how long does each take?

A cycle is a checkout and the checkin of what it gave. It is measured for a pool of
one and of three licraft servers and, in the same run, for three etcd nodes, where
the nearest thing is a transaction that puts a key that must not exist, and its
deletion. All servers of a system share one core, wrk has another; the load goes
to the leader. What is compared is not the same guarantee, and that is the point:

* licraft commits to the majority only moves of seats between servers. The leader
  grants from its allocation in memory and appends to its record without fsync.
* etcd commits every put and delete to the majority, each synced to disk, and is
  asked through its JSON gateway.

Usage: python -m benchmarks.hot_path [--servers 1 3] [--connections 1 64 256]
       [--live 200000] [--seconds 5] [--runs 3] [--no-etcd] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.figures import machine, machine_line
from benchmarks.systems import FEATURE, Target, etcd_cluster, licraft_pool, preload
from benchmarks.wrk_load import Load, median_of, run_wrk, table

_ETCD_NODES = 3


@dataclass(frozen=True, slots=True)
class System:
    """What is measured; `live` authorizations are held while it is."""

    name: str
    servers: int
    live: int = 0

    def start(self) -> AbstractContextManager[Target]:
        """Start it; it runs until the block is left."""
        return etcd_cluster(self.servers) if self.name == "etcd" else licraft_pool(self.servers)


def _drive(system: System, target: Target, connections: int, seconds: int) -> Load:
    if system.name == "etcd":
        script = "etcd_cycle.lua"
        first = secrets.randbelow(1_000_000) * 1_000_000
        environment = {"CONNECTIONS": str(connections), "FIRST": str(first)}
    else:
        script = "licraft_cycle.lua"
        environment = {"LICRAFT_TOKEN": target.token, "LICRAFT_FEATURE": FEATURE}
    return run_wrk(f"{target.url}/", script, connections, seconds, environment)


def _one_run(system: System, connections: list[int], seconds: int) -> Iterator[tuple[int, Load]]:
    with system.start() as target:
        preload(target, system.live)
        _drive(system, target, 8, 1)  # warm
        for number in connections:
            yield number, _drive(system, target, number, seconds)


def _measure(
    systems: list[System], connections: list[int], seconds: int, runs: int
) -> dict[tuple[System, int], Load]:
    loads: dict[tuple[System, int], list[Load]] = {}
    for run in range(runs):
        for system in systems:
            print(f"run {run + 1} of {runs}: {system}", file=sys.stderr)
            for number, load in _one_run(system, connections, seconds):
                loads.setdefault((system, number), []).append(load)
    return {key: median_of(found) for key, found in loads.items()}


def _row(system: System, connections: int, load: Load) -> list[str]:
    return [
        system.name,
        str(system.servers),
        f"{system.live:,}",
        str(connections),
        f"{load.cycles_per_s:,.0f}",
        f"{load.p50_ms:.2f}",
        f"{load.p99_ms:.2f}",
        str(load.errors + load.refused),
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--servers", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--live", type=int, default=0, help="authorizations held meanwhile")
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-etcd", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = _options()
    if shutil.which("wrk") is None:
        sys.exit("wrk is needed (Debian: apt-get install wrk)")
    systems = [System("licraft", servers, options.live) for servers in options.servers]
    if options.no_etcd:
        pass
    elif shutil.which("etcd") is None:
        print("etcd is not installed (Debian: apt-get install etcd-server)", file=sys.stderr)
    else:
        systems.append(System("etcd", _ETCD_NODES))
    results = _measure(systems, options.connections, options.seconds, options.runs)
    heads = ["system", "servers", "live", "connections", "cycles/s", "p50 ms", "p99 ms", "errors"]
    print((__doc__ or "").split("Usage:")[0].split("\n", 2)[2])
    print(machine_line())
    print(f"Median of {options.runs} runs of {options.seconds} s; latencies are of one request.\n")
    rows = [_row(system, number, load) for (system, number), load in results.items()]
    print(table(heads, rows))
    if options.json:
        document = {
            "machine": machine(),
            "seconds": options.seconds,
            "runs": options.runs,
            "results": [
                asdict(system)
                | {"connections": number, "cycles_per_s": load.cycles_per_s}
                | asdict(load)
                for (system, number), load in results.items()
            ],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
