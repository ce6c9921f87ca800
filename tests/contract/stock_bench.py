"""PySyncObj as it comes, on the same bench: its own journal, dump and options."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pysyncobj import SyncObj, SyncObjConf, SyncObjConsumer, replicated
from pysyncobj.node import Node
from sync_bench import MEMBERS, Bench, Recorder, snapshot, without

from licraft.replication.library import ALL_GUARDS, Guard, use_clock
from licraft.replication.messages import Message

GUARDED = pytest.mark.parametrize("guarded", [False, True], ids=["bare", "guarded"])
"""A fault of the library as it comes, and the same steps on ours."""

CASES = pytest.mark.parametrize("case", ["stock", "without", "guarded"])
"""The library as it comes, ours without the guard in question, and ours."""


class StockMachine(SyncObjConsumer):  # type: ignore[misc]  # PySyncObj has no types
    """A recorder that is replicated as PySyncObj's documentation shows it."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    @replicated  # type: ignore[untyped-decorator]  # PySyncObj has no types
    def execute(self, command: bytes) -> object:
        return self._recorder.apply(self._syncObj.raftLastApplied + 1, command)

    def _serialize(self) -> dict[str, object]:
        return {"applied": list(self._recorder.applied), "state": self._recorder.snapshot()}

    def _deserialize(self, data: dict[str, Any]) -> None:
        self._recorder.restore(0, data["state"])
        self._recorder.applied += data["applied"]


@dataclass
class StockBench(Bench):
    """One unguarded SyncObj with its file journal; the options are PySyncObj's defaults."""

    options: dict[str, Any] = field(default_factory=dict)

    def start(self) -> None:
        use_clock(lambda: self.now)
        conf = SyncObjConf(
            autoTick=False,
            useFork=False,
            journalFile=str(self.directory / "journal"),
            fullDumpFile=str(self.directory / "dump"),
            **self.options,
        )
        self.node = SyncObj(
            Node(self.server),
            [Node(name) for name in MEMBERS if name != self.server],
            conf,
            consumers=[StockMachine(self.machine)],
            nodeClass=Node,
            transport=self.wire,
        )
        self.journal = self.node._SyncObj__raftLog

    def turn(self) -> None:
        self.node.doTick(0.0)

    def abandon(self) -> None:
        """Nothing: its journal is a mapping, which this process shares with the next."""

    @staticmethod
    def command(text: bytes) -> bytes:
        return b"\0" + pickle.dumps((0, (text,)), 2)


def bench_for(case: str | bool, directory: Path, *guards: Guard) -> Bench:
    """The bench of a case; `guards` are those that are left out where the case says so."""
    if case in ("stock", False):
        return StockBench(directory)
    return Bench(directory, without(*guards) if case == "without" else ALL_GUARDS)


def submit(bench: Bench, text: bytes, callback: Any) -> None:
    """Propose a command at a member of either kind."""
    if isinstance(bench, StockBench):
        bench.node._applyCommand(bench.command(text)[1:], callback, 0)
    else:
        bench.node.submit(text, callback)


def carry(source: Bench, target: Bench) -> list[Message]:
    """Let `target` hear what `source` has sent to it; returns those messages."""
    carried = [message for name, message in source.wire.take() if name == target.server]
    for message in carried:
        target.node._SyncObj__onMessageReceived(Node(source.server), message)
    return carried


def stock_pieces(index: int, directory: Path, term: int = 9) -> list[Any]:
    """The same snapshot as PySyncObj sends it: (data, is first, is last), the last one empty."""
    directory.mkdir()
    source = StockBench(directory)
    source.append((1, 0), *[term] * (index - 1), commit=index, term=term)
    source.turn()
    source.node.forceLogCompaction()
    source.turn()
    source.turn()
    pieces: list[Any] = []
    while not pieces or not pieces[-1][2]:
        pieces.append(source.node._SyncObj__serializer.getTransmissionData("beta"))
    return pieces


def pieces_of(index: int, guarded: bool, directory: Path) -> list[Any]:
    """A snapshot in pieces as either kind of leader sends them."""
    return [snapshot(index)] if guarded else stock_pieces(index, directory / f"to {index}")
