"""Of what a server that acts has on record no more is relied on than it manages (B33).

A record that was read back after a crash may hold more: what its holder had just given back,
and the seats of that may have gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from licraft.server.license_server import LicenseServer
from licraft.testing.pool import InProcessPool
from simulation.checkers.entry import Entry
from simulation.holders import Holders


class OwnSeats:
    """Compares each server's record with its allocations; `came_up` is told of incarnations."""

    def __init__(
        self, pool: InProcessPool, holders: Holders, came_up: Callable[[LicenseServer], None]
    ) -> None:
        self._pool = pool
        self._holders = holders
        self._came_up = came_up
        self._incarnations: dict[str, int] = {}

    def check(self, entry: Entry) -> str:
        """After each entry, at the server that has applied it."""
        name = entry.server
        me = entry.state.servers.get(name)
        if me is None or not me.acts or name not in self._pool.running:
            return ""
        server = self._pool.server(name)
        if server.standing.incarnation != me.incarnation:
            return ""
        if self._incarnations.get(name) != me.incarnation:
            self._incarnations[name] = me.incarnation
            self._came_up(server)
        seats: Counter[str] = Counter()
        for authorization in server.grants.record:
            if self._holders.relies(authorization.id):
                seats[authorization.feature] += authorization.count
        for feature, count in seats.items():
            pool = entry.state.table.features.get(feature)
            has = pool.allocations.get(name, 0) if pool else 0
            if count > has:
                who = self._holders.describe(feature)
                return f"{name} has {has} of {feature}, and {count} on record are relied on: {who}"
        return ""
