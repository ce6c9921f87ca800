"""An event loop whose time is virtual: it passes at once when every task waits.

May import the standard library. A program that only waits (for timers, for its own tasks)
runs through hours in seconds and takes the same course each time. It knows no threads
and no network: work for an executor is done in place, sockets never become ready.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that does not wait for its next timer but sets its clock to it."""

    def __init__(self) -> None:
        """Begin at time 0."""
        self._virtual_s = 0.0
        self.faults: list[BaseException] = []
        super().__init__(_NoWaiting(self._pass))
        self.set_exception_handler(_keep_fault)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual_s

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

    def _pass(self, seconds: float) -> None:
        self._virtual_s += seconds


class _NoWaiting(selectors.DefaultSelector):
    """A selector that lets virtual time pass where another would wait."""

    def __init__(self, wait: Callable[[float], None]) -> None:
        super().__init__()
        self._wait = wait

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("every task waits for another, and no timer will wake one")
        if timeout > 0:
            self._wait(timeout)
        return []


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
            if loop.faults:
                raise loop.faults[0] from fault
            raise
    if loop.faults:
        raise loop.faults[0]
    return result


def _keep_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Keep what went wrong until the run is over."""
    assert isinstance(loop, VirtualLoop)
    loop.faults.append(context.get("exception") or RuntimeError(context["message"]))
