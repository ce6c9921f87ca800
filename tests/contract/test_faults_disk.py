"""The disk: crashes, power loss, a full disk, a file that only grows (S2, S3, S9, L3, L9, L10)."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pysyncobj.journal import FileJournal, Journal
from stock_bench import GUARDED, StockBench, bench_for
from sync_bench import GAMMA, Bench
from sync_bench import clock_fixture as clock_fixture

from licraft.errors import DataError
from licraft.replication.journal import DurableJournal


class Killed(BaseException):
    """Where a process is taken to end."""


def open_journal(guarded: bool, directory: Path) -> Journal:
    """A journal of either kind."""
    if guarded:
        return DurableJournal(directory, "pool", "beta")
    return FileJournal(str(directory / "journal"))


def durably(journal: Journal) -> None:
    """Do what is done at the end of a turn: nothing, with PySyncObj's."""
    if isinstance(journal, DurableJournal):
        journal.sync()


# A process that is killed.


@GUARDED
def test_s2_killed_between_dump_and_compaction(tmp_path: Path, guarded: bool) -> None:
    """What is acknowledged while a dump is written belongs to it no more than to the next."""
    bench = bench_for(guarded, tmp_path)
    bench.append((1, 0), *[9] * 10, commit=11)
    bench.turn()
    bench.node.forceLogCompaction()
    bench.turn()  # The dump has its name now; the journal is compacted in the next tick.
    ((_, answer),) = bench.append((11, 9), 9, 9, commit=11)
    assert (answer["success"], answer["next_node_idx"]) == (True, 14)
    if guarded:
        bench.journal.sync()
    again = bench.crash()
    assert again.node._SyncObj__raftLog[-1][1] == (13 if guarded else 11)


