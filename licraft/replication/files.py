"""The data directory: its lock, the disk under it, and files that are replaced whole or not at all.

May import the standard library and `errors`. Everything that the journal and the snapshot
store do to the disk goes through a `Disk`, one step at a time, so that a test can cut the
power between any two of them. It must not know what the files hold.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Protocol

from licraft.errors import DataError, DiskError

LOCK_NAME = "lock"


class Disk(Protocol):
    """The system calls that read and change a data directory; all of them raise OSError.

    A file that is open for writing is a number. What a step changed survives the end of
    the process at once, but a loss of power only after a sync: of the file for its content,
    of the directory for its name.
    """

    def read(self, path: Path) -> bytes:
        """A file's whole content; FileNotFoundError if there is no such file."""
        ...

    def create(self, path: Path) -> int:
        """Open an empty file for writing, whatever had its name before; mode 0600."""
        ...

    def append_to(self, path: Path) -> int:
        """Open a file that exists, to write at its end."""
        ...

    def write(self, file: int, content: bytes | memoryview) -> int:
        """Write some of `content`, at least a byte; returns how many bytes."""
        ...

    def sync(self, file: int) -> None:
        """Make a file durable."""
        ...

    def sync_data(self, file: int) -> None:
        """Make a file's content and size durable, and nothing else: the faster sync."""
        ...

    def close(self, file: int) -> None:
        """Close a file, durable or not."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name in the place of what had it, in one instant."""
        ...

    def remove(self, path: Path) -> None:
        """Take a name away, if it is there."""
        ...

    def sync_directory(self, directory: Path) -> None:
        """Make the names in a directory durable."""
        ...


class SystemDisk:
    """The operating system's disk."""

    def read(self, path: Path) -> bytes:
        """See `Disk`."""
        return path.read_bytes()

    def create(self, path: Path) -> int:
        """See `Disk`."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def append_to(self, path: Path) -> int:
        """See `Disk`."""
        return os.open(path, os.O_WRONLY | os.O_APPEND)

    def write(self, file: int, content: bytes | memoryview) -> int:
        """See `Disk`."""
        return os.write(file, content)

    def sync(self, file: int) -> None:
        """See `Disk`."""
        os.fsync(file)

    def sync_data(self, file: int) -> None:
        """See `Disk`."""
        os.fdatasync(file)

    def close(self, file: int) -> None:
        """See `Disk`."""
        os.close(file)

    def rename(self, source: Path, target: Path) -> None:
        """See `Disk`."""
        os.rename(source, target)

    def remove(self, path: Path) -> None:
        """See `Disk`."""
        path.unlink(missing_ok=True)

    def sync_directory(self, directory: Path) -> None:
        """See `Disk`."""
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


SYSTEM_DISK = SystemDisk()


def read_or_none(disk: Disk, path: Path) -> bytes | None:
    """A file's content, None if there is none; what an interrupted `replace_file` left goes."""
    disk.remove(_aside(path))
    try:
        return disk.read(path)
    except FileNotFoundError:
        return None


def replace_file(disk: Disk, path: Path, content: bytes) -> None:
    """Replace a file so that a crash at any moment leaves the old or the new one, whole."""
    aside = _aside(path)
    file = disk.create(aside)
    try:
        write_all(disk, file, content)
        disk.sync(file)
    finally:
        disk.close(file)
    disk.rename(aside, path)
    disk.sync_directory(path.parent)


def write_all(disk: Disk, file: int, content: bytes) -> None:
    """Write all of `content`, however little the system takes at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[disk.write(file, rest) :]


def _aside(path: Path) -> Path:
    """Where the file that takes a file's place is written first."""
    return path.with_name(path.name + ".new")


def make_directory(directory: Path) -> None:
    """Create a directory, and the parents that it lacks, so that a loss of power keeps it.

    The name of the deepest directory that is there already is made durable too: an earlier
    process may have ended between creating and syncing it.
    """
    line = (directory, *directory.parents)
    missing = [path for path in line if not path.exists()]
    for path in reversed(line[: len(missing) + 1]):
        if path in missing:
            path.mkdir(mode=0o700, exist_ok=True)
        # Whoever may not read the parent did not create this: its maker answers for it.
        with contextlib.suppress(PermissionError):
            SYSTEM_DISK.sync_directory(path.parent)


_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE})


def data_error(path: Path, fault: OSError) -> DataError:
    """What an operating system's error means to whoever runs the server."""
    reason = fault.strerror or str(fault)
    kind = DiskError if fault.errno in _PASSING else DataError
    return kind(f"{path}: {reason}: check the disk, its free space and the permissions")


class DirectoryLock:
    """The exclusive right to a data directory, held until `release` or the process ends."""

    def __init__(self, directory: Path) -> None:
        """Create `directory` if need be and lock it; raises DataError if it is in use."""
        path = directory / LOCK_NAME
        try:
            make_directory(directory)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as fault:
            raise data_error(path, fault) from fault
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            if fault.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise data_error(path, fault) from fault
            raise DataError(
                f"{directory} is in use by another server (process {holder}): "
                "stop it, or give this server a data_dir of its own"
            ) from None
        # Only a hint for whoever finds the directory locked: a full disk is found out later.
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the directory back; the lock file stays."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
