"""The journal: what was synced is there after any crash, and damage is never silent."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from licraft.errors import DataError, InvariantBroken
from licraft.replication.files import DirectoryLock
from licraft.replication.journal import DurableJournal, _frame
from licraft.replication.messages import Entry
from licraft.replication.snapshot import Snapshot, SnapshotStore, encode, reconcile
from licraft.testing.disk import Fault, MemoryDisk, PowerCut


def open_journal(directory: Path, server: str = "alpha") -> DurableJournal:
    return DurableJournal(directory, "pool", server)


def filled(directory: Path, count: int = 5) -> DurableJournal:
    journal = open_journal(directory)
    for index in range(1, count + 1):
        journal.add(b"\0command %d" % index, index, 1)
    journal.sync()
    return journal


def content(journal: DurableJournal) -> tuple[list[Entry], int, str | None]:
    return journal[:], journal.getCurrentTerm(), journal.getVotedForNodeId()


def test_what_was_synced_is_there_again(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    journal.setCurrentTerm(7, "beta")
    journal.setRaftCommitIndex(4)
    journal.sync()
    before = content(journal)
    journal.abandon()
    again = open_journal(tmp_path)
    assert content(again) == before
    assert again.getRaftCommitIndex() == 4


def test_what_was_not_synced_is_not(tmp_path: Path) -> None:
    journal = filled(tmp_path, 3)
    journal.add(b"\0late", 4, 1)
    journal.setCurrentTerm(9, None)
    journal.abandon()
    again = open_journal(tmp_path)
    assert len(again) == 3
    assert again.getCurrentTerm() == 0


def test_one_sync_for_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = filled(tmp_path, 2)
    calls: list[int] = []
    monkeypatch.setattr(os, "fdatasync", calls.append)
    for index in range(3, 103):
        journal.add(b"\0x", index, 1)
    journal.sync()
    journal.sync()
    assert len(calls) == 1
    assert not journal.dirty


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.IO_ERROR])
def test_what_was_read_is_written_again_before_it_is_believed(fault: Fault) -> None:
    # After a kill between write and fsync, or a failed fsync, the system still shows in its
    # memory what is not on the disk, and another fsync of that file may change nothing.
    folder = Path("/data")
    for seed in range(20):
        disk = MemoryDisk(random.Random(seed))
        journal = DurableJournal(folder, "pool", "alpha", disk)
        journal.add(b"\0x", 1, 1)
        disk.on_step = lambda step: fault if step.call == "sync_data" else None
        with pytest.raises((PowerCut, DataError)):
            journal.sync()
        disk.on_step = None
        disk.crash()
        again = DurableJournal(folder, "pool", "alpha", disk)
        assert again.durable_end == 1
        disk.lose_power()
        assert content(DurableJournal(folder, "pool", "alpha", disk)) == content(again)


def test_one_sync_at_a_time(tmp_path: Path) -> None:
    journal = filled(tmp_path, 2)
    journal.add(b"\0x", 3, 1)
    assert journal.begin_sync() is not None
    with pytest.raises(InvariantBroken):
        journal.begin_sync()
    assert journal.durable_end == 2


def test_a_conflict_truncates_durably(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    journal.deleteEntriesFrom(2)
    journal.add(b"\0other", 3, 2)
    journal.sync()
    journal.abandon()
    again = open_journal(tmp_path)
    assert [(entry[1], entry[2]) for entry in again[:]] == [(1, 1), (2, 1), (3, 2)]
    assert again.log_bytes == sum(len(entry[0]) for entry in again[:])


def test_compaction_keeps_the_rest(tmp_path: Path) -> None:
    journal = filled(tmp_path, 50)
    size = journal.path.stat().st_size
    journal.deleteEntriesTo(47)
    journal.sync()
    assert journal.path.stat().st_size < size
    journal.add(b"\0after", 51, 1)
    journal.sync()
    journal.abandon()
    assert [entry[1] for entry in open_journal(tmp_path)[:]] == [48, 49, 50, 51]


def test_compaction_interrupted_before_the_rename_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = filled(tmp_path)
    before = content(journal)

    def crash(source: object, target: object) -> None:
        raise OSError(errno.EIO, "crash")

    monkeypatch.setattr(os, "rename", crash)
    journal.deleteEntriesTo(2)
    with pytest.raises(DataError):
        journal.sync()
    journal.abandon()
    monkeypatch.undo()
    assert content(open_journal(tmp_path)) == before


def test_the_log_is_never_emptied(tmp_path: Path) -> None:
    journal = filled(tmp_path, 3)
    for position in (2, 3, 4, -1):
        with pytest.raises(InvariantBroken):
            journal.deleteEntriesTo(position)
    for position in (0, 3, -1):
        with pytest.raises(InvariantBroken):
            journal.deleteEntriesFrom(position)
    with pytest.raises(InvariantBroken):
        journal.add(b"\0gap", 5, 1)


def test_a_torn_tail_is_cut_at_every_byte(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = filled(tmp_path, 3)
    synced, size = content(journal), journal.path.stat().st_size
    journal.add(b"\0torn", 4, 1)
    journal.add(b"\0torn too", 5, 1)
    journal.sync()
    journal.abandon()
    whole = journal.path.read_bytes()
    for cut in range(size + 1, len(whole)):
        journal.path.write_bytes(whole[:cut])
        caplog.clear()
        again = open_journal(tmp_path)
        assert content(again) == synced
        assert "incomplete write" in caplog.text
        again.add(b"\0next", 4, 2)
        again.sync()
        again.abandon()
        assert len(open_journal(tmp_path)) == 4


def test_a_tail_of_zeros_is_cut(tmp_path: Path) -> None:
    # After a power loss the size of a file may have grown before its blocks were written.
    journal = filled(tmp_path, 3)
    synced = content(journal)
    journal.abandon()
    journal.path.write_bytes(journal.path.read_bytes() + bytes(4096))
    assert content(open_journal(tmp_path)) == synced


def test_damage_before_the_last_write_is_an_error_naming_file_and_offset(tmp_path: Path) -> None:
    journal = filled(tmp_path, 3)
    last = journal.path.stat().st_size
    journal.add(b"\0last", 4, 1)
    journal.sync()
    journal.abandon()
    whole = journal.path.read_bytes()
    for position in range(last):
        damaged = bytearray(whole)
        damaged[position] ^= 0x40
        journal.path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"journal: damaged at offset \d+"):
            open_journal(tmp_path)


def test_frames_are_checked_by_crc32c() -> None:
    # The check value that every catalogue of CRCs gives for CRC-32C (iSCSI, RFC 3720).
    assert _frame(b"123456789", 0)[8:12].hex() == "e3069283"


def test_a_frame_within_a_command_is_not_taken_for_one(tmp_path: Path) -> None:
    journal = filled(tmp_path, 3)
    synced, size = content(journal), journal.path.stat().st_size
    bait = _frame(b"", 0) + b"".join(_frame(b"", size + offset) for offset in range(3))
    journal.add(b"\0" + bait, 4, 1)
    journal.sync()
    journal.abandon()
    whole = journal.path.read_bytes()
    torn = whole[:size] + bytes(16) + whole[size + 16 : -1]
    journal.path.write_bytes(torn)
    assert content(open_journal(tmp_path)) == synced


def test_a_frame_in_another_place_is_damage(tmp_path: Path) -> None:
    journal = filled(tmp_path, 3)
    size = journal.path.stat().st_size
    for index in (4, 5):
        journal.add(b"\0same", index, 1)
        journal.sync()
    journal.abandon()
    whole = journal.path.read_bytes()
    half = (len(whole) - size) // 2
    journal.path.write_bytes(whole[:size] + whole[size + half :] + whole[size + half :])
    with pytest.raises(DataError, match=f"damaged at offset {size}"):
        open_journal(tmp_path)


def test_an_empty_file_is_damage(tmp_path: Path) -> None:
    filled(tmp_path).abandon()
    (tmp_path / "journal").write_bytes(b"")
    with pytest.raises(DataError, match="damaged at offset 0"):
        open_journal(tmp_path)


def test_the_journal_of_another_server_is_refused(tmp_path: Path) -> None:
    filled(tmp_path).abandon()
    with pytest.raises(DataError, match="belongs to server alpha"):
        open_journal(tmp_path, "beta")


@pytest.mark.parametrize("call", ["write", "fdatasync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failed_sync_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    journal = filled(tmp_path)

    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    journal.add(b"\0lost", 6, 1)
    with pytest.raises(DataError, match=os.strerror(code)):
        journal.sync()
    monkeypatch.undo()
    with pytest.raises(DataError, match=os.strerror(code)):
        journal.sync()


def test_an_unreadable_directory_is_named(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("not a directory")
    with pytest.raises(DataError, match="file"):
        DirectoryLock(target)


def test_new_directories_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []

    def record(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "fsync", record)
    DirectoryLock(tmp_path / "data" / "alpha").release()
    assert synced == [tmp_path.parent, tmp_path, tmp_path / "data"]
    assert (tmp_path / "data" / "alpha").stat().st_mode & 0o777 == 0o700
    # An earlier process may have been killed before it synced what it had created.
    DirectoryLock(tmp_path / "data" / "alpha").release()
    assert synced[3:] == [tmp_path / "data"]


def test_a_directory_has_one_server(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    with pytest.raises(DataError, match=rf"process {os.getpid()}\b"):
        DirectoryLock(tmp_path)
    lock.release()
    DirectoryLock(tmp_path).release()


operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.binary(max_size=30)),
        st.tuples(st.just("cut"), st.integers(1, 5)),
        st.tuples(st.just("compact"), st.integers(0, 5)),
        st.tuples(st.just("vote"), st.sampled_from([None, "beta"])),
        st.tuples(st.just("sync"), st.none()),
        st.tuples(st.just("begin"), st.none()),
        st.tuples(st.just("end"), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=operations)
def test_a_crash_leaves_what_was_synced_last(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]]
) -> None:
    journal = filled(tmp_path_factory.mktemp("journal"), 2)
    synced, term = content(journal), 1
    underway = False
    for step, value in steps:
        if underway and step in ("sync", "begin"):
            continue
        if step == "add":
            assert isinstance(value, bytes)
            journal.add(b"\0" + value, journal[-1][1] + 1, term)
        elif step == "cut":
            assert isinstance(value, int)
            if value < len(journal):
                journal.deleteEntriesFrom(len(journal) - value)
        elif step == "compact":
            assert isinstance(value, int)
            if value <= len(journal) - 2:
                journal.deleteEntriesTo(value)
        elif step == "vote":
            assert value is None or isinstance(value, str)
            term += 1
            journal.setCurrentTerm(term, value)
        elif step == "end":
            if underway:
                journal.end_sync(None)
            underway = False
        elif step == "begin":
            work = journal.begin_sync()
            underway = work is not None
            if work is not None:
                synced = content(journal)
                work()
        else:
            journal.sync()
            synced = content(journal)
        on_disk = {entry[1]: entry for entry in synced[0]}
        durable = [entry for entry in journal[:] if entry[1] <= journal.durable_end]
        assert durable == [on_disk[entry[1]] for entry in durable]
        assert underway or journal.dirty or journal.durable_end == journal[-1][1]
    journal.abandon()
    assert content(open_journal(journal.path.parent)) == synced


def snapshot_at(index: int, term: int = 1) -> Snapshot:
    previous = (b"\0command %d" % (index - 1), index - 1, term)
    return Snapshot("pool", ("alpha",), (b"\0command %d" % index, index, term), previous, b"state")


def stored(directory: Path, snapshot: Snapshot) -> SnapshotStore:
    (directory / "snapshot").write_bytes(encode(snapshot))
    return SnapshotStore(directory, "pool", ["alpha"])


def test_a_crash_between_snapshot_and_compaction_loses_nothing(tmp_path: Path) -> None:
    journal = filled(tmp_path, 9)
    reconcile(journal, stored(tmp_path, snapshot_at(6)).current)
    journal.abandon()
    again = open_journal(tmp_path)
    assert [entry[1] for entry in again[:]] == [5, 6, 7, 8, 9]
    assert again.getRaftCommitIndex() == 6


def test_a_snapshot_that_contradicts_the_log_replaces_it(tmp_path: Path) -> None:
    journal = filled(tmp_path, 9)
    reconcile(journal, stored(tmp_path, snapshot_at(6, term=2)).current)
    assert [(entry[1], entry[2]) for entry in journal[:]] == [(5, 2), (6, 2)]


def test_a_snapshot_beyond_the_log_replaces_it(tmp_path: Path) -> None:
    journal = filled(tmp_path, 3)
    reconcile(journal, stored(tmp_path, snapshot_at(6)).current)
    assert [entry[1] for entry in journal[:]] == [5, 6]


@pytest.mark.parametrize("index", [None, 6])
def test_a_log_without_its_snapshot_is_refused(tmp_path: Path, index: int | None) -> None:
    journal = filled(tmp_path, 20)
    journal.deleteEntriesTo(15)
    journal.sync()
    snapshot = None if index is None else snapshot_at(index)
    with pytest.raises(DataError, match="starts at entry 16"):
        reconcile(journal, snapshot)


def test_a_snapshot_without_its_log_is_refused(tmp_path: Path) -> None:
    journal = filled(tmp_path, 9)
    journal.setCurrentTerm(3, "beta")
    journal.sync()
    journal.abandon()
    journal.path.unlink()
    for _ in range(2):  # The first start makes an empty journal.
        with pytest.raises(DataError, match=r"journal: empty, .* ends at 6"):
            reconcile(open_journal(tmp_path), stored(tmp_path, snapshot_at(6)).current)


def test_the_term_is_never_below_that_of_the_log(tmp_path: Path) -> None:
    journal = filled(tmp_path, 3)
    reconcile(journal, stored(tmp_path, snapshot_at(6, term=4)).current)
    journal.abandon()
    assert content(open_journal(tmp_path))[1:] == (4, None)
