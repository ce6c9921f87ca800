"""Heartbeats for what this server has not granted under that token (R8, R9).

May import the core, `wire` and this room. A client whose server failed sends its
heartbeat here. What is on record already is confirmed; what is not becomes a request
for seats, in fail-over mode (B13, B14). Source: pool protocol, sections 5 and 10.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from licraft.core.commands import Reason
from licraft.core.outcomes import Code
from licraft.core.record import Authorization
from licraft.server.answers import Answers
from licraft.server.borrower import Borrower
from licraft.server.desk import Decision
from licraft.server.grants import Grants, same_request
from licraft.server.standing import Standing
from licraft.server.tokens import TokenFields
from licraft.wire import HeartbeatResult

_MAX_REMOVED = 10_000
_RETRY_S = 1.0


class Failover:
    """Takes over clients of other servers, and of this server's earlier incarnations."""

    def __init__(
        self, server: str, grants: Grants, borrower: Borrower, standing: Standing, answers: Answers
    ) -> None:
        self._server = server
        self._grants = grants
        self._borrower = borrower
        self._standing = standing
        self._answers = answers
        self._removed: dict[str, None] = {}

    def strike(self, id: str) -> bool:
        """Take an authorization off the record; its heartbeats are `lost` from now on."""
        if self._grants.release(id) is None:
            return False
        self._removed[id] = None
        if len(self._removed) > _MAX_REMOVED:
            del self._removed[next(iter(self._removed))]
        return True

    def heartbeat(self, token: str) -> HeartbeatResult | Awaitable[HeartbeatResult]:
        """What becomes of a token that is not on record; may have to wait for a borrow."""
        fields = self._grants.mint.open(token)
        if fields is None:
            return HeartbeatResult("", "lost", code=Code.NOT_AUTHORIZED)
        known = self._grants.record.get(fields.id)
        if known is not None:
            if not same_request(known, fields.feature, fields.count, fields.client):
                return HeartbeatResult(fields.id, "lost", code=Code.NOT_AUTHORIZED)
            self._grants.renew(known)
            return self._converted(known)
        if fields.id in self._removed:
            return HeartbeatResult(fields.id, "lost", code=Code.REMOVED)
        if self._standing.recovering_s():
            return self._recovered(fields, token)
        return self._convert(fields)

    def _recovered(self, fields: TokenFields, token: str) -> HeartbeatResult:
        """While recovering, the tokens of an earlier incarnation rebuild its record."""
        desk = self._grants.desk(fields.feature)
        if fields.server != self._server or fields.count > self._grants.returnable(desk):
            return HeartbeatResult(fields.id, "pending", retry_after=_RETRY_S)
        known = self._grants.readmit(fields.feature, fields.id, fields.count, fields.client, token)
        return HeartbeatResult(known.id, "renewed", self._grants.state.ttl_s)

    def _convert(self, fields: TokenFields) -> HeartbeatResult | Awaitable[HeartbeatResult]:
        """Make a request of a heartbeat (R9): the seats come from here, not from its issuer."""
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
            return HeartbeatResult(fields.id, "pending", retry_after=_RETRY_S)
        return HeartbeatResult(fields.id, "lost", code=result.code)

    def _converted(self, a: Authorization) -> HeartbeatResult:
        ttl_s = self._grants.state.ttl_s
        return HeartbeatResult(a.id, "converted", ttl_s, a.token, self._server)
