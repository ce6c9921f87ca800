"""What every benchmark says about its figures: their spread, and the machine that made them.

May import the standard library only. Figures of two machines, or of two Pythons, cannot
be compared, so each table and each JSON names both.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_OPTIMIZATIONS = "--enable-optimizations"


@dataclass(frozen=True, slots=True)
class Spread:
    """How measured values lie: their number, median, 99th percentile and worst; one unit."""

    count: int
    median: float
    p99: float
    worst: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value; the percentile is the nearest rank's."""
        ordered = sorted(values)
        nearest = ordered[math.ceil(0.99 * len(ordered)) - 1]
        return cls(len(ordered), statistics.median(ordered), nearest, ordered[-1])


def machine() -> dict[str, str | int | bool]:
    """What made the figures: system, processor, cores that may be used, Python and its build."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "optimized_python": is_optimized(sysconfig.get_config_var("CONFIG_ARGS")),
    }


def machine_line() -> str:
    """The machine in one line, for a table."""
    found = machine()
    with_or_without = "with" if found["optimized_python"] else "WITHOUT"
    return (
        f"{found['system']}; {found['processor']}, {found['cores']} cores; {found['python']} "
        f"configured {with_or_without} {_OPTIMIZATIONS}"
    )


def is_optimized(configure_arguments: str | None) -> bool:
    """Whether a Python that was configured so says that it was built with optimizations.

    One that was not is about 20 % slower. Some distributions optimize by other means,
    which leave no trace here: "without" says only what configure was told.
    """
    return _OPTIMIZATIONS in (configure_arguments or "")


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
