"""Servers and thousands of clients in virtual time: the client's own keepers, no sockets.

The servers say what a pool would say, as far as a client can tell: they renew what is
theirs, take over what another one has that works, have clients wait (`pending`) for what a
server has that stands still, and adopt in two steps what a server had that is down.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import pytest

from licraft.client import keeper
from licraft.client.keeper import Keeper
from licraft.client.routes import Routes
from licraft.client.seats import Hold
from licraft.client.transport import Answer, Gate, NoAnswer, Transport
from licraft.testing import run_virtual
from licraft.wire import (
    Authorization,
    HeartbeatAnswer,
    HeartbeatRequest,
    HeartbeatResult,
    Problem,
    ServerEntry,
    ServerList,
)

NAMES = ("alpha", "beta", "gamma")
ROUND_TRIP_S = 0.002
NOT_ACKNOWLEDGED_S = 0.25

Body = HeartbeatAnswer | Problem


@dataclass
class Server:
    """One server: how it is, what it was asked and when.

    `state` is up, refuses (not running), gone (no network), stopped (SIGSTOP) or recovers
    (renews, and hands nothing over); `takes_s` is the work that one request makes; `says` is
    what it answers instead of the usual.
    """

    name: str
    world: World
    state: str = "up"
    says: Body | None = None
    takes_s: float = 0.0
    asked_s: list[float] = field(default_factory=list)
    busy_until_s: float = 0.0
    stalled_until_s: float = 0.0
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://{self.name}:7700"

    def counts(self, from_s: float, to_s: float) -> list[int]:
        """How many requests it got in each second of a time."""
        seconds = Counter(int(at - from_s) for at in self.asked_s if from_s <= at < to_s)
        return [seconds[second] for second in range(int(to_s - from_s))]

    def stall(self, for_s: float) -> None:
        """Stand still for a while, as for a slow disk; what is asked meanwhile waits."""
        self.stalled_until_s = self.world.now() + for_s
        self.busy_until_s = max(self.busy_until_s, self.stalled_until_s)

    def stop(self) -> None:
        """As by SIGSTOP."""
        self.state = "stopped"
        self.goes_on.clear()

    def go_on(self) -> None:
        """As by SIGCONT, or started again."""
        self.state = "up"
        self.goes_on.set()

    async def work(self) -> None:
        """Wait for its turn: what a client has given up is done all the same."""
        now = self.world.now()
        self.busy_until_s = max(now, self.busy_until_s) + self.takes_s
        await asyncio.sleep(self.busy_until_s - now)

    async def answer(self, request: HeartbeatRequest) -> Body:
        """What it says to a heartbeat, after it has asked another server if it must."""
        if self.says is not None:
            return self.says
        results = [self.world.heartbeat(self, token, request.confirm) for token in request.tokens]
        if any(result.status == "pending" for result in results):
            await self.world.half_a_lease()
            results = [
                self.world.heartbeat(self, token, request.confirm) for token in request.tokens
            ]
        return HeartbeatAnswer(results)


class World:
    """A pool of three and everybody who uses it."""

    def __init__(self, ttl_s: float, lease_s: float) -> None:
        self.ttl_s, self.lease_s = ttl_s, lease_s
        self.alpha, self.beta, self.gamma = (Server(name, self) for name in NAMES)
        self.servers = [self.alpha, self.beta, self.gamma]
        self.by_url = {server.url: server for server in self.servers}
        self.by_name = {server.name: server for server in self.servers}
        self.down: set[str] = set()
        self.known_down = asyncio.Event()
        self.holder: dict[str, str] = {}
        self.moves = 0
        self.keepers: list[Keeper] = []
        self.holds: list[Hold] = []
        self.held = 0

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def client(self, home: Server, seats: int = 1) -> list[Hold]:
        """A client that has just checked seats out at `home`."""
        routes = Routes([server.url for server in self.servers])
        entries = [ServerEntry(s.name, s.url, "follower", "up") for s in self.servers]
        routes.adopt(ServerList(1, entries))
        wire = cast(Transport, Wire(self))
        made = Keeper(wire, routes, self.now, client_id="", read_timeout_s=5.0)
        ttl_s, holds = self.ttl_s, []
        for _ in range(seats):
            id = str(len(self.holder))
            self.holder[id] = home.name
            token = f"{id}|{home.name}"
            granted = Authorization(
                id, token, "cad", 1, home.name, ttl_s, ttl_s / 3, "", ServerList(1, [])
            )
            holds.append(Hold(granted, home.url, self.now(), self.now))
            made.add(holds[-1])
        self.keepers.append(made)
        self.holds += holds
        return holds

    def heartbeat(self, server: Server, token: str, confirm: dict[str, int]) -> HeartbeatResult:
        id, issuer = token.split("|")
        holder = self.by_name[self.holder[id]]
        mine = (id, "adopted", self.ttl_s, f"{id}|{server.name}", server.name)
        if holder is server:
            renewed = HeartbeatResult(id, "renewed", self.ttl_s)
            return renewed if issuer == server.name else HeartbeatResult(*mine)
        if holder.name in self.down and id not in confirm:
            return HeartbeatResult(id, "confirm", down_index=7)
        still = holder.state != "up" or holder.stalled_until_s > self.now()
        if holder.name not in self.down and still:
            return HeartbeatResult(id, "pending", retry_after=1.0)
        self.holder[id] = server.name
        self.moves += 1
        return HeartbeatResult(*mine)

    async def half_a_lease(self) -> None:
        """For so long a server waits for the one that has the seats."""
        try:
            async with asyncio.timeout(self.lease_s / 2):
                await self.known_down.wait()
        except TimeoutError:
            pass

    def call_down(self, server: Server) -> None:
        self.down.add(server.name)
        self.known_down.set()

    def counts(self, from_s: float, to_s: float) -> list[int]:
        """How many requests all servers got in each second of a time."""
        each = [server.counts(from_s, to_s) for server in self.servers]
        return [sum(second) for second in zip(*each, strict=True)]

    async def close(self) -> None:
        self.held = sum(not hold.tenure().ended for hold in self.holds)
        for made in self.keepers:
            await made.stop()


class Wire:
    """The way to the servers, for one client, in place of `Transport`."""

    connect_timeout_s = 1.0

    def __init__(self, world: World) -> None:
        self._world = world
        self._kept_alive: set[str] = set()
        self._unheard: set[str] = set()

    def unheard(self, url: str) -> bool:
        return url in self._unheard

    async def ask(
        self,
        method: str,
        url: str,
        path: str,
        content: bytes,
        *,
        read_timeout_s: float,
        gate: Gate,
        connect_timeout_s: float = 1.0,
        **_: Any,
    ) -> Answer | NoAnswer:
        server, sent_at = self._world.by_url[url], self._world.now()
        if server.state == "refuses":
            await asyncio.sleep(ROUND_TRIP_S)
            return NoAnswer(url, sent_at, "refused", may_have_arrived=False)
        if server.state == "gone" and url not in self._kept_alive:
            await asyncio.sleep(connect_timeout_s)
            return NoAnswer(url, sent_at, "cannot connect", may_have_arrived=False)
        await asyncio.sleep(ROUND_TRIP_S)
        if not gate.enter(url):
            return NoAnswer(url, sent_at, "another one was sooner", may_have_arrived=False)
        self._kept_alive.add(url)
        try:
            async with asyncio.timeout(read_timeout_s):
                body = await self._served(server, msgspec.json.decode(content, type=_BEAT))
        except TimeoutError:
            self._kept_alive.discard(url)
            return NoAnswer(url, sent_at, "late", may_have_arrived=True, late=True)
        status = body.status if isinstance(body, Problem) else 200
        return Answer(url, sent_at, status, msgspec.json.encode(body))

    async def _served(self, server: Server, request: HeartbeatRequest) -> Body:
        if server.state == "gone":
            await asyncio.sleep(NOT_ACKNOWLEDGED_S)
            self._unheard.add(server.url)
            await asyncio.Event().wait()
        server.asked_s.append(self._world.now())
        if server.state == "stopped":
            await server.goes_on.wait()
        await server.work()
        return await server.answer(request)


_BEAT = HeartbeatRequest


def play(
    course: Callable[[World], Awaitable[None]],
    *,
    ttl_s: float = 60.0,
    lease_s: float = 3.0,
) -> World:
    """Run a course of events in virtual time; everybody has gone at its end."""
    made: list[World] = []

    async def run() -> None:
        world = World(ttl_s, lease_s)
        made.append(world)
        try:
            await course(world)
        finally:
            await world.close()

    with pytest.MonkeyPatch.context() as patch:
        # Nobody is suspended in virtual time, and ten thousand clocks need not be looked at.
        patch.setattr(keeper, "WATCH_S", 3600.0)
        run_virtual(run())
    return made[0]
