"""The durable Raft log, term and vote of one server.

May import pysyncobj's Journal interface, the standard library and `errors`. It decides
nothing about Raft: PySyncObj calls it, and the engine calls `sync` once for each turn of
the event loop, before the turn's messages leave and before anything is applied (S9).

The file `journal` is a sequence of frames, each what one `sync` made durable:

    magic 4 | payload length 4 | CRC-32 of payload 4 | CRC-32 of these 12 bytes 4 | payload

and a payload is a sequence of records: an entry (index, term, length, command), term and
vote, a commit index, or a truncation from an index on. At most the last frame can be
incomplete after a crash, since the next is written only after it was synced: an
incomplete last frame was never acknowledged and is cut, damage anywhere else is an error.
Nothing in the file is ever overwritten: compaction writes a new file aside, syncs it,
renames it and syncs the directory (S3).
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import overload

from pysyncobj.journal import Journal

from licraft.errors import DataError, InvariantBroken
from licraft.replication.files import data_error, replace_file, sync_directory, write_all
from licraft.replication.messages import Entry

log = logging.getLogger(__name__)

JOURNAL_NAME = "journal"
FORMAT_VERSION = 1

_MAGIC = b"\xa5LJ1"
_FRAME = struct.Struct(">4sIII")
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

    def __init__(self, directory: Path, pool: str, server: str) -> None:
        """Open or create the journal of `server` in `directory`; raises DataError."""
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
        try:
            self.path.with_name(self.path.name + ".new").unlink(missing_ok=True)
            if self.path.exists():
                self._read()
                self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
                # An earlier process may have been killed between its write and its fsync.
                os.fdatasync(self._file)
            else:
                self._replace(self._records(), [])
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
            work = partial(self._replace, self._records(), self._entries[:])
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
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
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
        write_all(self._file, _frame(records))
        os.fdatasync(self._file)

    def _replace(self, around: tuple[bytes, bytes], entries: list[Entry]) -> None:
        """Write a whole log into a new file in the old one's place."""
        # What lets the log shrink is a snapshot in the same directory: its new name has to
        # be durable before the entries that it covers are gone (S2).
        sync_directory(self.path.parent)
        records = b"".join(_entry_record(*entry) for entry in entries)
        replace_file(self.path, _frame(around[0] + records + around[1]))
        if self._file >= 0:
            os.close(self._file)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    def _read(self) -> None:
        """Read the file into memory, cutting an incomplete last frame."""
        content = self.path.read_bytes()
        offset = 0
        for start, end in _frames(content):
            self._apply_records(content, start, end)
            offset = end
        if offset == 0:
            # The first frame is in place before the file gets its name: it is never torn.
            raise DataError(f"{self.path}: damaged at offset 0: {_RESTORE}")
        if offset < len(content):
            self._cut(content, offset)
        last = self._entries[-1][1] if self._entries else 1
        self._commit = self._commit_written = min(self._commit, last)

    def _cut(self, content: bytes, offset: int) -> None:
        """Cut what follows `offset`, unless a whole frame follows: then it is damage."""
        position = content.find(_MAGIC, offset + 1)
        while position >= 0:
            if next(_frames(content, position), None) is not None:
                raise DataError(f"{self.path}: damaged at offset {offset}: {_RESTORE}")
            position = content.find(_MAGIC, position + 1)
        log.warning(
            "%s: cut an incomplete write of %d bytes at offset %d (the server stopped while "
            "writing; nothing of it was acknowledged)",
            self.path,
            len(content) - offset,
            offset,
        )
        descriptor = os.open(self.path, os.O_WRONLY)
        try:
            os.ftruncate(descriptor, offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

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


_RESTORE = "move the data_dir away and let the server rejoin the pool as a new member"


def _frames(content: bytes, offset: int = 0) -> Iterator[tuple[int, int]]:
    """Start and end of the payloads of the whole frames from `offset` on, up to the first bad."""
    while offset + _FRAME.size <= len(content):
        magic, length, checksum, head_checksum = _FRAME.unpack_from(content, offset)
        start = offset + _FRAME.size
        if (
            magic != _MAGIC
            or head_checksum != zlib.crc32(content[offset : start - 4])
            or start + length > len(content)
            or checksum != zlib.crc32(memoryview(content)[start : start + length])
        ):
            return
        offset = start + length
        yield start, offset


def _frame(payload: bytes) -> bytes:
    """A payload with its lengths and checksums before it."""
    head = struct.pack(">4sII", _MAGIC, len(payload), zlib.crc32(payload))
    return head + struct.pack(">I", zlib.crc32(head)) + payload


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
