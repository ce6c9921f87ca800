"""Servers that join and leave the pool: what administrators ask for, and the leader's part.

May import the core, the engine's contract, `wire`, `errors` and this room. A change is
committed one at a time; the engine says no while another is under way or when no majority
would be left, and the change is asked for again for some seconds. What follows of itself is
the leader's to commit: that a server which joined has the log and counts, and that nobody
relies any more on one that left. Source: `core.membership`.
"""

from __future__ import annotations

import asyncio
import logging

from licraft.core.commands import (
    AddServer,
    DropServer,
    Member,
    MembershipCommand,
    PromoteServer,
    RemoveServer,
)
from licraft.core.membership import MAX_SERVERS, is_idle
from licraft.core.outcomes import Code, Effect, Outcome
from licraft.core.state import PoolState, ServerStatus
from licraft.errors import NotExecuted, OutcomeUnknown, SettingsError
from licraft.replication.directory import split_address
from licraft.replication.engine import Engine, EngineStatus
from licraft.server.answers import Answers
from licraft.server.asker import audited
from licraft.server.pool import ReplicatedPool
from licraft.server.proposer import Proposer
from licraft.wire import Problem, ServerAnswer, ServerRequest

log = logging.getLogger(__name__)

_COMMIT_S = 5.0
_ATTEMPT_S = 1.0
_PAUSE_S = 0.1


class Members:
    """The changes of members that one server proposes."""

    def __init__(
        self, pool: ReplicatedPool, engine: Engine, proposer: Proposer, answers: Answers
    ) -> None:
        self._pool = pool
        self._engine = engine
        self._proposer = proposer
        self._answers = answers
        self._step: asyncio.Task[None] | None = None

    @property
    def state(self) -> PoolState:
        """The replicated state, to be read."""
        return self._pool.state

    async def add(self, request: ServerRequest) -> ServerAnswer | Problem:
        """Have a server join; it counts once it runs and has caught up."""
        refusal = await self._answers.order_refusal()
        if refusal is not None:
            return refusal
        try:
            split_address(request.peer)
        except SettingsError as fault:
            return Problem(400, Code.INVALID_REQUEST, str(fault), field="peer")
        outcome = await self._commit(AddServer(Member(request.name, request.api, request.peer)))
        if isinstance(outcome, Problem):
            return outcome
        if outcome.code == Code.LIMIT_REACHED:
            detail = f"the pool has {MAX_SERVERS} servers, and that is as many as one can have"
            return Problem(403, Code.LIMIT_REACHED, detail)
        if outcome.effect is Effect.REFUSED:
            return Problem(409, Code.INVALID_REQUEST, self._taken(request), field="name")
        return self._answer(request.name)

    async def remove(self, name: str) -> ServerAnswer | Problem:
        """Have a server leave; it is gone once nobody can rely on its seats any more."""
        refusal = await self._answers.order_refusal()
        if refusal is not None:
            return refusal
        outcome = await self._commit(RemoveServer(name))
        if isinstance(outcome, Problem):
            return outcome
        if outcome.code == Code.NOT_FOUND:
            known = ", ".join(self.state.servers)
            detail = f"no server {name} in this pool; it has {known}"
            return Problem(404, Code.NOT_FOUND, detail, field="name")
        if outcome.effect is Effect.REFUSED:
            detail = f"{name} is the last server of the pool: it can be stopped, not removed"
            return Problem(409, Code.INVALID_REQUEST, detail, field="name")
        return self._answer(name)

    def compare(self, configured: tuple[Member, ...]) -> None:
        """Warn of a configuration that lists other servers than the pool has, which counts."""
        other = difference(configured, self.state)
        if other:
            log.warning("`servers` in the configuration differs from the pool's own: %s", other)

    def tick(self, status: EngineStatus) -> None:
        """As the leader, take the next step of a server that joins or leaves."""
        if not status.leads or self._step is not None:
            return
        command = self._next_step(status)
        if command is not None:
            self._step = asyncio.get_running_loop().create_task(self._try(command))

    def close(self) -> None:
        """Propose nothing any more."""
        if self._step is not None:
            self._step.cancel()

    def _next_step(self, status: EngineStatus) -> MembershipCommand | None:
        for server in self.state.servers.values():
            if server.removing and is_idle(server):
                return DropServer(server.name)
            joining = server.status is ServerStatus.JOINING and not server.removing
            if joining and server.name in status.caught_up:
                return PromoteServer(server.name)
        return None

    async def _try(self, command: MembershipCommand) -> None:
        try:
            await self._proposer.change(command, _ATTEMPT_S)
        except (NotExecuted, OutcomeUnknown) as fault:
            log.info("%s is tried again: %s", command, fault)
            await asyncio.sleep(_PAUSE_S)
        finally:
            self._step = None

    async def _commit(self, command: MembershipCommand) -> Outcome | Problem:
        """What became of a change, or why that cannot be told; it is harmless when repeated."""
        deadline_s = asyncio.get_running_loop().time() + _COMMIT_S
        unknown = False
        while True:
            try:
                return await self._proposer.change(audited(command), _ATTEMPT_S)
            except (NotExecuted, OutcomeUnknown) as fault:
                why = str(fault)
                unknown = unknown or isinstance(fault, OutcomeUnknown)
            if asyncio.get_running_loop().time() > deadline_s:
                break
            await asyncio.sleep(_PAUSE_S)
        if unknown:
            return self._answers.elsewhere(Code.OUTCOME_UNKNOWN, f"perhaps done: {why}")
        detail = (
            "not done, and safe to repeat: another change of servers is under way, or no"
            f" majority of the servers that would count is there ({why})"
        )
        return self._answers.elsewhere(Code.NO_QUORUM, detail)

    def _taken(self, request: ServerRequest) -> str:
        """Why a server of this name or address cannot join."""
        if request.name in self.state.past_names:
            return (
                f"{request.name} was a server of this pool before, and a name is used once:"
                f" choose another, such as {request.name}2; the addresses may be the same"
            )
        for server in self.state.servers.values():
            if request.name == server.name and server.removing:
                return f"{server.name} is being removed, and a name is used once: choose another"
            if request.name == server.name:
                return f"{server.name} is there already, at {server.api} and {server.peer}"
            if request.api == server.api or request.peer == server.peer:
                return f"{server.name} is at {server.api} and {server.peer} already"
        return f"{request.name} cannot be added now"

    def _answer(self, name: str) -> ServerAnswer:
        server = self.state.servers.get(name)
        return ServerAnswer(name, server.word if server else "removed", self.state.members_index)


def difference(configured: tuple[Member, ...], state: PoolState) -> str:
    """How a configuration's list of servers differs from the pool's, which counts; or nothing."""
    pools = {s.name: Member(s.name, s.api, s.peer) for s in state.servers.values()}
    files = {member.name: member for member in configured}
    parts = [
        *(f"{name} is not in it" for name in pools if name not in files),
        *(f"{name} is no server of the pool" for name in files if name not in pools),
        *(
            f"{name} is at {pools[name].api} and {pools[name].peer}"
            for name in files.keys() & pools.keys()
            if files[name] != pools[name]
        ),
    ]
    return "; ".join(sorted(parts))
