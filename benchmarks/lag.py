"""A probe inside a process that notices when its event loop stands still, and what it did then.

May import the standard library only. A pause is told twice: on the wall's clock, as
others see it, and as the loop's thread spent processor time in it. On a machine that is
busy the first includes the turns of other processes, the second does not.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

BEAT_S = 0.001
_NOTED_S = 0.005


@dataclass(frozen=True, slots=True)
class Pause:
    """One pause (ms): on the wall's clock, in processor time, and known parts of it."""

    wall_ms: float
    cpu_ms: float
    parts_ms: Mapping[str, float]


class LagProbe:
    """Beats every millisecond on the running loop and notes beats that come late."""

    def __init__(self) -> None:
        self.pauses: list[Pause] = []
        self._parts: dict[str, float] = {}
        self._loop = asyncio.get_running_loop()
        self._wall_s, self._cpu_s = time.perf_counter(), time.thread_time()
        self._gc_s = 0.0
        self._timer = self._loop.call_later(BEAT_S, self._beat)
        gc.callbacks.append(self._collected)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is done in this block is known as `name` where a pause is told."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._add(name, time.perf_counter() - started)

    def forget(self) -> None:
        """Forget what was noted so far."""
        self.pauses.clear()

    def close(self) -> None:
        """Beat no more."""
        self._timer.cancel()
        gc.callbacks.remove(self._collected)

    def _beat(self) -> None:
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        late_s = wall_s - self._wall_s - BEAT_S
        if late_s > _NOTED_S:
            self.pauses.append(Pause(late_s * 1e3, (cpu_s - self._cpu_s) * 1e3, self._parts))
        self._parts = {}
        self._wall_s, self._cpu_s = wall_s, cpu_s
        self._timer = self._loop.call_later(BEAT_S, self._beat)

    def _collected(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._gc_s = time.perf_counter()
        else:
            self._add("garbage", time.perf_counter() - self._gc_s)

    def _add(self, name: str, seconds: float) -> None:
        self._parts[name] = self._parts.get(name, 0.0) + seconds * 1e3