@GUARDED
def test_s3_killed_during_compaction(
    tmp_path: Path, guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compaction of 30 entries to 20, killed at each of its writes in turn."""
    left = set()
    for step in range(40):
        directory = tmp_path / str(step)
        directory.mkdir()
        journal = open_journal(guarded, directory)
        for index in range(1, 31):
            journal.add(b"\0x", index, 1)
        durably(journal)
        with monkeypatch.context() as patch:
            fuse = Fuse(step)
            if guarded:
                for name in ("open", "write", "fsync", "fdatasync", "rename", "replace"):
                    patch.setattr(os, name, fuse.before(getattr(os, name)))
            else:
                patch.setattr(FileJournal, "add", fuse.before(FileJournal.add))
            try:
                journal.deleteEntriesTo(10)
                durably(journal)
            except Killed:
                pass
        left.add(len(open_journal(guarded, directory)))
        if fuse.steps_left > 0:
            break
    assert fuse.steps_left > 0
    assert left == ({30, 20} if guarded else set(range(21)))


class Fuse:
    """Lets so many calls pass, and kills at the next."""

    def __init__(self, steps: int) -> None:
        self.steps_left = steps + 1

    def before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def fused(*args: Any, **kwargs: Any) -> Any:
            self.steps_left -= 1
            if self.steps_left <= 0:
                raise Killed
            return call(*args, **kwargs)

        return fused


# A machine that loses its power.


class Platter:
    """What of one directory is on the disk for certain: what was synced, under synced names."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._contents: dict[int, bytes] = {}
        self._names: dict[str, int] = {}
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, self._sync)

    def _sync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self._names = {entry.name: entry.inode() for entry in os.scandir(descriptor)}
        else:
            self._contents[status.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def restore(self, directory: Path) -> None:
        directory.mkdir()
        for name, inode in self._names.items():
            (directory / name).write_bytes(self._contents.get(inode, b""))


@GUARDED
def test_s9_power_loss(tmp_path: Path, guarded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server votes and acknowledges an entry, and its machine loses its power."""
    with monkeypatch.context() as patch:
        platter = Platter(patch)
        bench = bench_for(guarded, tmp_path / "before")
        bench.now += 10.0
        bench.hear(GAMMA, "request_vote", term=7, last_log_index=1, last_log_term=0)
        assert [m["type"] for _, m in bench.wire.take()].count("response_vote") == 1
        ((_, answer),) = bench.append((1, 0), 7, term=7)
        assert answer["success"]
        bench.turn()
    platter.restore(tmp_path / "after")
    again = bench_for(guarded, tmp_path / "after")
    assert again.journal.getCurrentTerm() == (7 if guarded else 0)
    assert again.journal.getVotedForNodeId() == ("gamma" if guarded else None)
    assert again.terms == ([0, 7] if guarded else [0])
    again.hear(GAMMA, "request_vote", term=6, last_log_index=9, last_log_term=6)
    assert bool(again.wire.take()) != guarded  # A vote in a term that it has left already.


# A dump that cannot be read.


@GUARDED
@pytest.mark.parametrize("fault", ["corrupt", "missing"])
def test_l3_a_dump_that_cannot_be_read(tmp_path: Path, guarded: bool, fault: str) -> None:
    bench = bench_for(guarded, tmp_path)
    bench.append((1, 0), *[9] * 10, commit=11)
    bench.turn()
    bench.node.forceLogCompaction()
    for _ in range(3):
        bench.turn()
    assert len(bench.journal) == 2
    dump = tmp_path / ("snapshot" if guarded else "dump")
    if fault == "missing":
        dump.unlink()
    else:
        dump.write_bytes(dump.read_bytes()[:-40])
    if guarded:
        told = "is missing" if fault == "missing" else "bytes long instead of"
        with pytest.raises(DataError, match=f"snapshot.*{told}"):
            bench.crash()
        return
    again = bench.crash()
    again.append((11, 9), 9, commit=12)
    again.turn()
    # Eleven commands are committed. It has none of them, acknowledges, and can lead.
    assert again.machine.applied == []
    again.lead()


# A disk that is full, and a file that only grows.

_FULL_DISK = """
import sys
sys.path.insert(0, sys.argv[1])
from test_faults_disk import fill
fill(sys.argv[2] == "guarded", sys.argv[3])
"""
_MOUNT = 'mount -t tmpfs -o size=256k none "$3" && exec "$0" -c "$4" "$1" "$2" "$3"'


def fill(guarded: bool, directory: str) -> None:
    """Add to a journal until its disk is full, and say how it came."""
    journal = open_journal(guarded, Path(directory))
    acknowledged = 0
    try:
        for index in range(1, 100):
            journal.add(bytes(10_000), index, 1)
            durably(journal)
            acknowledged = index
    except DataError as fault:
        print(f"{acknowledged} acknowledged: {fault}")


@GUARDED
def test_l9_a_full_disk(tmp_path: Path, guarded: bool) -> None:
    """On a file system of 256 KB, which a user namespace may mount."""
    namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    trial = subprocess.run(
        [*namespace, 'mount -t tmpfs none "$0"', str(tmp_path)], capture_output=True, check=False
    )
    if trial.returncode != 0:
        pytest.skip(f"no mount in a user namespace: {trial.stderr.decode()}")
    here, kind = str(Path(__file__).parent), "guarded" if guarded else "bare"
    ended = subprocess.run(
        [*namespace, _MOUNT, sys.executable, here, kind, str(tmp_path), _FULL_DISK],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if guarded:
        assert re.match(r"2\d acknowledged: .*/journal: No space left on device", ended.stdout)
        assert ended.returncode == 0, ended.stderr
    else:
        assert (ended.returncode, ended.stdout) == (-signal.SIGBUS, "")


@GUARDED
def test_l10_a_journal_shrinks(tmp_path: Path, guarded: bool) -> None:
    journal = open_journal(guarded, tmp_path)
    for index in range(1, 101):
        journal.add(bytes(20_000), index, 1)
    durably(journal)
    full = (tmp_path / "journal").stat().st_size
    assert full > 2_000_000
    journal.deleteEntriesTo(98)
    durably(journal)
    assert len(journal) == 2
    left = (tmp_path / "journal").stat().st_size
    assert left < 50_000 if guarded else left == full


def test_l10_offsets_have_32_bits(tmp_path: Path) -> None:
    """Ours stores no offset: a frame has a length, and the file any number of frames."""
    journal = open_journal(False, tmp_path)
    with pytest.raises(struct.error):
        journal._FileJournal__setLastRecordOffset(2**32)


def test_the_bench_without_guards_is_the_library_as_it_comes(tmp_path: Path) -> None:
    bench = bench_for(False, tmp_path)
    assert isinstance(bench, StockBench)
    assert type(bench.node).__module__ == "pysyncobj.syncobj"
    assert type(bench.journal) is FileJournal
    assert type(bench_for(True, tmp_path / "ours")) is Bench
