"""The record's file: what it holds after every kind of end, and when it is believed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from licraft.core.record import Authorization
from licraft.errors import DataError
from licraft.server.record_log import RecordLog, boot_id

BOOT = "boot-1"


def seat(id: str, count: int = 1) -> Authorization:
    return Authorization(id, "cad", count, f"token-{id}", ("c", "ann", "ws", 1, "x"), 1.5)


def started(path: Path, *live: Authorization, incarnation: int = 3) -> RecordLog:
    log = RecordLog(path, BOOT)
    log.start(incarnation, live, moved_index=0)
    return log


def ids(path: Path) -> list[str] | None:
    saved = RecordLog(path, BOOT).load()
    return None if saved is None else [a.id for a in saved.authorizations]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "record.log"


def test_what_was_granted_and_not_ended_is_there_again(path: Path) -> None:
    log = started(path, seat("A", 4))
    log.granted(seat("B"))
    log.granted(seat("C"))
    log.ended("B")
    log.flush()
    saved = RecordLog(path, BOOT).load()
    assert saved is not None
    assert saved.incarnation == 3
    assert not saved.orderly
    first = saved.authorizations[0]
    assert [a.id for a in saved.authorizations] == ["A", "C"]
    assert (first.feature, first.count, first.token) == ("cad", 4, "token-A")
    assert (first.client, first.granted_at_s) == (("c", "ann", "ws", 1, "x"), 1.5)


def test_what_was_not_flushed_is_not_promised(path: Path) -> None:
    log = started(path)
    log.granted(seat("A"))
    assert ids(path) == []
    log.flush()
    assert ids(path) == ["A"]


def test_the_file_is_for_its_owner_only(path: Path) -> None:
    started(path)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_line_whose_writing_was_cut_off_counts_as_never_written(path: Path, cut: int) -> None:
    log = started(path, seat("A"))
    log.granted(seat("B"))
    log.flush()
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    assert ids(path) == ["A"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"nonsense\n",
        b'{"type":"orderly"}\n',
        b'{"type":"record","incarnation":3,"boot":"boot-1"}',
        b'{"type":"record","incarnation":3,"boot":"boot-1"}\n["+",1]\n',
        b'{"type":"record","incarnation":3,"boot":"boot-1"}\n\x00\x00\x00\n["-","A"]\n',
    ],
)
def test_a_damaged_file_is_no_record(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert ids(path) is None


def test_no_file_is_no_record_and_one_that_cannot_be_read_is_a_fault(path: Path) -> None:
    assert RecordLog(path, BOOT).load() is None
    path.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        RecordLog(path, BOOT).load()


@pytest.mark.parametrize(
    ("last_incarnation", "boot", "orderly", "trusted"),
    [
        (3, BOOT, False, True),
        (3, BOOT, True, True),
        (3, "boot-2", False, False),
        (3, "boot-2", True, True),
        (4, BOOT, False, False),
        (4, BOOT, True, False),
        (2, BOOT, True, False),
        (3, "", False, False),
    ],
)
def test_a_record_is_believed_if_it_is_the_last_and_whole(
    path: Path, last_incarnation: int, boot: str, orderly: bool, trusted: bool
) -> None:
    log = started(path, seat("A"))
    if orderly:
        log.close_orderly()
    saved = RecordLog(path, boot).load()
    assert saved is not None
    assert saved.trusted(last_incarnation, boot) is trusted


def test_without_a_boot_id_only_an_orderly_end_is_believed(path: Path) -> None:
    log = RecordLog(path, "")
    log.start(3, [], moved_index=0)
    saved = RecordLog(path, "").load()
    assert saved is not None
    assert not saved.trusted(3, "")
    log.close_orderly()
    saved = RecordLog(path, "").load()
    assert saved is not None
    assert saved.trusted(3, "")


def test_starting_anew_replaces_the_file_as_a_whole(path: Path) -> None:
    log = started(path, seat("A"))
    log.granted(seat("B"))
    log.start(4, [seat("C")], moved_index=0)
    log.granted(seat("D"))
    log.flush()
    saved = RecordLog(path, BOOT).load()
    assert saved is not None
    assert saved.incarnation == 4
    assert [a.id for a in saved.authorizations] == ["C", "D"]


def test_a_file_of_what_is_over_has_outgrown_its_use(path: Path) -> None:
    log = started(path)
    for number in range(15_000):
        log.granted(seat(str(number)))
        log.ended(str(number))
    assert not log.outgrown(0)
    log.flush()
    assert log.outgrown(live=0)
    assert not log.outgrown(live=10_000)
    log.start(3, [], moved_index=0)
    assert not log.outgrown(live=0)


def test_a_file_that_missed_a_grant_is_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = started(path, seat("A"))

    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    log.granted(seat("B"))
    log.flush()
    monkeypatch.undo()
    assert not path.exists()
    log.granted(seat("C"))
    log.flush()
    log.close_orderly()
    assert not path.exists()


def test_a_file_that_missed_a_grant_and_cannot_be_removed_is_never_believed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = started(path, seat("A"))

    def read_only(*arguments: object, **named: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "write", read_only)
    monkeypatch.setattr(Path, "unlink", read_only)
    silent = 0
    for id in "BCD":
        log.granted(seat(id))
        try:
            log.flush()
        except (OSError, DataError):
            continue  # Its answer does not leave.
        silent += 1
    monkeypatch.undo()
    saved = RecordLog(path, BOOT).load()
    assert not silent or saved is None or not saved.trusted(3, BOOT)


def test_this_machine_has_a_boot_id() -> None:
    assert boot_id() == boot_id()


def moved_index(path: Path) -> int:
    saved = RecordLog(path, BOOT).load()
    assert saved is not None
    return saved.moved_index


def test_a_record_says_up_to_which_log_index_it_knows_what_moved(path: Path) -> None:
    log = RecordLog(path, BOOT)
    log.start(3, [seat("A")], moved_index=7)
    assert moved_index(path) == 7
    log.granted(seat("B"))
    log.moved(9)
    log.ended("A")
    log.moved(12)
    assert moved_index(path) == 7
    log.flush()
    assert (moved_index(path), ids(path)) == (12, ["B"])
    log.start(4, [seat("B")], moved_index=12)
    assert moved_index(path) == 12


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_move_whose_line_was_cut_off_is_not_known(path: Path, cut: int) -> None:
    """What moved is written before the index that vouches for it."""
    log = started(path)
    log.granted(seat("A"))
    log.moved(9)
    log.flush()
    path.write_bytes(path.read_bytes()[:-cut])
    assert (moved_index(path), ids(path)) == (0, ["A"])


def test_a_record_of_before_there_were_moves_knows_none(path: Path) -> None:
    path.write_bytes(b'{"type":"record","incarnation":3,"boot":"boot-1"}\n')
    assert moved_index(path) == 0
