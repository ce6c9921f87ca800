"""A dumb account of the seats that one client may rely on, and a dumb pool that grants them.

May import the standard library and `wire`, whose messages it reads and writes. It is compared
with the client's tenures, keeper and granter, and must not share their mistakes. The pool is
what a client can tell of one: it never takes a seat away while somebody may rely on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from licraft.wire import (
    Authorization,
    CheckoutRequest,
    HeartbeatAnswer,
    HeartbeatRequest,
    HeartbeatResult,
    ServerEntry,
    ServerList,
)

HELPED = ("renewed", "adopted", "converted")


@dataclass
class Account:
    """One seat as its holder should see it: valid until `sent_s` + `ttl_s`, unless it `ended`."""

    id: str
    token: str
    url: str
    server: str
    sent_s: float
    ttl_s: float
    ended: str = ""
    ended_s: float = float("inf")
    settled: set[int] = field(default_factory=set)
    pended: set[int] = field(default_factory=set)
    perhaps: set[str] = field(default_factory=set)

    def look(self, now_s: float) -> None:
        """Its time may be over."""
        if now_s >= self.sent_s + self.ttl_s:
            self.end(self.sent_s + self.ttl_s, "expired")

    def end(self, now_s: float, why: str) -> None:
        """It may be relied on no more, and never again."""
        if not self.ended:
            self.ended, self.ended_s = why, now_s

    def hear(
        self, now_s: float, attempt: int, url: str, sent_s: float, result: HeartbeatResult
    ) -> str | None:
        """A server said something of it in one attempt to renew it.

        Returns the token that is to be given back, as its time is over.
        """
        self.look(now_s)
        helps = result.status in HELPED
        if attempt in self.settled and not helps:
            if attempt in self.pended and result.status == "lost":
                self.perhaps.add(result.code or "lost")  # If its own server was asked last.
            return None
        if result.status == "confirm":
            return None
        self.settled.add(attempt)
        if result.id not in (self.id, "") and result.status != "converted":
            return None
        if helps:
            return self.help(now_s, url, sent_s, result)
        if result.status == "lost":
            self.end(now_s, result.code or "lost")
        if result.status == "pending":
            self.pended.add(attempt)
            if result.server:
                self.url, self.server = f"http://{result.server}:7700", result.server
        return None

    def help(self, now_s: float, url: str, sent_s: float, result: HeartbeatResult) -> str | None:
        """It is renewed, wherever it is now; an older request does not lengthen it."""
        if not self.ended and sent_s >= self.sent_s:
            self.sent_s, self.ttl_s = sent_s, result.ttl or self.ttl_s
            self.look(now_s)
        if self.ended:
            return result.token or self.token
        self.url, self.server = url, result.server or self.server
        self.id, self.token = result.id or self.id, result.token or self.token
        return None


@dataclass
class Seat:
    """A seat that the pool has granted: no one else has it before `until_s`."""

    id: str
    server: str
    token: str
    request: str
    until_s: float


@dataclass
class DumbPool:
    """Servers that agree at once on everything, as far as they speak to each other."""

    names: tuple[str, ...]
    seats: int
    ttl_s: float
    down: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    granted: list[Seat] = field(default_factory=list)
    count: int = 0

    def alive(self, now_s: float) -> list[Seat]:
        """The seats that somebody may rely on."""
        self.granted = [seat for seat in self.granted if now_s < seat.until_s]
        return self.granted

    def checkout(self, now_s: float, at: str, request: CheckoutRequest) -> Authorization | None:
        """A seat for a request, the same one if it was asked for before; None if there is none."""
        name = request.id or ""
        known = [s for s in self.alive(now_s) if (s.request, s.server) == (name, at)]
        if not known and len(self.alive(now_s)) >= self.seats:
            return None
        seat = known[0] if known else self.add(now_s, at, name)
        seat.until_s = now_s + self.ttl_s
        listed = [ServerEntry(n, f"http://{n}:7700", "follower", "up") for n in self.names]
        everybody = ServerList(1, listed)
        third = self.ttl_s / 3
        return Authorization(
            seat.id, seat.token, request.feature, 1, at, self.ttl_s, third, "", everybody
        )

    def add(self, now_s: float, at: str, request: str) -> Seat:
        """One seat more is granted."""
        self.count += 1
        seat = Seat(f"s{self.count}", at, f"s{self.count}|{at}", request, now_s + self.ttl_s)
        self.granted.append(seat)
        return seat

    def heartbeat(self, now_s: float, at: str, request: HeartbeatRequest) -> HeartbeatAnswer:
        """What a server answers for each of a client's tokens."""
        return HeartbeatAnswer([self.renew(now_s, at, t, request.confirm) for t in request.tokens])

    def renew(self, now_s: float, at: str, token: str, confirm: dict[str, int]) -> HeartbeatResult:
        """One token: renewed, taken over, converted, or why not."""
        id = token.split("|")[0]
        seat = next((seat for seat in self.alive(now_s) if seat.id == id), None)
        if seat is None:
            if len(self.alive(now_s)) >= self.seats:
                return HeartbeatResult(id, "lost", code="no_seats")
            new = self.add(now_s, at, "")
            return HeartbeatResult(new.id, "converted", self.ttl_s, new.token, at)
        if seat.server == at:
            seat.until_s = now_s + self.ttl_s
            if seat.token == token:
                return HeartbeatResult(id, "renewed", self.ttl_s)
        elif seat.server in self.down and confirm.get(id) != 7:
            return HeartbeatResult(id, "confirm", down_index=7)
        elif seat.server in self.silent and seat.server not in self.down:
            return HeartbeatResult(id, "pending", retry_after=1.0)
        seat.server, seat.token, seat.until_s = at, f"{id}|{at}", now_s + self.ttl_s
        return HeartbeatResult(id, "adopted", self.ttl_s, seat.token, at)

    def checkin(self, token: str) -> bool:
        """A seat is given back, by whichever of its tokens."""
        before = len(self.granted)
        self.granted = [seat for seat in self.granted if seat.id != token.split("|")[0]]
        return len(self.granted) < before
