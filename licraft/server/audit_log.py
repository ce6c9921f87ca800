"""The audit on this server's disk: one line for each change that an administrator made.

May import `core.audit` and the standard library. The chain itself is replicated state; this file
outlives it, since the state keeps the last records only. Lines are appended and fsynced in
a thread, in order, soon after they were applied; what a crash kept from the file is
written after the next start, from the state. A server that was away for longer notes the gap.
The file is `audit.log`, those before it `audit.log.1` (the newest) and so on.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from licraft.core.audit import FIRST, AuditFault, AuditRecord, AuditTail, Gap, read_line

log = logging.getLogger(__name__)

MAX_BYTES = 8 * 1024 * 1024
OLD_FILES = 16
_TAIL_BYTES = 64 * 1024
_UNWRITTEN = "the audit cannot be written"


@dataclass(frozen=True, slots=True)
class _End:
    """The last record of the files, and how many bytes of the newest one are whole lines."""

    number: int
    sha256: str
    whole_bytes: int


class AuditLog:
    """Follows the audit of the replicated state on disk; `trouble` is what an admin should see."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        """Continue the file at `path`, which need not exist."""
        self._path = path
        self._max_bytes = max_bytes
        self.trouble: list[str] = []
        self._end = self._last()
        self._number = self._end.number  # the last one that is written or about to be
        self._waiting: list[str] = []
        self._writing: asyncio.Task[None] | None = None

    def follow(self, tail: AuditTail) -> None:
        """Write what the file lacks; called after whatever was applied, so it must be quick."""
        if tail.count <= self._number:
            if tail.count == self._end.number:
                self._compare(tail.sha256)
            return
        records = tail.after(self._number)
        first = records[0].number
        if first > self._number + 1:
            self._waiting.append(Gap(self._number + 1, first - 1).line())
        elif self._number == self._end.number:
            self._compare(records[0].previous)
        self._waiting += [record.line() for record in records]
        self._number = tail.count
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def close(self) -> None:
        """Wait until what was applied is on disk."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def _write(self) -> None:
        try:
            while self._waiting:
                lines, self._waiting = self._waiting, []
                self._end = await asyncio.to_thread(self._append, lines)
        except OSError as fault:
            # The records are in the state: they are tried again when the next entry is applied.
            self._waiting = []
            self._end = self._last()
            self._number = self._end.number
            self._note(f"{self._path}: {_UNWRITTEN}: {fault.strerror}")
        else:
            self.trouble = [line for line in self.trouble if _UNWRITTEN not in line]
        finally:
            self._writing = None

    def _compare(self, sha256: str) -> None:
        """See whether the last record of the file is the pool's of that number."""
        if sha256 != self._end.sha256:
            self._note(
                f"{self._path}: its record {self._end.number} is not the pool's: it was altered,"
                " or is another pool's; `licraft audit verify` tells more"
            )

    def _append(self, lines: list[str]) -> _End:
        """Append whole lines behind the last whole line, durably; begin a new file in time."""
        whole = self._end.whole_bytes
        if whole >= self._max_bytes:
            self._rotate()
            whole = 0
        new = not self._path.exists()
        data = "".join(f"{line}\n" for line in lines).encode("ascii")
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(file, whole)
            os.lseek(file, whole, os.SEEK_SET)
            while data:
                data = data[os.write(file, data) :]
            os.fsync(file)
        finally:
            os.close(file)
        if new:
            self._sync_folder()
        return self._last()

    def _rotate(self) -> None:
        """Give every file the next number; the last one goes."""
        for number in range(OLD_FILES - 1, 0, -1):
            older = _numbered(self._path, number)
            if older.exists():
                os.replace(older, _numbered(self._path, number + 1))
        os.replace(self._path, _numbered(self._path, 1))

    def _sync_folder(self) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _last(self) -> _End:
        """Where the files end; a line whose writing was cut off is overwritten."""
        try:
            ends = [_end_of(path) for path in (self._path, _numbered(self._path, 1))]
        except OSError as fault:
            self._note(f"{self._path}: the audit cannot be read: {fault.strerror}")
            return _End(0, FIRST, 0)
        (whole, lines), (_, older) = ends
        for text in [*reversed(lines), *reversed(older)]:
            try:
                read = read_line(text)
            except AuditFault:
                self._note(f"{self._path}: damaged near its end; `licraft audit verify` tells more")
                continue
            if isinstance(read, AuditRecord):
                return _End(read.number, read.sha256, whole)
        return _End(0, FIRST, whole)

    def _note(self, text: str) -> None:
        if text not in self.trouble:
            log.error("%s", text)
            self.trouble = [*self.trouble, text][-5:]


def audit_files(path: Path) -> list[Path]:
    """The files of one server's audit that exist, the oldest first."""
    names = [_numbered(path, number) for number in range(OLD_FILES, 0, -1)]
    return [name for name in [*names, path] if name.exists()]


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _end_of(path: Path) -> tuple[int, list[str]]:
    """How many bytes of a file are whole lines, and its last lines."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            begin = max(0, size - _TAIL_BYTES)
            file.seek(begin)
            data = file.read()
    except FileNotFoundError:
        return 0, []
    whole = data.rfind(b"\n") + 1
    lines = data[:whole].decode("ascii", "replace").split("\n")[:-1]
    return begin + whole, lines[1:] if begin else lines
