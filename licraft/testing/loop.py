"""An event loop whose time is virtual: it passes at once when every task waits.

May import the standard library. A program that only waits (for timers, for its own tasks)
runs through hours in seconds and takes the same course each time. It knows no threads
and no network: work for an executor is done in place, sockets never become ready.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that does not wait for its next timer but sets its clock to it.

    It has its own way to go round, and its own timers: those of asyncio take a third of the
    time of a simulation, for sockets and threads that there are not.
    """

    def __init__(self) -> None:
        """Begin at time 0."""
        self.now_s = 0.0
        self.faults: list[BaseException] = []
        self._timers: list[tuple[float, int, Callable[..., object] | None, Any]] = []
        self._timers_made = 0
        super().__init__()
        self.set_exception_handler(_keep_fault)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.now_s

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back at a virtual time."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._timers_made, None, timer))
        return timer

    def post(self, when: float, action: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        """Call `action` at a virtual time, without what it takes to change one's mind."""
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._timers_made, action, arguments))

    def run_in_executor(
        self,
        executor: Executor | None,
        func: Callable[[Unpack[Ts]], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """Do the work now: a thread would take real time and make runs differ."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        # Whatever a thread raises reaches its caller this way.
        except Exception as fault:  # noqa: BLE001
            done.set_exception(fault)
        return done

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when its time has come."""

    def _run_once(self) -> None:
        """Let time pass if nothing is ready, then call whatever is."""
        timers = self._timers
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]  # asyncio's own
        if not ready and not self._stopping:  # type: ignore[attr-defined]  # asyncio's own
            while timers and timers[0][2] is None and timers[0][3]._cancelled:
                heapq.heappop(timers)
            if not timers:
                raise RuntimeError("every task waits for another, and no timer will wake one")
            self.now_s = max(self.now_s, timers[0][0])
        while timers and timers[0][0] <= self.now_s:
            _, _, action, due = heapq.heappop(timers)
            if action is None:
                ready.append(due)
                continue
            try:
                action(*due)
            except Exception as fault:  # noqa: BLE001  # It is told at the end, as asyncio would.
                self.faults.append(fault)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine like `asyncio.run`, in virtual time.

    What fails in a callback or in a task that nobody awaits is raised at the end, since
    nothing may go wrong in a test unseen.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        try:
            result = runner.run(main)
        except Exception as fault:
            if loop.faults and fault is not loop.faults[0]:
                raise loop.faults[0] from fault
            raise
    if loop.faults:
        raise loop.faults[0]
    return result


def _keep_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Keep what went wrong until the run is over."""
    assert isinstance(loop, VirtualLoop)
    loop.faults.append(context.get("exception") or RuntimeError(context["message"]))
