"""One SyncObj of PySyncObj on a bench: its messages go in and come out by hand."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pysyncobj.syncobj
import pytest
from pysyncobj import SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from licraft.replication.engine import Roster
from licraft.replication.guards import GuardedSyncObj
from licraft.replication.journal import DurableJournal
from licraft.replication.library import ALL_GUARDS, Guard, configuration
from licraft.replication.machine import ReplicatedMachine
from licraft.replication.messages import Message, Piece
from licraft.replication.snapshot import Snapshot, SnapshotStore, encode, reconcile

ALPHA, BETA, GAMMA = Node("alpha"), Node("beta"), Node("gamma")
MEMBERS = {"alpha": "127.0.0.1:1", "beta": "127.0.0.1:2", "gamma": "127.0.0.1:3"}


class Recorder:
    """A state machine that remembers what was applied."""

    roster: Roster | None = None

    def __init__(self) -> None:
        self.applied: list[tuple[int, bytes]] = []
        self.state = b""

    def apply(self, index: int, command: bytes) -> object:
        if command == b"raise":
            raise ValueError("not total")
        self.applied.append((index, command))
        return index

    def snapshot(self) -> bytes:
        return b"state"

    def restore(self, index: int, snapshot: bytes) -> None:
        self.applied.clear()
        self.state = snapshot


class Wire(Transport):  # type: ignore[misc]  # PySyncObj has no types
    """A transport that keeps what is sent."""

    def __init__(self) -> None:
        super().__init__(None, None, [])
        self.sent: list[tuple[str, Message]] = []

    def send(self, node: Node, message: Message) -> bool:
        self.sent.append((node.id, dict(message)))
        return True

    def take(self) -> list[tuple[str, Message]]:
        sent, self.sent = self.sent, []
        return sent


@dataclass
class Bench:
    """One member, alone with a clock, a wire and whatever messages a test invents."""

    directory: Path
    guards: frozenset[Guard] = ALL_GUARDS
    server: str = "beta"
    batch_bytes: int = 10_000
    now: float = 100.0
    machine: Recorder = field(default_factory=Recorder)
    wire: Wire = field(default_factory=Wire)
    seq: int = 0

    def __post_init__(self) -> None:
        self.directory.mkdir(exist_ok=True)
        self.start()
        for name in MEMBERS:
            if name != self.server:
                self.node._SyncObj__onNodeConnected(Node(name))
        self.turn()

    def start(self) -> None:
        """Build the member from what its directory holds."""
        self.journal = DurableJournal(self.directory, "pool", self.server)
        self.store = SnapshotStore(self.directory, "pool", MEMBERS)
        reconcile(self.journal, self.store.current)
        conf = self.configure(self.store.path, self.batch_bytes)
        self.node = GuardedSyncObj(
            self.server,
            MEMBERS,
            conf,
            ReplicatedMachine(self.machine),
            self.wire,
            self.journal,
            self.store,
            clock=lambda: self.now,
            rng=random.Random(1),
            guards=self.guards,
            roster=self.machine.roster,
        )

    @staticmethod
    def configure(path: Path, batch_bytes: int = 10_000) -> SyncObjConf:
        """Small batches and compaction only when it is forced."""
        return configuration(
            path,
            append_entries_period_s=0.1,
            election_timeout_s=(0.5, 1.0),
            leader_fallback_s=1.0,
            queue_size=100,
            batch_bytes=batch_bytes,
            compaction_entries=1000,
            compaction_period_s=1e9,
        )

    def turn(self) -> None:
        """Make durable what was said, and tick: what the engine does again and again."""
        self.journal.sync()
        self.node.doTick(0.0)

    def crash(self) -> Self:
        """Die without a word; what starts again from the same directory."""
        self.abandon()
        return replace(self, machine=type(self.machine)(), wire=Wire())

    def abandon(self) -> None:
        """Close what a dead process does not hold open any more."""
        self.journal.abandon()

    @staticmethod
    def command(text: bytes) -> bytes:
        """A log entry's bytes for a command of the state machine."""
        return b"\0" + text

    def hear(self, node: Node, kind: str, **fields: Any) -> None:
        self.node._SyncObj__onMessageReceived(node, {"type": kind, **fields})

    def append(
        self, previous: tuple[int, int], *terms: int, commit: int = 0, term: int = 9
    ) -> list[tuple[str, Message]]:
        """An append_entries of alpha's; each entry is told by its term. Returns the answers."""
        self.seq += 1
        index, previous_term = previous
        entries = [
            (self.command(b"%d/%d" % (place, entry_term)), place, entry_term)
            for place, entry_term in enumerate(terms, index + 1)
        ]
        self.hear(
            ALPHA,
            "append_entries",
            term=term,
            seq=self.seq,
            commit_index=commit,
            prevLogIdx=index,
            prevLogTerm=previous_term,
            entries=entries,
        )
        return self.wire.take()

    def piece(
        self, piece: Piece | tuple[bytes, bool, bool] | None, commit: int
    ) -> list[tuple[str, Message]]:
        """A piece of a snapshot from alpha, as ours or as PySyncObj sends it."""
        self.seq += 1
        self.hear(
            ALPHA,
            "append_entries",
            term=9,
            seq=self.seq,
            commit_index=commit,
            serialized=piece,
        )
        return self.wire.take()

    @property
    def terms(self) -> list[int]:
        """The terms of the log's entries, from index 1 on."""
        return [entry[2] for entry in self.journal[:]]

    def stand(self, voter: Node) -> None:
        """Stand for election, with one vote beside the own."""
        self.now += 2.0
        self.node.doTick(0.0)
        questions = [m for _, m in self.wire.take() if m["type"] == "pre_vote"]
        if questions:
            answer = {"term": self.node.raftCurrentTerm, "round": questions[0]["round"]}
            self.hear(voter, "pre_vote_answer", granted=True, **answer)
            self.node.doTick(0.0)
        self.hear(voter, "response_vote", term=self.node.raftCurrentTerm)

    def lead(self) -> None:
        """Become the leader by beta's or gamma's vote."""
        self.stand(GAMMA if self.server != "gamma" else BETA)
        assert self.node._isLeader()
        self.node.doTick(0.0)


@pytest.fixture(autouse=True, name="clock")
def clock_fixture() -> Iterator[None]:
    """PySyncObj's clock is one for the process: put it back."""
    before = pysyncobj.syncobj.monotonicTime
    yield
    pysyncobj.syncobj.monotonicTime = before


def without(*guards: Guard) -> frozenset[Guard]:
    return ALL_GUARDS - set(guards)


def acknowledge(bench: Bench, node: Node, next_index: int, **changes: Any) -> None:
    """A follower's answer to whatever was sent to it last."""
    fields = {
        "term": bench.node.raftCurrentTerm,
        "seq": getattr(bench.node, "_sent", {}).get(node, 0),
        "next_node_idx": next_index,
        "reset": False,
        "success": True,
    }
    bench.hear(node, "next_node_idx", **{**fields, **changes})


def snapshot(index: int, term: int = 9, state: bytes = b"") -> Piece:
    """A snapshot of ours in one piece."""
    last, previous = (b"\0last", index, term), (b"\0previous", index - 1, term)
    content = encode(
        Snapshot("pool", tuple(MEMBERS), last, previous, state or b"state of %d" % index)
    )
    return Piece(content, True, True, (index, term), 0, len(content))
