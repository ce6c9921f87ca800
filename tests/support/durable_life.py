"""One server's data directory through starts, work, crashes and losses of power, with a model.

May import `licraft.replication` and `licraft.testing.disk`. A `Life` does with a real journal
and a real snapshot store what PySyncObj and the engine do, and knows all along which states
a start may find: the one that was acknowledged, and the one of the sync that is under way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

from pysyncobj.config import SERIALIZER_STATE
from pysyncobj.node import Node

from licraft.replication.journal import DurableJournal
from licraft.replication.messages import Entry, Piece
from licraft.replication.snapshot import Snapshot, SnapshotStore, encode, reconcile
from licraft.testing.disk import MemoryDisk

FOLDER = Path("/data")
POOL, SERVER, MEMBERS = "pool", "alpha", ("alpha", "beta", "gamma")
LEADER = Node("beta")

Op = tuple[str, int]
"""What is done, and a number from which its size is derived."""

OPS = ("add", "vote", "cut", "commit", "sync", "overlap", "compact", "later", "receive", "restart")


class State(NamedTuple):
    """What a data directory means: the whole log from index 1 on, term and vote."""

    log: tuple[Entry, ...]
    term: int
    vote: str | None


EMPTY = State((), 0, None)


class Life:
    """See the module's text; `do` takes one operation, `start` checks what it finds."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.disk = disk
        self.possible = [EMPTY]  # What the next start may find.
        self.said = EMPTY  # What was told to the journal, synced or not.
        self.committed = 0
        self.snapshot_index = 0
        self.lives = 0

    # Its ends and beginnings.

    def start(self) -> None:
        """Open everything as the engine does; AssertionError if something is lost or invented."""
        self.journal = DurableJournal(FOLDER, POOL, SERVER, self.disk)
        self.store = SnapshotStore(FOLDER, POOL, MEMBERS, self.disk)
        self.store.background = self._write_later
        self._later: list[Callable[[], None]] = []
        reconcile(self.journal, self.store.current)
        found = self._found()
        assert found in self.possible, f"found {found}, possible: {self.possible}"
        snapshot = self.store.current
        self.snapshot_index = snapshot.last[1] if snapshot else 0
        self.committed = max(self.committed, self.snapshot_index)
        known = self.journal.getRaftCommitIndex()
        assert self.snapshot_index <= known <= max(1, self.committed)
        assert self.journal.durable_end == len(found.log)
        self.said, self.possible = found, [found]
        self.lives += 1
        if not found.log:
            self._append(b"\1", 0)
            self._sync()

    def crash(self) -> None:
        """The process ends."""
        self.disk.crash()

    def lose_power(self) -> None:
        """The machine ends."""
        self.disk.lose_power()

    def copy(self) -> Life:
        """The same end of a life, to begin another one after it."""
        other = Life(deepcopy(self.disk))
        other.possible, other.committed = list(self.possible), self.committed
        return other

    def _found(self) -> State:
        """What the files mean: the snapshot's entries, and those that follow in the journal."""
        snapshot, journal = self.store.current, self.journal
        if snapshot is None:
            log = tuple(journal[:])
        else:
            assert journal[:2] == [snapshot.previous, snapshot.last]
            log = (*decode_state(snapshot.state), *journal[2:])
        assert [entry[1] for entry in log] == list(range(1, len(log) + 1))
        return State(log, journal.getCurrentTerm(), journal.getVotedForNodeId())

    # What it does.

    def do(self, op: Op) -> None:
        """One operation; one that makes no sense now is left out."""
        name, number = op
        getattr(self, f"_op_{name}")(number)

    def live(self, ops: Iterable[Op]) -> None:
        """Start, and do all of these."""
        self.start()
        for op in ops:
            self.do(op)

    def _op_add(self, number: int) -> None:
        """Append some entries, short and long."""
        for turn in range(number % 3 + 1):
            self._append(b"\0%d." % number * (1 + (number + turn) % 5 * 40), self.said.term)

    def _op_vote(self, number: int) -> None:
        """Enter a new term, and vote in it."""
        self._set_term(self.said.term + 1, (None, "alpha", "beta")[number % 3])

    def _op_cut(self, number: int) -> None:
        """Truncate entries that are not committed."""
        length = len(self.said.log)
        index = length - number % 4
        if index > max(self.committed, 1):
            self._truncate(index)
            self._append(b"\0instead", self.said.term)

    def _op_commit(self, number: int) -> None:
        """Learn that some entries are committed: such as are durable here, for one."""
        self.committed = max(self.committed, self.journal.durable_end - number % 3)
        self.journal.setRaftCommitIndex(max(1, self.committed))

    def _op_sync(self, number: int) -> None:
        self._sync()

    def _op_overlap(self, number: int) -> None:
        """Go on while the disk works; only what was said before is acknowledged by it."""
        work = self.journal.begin_sync()
        if work is None:
            return
        syncing = self.said
        self.possible.append(syncing)
        self._op_cut(number)
        self._op_add(number)
        try:
            work()
        except OSError as fault:
            self.journal.end_sync(fault)
        self.journal.end_sync(None)
        self.possible = [syncing]

    def _op_compact(self, number: int) -> None:
        """Write a snapshot of what is committed, and shorten the log to what follows it."""
        self._op_later(number)
        self._finish_snapshot()
        self._sync()

    def _op_later(self, number: int) -> None:
        """Begin a snapshot that another thread writes in its own time."""
        index = min(self.committed, self.journal.durable_end) - number % 2
        if index <= max(1, self.snapshot_index) or self.store.storing:
            return
        log = self.said.log
        data = ([{}, encode_state(log[:index])], log[index - 1], log[index - 2], [LEADER])
        self.store.serialize(data, index - 1)

    def _op_receive(self, number: int) -> None:
        """Get a snapshot of a new leader's, which has all that is committed and goes beyond."""
        agreed = self.committed + number % (len(self.said.log) - self.committed + 1)
        term = self.said.term + 1
        log = self.said.log[:agreed]
        for index in range(agreed + 1, agreed + 3 + number % 2):
            log = (*log, (b"\0leader's", index, term))
        snapshot = Snapshot(POOL, MEMBERS, log[-1], log[-2], encode_state(log))
        self._set_term(term, None)
        after = State(log, term, None)
        self.possible.append(after)
        content = encode(snapshot)
        self._run_later()
        assert self.store.take_piece(
            LEADER, Piece(content, True, True, snapshot.id, 0, len(content))
        )
        self.possible = [after]
        self.snapshot_index = self.committed = len(log)
        self.journal.replace(log[-2:])
        self.journal.setRaftCommitIndex(self.committed)
        self.said = after
        if number % 3:
            self._sync()

    def _op_restart(self, number: int) -> None:
        """End in order, or by a kill, and start again."""
        if number % 2:
            self.possible.append(self.said)
            self.journal._destroy()
            self.possible = [self.said]
        self.crash()
        self.start()

    # Steps of these.

    def _append(self, command: bytes, term: int) -> None:
        entry = command, len(self.said.log) + 1, term
        self.journal.add(*entry)
        self.said = self.said._replace(log=(*self.said.log, entry))

    def _truncate(self, index: int) -> None:
        self.journal.deleteEntriesFrom(index - self.journal[0][1])
        self.said = self.said._replace(log=self.said.log[: index - 1])

    def _set_term(self, term: int, vote: str | None) -> None:
        self.journal.setCurrentTerm(term, vote)
        self.said = self.said._replace(term=term, vote=vote)

    def _sync(self) -> None:
        """Make durable what was said: acknowledged when this returns."""
        self.possible.append(self.said)
        self.journal.sync()
        self.possible = [self.said]
        assert self.journal.durable_end == len(self.said.log)

    def _write_later(self, write: Callable[[], bytes]) -> Future[bytes]:
        """What another thread does, here between two operations."""
        future: Future[bytes] = Future()
        self._later.append(lambda: future.set_result(write()))
        return future

    def _run_later(self) -> None:
        while self._later:
            self._later.pop()()

    def _finish_snapshot(self) -> None:
        """Let the other thread finish, then compact as PySyncObj does."""
        self._run_later()
        state, index = self.store.checkSerializing()
        if state == SERIALIZER_STATE.SUCCESS:
            assert index is not None
            self.snapshot_index = max(self.snapshot_index, index + 1)
            position = index - self.journal[0][1]
            if position >= 0:  # Not if a snapshot was received meanwhile that goes further.
                self.journal.deleteEntriesTo(position)


def encode_state(log: Iterable[Entry]) -> bytes:
    """A state from which every entry can be told that made it."""
    return json.dumps([(c.hex(), index, term) for c, index, term in log]).encode()


def decode_state(state: bytes) -> list[Entry]:
    """The entries that made a state."""
    return [(bytes.fromhex(c), index, term) for c, index, term in json.loads(state)]
