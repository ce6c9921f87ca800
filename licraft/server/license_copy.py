"""License files on this server's disk: read as they are, replaced whole or not at all.

May import the standard library and the replication room's disk. It must not know what a
license file says. Source: pool protocol, section 8; claim R10.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from licraft.replication.files import SYSTEM_DISK, replace_file
from licraft.wire import MAX_LICENSE_BYTES


def read_text(path: Path) -> str | OSError | UnicodeDecodeError:
    """The text of a file, or why it cannot be read; of a file that is too large its beginning."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_LICENSE_BYTES + 1).decode("utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        return fault


def previous_of(path: Path) -> Path:
    """Where the file is that was at `path` before the one that is there now."""
    return path.with_suffix(".previous")


def replace_text(path: Path, text: str) -> None:
    """Have `text` at `path`, durably; what was there stays beside it as `.previous`."""
    if read_text(path) == text:
        return
    previous = previous_of(path)
    # A second name for the old file first: at no moment is there none.
    with contextlib.suppress(FileNotFoundError):
        previous.unlink()
    with contextlib.suppress(FileNotFoundError):
        os.link(path, previous)
    replace_file(SYSTEM_DISK, path, text.encode())
