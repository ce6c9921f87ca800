"""What only the leader server does: see who is down, reclaim, find seats, give way.

May import the core and this room. It acts on what is in the replicated state and on its
own monotonic clock, so a new leader continues where the old one stopped, counting every
wait from the start of its own lead. Source: pool protocol, sections 4 and 6; claims R7d,
R21, R23, B3, B5, B14, B15.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from licraft.core.borrowing import Ask, Exhausted, Give, Wait, next_step, surplus
from licraft.core.commands import (
    Command,
    EndBorrow,
    ForgetMoves,
    Level,
    Reclaim,
    ServerDown,
    Solicit,
)
from licraft.core.leases import down_due, reclaim_due
from licraft.core.outcomes import Applied, LeaseRenewed, Moved, ServerCameUp, ServerWentDown
from licraft.core.state import ServerState, ServerStatus
from licraft.core.table import FeaturePool, PendingBorrow
from licraft.errors import NotExecuted
from licraft.replication.engine import EngineStatus
from licraft.server.borrower import Borrower
from licraft.server.clock import Clock
from licraft.server.pool import ReplicatedPool
from licraft.server.proposer import Proposer

log = logging.getLogger(__name__)

HANDBACK_S = 10.0
_ANSWER_S = 0.4
_FORGET_EACH_S = 1.0
_MOVES = 10_000

Transfer = Callable[[str], Awaitable[None]]


class Leader:
    """The leader's duties; idle on a server that does not lead."""

    def __init__(
        self,
        server: str,
        pool: ReplicatedPool,
        proposer: Proposer,
        borrower: Borrower,
        clock: Clock,
        status: Callable[[], EngineStatus],
        transfer: Transfer,
        *,
        handback: bool,
    ) -> None:
        """With `handback` it hands leadership to a server of higher priority that is steady."""
        self._server = server
        self._pool = pool
        self._proposer = proposer
        self._borrower = borrower
        self._clock = clock
        self._status = status
        self._transfer = transfer
        self._handback = handback
        self._handing_over: asyncio.Task[None] | None = None
        self._steady: dict[str, float] = {}
        self._term = 0
        self._since_s = 0.0
        self._heard: dict[str, float] = {}
        self._down: dict[str, tuple[int, float]] = {}
        self._moved: deque[tuple[int, float]] = deque(maxlen=_MOVES)
        self._inherited_index = self._forgotten_index = 0
        self._forget_due_s = 0.0
        self._busy: set[object] = set()
        self._asked: dict[tuple[str, str, Level], float] = {}

    def note(self, applied: Applied) -> None:
        """Keep the times of what was applied, by this server's clock."""
        now = self._clock.now()
        for event in applied.events:
            match event:
                case LeaseRenewed(server=server):
                    self._heard[server] = now
                case ServerCameUp(server=server):
                    self._heard[server] = now
                    self._down.pop(server, None)
                    self._steady.pop(server, None)
                case ServerWentDown(server=server):
                    self._down[server] = (applied.index, now)
                case Moved(count=count) if count:
                    self._moved.append((applied.index, now))
                case _:
                    pass

    def tick(self, *, acts: bool) -> None:
        """Do what is due; `acts` says that this server holds its lease."""
        status = self._status()
        if not status.leads:
            self._term = 0
            return
        if status.term != self._term:
            self._term = status.term
            self._since_s = self._clock.now()
            self._inherited_index = self._pool.state.index
            self._asked.clear()
            self._busy.clear()
            self._steady.clear()
        self._watch(status)
        self._forget_moves()
        if acts:
            self.pump(status)
        if self._handback:
            self._hand_back(status)

    def prefer(self, server: str) -> None:
        """An administrator wants another leader: hand over at once, if this server leads."""
        if server != self._server and self._status().leads:
            self._hand_over(server)

    def close(self) -> None:
        """Hand over to nobody any more."""
        if self._handing_over is not None:
            self._handing_over.cancel()

    def pump(self, status: EngineStatus | None = None) -> None:
        """Take the next step of every borrow that lacks seats."""
        status = status or self._status()
        if not status.leads:
            return
        open_borrows = [
            (pool, borrow)
            for pool in self._pool.state.table.features.values()
            for borrow in sorted(pool.pending.values(), key=lambda b: (b.since, b.server))
            if not borrow.exhausted
        ]
        ids = {borrow.id for _, borrow in open_borrows}
        self._asked = {key: at for key, at in self._asked.items() if key[0] in ids}
        for pool, borrow in open_borrows:
            self._advance(pool, borrow, status)

    def _hand_back(self, status: EngineStatus) -> None:
        """Give way to the highest server that is up, once it is steady (leader priority list)."""
        now = self._clock.now()
        servers = self._pool.state.servers
        for name in self._pool.state.priority:
            if name == self._server:
                return
            if not servers[name].grants or name not in status.connected:
                self._steady.pop(name, None)
            elif now - self._steady.setdefault(name, now) >= HANDBACK_S:
                self._steady.pop(name)  # It is tried again as late as this, should it fail.
                self._hand_over(name)
                return
            else:
                return

    def _hand_over(self, server: str) -> None:
        """Hand leadership to a server, if it has the whole log."""
        if self._handing_over is None:
            self._handing_over = asyncio.get_running_loop().create_task(self._try(server))

    async def _try(self, server: str) -> None:
        try:
            log.info("%s hands leadership to %s", self._server, server)
            await self._transfer(server)
        except NotExecuted as fault:
            log.warning("leadership was not handed to %s: %s", server, fault)
        finally:
            self._handing_over = None

    def _watch(self, status: EngineStatus) -> None:
        """Call silent servers down, and reclaim what down servers left."""
        state = self._pool.state
        now = self._clock.now()
        for server in state.servers.values():
            if server.acts and server.name != self._server:
                heard_s = max(self._since_s, self._heard.get(server.name, 0.0))
                if now > down_due(heard_s, state.lease_s, state.drift):
                    self._propose(ServerDown(server.name, server.incarnation, server.lease_serial))
            elif server.status is ServerStatus.DOWN and not server.reclaimed:
                index, applied_s = self._down.get(server.name, (0, 0.0))
                down_s = max(self._since_s, applied_s if index == server.down_index else 0.0)
                if now > reclaim_due(down_s, state.ttl_s, state.drift):
                    self._propose(Reclaim(server.name, server.down_index))

    def _forget_moves(self) -> None:
        """Have moves forgotten of which no client can rely on a token from before."""
        state = self._pool.state
        now = self._clock.now()

        def over(moved_s: float) -> bool:
            return now > reclaim_due(max(self._since_s, moved_s), state.ttl_s, state.drift)

        if over(0.0):
            self._forgotten_index = max(self._forgotten_index, self._inherited_index)
        while self._moved and over(self._moved[0][1]):
            self._forgotten_index = max(self._forgotten_index, self._moved.popleft()[0])
        for server in state.servers.values():
            # The oldest move of a server is its first.
            _, index = next(iter(server.gone.values()), ("", self._forgotten_index + 1))
            lies = server.status is ServerStatus.DOWN and not server.reclaimed
            if index <= self._forgotten_index and not lies and now >= self._forget_due_s:
                self._forget_due_s = now + _FORGET_EACH_S
                self._propose(ForgetMoves(self._forgotten_index))
                return

    def _advance(self, pool: FeaturePool, borrow: PendingBorrow, status: EngineStatus) -> None:
        now = self._clock.now()
        step = next_step(
            pool, borrow, self._server, self._reported(pool), self._passed(borrow, status)
        )
        match step:
            case Give(level=level):
                key = (borrow.id, level)
                if key not in self._busy:
                    self._busy.add(key)
                    future = self._borrower.give_to(pool, borrow, level, leader=True)
                    future.add_done_callback(lambda _: self._busy.discard(key))
            case Ask(giver=giver, level=level):
                self._asked.setdefault((borrow.id, giver, level), now)
                self._propose(Solicit(pool.feature, borrow.server, borrow.id, giver, level))
            case Wait(giver=giver, level=level):
                self._asked.setdefault((borrow.id, giver, level), now)
            case Exhausted():
                self._propose(EndBorrow(pool.feature, borrow.server, borrow.id, exhausted=True))

    def _reported(self, pool: FeaturePool) -> dict[str, int]:
        """The surplus of each functioning server, by its last report.

        One that drains is not asked: what nobody holds of its seats is in the free pool.
        """
        return {
            server.name: self._surplus(pool, server)
            for server in self._pool.state.servers.values()
            if server.grants
        }

    def _surplus(self, pool: FeaturePool, server: ServerState) -> int:
        threshold = pool.threshold_at(server.name, server.threshold)
        allocation = pool.allocations.get(server.name, 0)
        return surplus(server.in_use.get(pool.feature, 0), allocation, threshold)

    def _passed(self, borrow: PendingBorrow, status: EngineStatus) -> set[tuple[str, Level]]:
        """Who has let this borrow wait too long, or cannot be reached at all.

        That a server is passed over is a matter of speed only: whether it gives is its
        own decision, whenever its `Release` is applied.
        """
        now = self._clock.now()
        late = {
            (giver, level)
            for (id, giver, level), asked_s in self._asked.items()
            if id == borrow.id and now - asked_s > _ANSWER_S
        }
        lost = {
            (name, level)
            for name in self._pool.state.servers
            if name != self._server and name not in status.connected
            for level in Level
        }
        return late | lost

    def _propose(self, command: Command) -> None:
        """Commit a command that is harmless when repeated, one attempt at a time."""
        if command in self._busy:
            return
        self._busy.add(command)
        attempt = self._proposer.attempt(command)
        attempt.add_done_callback(lambda _: self._busy.discard(command))
