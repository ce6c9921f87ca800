"""One process full of holders, each with a client of its own: `python -m chaos.holders`.

Drives the product's client module. Reads its orders from standard input (one line), then
`tally` or `end`; answers each by one line. A holder asks for its seats, keeps them for as
long as it can, and asks again when it has lost them. What it may rely on is what
`Tenure` says, on the boot clock.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from typing import Any
from unittest.mock import patch

import msgspec
from support.over_issue import now

from chaos.reports import Hold, HolderReport, Orders, Renewal, Tally, Wish
from licraft.client.aio import AsyncClient, AsyncSeat
from licraft.client.transport import Answer, NoAnswer, Transport
from licraft.errors import LicraftError

SAMPLE_S = 0.05
WAIT_S = 10.0
MAX_LINE_BYTES = 1 << 20


class NotingTransport(Transport):
    """Notes when heartbeats are sent."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.beats: list[float] = []

    async def ask(self, method: str, url: str, path: str, *rest: Any, **named: Any) -> Any:
        """Ask, and note it if it is a heartbeat."""
        if path == "/v1/heartbeats":
            self.beats.append(now())
        answer: Answer | NoAnswer = await super().ask(method, url, path, *rest, **named)
        return answer


class Holder:
    """One program that wants its seats."""

    def __init__(self, orders: Orders, wish: Wish, chance: random.Random) -> None:
        self._wish = wish
        self._side = orders.side
        self._random = chance
        others = [url for name, url in orders.urls.items() if name != wish.home]
        chance.shuffle(others)
        # What the holder asks first is its home; the pool's list orders the others.
        self._client = AsyncClient(
            [orders.urls[wish.home], *others], orders.token, user="chaos", close_timeout_s=5.0
        )
        self._seat: AsyncSeat | None = None
        self._from_s = self._until_s = self._sent_s = 0.0
        self._ended = asyncio.Event()
        self._holds: list[Hold] = []
        self._renewals: list[Renewal] = []

    @property
    def holding(self) -> bool:
        """Whether it may rely on its seats now."""
        return self._seat is not None and self._seat.valid

    @property
    def wish(self) -> Wish:
        """What it is to hold."""
        return self._wish

    async def live(self, start_s: float) -> None:
        """Hold the seats, and ask again for what was lost, until cancelled."""
        await asyncio.sleep(start_s)
        while True:
            self._ended.clear()
            try:
                seat = await self._client.checkout(
                    self._wish.feature,
                    self._wish.count,
                    wait=WAIT_S,
                    on_lost=lambda _: self._lose(),
                )
            except LicraftError:
                await asyncio.sleep(self._random.uniform(0.1, 0.5))
                continue
            self._from_s, self._seat = now(), seat
            self.look()
            await self._ended.wait()

    def look(self) -> None:
        """Note what has been renewed since, and until when the seats may be relied upon."""
        if self._seat is None:
            return
        # Its inside, since a program may ask how long a seat lasts and not until when exactly.
        tenure = self._seat._hold.tenure()
        self._until_s = tenure.valid_until
        if tenure.sent_at > self._sent_s:
            self._sent_s = tenure.sent_at
            self._renewals.append(Renewal(tenure.sent_at, now(), self._seat.server))

    def _lose(self) -> None:
        """The client says that the seats are lost: by its own clock, or by a server's word."""
        if self._seat is not None:
            self.look()
            self._end(self._seat.lost_reason or "lost")
        self._ended.set()

    def _end(self, lost: str = "") -> None:
        self._holds.append(Hold(self._from_s, min(now(), self._until_s), lost))
        self._seat = None

    async def close(self) -> None:
        """Rely on the seats no more, and give them back."""
        if self._seat is not None:
            self.look()
            self._end()
        await self._client.aclose()

    def report(self) -> HolderReport:
        """What became of it."""
        transport = self._client._transport
        assert isinstance(transport, NotingTransport)
        return HolderReport(
            self._wish.feature,
            self._wish.count,
            self._side,
            self._wish.hungry,
            self._holds,
            transport.beats,
            self._renewals,
        )


async def _look(holders: list[Holder]) -> None:
    while True:
        await asyncio.sleep(SAMPLE_S)
        for holder in holders:
            holder.look()


def _tally(holders: list[Holder]) -> Tally:
    seats: Counter[str] = Counter()
    holding = [holder for holder in holders if holder.holding]
    for holder in holding:
        seats[holder.wish.feature] += holder.wish.count
    return Tally(sum(not holder.wish.hungry for holder in holding), dict(seats))


def _say(answer: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


async def _run() -> None:
    commands = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    orders = msgspec.json.decode(await commands.readline(), type=Orders)
    chance = random.Random(f"{orders.seed}:{orders.side}")
    holders = [Holder(orders, wish, chance) for wish in orders.wishes]
    starts = [chance.uniform(0, orders.start_s) for _ in holders]
    tasks = [
        asyncio.create_task(holder.live(start_s))
        for holder, start_s in zip(holders, starts, strict=True)
    ]
    tasks.append(asyncio.create_task(_look(holders)))
    while (command := await commands.readline()) == b"tally\n":
        for task in tasks:
            if task.done():
                task.result()  # a holder ends only by an error, which must be seen
        _say(_tally(holders))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*(holder.close() for holder in holders))
    if command:
        _say([holder.report() for holder in holders])


if __name__ == "__main__":
    # The client makes its transport by itself; here it is one that takes notes.
    with patch("licraft.client.aio.Transport", NotingTransport):
        asyncio.run(_run())
