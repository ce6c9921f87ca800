"""Snapshots of the state machine: one file, verified before use, and its way to a follower.

May import pysyncobj's constants, the journal, this room's disk and `errors`. `SnapshotStore`
takes the place of PySyncObj's Serializer (same methods, contract test): nothing is pickled,
a file is complete or not there, a received snapshot is checked as a whole before it
replaces anything (S8), and a damaged one is an error and never an empty state (L3).

The file `snapshot`, numbers big-endian:

    magic 8 | version 4 | header length 4 | state length 8 | header (msgpack) | state | SHA-256
"""

from __future__ import annotations

import hashlib
import logging
import struct
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from pysyncobj.config import SERIALIZER_STATE
from pysyncobj.node import Node

from licraft.errors import DataError
from licraft.replication.files import SYSTEM_DISK, Disk, data_error, read_or_none, replace_file
from licraft.replication.journal import RESTORE, DurableJournal
from licraft.replication.messages import Entry, Piece, SnapshotId

log = logging.getLogger(__name__)

SNAPSHOT_NAME = "snapshot"
FORMAT_VERSION = 1
PIECE_BYTES = 256 * 1024
MAX_SNAPSHOT_BYTES = 1024 * 1024 * 1024

_MAGIC = b"LICRSNAP"
_HEAD = struct.Struct(">8sIIQ")
_DIGEST_BYTES = 32


class SnapshotError(Exception):
    """The bytes are not a whole snapshot of this pool; the message says why."""


class _Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a snapshot says about itself."""

    pool: str
    cluster: list[str]
    last: tuple[bytes, int, int]
    previous: tuple[bytes, int, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state after the entry `last`, and the two last entries, which start the log after it."""

    pool: str
    cluster: tuple[str, ...]
    last: Entry
    previous: Entry
    state: bytes

    @property
    def id(self) -> SnapshotId:
        """Index and term of the last entry that it covers."""
        return self.last[1], self.last[2]


def encode(snapshot: Snapshot) -> bytes:
    """The file's content."""
    header = msgspec.msgpack.encode(
        _Header(snapshot.pool, list(snapshot.cluster), snapshot.last, snapshot.previous)
    )
    head = _HEAD.pack(_MAGIC, FORMAT_VERSION, len(header), len(snapshot.state))
    body = b"".join((head, header, snapshot.state))
    return body + hashlib.sha256(body).digest()


def decode(content: bytes, pool: str) -> Snapshot:
    """The snapshot in a file's content; raises SnapshotError if anything is wrong with it."""
    if len(content) < _HEAD.size + _DIGEST_BYTES:
        raise SnapshotError(f"only {len(content)} bytes long")
    magic, version, header_size, state_size = _HEAD.unpack_from(content)
    if magic != _MAGIC:
        raise SnapshotError("not a licraft snapshot")
    if version != FORMAT_VERSION:
        raise SnapshotError(f"format {version}, this licraft reads {FORMAT_VERSION}")
    end = _HEAD.size + header_size + state_size
    if len(content) != end + _DIGEST_BYTES:
        raise SnapshotError(f"{len(content)} bytes long instead of {end + _DIGEST_BYTES}")
    view = memoryview(content)
    if hashlib.sha256(view[:end]).digest() != content[end:]:
        raise SnapshotError("checksum does not match")
    try:
        header = msgspec.msgpack.decode(view[_HEAD.size : _HEAD.size + header_size], type=_Header)
    except msgspec.MsgspecError as fault:
        raise SnapshotError(f"header: {fault}") from fault
    if header.pool != pool:
        raise SnapshotError(f"belongs to pool {header.pool}, not {pool}")
    if header.previous[1] != header.last[1] - 1 or header.previous[2] > header.last[2]:
        raise SnapshotError(f"entries {header.previous[1]} and {header.last[1]} do not follow")
    state = bytes(view[_HEAD.size + header_size : end])
    return Snapshot(header.pool, tuple(header.cluster), header.last, header.previous, state)


Background = Callable[[Callable[[], bytes]], "Future[bytes]"]
"""Runs what writes a snapshot of our own in another thread."""


