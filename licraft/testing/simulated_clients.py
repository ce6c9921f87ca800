"""Clients that obey the rules, on a network that does not, and a checker that sees both.

May import the client's tenure rule, `wire` and this room. A client relies on a seat for
as long as the rule lets it and not a moment less; requests and answers are lost, late
and repeated. Source: pool protocol, section 2.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from licraft.client.tenure import Tenure
from licraft.testing.clock import ManualClock
from licraft.testing.pool import InProcessPool
from licraft.wire import (
    Authorization,
    CheckinRequest,
    CheckoutRequest,
    ClientInfo,
    HeartbeatAnswer,
    HeartbeatRequest,
    HeartbeatResult,
    Problem,
)


class SafetyBroken(AssertionError):
    """Holders rely on more seats than the license grants, or two servers differ."""


@dataclass(slots=True)
class Hold:
    """Seats that a client relies on while its tenure lasts."""

    id: str
    feature: str
    count: int
    clock: ManualClock
    tenure: Tenure
    token: str
    server: str

    @property
    def relied_on(self) -> bool:
        """Whether the holder may rely on it now, by its own clock."""
        tenure = self.tenure.at(self.clock.now())
        return not tenure.ended


class Holders:
    """Everything that clients rely on, in true time."""

    def __init__(self) -> None:
        self._holds: dict[str, Hold] = {}

    def add(self, hold: Hold) -> None:
        """A client was granted seats."""
        self._holds[hold.id] = hold

    def relied_on(self) -> dict[str, int]:
        """The seats of each feature that holders rely on now."""
        seats: dict[str, int] = {}
        for id, hold in list(self._holds.items()):
            if hold.relied_on:
                seats[hold.feature] = seats.get(hold.feature, 0) + hold.count
            else:
                del self._holds[id]
        return seats

    def describe(self, feature: str) -> str:
        """Who relies on seats of a feature, for a failure's message."""
        return ", ".join(
            f"{hold.id} {hold.count} by {hold.server}"
            for hold in self._holds.values()
            if hold.feature == feature and hold.relied_on
        )


@dataclass(slots=True)
class Trouble:
    """How often messages between clients and servers go wrong: parts of 1."""

    request_lost: float = 0.0
    answer_lost: float = 0.0
    late: float = 0.0
    repeated: float = 0.0
    late_s: float = 10.0


class NoAnswer(Exception):
    """No answer came in time."""


class Network:
    """Carries the clients' calls to the servers."""

    def __init__(self, pool: InProcessPool, rng: random.Random) -> None:
        self.pool = pool
        self.trouble = Trouble()
        self.unreachable: set[str] = set()
        self.in_flight: dict[asyncio.Task[None], object] = {}
        self._random = rng

    async def call(self, server: str, call: str, request: Any, timeout_s: float) -> Any:
        """Make a client call; raises NoAnswer."""
        rng, trouble = self._random, self.trouble
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        delay_s = rng.uniform(0.0005, 0.005)
        if rng.random() < trouble.late:
            delay_s = rng.uniform(0.0, trouble.late_s)
        if rng.random() >= trouble.request_lost:
            self._send(server, call, request, delay_s, answer)
        if rng.random() < trouble.repeated:
            self._send(server, call, request, rng.uniform(0.0, trouble.late_s), None)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise NoAnswer from None

    def _send(
        self, server: str, call: str, request: Any, delay_s: float, to: asyncio.Future[Any] | None
    ) -> None:
        task = asyncio.get_running_loop().create_task(
            self._deliver(server, call, request, delay_s, to)
        )
        self.in_flight[task] = None
        task.add_done_callback(self._delivered)

    def _delivered(self, task: asyncio.Task[None]) -> None:
        del self.in_flight[task]
        if not task.cancelled() and (fault := task.exception()) is not None:
            task.get_loop().call_exception_handler({"message": "a call", "exception": fault})

    async def _deliver(
        self, name: str, call: str, request: Any, delay_s: float, to: asyncio.Future[Any] | None
    ) -> None:
        """Bring a request to whichever process runs on arrival, and its answer back."""
        await asyncio.sleep(delay_s)
        pool = self.pool
        engine = pool.log.engines.get(name)
        if engine is None or name in self.unreachable:
            return
        await engine.awake()
        if pool.log.engines.get(name) is not engine:
            return
        server = pool.server(name)
        task = asyncio.current_task()
        assert task is not None
        self.in_flight[task] = server
        result = getattr(server, call)(request)
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
        await asyncio.sleep(self._random.uniform(0.0005, 0.005))
        if not to.done():
            to.set_result(result[1])


@dataclass(slots=True)
class Habits:
    """How one client behaves."""

    clock: ManualClock
    heartbeat_part: float
    stay_s: float
    pause_s: float
    greed: int
    revives: bool
    loyal: bool
    tallies: Counter[str] = field(default_factory=Counter)


