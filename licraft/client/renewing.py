"""Renews a batch of seats at their server or, if that cannot, at the next that can.

May import the client's other modules, `wire` and `errors`. Source: claims R8, R9, R18; pool
protocol, sections 2 and 10. How often it asks and how long it waits is decided in `pace`,
whom it asks in `routes` and `contact`.

A server that has not answered in time is left for the next one, but still listened to:
if it is only slow, what it has done is not done in vain. Whichever answer comes first
counts, and none that is about a token which has been replaced meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from licraft.client.answers import Elsewhere
from licraft.client.clock import Clock
from licraft.client.contact import Contact, Send, any_within
from licraft.client.pace import (
    FIRST_HEARTBEAT_EARLY,
    FIRST_RETRY_S,
    HEARTBEAT_EARLY,
    Patience,
    heartbeat_delay,
    overload_delay,
    pending_delay,
    retry_delay,
    servers_of_try,
)
from licraft.client.proof import Verifier, held
from licraft.client.routes import Routes
from licraft.client.seats import MAX_TTL_S, Hold
from licraft.client.transport import Answer, Gate, NoAnswer, Transport
from licraft.errors import LicraftError
from licraft.wire import HeartbeatAnswer, HeartbeatRequest, HeartbeatResult

log = logging.getLogger("licraft.client")

BATCH_TOKENS = 500
BATCH_BYTES = 128 * 1024
LEAST_WAIT_S = 0.25
OVERLOADED = "overloaded"
HELPED = ("renewed", "adopted", "converted")


@dataclass(slots=True, eq=False)
class Renewal:
    """A hold and when it is next to be renewed."""

    hold: Hold
    due_at: float
    failures: int = 0
    in_flight: bool = False


def batches(tokens: Sequence[str]) -> Iterator[slice]:
    """Cut a list of tokens into slices that each fit into one request."""
    start = size = 0
    for i, token in enumerate(tokens):
        if i > start and (i - start == BATCH_TOKENS or size + len(token) > BATCH_BYTES):
            yield slice(start, i)
            start, size = i, 0
        size += len(token) + 3
    if start < len(tokens):
        yield slice(start, len(tokens))


class _Said(Enum):
    """What came of asking a server: there was none, it could not help, or it decided."""

    NOBODY = "nobody"
    NO = "no"
    YES = "yes"


@dataclass(slots=True)
class _Question:
    """What one server is asked: for whom, under which tokens, with which confirmations."""

    batch: list[Renewal]
    confirm: dict[str, int] = field(default_factory=dict)
    nonce: str | UnsetType = UNSET
    tokens: list[str] = field(init=False)
    gate: Gate = field(default_factory=Gate)

    def __post_init__(self) -> None:
        self.tokens = [renewal.hold.token for renewal in self.batch]


@dataclass(slots=True)
class _Try:
    """One try to renew a batch: where its seats are, whom to ask, who still waits.

    `pended` are those whom a server told to come again. `told_s` is for how long servers that
    are overloaded want to be left alone.
    """

    home: str
    walk: Iterator[str]
    waiting: dict[Renewal, None]
    ttl_s: float
    pended: dict[Renewal, None] = field(default_factory=dict)
    passed_over: set[str] = field(default_factory=set)
    gates: list[Gate] = field(default_factory=list)
    told_s: float = 0.0

    def valid(self) -> list[Renewal]:
        """Those who wait; who has ended waits no more."""
        for renewal in [r for r in self.waiting if r.hold.tenure().ended]:
            del self.waiting[renewal]
        return list(self.waiting)

    def tried(self, url: str) -> bool:
        """Whether a server was asked, or was not there to be asked."""
        return url in self.passed_over or any(gate.owner == url for gate in self.gates)

    def remaining_s(self) -> float:
        """For how long the first of them stays valid."""
        return min((renewal.hold.remaining() for renewal in self.waiting), default=0.0)


class Renewer:
    """Sends the heartbeats of one client."""

    def __init__(
        self,
        transport: Transport,
        routes: Routes,
        clock: Clock,
        *,
        client_id: str,
        chance: Callable[[], float],
        give_back: Callable[[Sequence[str], str], None],
        proofs: Verifier | None = None,
    ) -> None:
        self._proofs = proofs
        self._transport = transport
        self._routes = routes
        self._contact = Contact(transport, routes, clock)
        self._patience = Patience()
        self._clock = clock
        self._client_id = client_id
        self._chance = chance
        self._give_back = give_back

    async def renew(self, home: str, batch: list[Renewal]) -> None:
        """Try to renew a batch that is at `home`, and set when each of it is due again."""
        failures = min(renewal.failures for renewal in batch)
        ttl_s = min(renewal.hold.tenure().ttl_s for renewal in batch)

        def walk() -> Iterator[str]:
            return self._routes.walk(self._clock, home, trust_home=not failures, suspect_s=ttl_s)

        this = _Try(home, walk(), dict.fromkeys(batch), ttl_s)
        asking: list[asyncio.Task[_Said]] = []
        tries, servers = 0, servers_of_try(failures)
        try:
            while valid := this.valid():
                question = self._question(valid)
                latest = asyncio.create_task(self._ask(this, question, this.walk))
                asking.append(latest)
                await self._listen(this, asking, question.gate)
                tries += 1
                asking = [task for task in asking if not task.done()]
                said = latest.result() if latest.done() else None
                if said is _Said.NOBODY and asking:
                    # All have been asked: who is late may still answer before it is asked again.
                    await self._wait_for_late(this, asking)
                    this.walk = walk()
                elif said is _Said.NOBODY or (said and tries >= servers):
                    break
            for renewal in this.waiting:
                self._postpone(renewal, this.told_s)
            if this.pended:
                await self._linger(this, asking)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _linger(self, this: _Try, asking: list[asyncio.Task[_Said]]) -> None:
        """Until those who were told to come again are due, try their own server.

        It may be back by now; and one that recovers from a crash renews what it had granted,
        but hands nothing over.
        """
        this.waiting = dict(this.pended)
        until_s = min(renewal.due_at for renewal in this.waiting)
        valid = this.valid()
        if valid and not this.tried(this.home):
            home = iter([this.home])
            asking.append(asyncio.create_task(self._ask(this, self._question(valid), home)))
        while this.waiting and (left := [task for task in asking if not task.done()]):
            wait_s = max(0.0, until_s - self._clock())
            if not await any_within(left, wait_s):
                return

    async def _listen(self, this: _Try, asking: list[asyncio.Task[_Said]], gate: Gate) -> None:
        """Wait for what the server asked last says, as long as it may take, or another's help."""
        latest = asking[-1]
        news: list[asyncio.Future[Any]] = [gate.entered, *asking]
        wait_s = left_s = None
        while this.waiting and not latest.done():
            if gate.owner is not None:
                wait_s = wait_s or self._wait(this, gate.owner)
                left_s = max(0.0, wait_s - gate.since_entered())
            news = [task for task in news if not task.done()]
            in_time = await any_within(news, left_s)
            if not in_time and wait_s is not None and gate.owner is not None:
                self._late(this, wait_s)
                self._routes.failed(gate.owner, self._clock())
                return

    async def _wait_for_late(self, this: _Try, asking: list[asyncio.Task[_Said]]) -> None:
        """Give the servers that are late the time that a further one would have had."""
        wait_s = self._patience.elsewhere(this.ttl_s, this.remaining_s())
        if not await any_within(asking, wait_s):
            self._late(this, wait_s)

    def _late(self, this: _Try, waited_s: float) -> None:
        """No answer came in time: the seats are kept on as long as they are valid."""
        self._patience.unanswered(waited_s)
        for renewal in this.waiting:
            renewal.hold.unanswered()

    def _wait(self, this: _Try, url: str) -> float:
        """How long to wait for the answer of one server."""
        wait = self._patience.at_home if url == this.home else self._patience.elsewhere
        return wait(this.ttl_s, this.remaining_s())

    async def _ask(self, this: _Try, question: _Question, walk: Iterator[str]) -> _Said:
        """Ask the next server that is there, and confirm to it what it asks for."""
        this.gates.append(question.gate)
        reached = await self._contact.reach(walk, question.gate, self._sender(this, question))
        this.passed_over |= {passed.url for passed in reached.passed_over}
        outcome = reached.outcome
        if outcome is None:
            return _Said.NOBODY
        confirm = self._hear(this, question, outcome)
        # Also what makes a confirmation safe: only who is still valid when
        # the answer has arrived sends one. It proves that nobody else can
        # have been given the seat (pool protocol, section 10).
        batch = [renewal for renewal in this.valid() if confirm and renewal in confirm]
        if confirm and batch:
            question = self._question(batch, {r.hold.id: confirm[r] for r in batch})
            outcome = await self._sender(this, question)(outcome.url, question.gate)
            confirm = self._hear(this, question, outcome)
        if confirm is None:
            return _Said.NO
        for renewal in [renewal for renewal in confirm if renewal in this.waiting]:
            self._postpone(renewal)
            del this.waiting[renewal]
        return _Said.YES

    def _question(self, batch: list[Renewal], confirm: dict[str, int] | None = None) -> _Question:
        return _Question(batch, confirm or {}, self._proofs.nonce() if self._proofs else UNSET)

    def _sender(self, this: _Try, question: _Question) -> Send:
        """Sends a heartbeat to a server, and listens for as long as a seat is valid."""
        request = HeartbeatRequest(
            tokens=question.tokens,
            client=self._client_id,
            servers_version=self._routes.version,
            confirm=question.confirm,
            nonce=question.nonce,
        )
        content = msgspec.json.encode(request)

        def send(url: str, gate: Gate) -> Coroutine[Any, Any, Answer | NoAnswer]:
            return self._transport.ask(
                "POST",
                url,
                "/v1/heartbeats",
                content,
                read_timeout_s=max(this.remaining_s(), LEAST_WAIT_S),
                connect_timeout_s=min(this.ttl_s / 8, self._transport.connect_timeout_s),
                repeat=True,
                gate=gate,
            )

        return send

    def _hear(
        self, this: _Try, question: _Question, outcome: Answer | NoAnswer
    ) -> dict[Renewal, int] | None:
        """Take an answer into account: what is to be confirmed, or None if it is of no use."""
        url = outcome.url
        answer = self._contact.heed(outcome, HeartbeatAnswer)
        if isinstance(answer, Elsewhere):
            log.info("heartbeat not answered by %s: %s", url, answer.detail)
            if answer.code == OVERLOADED:
                this.told_s = max(this.told_s, answer.retry_after_s)
            return None
        if isinstance(answer, LicraftError) or len(answer.results) != len(question.batch):
            log.warning("heartbeat refused by %s: %s", url, answer)
            self._routes.failed(url, self._clock())
            return None
        holds = held(renewal.hold for renewal in question.batch)
        if self._proofs and not self._proofs.renews(question.nonce, answer, holds):
            log.warning("heartbeat answered by %s without a proof of its pool: ignored", url)
            self._routes.failed(url, self._clock())
            return None
        self._routes.adopt(answer.servers)
        if url == this.home:
            self._patience.answered(question.gate.since_entered())
        confirm: dict[Renewal, int] = {}
        asked = zip(question.batch, question.tokens, answer.results, strict=True)
        for renewal, token, result in asked:
            helps = result.status in HELPED
            if renewal.hold.token != token or not (helps or renewal in this.waiting):
                continue  # another server was sooner
            if result.status == "confirm" and result.down_index is not None:
                confirm[renewal] = result.down_index
                continue
            this.waiting.pop(renewal, None)
            if self._settle(renewal, url, outcome.sent_at, result):
                this.pended[renewal] = None
        return confirm

    def _settle(self, renewal: Renewal, url: str, sent_at: float, result: HeartbeatResult) -> bool:
        """Take one result into account, and set when the seat is due; whether it pends."""
        hold = renewal.hold
        if result.id not in (hold.id, "") and result.status != "converted":
            self._postpone(renewal)  # another seat's result: it says nothing about this one
            return False
        match result.status:
            case status if status in HELPED:
                self._renewed(renewal, url, sent_at, result)
            case "lost":
                hold.lost(result.code or "lost")
            case "pending":
                self._pend(renewal, result)
                return True
            case _:
                self._postpone(renewal)
        return False

    def _renewed(self, renewal: Renewal, url: str, sent_at: float, result: HeartbeatResult) -> None:
        hold = renewal.hold
        ttl_s = result.ttl if result.ttl is not None and 0 < result.ttl <= MAX_TTL_S else None
        if hold.renewed(sent_at, ttl_s).ended:
            # Too late for the holder: the server need not wait for it to expire.
            self._give_back([result.token or hold.token], url)
            return
        hold.moved(url, result.id or hold.id, result.token or hold.token, result.server)
        # Those whom trouble has brought together are spread again.
        usual = result.status == "renewed" and not renewal.failures
        early = HEARTBEAT_EARLY if usual else FIRST_HEARTBEAT_EARLY
        renewal.failures = 0
        renewal.due_at = sent_at + heartbeat_delay(hold.heartbeat_s, self._chance(), early)

    def _pend(self, renewal: Renewal, result: HeartbeatResult) -> None:
        """A server has not got the seat yet: ask again when it says, and where."""
        hold = renewal.hold
        tenure = hold.unanswered()
        renewal.failures = 1
        if (elsewhere := self._routes.url_of(result.server)) is not None:
            hold.moved(elsewhere, hold.id, hold.token, result.server)
        told_s = FIRST_RETRY_S if result.retry_after is None else result.retry_after
        renewal.due_at = self._clock() + pending_delay(told_s, tenure.ttl_s, self._chance())

    def _postpone(self, renewal: Renewal, told_s: float = 0.0) -> None:
        """Not renewed this time: try again soon, as long as the seat is valid."""
        tenure = renewal.hold.unanswered()
        renewal.failures += 1
        delay_s = retry_delay(renewal.failures, tenure.ttl_s, self._chance())
        if told_s:
            delay_s = overload_delay(delay_s, told_s, tenure.ttl_s, self._chance())
        renewal.due_at = self._clock() + delay_s
