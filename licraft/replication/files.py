"""The data directory: its lock, and files that are replaced whole or not at all.

May import the standard library and `errors`.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from licraft.errors import DataError

LOCK_NAME = "lock"


class DirectoryLock:
    """The exclusive right to a data directory, held until `release` or the process ends."""

    def __init__(self, directory: Path) -> None:
        """Create `directory` if need be and lock it; raises DataError if it is in use."""
        path = directory / LOCK_NAME
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the directory back; the lock file stays."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def data_error(path: Path, fault: OSError) -> DataError:
    """What an operating system's error means to whoever runs the server."""
    reason = fault.strerror or str(fault)
    return DataError(f"{path}: {reason}: check the disk, its free space and the permissions")


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable (a rename is not until then)."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file so that a crash at any moment leaves the old or the new one, whole."""
    aside = path.with_name(path.name + ".new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(aside, path)
    sync_directory(path.parent)


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of `content`, however little the system takes at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
