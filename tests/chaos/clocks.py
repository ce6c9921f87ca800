"""The wall clock of each server, moved while the server runs, by libfaketime.

May import the standard library only. libfaketime is loaded into a server's process and reads
from a file, at every look at the clock, how far the wall clock is off. The clocks that measure
time, CLOCK_BOOTTIME and CLOCK_MONOTONIC, stay as they are: `unmoved` is the proof.
"""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_PLACES = (
    "/usr/lib/*/faketime/libfaketimeMT.so.1",
    "/usr/lib*/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
)
_PROBE_S = 20.0
_NEAR_S = 5.0
_PROBE = """
import json, sys, time
def look():
    clocks = (time.CLOCK_REALTIME, time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC)
    print(json.dumps([time.clock_gettime(clock) for clock in clocks]), flush=True)
look()
sys.stdin.readline()
look()
"""


def library() -> str | None:
    """Where libfaketime is on this machine, if it is (Debian package `faketime`)."""
    found = [path for place in _PLACES for path in sorted(glob.glob(place))]
    return found[0] if found else None


@dataclass(frozen=True, slots=True)
class WallClocks:
    """The wall clocks of some servers: one file for each in `directory`."""

    library: str
    directory: Path

    def enter(self, name: str) -> list[str]:
        """The beginning of the command of a process that lives by this server's clock."""
        if not self._file(name).exists():
            self.move(name, 0)
        settings = {
            "LD_PRELOAD": self.library,
            "FAKETIME_TIMESTAMP_FILE": str(self._file(name)),
            "FAKETIME_NO_CACHE": "1",
            # Leases are measured on these two, and they are not what is lied about.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            # Else waits of threads end at once, and are begun again and again (seen with 0.9.10).
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "NO_FAKE_STAT": "1",
        }
        return ["env", *(f"{key}={value}" for key, value in settings.items())]

    def move(self, name: str, by_s: int) -> None:
        """Have this server's wall clock be off by so much from now on."""
        aside = self._file(name).with_suffix(".new")
        aside.write_text(f"{by_s:+d}\n", encoding="ascii")
        os.replace(aside, self._file(name))

    def _file(self, name: str) -> Path:
        return self.directory / f"{name}.wall-clock"


def unmoved(clocks: WallClocks, by_s: int) -> list[str]:
    """What is wrong when the wall clock of a running process is moved by so much; [] if nothing.

    The wall clock must follow, and the clocks that measure time must not.
    """
    clocks.move("probe", 0)
    probe = subprocess.Popen(
        [*clocks.enter("probe"), sys.executable, "-c", _PROBE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert probe.stdout is not None
        before = json.loads(probe.stdout.readline())
        clocks.move("probe", by_s)
        said, _ = probe.communicate("\n", timeout=_PROBE_S)
    finally:
        probe.kill()
        probe.wait()
    moved = [after - first for first, after in zip(before, json.loads(said), strict=True)]
    names = ("the wall clock", "CLOCK_BOOTTIME", "CLOCK_MONOTONIC")
    wanted = (by_s, 0, 0)
    return [
        f"{name} went by {went:.0f} s instead of about {want} s"
        for name, went, want in zip(names, moved, wanted, strict=True)
        if abs(went - want) > _NEAR_S
    ]
