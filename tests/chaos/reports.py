"""What one holder went through, as its process tells it to the suite.

May import msgspec. Times are seconds of the machine's boot clock, which all processes
and network namespaces of a machine share, so that reports of several can be laid together.
"""

from __future__ import annotations

import msgspec

NEAR, FAR = "near", "far"
"""Where holders are; the far ones are cut off together with a server, where any are."""


class Hold(msgspec.Struct, frozen=True):
    """Seats relied upon in [from_s, until_s); `lost` says why they ended, if not by choice."""

    from_s: float
    until_s: float
    lost: str = ""


class Renewal(msgspec.Struct, frozen=True):
    """The request sent at `sent_s` was answered with success, seen at `seen_s`, by `server`."""

    sent_s: float
    seen_s: float
    server: str


class HolderReport(msgspec.Struct, frozen=True):
    """One holder: what it asked for, what it held, and every heartbeat it sent."""

    feature: str
    count: int
    side: str
    hungry: bool
    holds: list[Hold]
    beats: list[float]
    renewals: list[Renewal]

    def home_at(self, at_s: float) -> str:
        """The server that had last renewed it, or granted it, by a moment; empty if none."""
        before = [renewal.server for renewal in self.renewals if renewal.seen_s <= at_s]
        return before[-1] if before else ""

    def held_at(self, at_s: float) -> bool:
        """Whether it relied on its seats at a moment."""
        return any(hold.from_s <= at_s < hold.until_s for hold in self.holds)


class Wish(msgspec.Struct, frozen=True):
    """What one holder is to hold; `home` is the server that it asks first.

    The hungry want what others hold: they find every seat that is wrongly free.
    """

    feature: str
    count: int
    home: str
    hungry: bool = False


class Orders(msgspec.Struct, frozen=True):
    """The holders of one process, who come within `start_s`; `urls` are the servers', by name.

    Visitors keep their history in the directory `keep_in`; `raw` clients come with them.
    """

    side: str
    urls: dict[str, str]
    token: str
    seed: int
    wishes: list[Wish]
    start_s: float = 0.0
    keep_in: str = ""
    raw: int = 0


class Tally(msgspec.Struct, frozen=True):
    """How many holders hold now, and how many seats of each feature."""

    holding: int
    seats: dict[str, int]
