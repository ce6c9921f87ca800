"""The durable Raft log, term and vote of one server.

May import pysyncobj's Journal interface, crc32c, the standard library, this room's disk and
`errors`. It decides nothing about Raft: PySyncObj calls it, and the engine calls `sync`
once for each turn of the event loop, before the turn's messages leave and before anything
is applied (S9).

The file `journal` is a sequence of frames, each what one `sync` made durable:

    magic 4 | payload length 4 | CRC-32C of payload 4 | CRC-32C of head 4 | payload

where the head is these first 12 bytes and the frame's own offset in 8, so that nothing
within a payload, whoever wrote it, can pass for a frame. A payload is a sequence of
records: an entry (index, term, length, command), term and vote, a commit index, or a
truncation from an index on. At most the last frame can be incomplete after a crash, since
the next is written only after it was synced: an incomplete last frame was never
acknowledged and is cut, damage anywhere else is an error.

Nothing in the file is ever overwritten: compaction writes a new file aside, syncs it,
renames it and syncs the directory (S3). So does every start, with what it has read: a read
does not tell whether the bytes are on the disk or, since an earlier process was killed
before its fsync or its fsync failed, only in the system's memory.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import overload

from crc32c import crc32c
from pysyncobj.journal import Journal

from licraft.errors import DataError, InvariantBroken
from licraft.replication.files import (
    SYSTEM_DISK,
    Disk,
    data_error,
    read_or_none,
    replace_file,
    write_all,
)
from licraft.replication.messages import Entry

log = logging.getLogger(__name__)

JOURNAL_NAME = "journal"
FORMAT_VERSION = 1

_MAGIC = b"\xa5LJ1"
_FRAME = struct.Struct(">4sIII")
_HEAD = struct.Struct(">4sIIQ")
_IDENTITY, _ENTRY, _TERM, _COMMIT, _TRUNCATE = b"I", b"E", b"T", b"C", b"X"
_ENTRY_HEAD = struct.Struct(">cQQI")
_TERM_HEAD = struct.Struct(">cQH")
_NUMBER = struct.Struct(">cQ")
_IDENTITY_HEAD = struct.Struct(">cHHH")


class DurableJournal(Journal):  # type: ignore[misc]  # PySyncObj has no types
    """A log in memory and, up to the last `sync`, on disk.

    Entries are `(type byte + command, index, term)`; indices have no gap. A sync has two
    ends, `begin_sync` and `end_sync`, so that the disk's part may be done in another
    thread while the log goes on in memory. `DataError` of a sync is final: after a failed
    write or fsync nobody knows what is on the disk, so every later call fails too and
    nothing is acknowledged any more.
    """

    def __init__(self, directory: Path, pool: str, server: str, disk: Disk = SYSTEM_DISK) -> None:
        """Open or create the journal of `server` in `directory`; raises DataError.

        What it holds then is durable.
        """
        self._disk = disk
        self.path = directory / JOURNAL_NAME
        self._identity = _identity(pool, server)
        self._owner = f"server {server} of pool {pool}"
        self._entries: list[Entry] = []
        self._bytes = 0
        self._term = 0
        self._vote: str | None = None
        self._commit = 1
        self._commit_written = 1
        self._pending: list[bytes] = []
        self._rewrite = False
        self._durable_end = 0
        self._syncing_end: int | None = None
        self._broken: DataError | None = None
        self._file = -1
        self._size = 0
        try:
            content = read_or_none(disk, self.path)
            if content is None:
                content = _whole_log(self._records(), [])
            else:
                content = content[: self._read(content)]
            # This makes the directory's names durable too: a snapshot's whose process ended
            # between its rename and its sync has to be, before the log shrinks to it (S2).
            self._replace(content)
        except OSError as fault:
            raise data_error(self.path, fault) from fault
        self._durable_end = self._end

    # What the engine uses.

    @property
    def log_bytes(self) -> int:
        """Bytes of all commands in the log."""
        return self._bytes

    @property
    def dirty(self) -> bool:
        """Whether something has to be durable that is not yet."""
        return self._rewrite or bool(self._pending)

    @property
    def durable_end(self) -> int:
        """The index of the last entry that is on disk and was not truncated since; 0 for none."""
        return self._durable_end

    def sync(self) -> None:
        """Make everything said so far durable: one write and one fdatasync, if there is need."""
        work = self.begin_sync()
        if work is None:
            return
        fault: OSError | None = None
        try:
            work()
        except OSError as error:
            fault = error
        self.end_sync(fault)

    def begin_sync(self) -> Callable[[], None] | None:
        """What a sync of everything said so far has to do on disk, or None if nothing.

        It may run in any thread, one at a time, and may raise OSError; `end_sync` is called
        with its outcome before the next sync begins and before the journal is closed.
        """
        if self._broken is not None:
            raise self._broken
        if self._syncing_end is not None:
            raise InvariantBroken("a sync begins before the last has ended")
        if not self.dirty:
            return None
        work: Callable[[], None]
        if self._rewrite:
            work = partial(self._rewrite_log, self._records(), self._entries[:])
        else:
            self._note_commit()
            work = partial(self._append, b"".join(self._pending))
        self._pending.clear()
        self._rewrite = False
        self._syncing_end = self._end
        return work

    def end_sync(self, fault: OSError | None) -> None:
        """The sync that was begun is done, or has failed: then raises DataError."""
        durable_end, self._syncing_end = self._syncing_end, None
        if fault is not None:
            self._broken = data_error(self.path, fault)
            raise self._broken from fault
        if durable_end is not None:
            self._durable_end = durable_end

    def replace(self, entries: Iterable[Entry]) -> None:
        """Make `entries` the whole log, from the next `sync` on also on disk."""
        self.clear()
        for entry in entries:
            self.add(*entry)

    # What PySyncObj uses (pysyncobj.journal.Journal).

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry, which must follow the last one."""
        if self._entries and idx != self._entries[-1][1] + 1:
            raise InvariantBroken(f"log entry {idx} cannot follow {self._entries[-1][1]}")
        self._entries.append((command, idx, term))
        self._bytes += len(command)
        if not self._rewrite:
            self._pending.append(_entry_record(command, idx, term))

    def clear(self) -> None:
        """Forget the log: what is added next replaces it at once on the next `sync`."""
        self._entries = []
        self._bytes = 0
        self._rewrite = True
        self._pending.clear()
        self._lower_durable_end(0)

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Truncate from the entry at position `entryFrom` on (a conflict with the leader)."""
        if not 0 < entryFrom < len(self._entries):
            raise InvariantBroken(f"cannot cut {len(self._entries)} log entries at {entryFrom}")
        self._bytes -= sum(len(entry[0]) for entry in self._entries[entryFrom:])
        index = self._entries[entryFrom][1]
        if not self._rewrite:
            self._pending.append(_NUMBER.pack(_TRUNCATE, index))
        del self._entries[entryFrom:]
        self._lower_durable_end(index - 1)

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Forget the entries before position `entryTo`; two at least stay (L1)."""
        if not 0 <= entryTo <= len(self._entries) - 2:
            raise InvariantBroken(f"cannot compact {len(self._entries)} log entries to {entryTo}")
        self._bytes -= sum(len(entry[0]) for entry in self._entries[:entryTo])
        del self._entries[:entryTo]
        self._rewrite = True
        self._pending.clear()

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        """The entry or entries at a position, not at an index."""
        return self._entries[item]

    def __len__(self) -> int:
        """How many entries the log holds."""
        return len(self._entries)

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Remember the commit index; it is written with the next thing that must be durable."""
        self._commit = raftCommitIndex

    def getRaftCommitIndex(self) -> int:
        """The commit index, at least as old as the last `sync`."""
        return self._commit

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Set term and vote together, durable with the next `sync` (Raft, figure 2)."""
        self._term, self._vote = term, votedForNodeId
        if not self._rewrite:
            self._pending.append(_term_record(term, votedForNodeId))

    def getCurrentTerm(self) -> int:
        """The Raft term."""
        return self._term

    def getVotedForNodeId(self) -> str | None:
        """Whom this server voted for in its term."""
        return self._vote

    def onOneSecondTimer(self) -> None:
        """Write the commit index if nothing else made it durable for a second."""
        if not self._rewrite:
            self._note_commit()

    def _destroy(self) -> None:
        """Sync and close; a journal that already failed is only closed."""
        if self._file < 0:
            return
        try:
            if self._broken is None:
                self.sync()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close without syncing, as a crash would."""
        self._close()
        self._broken = self._broken or DataError(f"{self.path}: the journal is closed")

    # Files.

    def _note_commit(self) -> None:
        """Add the commit index to what is pending, if it is news."""
        if self._commit != self._commit_written:
            self._pending.append(_NUMBER.pack(_COMMIT, self._commit))
            self._commit_written = self._commit

    @property
    def _end(self) -> int:
        """The index of the last entry; 0 for none."""
        return self._entries[-1][1] if self._entries else 0

    def _lower_durable_end(self, index: int) -> None:
        """Entries after `index` are no longer those that are, or will be, on disk."""
        self._durable_end = min(self._durable_end, index)
        if self._syncing_end is not None:
            self._syncing_end = min(self._syncing_end, index)

    def _records(self) -> tuple[bytes, bytes]:
        """What a whole file has before and after its entries."""
        self._commit_written = self._commit
        head = self._identity + _term_record(self._term, self._vote)
        return head, _NUMBER.pack(_COMMIT, self._commit)

    def _append(self, records: bytes) -> None:
        """Add a frame to the file."""
        frame = _frame(records, self._size)
        write_all(self._disk, self._file, frame)
        self._disk.sync_data(self._file)
        self._size += len(frame)

    def _rewrite_log(self, around: tuple[bytes, bytes], entries: list[Entry]) -> None:
        """Write a whole log into a new file in the old one's place."""
        self._replace(_whole_log(around, entries))

    def _replace(self, content: bytes) -> None:
        """Put a new file in the old one's place, and go on in it."""
        replace_file(self._disk, self.path, content)
        self._close()
        self._file = self._disk.append_to(self.path)
        self._size = len(content)

    def _close(self) -> None:
        """Close the file, if it is open."""
        if self._file >= 0:
            self._disk.close(self._file)
            self._file = -1

    def _read(self, content: bytes) -> int:
        """Take the file's content into memory; returns where an incomplete last frame begins."""
        offset = 0
        for start, end in _frames(content):
            self._apply_records(content, start, end)
            offset = end
        if offset == 0:
            # The first frame is in place before the file gets its name: it is never torn.
            raise DataError(f"{self.path}: damaged at offset 0: {RESTORE}")
        if offset < len(content):
            self._check_cut(content, offset)
        last = self._entries[-1][1] if self._entries else 1
        self._commit = self._commit_written = min(self._commit, last)
        return offset

    def _check_cut(self, content: bytes, offset: int) -> None:
        """Say that what follows `offset` is cut; if a whole frame follows it is damage."""
        position = content.find(_MAGIC, offset + 1)
        while position >= 0:
            if next(_frames(content, position), None) is not None:
                raise DataError(f"{self.path}: damaged at offset {offset}: {RESTORE}")
            position = content.find(_MAGIC, position + 1)
        log.warning(
            "%s: cut an incomplete write of %d bytes at offset %d (the server stopped while "
            "writing; nothing of it was acknowledged)",
            self.path,
            len(content) - offset,
            offset,
        )

    def _apply_records(self, content: bytes, start: int, end: int) -> None:
        """Replay one frame's records into memory."""
        offset = start
        while offset < end:
            kind = content[offset : offset + 1]
            if kind == _ENTRY:
                _, index, term, length = _ENTRY_HEAD.unpack_from(content, offset)
                offset += _ENTRY_HEAD.size
                if self._entries and index != self._entries[-1][1] + 1:
                    raise self._contradiction(start, f"entry {index} is out of order")
                self._entries.append((content[offset : offset + length], index, term))
                self._bytes += length
                offset += length
            elif kind == _TERM:
                _, self._term, length = _TERM_HEAD.unpack_from(content, offset)
                offset += _TERM_HEAD.size
                self._vote = content[offset : offset + length].decode() or None
                offset += length
            elif kind == _COMMIT:
                self._commit = _NUMBER.unpack_from(content, offset)[1]
                offset += _NUMBER.size
            elif kind == _TRUNCATE:
                self._replay_truncation(start, _NUMBER.unpack_from(content, offset)[1])
                offset += _NUMBER.size
            elif kind == _IDENTITY:
                offset = self._check_identity(content, offset)
            else:
                raise self._contradiction(start, f"unknown record {kind!r}")

    def _replay_truncation(self, frame: int, index: int) -> None:
        """Drop the entries from `index` on."""
        position = index - self._entries[0][1] if self._entries else 0
        if not 0 < position < len(self._entries):
            raise self._contradiction(frame, f"truncation at {index} is out of range")
        self._bytes -= sum(len(entry[0]) for entry in self._entries[position:])
        del self._entries[position:]

    def _check_identity(self, content: bytes, offset: int) -> int:
        """Refuse another version's or another server's journal; returns where it ends."""
        _, version, pool_size, server_size = _IDENTITY_HEAD.unpack_from(content, offset)
        start: int = offset + _IDENTITY_HEAD.size
        end: int = start + pool_size + server_size
        if version != FORMAT_VERSION:
            raise DataError(f"{self.path}: format {version}, this licraft reads {FORMAT_VERSION}")
        if content[offset:end] != self._identity:
            pool = content[start : start + pool_size].decode()
            server = content[start + pool_size : end].decode()
            raise DataError(
                f"{self.path}: belongs to server {server} of pool {pool}, not to {self._owner}: "
                "two servers must never share or copy a data_dir"
            )
        return end

    def _contradiction(self, frame: int, what: str) -> DataError:
        """A frame whose checksum is right and whose content is not."""
        return DataError(f"{self.path}: damaged at offset {frame - _FRAME.size}: {what}")


