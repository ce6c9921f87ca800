"""What administrators change in a pool, on whichever server they ask for it.

May import the core, the engine's contract, `wire`, `errors` and this room. Every change is
committed; its answer says what became of it. Source: interfaces, "Administration".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from licraft.core.commands import Command, Drain, PreferLeader, RemoveAuthorization
from licraft.core.outcomes import Code, Effect, Outcome
from licraft.core.state import PoolState
from licraft.errors import LicenseError, NotExecuted, OutcomeUnknown, Overloaded
from licraft.replication.engine import Engine
from licraft.server.answers import Answers
from licraft.server.asker import audited
from licraft.server.license_keeper import LicenseKeeper, pairs_of
from licraft.server.pool import ReplicatedPool
from licraft.server.proposer import Proposer
from licraft.wire import CodeRequest, Installed, LeaderAnswer, Problem, ServerAnswer

log = logging.getLogger(__name__)

_COMMIT_S = 5.0
_INSTALL_S = 12.0
_LEAD_S = 5.0
_LOOK_S = 0.05


class Administration:
    """The changing calls of one server."""

    def __init__(
        self,
        pool: ReplicatedPool,
        engine: Engine,
        proposer: Proposer,
        keeper: LicenseKeeper,
        answers: Answers,
    ) -> None:
        self._pool = pool
        self._engine = engine
        self._proposer = proposer
        self._keeper = keeper
        self._answers = answers

    @property
    def state(self) -> PoolState:
        """The replicated state, to be read."""
        return self._pool.state

    async def install_license(self, text: str) -> Installed | Problem:
        """Verify a redundant license file and commit it."""
        return await self._installed(lambda: self._keeper.install(text))

    async def add_code(self, request: CodeRequest) -> Installed | Problem:
        """Add a license code to the redundant license file and commit that (B11)."""
        try:
            pairs = pairs_of(request.distribution, self.state.servers)
        except ValueError as fault:
            return Problem(400, Code.INVALID_REQUEST, str(fault), field="distribution")
        return await self._installed(
            lambda: self._keeper.add_code(request.code, pairs, request.threshold)
        )

    async def _installed(self, install: Callable[[], Awaitable[int]]) -> Installed | Problem:
        """The number of the file that was installed, or why there is none."""
        refusal = await self._answers.order_refusal()
        if refusal is not None:
            return refusal
        try:
            async with asyncio.timeout(_INSTALL_S):
                sequence = await install()
        except LicenseError as fault:
            status = 409 if fault.code == Code.STALE_SEQUENCE else 422
            sequence = self.state.license.sequence
            return Problem(status, fault.code, str(fault), sequence=sequence)
        except NotExecuted as fault:
            return self._not_done("installed", fault)
        except OutcomeUnknown as fault:
            return self._answers.elsewhere(Code.OUTCOME_UNKNOWN, f"perhaps installed: {fault}")
        except TimeoutError:
            detail = f"not installed within {_INSTALL_S:g} s, perhaps later: look, then repeat"
            return self._answers.elsewhere(Code.OUTCOME_UNKNOWN, detail)
        return Installed(sequence, self.state.index)

    async def lead(self, server: str) -> LeaderAnswer | Problem:
        """Make `server` the leader: commit the wish, then see the leader follow it."""
        refusal = await self._answers.order_refusal()
        if refusal is not None:
            return refusal
        member = self.state.servers.get(server)
        if member is None:
            return self._unknown(server)
        outcome = await self._commit(PreferLeader(server))
        if isinstance(outcome, Problem):
            return outcome
        if outcome.effect is not Effect.DONE:
            step = f"`licraft server undrain {server}`" if member.drained else "see that it runs"
            detail = f"{server} is {member.word} and cannot lead: {step}"
            return self._answers.elsewhere(Code.NO_QUORUM, detail)
        index = self.state.index
        deadline_s = asyncio.get_running_loop().time() + _LEAD_S
        while (status := self._engine.status()).leader != server:
            if asyncio.get_running_loop().time() > deadline_s:
                now = status.leader or "nobody"
                detail = f"after {_LEAD_S:g} s {now} leads, not {server}: look again or repeat"
                return self._answers.elsewhere(Code.OUTCOME_UNKNOWN, detail)
            member = self.state.servers.get(server)
            if member is None or not member.grants:
                word = member.word if member else "removed"
                detail = f"{server} is {word} before it could lead"
                return self._answers.elsewhere(Code.NO_QUORUM, detail)
            await asyncio.sleep(_LOOK_S)
        return LeaderAnswer(server, status.term, index)

    async def drain(self, server: str, *, on: bool) -> ServerAnswer | Problem:
        """Have a server give its seats and clients away, or take them again; not awaited here."""
        refusal = await self._answers.order_refusal()
        if refusal is not None:
            return refusal
        outcome = await self._commit(Drain(server, on))
        if isinstance(outcome, Problem):
            return outcome
        member = self.state.servers.get(server)
        if member is None:
            return self._unknown(server)
        if outcome.effect is Effect.REFUSED:
            detail = f"{server} is being removed from the pool: it is beyond draining"
            return Problem(409, Code.INVALID_REQUEST, detail, field="server")
        return ServerAnswer(server, member.word, self.state.index)

    async def remove(self, id: str, holder: str) -> Problem | None:
        """Write into the audit that an authorization is to end; then it may be ended."""
        refusal = await self._answers.order_refusal()
        if refusal is not None:
            return refusal
        outcome = await self._commit(RemoveAuthorization(id, holder))
        return outcome if isinstance(outcome, Problem) else None

    async def commit(self, command: Command) -> Outcome | Problem:
        """What became of an administrator's command, or why this server cannot take it."""
        refusal = await self._answers.order_refusal()
        return refusal if refusal is not None else await self._commit(command)

    def _unknown(self, server: str) -> Problem:
        known = ", ".join(self.state.servers)
        detail = f"no server {server} in this pool; it has {known}"
        return Problem(404, Code.NOT_FOUND, detail, field="server")

    async def _commit(self, command: Command) -> Outcome | Problem:
        """What became of a command, or why that cannot be told."""
        try:
            async with asyncio.timeout(_COMMIT_S):
                return await self._proposer.submit(audited(command))
        except NotExecuted as fault:
            return self._not_done("done", fault)
        except OutcomeUnknown as fault:
            return self._answers.elsewhere(Code.OUTCOME_UNKNOWN, f"perhaps done: {fault}")
        except TimeoutError:
            detail = f"not committed within {_COMMIT_S:g} s, perhaps later: look before you repeat"
            return self._answers.elsewhere(Code.OUTCOME_UNKNOWN, detail)

    def _not_done(self, what: str, fault: NotExecuted) -> Problem:
        """A change that will certainly not happen, and why: repeat it, later or elsewhere."""
        code = Code.OVERLOADED if isinstance(fault, Overloaded) else Code.NO_QUORUM
        return self._answers.elsewhere(code, f"not {what}, and safe to repeat: {fault}")
