"""Heartbeats for what this server has not granted under that token (R8, R9).

May import the core, `wire` and this room. A client whose server failed sends its
heartbeat here. What is on record already is confirmed; what another server granted moves
here, with the seat itself; what nobody has any more becomes a request for seats, in
fail-over mode (B13, B14). Source: pool protocol, sections 5 and 10; claims R16 to R18.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping

from licraft.core.commands import Reason
from licraft.core.outcomes import Code, Effect, Outcome
from licraft.core.record import Authorization
from licraft.core.state import ServerState, ServerStatus
from licraft.errors import ProposalError
from licraft.server.answers import Answers
from licraft.server.borrower import Borrower
from licraft.server.desk import Decision
from licraft.server.grants import Grants, same_request
from licraft.server.moves import Moves
from licraft.server.standing import Standing
from licraft.server.tokens import TokenFields
from licraft.wire import HeartbeatResult

_RETRY_S = 1.0


class Failover:
    """Takes over clients of other servers, and of this server's earlier incarnations."""

    def __init__(
        self,
        server: str,
        grants: Grants,
        borrower: Borrower,
        standing: Standing,
        moves: Moves,
        answers: Answers,
    ) -> None:
        self._server = server
        self._grants = grants
        self._borrower = borrower
        self._standing = standing
        self._moves = moves
        self._answers = answers

    def heartbeat(
        self, token: str, confirm: Mapping[str, int]
    ) -> HeartbeatResult | Awaitable[HeartbeatResult]:
        """What becomes of a token that is not on record; may have to wait for the log.

        `confirm` has, by id, the log index of the `ServerDown` that a client was told of
        when it was still valid.
        """
        fields = self._grants.mint.open(token)
        if fields is None:
            return HeartbeatResult("", "lost", code=Code.NOT_AUTHORIZED)
        known = self._grants.record.get(fields.id)
        if known is not None:
            return self._known(fields, known)
        if self._grants.was_struck(fields.id):
            return HeartbeatResult(fields.id, "lost", code=Code.REMOVED)
        if self._grants.record.leaves(fields.id):
            return self._pending(fields)
        if self._standing.recovering_s() and not self._grants.has_gone(fields.id):
            return self._recovered(fields, token, confirm)
        holder = self._holder(fields)
        if holder is not None and holder.acts:
            return self._claim(fields, holder.name)
        if holder is not None and _may_be_adopted_from(holder):
            if confirm.get(fields.id) != holder.down_index:
                return HeartbeatResult(fields.id, "confirm", down_index=holder.down_index)
            return self._adopt(fields, holder)
        return self._convert(fields)

    def _known(self, fields: TokenFields, known: Authorization) -> HeartbeatResult:
        """What is on record, under another token than this."""
        if not same_request(known, fields.feature, fields.count, fields.client):
            return HeartbeatResult(fields.id, "lost", code=Code.NOT_AUTHORIZED)
        self._grants.renew(known)
        return self._converted(known)

    def _whereabouts(self, fields: TokenFields) -> str:
        """The server that has an authorization: its issuer, or who has had it since."""
        servers, at = self._grants.state.servers, fields.server
        for _ in servers:
            if at not in servers or fields.id not in servers[at].gone:
                break
            at, _index = servers[at].gone[fields.id]
        return at

    def _holder(self, fields: TokenFields) -> ServerState | None:
        """The other server that has an authorization; None if it is this one, or gone."""
        at = self._whereabouts(fields)
        return None if at == self._server else self._grants.state.servers.get(at)

    def _claim(
        self, fields: TokenFields, holder: str
    ) -> HeartbeatResult | Awaitable[HeartbeatResult]:
        """Have it from the server that acts and has it on record (section 10, case 2)."""
        came = self._moves.claim(fields, holder)
        return self._claimed(fields, holder, came) if came is not None else self._pending(fields)

    async def _claimed(
        self, fields: TokenFields, asked: str, came: asyncio.Future[bool]
    ) -> HeartbeatResult:
        """The holder's answer; if there is none yet the client goes on as it can (case 3)."""
        patience_s = self._grants.state.lease_s / 2
        done, _ = await asyncio.wait([came], timeout=patience_s)
        holder = self._holder(fields)
        if came.cancelled() and holder is not None and _may_be_adopted_from(holder):
            return HeartbeatResult(fields.id, "confirm", down_index=holder.down_index)
        if not done or came.cancelled():
            return self._pending(fields)
        if came.result():
            return self._adopted(fields)
        known = self._grants.record.get(fields.id)
        if known is not None:  # The same heartbeat, sent twice, was converted meanwhile.
            return self._known(fields, known)
        if self._grants.was_struck(fields.id):
            return HeartbeatResult(fields.id, "lost", code=Code.REMOVED)
        if holder is not None and holder.name != asked:
            return self._pending(fields)  # It moved on before it could be asked for.
        result = self._convert(fields)
        return result if isinstance(result, HeartbeatResult) else await result

    def _adopt(self, fields: TokenFields, holder: ServerState) -> Awaitable[HeartbeatResult]:
        """Take it over from a server that is down (case 4)."""
        return self._adoption(fields, self._moves.adopt(fields, holder.name, holder.down_index))

    async def _adoption(
        self, fields: TokenFields, adopted: asyncio.Future[Outcome]
    ) -> HeartbeatResult:
        try:
            outcome = await asyncio.shield(adopted)
        except ProposalError:
            return self._pending(fields)
        return self._adopted(fields) if outcome.effect is Effect.DONE else self._pending(fields)

    def _adopted(self, fields: TokenFields) -> HeartbeatResult:
        """It is on record here, if it has not ended again."""
        known = self._grants.record.get(fields.id)
        if known is None or not same_request(known, fields.feature, fields.count, fields.client):
            return self._pending(fields)
        ttl_s = self._grants.state.ttl_s
        return HeartbeatResult(known.id, "adopted", ttl_s, known.token, self._server)

    def _recovered(
        self, fields: TokenFields, token: str, confirm: Mapping[str, int]
    ) -> HeartbeatResult:
        """While recovering, tokens rebuild the record: what was granted here, or had come here.

        In two steps, as an adoption: whoever was still valid when it heard of this recovery
        had not expired before it, so that its seats were not given to anybody else.
        """
        desk = self._grants.desk(fields.feature)
        here = self._whereabouts(fields) == self._server
        if not here or fields.count > self._grants.returnable(desk):
            return self._pending(fields)
        # Below zero, so that it is the log index of no down.
        recovery = -self._grants.incarnation
        if confirm.get(fields.id) != recovery:
            return HeartbeatResult(fields.id, "confirm", down_index=recovery)
        if fields.server != self._server:  # It came here, and its client did not hear of that.
            return self._converted(
                self._grants.grant(fields.feature, fields.id, fields.count, fields.client)
            )
        known = self._grants.readmit(fields.feature, fields.id, fields.count, fields.client, token)
        return HeartbeatResult(known.id, "renewed", self._grants.state.ttl_s)

    def _convert(self, fields: TokenFields) -> HeartbeatResult | Awaitable[HeartbeatResult]:
        """Make a request of a heartbeat (R9): the seats come from here, not from its issuer."""
        if self._grants.has_gone(fields.id) or self._standing.recovering_s():
            return self._pending(fields)
        pool = self._grants.state.table.features.get(fields.feature)
        if pool is None:
            return HeartbeatResult(fields.id, "lost", code=Code.UNKNOWN_FEATURE)
        unlicensed = self._answers.unlicensed(pool, None)
        if unlicensed is not None:
            return HeartbeatResult(fields.id, "lost", code=unlicensed.code)
        desk = self._grants.desk(fields.feature)
        granted = self._grants.request(desk, fields.id, fields.count, fields.client)
        if granted is not None:
            self._borrower.consider(desk, Reason.FAILOVER)
            return self._converted(granted)
        decision = self._grants.enqueue(
            desk,
            fields.id,
            fields.count,
            fields.client,
            Reason.FAILOVER,
            wait_s=0.0,
            patience_s=self._grants.state.lease_s / 2,
        )
        self._borrower.consider(desk, Reason.FAILOVER)
        return self._conversion(fields, decision)

    async def _conversion(
        self, fields: TokenFields, decision: asyncio.Future[Decision]
    ) -> HeartbeatResult:
        """The outcome of a request that has to wait for a borrow.

        As long as the issuer may come back with the seats the client goes on under
        its own remaining validity; once they were reclaimed there is nothing to wait for.
        """
        result = await decision
        if isinstance(result, Authorization):
            return self._converted(result)
        issuer = self._grants.state.servers.get(fields.server)
        may_return = issuer is not None and fields.server != self._server and not issuer.reclaimed
        if may_return or result.code is not Code.NO_SEATS:
            return self._pending(fields)
        return HeartbeatResult(fields.id, "lost", code=result.code)

    def _pending(self, fields: TokenFields) -> HeartbeatResult:
        """Not now: the client goes on under what validity it has, and asks again.

        Where that does not follow from its token, it is told where to ask.
        """
        at = self._whereabouts(fields)
        hint = None if at in (fields.server, self._server) else at
        return HeartbeatResult(fields.id, "pending", server=hint, retry_after=_RETRY_S)

    def _converted(self, a: Authorization) -> HeartbeatResult:
        ttl_s = self._grants.state.ttl_s
        return HeartbeatResult(a.id, "converted", ttl_s, a.token, self._server)


def _may_be_adopted_from(holder: ServerState) -> bool:
    """Whether what it had granted is still as it was: it is down, and not reclaimed."""
    return holder.status is ServerStatus.DOWN and not holder.reclaimed
