"""What does a pool cost that does nothing, and does it stay so over a million commits?

Three real servers at default settings, with a license and no clients: the processor time
of each in percent of one core, and how its memory grows.

With --commits: three engines beside a state of 1,000 features and 9 servers commit
renewals of leases, 64 outstanding, while the log is compacted again and again (every
5,000 entries, by default). Printed are memory after one, five and ten tenths and, from
the second tenth on, the longest pauses of the event loop, seen from inside each process:
on the wall's clock, in processor time of the loop's thread, and how much of it was the
encoding of the state for a snapshot and the collection of garbage.

Usage: python -m benchmarks.idle [--seconds 60] [--commits 1000000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.figures import machine, machine_line
from benchmarks.lag import Pause
from benchmarks.long_log import FEATURES, SERVERS, Health, resident_bytes, run_long
from benchmarks.members import NAMES, Members, members, write_certificates
from benchmarks.systems import FEATURE, licraft_servers
from benchmarks.wrk_load import table

_SETTLE_S = 10.0
_LEAST_PER_S = 100
_CAUGHT_UP_S = 60.0
_MIB = 1024 * 1024
_NO_PAUSE = Pause(0.0, 0.0, {})


@dataclass(frozen=True, slots=True)
class Idle:
    """One idle server: percent of a core, memory before and after (bytes)."""

    cpu_percent: float
    rss_before: int
    rss_after: int


@dataclass(frozen=True, slots=True)
class Long:
    """One member: memory after each tenth (bytes), snapshots and pauses since the first."""

    rss: tuple[int, ...]
    snapshots: int
    longest: Pause
    longest_cpu: Pause
    longest_other: Pause


def idle(seconds: float) -> dict[str, Idle]:
    """What three idle servers use."""
    with licraft_servers(len(NAMES), {FEATURE: 100}) as pool:
        print(f"settling for {_SETTLE_S:.0f} s, then idle for {seconds:.0f} s", file=sys.stderr)
        time.sleep(_SETTLE_S)  # A pool that has just elected is not idle yet.
        pids = {name: node.pid for name, node in pool.nodes.items()}
        before = {name: (_cpu_s(pid), resident_bytes(pid)) for name, pid in pids.items()}
        started = time.perf_counter()
        time.sleep(seconds)  # Idling is what is measured.
        found = {}
        for name, pid in pids.items():
            cpu_s, rss = before[name]
            passed_s = time.perf_counter() - started
            percent = 100 * (_cpu_s(pid) - cpu_s) / passed_s
            found[name] = Idle(percent, rss, resident_bytes(pid))
        return found


def long(commits: int) -> tuple[float, dict[str, Long]]:
    """Commits per second, and each member's memory and pauses."""
    with tempfile.TemporaryDirectory(prefix="licraft-bench-") as place:
        directory = Path(place)
        certificates = write_certificates(directory)
        tenth = max(1, commits // 10)
        with members(run_long, directory, certificates, tenth) as running:
            leader = running.leader()
            running.ask(leader, "fill", 60)
            tenths = [_committed(running, leader, tenth, 1)]
            # By now all is loaded, and the caches are full.
            started = time.perf_counter()
            tenths += [_committed(running, leader, tenth, number) for number in range(2, 11)]
            rate = 9 * tenth / (time.perf_counter() - started)
    return rate, {name: _long([healths[name] for healths in tenths]) for name in NAMES}


def _committed(running: Members, leader: str, commits: int, tenth: int) -> dict[str, Health]:
    """Commit a tenth; every member's health afterwards."""
    running.ask(leader, "commit", 60 + commits / _LEAST_PER_S)
    print(f"{tenth * commits:,} commits", file=sys.stderr)
    return _healths(running)


def _healths(running: Members) -> dict[str, Health]:
    """Every member's health, once all have applied the same."""
    deadline = time.monotonic() + _CAUGHT_UP_S
    pauses: dict[str, tuple[Pause, ...]] = dict.fromkeys(NAMES, ())
    while time.monotonic() < deadline:
        found: dict[str, Health] = {name: running.ask(name, "health") for name in NAMES}
        for name, health in found.items():
            pauses[name] += health.pauses
        if len({health.applied_index for health in found.values()}) == 1:
            return {
                name: Health(h.rss, h.applied_index, h.snapshots, pauses[name])
                for name, h in found.items()
            }
        time.sleep(0.1)
    sys.exit(f"the members did not apply the same within {_CAUGHT_UP_S:.0f} s")


def _long(tenths: Sequence[Health]) -> Long:
    pauses = [pause for health in tenths[1:] for pause in health.pauses]
    others = [pause for pause in pauses if "encoding" not in pause.parts_ms]
    return Long(
        tuple(health.rss for health in tenths),
        tenths[-1].snapshots - tenths[0].snapshots,
        max(pauses, key=lambda pause: pause.wall_ms, default=_NO_PAUSE),
        max(pauses, key=lambda pause: pause.cpu_ms, default=_NO_PAUSE),
        max(others, key=lambda pause: pause.wall_ms, default=_NO_PAUSE),
    )


def _cpu_s(pid: int) -> float:
    """Processor time that a process has used, in user and in system mode (s)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _mib(count: int) -> str:
    return f"{count / _MIB:.1f}"


def _idle_table(found: dict[str, Idle]) -> str:
    heads = ["server", "% of a core", "MiB before", "MiB after", "growth KiB"]
    rows = [
        [
            name,
            f"{i.cpu_percent:.2f}",
            _mib(i.rss_before),
            _mib(i.rss_after),
            f"{(i.rss_after - i.rss_before) / 1024:+.0f}",
        ]
        for name, i in found.items()
    ]
    return table(heads, rows)


def _memory_table(found: dict[str, Long]) -> str:
    heads = ["member", "MiB at 10 %", "at 50 %", "at 100 %", "snapshots"]
    rows = [
        [name, *(_mib(one.rss[tenth - 1]) for tenth in (1, 5, 10)), str(one.snapshots)]
        for name, one in found.items()
    ]
    return table(heads, rows)


def _pause_table(found: dict[str, Long]) -> str:
    heads = ["member", "pause", "wall ms", "CPU ms", "encoding ms", "garbage ms"]
    rows = []
    for name, one in found.items():
        kinds = {
            "longest": one.longest,
            "most CPU": one.longest_cpu,
            "longest without a snapshot": one.longest_other,
        }
        for kind, pause in kinds.items():
            parts_ms = [pause.parts_ms.get(part, 0.0) for part in ("encoding", "garbage")]
            times_ms = [pause.wall_ms, pause.cpu_ms, *parts_ms]
            rows.append([name, kind, *(f"{ms:.1f}" for ms in times_ms)])
    return table(heads, rows)


def main() -> None:
    """Measure, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of idling; 0: leave it out")
    parser.add_argument("--commits", type=int, default=0, help="through three engines; 0: none")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    document: dict[str, object] = {"machine": machine()}
    print(machine_line())
    if options.seconds:
        servers = idle(options.seconds)
        print(f"\nThree idle servers over {options.seconds:g} s:\n\n{_idle_table(servers)}")
        document["idle"] = {name: asdict(one) for name, one in servers.items()}
        document["seconds"] = options.seconds
    if options.commits:
        rate, found = long(options.commits)
        print(
            f"\n{options.commits:,} commits beside {FEATURES:,} features and {SERVERS} servers, "
            f"{rate:,.0f} a second:\n\n{_memory_table(found)}\n\n{_pause_table(found)}"
        )
        document["long"] = {name: asdict(one) for name, one in found.items()}
        document["commits"] = options.commits
        document["commits_per_s"] = rate
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
