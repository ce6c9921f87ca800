"""Brings a request to one server of the pool: to the next that is there, and to no two.

May import the client's `answers`, `clock`, `routes` and `transport`, and `errors`. A server
whose machine is gone does not refuse a connection but leaves it hanging, so the next one
is connected to after HEDGE_S. Connections are hedged and requests are not: the first
server that is connected has the request, the others never see it. So no two servers grant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from licraft.client.answers import Elsewhere, understand
from licraft.client.clock import Clock
from licraft.client.routes import Routes
from licraft.client.transport import Answer, Gate, NoAnswer, Transport
from licraft.errors import LicraftError

T = TypeVar("T")

HEDGE_S = 0.3
"""How long one server has to be connected before the next one is tried beside it."""
LOOK_S = 0.35
"""How often it is looked whether the machine of the server that was asked is still there."""

LAG_S, MAX_LAGS = 0.1, 3
"""A timer that is later than this was held up by this program itself; and how often that counts."""

Send = Callable[[str, Gate], Coroutine[Any, Any, Answer | NoAnswer]]


@dataclass(frozen=True, slots=True)
class Reached:
    """What the server said that got the request (None: none did), and who was passed over."""

    outcome: Answer | NoAnswer | None
    passed_over: tuple[Elsewhere, ...]


class Contact:
    """Asks the pool's servers, and remembers who was of use."""

    def __init__(self, transport: Transport, routes: Routes, clock: Clock) -> None:
        self._transport = transport
        self._routes = routes
        self._clock = clock

    async def reach(self, urls: Iterator[str], gate: Gate, send: Send) -> Reached:
        """Send to the first of `urls` that can be connected to; others are left for later.

        `send` has to enter the gate before anything may arrive. Whoever cancels this finds
        in `gate.owner` which server may have got the request.
        """
        passed: list[NoAnswer] = []
        racing: dict[str, asyncio.Task[Answer | NoAnswer]] = {}
        more = True
        try:
            while gate.owner is None:
                url = next(urls, None) if more else None
                more = url is not None
                if url is not None:
                    racing[url] = asyncio.create_task(send(url, gate))
                if not racing:
                    return Reached(None, self._pass(passed))
                news: list[asyncio.Future[Any]] = [gate.entered, *racing.values()]
                await any_within(news, HEDGE_S if more else None)
                for url, task in list(racing.items()):
                    if url != gate.owner and task.done():
                        passed.append(_not_there(task.result()))
                        del racing[url]
            outcome = await self._heard(racing[gate.owner], gate.owner)
            detail = f"no connection within {HEDGE_S:g} s"
            losers = [url for url in racing if url != gate.owner]
            passed += [NoAnswer(url, 0.0, detail, may_have_arrived=False) for url in losers]
            return Reached(outcome, self._pass(passed))
        finally:
            left = [task for task in racing.values() if not task.done()]
            for task in left:
                task.cancel()
            if left:
                await asyncio.gather(*left, return_exceptions=True)

    async def _heard(self, asked: asyncio.Task[Answer | NoAnswer], url: str) -> Answer | NoAnswer:
        """The answer, or `NoAnswer` as soon as the server's machine turns out to be gone."""
        while True:
            if await any_within([asked], LOOK_S):
                return asked.result()
            if self._transport.unheard(url):
                return NoAnswer(url, 0.0, "its machine does not answer", may_have_arrived=True)

    def _pass(self, passed: list[NoAnswer]) -> tuple[Elsewhere, ...]:
        for outcome in passed:
            self._routes.failed(outcome.url, self._clock())
        return tuple(Elsewhere(outcome.url, outcome.detail) for outcome in passed)

    def heed(self, outcome: Answer | NoAnswer, body_type: type[T]) -> T | LicraftError | Elsewhere:
        """Understand an answer, and remember what it says of the servers."""
        answer = understand(outcome, body_type)
        if isinstance(answer, Elsewhere):
            self._routes.adopt(answer.servers)
            self._routes.failed(outcome.url, self._clock())
        else:
            self._routes.answered(outcome.url)
        return answer


async def any_within(tasks: Sequence[asyncio.Future[Any]], wait_s: float | None) -> bool:
    """Whether one of some tasks is done within a time; waits for the first that is.

    A program that has kept its event loop busy meanwhile finds the time over and the answer
    unread: it gets a little more, lest it believe that the servers were slow.
    """
    loop = asyncio.get_running_loop()
    done: set[asyncio.Future[Any]] = set()
    for _ in range(1 + MAX_LAGS):
        began_s = loop.time()
        done, _left = await asyncio.wait(tasks, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        if done or wait_s is None or loop.time() < began_s + wait_s + LAG_S:
            break
        wait_s = LAG_S
    return bool(done)


def _not_there(outcome: Answer | NoAnswer) -> NoAnswer:
    """What came of a server that was not sent the request."""
    assert isinstance(outcome, NoAnswer), f"{outcome.url} answered what it was not asked"
    return outcome
