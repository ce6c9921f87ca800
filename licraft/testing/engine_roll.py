"""Who takes part in a simulated pool: the part of its state that commands of members change.

May import `replication`'s contract. It is `core.membership` without seats and leases: a
server joins, counts, leaves and is gone, each by a command of its own; the first command
forms the pool. Deterministic, and total on any bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from licraft.replication.engine import Members

MAX_SERVERS = 9
FORM, JOIN, COUNT, LEAVE, DROP = "form", "join", "count", "leave", "drop"
REJOIN = "rejoin"
VERBS = (JOIN, REJOIN, COUNT, LEAVE, DROP)
"""The changes of members; they are committed as such. Forming a pool is not one.

REJOIN is what licraft refuses: it gives a name again that was in use before (M4).
"""


def addresses(names: Iterable[str]) -> dict[str, str]:
    """Where servers are: nothing listens there, but they are told from each other by it."""
    return {name: f"{name}:1" for name in names}


@dataclass(frozen=True, slots=True)
class Roll:
    """Who takes part since log index `index`; nobody before the pool is formed."""

    index: int = 0
    voters: tuple[str, ...] = ()
    joining: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    past: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.voters, *self.joining, *self.leaving)

    @property
    def members(self) -> Members | None:
        """What the engine wants to know; None before the pool is formed."""
        if not self.index:
            return None
        learners = addresses((*self.joining, *self.leaving))
        return Members(self.index, addresses(self.voters), learners)

    def after(self, index: int, command: bytes) -> Roll:
        """The roll after a command at this index: the same if that changes nothing."""
        verb, names = _parsed(command)
        if verb == FORM:
            return self if self.index else Roll(index, names)
        if verb not in VERBS or not self.index or len(names) != 1:
            return self
        changed = self._changed(verb, names[0])
        return self if changed is None else replace(changed, index=index)

    def _changed(self, verb: str, name: str) -> Roll | None:
        """One change, or None if it is none."""
        free = name not in self.names and (name not in self.past or verb == REJOIN)
        if verb in (JOIN, REJOIN) and free and len(self.names) < MAX_SERVERS:
            return replace(self, joining=(*self.joining, name))
        if verb == COUNT and name in self.joining:
            joining = _without(self.joining, name)
            return replace(self, voters=(*self.voters, name), joining=joining)
        # The last one that counts stays.
        if verb == LEAVE and name in (*self.voters, *self.joining) and self.voters != (name,):
            return replace(
                self,
                voters=_without(self.voters, name),
                joining=_without(self.joining, name),
                leaving=(*self.leaving, name),
            )
        if verb == DROP and name in self.leaving:
            return replace(self, leaving=_without(self.leaving, name), past=(*self.past, name))
        return None

    def encode(self) -> bytes:
        """Canonical bytes, for a snapshot; none before the pool is formed."""
        if not self.index:
            return b""
        return json.dumps([self.index, self.voters, self.joining, self.leaving, self.past]).encode()


NOBODY: Final = Roll()


def decode(content: bytes) -> Roll:
    """The roll of a snapshot."""
    if not content:
        return NOBODY
    index, *groups = json.loads(content)
    return Roll(index, *map(tuple, groups))


def is_change(command: bytes) -> bool:
    """Whether a command is a change of members."""
    return _parsed(command)[0] in VERBS


def _parsed(command: bytes) -> tuple[str, tuple[str, ...]]:
    """Verb and names of a command, which begins with its number."""
    _, verb, *names = [*command.decode("ascii", "replace").split(" "), ""]
    return verb, tuple(name for name in names if name)


def _without(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    """All but one."""
    return tuple(other for other in names if other != name)
