"""Both ends of borrowing on one server: asking for what it lacks, giving what it can spare.

May import the core and this room. A server asks when a request leaves it insufficient
or unserved; it gives only seats that it has set aside first, so that no seat is in two
places. Source: pool protocol, section 6; claims B1 to B5, B13 to B15, B30, B31.
"""

from __future__ import annotations

import asyncio
from functools import partial

from licraft.core.borrowing import insufficient, shortage, surplus
from licraft.core.commands import Borrow, EndBorrow, Level, Reason, Release
from licraft.core.license import CodeStatus
from licraft.core.outcomes import BorrowEnded, Code, Effect, Outcome, SeatsBorrowed, Solicited
from licraft.core.table import FeaturePool, PendingBorrow
from licraft.errors import OutcomeUnknown
from licraft.server.clock import Clock
from licraft.server.desk import Desk
from licraft.server.grants import Grants
from licraft.server.proposer import Proposer

_ROUND_PAUSE_S = 0.05


class Borrower:
    """Borrows for this server's desks, and gives from them."""

    def __init__(self, server: str, grants: Grants, proposer: Proposer, clock: Clock) -> None:
        self._server = server
        self._grants = grants
        self._proposer = proposer
        self._clock = clock
        self._borrows = 0
        # What was borrowed for who still waits: it is not given up for the sake of a target.
        self._received: dict[str, int] = {}

    def threshold(self, pool: FeaturePool) -> float:
        """The part of its allocation above which this server borrows (B1)."""
        return pool.threshold_at(self._server, self._grants.state.servers[self._server].threshold)

    def consider(self, desk: Desk, reason: Reason = Reason.REQUEST) -> None:
        """Borrow if this server is insufficient or somebody waits; called by each request."""
        pool = self._grants.state.table.features.get(desk.feature)
        if pool is None:
            return
        in_use = self._grants.record.in_use.get(desk.feature, 0)
        allocation = pool.allocations.get(self._server, 0)
        enough = not desk.queue and not insufficient(in_use, allocation, self.threshold(pool))
        if (enough and not desk.borrow) or not self._grants.may_act():
            return
        if desk.borrow and not desk.asking and not desk.queue:
            self._withdraw(desk)
        if enough:
            return
        self._ask(desk, pool, in_use, allocation, reason)

    def tick(self, desk: Desk) -> None:
        """Deny who has waited long enough, serve who can be, ask for who was not asked for."""
        pool = self._grants.state.table.features.get(desk.feature)
        if not (desk.queue or desk.borrow or (pool and self._concerned(pool))):
            return  # As nearly always, and there may be thousands of desks.
        now = self._clock.now()
        if pool is None or pool.status is not CodeStatus.VALID:
            self._grants.deny(desk, lambda _: True, Code.NO_SEATS)
        if desk.queue:
            self._grants.deny(
                desk,
                lambda w: now >= (w.patience_s if desk.asking or not w.asked else w.deadline_s),
                Code.NO_SEATS,
            )
        # What was kept for somebody who has gone is for who comes next, here or elsewhere.
        self._grants.serve(desk)
        self.offer(desk)
        if desk.queue or desk.borrow:
            self.consider(desk, desk.queue[0].reason if desk.queue else Reason.REQUEST)

    def sample(self, desk: Desk) -> None:
        """Note what is in use, once a renewal, to see how fast demand grows."""
        desk.in_use_before = self._grants.record.in_use.get(desk.feature, 0)

    def allocated(self, feature: str) -> None:
        """This server's seats of a feature may have changed: update the record of them (B33)."""
        desk = self._grants.desk(feature)
        allocation = self._grants.allocation(feature)
        received = self._received.pop(feature, 0)
        if allocation > desk.allocated and desk.borrow:
            desk.received_s = self._clock.now()
            received += allocation - desk.allocated
        desk.allocated = allocation
        self._received[feature] = received
        in_use = self._grants.record.in_use.get(feature, 0)
        self._grants.serve(desk)
        received -= self._grants.record.in_use.get(feature, 0) - in_use
        del self._received[feature]
        if received > 0 and desk.queue:
            self._received[feature] = received
        self.offer(desk)

    def borrowed(self, event: SeatsBorrowed) -> None:
        """This server got seats, from one of the sources (B5, B14, B15)."""
        self._grants.desk(event.feature).borrowed[event.source] += event.count

    def ended(self, event: BorrowEnded) -> None:
        """This server's borrow is over, or found no more."""
        desk = self._grants.desk(event.feature)
        if event.borrow != desk.borrow:
            return
        pool = self._grants.state.table.features.get(event.feature)
        held = pool is not None and self._server in pool.pending
        self._over(desk, held, event.exhausted)

    def restored(self, desk: Desk) -> None:
        """The state was replaced by a snapshot: see whether this server's borrow is still open."""
        if not desk.borrow or not desk.placed:
            return
        pool = self._grants.state.table.features.get(desk.feature)
        pending = pool.pending.get(self._server) if pool else None
        if pending is None or pending.id != desk.borrow:
            self._over(desk, held=False, exhausted=False)
        elif pending.exhausted and desk.asking:
            self._over(desk, held=True, exhausted=True)

    def give(self, event: Solicited) -> None:
        """Answer the leader's question, with 0 seats if there is nothing to give."""
        pool = self._grants.state.table.features.get(event.feature)
        borrow = pool.pending.get(event.borrower) if pool else None
        if pool is not None and borrow is not None and borrow.id == event.borrow:
            self.give_to(pool, borrow, Level(event.level), leader=False)

    def give_to(
        self, pool: FeaturePool, borrow: PendingBorrow, level: Level, leader: bool
    ) -> asyncio.Future[Outcome]:
        """Set seats aside and release them to a borrow."""
        desk = self._grants.desk(pool.feature)
        count = 0
        if borrow.server != self._server:
            count = min(self._spare(desk, pool, borrow, level), self._lacks(pool, borrow, level))
        return self._release(desk, count, borrow.server, borrow.id, level, leader)

    def yields(self, desk: Desk) -> bool:
        """Whether what is unused here is for somebody else than who waits at this desk.

        That is the pool, to which this server has to give seats up, or who waits at another
        server, may get them, and came before this desk's oldest request.
        """
        pool = self._grants.state.table.features.get(desk.feature)
        if pool is None or not self._concerned(pool):
            return False
        if self._overdue(desk, pool):
            return True
        return self._lendable(desk, pool) > 0 and any(
            self._lacks(pool, borrow, Level.OFFERED) > 0
            and borrow.server != self._server
            and (not desk.since or borrow.since < desk.since)
            for borrow in pool.pending.values()
        )

    def offer(self, desk: Desk) -> None:
        """Seats came free: give up what is too many here, or lend to who waits elsewhere."""
        pool = self._grants.state.table.features.get(desk.feature)
        if pool is None or not self._concerned(pool) or not self._grants.may_act():
            return
        if count := self._overdue(desk, pool):
            self._release(desk, count, "", "", Level.OFFERED, leader=False, due=True)
        if pool.over:
            return
        for borrow in sorted(pool.pending.values(), key=lambda b: (b.since, b.server)):
            # Of a borrow for which the leader still looks it will ask this server too.
            if borrow.server == self._server or not (borrow.exhausted or desk.queue):
                continue
            if lacking := self._lacks(pool, borrow, Level.OFFERED):
                count = min(lacking, self._spare(desk, pool, borrow, Level.UNUSED))
                if count:
                    self._release(desk, count, borrow.server, borrow.id, Level.OFFERED, False)

    def give_back(self) -> None:
        """Put all that nobody holds into the free pool: this server is leaving."""
        for desk in self._grants.desks.values():
            count = self._grants.returnable(desk)
            if count:
                self._release(desk, count, "", "", Level.OFFERED, leader=False)

    def reset(self) -> None:
        """A new incarnation has asked for nothing and promised nothing."""
        self._received.clear()
        for desk in self._grants.desks.values():
            desk.set_aside = 0
            desk.borrow = ""
            desk.asking = desk.needed = desk.hold = False
            desk.need_after_s = desk.comfort_after_s = 0.0

    def _ask(
        self, desk: Desk, pool: FeaturePool, in_use: int, allocation: int, reason: Reason
    ) -> None:
        """Commit a Borrow, unless one is under way or there is nothing to be had."""
        now = self._clock.now()
        queued = desk.waiting
        elsewhere = pool.deployed - pool.commuters - allocation
        elsewhere = min(elsewhere, pool.room(self._server))
        if pool.status is not CodeStatus.VALID or pool.over or elsewhere <= 0:
            self._nothing(desk)
            return
        need = min(elsewhere, max(0, in_use + desk.set_aside + queued - allocation))
        if desk.asking or (desk.borrow and not self._unasked(desk)):
            return
        if now < (desk.need_after_s if need else desk.comfort_after_s):
            return
        growth = max(0, in_use - desk.in_use_before)
        threshold = self.threshold(pool)
        want = max(need, shortage(in_use + queued + growth, allocation, threshold))
        if not want:
            return
        for waiting in desk.queue:
            waiting.asked = True
        self._borrows += 1
        desk.placed = False
        desk.borrow = f"{self._server}:{self._grants.incarnation}:{self._borrows}"
        desk.asking = True
        desk.needed = need > 0
        desk.hold = any(w.deadline_s > now for w in desk.queue)
        command = Borrow(
            desk.borrow,
            desk.feature,
            self._server,
            min(want, elsewhere),
            need,
            reason,
            desk.since,
            desk.hold,
        )
        future = self._proposer.submit(command)
        future.add_done_callback(partial(self._borrowed, desk, desk.borrow))

    def _borrowed(self, desk: Desk, borrow: str, future: asyncio.Future[Outcome]) -> None:
        """The Borrow was applied, or never will be."""
        if desk.borrow != borrow or not desk.asking or future.cancelled():
            return
        if future.exception() is not None or future.result().effect is not Effect.DONE:
            self._over(desk, held=False, exhausted=True)
            return
        pool = self._grants.state.table.features.get(desk.feature)
        pending = pool.pending.get(self._server) if pool else None
        desk.place(self._grants.state.index)
        if pending is not None and pending.id == borrow:
            desk.placed = True
        else:
            # It was over within a snapshot, whose events nobody saw.
            self._over(desk, held=False, exhausted=False)

    def _over(self, desk: Desk, held: bool, exhausted: bool) -> None:
        """No more is coming for now: serve who can be served, deny who will not wait."""
        now = self._clock.now()
        desk.asking = False
        desk.place(self._grants.state.index)
        if not held:
            desk.borrow = ""
        self._grants.serve(desk)
        if exhausted:
            # For who waits all were asked for all they have; for comfort only for what they
            # can spare, so that somebody who comes now can be served at once.
            desk.comfort_after_s = now + self._grants.state.lease_s
            if desk.needed:
                desk.need_after_s = now + _ROUND_PAUSE_S
            self._grants.deny(desk, lambda w: w.asked and now >= w.deadline_s, Code.NO_SEATS)
        if desk.queue or held:
            self.consider(desk, desk.queue[0].reason if desk.queue else Reason.REQUEST)

    def _nothing(self, desk: Desk) -> None:
        """There is nothing to borrow: only who waits for seats to come back stays."""
        if desk.asking:
            return
        now = self._clock.now()
        for waiting in desk.queue:
            waiting.asked = True
        # Their place in the pool's order counts from here, as if a borrow had been made.
        desk.place(self._grants.state.index)
        self._grants.deny(desk, lambda w: now >= w.deadline_s, Code.NO_SEATS)

    def _withdraw(self, desk: Desk) -> None:
        """Nobody waits any more: take back a borrow that is held open."""
        command = EndBorrow(desk.feature, self._server, desk.borrow, exhausted=False)
        desk.borrow = ""
        self._proposer.submit(command)

    def _unasked(self, desk: Desk) -> bool:
        """Whether somebody waits for whom no borrow was made yet."""
        return any(not waiting.asked for waiting in desk.queue)

    def _spare(self, desk: Desk, pool: FeaturePool, borrow: PendingBorrow, level: Level) -> int:
        """How many seats this server can give to a borrow."""
        unused = self._grants.unused(desk) if self._grants.may_act() else 0
        unused = min(unused, self._lendable(desk, pool))
        if desk.queue and desk.since and desk.since <= borrow.since:
            return 0
        if level is Level.UNUSED:
            return unused
        now = self._clock.now()
        if now < desk.received_s + self._grants.state.lease_s:
            return 0
        in_use = self._grants.record.in_use.get(desk.feature, 0) + desk.set_aside
        return min(
            unused, surplus(in_use, self._grants.allocation(desk.feature), self.threshold(pool))
        )

    def _lacks(self, pool: FeaturePool, borrow: PendingBorrow, level: Level) -> int:
        """What a giver covers at a level: comfort from spare seats, need from all."""
        lacking = borrow.want if level is Level.SPARE else borrow.need
        return min(lacking, pool.room(borrow.server))

    def _lendable(self, desk: Desk, pool: FeaturePool) -> int:
        """The seats that borrowing may still take from this server."""
        return max(0, pool.lendable(self._server) - desk.set_aside)

    def _overdue(self, desk: Desk, pool: FeaturePool) -> int:
        """The seats that nobody holds, and that are too many: here, or in the whole pool."""
        returnable = self._grants.returnable(desk)
        if not pool.over and desk.queue:
            returnable -= self._received.get(desk.feature, 0)
        return max(0, min(pool.due(self._server) - desk.set_aside, returnable))

    def _concerned(self, pool: FeaturePool) -> bool:
        """Whether seats may have to go from this server, to whomever."""
        return bool(pool.pending or pool.over or pool.owed(self._server))

    def _release(
        self,
        desk: Desk,
        count: int,
        to: str,
        borrow: str,
        level: Level,
        leader: bool,
        due: bool = False,
    ) -> asyncio.Future[Outcome]:
        desk.set_aside += count
        command = Release(desk.feature, self._server, count, to, borrow, level, leader, due)
        future = self._proposer.submit(command)
        future.add_done_callback(partial(self._released, desk, count, self._grants.incarnation))
        return future

    def _released(
        self, desk: Desk, count: int, incarnation: int, future: asyncio.Future[Outcome]
    ) -> None:
        """The fate of a Release is known: its seats are gone, or here to be granted again.

        A new incarnation has already taken back what the earlier one had set aside. What
        is still unknown when the server stops stays set aside.
        """
        if incarnation != self._grants.incarnation or future.cancelled():
            return
        if isinstance(future.exception(), OutcomeUnknown):
            return
        desk.set_aside = max(0, desk.set_aside - count)
        self._grants.serve(desk)
        self.offer(desk)  # The borrow that they were for may have been replaced by another.
