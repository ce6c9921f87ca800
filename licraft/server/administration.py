"""What administrators change in a pool, on whichever server they ask for it.

May import the core, the engine's contract, `wire`, `errors` and this room. Every change is
committed; its answer says what became of it. Source: interfaces, "Administration".
"""

from __future__ import annotations

import asyncio
import logging

from licraft.core.commands import Command, Drain, PreferLeader
from licraft.core.outcomes import Code, Effect, Outcome
from licraft.core.state import PoolState
from licraft.errors import LicenseError, NotExecuted, OutcomeUnknown, Overloaded
from licraft.replication.engine import Engine
from licraft.server.answers import Answers
from licraft.server.license_keeper import LicenseKeeper
from licraft.server.pool import ReplicatedPool
from licraft.server.proposer import Proposer
from licraft.wire import Installed, LeaderAnswer, Problem, ServerAnswer

log = logging.getLogger(__name__)

_COMMIT_S = 5.0
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
        refusal = self._answers.refusal(recovering_too=False)
        if refusal is not None:
            return refusal
        try:
            sequence = await self._keeper.install(text)
        except LicenseError as fault:
            status = 409 if fault.code == Code.STALE_SEQUENCE else 422
            sequence = self.state.license.sequence
            return Problem(status, fault.code, str(fault), sequence=sequence)
        except NotExecuted as fault:
            return self._not_done("installed", fault)
        except OutcomeUnknown as fault:
            return self._answers.elsewhere(Code.OUTCOME_UNKNOWN, f"perhaps installed: {fault}")
        return Installed(sequence, self.state.index)

    async def lead(self, server: str) -> LeaderAnswer | Problem:
        """Make `server` the leader: commit the wish, then see the leader follow it."""
        refusal = self._answers.refusal(recovering_too=False)
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
        refusal = self._answers.refusal(recovering_too=False)
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

    def _unknown(self, server: str) -> Problem:
        known = ", ".join(self.state.servers)
        detail = f"no server {server} in this pool; it has {known}"
        return Problem(404, Code.NOT_FOUND, detail, field="server")

    async def _commit(self, command: Command) -> Outcome | Problem:
        """What became of a command, or why that cannot be told."""
        try:
            async with asyncio.timeout(_COMMIT_S):
                return await self._proposer.submit(command)
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
