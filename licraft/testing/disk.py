"""A disk in memory that loses what was not synced: power cuts, kills, full and failing disks.

May import the standard library only; it stands in the place of `replication.files.Disk`,
and knows nothing of what is written. Deterministic: all chance comes from the given
`random.Random`. Calls must come one at a time (no lock), as they do when a simulation runs
a journal's `begin_sync` work itself. How to use it:

    disk = MemoryDisk(random.Random(seed))
    journal = DurableJournal(Path("/data"), "pool", "alpha", disk)
    store = SnapshotStore(Path("/data"), "pool", members, disk)
    ...
    disk.crash()         # `kill -9`: files stay as they are, whoever had them open is gone
    disk.lose_power()    # what was synced stays, and an arbitrary part of the rest
    journal = DurableJournal(...)   # and start again, from the same `disk`

Journals and stores from before must not be used any more: their open files are gone. To
strike within a call, say what happens at a step; `disk.steps` counts them:

    disk.on_step = lambda step: Fault.CUT if step.number == 17 else None

`Fault.CUT` raises `PowerCut` (a BaseException, so that no handler of errors takes it for
one), and so does every later call until `crash` or `lose_power`. The other faults are
errors and oddities that a process lives to see. `capacity_bytes` makes a disk that fills up.
"""

from __future__ import annotations

import enum
import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_SECTOR_BYTES = (1, 8, 64, 512)


class PowerCut(BaseException):
    """The machine, or the process, ended in the middle of a call."""


class Fault(enum.Enum):
    """What may happen at a step."""

    CUT = "cut"  # Nothing of the step, or of a write some of it; PowerCut.
    NO_SPACE = "no space"  # Nothing of the step; ENOSPC. A sync fails as for IO_ERROR.
    IO_ERROR = "i/o error"  # EIO. A sync has lost what it should have kept, and never tries again.
    SHORT = "short"  # A write takes a part only, at least a byte; else nothing unusual.
    LIE = "lie"  # A sync says yes and does nothing; else nothing unusual.


class Step(NamedTuple):
    """One call of the disk: its number (from 1 on), its name, and the file or directory."""

    number: int
    call: str
    path: Path


class _File:
    """A file without its name: as processes see it, and as the platter has it.

    Files only grow, so `platter` is as `cached` was at the last sync, except where that
    sync failed.
    """

    def __init__(self) -> None:
        self.cached = bytearray()
        self.platter = bytearray()

    @property
    def unsynced(self) -> bytes:
        """What was written since the last sync."""
        return bytes(self.cached[len(self.platter) :])


