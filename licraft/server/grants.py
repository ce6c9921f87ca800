"""Granting, renewing and releasing seats from this server's own allocation, in memory.

May import the core and this room. A request that finds no seat joins its feature's
queue, first come, first served: while somebody waits, nobody who came later is served,
so that a request for many seats is not starved by requests for one. Source: pool
protocol, section 5; claims R7a, B30, B31.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from licraft.core.commands import Reason
from licraft.core.leases import expiry
from licraft.core.outcomes import Code
from licraft.core.record import Authorization, Record
from licraft.core.state import PoolState
from licraft.server.clock import Clock
from licraft.server.desk import Decision, Denial, Desk, Waiting
from licraft.server.pool import ReplicatedPool
from licraft.server.record_log import RecordLog, SavedRecord
from licraft.server.tokens import ClientFields, TokenMint

MAX_AUTHORIZATIONS = 2_000_000
MAX_QUEUE = 10_000
_LOG_RETRY_S = 10.0
_MAX_STRUCK = 10_000


class Grants:
    """The record of distribution of one server and the desks that fill it."""

    def __init__(
        self, server: str, pool: ReplicatedPool, clock: Clock, record_log: RecordLog
    ) -> None:
        """Begin with nothing on record; raises DataError if an earlier record cannot be read."""
        self._server = server
        self._pool = pool
        self._clock = clock
        self._log = record_log
        self._saved = record_log.load()
        self._mint: TokenMint | None = None
        self._minted_for = ""
        self._log_due_s = float("-inf")
        self.incarnation = 0
        # The log index up to which the record knows what moved to it, and from it.
        self.moved_index = 0
        self.record = Record()
        self._struck: dict[str, None] = {}
        self.desks: dict[str, Desk] = {}
        self.changed: dict[str, Authorization | None] = {}
        self.on_freed: Callable[[Desk], None] = _ignore
        self.may_act: Callable[[], bool] = _never
        self.yields: Callable[[Desk], bool] = _to_nobody

    @property
    def state(self) -> PoolState:
        """The replicated state, to be read."""
        return self._pool.state

    @property
    def mint(self) -> TokenMint:
        """The pool's tokens."""
        secret = self._pool.state.secret
        if self._mint is None or self._minted_for != secret:
            self._mint = TokenMint(bytes.fromhex(secret))
            self._minted_for = secret
        return self._mint

    def in_use(self, server: str) -> dict[str, int]:
        """What is in use at a server: its own record here, else what it last reported.

        Of a report no more is true than its server has seats left: the others have moved since,
        or been adopted, and are in use elsewhere.
        """
        if server == self._server:
            return self.record.in_use
        other = self.state.servers[server]
        pools = self.state.table.features
        return {
            feature: min(count, pools[feature].allocations.get(server, 0))
            for feature, count in other.in_use.items()
            if feature in pools
        }

    def desk(self, feature: str) -> Desk:
        """The desk of a feature of the table."""
        desk = self.desks.get(feature)
        if desk is None:
            desk = self.desks[feature] = Desk(feature)
        return desk

    def allocation(self, feature: str) -> int:
        """The seats of a feature that this server manages (B33)."""
        pool = self.state.table.features.get(feature)
        return pool.allocations.get(self._server, 0) if pool else 0

    def unused(self, desk: Desk) -> int:
        """The seats that may be granted or given now.

        While more is deployed than the license grants, there are none: seats retire
        as they come back and are not granted again.
        """
        pool = self._pool.state.table.features.get(desk.feature)
        if pool is None or pool.over:
            return 0
        in_use = self.record.in_use.get(desk.feature, 0)
        return max(0, pool.allocations.get(self._server, 0) - in_use - desk.set_aside)

    def returnable(self, desk: Desk) -> int:
        """The seats that nobody holds and that are not promised to anybody."""
        in_use = self.record.in_use.get(desk.feature, 0)
        return max(0, self.allocation(desk.feature) - in_use - desk.set_aside)

    def has_gone(self, id: str) -> bool:
        """Whether an authorization moves away from here, or did so lately.

        Its id is not granted anew: nobody could tell the two apart, and what becomes of the
        one would be done to the other.
        """
        me = self.state.servers.get(self._server)
        return self.record.leaves(id) or (me is not None and id in me.gone)

    def request(
        self, desk: Desk, id: str, count: int, client: ClientFields
    ) -> Authorization | None:
        """Grant at once if nobody waits and the seats are here."""
        if desk.queue or count > self.unused(desk):
            return None
        return self.grant(desk.feature, id, count, client)

    def enqueue(
        self,
        desk: Desk,
        id: str,
        count: int,
        client: ClientFields,
        reason: Reason,
        wait_s: float,
        patience_s: float,
    ) -> asyncio.Future[Decision]:
        """Join the queue for `wait_s` seconds, or `patience_s` while seats are being borrowed."""
        decision: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        now = self._clock.now()
        if len(desk.queue) >= MAX_QUEUE:
            decision.set_result(Denial(Code.OVERLOADED))
            return decision
        deadline_s = now + wait_s
        desk.queue.append(
            Waiting(
                id, count, client, reason, deadline_s, max(deadline_s, now + patience_s), decision
            )
        )
        return decision

    def grant(self, feature: str, id: str, count: int, client: ClientFields) -> Authorization:
        """Put an authorization on record; its caller has seen that the seats are here."""
        token = self.mint.seal(id, feature, count, self._server, self.incarnation, client)
        return self.readmit(feature, id, count, client, token)

    def readmit(
        self, feature: str, id: str, count: int, client: ClientFields, token: str
    ) -> Authorization:
        """Put back on record what an earlier incarnation had granted, under its own token."""
        now = self._clock.now()
        authorization = Authorization(id, feature, count, token, client, self._clock.wall())
        self._log.granted(authorization)
        self.record.grant(authorization, now, self._expiry(now))
        self.changed[id] = authorization
        return authorization

    def renew(self, authorization: Authorization) -> None:
        """Note a heartbeat."""
        now = self._clock.now()
        self.record.renew(authorization, now, self._expiry(now))

    def release(self, id: str) -> Authorization | None:
        """Take an authorization off the record; its seats go to whoever waits."""
        authorization = self.record.release(id)
        if authorization is not None:
            self._log.ended(id)
            self.changed[id] = None
            desk = self.desk(authorization.feature)
            self.serve(desk)
            self.on_freed(desk)
        return authorization

    def strike(self, id: str) -> bool:
        """Take an authorization off the record for good: its heartbeats are `lost` from now on."""
        if self.release(id) is None:
            return False
        self.note_struck(id)
        return True

    def note_struck(self, id: str) -> None:
        """An authorization was struck off a record, here or elsewhere; the latest are known."""
        self._struck[id] = None
        if len(self._struck) > _MAX_STRUCK:
            del self._struck[next(iter(self._struck))]

    def was_struck(self, id: str) -> bool:
        """Whether an authorization was struck off lately."""
        return id in self._struck

    def leave(self, id: str) -> Authorization | None:
        """Keep an authorization aside for another server; then `left` or `stays`."""
        return self.record.leave(id)

    def left(self, id: str) -> None:
        """An authorization is another server's, and its seats are too: take it off the record.

        What its client was granted here meanwhile, under the same id, stays.
        """
        if (self.record.left(id) or self.record.release(id)) is not None:
            newer = self.record.get(id)
            if newer is None:
                self._log.ended(id)
            self.changed[id] = newer

    def stays(self, id: str) -> None:
        """An authorization was not moved after all: it counts from now on as if just renewed."""
        authorization = self.record.left(id)
        if authorization is not None and self.record.get(id) is None:
            now = self._clock.now()
            self.record.grant(authorization, now, self._expiry(now))
        elif authorization is not None:
            desk = self.desk(authorization.feature)
            self.serve(desk)
            self.on_freed(desk)

    def receive(self, feature: str, id: str, count: int, client: ClientFields) -> None:
        """An authorization is this server's from now on; its seats came with it.

        Its client may have been granted others meanwhile, under this id: by a request of its
        own that came late. It has one of both, so one on record is enough, but that must last
        as long as what came: its holder may have been renewed after those were granted. If
        they are not alike both stay on record, the one that came under a name of its own.
        """
        known = self.record.get(id)
        if known is not None and (known.feature, known.count) == (feature, count):
            self.renew(known)
            return
        while self.record.get(id) is not None:
            id += "+"
        self.grant(feature, id, count, client)

    def know_moves(self, index: int) -> None:
        """The record knows all moves up to a log index."""
        self.moved_index = index
        self._log.moved(index)

    def serve(self, desk: Desk) -> None:
        """Grant to the head of the queue as long as its seats are here."""
        queue = desk.queue
        while queue:
            head = queue[0]
            if head.decision.done():
                queue.popleft()
                continue
            if head.count > self.unused(desk) or not self.may_act() or self.yields(desk):
                return
            queue.popleft()
            # A repeated request may have been granted under the same id meanwhile.
            known = self.record.get(head.id)
            if known is None:
                known = self.grant(desk.feature, head.id, head.count, head.client)
            elif not same_request(known, desk.feature, head.count, head.client):
                head.decision.set_result(Denial(Code.INVALID_REQUEST))
                continue
            head.decision.set_result(known)

    def deny(self, desk: Desk, over: Callable[[Waiting], bool], code: Code) -> None:
        """Deny the requests of the queue of which `over` is true."""
        staying = []
        for waiting in desk.queue:
            if waiting.decision.done():
                continue
            if over(waiting):
                desk.denied += code is Code.NO_SEATS
                waiting.decision.set_result(Denial(code))
            else:
                staying.append(waiting)
        desk.queue.clear()
        desk.queue.extend(staying)

    def turn_away(self, code: Code) -> None:
        """Send everybody who waits to another server."""
        for desk in self.desks.values():
            if desk.queue:
                self.deny(desk, lambda _: True, code)

    def expire(self) -> None:
        """Take what was not renewed in time off the record."""
        freed: dict[str, Desk] = {}
        for authorization in self.record.expire(self._clock.now()):
            self._log.ended(authorization.id)
            self.changed[authorization.id] = None
            freed[authorization.feature] = self.desk(authorization.feature)
        for desk in freed.values():
            self.serve(desk)
            self.on_freed(desk)

    @property
    def saved_moved_index(self) -> int:
        """The log index up to which the record of an earlier process knows all moves."""
        return self._saved.moved_index if self._saved is not None else 0

    def wall_s(self) -> float:
        """The time of day, for people."""
        return self._clock.wall()

    def recall(self, last_incarnation: int) -> SavedRecord | None:
        """What an earlier process left on disk, if it may be believed; only once."""
        saved, self._saved = self._saved, None
        if saved is None or not saved.trusted(last_incarnation, self._log.boot):
            return None
        return saved

    def begin(self, incarnation: int, saved: SavedRecord | None, moved_index: int) -> None:
        """Act as `incarnation`, with a record that was saved, if it may be believed.

        The record's file is begun by `keep_log`, once the whole record is known.
        """
        self.incarnation = incarnation
        self.moved_index = moved_index
        self._log.forsake()
        self._log_due_s = float("-inf")
        now = self._clock.now()
        for authorization in saved.authorizations if saved is not None else ():
            self.record.grant(authorization, now, self._expiry(now))
            self.changed[authorization.id] = authorization

    def forget(self) -> None:
        """Drop the whole record: nobody relies on it, or it is not known to be right any more."""
        for authorization in self.record:
            self.changed[authorization.id] = None
        self.record.clear()
        self._log.forsake()
        me = self.state.servers.get(self._server)
        self.moved_index = me.moved_index if me is not None else 0

    def keep_log(self) -> None:
        """Follow the record on disk: begin the file, and anew when most of it is over.

        Not to be called while the server recovers: a file that misses grants of the
        earlier incarnation would be believed after the next restart.
        """
        now = self._clock.now()
        if not self._log.follows and now >= self._log_due_s:
            self._log_due_s = now + _LOG_RETRY_S
            self._log.start(self.incarnation, self.record, self.moved_index)
        elif self._log.outgrown(len(self.record)):
            self._log.start(self.incarnation, self.record, self.moved_index)

    def _expiry(self, now: float) -> float:
        return expiry(now, self.state.ttl_s, self.state.drift)


def same_request(a: Authorization, feature: str, count: int, client: ClientFields) -> bool:
    """Whether an authorization is what this request, repeated, had been granted."""
    return a.feature == feature and a.count == count and a.client[0] == client[0]


def _ignore(desk: Desk) -> None:
    """Nobody listens yet."""


def _to_nobody(desk: Desk) -> bool:
    """No other server has a queue."""
    return False


def _never() -> bool:
    """Without a lease nothing may be granted."""
    return False
