"""Never a seat too many: holders rely on no more seats than are deployed (section 2).

Deployed is what the newest state says; what holders rely on is theirs to say, in true time.
"""

from __future__ import annotations

from collections import Counter

from simulation.checkers.entry import Entry
from simulation.holders import Holders


class OverIssue:
    """Compares what is relied on with what is deployed, whenever either changes."""

    def __init__(self, holders: Holders, counts: Counter[str]) -> None:
        self._holders = holders
        self._counts = counts
        self._deployed: dict[str, int] = {}

    def check(self, entry: Entry) -> str:
        """After each entry that is new."""
        if not entry.newest or entry.renews:
            return ""
        features = entry.state.table.features
        self._deployed = {name: pool.deployed for name, pool in features.items()}
        return self.now()

    def now(self) -> str:
        """Whenever a holder gains something."""
        for feature, seats in self._holders.relied_on().items():
            deployed = self._deployed.get(feature, 0)
            self._counts["every seat relied on"] += seats == deployed
            if seats > deployed:
                who = self._holders.describe(feature)
                return f"{seats} seats of {feature} are relied on, {deployed} are deployed: {who}"
        return ""