class SnapshotStore:
    """The newest snapshot on disk, pieces of it for followers, and one that is arriving.

    `members` are named in the header of its own snapshots, for people: the state decides.

    The method names are those of PySyncObj's Serializer, in whose place it stands. An
    error of the disk is raised as DataError and stops the engine. With `background` the
    server's own snapshots are written while it goes on.
    """

    def __init__(
        self, directory: Path, pool: str, members: Iterable[str], disk: Disk = SYSTEM_DISK
    ) -> None:
        """Read and verify the snapshot in `directory`, if there is one; raises DataError."""
        self.path = directory / SNAPSHOT_NAME
        self._disk = disk
        self._pool = pool
        self.members = tuple(members)
        self._content = b""
        self._current: Snapshot | None = None
        self._stored: int | None = None
        self._storing: tuple[Future[bytes], Snapshot, int] | None = None
        self.background: Background | None = None
        self._sending: dict[Node, int] = {}
        self._arriving: bytearray | None = None
        self._arriving_from: tuple[Node, SnapshotId, int] | None = None
        self._open()

    @property
    def current(self) -> Snapshot | None:
        """The snapshot on disk."""
        return self._current

    @property
    def storing(self) -> bool:
        """Whether a snapshot is on its way to the disk."""
        return self._storing is not None

    def serialize(self, data: tuple[Any, Entry, Entry, Iterable[Node]], entry_index: int) -> None:
        """Store the state: `data` is what PySyncObj collects, its consumer's bytes last in [0]."""
        if self._stored is not None or self._storing is not None:
            return
        collected, last, previous, _ = data
        state: bytes = collected[1]
        snapshot = Snapshot(self._pool, self.members, last, previous, state)
        write = partial(self._write_encoded, snapshot)
        if self.background is not None:
            self._storing = self.background(write), snapshot, entry_index
            return
        self._replaced(write(), snapshot)
        self._stored = entry_index

    def checkSerializing(self) -> tuple[int, int | None]:
        """Say once that the last `serialize` succeeded: then PySyncObj compacts the log."""
        if self._storing is not None:
            if not self._storing[0].done():
                return SERIALIZER_STATE.SERIALIZING, None
            self.finish()
        if self._stored is None:
            return SERIALIZER_STATE.NOT_SERIALIZING, None
        stored, self._stored = self._stored, None
        return SERIALIZER_STATE.SUCCESS, stored

    def finish(self) -> None:
        """Wait until nothing is on its way to the disk; raises DataError if that failed."""
        if self._storing is not None:
            (writing, snapshot, entry_index), self._storing = self._storing, None
            self._replaced(writing.result(), snapshot)
            self._stored = entry_index

    def deserialize(self) -> tuple[list[Any], Entry, Entry, list[Node]]:
        """The current snapshot, in the shape that PySyncObj's loader takes apart."""
        if self._current is None:
            raise DataError(f"{self.path}: there is no snapshot to load")
        current = self._current
        state = (current.last[1], current.state)
        return [{}, state], current.last, current.previous, [Node(n) for n in current.cluster]

    def getTransmissionData(self, node: Node) -> Piece | None:
        """The next piece for a follower; None while the log still lacks its compaction."""
        # Between storing and compacting, the log does not yet start where the snapshot ends,
        # which is what PySyncObj assumes about the piece that it sends last.
        if self._current is None or self._stored is not None:
            return None
        offset = self._sending.get(node, 0)
        total = len(self._content)
        data = self._content[offset : offset + PIECE_BYTES]
        last = offset + len(data) == total
        if last:
            self._sending.pop(node, None)
        else:
            self._sending[node] = offset + len(data)
        return Piece(data, offset == 0, last, self._current.id, offset, total)

    def cancelTransmisstion(self, node: Node) -> None:
        """Forget how far a follower was: it gets the snapshot from its start."""
        self._sending.pop(node, None)

    def take_piece(self, node: Node, piece: Piece) -> bool:
        """Add a piece that `node` sent; True when a newer snapshot is complete and on disk."""
        if piece.first and piece.total <= MAX_SNAPSHOT_BYTES:
            self._arriving = bytearray()
            self._arriving_from = (node, piece.id, piece.total)
        if self._arriving is None or self._arriving_from != (node, piece.id, piece.total):
            return False
        if piece.offset != len(self._arriving):
            self.drop_arriving()
            return False
        self._arriving += piece.data
        if not piece.last:
            return False
        content = bytes(self._arriving)
        self.drop_arriving()
        try:
            snapshot = decode(content, self._pool)
        except SnapshotError as fault:
            log.error("refused a snapshot from %s: %s", node.id, fault)
            return False
        if snapshot.id != piece.id:
            log.error("refused a snapshot from %s: it is %s, not %s", node, snapshot.id, piece.id)
            return False
        self.finish()
        self._write(content)
        self._replaced(content, snapshot)
        return True

    def setTransmissionData(self, complete: bool | None) -> bool:
        """Whether a snapshot is complete: the guard has given its pieces to `take_piece`."""
        return complete is True

    def drop_arriving(self) -> None:
        """Forget an incomplete snapshot, for its sender is gone."""
        self._arriving = None
        self._arriving_from = None

    def _open(self) -> None:
        """Read the file, if there is one."""
        try:
            content = read_or_none(self._disk, self.path)
        except OSError as fault:
            raise data_error(self.path, fault) from fault
        if content is None:
            return
        self._content = content
        try:
            self._current = decode(self._content, self._pool)
        except SnapshotError as fault:
            raise DataError(f"{self.path}: {fault}: {RESTORE}") from fault

    def _replaced(self, content: bytes, snapshot: Snapshot) -> None:
        """The file is another; transmissions of the old one start again with the new one."""
        self._content, self._current = content, snapshot
        self._sending.clear()

    def _write_encoded(self, snapshot: Snapshot) -> bytes:
        """Replace the file, in whatever thread; returns its content. Raises DataError."""
        content = encode(snapshot)
        self._write(content)
        return content

    def _write(self, content: bytes) -> None:
        """Replace the file; raises DataError."""
        try:
            replace_file(self._disk, self.path, content)
        except OSError as fault:
            raise data_error(self.path, fault) from fault


