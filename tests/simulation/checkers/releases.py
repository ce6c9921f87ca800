"""Nothing is written that a server of the pool cannot read: no new command before all know it.

A release knows the versions of commands up to its own (`licraft.core.versions`).
"""

from __future__ import annotations

from collections.abc import Mapping

from licraft.core.versions import first_version
from simulation.checkers.entry import Entry


class Releases:
    """Compares each command's version with what the server that applies it knows."""

    def __init__(self, knows: Mapping[str, int]) -> None:
        self._knows = knows

    def check(self, entry: Entry) -> str:
        """After each entry that is more than renewals."""
        if entry.renews:
            return ""
        known = self._knows.get(entry.server, 1)
        new = [type(c).__name__ for c in entry.commands if first_version(type(c)) > known]
        return f"{entry.server} knows version {known}, and has to apply {new}" if new else ""