class Client:
    """Takes seats, keeps them for a while by heartbeats, gives them back or just goes."""

    def __init__(
        self,
        name: str,
        habits: Habits,
        network: Network,
        holders: Holders,
        rng: random.Random,
        gained: Callable[[], None],
    ) -> None:
        self.name = name
        self.habits = habits
        self.stopping = False
        self._network = network
        self._holders = holders
        self._random = rng
        self._gained = gained
        self._number = 0
        self._home = rng.choice(network.pool.names)

    async def live(self, features: list[str]) -> None:
        """Do so until told to stop."""
        rng = self._random
        await asyncio.sleep(rng.uniform(0.0, self.habits.pause_s))
        while not self.stopping:
            hold = await self._take(rng.choice(features))
            if hold is not None:
                await self._keep(hold)
            if not self.stopping:
                await asyncio.sleep(rng.expovariate(1.0 / self.habits.pause_s))

    def _now(self) -> float:
        return self.habits.clock.now()

    def _servers(self) -> list[str]:
        """Where to go: where it was last, then the others."""
        if self.habits.loyal:
            return [self._home]
        others = [name for name in self._network.pool.names if name != self._home]
        self._random.shuffle(others)
        return [self._home, *others]

    async def _take(self, feature: str) -> Hold | None:
        rng = self._random
        self._number += 1
        request = CheckoutRequest(
            feature,
            count=rng.randint(1, self.habits.greed),
            wait=rng.choice((0.0, 0.0, rng.uniform(0.5, self._network.pool.ttl_s))),
            id=f"{self.name}.{self._number}",
            client=ClientInfo(id=self.name),
        )
        for server in self._servers():
            for _ in range(rng.randint(1, 2)):
                sent_s = self._now()
                try:
                    answer = await self._network.call(
                        server, "checkout", request, request.wait + 2.0
                    )
                except NoAnswer:
                    continue
                if isinstance(answer, Authorization):
                    return self._granted(answer, server, sent_s)
                assert isinstance(answer, Problem)
                self.habits.tallies[answer.code] += 1
                break
        return None

    def _granted(self, answer: Authorization, server: str, sent_s: float) -> Hold:
        hold = Hold(
            answer.id,
            answer.feature,
            answer.count,
            self.habits.clock,
            Tenure(sent_s, answer.ttl).at(self._now()),
            answer.token,
            server,
        )
        self._home = server
        self._holders.add(hold)
        self.habits.tallies["granted"] += 1
        self._gained()
        return hold

    async def _keep(self, hold: Hold) -> None:
        """Renew the hold until enough of it, then give it back, or go without a word."""
        rng, ttl_s = self._random, self._network.pool.ttl_s
        leave_s = self._now() + rng.expovariate(1.0 / self.habits.stay_s)
        # Who revives does not stop at the end of its time, but asks once more later.
        end_s = hold.tenure.valid_until + (ttl_s if self.habits.revives else 0.0)
        while self._now() < min(leave_s, end_s) and not self.stopping:
            await asyncio.sleep(
                max(0.01, min(leave_s - self._now(), ttl_s * self.habits.heartbeat_part))
            )
            if hold.relied_on or self.habits.revives:
                await self._renew(hold)
            if hold.tenure.ended:
                break
            end_s = hold.tenure.valid_until + (ttl_s if self.habits.revives else 0.0)
        if rng.random() < 0.8 and not hold.tenure.ended:
            hold.tenure = hold.tenure.returned(self._now())
            try:
                await self._network.call(
                    rng.choice(self._servers()[:2]), "checkin", CheckinRequest([hold.token]), 2.0
                )
            except NoAnswer:
                pass

    async def _renew(self, hold: Hold) -> None:
        """Send a heartbeat to its server, else to the others in turn."""
        for server in self._servers():
            sent_s = self._now()
            request = HeartbeatRequest([hold.token], client=self.name)
            try:
                answer = await self._network.call(server, "heartbeat", request, 1.0)
            except NoAnswer:
                continue
            if isinstance(answer, HeartbeatAnswer):
                self._heard(hold, answer.results[0], server, sent_s)
                return
            self.habits.tallies[answer.code] += 1

    def _heard(self, hold: Hold, result: HeartbeatResult, server: str, sent_s: float) -> None:
        self.habits.tallies[result.status] += 1
        now = self._now()
        if result.status == "lost":
            hold.tenure = hold.tenure.lost(now, result.code or "")
        elif result.status in ("renewed", "converted"):
            assert result.ttl is not None
            if self.habits.revives and sent_s >= hold.tenure.sent_at:
                hold.tenure = Tenure(sent_s, result.ttl)
            else:
                hold.tenure = hold.tenure.renewed(now, sent_s, result.ttl)
            hold.token = result.token or hold.token
            hold.server = self._home = server
            self._holders.add(hold)
            self._gained()
