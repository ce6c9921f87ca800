"""Keeps every seat of a client alive: heartbeats, fail-over, and the news of a loss.

May import the client's other modules, `wire` and `errors`. Source: claims R7e, R8,
R9, R18; pool protocol, sections 2 and 10. It never blocks on one server while
seats of another are due: each batch is a task of its own.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from licraft.client.answers import Elsewhere, understand
from licraft.client.clock import Clock
from licraft.client.routes import Routes
from licraft.client.seats import Hold
from licraft.client.tenure import SeatState
from licraft.client.transport import Transport
from licraft.errors import LicraftError
from licraft.wire import (
    CheckinAnswer,
    CheckinRequest,
    HeartbeatAnswer,
    HeartbeatRequest,
    HeartbeatResult,
)

log = logging.getLogger("licraft.client")

BATCH_TOKENS = 500
BATCH_BYTES = 128 * 1024
MAX_CONFIRMATIONS = 3
WATCH_S = 1.0
"""A suspended machine's timers stand still, so the clock is looked at this often at least."""
FIRST_RETRY_S = 0.75
RETRY_GROWTH = 1.5


@dataclass(slots=True, eq=False)
class _Renewal:
    """A hold and when it is next to be renewed."""

    hold: Hold
    due_at: float
    failures: int = 0
    in_flight: bool = False


def heartbeat_delay(heartbeat_s: float, chance: float) -> float:
    """Seconds to the next heartbeat: up to a tenth early, so that clients spread out."""
    return heartbeat_s * (1.0 - 0.1 * chance)


def retry_delay(failures: int, ttl_s: float, chance: float) -> float:
    """Seconds to the next try after `failures` (from 1) rounds: 0.5 to 1 at first, to ttl/10."""
    growing = FIRST_RETRY_S * RETRY_GROWTH ** min(failures - 1, 20)
    return min(growing, ttl_s / 10) * (0.67 + 0.66 * chance)


def answer_timeout(ttl_s: float, limit_s: float) -> float:
    """How long to wait for a heartbeat's answer: several servers must fit into one ttl."""
    return min(limit_s, max(ttl_s / 12, 0.25))


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


