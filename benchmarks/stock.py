"""PySyncObj as it comes, as a member to compare with: its own transport, journal and thread.

May import pysyncobj and nothing of the replication room, which would patch it. Every
option is PySyncObj's default except the two files that a pool needs: `journalFile` and
`fullDumpFile`. So it ticks every 50 ms, encrypts nothing and never syncs to disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, SyncObjConsumer, replicated

from benchmarks.figures import Spread
from benchmarks.members import Place

PROPOSE_S = 10.0
_RETRY_S = 0.05

Outcome = Callable[[object, int], None]


class _Counter(SyncObjConsumer):  # type: ignore[misc]  # PySyncObj has no types
    """The cheapest replicated object that takes a command's bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    @replicated  # type: ignore[untyped-decorator]  # PySyncObj has no types
    def execute(self, command: bytes) -> int:
        """Apply a command."""
        self.count += 1
        return self.count


class _Flood:
    """Keeps a number of commands outstanding: each outcome is followed by the next command."""

    def __init__(self, counter: _Counter, command: bytes, seconds: float) -> None:
        self._counter = counter
        self._command = command
        self._end = time.perf_counter() + seconds
        self._lock = threading.Lock()
        self._outstanding = 0
        self._committed = 0
        self._over = threading.Event()

    def run(self, outstanding: int) -> float:
        """Commits per second."""
        started = time.perf_counter()
        self._outstanding = outstanding
        for _ in range(outstanding):
            self._counter.execute(self._command, callback=self._outcome)
        self._over.wait(self._end - started + PROPOSE_S)
        with self._lock:
            return self._committed / (time.perf_counter() - started)

    def _outcome(self, result: object, reason: int) -> None:
        with self._lock:
            self._committed += reason == FAIL_REASON.SUCCESS
            more = time.perf_counter() < self._end
            self._outstanding -= not more
            if not self._outstanding:
                self._over.set()
        if more:
            self._counter.execute(self._command, callback=self._outcome)


def run_stock(
    place: Place, pipe: Connection, seconds: float, command: bytes, outstanding: int
) -> None:
    """One stock member: a process's main function."""
    folder = place.directory / place.name
    folder.mkdir()
    own = place.members[place.name]
    others = [address for address in place.members.values() if address != own]
    counter = _Counter()
    conf = SyncObjConf(journalFile=str(folder / "journal"), fullDumpFile=str(folder / "dump"))
    node = SyncObj(own, others, conf, consumers=[counter])
    names = {address: name for name, address in place.members.items()}
    try:
        while (order := pipe.recv()) != "stop":
            pipe.send(_carried_out(order, node, counter, names, command, outstanding, seconds))
    except EOFError:
        pass  # Whoever gives the orders is gone.
    finally:
        node.destroy_synchronous()


def _carried_out(
    order: str,
    node: SyncObj,
    counter: _Counter,
    names: dict[str, str],
    command: bytes,
    outstanding: int,
    seconds: float,
) -> Any:
    if order == "leader":
        leader = node._getLeader()
        return names.get(leader.address) if leader is not None else None
    if order == "latency":
        return _latency(counter, command, seconds)
    return _Flood(counter, command, seconds).run(outstanding)


def _latency(counter: _Counter, command: bytes, seconds: float) -> Spread:
    """How long one command after the other takes (ms)."""
    took = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        done = threading.Event()
        reasons: list[int] = []

        def outcome(
            result: object, reason: int, done: threading.Event = done, to: list[int] = reasons
        ) -> None:
            to.append(reason)
            done.set()

        started = time.perf_counter()
        counter.execute(command, callback=outcome)
        # Some outcomes are never told; what fails counts with all the time that it cost.
        done.wait(PROPOSE_S)
        took.append((time.perf_counter() - started) * 1e3)
        if reasons != [FAIL_REASON.SUCCESS]:
            time.sleep(_RETRY_S)
    return Spread.of(took)
