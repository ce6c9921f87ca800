"""What all holders of seats rely on, in true time; the most that may ever be is licensed.

May import the client's tenure rule and the testing room. Source: pool protocol, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from licraft.client.tenure import Tenure
from licraft.testing.clock import ManualClock


class SafetyBroken(AssertionError):
    """Holders rely on more seats than the license grants, or two servers differ."""


@dataclass(slots=True)
class Hold:
    """Seats that a client relies on while its tenure lasts.

    `wanted` until its holder has had enough of it; `due_s` is when that will ask for the next
    renewal, by its own clock, once that is settled. `home` is the server that it asks first.
    """

    id: str
    feature: str
    count: int
    clock: ManualClock
    tenure: Tenure
    token: str
    server: str
    home: str
    wanted: bool = True
    due_s: float = float("inf")

    @property
    def relied_on(self) -> bool:
        """Whether the holder may rely on it now, by its own clock."""
        tenure = self.tenure.at(self.clock.now())
        return not tenure.ended


class Relied(Protocol):
    """Seats that somebody may rely on, whoever it is."""

    clock: ManualClock
    wanted: bool

    @property
    def id(self) -> str:
        """The authorization's id; a conversion may change it."""
        ...

    @property
    def feature(self) -> str:
        """The licensed feature."""
        ...

    @property
    def count(self) -> int:
        """How many seats."""
        ...

    @property
    def server(self) -> str:
        """Who granted or renewed it last."""
        ...

    @property
    def tenure(self) -> Tenure:
        """The right to them, as of when it was last looked at."""
        ...

    @property
    def due_s(self) -> float:
        """When the next renewal is asked for, by its holder's clock."""
        ...

    @property
    def relied_on(self) -> bool:
        """Whether its holder may rely on it now, by its own clock."""
        ...


class Holders:
    """Everything that clients rely on, in true time."""

    def __init__(self) -> None:
        self._holds: dict[str, Relied] = {}
        # From which servers authorizations moved so long ago that this is forgotten there.
        self.forgotten: set[tuple[str, str]] = set()

    def add(self, hold: Relied) -> None:
        """A client was granted seats, or knows its own by another name."""
        self._holds[hold.id] = hold

    def relied_on(self) -> dict[str, int]:
        """The seats of each feature that holders rely on now."""
        seats: dict[str, int] = {}
        for id, hold in list(self._holds.items()):
            if hold.relied_on and hold.id == id:
                seats[hold.feature] = seats.get(hold.feature, 0) + hold.count
            else:
                del self._holds[id]
        return seats

    def relies(self, id: str) -> bool:
        """Whether the holder of an authorization relies on it now."""
        hold = self._holds.get(id)
        return hold is not None and hold.relied_on and hold.id == id

    def holding(self) -> list[Relied]:
        """Everything that is relied on now."""
        return [hold for id, hold in self._holds.items() if hold.relied_on and hold.id == id]

    def describe(self, feature: str) -> str:
        """Who relies on seats of a feature, for a failure's message."""
        return ", ".join(
            f"{hold.id} {hold.count} by {hold.server}"
            for hold in self._holds.values()
            if hold.feature == feature and hold.relied_on
        )
