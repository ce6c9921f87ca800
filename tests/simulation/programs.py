"""Programs that embed the client module itself, on the simulated network.

May import the client, and this folder's network and holders. Nothing of the client is
imitated here: only the bytes that it sends take another way.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from unittest.mock import patch

from licraft.client.aio import AsyncClient, AsyncSeat
from licraft.client.pace import MAX_RETRY_S
from licraft.client.tenure import SeatState, Tenure
from licraft.client.transport import Answer, Gate
from licraft.client.transport import NoAnswer as Nothing
from licraft.errors import LicraftError
from licraft.testing.chance import waiting_s
from licraft.testing.clock import ManualClock
from simulation.habits import Habits
from simulation.holders import Holders
from simulation.network import Network, NoAnswer, Passed, Refused, Reset

READ_S = 5.0
LOOK_S = 5.0


class Seat:
    """A seat of a program, as the checkers see it: the client module says what may be relied on.

    `wanted` until its program has had enough of it; one that was killed relies on nothing.
    """

    def __init__(self, seat: AsyncSeat, clock: ManualClock) -> None:
        self.seat = seat
        self.clock = clock
        self.wanted = True
        self.killed = False
        self.feature, self.count = seat.feature, seat.count

    @property
    def id(self) -> str:
        """The authorization's id now."""
        return self.seat.id

    @property
    def server(self) -> str:
        """Who manages it."""
        return self.seat.server

    @property
    def tenure(self) -> Tenure:
        """The right to it, by the client module."""
        return self.seat._hold.tenure()

    @property
    def due_s(self) -> float:
        """When it is renewed next at the latest, by the program's clock."""
        tenure = self.tenure
        due_s = tenure.sent_at + self.seat._hold.heartbeat_s
        if tenure.state is SeatState.SUSPENDED:
            return max(due_s, self.clock.now() + MAX_RETRY_S)
        return due_s

    @property
    def relied_on(self) -> bool:
        """Whether its program may rely on it now."""
        return not self.killed and self.seat.valid


class Way:
    """Stands where the client's HTTP transport stands."""

    def __init__(
        self, name: str, network: Network, clock: ManualClock, heard: Callable[[], None]
    ) -> None:
        self._name = name
        self.connect_timeout_s = 1.0
        self._network = network
        self._clock = clock
        self._heard = heard

    async def ask(
        self,
        method: str,
        url: str,
        path: str,
        content: bytes | None = None,
        *,
        read_timeout_s: float,
        connect_timeout_s: float | None = None,
        repeat: bool = False,
        content_type: str = "application/json",
        user: str = "",
        gate: Gate | None = None,
    ) -> Answer | Nothing:
        """Send one request, and once more with `repeat` if its connection broke."""
        sent_at = self._clock.now()
        server = url.removeprefix("http://").partition(".")[0]
        enter = (lambda: True) if gate is None else (lambda: gate.enter(url))
        for again in (repeat, False):
            try:
                reply = await self._network.exchange(
                    self._name, server, method, path, content or b"", read_timeout_s, enter
                )
            except NoAnswer as fault:
                broken = isinstance(fault, Reset)
                if not (broken and again):
                    late = not broken and not isinstance(fault, Refused | Passed)
                    said = type(fault).__name__
                    return Nothing(url, sent_at, said, fault.arrived, broken=broken, late=late)
            else:
                # Once the client has taken note of it.
                asyncio.get_running_loop().call_later(0.0, self._heard)
                return Answer(url, sent_at, reply.status, reply.body)
        raise AssertionError("the second try is the last")

    def unheard(self, url: str) -> bool:
        """What the system knows of a connection is not simulated."""
        return False

    async def close(self) -> None:
        """There is nothing to close."""


class Program:
    """Takes seats by the client module, works a while, gives them back, or dies."""

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
        self.stopping = self.idle = False
        self._network = network
        self._holders = holders
        self._random = rng
        self._gained = gained
        self._seats: list[Seat] = []

    async def live(self, features: list[str]) -> None:
        """Run again and again until told to stop."""
        while not self.stopping:
            self.idle = True
            await asyncio.sleep(self.habits.until_next_s(self._random))
            self.idle = False
            await self._run(features)

    async def _run(self, features: list[str]) -> None:
        """One process, from its start to its end."""
        rng, habits = self._random, self.habits
        client = self._client()
        kills = rng.random() < 0.2
        try:
            for _ in range(rng.randint(1, habits.seats)):
                await self._take(client, rng.choice(features))
            leave_s = habits.clock.now() + waiting_s(rng, habits.stay_s)
            while self._seats and habits.clock.now() < leave_s and not self.stopping:
                await asyncio.sleep(min(LOOK_S, max(0.01, leave_s - habits.clock.now())))
                self._look()
        finally:
            for seat in self._seats:
                seat.wanted = False
                seat.killed = kills
            if kills:
                await client._keeper.stop()
                client._closed = True
            await client.aclose()
            self._seats = []

    def _client(self) -> AsyncClient:
        clock = self.habits.clock
        urls = [f"http://{name}.invalid:7700" for name in self._network.pool.names]
        self._random.shuffle(urls)
        way = Way(self.name, self._network, clock, self._renewed)
        with patch("licraft.client.aio.Transport", lambda *_: way), patch("os.getpid", lambda: 1):
            return AsyncClient(
                urls, user=self.name, host="host", app="app", clock=clock.now, read_timeout_s=READ_S
            )

    async def _take(self, client: AsyncClient, feature: str) -> None:
        rng, tallies = self._random, self.habits.tallies
        count = rng.choice((1, self.habits.greed))
        wait_s = rng.choice((0.0, 0.0, rng.uniform(0.5, self._network.pool.ttl_s)))
        try:
            seat = Seat(await client.checkout(feature, count, wait=wait_s), self.habits.clock)
        except LicraftError as refused:
            tallies[getattr(refused, "code", None) or type(refused).__name__] += 1
            return
        tallies["granted"] += 1
        self.habits.tell(self.name, f"has {count} of {feature} by {seat.server}: {seat.id}")
        self._seats.append(seat)
        self._renewed()

    def _look(self) -> None:
        """Part with what is lost, and count why."""
        for seat in self._seats:
            if seat.seat.lost:
                self.habits.tallies["lost"] += 1
                self.habits.tell(self.name, f"has lost {seat.id}: {seat.seat.lost_reason}")
        self._seats = [seat for seat in self._seats if seat.seat.valid]

    def _renewed(self) -> None:
        """An answer was taken note of: what is held may be so longer, or by another name."""
        for seat in self._seats:
            self._holders.add(seat)
        self._gained()
