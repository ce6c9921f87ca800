"""The leader priority list names every server once, who can serve before who cannot (R26).

A client that is given this list tries the servers in its order.
"""

from __future__ import annotations

from licraft.core.priority import priority_list
from licraft.core.state import ServerStatus
from simulation.checkers.entry import Entry


class LeaderList:
    """Looks at the list that each server would give its clients."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def check(self, entry: Entry) -> str:
        """Whenever servers come or go."""
        state = entry.state
        if self._seen.get(entry.server) == state.membership:
            return ""
        self._seen[entry.server] = state.membership
        servers = state.servers.values()
        all_names = sorted(s.name for s in servers if s.status is not ServerStatus.JOINING)
        for leader in (None, *all_names):
            places = priority_list(state, leader)
            names = [place.name for place in places]
            if sorted(names) != all_names:
                return f"{entry.server} lists {names}, of {all_names}"
            if leader and state.servers[leader].grants and names[0] != leader:
                return f"{entry.server} lists {names} while {leader} leads"
            rest = [place for place in places if place.name != leader]
            able = [state.servers[place.name].grants for place in rest]
            if able != sorted(able, reverse=True):
                return f"{entry.server} lists {names}, and one that is down before one that is up"
        return ""
