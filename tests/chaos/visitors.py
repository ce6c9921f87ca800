"""One process full of visitors, who come, stay and go: `python -m chaos.visitors`.

Drives the product's client module, and beside it the raw clients of `support.over_issue`, which
know nothing of licraft. Reads its orders from standard input (one line), then `tally` or
`end`; answers each by one line. What everybody relied upon goes into a history of its own, with
who was denied; the demand swings, so that at times seats are short and at times they are not.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import sys
from collections import Counter
from pathlib import Path

import msgspec
from support.over_issue import Holders, now

from chaos.history import Denied, Held, Keeper, Stalled
from chaos.reports import Orders, Tally, Wish
from licraft.client.aio import AsyncClient, AsyncSeat
from licraft.errors import Denied as PoolSaidNo
from licraft.errors import LicraftError

SWING_S = 150.0
"""From one rush to the next."""

STALL_S = 0.75
_LOOK_S = 0.1
_STAYS_S = (4.0, 60.0)
_PAUSES_S = (1.0, 30.0)
_MAX_LINE_BYTES = 1 << 20


class Visitor:
    """One program that takes its seats, keeps them a while and comes again, anywhere."""

    def __init__(self, orders: Orders, wish: Wish, chance: random.Random, keeper: Keeper) -> None:
        self._wish = wish
        self._side = orders.side
        self._random = chance
        self._keeper = keeper
        self._urls = list(orders.urls.values())
        self._token = orders.token
        self._seat: AsyncSeat | None = None
        self._from_s = self._until_s = self._sent_s = 0.0
        self._server = ""
        self._lost = asyncio.Event()

    @property
    def wish(self) -> Wish:
        """What it wants when it comes."""
        return self._wish

    @property
    def holding(self) -> bool:
        """Whether it may rely on seats now."""
        return self._seat is not None and self._seat.valid

    async def live(self) -> None:
        """Come and go until cancelled."""
        while True:
            await asyncio.sleep(self._random.uniform(*_PAUSES_S) * _quiet(now()))
            self._random.shuffle(self._urls)
            client = AsyncClient(self._urls, self._token, user="chaos", close_timeout_s=2.0)
            try:
                await self._visit(client)
            finally:
                self._leave()
                await client.aclose()

    async def _visit(self, client: AsyncClient) -> None:
        self._lost.clear()
        wait_s = self._random.choice((0.0, 2.0, 8.0))
        try:
            seat = await client.checkout(
                self._wish.feature, self._wish.count, wait=wait_s, on_lost=lambda _: self._lose()
            )
        except LicraftError as fault:
            code = str(getattr(fault, "code", "")) if isinstance(fault, PoolSaidNo) else ""
            self._keeper.note(Denied(now(), self._wish.feature, code or "unavailable"))
            return
        self._from_s, self._seat = now(), seat
        self.look()
        try:
            async with asyncio.timeout(self._random.uniform(*_STAYS_S)):
                await self._lost.wait()
        except TimeoutError:
            # It relies on its seats no more before it says so.
            self._leave()
            await seat.checkin()

    def look(self) -> None:
        """Note until when the seats may be relied upon."""
        if self._seat is None:
            return
        # Its inside, since a program may ask how long a seat lasts and not until when exactly.
        tenure = self._seat._hold.tenure()
        self._until_s, self._sent_s = tenure.valid_until, tenure.sent_at
        self._server = self._seat.server

    def _lose(self) -> None:
        """The client says that the seats are lost: by its own clock, or by a server's word."""
        if self._seat is not None:
            self._leave(self._seat.lost_reason or "lost")
        self._lost.set()

    def _leave(self, lost: str = "") -> None:
        """Rely on the seats no more."""
        if self._seat is None:
            return
        self.look()
        self._seat = None
        self._keeper.note(
            Held(
                self._wish.feature,
                self._wish.count,
                self._side,
                self._from_s,
                min(now(), self._until_s),
                self._sent_s,
                self._server,
                lost,
            )
        )


def _quiet(at_s: float) -> float:
    """By how much pauses are longer than in the middle of a rush, at a moment: 1 to 3."""
    return 2.0 - math.cos(2 * math.pi * at_s / SWING_S)


async def _look(visitors: list[Visitor], keeper: Keeper, who: str) -> None:
    """Look at everybody often; notice when nobody could run for a while."""
    before_s = now()
    while True:
        await asyncio.sleep(_LOOK_S)
        at_s = now()
        if at_s - before_s > STALL_S:
            keeper.note(Stalled(at_s, at_s - before_s, who))
        before_s = at_s
        for visitor in visitors:
            visitor.look()


def _tally(visitors: list[Visitor]) -> Tally:
    seats: Counter[str] = Counter()
    holding = [visitor for visitor in visitors if visitor.holding]
    for visitor in holding:
        seats[visitor.wish.feature] += visitor.wish.count
    return Tally(len(holding), dict(seats))


async def _run() -> None:
    commands = asyncio.StreamReader(limit=_MAX_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    orders = msgspec.json.decode(await commands.readline(), type=Orders)
    who = f"visitors-{orders.side}-{os.getpid()}"
    keeper = Keeper(Path(orders.keep_in) / f"{who}.jsonl")
    chance = random.Random(f"{orders.seed}:{orders.side}")
    visitors = [
        Visitor(orders, wish, random.Random(chance.random()), keeper) for wish in orders.wishes
    ]
    features = sorted({wish.feature for wish in orders.wishes})
    raw = Holders(list(orders.urls.values()), orders.token, features, orders.raw, orders.seed)
    tasks = [asyncio.create_task(visitor.live()) for visitor in visitors]
    tasks.append(asyncio.create_task(_look(visitors, keeper, who)))
    raw.start()
    kept = 0
    while (command := await commands.readline()) == b"tally\n":
        for task in tasks:
            if task.done():
                task.result()  # a visitor ends only by an error, which must be seen
        kept = _keep(raw, kept, orders.side, keeper)
        _say(_tally(visitors))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.to_thread(raw.end, 30.0)
    _keep(raw, kept, orders.side, keeper)
    keeper.close()
    if raw.faults:
        raise RuntimeError(f"raw holders ended: {raw.faults[:3]}")
    if command:
        _say(True)


def _keep(raw: Holders, kept: int, side: str, keeper: Keeper) -> int:
    """Keep what the raw holders relied upon since; how many intervals are kept now."""
    new = raw.intervals[kept:]
    for i in new:
        if i.until_s > i.from_s:
            keeper.note(Held(i.feature, i.count, side, i.from_s, i.until_s, i.from_s, ""))
    return kept + len(new)


def _say(answer: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(_run())
