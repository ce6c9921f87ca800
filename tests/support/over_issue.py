"""Holders that obey the contract, and the proof that no seat was ever held twice.

Speaks raw HTTP/1.1 by itself and imports nothing of licraft: what the product's own client
takes for granted is checked here from outside. A holder may rely on its seats from when a
grant's answer has arrived until `ttl` seconds after it sent the last request that was
answered with success, on one monotonic clock that all holders of this process share; it
stops by itself then, when it is told `lost`, and before it gives them back. What was
relied upon is kept as intervals; `overlaps` sweeps over their exact ends afterwards.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

FIRST_PAUSE_S = 0.1
MAX_HOLD_S = 6.0
MAX_WAIT_S = 2.0
ABANDONED = 0.1
SIZES = (1, 1, 1, 1, 2, 3, 5)


@dataclass(frozen=True, slots=True)
class Interval:
    """`count` seats of `feature` were relied upon in [from_s, until_s)."""

    feature: str
    count: int
    from_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class Overlap:
    """At `at_s`, `held` seats of a feature were relied upon."""

    feature: str
    held: int
    at_s: float


def peaks(intervals: Iterable[Interval]) -> dict[str, Overlap]:
    """The most seats of each feature that were relied upon at once, and when first."""
    changes: dict[str, list[tuple[float, int]]] = {}
    for interval in intervals:
        if interval.until_s > interval.from_s:
            ends = changes.setdefault(interval.feature, [])
            ends.append((interval.from_s, interval.count))
            ends.append((interval.until_s, -interval.count))
    found = {}
    for feature, ends in changes.items():
        held, peak = 0, Overlap(feature, 0, 0.0)
        # An interval is over at its end: what ends sorts before what begins at that moment.
        for at_s, change in sorted(ends):
            held += change
            if held > peak.held:
                peak = Overlap(feature, held, at_s)
        found[feature] = peak
    return found


def overlaps(intervals: Iterable[Interval], counts: Mapping[str, int]) -> list[Overlap]:
    """Every feature of which more than its count was relied upon at once."""
    return [peak for peak in peaks(intervals).values() if peak.held > counts.get(peak.feature, 0)]


class _Unanswered(Exception):
    """No whole answer came: refused, broken, or not in time."""


@dataclass(frozen=True, slots=True)
class _Answer:
    sent_s: float
    status: int
    body: Any


class _Lines:
    """One holder's connections, kept alive, one for each server."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._open: dict[str, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def post(self, url: str, path: str, body: object, timeout_s: float) -> _Answer:
        """Send one request and read its answer; `sent_s` is before its first byte leaves."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._post(url, path, json.dumps(body).encode())
        except (OSError, EOFError, ValueError, TimeoutError) as fault:
            self._drop(url)
            raise _Unanswered(f"{url}: {fault!r}") from fault
        except asyncio.CancelledError:
            self._drop(url)
            raise

    async def _post(self, url: str, path: str, body: bytes) -> _Answer:
        place = urlsplit(url)
        if url not in self._open:
            self._open[url] = await asyncio.open_connection(place.hostname, place.port)
        reader, writer = self._open[url]
        head = f"POST {path} HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-length: {len(body)}\r\n"
        if self._token:
            head += f"authorization: Bearer {self._token}\r\n"
        sent_s = now()
        writer.write(head.encode() + b"\r\n" + body)
        status = int((await reader.readuntil(b"\r\n")).split()[1])
        length, closes = 0, False
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            name, _, value = line.decode().partition(":")
            if name.lower() == "content-length":
                length = int(value)
            closes = closes or (name.lower() == "connection" and "close" in value)
        answer = _Answer(sent_s, status, json.loads(await reader.readexactly(length)))
        if closes:
            self._drop(url)
        return answer

    def _drop(self, url: str) -> None:
        if url in self._open:
            self._open.pop(url)[1].close()

    def close(self) -> None:
        """Close every connection."""
        for url in list(self._open):
            self._drop(url)


def now() -> float:
    """The holders' clock, which runs through suspends."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True)
class _Held:
    """What a holder has, and until when it may rely on it."""

    feature: str
    count: int
    token: str
    url: str
    id: str
    ttl_s: float
    from_s: float
    valid_until_s: float


@dataclass
class Holders:
    """`count` holders of `features` at the servers `urls`, in a thread with its own loop.

    `seed` decides who asks for what, where, and for how long. `end` makes everybody give
    back what it holds; `intervals` and `outcomes` are what came of it.
    """

    urls: Sequence[str]
    token: str
    features: Sequence[str]
    count: int
    seed: int
    intervals: list[Interval] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ending = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), daemon=True)

    def start(self) -> None:
        """Let the holders begin."""
        self._thread.start()

    def end(self, within_s: float) -> None:
        """Have everybody give back what it holds, and wait for that."""
        self._ending.set()
        self._thread.join(within_s)
        if self._thread.is_alive():
            raise AssertionError(f"the holders did not end within {within_s:g} s")

    async def _all(self) -> None:
        holders = [Holder(self, random.Random(f"{self.seed}:{i}")) for i in range(self.count)]
        results = await asyncio.gather(*(h.live() for h in holders), return_exceptions=True)
        self.faults += [repr(result) for result in results if result is not None]

    async def until(self, at_s: float) -> None:
        """Sleep until `at_s`, or until the holders are to end."""
        # The end comes from another thread, so it is looked for: it need not be prompt.
        while now() < at_s and not self.ending:  # noqa: ASYNC110
            await asyncio.sleep(min(0.2, max(0.0, at_s - now())))

    @property
    def ending(self) -> bool:
        """Whether the holders are to end."""
        return self._ending.is_set()


