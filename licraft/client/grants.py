"""Getting a seat granted: server after server, and try after try while there is time.

May import the client's other modules, `wire` and `errors`. Source: interfaces, client
calls; claims R7a, R26. A request whose answer was lost may have been granted: its
server knows it by its `id` and answers the same when asked again. Each server has an
id of its own, so that what one of them has granted unheard is not mistaken for
another's; once a seat was got elsewhere it is asked for and given back. Where that
cannot be, nobody renews it, and it ends after its `ttl`.

How often it asks: each server once, then one at a time, 0.4 to 0.6 s later and then
longer and longer, up to 2.6 to 4.4 s, or about when they say. While it waits in a server's
queue it asks every 20 s whether that is still alive.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import uuid4

import msgspec
from msgspec import UNSET

from licraft.client.answers import Elsewhere, unavailable, understand
from licraft.client.clock import Clock
from licraft.client.contact import Contact, any_within
from licraft.client.keeper import Keeper
from licraft.client.proof import NOT_PROVED, Verifier, held
from licraft.client.routes import MAX_SERVERS, SUSPECT_S, Routes
from licraft.client.seats import MAX_TTL_S, Hold
from licraft.client.transport import Answer, Gate, NoAnswer, Transport
from licraft.errors import InvalidRequest, LicraftError, NotProved
from licraft.wire import (
    Authorization,
    CheckinRequest,
    CheckoutRequest,
    ClientInfo,
    HeartbeatAnswer,
    HeartbeatRequest,
)

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 3.5
WATCH_S = 20.0


@dataclass(slots=True)
class _Wish:
    """One checkout: what each server was asked, and of whom nothing was heard."""

    request: CheckoutRequest
    deadline_s: float
    proofs: Verifier | None = None
    asked: dict[str, CheckoutRequest] = field(default_factory=dict)
    unheard: dict[str, None] = field(default_factory=dict)  # in the order they were asked
    refusals: dict[str, Elsewhere] = field(default_factory=dict)

    def at(self, url: str) -> CheckoutRequest:
        """The request as it is known to one server."""
        if url not in self.asked:
            id = self.request.id or str(uuid4())
            nonce = self.proofs.nonce() if self.proofs else None
            self.asked[url] = msgspec.structs.replace(self.request, id=id, nonce=nonce)
        return self.asked[url]

    def refuse(self, refusal: Elsewhere) -> None:
        """A server was of no use; what it said before is of no interest any more."""
        self.refusals.pop(refusal.url, None)
        self.refusals[refusal.url] = refusal


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
        proofs: Verifier | None = None,
    ) -> None:
        """With `proofs` a grant counts only if its server proves its pool."""
        self._proofs = proofs
        self._transport = transport
        self._routes = routes
        self._contact = Contact(transport, routes, clock)
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
        wish = _Wish(request, loop.time() + request.wait, self._proofs)
        hold: Hold | None = None
        try:
            tries, pause_s = 0, FIRST_PAUSE_S
            while (hold := await self._try(wish, 1 if tries else 2 * MAX_SERVERS)) is None:
                said = wish.refusals.values()
                after_s = min((r.retry_after_s for r in said if r.retry_after_s), default=0.0)
                delay_s = max(pause_s, min(after_s, MAX_PAUSE_S)) * random.uniform(0.75, 1.25)
                alive = any(refusal.code not in ("", NOT_PROVED) for refusal in said)
                if not alive or loop.time() + delay_s > wish.deadline_s:
                    raise _refused(list(said))
                await asyncio.sleep(delay_s)
                tries, pause_s = tries + 1, min(pause_s * 1.5, MAX_PAUSE_S)
            return hold
        finally:
            # A program that names its request may be about to repeat it.
            if hold is not None or request.id is None:
                for url in wish.unheard:
                    self._keeper.errand(self._disown(url, wish.at(url)))

    async def _try(self, wish: _Wish, servers: int) -> Hold | None:
        """Ask that many servers, besides those that are not there."""
        # For as long as it waits, so that each server has its turn.
        suspect_s = SUSPECT_S + wish.request.wait
        walk = self._routes.walk(self._clock, suspect_s=suspect_s)
        for _ in range(servers):
            hold = await self._ask_next(wish, walk)
            if hold is not None:
                return hold
        return None

    async def _ask_next(self, wish: _Wish, walk: Iterator[str]) -> Hold | None:
        """Ask the next server that is there, and once more if its answer was lost."""
        gate = Gate()
        try:
            reached = await self._contact.reach(
                walk, gate, lambda url, gate: self._post(url, wish, gate)
            )
            for refusal in reached.passed_over:
                wish.refuse(refusal)
            outcome = reached.outcome
            if outcome is None:
                return None
            sent_at = outcome.sent_at
            if isinstance(outcome, NoAnswer) and outcome.broken:
                outcome = await self._post(outcome.url, wish, gate)
        except asyncio.CancelledError:
            if gate.owner is not None:
                wish.unheard[gate.owner] = None
            raise
        url = outcome.url
        if isinstance(outcome, NoAnswer):
            wish.unheard[url] = None
        else:
            wish.unheard.pop(url, None)
        granted = self._contact.heed(outcome, Authorization)
        if isinstance(granted, LicraftError):
            raise granted
        if isinstance(granted, Elsewhere):
            wish.refuse(granted)
            return None
        return await self._take(wish, url, granted, sent_at)

    async def _take(
        self, wish: _Wish, url: str, granted: Authorization, sent_at: float
    ) -> Hold | None:
        """Hold what was granted, if it is what was asked for, and proved, and lasts."""
        nonce = wish.at(url).nonce or ""
        if self._proofs and (fault := self._proofs.fault(nonce, granted)):
            self._keeper.give_back_soon([granted.token], url)
            wish.refuse(Elsewhere(url, fault, NOT_PROVED))
            return None
        self._routes.adopt(granted.servers)
        self._routes.prefer(url)
        if not _usable(granted, wish.request):
            self._keeper.give_back_soon([granted.token], url)
            wish.refuse(Elsewhere(url, "granted something else than what was asked"))
            return None
        if self._clock() - sent_at > granted.heartbeat:
            # The wait has used up the authorization's time, which counts from
            # when the request was sent: it is renewed before it is handed out.
            proved = await self._prove(url, granted)
            if proved is None:
                wish.refuse(Elsewhere(url, "granted seats after a wait and did not confirm them"))
                return None
            sent_at = proved
        return Hold(granted, url, sent_at, self._clock)

    async def _post(self, url: str, wish: _Wish, gate: Gate) -> Answer | NoAnswer:
        """Ask one server, for as long as it lives: its queue is not waited in for nothing."""
        left_s = max(0.0, wish.deadline_s - asyncio.get_running_loop().time())
        wait_s = min(left_s, wish.request.wait)
        asking = asyncio.create_task(self._send(url, wish.at(url), wait_s, gate))
        try:
            while not await any_within([asking], WATCH_S):
                if wait_s > WATCH_S and not await self._lives(url):
                    return NoAnswer(url, 0.0, "ceased to answer meanwhile", may_have_arrived=True)
            return asking.result()
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _lives(self, url: str) -> bool:
        """Whether a server answers anything."""
        answer = await self._transport.ask(
            "GET", url, "/healthz", read_timeout_s=self._read_timeout_s, repeat=True
        )
        return isinstance(answer, Answer)

    async def _send(
        self, url: str, named: CheckoutRequest, wait_s: float, gate: Gate
    ) -> Answer | NoAnswer:
        wait_s = round(wait_s, 3)
        body = msgspec.json.encode(msgspec.structs.replace(named, wait=wait_s))
        return await self._transport.ask(
            "POST",
            url,
            "/v1/authorizations",
            body,
            read_timeout_s=wait_s + self._read_timeout_s,
            gate=gate,
        )

    async def _prove(self, url: str, granted: Authorization) -> float | None:
        """Renew a fresh authorization at its server; when the request was sent, or None."""
        nonce = self._proofs.nonce() if self._proofs else UNSET
        try:
            outcome = await self._transport.ask(
                "POST",
                url,
                "/v1/heartbeats",
                msgspec.json.encode(HeartbeatRequest(tokens=[granted.token], nonce=nonce)),
                read_timeout_s=self._read_timeout_s,
                repeat=True,
            )
        except asyncio.CancelledError:
            self._keeper.give_back_soon([granted.token], url)
            raise
        answer = self._contact.heed(outcome, HeartbeatAnswer)
        if (
            isinstance(answer, HeartbeatAnswer)
            and [result.status for result in answer.results] == ["renewed"]
            and (self._proofs is None or self._proofs.renews(nonce, answer, held([granted])))
        ):
            return outcome.sent_at
        self._keeper.give_back_soon([granted.token], url)
        return None

    async def _disown(self, url: str, named: CheckoutRequest) -> None:
        """Find out what a request was granted, by its id, and give it back there."""
        outcome = await self._send(url, named, 0.0, Gate())
        granted = understand(outcome, Authorization)
        if isinstance(granted, Authorization):
            # At no other server: what that has under this id is not this.
            body = msgspec.json.encode(CheckinRequest(tokens=[granted.token]))
            wait_s = self._read_timeout_s
            await self._transport.ask(
                "POST", url, "/v1/checkins", body, read_timeout_s=wait_s, repeat=True
            )


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


def _refused(refusals: list[Elsewhere]) -> LicraftError:
    """The error when no server granted: that one could not prove its pool is said first."""
    unproved = [f"{r.url} {r.detail}" for r in refusals if r.code == NOT_PROVED]
    if unproved:
        return NotProved(f"no seat that a license is proved for: {'; '.join(unproved)}", NOT_PROVED)
    return unavailable(refusals)


def _usable(granted: Authorization, asked: CheckoutRequest) -> bool:
    """Whether an authorization is what was asked, with bounds that make sense."""
    return (
        granted.feature == asked.feature
        and granted.count == asked.count
        and 0 < granted.ttl <= MAX_TTL_S
        and granted.heartbeat > 0
        and granted.token != ""
    )