class Keeper:
    """Renews what it is given until that ends, and says so once when it is lost."""

    def __init__(
        self,
        transport: Transport,
        routes: Routes,
        clock: Clock,
        *,
        client_id: str,
        read_timeout_s: float,
    ) -> None:
        self._transport = transport
        self._routes = routes
        self._clock = clock
        self._client_id = client_id
        self._read_timeout_s = read_timeout_s
        self._renewals: dict[Hold, _Renewal] = {}
        self._wake = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._errands: set[asyncio.Task[object]] = set()
        self._random = random.Random()

    def __len__(self) -> int:
        return len(self._renewals)

    def add(self, hold: Hold) -> None:
        """Keep `hold` alive from now on."""
        due_at = hold.tenure().sent_at + heartbeat_delay(hold.heartbeat_s, self._random.random())
        self._renewals[hold] = _Renewal(hold, due_at)
        if self._main is None:
            self._main = asyncio.get_running_loop().create_task(self._run())
        self._wake.set()

    def drop(self, hold: Hold) -> None:
        """Renew `hold` no more."""
        self._renewals.pop(hold, None)

    def holds(self) -> list[Hold]:
        """Everything that is kept alive."""
        return list(self._renewals)

    async def stop(self) -> None:
        """Send no more heartbeats; what is held stays as it is."""
        tasks = [*self._tasks, *([self._main] if self._main else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._main = None

    def errand(self, work: Coroutine[Any, Any, object]) -> None:
        """Do `work` beside everything else; `settled` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    def give_back_soon(self, tokens: Sequence[str], home: str) -> None:
        """Check tokens in without waiting for it."""
        self.errand(self.give_back(tokens, home))

    async def settled(self, timeout_s: float) -> bool:
        """End every errand; whether all were done within `timeout_s`."""
        errands = list(self._errands)
        if not errands:
            return True
        _, late = await asyncio.wait(errands, timeout=timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return not late

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            self._bury()
            self._start_due()
            try:
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _pause(self) -> float | None:
        """Seconds until something is due, or None while nothing is held."""
        now = self._clock()
        moments = [
            moment
            for renewal in self._renewals.values()
            for moment in (
                renewal.hold.tenure().valid_until,
                renewal.due_at if not renewal.in_flight else now + WATCH_S,
            )
        ]
        return min(max(min(moments) - now, 0.005), WATCH_S) if moments else None

    def _bury(self) -> None:
        """Drop what has ended, and tell the holders of what was lost, once."""
        for hold in [hold for hold in self._renewals if hold.tenure().ended]:
            self.drop(hold)
            if hold.tenure().state is SeatState.LOST and hold.on_lost is not None:
                log.warning("seat %s of %s lost: %s", hold.id, hold.feature, hold.tenure().reason)
                hold.on_lost()

    def _start_due(self) -> None:
        now = self._clock()
        idle = [renewal for renewal in self._renewals.values() if not renewal.in_flight]
        homes = {renewal.hold.url for renewal in idle if renewal.due_at <= now}
        for url in homes:
            # Whatever is nearly due at the same server goes along: one call renews all.
            going = [
                renewal
                for renewal in idle
                if renewal.hold.url == url
                and renewal.due_at
                <= now + (0 if renewal.failures else renewal.hold.heartbeat_s / 2)
            ]
            for part in batches([renewal.hold.token for renewal in going]):
                for renewal in going[part]:
                    renewal.in_flight = True
                    renewal.due_at = now + renewal.hold.heartbeat_s
                task = asyncio.get_running_loop().create_task(self._renew(url, going[part]))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _renew(self, home: str, batch: list[_Renewal]) -> None:
        """Renew a batch at its server or, if that cannot, at the next that can (R8)."""
        try:
            waiting = batch
            fresh = any(renewal.failures == 0 for renewal in batch)
            for url in self._routes.walk(self._clock, home, trust_home=fresh):
                waiting = await self._renew_at(url, waiting)
                if not waiting:
                    break
            for renewal in waiting:
                self._postpone(renewal)
        finally:
            for renewal in batch:
                renewal.in_flight = False
            self._wake.set()

    async def _renew_at(self, url: str, batch: list[_Renewal]) -> list[_Renewal]:
        """Ask one server to renew a batch; returns what it gave no answer for."""
        waiting = batch
        confirm: dict[str, int] = {}
        for _ in range(MAX_CONFIRMATIONS):
            # Also what makes a confirmation safe: only who is still valid when
            # the answer has arrived sends one. It proves that nobody else can
            # have been given the seat (pool protocol, section 10).
            waiting = [renewal for renewal in waiting if not renewal.hold.tenure().ended]
            if not waiting:
                return []
            tokens = [renewal.hold.token for renewal in waiting]
            answer = await self._ask(url, waiting, confirm)
            if answer is None:
                return waiting
            sent_at, results = answer
            confirm, asked = {}, []
            for renewal, token, result in zip(waiting, tokens, results, strict=True):
                if self._settle(renewal, url, sent_at, token, result):
                    confirm[renewal.hold.id] = result.down_index or 0
                    asked.append(renewal)
            waiting = asked
            if not waiting:
                return []
        for renewal in waiting:
            self._postpone(renewal)
        return []

    async def _ask(
        self, url: str, batch: list[_Renewal], confirm: dict[str, int]
    ) -> tuple[float, list[HeartbeatResult]] | None:
        request = HeartbeatRequest(
            tokens=[renewal.hold.token for renewal in batch],
            client=self._client_id,
            servers_version=self._routes.version,
            confirm=confirm,
        )
        ttl_s = min(renewal.hold.tenure().ttl_s for renewal in batch)
        timeout_s = answer_timeout(ttl_s, self._read_timeout_s)
        outcome = await self._transport.ask(
            "POST",
            url,
            "/v1/heartbeats",
            msgspec.json.encode(request),
            read_timeout_s=timeout_s,
            connect_timeout_s=min(timeout_s, self._transport.connect_timeout_s),
            repeat=True,
        )
        answer = understand(outcome, HeartbeatAnswer)
        if isinstance(answer, Elsewhere):
            self._routes.adopt(answer.servers)
            if not answer.code:
                self._routes.silent(url, self._clock())
            log.info("heartbeat not answered by %s: %s", url, answer.detail)
            return None
        if isinstance(answer, LicraftError) or len(answer.results) != len(batch):
            log.warning("heartbeat refused by %s: %s", url, answer)
            return None
        self._routes.adopt(answer.servers)
        self._routes.answered(url)
        return outcome.sent_at, answer.results

    def _settle(
        self, renewal: _Renewal, url: str, sent_at: float, token: str, result: HeartbeatResult
    ) -> bool:
        """Take one result into account; whether the server waits for a confirmation."""
        hold = renewal.hold
        if result.id not in (hold.id, "") and result.status != "converted":
            self._postpone(renewal)  # another seat's result: it says nothing about this one
            return False
        match result.status:
            case "renewed" | "adopted" | "converted":
                self._renewed(renewal, url, sent_at, token, result)
            case "confirm" if result.down_index is not None:
                return True
            case "lost":
                hold.lost(result.code or "lost")
            case _:
                self._postpone(renewal, result.retry_after)
        return False

    def _renewed(
        self, renewal: _Renewal, url: str, sent_at: float, token: str, result: HeartbeatResult
    ) -> None:
        hold = renewal.hold
        ttl_s = result.ttl if result.ttl is not None and result.ttl > 0 else None
        if hold.renewed(sent_at, ttl_s).ended:
            # Too late for the holder: the server need not wait for it to expire.
            self.give_back_soon([result.token or token], url)
            return
        hold.moved(url, result.id or hold.id, result.token or token, result.server or hold.server)
        renewal.failures = 0
        pause_s = heartbeat_delay(hold.heartbeat_s, self._random.random())
        renewal.due_at = sent_at + pause_s

    def _postpone(self, renewal: _Renewal, after_s: float | None = None) -> None:
        """Not renewed this time: try again soon, as long as the seat is valid."""
        tenure = renewal.hold.unanswered()
        renewal.failures += 1
        delay_s = retry_delay(renewal.failures, tenure.ttl_s, self._random.random())
        if after_s is not None:
            delay_s = min(max(after_s, 0.05), tenure.ttl_s / 4)
        renewal.due_at = self._clock() + delay_s

    async def give_back(self, tokens: Sequence[str], home: str) -> bool:
        """Check tokens in at `home` or, if that cannot, at any server; whether one did."""
        done = True
        for part in batches(tokens):
            done = await self._give_back(list(tokens[part]), home) and done
        return done

    async def _give_back(self, tokens: list[str], home: str) -> bool:
        body = msgspec.json.encode(CheckinRequest(tokens=tokens))
        for url in self._routes.walk(self._clock, home):
            outcome = await self._transport.ask(
                "POST",
                url,
                "/v1/checkins",
                body,
                read_timeout_s=self._read_timeout_s,
                repeat=True,
            )
            answer = understand(outcome, CheckinAnswer)
            if isinstance(answer, CheckinAnswer):
                self._routes.answered(url)
                return True
            if isinstance(answer, Elsewhere) and not answer.code:
                self._routes.silent(url, self._clock())
            log.info("checkin not taken by %s: %s", url, answer)
        return False


def by_home(holds: Iterable[Hold]) -> dict[str, list[str]]:
    """The tokens of some holds, by the server that manages each."""
    tokens: dict[str, list[str]] = {}
    for hold in holds:
        tokens.setdefault(hold.url, []).append(hold.token)
    return tokens
