"""Drives wrk with one of our Lua scripts, and reads what it counted.

May import the standard library only. wrk is ended by its own duration; a run that
does not end is killed soon after.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk counted; a cycle is two requests. Latencies are per request."""

    begun: int
    done: int
    refused: int
    errors: int
    seconds: float
    requests: int
    p50_ms: float
    p99_ms: float

    @property
    def requests_per_s(self) -> float:
        """Answers in a second."""
        return self.requests / self.seconds

    @property
    def cycles_per_s(self) -> float:
        """Completed cycles in a second."""
        return self.done / self.seconds


def pinned(core: int, command: Sequence[str]) -> list[str]:
    """The command, kept on one core where the machine has several."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2 or shutil.which("taskset") is None:
        return list(command)
    return ["taskset", "--cpu-list", str(cores[core % len(cores)]), *command]


def run_wrk(
    url: str, script: str, connections: int, seconds: int, environment: dict[str, str]
) -> Load:
    """One run of wrk: one thread, on the second core."""
    command = ["wrk", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{seconds}s", "--timeout", "5s", "--latency"]
    command += ["--script", str(HERE / script), url]
    finished = subprocess.run(
        pinned(1, command),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=seconds + 30,
        check=False,
    )
    for line in finished.stdout.splitlines():
        if line.startswith("RESULT "):
            return Load(**json.loads(line.removeprefix("RESULT ")))
    sys.exit(f"wrk gave no result:\n{finished.stdout}\n{finished.stderr}")


def median_of(loads: Sequence[Load]) -> Load:
    """The run in the middle by cycles, with the errors and refusals of all runs."""
    ordered = sorted(loads, key=lambda load: load.cycles_per_s)
    middle = ordered[(len(ordered) - 1) // 2]
    return Load(
        begun=middle.begun,
        done=middle.done,
        refused=sum(load.refused for load in loads),
        errors=sum(load.errors for load in loads),
        seconds=middle.seconds,
        requests=middle.requests,
        p50_ms=statistics.median(load.p50_ms for load in loads),
        p99_ms=statistics.median(load.p99_ms for load in loads),
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    lines = []
    for row in [heads, ["-" * width for width in widths], *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