class Holder:
    """One program: takes seats, keeps them alive for a while, gives them back, again and again."""

    def __init__(self, crowd: Holders, chance: random.Random) -> None:
        self._crowd = crowd
        self._random = chance
        self._urls = list(crowd.urls)
        chance.shuffle(self._urls)
        self._version = 0
        self._lines = _Lines(crowd.token)
        self._client = {"id": str(uuid.UUID(int=chance.getrandbits(128)))}

    async def live(self) -> None:
        """Hold seats until the crowd ends."""
        try:
            while not self._crowd.ending:
                held = await self._take()
                if held is None:
                    await asyncio.sleep(self._random.uniform(0.05, 0.5))
                    continue
                try:
                    await self._keep(held, now() + self._random.uniform(0, MAX_HOLD_S))
                finally:
                    self._note(held, now())
        finally:
            self._lines.close()

    def _note(self, held: _Held, at_s: float) -> None:
        """Record what was relied upon up to `at_s`, or to its end if that was before."""
        until_s = min(at_s, held.valid_until_s)
        self._crowd.intervals.append(Interval(held.feature, held.count, held.from_s, until_s))

    async def _take(self) -> _Held | None:
        """Ask one server after the other; a denial is final."""
        feature = self._random.choice(self._crowd.features)
        count = self._random.choice(SIZES)
        wait_s = self._random.choice((0.0, 0.0, self._random.uniform(0, MAX_WAIT_S)))
        first = self._random.choice(self._urls)
        for url in (first, *(u for u in self._urls if u != first)):
            body = {"feature": feature, "count": count, "wait": wait_s, "client": self._client}
            try:
                answer = await self._lines.post(url, "/v1/authorizations", body, wait_s + 2)
            except _Unanswered:
                self._crowd.outcomes["checkout unanswered"] += 1
                continue
            self._crowd.outcomes[f"checkout {answer.body.get('code', answer.status)}"] += 1
            self._learn(answer.body.get("servers"))
            if answer.status == 201:
                ttl_s = answer.body["ttl"]
                granted = _Held(
                    feature,
                    count,
                    answer.body["token"],
                    url,
                    answer.body["id"],
                    ttl_s,
                    now(),
                    answer.sent_s + ttl_s,
                )
                return granted if now() < granted.valid_until_s else None
            if answer.status == 409:
                return None
        return None

    async def _keep(self, held: _Held, until_s: float) -> None:
        """Rely on seats until `until_s`, until they are lost, or until their time runs out."""
        beat_s = held.valid_until_s - held.ttl_s * 2 / 3
        while True:
            at_s = min(beat_s, until_s, held.valid_until_s)
            await self._crowd.until(at_s)
            if now() >= held.valid_until_s:
                self._crowd.outcomes["expired"] += 1
                return
            if now() >= until_s or self._crowd.ending:
                await self._give_back(held)
                return
            pause_s = await self._beat(held)
            if pause_s is None:
                return
            beat_s = now() + pause_s

    async def _beat(self, held: _Held) -> float | None:
        """Send a heartbeat to the home, then to the others; seconds to the next, None if lost."""
        for url in (held.url, *(u for u in self._urls if u != held.url)):
            confirm: dict[str, int] = {}
            while True:
                if now() >= held.valid_until_s:
                    return 0.0
                body = {
                    "tokens": [held.token],
                    "client": self._client["id"],
                    "servers_version": self._version,
                    "confirm": confirm,
                }
                try:
                    answer = await self._lines.post(url, "/v1/heartbeats", body, held.ttl_s / 6)
                except _Unanswered:
                    self._crowd.outcomes["heartbeat unanswered"] += 1
                    break
                self._learn(answer.body.get("servers"))
                if answer.status != 200:
                    self._crowd.outcomes[f"heartbeat {answer.body.get('code')}"] += 1
                    break
                (result,) = answer.body["results"]
                status = result["status"]
                self._crowd.outcomes[f"heartbeat {status}"] += 1
                if status == "confirm":
                    confirm = {held.id: result["down_index"]}
                    continue
                if status == "pending":
                    return float(result["retry_after"])
                if status == "lost":
                    return None
                if now() >= held.valid_until_s:
                    return 0.0  # too late: it had to stop by itself
                if status in ("converted", "adopted"):
                    held.token, held.id, held.url = result["token"], result["id"], url
                held.ttl_s = result["ttl"]
                held.valid_until_s = answer.sent_s + held.ttl_s
                return held.ttl_s / 3
        return FIRST_PAUSE_S + self._random.uniform(0, 0.3)

    async def _give_back(self, held: _Held) -> None:
        """Rely on the seats no more, then say so; some programs die without a word."""
        self._note(held, now())
        held.from_s = held.valid_until_s  # what follows is not relied upon
        if self._random.random() < ABANDONED and not self._crowd.ending:
            self._crowd.outcomes["abandoned"] += 1
            return
        for url in (held.url, *(u for u in self._urls if u != held.url)):
            try:
                answer = await self._lines.post(url, "/v1/checkins", {"tokens": [held.token]}, 1.0)
            except _Unanswered:
                continue
            if answer.status == 200:
                self._crowd.outcomes["checked in"] += 1
                return

    def _learn(self, servers: Any) -> None:
        """Take a newer leader priority list."""
        if servers and servers["version"] > self._version:
            self._version = servers["version"]
            self._urls = [server["url"] for server in servers["list"]]
