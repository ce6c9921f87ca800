"""More is deployed only by a license that grants it.

One entry may bring several licenses: what the first of them deployed may stay deployed when the
last grants less. If entries were skipped nobody can tell.
"""

from __future__ import annotations

from licraft.core.commands import InstallLicense
from licraft.core.license import entitlements
from simulation.checkers.entry import Entry


class Entitlement:
    """Compares what an entry has deployed with what the licenses grant."""

    def __init__(self) -> None:
        self._deployed: dict[str, int] = {}
        self._sequence = 0

    def check(self, entry: Entry) -> str:
        """After each entry that is new."""
        if not entry.newest:
            return ""
        granted, before = self._granted(entry), self._deployed
        features = entry.state.table.features
        self._deployed = {name: pool.deployed for name, pool in features.items()}
        self._sequence = entry.state.license.sequence
        for name, pool in features.items():
            most = max(pool.entitled, granted.get(name, 0), before.get(name, 0))
            if pool.deployed > most and entry.index == entry.follows + 1:
                return f"{pool.deployed} of {name} deployed, {pool.entitled} entitled"
        return ""

    def _granted(self, entry: Entry) -> dict[str, int]:
        """The most that any license of an entry grants, of those newer than all before it."""
        most: dict[str, int] = {}
        sequence, state = self._sequence, entry.state
        for command in entry.commands:
            if isinstance(command, InstallLicense) and command.license.sequence > sequence:
                sequence = command.license.sequence
                found = entitlements(
                    command.license, state.pool, state.pool_day, pool_key=state.pool_key
                )
                for name, part in found.items():
                    most[name] = max(most.get(name, 0), part.count)
        return most
