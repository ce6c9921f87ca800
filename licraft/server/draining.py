"""How one server becomes empty: its seats to the free pool, its clients to the others.

May import the core, the engine's contract, `wire` and this room. Drained, a server goes on
acting: it gives back what nobody holds, and sends its clients to the others, which claim
what they hold from it. Takes nothing from anybody: a holder that does not find another
server is renewed here in time. Source: issue "Fail-over", interfaces, "CLI"; pool
protocol, sections 6, 7 and 10.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from licraft.core.outcomes import Code
from licraft.core.state import PoolState
from licraft.replication.engine import Engine, EngineStatus
from licraft.server.answers import Answers
from licraft.server.borrower import Borrower
from licraft.server.clock import Clock
from licraft.server.grants import Grants
from licraft.server.leader import Leader
from licraft.server.standing import Standing
from licraft.wire import Problem

_RESIGN_EACH_S = 1.0
# What a stop waits for: that seats are given back, and that some of the holders call.
_RETURN_S = 1.0
_HOLDERS_S = 2.0


class Draining:
    """Empties one server while that is an administrator's wish, or before it stops."""

    def __init__(
        self,
        grants: Grants,
        borrower: Borrower,
        leader: Leader,
        standing: Standing,
        answers: Answers,
        engine: Engine,
        clock: Clock,
    ) -> None:
        self._grants = grants
        self._borrower = borrower
        self._leader = leader
        self._standing = standing
        self._answers = answers
        self._engine = engine
        self._now = clock.now
        self._resign_due_s = float("-inf")

    def tick(self) -> None:
        """Give away what can be: seats that nobody holds, and leadership."""
        if self._standing.stopping or not self._standing.draining:
            return
        self._grants.turn_away(Code.DRAINING)
        self._give_back()
        now = self._now()
        if now >= self._resign_due_s:
            self._resign_due_s = now + _RESIGN_EACH_S
            state = self._grants.state
            successor = next(successors(state, self._engine.status()), None)
            if successor is not None and state.servers[successor].grants:
                self._leader.prefer(successor)

    def sends_away(self, tokens: Sequence[str]) -> Problem | None:
        """The answer to heartbeats while this server drains: go elsewhere, or None to renew.

        Who could not go anywhere comes again, and is renewed once half of its time is over.
        So is who has not called since this server is up: how old its last renewal is only
        the holder knows. One that recovers learns from heartbeats what it has granted, and
        one that may not act has its own refusal.
        """
        standing = self._standing
        if standing.stopping or not standing.acts() or standing.recovering_s():
            return None
        if not standing.others_grant():
            return None
        long_ago_s = self._now() - self._grants.state.ttl_s / 2
        oldest_s = max(long_ago_s, standing.acting_since_s)
        for token in tokens:
            authorization = self._grants.record.find(token)
            if authorization is not None and authorization.heard_s < oldest_s:
                return None
        return self._answers.drains()

    async def hurry(self, tick: Callable[[], None], tick_s: float) -> None:
        """Before a stop: give back what nobody holds, and let holders move for a moment.

        What is left stays on record here, and in this server's name: nothing is lost.
        """
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while self._standing.others_grant() and self._standing.may_return():
            self._give_back()
            tick()
            waited_s = loop.time() - began_s
            returning = waited_s < _RETURN_S and self._is_returning()
            moving = waited_s < _HOLDERS_S and len(self._grants.record) > 0
            if not returning and not moving:
                return
            await asyncio.sleep(tick_s)

    def _give_back(self) -> None:
        if self._standing.may_return():
            self._borrower.give_back()

    def _is_returning(self) -> bool:
        return any(desk.set_aside for desk in self._grants.desks.values())


def successors(state: PoolState, status: EngineStatus) -> Iterator[str]:
    """Whom a leader can hand over to, those first that stay; nobody if it does not lead."""
    names = [n for n in state.priority if n in status.connected and state.servers[n].votes]
    if status.leads:
        yield from sorted(names, key=lambda name: not state.servers[name].grants)
