"""What a command has started, however far down: all of it, to be ended together.

May import the standard library only. When a seat is lost, a job script's program must end
and not only the script. The command stays in our process group, as a terminal and a
scheduler expect, so its family is found by who has started whom. On Linux we become the
parent of those whose parent ends (prctl(2), PR_SET_CHILD_SUBREAPER), so that nobody is lost
from sight, not even a daemon; elsewhere the family is the command alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_LINUX = sys.platform == "linux"


class _Process(NamedTuple):
    """A process; its number may be another's later, but not with the same start."""

    pid: int
    started: int


class Family:
    """The processes that this one starts from now on, and all that those start."""

    def __init__(self) -> None:
        if _LINUX:
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        # A script may have started others before it became us: they are not the command's.
        self._others = frozenset(_descendants(os.getpid(), frozenset()))
        self._beyond: set[_Process] = set()
        self._command: int | None = None

    def add(self, command: int) -> None:
        """A child of ours that leads the family."""
        self._command = command

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of them; who is started meanwhile is met by the next one."""
        for process in self._members():
            try:
                os.kill(process.pid, number)
            except ProcessLookupError:
                pass  # it has ended
            except PermissionError:
                self._beyond.add(process)  # it has become another user's: not ours to end

    def bury(self) -> int | None:
        """Take note of all who have ended; the status of the command if it is among them."""
        status = None
        while True:
            try:
                ended, found = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return status
            if not ended:
                return status
            if ended == self._command:
                status, self._command = found, None

    def lives(self) -> bool:
        """Whether anybody of it is left whom we can end."""
        return any(process not in self._beyond for process in self._members())

    def _members(self) -> list[_Process]:
        if _LINUX:
            return _descendants(os.getpid(), self._others)
        return [] if self._command is None else [_Process(self._command, 0)]


def _descendants(ancestor: int, without: frozenset[_Process]) -> list[_Process]:
    """Every process below one, parents before their children; none below some others."""
    if not _LINUX:
        return []
    children: dict[int, list[_Process]] = {}
    for process, parent in _processes():
        if process not in without:
            children.setdefault(parent, []).append(process)
    found: list[_Process] = []
    waiting = [ancestor]
    while waiting:
        below = children.get(waiting.pop(0), [])
        found += below
        waiting += [process.pid for process in below]
    return found


def _processes() -> Iterator[tuple[_Process, int]]:
    """Every process of the machine and its parent, by proc(5)."""
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                stat = Path(entry.path, "stat").read_bytes()
            except OSError:
                continue  # it has ended since
            # The name, in parentheses, may itself have parentheses and spaces.
            fields = stat.rpartition(b")")[2].split()
            yield _Process(int(entry.name), int(fields[19])), int(fields[1])
