"""What clients ask of one license server: checkouts, heartbeats and checkins.

May import the core, `wire`, `errors` and this room. Each call is answered at once, from
memory; only one that has to wait for seats, or for another server, answers with an
awaitable. Commits nothing itself. Source: interfaces, "Client calls"; pool protocol,
section 5; claims R7a, R8, R9, B30, B31.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, cast

import msgspec

from licraft.core.commands import Reason
from licraft.core.license import CodeStatus
from licraft.core.outcomes import Code
from licraft.core.record import Authorization
from licraft.core.state import PoolState
from licraft.errors import InvariantBroken, PeerUnreachable
from licraft.server.answers import Answers
from licraft.server.borrower import Borrower
from licraft.server.desk import Decision, Denial, Desk
from licraft.server.failover import Failover
from licraft.server.grants import MAX_AUTHORIZATIONS, Grants, same_request
from licraft.server.ids import Ids
from licraft.server.pool import ReplicatedPool
from licraft.server.proof import Prover
from licraft.server.reports import Reports
from licraft.server.standing import Standing
from licraft.server.tokens import ClientFields
from licraft.wire import Authorization as Granted
from licraft.wire import (
    CheckinAnswer,
    CheckinRequest,
    CheckoutRequest,
    ClientInfo,
    HeartbeatAnswer,
    HeartbeatRequest,
    HeartbeatResult,
    Problem,
)

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_NOBODY: ClientFields = ("", "", "", 0, "")

CheckoutResult = tuple[int, Granted | Problem]
HeartbeatsResult = tuple[int, HeartbeatAnswer | Problem]
CheckinResult = tuple[int, CheckinAnswer | Problem]

Request = TypeVar("Request", CheckoutRequest, HeartbeatRequest)
Body = TypeVar("Body")


class ClientCalls:
    """The client calls of one server; each result is an HTTP status and a body."""

    def __init__(
        self,
        server: str,
        pool: ReplicatedPool,
        standing: Standing,
        grants: Grants,
        borrower: Borrower,
        failover: Failover,
        answers: Answers,
        reports: Reports,
        prover: Prover,
    ) -> None:
        self._server = server
        self._prover = prover
        self._pool = pool
        self._standing = standing
        self._grants = grants
        self._borrower = borrower
        self._failover = failover
        self._answers = answers
        self._reports = reports
        self._ids = Ids()

    @property
    def state(self) -> PoolState:
        """The replicated state, to be read."""
        return self._pool.state

    def checkout(self, request: CheckoutRequest) -> CheckoutResult | Awaitable[CheckoutResult]:
        """Grant seats: 201, or 200 for a repeated `id`, or a problem."""
        if request.nonce:
            return self._proved(request, self.checkout, self._prover.checkout)
        if not self._standing.may_grant():
            refusal = self._answers.refusal()
            if refusal is not None:
                return refusal.status, refusal
        state = self._pool.state
        feature, count = request.feature, request.count
        pool = state.table.features.get(feature)
        if pool is None:
            return _answer(self._answers.unknown(feature, state))
        unlicensed = self._answers.unlicensed(pool, request.version)
        if unlicensed is not None:
            return _answer(unlicensed)
        client = _client(request.client) if request.client else _NOBODY
        grants = self._grants
        id = request.id
        if id is None:
            id = self._ids.next()
        else:
            known = grants.record.get(id)
            if known is not None:
                return self._repeated(known, request, client)
            if grants.has_gone(id):
                return self._denied(grants.desk(feature), Code.INVALID_REQUEST, count)
        desk = grants.desk(feature)
        if len(grants.record) >= MAX_AUTHORIZATIONS:
            return self._denied(desk, Code.OVERLOADED, count)
        granted = grants.request(desk, id, count, client)
        if granted is not None:
            self._borrower.consider(desk)
            return 201, self._answers.granted(granted, state.ttl_s)
        # A request that will not wait is not queued behind those who are waiting already.
        behind = request.wait == 0 and bool(desk.queue and desk.borrow) and not desk.asking
        if count > pool.deployed or behind:
            desk.denied += 1
            return self._denied(desk, Code.NO_SEATS, count)
        patience_s = state.lease_s
        decision = grants.enqueue(desk, id, count, client, Reason.REQUEST, request.wait, patience_s)
        self._borrower.consider(desk)
        return self._decided(desk, count, decision)

    def heartbeat(
        self, request: HeartbeatRequest
    ) -> HeartbeatsResult | Awaitable[HeartbeatsResult]:
        """Renew what a client holds; what another server granted becomes a request (R9)."""
        if request.nonce:
            return self._proved(request, self.heartbeat, self._prover.heartbeat)
        refusal = self._answers.refusal(recovering_too=False)
        if refusal is not None:
            return refusal.status, refusal
        results: list[HeartbeatResult | asyncio.Future[HeartbeatResult]] = []
        waiting: list[asyncio.Future[HeartbeatResult]] = []
        grants = self._grants
        find, renew, ttl_s = grants.record.find, grants.renew, self._pool.state.ttl_s
        for token in request.tokens:
            authorization = find(token)
            if authorization is not None:
                renew(authorization)
                results.append(HeartbeatResult(authorization.id, "renewed", ttl_s))
                continue
            result = self._failover.heartbeat(token, request.confirm)
            if not isinstance(result, HeartbeatResult):
                result = asyncio.ensure_future(result)
                waiting.append(result)
            results.append(result)
        if waiting:
            answer = asyncio.ensure_future(self._gathered(request, results))
            # A caller who goes away ends their waiting, even one that is gone by now.
            answer.add_done_callback(lambda _: [one.cancel() for one in waiting])
            return answer
        done = cast(list[HeartbeatResult], results)
        return 200, self._answers.heartbeats(done, request.servers_version)

    def checkin(self, request: CheckinRequest) -> CheckinResult | Awaitable[CheckinResult]:
        """Give seats back; those of another server are passed on to it."""
        released: list[str] = []
        unknown: list[str] = []
        elsewhere: dict[str, list[str]] = {}
        for token in request.tokens:
            authorization = self._grants.record.find(token)
            if authorization is not None:
                self._grants.release(authorization.id)
                released.append(authorization.id)
                continue
            fields = self._grants.mint.open(token) if self.state.formed else None
            if fields is None:
                unknown.append("")
            elif self._grants.release(fields.id) is not None:
                released.append(fields.id)
            elif fields.server == self._server or fields.server not in self.state.servers:
                unknown.append(fields.id)
            else:
                elsewhere.setdefault(fields.server, []).append(fields.id)
        if elsewhere:
            return self._passed_on(elsewhere, released, unknown)
        return 200, CheckinAnswer(released, unknown)

    def _proved(
        self,
        request: Request,
        ask: Callable[[Request], tuple[int, Body] | Awaitable[tuple[int, Body]]],
        prove: Callable[[str, tuple[int, Body]], None],
    ) -> tuple[int, Body] | Awaitable[tuple[int, Body]]:
        """Answer a request as without its nonce, with a proof that this is the pool's server."""
        nonce = request.nonce if isinstance(request.nonce, str) else ""
        result = ask(msgspec.structs.replace(request, nonce=None))
        if isinstance(result, tuple):
            prove(nonce, result)
            return result
        return self._proved_later(nonce, result, prove)

    async def _proved_later(
        self,
        nonce: str,
        result: Awaitable[tuple[int, Body]],
        prove: Callable[[str, tuple[int, Body]], None],
    ) -> tuple[int, Body]:
        done = await result
        prove(nonce, done)
        return done

    def _denied(self, desk: Desk, code: Code, count: int) -> CheckoutResult:
        pool = self.state.table.features.get(desk.feature)
        if pool is None:
            return _answer(self._answers.unknown(desk.feature, self.state))
        if code is Code.NO_SEATS and pool.status is not CodeStatus.VALID:
            return _answer(self._answers.unlicensed(pool, None) or Problem(409, code, ""))
        used = (self._grants.in_use(name).get(desk.feature, 0) for name in self.state.servers)
        return _answer(self._answers.denied(code, pool, count, sum(used), len(desk.queue)))

    def _repeated(
        self, known: Authorization, request: CheckoutRequest, client: ClientFields
    ) -> CheckoutResult:
        """A checkout whose answer was lost gets the same authorization, valid from now."""
        if not same_request(known, request.feature, request.count, client):
            desk = self._grants.desk(request.feature)
            return self._denied(desk, Code.INVALID_REQUEST, request.count)
        self._grants.renew(known)
        return 200, self._answers.granted(known, self.state.ttl_s)

    async def _decided(
        self, desk: Desk, count: int, decision: asyncio.Future[Decision]
    ) -> CheckoutResult:
        """Wait for the queue's decision; a client that goes away leaves the queue.

        What was granted but cannot be answered stays on record until it expires: the
        same request, repeated, may have been answered with it.
        """
        result = await decision
        if isinstance(result, Denial):
            return self._denied(desk, result.code, count)
        if not self._standing.acts():
            # Paused between the grant and now: its answer must not leave without a lease.
            return self._denied(desk, Code.NO_QUORUM, count)
        self._borrower.consider(desk)
        return 201, self._answers.granted(result, self.state.ttl_s)

    async def _gathered(
        self,
        request: HeartbeatRequest,
        results: Sequence[HeartbeatResult | asyncio.Future[HeartbeatResult]],
    ) -> HeartbeatsResult:
        """Wait for all that have to wait, at the same time: as long as the longest takes."""
        waiting = [result for result in results if isinstance(result, asyncio.Future)]
        await asyncio.gather(*waiting, return_exceptions=True)
        done = [
            result if isinstance(result, HeartbeatResult) else self._outcome(token, result)
            for token, result in zip(request.tokens, results, strict=True)
        ]
        # If the lease ran out meanwhile nothing may be confirmed.
        refusal = self._answers.refusal(recovering_too=False)
        if refusal is not None:
            return refusal.status, refusal
        return 200, self._answers.heartbeats(done, request.servers_version)

    def _outcome(self, token: str, waited: asyncio.Future[HeartbeatResult]) -> HeartbeatResult:
        """What came of one; that of a fault of ours is not known, and its client asks again."""
        error = None if waited.cancelled() else waited.exception()
        if isinstance(error, InvariantBroken):
            raise error
        if error is None and not waited.cancelled():
            return waited.result()
        if error is not None:
            log.error("a heartbeat of one authorization failed", exc_info=error)
        fields = self._grants.mint.open(token)
        return HeartbeatResult(fields.id if fields else "", "pending", retry_after=_RETRY_S)

    async def _passed_on(
        self, elsewhere: dict[str, list[str]], released: list[str], unknown: list[str]
    ) -> CheckinResult:
        """Have other servers release what they granted; what they do not confirm is unknown."""
        for server, ids in elsewhere.items():
            try:
                struck = await self._reports.strike(server, ids)
            except PeerUnreachable:
                struck = []
            released += [id for id in ids if id in struck]
            unknown += [id for id in ids if id not in struck]
        return 200, CheckinAnswer(released, unknown)


def _answer(problem: Problem) -> tuple[int, Problem]:
    return problem.status, problem


def _client(info: ClientInfo) -> ClientFields:
    return info.id, info.user, info.host, info.pid, info.app
