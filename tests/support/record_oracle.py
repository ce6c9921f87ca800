"""A dumb record of distribution: who holds what of one server, in dicts and lists.

May import the standard library only. It is compared with `server.grants` and what that
keeps on disk, and must not share their mistakes: it looks through everything each time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

Client = tuple[str, str, str, int, str]
RETRY_S = 10.0


@dataclass(frozen=True)
class Row:
    """What one client holds until `until_s`."""

    feature: str
    count: int
    client: Client
    until_s: float


@dataclass(eq=False)
class Request:
    """Somebody who waits; `said` is what became of it."""

    id: str
    feature: str
    count: int
    client: Client
    said: str = ""


@dataclass
class Disk:
    """What the record's file says."""

    incarnation: int
    boot: str
    rows: dict[str, Row]
    moved_index: int
    orderly: bool = False


@dataclass
class RecordOracle:
    """One server. `aside` is what is on its way to another, `follows` says whether the disk does.

    `begins_s` is when it may next be tried to begin a file.
    """

    ttl_s: float
    seats: dict[str, int]
    licensed: dict[str, bool]
    rows: dict[str, Row] = field(default_factory=dict)
    aside: dict[str, Row] = field(default_factory=dict)
    queue: list[Request] = field(default_factory=list)
    struck: list[str] = field(default_factory=list)
    promised: dict[str, int] = field(default_factory=dict)
    acts: bool = True
    moved_index: int = 0
    saved_index: int = 0
    follows: bool = False
    disk: Disk | None = None
    begins_s: float = 0.0

    def in_use(self, feature: str) -> int:
        """The seats that somebody may rely on."""
        everything = [*self.rows.values(), *self.aside.values()]
        return sum(row.count for row in everything if row.feature == feature)

    def unused(self, feature: str) -> int:
        """The seats that may be given to somebody."""
        if not self.licensed[feature]:
            return 0
        promised = self.promised.get(feature, 0)
        return max(0, self.seats[feature] - self.in_use(feature) - promised)

    def line(self, feature: str) -> list[Request]:
        """Who stands in line for a feature, also who has given up and was not yet passed over."""
        return [request for request in self.queue if request.feature == feature]

    def hold(self, now_s: float, id: str, feature: str, count: int, client: Client) -> None:
        """Somebody holds seats from now on."""
        self.rows[id] = Row(feature, count, client, now_s + self.ttl_s)

    def receive(self, now_s: float, id: str, feature: str, count: int, client: Client) -> None:
        """What comes lasts from now on, beside what is held under its id if that is not alike."""
        known = self.rows.get(id)
        if known is not None and (known.feature, known.count) == (feature, count):
            self.hold(now_s, id, feature, count, known.client)
            return
        while id in self.rows:
            id += "+"
        self.hold(now_s, id, feature, count, client)

    def serve(self, now_s: float, feature: str) -> None:
        """Whoever waits longest is served first, and nobody before."""
        for request in self.line(feature):
            if not request.said:
                if request.count > self.unused(feature) or not self.acts:
                    return
                request.said = self.decide(now_s, request)
            self.queue.remove(request)

    def decide(self, now_s: float, request: Request) -> str:
        """The seats are there: but the same client may have been granted them meanwhile."""
        asked = (request.feature, request.count, request.client)
        known = self.rows.get(request.id)
        if known is None:
            self.hold(now_s, request.id, *asked)
        elif (known.feature, known.count, known.client) != asked:
            return "invalid_request"
        return "granted"

    def ends(self, now_s: float, id: str) -> bool:
        """Seats are given back; whether there were any."""
        row = self.rows.pop(id, None)
        if row is not None:
            self.serve(now_s, row.feature)
        return row is not None

    def stays(self, now_s: float, id: str) -> None:
        """What was on its way is not to go: it counts from now, unless it is here anew."""
        row = self.aside.pop(id, None)
        if row is not None and id not in self.rows:
            self.rows[id] = replace(row, until_s=now_s + self.ttl_s)
        elif row is not None:
            self.serve(now_s, row.feature)

    def write(self) -> None:
        """The disk has what is held now."""
        if self.follows and self.disk is not None:
            self.disk.rows = {**self.aside, **self.rows}
            self.disk.moved_index = self.moved_index

    def forget(self) -> None:
        """Nobody is believed to hold anything, and the disk says nothing."""
        self.rows.clear()
        self.aside.clear()
        self.disk, self.follows = None, False

    def begin(self, now_s: float, incarnation: int, boot: str, *, lost: bool) -> bool:
        """A new process, after a crash that may have `lost` what was not written.

        Whether it knows what the one before had granted.
        """
        if not lost:
            self.write()
        disk, self.disk, self.follows = self.disk, None, False
        self.rows, self.aside, self.queue, self.struck = {}, {}, [], []
        self.promised, self.begins_s = {}, 0.0
        known = (
            disk is not None
            and disk.incarnation == incarnation - 1
            and (disk.orderly or disk.boot == boot)
        )
        if known and disk is not None:
            for id, row in disk.rows.items():
                self.rows[id] = replace(row, until_s=now_s + self.ttl_s)
            self.saved_index = disk.moved_index
        return known

    def follow(self, now_s: float, incarnation: int, boot: str) -> None:
        """The disk follows from now on; if it was tried lately, not yet."""
        if not self.follows and now_s >= self.begins_s:
            self.follows, self.begins_s = True, now_s + RETRY_S
            self.disk = Disk(incarnation, boot, {}, 0)
            self.write()