def reconcile(journal: DurableJournal, snapshot: Snapshot | None) -> None:
    """Make the journal start where the snapshot ends, keeping all that follows it (S2).

    A crash can fall between the two files' replacements; then the older journal still
    holds what the snapshot covers. Raises DataError if entries between them are missing.
    """
    first = journal[0][1] if len(journal) else None
    if snapshot is None:
        if first not in (None, 1):
            raise DataError(
                f"{journal.path}: starts at entry {first}, and the snapshot of what comes before "
                f"is missing: restore it, or {RESTORE}"
            )
        return
    index, term = snapshot.id
    if first is None:
        # The log is never empty once there is a snapshot; term and vote are lost with it.
        raise DataError(
            f"{journal.path}: empty, and there is a snapshot that ends at {index}: restore it, "
            f"or {RESTORE}"
        )
    if first > index:
        raise DataError(
            f"{journal.path}: starts at entry {first}, and the snapshot ends at {index}: "
            "one of the two files is from another time"
        )
    entries = journal[:]
    # The log may go beyond the snapshot only if it agrees with it at its end (Raft, section 7).
    position = index - first
    agrees = position < len(entries) and entries[position][2] == term
    rest = entries[position + 1 :] if agrees else []
    wanted = [snapshot.previous, snapshot.last, *rest]
    if entries != wanted:
        journal.replace(wanted)
    if journal.getRaftCommitIndex() < index:
        journal.setRaftCommitIndex(index)
    if journal.getCurrentTerm() < term:
        # A snapshot that arrived was on disk before the term that came with it.
        journal.setCurrentTerm(term, None)
    journal.sync()


def describe(snapshot: Snapshot | None) -> Mapping[str, int]:
    """Figures for the log line at start."""
    if snapshot is None:
        return {"snapshot_index": 0, "snapshot_bytes": 0}
    return {"snapshot_index": snapshot.last[1], "snapshot_bytes": len(snapshot.state)}
