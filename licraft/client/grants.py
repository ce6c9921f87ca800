"""Getting a seat granted: server after server, and round after round while there is time.

May import the client's other modules, `wire` and `errors`. Source: interfaces, client
calls; claims R7a, R26.
"""

from __future__ import annotations

import asyncio
import math
import random
from typing import TypeVar
from uuid import uuid4

import msgspec

from licraft.client.answers import Elsewhere, unavailable, understand
from licraft.client.clock import Clock
from licraft.client.keeper import Keeper
from licraft.client.routes import Routes
from licraft.client.seats import Hold
from licraft.client.transport import Answer, NoAnswer, Transport
from licraft.errors import InvalidRequest, LicraftError
from licraft.wire import (
    Authorization,
    CheckoutRequest,
    ClientInfo,
    HeartbeatAnswer,
    HeartbeatRequest,
)

T = TypeVar("T")

MAX_TTL_S = 366 * 86400.0
FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 2.0


class Granter:
    """Asks the pool for authorizations."""

    def __init__(
        self,
        transport: Transport,
        routes: Routes,
        keeper: Keeper,
        clock: Clock,
        *,
        read_timeout_s: float,
    ) -> None:
        self._transport = transport
        self._routes = routes
        self._keeper = keeper
        self._clock = clock
        self._read_timeout_s = read_timeout_s

    async def grant(self, request: CheckoutRequest) -> Hold:
        """An authorization from the first server that grants one.

        A denial is final. A pool that is alive but cannot grant yet (no quorum,
        recovering, ...) is asked again as long as the time to wait lasts; one of
        which no server answers is reported at once: PoolUnavailable.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.wait
        pause_s = FIRST_PAUSE_S
        while True:
            refusals: list[Elsewhere] = []
            for url in self._routes.walk(self._clock):
                outcome = await self._grant_at(url, request, deadline)
                if isinstance(outcome, Hold):
                    return outcome
                refusals.append(outcome)
            after_s = min((r.retry_after_s for r in refusals if r.retry_after_s), default=0.0)
            delay_s = max(pause_s, min(after_s, MAX_PAUSE_S)) * random.uniform(0.75, 1.25)
            alive = any(refusal.code for refusal in refusals)
            if not alive or loop.time() + delay_s > deadline:
                raise unavailable(refusals)
            await asyncio.sleep(delay_s)
            pause_s = min(pause_s * 1.5, MAX_PAUSE_S)

    async def _grant_at(
        self, url: str, request: CheckoutRequest, deadline: float
    ) -> Hold | Elsewhere:
        """Ask one server, and once more under the same id if its answer was lost.

        Another server gets another id: an authorization that the first one may
        have granted, unheard, must not be mistaken for the second one's.
        """
        named = msgspec.structs.replace(request, id=request.id or str(uuid4()))
        try:
            outcome = await self._post(url, named, deadline)
            sent_at = outcome.sent_at
            if isinstance(outcome, NoAnswer) and outcome.may_have_arrived:
                outcome = await self._post(url, named, deadline)
        except asyncio.CancelledError:
            self._keeper.errand(self._disown(url, named))
            raise
        granted = heed(outcome, Authorization, self._routes, self._clock())
        if isinstance(granted, LicraftError):
            raise granted
        if isinstance(granted, Elsewhere):
            return granted
        self._routes.adopt(granted.servers)
        self._routes.prefer(url)
        if not _usable(granted, request):
            self._keeper.give_back_soon([granted.token], url)
            return Elsewhere(url, "granted something else than what was asked")
        if self._clock() - sent_at > granted.heartbeat:
            # The wait has used up the authorization's time, which counts from
            # when the request was sent: it is renewed before it is handed out.
            proved = await self._prove(url, granted)
            if proved is None:
                return Elsewhere(url, "granted seats after a wait and did not confirm them")
            sent_at = proved
        return Hold(granted, url, sent_at, self._clock)

    async def _post(self, url: str, request: CheckoutRequest, deadline: float) -> Answer | NoAnswer:
        left_s = max(0.0, deadline - asyncio.get_running_loop().time())
        wait_s = round(min(left_s, request.wait), 3)
        body = msgspec.json.encode(msgspec.structs.replace(request, wait=wait_s))
        return await self._transport.ask(
            "POST", url, "/v1/authorizations", body, read_timeout_s=wait_s + self._read_timeout_s
        )

    async def _prove(self, url: str, granted: Authorization) -> float | None:
        """Renew a fresh authorization at its server; when the request was sent, or None."""
        try:
            outcome = await self._transport.ask(
                "POST",
                url,
                "/v1/heartbeats",
                msgspec.json.encode(HeartbeatRequest(tokens=[granted.token])),
                read_timeout_s=self._read_timeout_s,
                repeat=True,
            )
        except asyncio.CancelledError:
            self._keeper.give_back_soon([granted.token], url)
            raise
        answer = heed(outcome, HeartbeatAnswer, self._routes, self._clock())
        statuses = [r.status for r in answer.results] if isinstance(answer, HeartbeatAnswer) else []
        if statuses == ["renewed"]:
            return outcome.sent_at
        self._keeper.give_back_soon([granted.token], url)
        return None

    async def _disown(self, url: str, named: CheckoutRequest) -> None:
        """Find out what a cancelled request was granted, by its id, and give it back."""
        outcome = await self._post(url, msgspec.structs.replace(named, wait=0.0), 0.0)
        granted = understand(outcome, Authorization)
        if isinstance(granted, Authorization):
            await self._keeper.give_back([granted.token], url)


def heed(
    outcome: Answer | NoAnswer, body_type: type[T], routes: Routes, now: float
) -> T | LicraftError | Elsewhere:
    """Understand an answer, and remember what it says of the servers."""
    answer = understand(outcome, body_type)
    if isinstance(answer, Elsewhere):
        routes.adopt(answer.servers)
        if not answer.code:
            routes.silent(outcome.url, now)
    else:
        routes.answered(outcome.url)
    return answer


def checkout_request(
    feature: str,
    count: int,
    wait: float,
    version: str | None,
    id: str | None,
    info: ClientInfo,
) -> CheckoutRequest:
    """The request, or InvalidRequest naming the argument."""
    if not isinstance(wait, int | float) or not math.isfinite(wait):
        raise InvalidRequest(f"wait: expected seconds, found {wait!r}", "invalid_request")
    body = {
        "feature": feature,
        "count": count,
        "wait": float(wait),
        "version": version,
        "id": id,
        "client": msgspec.structs.asdict(info),
    }
    try:
        return msgspec.convert(body, CheckoutRequest)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"checkout: {error}", "invalid_request") from None


def _usable(granted: Authorization, asked: CheckoutRequest) -> bool:
    """Whether an authorization is what was asked, with bounds that make sense."""
    return (
        granted.feature == asked.feature
        and granted.count == asked.count
        and 0 < granted.ttl <= MAX_TTL_S
        and granted.heartbeat > 0
        and granted.token != ""
    )
