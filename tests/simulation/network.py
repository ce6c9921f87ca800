"""The network between clients and servers: what is sent may be lost, late and repeated.

May import the testing room and the API's operations. It carries calls of the simulation's own
clients as values, and those of the client module as the bytes that it sends.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from licraft.api.access import Gate as Tokens
from licraft.api.calls import CALLS
from licraft.api.operations import Operation
from licraft.api.replies import Reply
from licraft.errors import InvariantBroken
from licraft.server.license_server import LicenseServer
from licraft.testing.pool import InProcessPool

Ask = Callable[[LicenseServer], "Any | Awaitable[Any]"]
Operations = Mapping[tuple[str, str], Operation]

CARRIED = ("/v1/authorizations", "/v1/heartbeats", "/v1/checkins", "/healthz")
CONNECT_S = 1.0


@dataclass(slots=True)
class Trouble:
    """How often messages between clients and servers go wrong: parts of 1."""

    request_lost: float = 0.0
    answer_lost: float = 0.0
    late: float = 0.0
    repeated: float = 0.0
    late_s: float = 10.0


class NoAnswer(Exception):
    """No answer came in time; `arrived` is False if no server can have had the request."""

    arrived = True


class Refused(NoAnswer):
    """No connection came about."""

    arrived = False


class Passed(Refused):
    """Another server has the request."""


class Reset(NoAnswer):
    """The connection broke before the answer was there."""


class Network:
    """Carries the clients' calls to the servers."""

    def __init__(self, pool: InProcessPool, rng: random.Random) -> None:
        self.pool = pool
        self.trouble = Trouble()
        self.unreachable: set[str] = set()
        self.offline: set[str] = set()
        self.in_flight: dict[asyncio.Task[None], object] = {}
        self._random = rng
        self._operations: dict[str, tuple[LicenseServer, Operations]] = {}

    async def call(self, server: str, call: str, request: Any, timeout_s: float) -> Any:
        """Make a client call; raises NoAnswer."""
        rng, trouble = self._random, self.trouble
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        delay_s = rng.uniform(0.0005, 0.005)
        if rng.random() < trouble.late:
            delay_s = rng.uniform(0.0, trouble.late_s)
        ask = partial(_call, call, request)
        if rng.random() >= trouble.request_lost:
            self._send(server, ask, delay_s, answer)
        if rng.random() < trouble.repeated:
            self._send(server, ask, rng.uniform(0.0, trouble.late_s), None)
        return (await _within(answer, timeout_s))[1]

    async def exchange(
        self,
        client: str,
        server: str,
        method: str,
        path: str,
        body: bytes,
        timeout_s: float,
        enter: Enter,
    ) -> Reply:
        """Send an HTTP request over a connection; raises NoAnswer, or a kind of it.

        It is sent only if `enter` says so, once the connection is there. What goes wrong on
        the way breaks the connection, or nobody hears of it.
        """
        rng, trouble = self._random, self.trouble
        await asyncio.sleep(rng.uniform(0.0005, 0.005))
        if server in self.unreachable or client in self.offline:
            await asyncio.sleep(CONNECT_S)
            raise Refused
        if server not in self.pool.log.engines:
            raise Refused
        if not enter():
            raise Passed
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        delay_s = rng.uniform(0.0, trouble.late_s) if rng.random() < trouble.late else 0.0
        if rng.random() >= trouble.request_lost:
            ask = partial(self._answer, server, method, path, body)
            self._send(server, ask, delay_s, answer, answers_late=True)
        elif rng.random() < 0.5:
            raise Reset
        reply: Reply = await _within(answer, timeout_s)
        if client in self.offline:
            raise NoAnswer
        return reply

    def _answer(
        self, name: str, method: str, path: str, body: bytes, server: LicenseServer
    ) -> Reply | Awaitable[Reply]:
        """What a server's API answers to a request."""
        known = self._operations.get(name)
        if known is None or known[0] is not server:
            known = self._operations[name] = server, _operations(server)
        return known[1][method, path].answer(None, body)

    def _send(
        self,
        server: str,
        ask: Ask,
        delay_s: float,
        to: asyncio.Future[Any] | None,
        *,
        answers_late: bool = False,
    ) -> None:
        task = asyncio.get_running_loop().create_task(
            self._deliver(server, ask, delay_s, to, answers_late)
        )
        self.in_flight[task] = None
        task.add_done_callback(self._delivered)

    def _delivered(self, task: asyncio.Task[None]) -> None:
        del self.in_flight[task]
        if not task.cancelled() and (fault := task.exception()) is not None:
            task.get_loop().call_exception_handler({"message": "a call", "exception": fault})

    async def _deliver(
        self,
        name: str,
        ask: Ask,
        delay_s: float,
        to: asyncio.Future[Any] | None,
        answers_late: bool,
    ) -> None:
        """Bring a request to whichever process runs on arrival, and its answer back."""
        if delay_s:
            await asyncio.sleep(delay_s)
        pool = self.pool
        engine = pool.log.engines.get(name)
        if engine is None or name in self.unreachable:
            return
        server = pool.server(name)
        task = asyncio.current_task()
        assert task is not None
        self.in_flight[task] = server
        await engine.awake()
        if pool.log.engines.get(name) is not engine:
            return
        result = ask(server)
        if isinstance(result, Awaitable):
            result = await result
        if pool.log.engines.get(name) is not engine:
            return
        server.settle()
        # A process that is stopped just here hands its answer over when it goes on.
        await engine.awake()
        gone = pool.log.engines.get(name) is not engine or name in self.unreachable
        lost = self._random.random() < self.trouble.answer_lost
        if to is None or gone or lost:
            return
        late = answers_late and self._random.random() < self.trouble.late
        most_s = self.trouble.late_s if late else 0.005
        await asyncio.sleep(self._random.uniform(0.0005, most_s))
        if not to.done():
            to.set_result(result)


Enter = Callable[[], bool]


def _call(call: str, request: Any, server: LicenseServer) -> Any:
    return getattr(server, call)(request)


async def _within(answer: asyncio.Future[Any], timeout_s: float) -> Any:
    try:
        async with asyncio.timeout(timeout_s):
            return await answer
    except TimeoutError:
        raise NoAnswer from None


def _operations(server: LicenseServer) -> Operations:
    """The calls of the client module, bound to a server."""
    return {
        (call.method, call.path): Operation(call, server, Tokens(None), _broken)
        for call in CALLS
        if call.path in CARRIED
    }


def _broken(fault: InvariantBroken) -> None:
    raise fault
