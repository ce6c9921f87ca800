"""An entry of the log that a server has just applied, as the checkers are shown it.

May import the core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from licraft.core.commands import Command, RenewLease
from licraft.core.state import PoolState

WHOLE_EACH = 32
"""What is costly to look at is looked at after so many entries."""


@dataclass(frozen=True, slots=True)
class Entry:
    """`server` has applied `commands` at `index`, which made `state` of its state.

    `follows` is the newest index that any server had applied before.
    """

    server: str
    index: int
    state: PoolState
    commands: tuple[Command, ...]
    follows: int

    @property
    def newest(self) -> bool:
        """Whether nobody has applied it before."""
        return self.index > self.follows

    @property
    def whole(self) -> bool:
        """Whether every server's state is to be looked at, and not the first one's only."""
        return self.index % WHOLE_EACH == 0

    @property
    def renews(self) -> bool:
        """Whether nothing happened but that leases were renewed."""
        return all(isinstance(command, RenewLease) for command in self.commands)


class Promise(Protocol):
    """One thing that must never be otherwise."""

    def check(self, entry: Entry) -> str:
        """What is broken, in words; nothing if all is well."""
        ...
