"""Versions of what is replicated, so that servers of two releases work in one pool.

May import nothing of licraft. A version counts changes of commands, of their fields and
of the state's: a release that changes one of them adds 1 to `KNOWN`, marks what is new
with it, and goes on applying everything older as before. A pool speaks the greatest
version that all its servers know, and never a lower one again: until the last server is
upgraded nothing is written that it could not read.
"""

from __future__ import annotations

from typing import Any

KNOWN = 1
"""The newest version that this licraft knows; it knows all before it."""


def since(version: int) -> dict[str, int]:
    """The metadata of a dataclass field that `version` added; it needs a default."""
    return {"since": version}


def first_version(kind: type[Any]) -> int:
    """The version that added a command: its `SINCE`, 1 if it has none."""
    version: int = getattr(kind, "SINCE", 1)
    return version
