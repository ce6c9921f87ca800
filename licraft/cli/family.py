"""A command and every process that it has started, however far down: ended together.

May import the standard library only. When a seat is lost, a job script's program must end
and not only the script. The command stays in our process group, as a terminal and a
scheduler expect, so its family is found by who has started whom. On Linux we become the
parent of those whose parent ends (prctl(2), PR_SET_CHILD_SUBREAPER), so that nobody is lost
from sight by that; elsewhere the family is the command alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_LINUX = sys.platform == "linux"


class Family:
    """The processes below `command`, a child of this one that has not been waited for.

    Whoever had left before, as a daemon does, is not of the family.
    """

    def __init__(self, command: int) -> None:
        self._command = command
        if _LINUX:
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        own = {command, *_descendants(command)}
        self._others = frozenset(_descendants(os.getpid())) - own

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of them; who is started meanwhile is met by the next one."""
        for pid in self._members():
            try:
                os.kill(pid, number)
            except (ProcessLookupError, PermissionError):
                pass  # It has ended, or has become another user's: not ours to end.

    def reap(self) -> tuple[int | None, bool]:
        """Bury who has ended; the command's status if it is among them, and if any are left."""
        status, left = None, False
        for pid in self._members():
            try:
                ended, found = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                left = left or Path(f"/proc/{pid}").exists()  # another one's child
                continue
            left = left or not ended
            if ended == self._command:
                status = found
        return status, left

    def _members(self) -> list[int]:
        if not _LINUX:
            return [self._command]
        return [pid for pid in _descendants(os.getpid()) if pid not in self._others]


def _descendants(ancestor: int) -> list[int]:
    """Every process below one, parents before their children."""
    if not _LINUX:
        return []
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    waiting = [ancestor]
    while waiting:
        below = children.get(waiting.pop(0), [])
        found += below
        waiting += below
    return found


def _parents() -> Iterator[tuple[int, int]]:
    """Every process of the machine and its parent, by proc(5)."""
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                stat = Path(entry.path, "stat").read_bytes()
            except OSError:
                continue  # it has ended since
            # The name, in parentheses, may itself have parentheses and spaces.
            yield int(entry.name), int(stat.rpartition(b")")[2].split()[1])
