"""Keeps every seat of a client alive: what is due when, what has ended, what goes back.

May import the client's other modules and `wire`. It never blocks on one server while
seats of another are due: each batch is a task of its own (`renewing`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import msgspec

from licraft.client.clock import Clock
from licraft.client.contact import Contact
from licraft.client.pace import FIRST_HEARTBEAT_EARLY, heartbeat_delay
from licraft.client.proof import Verifier
from licraft.client.renewing import Renewal, Renewer, batches
from licraft.client.routes import Routes
from licraft.client.seats import Hold
from licraft.client.tenure import SeatState
from licraft.client.transport import Answer, Gate, NoAnswer, Transport
from licraft.wire import CheckinAnswer, CheckinRequest

log = logging.getLogger("licraft.client")

WATCH_S = 1.0
"""A suspended machine's timers stand still, so the clock is looked at this often at least."""
CHECKIN_WAIT_S = 2.0


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
        chance: Callable[[], float] = random.random,
        proofs: Verifier | None = None,
    ) -> None:
        """With `proofs` a renewal counts only if its server proves its pool."""
        self._transport = transport
        self._routes = routes
        self._contact = Contact(transport, routes, clock)
        self._renewer = Renewer(
            transport,
            routes,
            clock,
            client_id=client_id,
            chance=chance,
            give_back=self.give_back_soon,
            proofs=proofs,
        )
        self._clock = clock
        self._chance = chance
        self._read_timeout_s = read_timeout_s
        self._renewals: dict[Hold, Renewal] = {}
        self._wake = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._errands: set[asyncio.Task[object]] = set()

    def __len__(self) -> int:
        return len(self._renewals)

    def add(self, hold: Hold) -> None:
        """Keep `hold` alive from now on."""
        early = heartbeat_delay(hold.heartbeat_s, self._chance(), FIRST_HEARTBEAT_EARLY)
        due_at = hold.tenure().sent_at + early
        self._renewals[hold] = Renewal(hold, due_at)
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

    async def _renew(self, home: str, batch: list[Renewal]) -> None:
        try:
            await self._renewer.renew(home, batch)
        finally:
            for renewal in batch:
                renewal.in_flight = False
            self._wake.set()

    async def give_back(self, tokens: Sequence[str], home: str) -> bool:
        """Check tokens in at `home` or, if that cannot, at any server; whether one did."""
        done = True
        for part in batches(tokens):
            done = await self._give_back(list(tokens[part]), home) and done
        return done

    async def _give_back(self, tokens: list[str], home: str) -> bool:
        body = msgspec.json.encode(CheckinRequest(tokens=tokens))
        walk = self._routes.walk(self._clock, home)
        wait_s = min(self._read_timeout_s, CHECKIN_WAIT_S)

        def send(url: str, gate: Gate) -> Coroutine[Any, Any, Answer | NoAnswer]:
            return self._transport.ask(
                "POST", url, "/v1/checkins", body, read_timeout_s=wait_s, repeat=True, gate=gate
            )

        while (reached := await self._contact.reach(walk, Gate(), send)).outcome is not None:
            answer = self._contact.heed(reached.outcome, CheckinAnswer)
            if isinstance(answer, CheckinAnswer):
                return True
            log.info("checkin not taken by %s: %s", reached.outcome.url, answer)
        return False


def by_home(holds: Iterable[Hold]) -> dict[str, list[str]]:
    """The tokens of some holds, by the server that manages each."""
    tokens: dict[str, list[str]] = {}
    for hold in holds:
        tokens.setdefault(hold.url, []).append(hold.token)
    return tokens