RESTORE = (
    "remove this server from the pool, and add it under another name, with an empty data_dir "
    "(`licraft server remove`, `licraft server add`)"
)


def _frames(content: bytes, offset: int = 0) -> Iterator[tuple[int, int]]:
    """Start and end of the payloads of the whole frames from `offset` on, up to the first bad."""
    while offset + _FRAME.size <= len(content):
        magic, length, checksum, head_checksum = _FRAME.unpack_from(content, offset)
        start = offset + _FRAME.size
        if (
            magic != _MAGIC
            or head_checksum != crc32c(_HEAD.pack(magic, length, checksum, offset))
            or start + length > len(content)
            or checksum != crc32c(memoryview(content)[start : start + length])
        ):
            return
        offset = start + length
        yield start, offset


def _frame(payload: bytes, offset: int) -> bytes:
    """A payload with its lengths and checksums before it, as it stands at `offset`."""
    checksum = crc32c(payload)
    head_checksum = crc32c(_HEAD.pack(_MAGIC, len(payload), checksum, offset))
    return _FRAME.pack(_MAGIC, len(payload), checksum, head_checksum) + payload


def _whole_log(around: tuple[bytes, bytes], entries: list[Entry]) -> bytes:
    """A file that holds these entries, with other records before and after them."""
    return _frame(b"".join((around[0], *(_entry_record(*e) for e in entries), around[1])), 0)


def _entry_record(command: bytes, index: int, term: int) -> bytes:
    """The record of a log entry."""
    return _ENTRY_HEAD.pack(_ENTRY, index, term, len(command)) + command


def _term_record(term: int, vote: str | None) -> bytes:
    """The record of a term and a vote (no vote: no name)."""
    name = (vote or "").encode()
    return _TERM_HEAD.pack(_TERM, term, len(name)) + name


def _identity(pool: str, server: str) -> bytes:
    """The record that says whose journal this is, and in which format."""
    names = pool.encode(), server.encode()
    return _IDENTITY_HEAD.pack(_IDENTITY, FORMAT_VERSION, *map(len, names)) + b"".join(names)
