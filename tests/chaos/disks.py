"""A small disk for each server's data, which can be filled and emptied while the server runs.

May import the standard library only. A disk is a tmpfs of its own, mounted in the mount
namespace of this program (`network.enter_own_world`), with which it goes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

SIZE_BYTES = 64 << 20
_BALLAST = "ballast"
_COMMAND_S = 20.0
_PAGE = 4096


class SmallDisks:
    """The disks of some servers, mounted where their data directories are."""

    def __init__(self, directories: Iterable[Path], size_bytes: int = SIZE_BYTES) -> None:
        self._mounted: list[Path] = []
        for directory in directories:
            directory.mkdir(parents=True, exist_ok=True)
            aside = directory.with_name(f"{directory.name}.before")
            aside.mkdir()
            for found in directory.iterdir():
                shutil.move(found, aside)
            mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "tmpfs"]
            subprocess.run([*mount, str(directory)], check=True, timeout=_COMMAND_S)
            self._mounted.append(directory)
            for found in aside.iterdir():
                shutil.move(found, directory)
            aside.rmdir()

    def fill(self, directory: Path) -> int:
        """Take all that is left of a disk; how many bytes that was.

        Whoever removes or shortens a file makes room again: repeat it to keep the disk full.
        """
        room = os.statvfs(directory)
        left = room.f_bavail * room.f_frsize
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        ballast = os.open(directory / _BALLAST, flags, 0o600)
        try:
            # The server takes room at the same time: if so, what is left is taken by pages.
            with contextlib.suppress(OSError):
                os.posix_fallocate(ballast, os.fstat(ballast).st_size, max(left, 1))
            while True:
                os.write(ballast, bytes(_PAGE))
        except OSError as fault:
            if fault.errno != errno.ENOSPC:
                raise
        finally:
            os.close(ballast)
        return left

    def empty(self, directory: Path) -> None:
        """Give the room back."""
        (directory / _BALLAST).unlink(missing_ok=True)

    def close(self) -> None:
        """Take the disks away, with all that is on them."""
        while self._mounted:
            directory = self._mounted.pop()
            # A process that was killed just now may still be using it: it goes when that is gone.
            subprocess.run(["umount", "--lazy", str(directory)], check=True, timeout=_COMMAND_S)
