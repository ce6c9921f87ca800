"""The audit on disk: what is applied is appended, once, through restarts, gaps and full disks."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from licraft.core.audit import FIRST, AuditRecord, AuditTail, Gap, chain_faults, read_line
from licraft.server import audit_log
from licraft.server.audit_log import AuditLog, audit_files

NAME = "audit.log"


def tail(count: int, kept: int = 256, who: str = "admin") -> AuditTail:
    """The end of a chain of so many records."""
    records: list[AuditRecord] = []
    previous = FIRST
    for n in range(1, count + 1):
        record = AuditRecord(n, n, "t", who, "w", "what", "b", "a", "done", previous)
        previous = record.sha256
        records.append(record)
    return AuditTail(count, previous, tuple(records[-kept:]))


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())


def written(folder: Path) -> list[AuditRecord | Gap]:
    return [
        read_line(line)
        for path in audit_files(folder / NAME)
        for line in path.read_text().splitlines()
    ]


def numbers(folder: Path) -> list[int]:
    return [line.number for line in written(folder) if isinstance(line, AuditRecord)]


async def follow(log: AuditLog, *tails: AuditTail) -> None:
    for each in tails:
        log.follow(each)
    await log.close()


def test_each_record_is_written_once_in_order_for_its_owner_alone(tmp_path: Path) -> None:
    async def program() -> None:
        log = AuditLog(tmp_path / NAME)
        await follow(log, *(tail(n) for n in range(12)), tail(11))
        await follow(log, tail(14))
        assert log.trouble == []

    run(program)
    assert numbers(tmp_path) == list(range(1, 15))
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


def test_a_restart_continues_and_fills_what_a_crash_kept_from_the_file(tmp_path: Path) -> None:
    async def program() -> None:
        await follow(AuditLog(tmp_path / NAME), tail(5))
        path = tmp_path / NAME
        path.write_bytes(path.read_bytes()[:-20])  # the writing of the last line was cut off
        log = AuditLog(path)
        # The log is replayed from its beginning, then goes on.
        await follow(log, *(tail(n) for n in range(8)))
        assert log.trouble == []

    run(program)
    assert numbers(tmp_path) == [1, 2, 3, 4, 5, 6, 7]
    assert list(chain_faults(r for r in written(tmp_path) if isinstance(r, AuditRecord))) == []


def test_a_server_that_was_away_for_longer_notes_the_gap(tmp_path: Path) -> None:
    async def program() -> None:
        await follow(AuditLog(tmp_path / NAME), tail(5))
        await follow(AuditLog(tmp_path / NAME), tail(20, kept=4))

    run(program)
    assert written(tmp_path)[5] == Gap(6, 16)
    assert numbers(tmp_path) == [1, 2, 3, 4, 5, 17, 18, 19, 20]


def test_files_are_rotated_and_their_number_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "OLD_FILES", 3)

    async def program() -> None:
        log = AuditLog(tmp_path / NAME, max_bytes=1_000)
        for n in range(1, 41):
            await follow(log, tail(n))
        assert log.trouble == []
        again = AuditLog(tmp_path / NAME, max_bytes=1_000)
        await follow(again, tail(41))

    run(program)
    assert len(list(tmp_path.iterdir())) == 4
    found = numbers(tmp_path)
    assert found == list(range(found[0], 42))
    assert found[0] > 1


def test_a_file_that_was_altered_at_its_end_is_reported(tmp_path: Path) -> None:
    async def program() -> None:
        path = tmp_path / NAME
        await follow(AuditLog(path), tail(3))
        lines = path.read_text().splitlines()
        forged = [*lines[:-1], lines[-1].replace("admin", "nobody")]
        path.write_text("".join(f"{line}\n" for line in forged))
        log = AuditLog(path)
        assert ["damaged near its end" in line for line in log.trouble] == [True]
        await follow(log, tail(3))
        assert numbers_of(path) == [1, 2, 3]  # the true record follows the forged one

    def numbers_of(path: Path) -> list[int]:
        lines = path.read_text().splitlines()
        reads = [read_line(line) for line in (*lines[:2], lines[3])]
        return [read.number for read in reads if isinstance(read, AuditRecord)]

    run(program)


@pytest.mark.parametrize("next_record", [False, True])
def test_another_pools_file_is_reported(tmp_path: Path, next_record: bool) -> None:
    async def program() -> None:
        await follow(AuditLog(tmp_path / NAME), tail(3, who="admin of another pool"))
        log = AuditLog(tmp_path / NAME)
        await follow(log, tail(4 if next_record else 3))
        assert ["is not the pool's" in line for line in log.trouble] == [True]

    run(program)


def test_a_full_disk_is_reported_and_what_is_missing_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def program() -> None:
        log = AuditLog(tmp_path / NAME)
        await follow(log, tail(1))
        full = True
        write = os.write

        def refuse(file: int, data: bytes) -> int:
            if full:
                write(file, data[:10])
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(file, data)

        monkeypatch.setattr(os, "write", refuse)
        await follow(log, tail(2))
        await follow(log, tail(3))
        assert ["No space left" in line for line in log.trouble] == [True]
        full = False
        await follow(log, tail(3))
        assert log.trouble == []

    run(program)
    assert numbers(tmp_path) == [1, 2, 3]


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    assert ["cannot be read" in line for line in AuditLog(tmp_path / NAME).trouble] == [True]