class MemoryDisk:
    """See the module's text; the calls are those of `replication.files.Disk`."""

    def __init__(self, rng: random.Random, *, capacity_bytes: int | None = None) -> None:
        self.steps = 0
        self.on_step: Callable[[Step], Fault | None] | None = None
        self.capacity_bytes = capacity_bytes
        self._rng = rng
        self._names: dict[Path, _File] = {}
        # For each name that changed since its directory was synced: what it stood for.
        self._before: dict[Path, list[_File | None]] = {}
        self._open: dict[int, tuple[Path, _File]] = {}
        self._opened = 0
        self._down = False

    # What becomes of it.

    def crash(self) -> None:
        """End the process: nothing that was done is undone."""
        self._open.clear()
        self._down = False

    def lose_power(self) -> None:
        """Keep what was synced, and an arbitrary part of what was not.

        Each name stands for what it stood for at the last sync of its directory, or at any
        time since. Of what was written to a file since its last sync any beginning is there,
        and in it any sector may hold zeros instead.
        """
        for path, before in self._before.items():
            file = self._rng.choice([*before, self._names.get(path)])
            if file is None:
                self._names.pop(path, None)
            else:
                self._names[path] = file
        self._before.clear()
        for file in dict.fromkeys(self._names.values()):
            file.platter += self._torn(file.unsynced)
            file.cached = bytearray(file.platter)
        self.crash()

    @property
    def files(self) -> dict[Path, bytes]:
        """All files as processes see them now."""
        return {path: bytes(file.cached) for path, file in self._names.items()}

    @property
    def used_bytes(self) -> int:
        """The size of all files together."""
        return sum(len(file.cached) for file in dict.fromkeys(self._names.values()))

    def damage(self, path: Path, content: bytes) -> None:
        """Put another content in the place of a file's, durably: what no power cut does."""
        file = self._names[path]
        file.cached, file.platter = bytearray(content), bytearray(content)

    # The calls of a Disk.

    def read(self, path: Path) -> bytes:
        """A file's whole content."""
        self._step("read", path)
        return bytes(self._named(path).cached)

    def create(self, path: Path) -> int:
        """Open an empty file under a name."""
        self._step("create", path)
        file = _File()
        self._name(path, file)
        return self._opening(path, file)

    def append_to(self, path: Path) -> int:
        """Open a file to write at its end."""
        self._step("append_to", path)
        return self._opening(path, self._named(path))

    def write(self, file: int, content: bytes | memoryview) -> int:
        """Write as much as there is room for."""
        path, written = self._opened_as(file)
        data = bytes(content)
        try:
            fault = self._step("write", path)
        except PowerCut:
            written.cached += data[: self._rng.randint(0, len(data))]
            raise
        if fault is Fault.SHORT:
            data = data[: self._rng.randint(1, len(data))]
        if self.capacity_bytes is not None:
            room = self.capacity_bytes - self.used_bytes
            if room <= 0:
                raise _error(errno.ENOSPC, path)
            data = data[:room]
        written.cached += data
        return len(data)

    def sync(self, file: int) -> None:
        """Put a file's content on the platter."""
        self._sync("sync", file)

    def sync_data(self, file: int) -> None:
        """Put a file's content on the platter."""
        self._sync("sync_data", file)

    def close(self, file: int) -> None:
        """Close a file; not a step, since nothing depends on it."""
        self._open.pop(file, None)

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file."""
        self._step("rename", target)
        self._name(target, self._named(source))
        self._name(source, None)

    def remove(self, path: Path) -> None:
        """Remove a name."""
        self._step("remove", path)
        if path in self._names:
            self._name(path, None)

    def sync_directory(self, directory: Path) -> None:
        """Put a directory's names on the platter."""
        if self._step("sync_directory", directory) is Fault.LIE:
            return
        for path in [path for path in self._before if path.parent == directory]:
            del self._before[path]

    # Inside.

    def _step(self, call: str, path: Path) -> Fault | None:
        """Count a step, and let happen what should happen at it."""
        if self._down:
            raise PowerCut(f"{call} {path}: after the end")
        self.steps += 1
        step = Step(self.steps, call, path)
        fault = self.on_step(step) if self.on_step is not None else None
        if fault is Fault.CUT:
            self._down = True
            raise PowerCut(f"at step {step.number}: {call} {path}")
        if fault is Fault.NO_SPACE:
            raise _error(errno.ENOSPC, path)
        if fault is Fault.IO_ERROR:
            raise _error(errno.EIO, path)
        return fault

    def _sync(self, call: str, number: int) -> None:
        """Sync a file; a failure is not repaired by trying again.

        So Linux does: pages that could not be written count as clean afterwards, and are
        read from memory as if they were on the disk.
        """
        path, file = self._opened_as(number)
        try:
            lied = self._step(call, path) is Fault.LIE
        except OSError:
            missing = file.unsynced
            file.platter += self._torn(missing).ljust(len(missing), b"\0")
            raise
        if not lied:
            file.platter += file.unsynced

    def _torn(self, unsynced: bytes) -> bytes:
        """What a loss of power leaves of bytes that were not synced."""
        kind = self._rng.randrange(4)
        if kind == 0:
            return b""
        if kind == 1:
            return unsynced
        length = self._rng.randint(0, len(unsynced))
        if kind == 2:
            return unsynced[:length]
        # The size may be on the platter before the content is: then there are zeros.
        kept = bytearray(unsynced if self._rng.random() < 0.5 else unsynced[:length])
        sector = self._rng.choice(_SECTOR_BYTES)
        for start in range(0, len(kept), sector):
            if self._rng.random() < 0.5:
                kept[start : start + sector] = bytes(len(kept[start : start + sector]))
        return bytes(kept)

    def _name(self, path: Path, file: _File | None) -> None:
        """Let a name stand for another file, or for none."""
        self._before.setdefault(path, []).append(self._names.get(path))
        if file is None:
            self._names.pop(path, None)
        else:
            self._names[path] = file

    def _named(self, path: Path) -> _File:
        """The file of a name."""
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return self._names[path]

    def _opening(self, path: Path, file: _File) -> int:
        """A number for an open file, never given before."""
        self._opened += 1
        self._open[self._opened] = path, file
        return self._opened

    def _opened_as(self, number: int) -> tuple[Path, _File]:
        """The open file of a number."""
        if self._down:
            raise PowerCut("after the end")
        if number not in self._open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._open[number]


def _error(code: int, path: Path) -> OSError:
    """The system's error of this number."""
    return OSError(code, os.strerror(code), str(path))
