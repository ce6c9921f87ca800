"""The disk in memory: what it keeps, what it may lose, and that a seed replays it."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licraft.replication.files import SYSTEM_DISK, Disk, replace_file, write_all
from licraft.testing.disk import Fault, MemoryDisk, PowerCut, Step

FOLDER = Path("/data")
FILE, OTHER = FOLDER / "file", FOLDER / "other"


def memory_disk(seed: int = 1, *, capacity_bytes: int | None = None) -> MemoryDisk:
    return MemoryDisk(random.Random(seed), capacity_bytes=capacity_bytes)


def written(disk: Disk, content: bytes = b"first") -> int:
    """A durable file that is open, and to whose end can be written."""
    replace_file(disk, FILE, content)
    return disk.append_to(FILE)


def left(act: Callable[[MemoryDisk], None], path: Path = FILE) -> set[bytes | None]:
    """What 200 losses of power leave of a file."""
    found = set()
    for seed in range(200):
        disk = memory_disk(seed)
        act(disk)
        disk.lose_power()
        found.add(disk.files.get(path))
    return found


def test_a_crash_keeps_what_was_written_and_closes_files() -> None:
    disk = memory_disk()
    file = written(disk)
    disk.write(file, b" second")
    disk.crash()
    assert disk.read(FILE) == b"first second"
    with pytest.raises(OSError, match="Bad file descriptor"):
        disk.write(file, b"third")


@pytest.mark.parametrize("sync", [MemoryDisk.sync, MemoryDisk.sync_data])
def test_what_was_synced_is_kept(sync: Callable[[MemoryDisk, int], None]) -> None:
    def act(disk: MemoryDisk) -> None:
        file = written(disk)
        disk.write(file, b" second")
        sync(disk, file)

    assert left(act) == {b"first second"}


def test_of_what_was_not_synced_anything_may_be_left() -> None:
    found = left(lambda disk: write_all(disk, written(disk), b"ab"))
    assert found >= {b"first", b"firsta", b"firstab", b"first\0", b"first\0\0", b"first\0b"}


def test_a_name_is_kept_or_not_until_its_directory_is_synced() -> None:
    def create(disk: MemoryDisk) -> None:
        disk.sync(disk.create(FILE))

    def create_and_sync(disk: MemoryDisk) -> None:
        create(disk)
        disk.sync_directory(FOLDER)

    def create_and_sync_another(disk: MemoryDisk) -> None:
        create(disk)
        disk.sync_directory(FOLDER.parent)

    assert left(create) == left(create_and_sync_another) == {None, b""}
    assert left(create_and_sync) == {b""}


def test_a_rename_is_done_or_not_until_its_directory_is_synced() -> None:
    def rename(disk: MemoryDisk) -> None:
        written(disk, b"old")
        file = disk.create(OTHER)
        write_all(disk, file, b"new")
        disk.sync(file)
        disk.rename(OTHER, FILE)

    assert left(rename) == {b"old", b"new"}
    assert left(rename, OTHER) >= {None, b"new"}


def test_a_removal_is_done_or_not_until_its_directory_is_synced() -> None:
    def remove(disk: MemoryDisk) -> None:
        written(disk)
        disk.remove(FILE)

    def remove_and_sync(disk: MemoryDisk) -> None:
        remove(disk)
        disk.sync_directory(FOLDER)

    assert left(remove) == {None, b"first"}
    assert left(remove_and_sync) == {None}


def test_a_failed_sync_is_not_repaired_by_another() -> None:
    def act(disk: MemoryDisk) -> None:
        file = written(disk)
        disk.write(file, b"lost")
        disk.on_step = lambda step: Fault.IO_ERROR
        with pytest.raises(OSError, match="Input/output error"):
            disk.sync(file)
        disk.on_step = None
        disk.write(file, b"kept")
        disk.sync(file)
        assert disk.read(FILE) == b"firstlostkept"  # As memory has it.

    found = left(act)
    assert found >= {b"first\0\0\0\0kept", b"firstlostkept"}
    assert all(content is not None and content[-4:] == b"kept" for content in found)


def test_a_cut_write_is_done_in_part() -> None:
    found = set()
    for seed in range(100):
        disk = memory_disk(seed)
        file = written(disk)
        disk.on_step = lambda step: Fault.CUT
        with pytest.raises(PowerCut, match="write /data/file"):
            disk.write(file, b"ab")
        disk.on_step = None
        with pytest.raises(PowerCut):  # Nothing happens after the end.
            disk.read(FILE)
        disk.crash()
        found.add(disk.read(FILE))
    assert found == {b"first", b"firsta", b"firstab"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_errors_change_nothing(code: int) -> None:
    disk = memory_disk()
    file = written(disk)
    disk.on_step = lambda step: Fault.NO_SPACE if code == errno.ENOSPC else Fault.IO_ERROR
    calls: list[Callable[[], object]] = [
        lambda: disk.read(FILE),
        lambda: disk.create(OTHER),
        lambda: disk.append_to(FILE),
        lambda: disk.write(file, b"more"),
        lambda: disk.rename(FILE, OTHER),
        lambda: disk.remove(FILE),
        lambda: disk.sync_directory(FOLDER),
    ]
    for call in calls:
        with pytest.raises(OSError) as fault:  # noqa: PT011  # The number is what is looked at.
            call()
        assert fault.value.errno == code
    assert disk.files == {FILE: b"first"}


def test_short_writes() -> None:
    disk = memory_disk()
    file = written(disk, b"")
    disk.on_step = lambda step: Fault.SHORT
    write_all(disk, file, bytes(range(256)))
    assert disk.read(FILE) == bytes(range(256))


def test_a_disk_that_fills_up_takes_what_fits() -> None:
    disk = memory_disk(capacity_bytes=8)
    file = written(disk)
    assert disk.write(file, b"second") == 3
    with pytest.raises(OSError, match="No space left on device"):
        disk.write(file, b"ond")
    assert disk.used_bytes == 8
    disk.remove(FILE)
    assert disk.used_bytes == 0


def test_every_step_is_seen_and_counted() -> None:
    disk = memory_disk()
    steps: list[Step] = []
    disk.on_step = lambda step: steps.append(step)
    replace_file(disk, FILE, b"content")
    assert [step.call for step in steps] == ["create", "write", "sync", "rename", "sync_directory"]
    assert [step.number for step in steps] == [1, 2, 3, 4, 5]
    assert disk.steps == 5


calls = st.lists(
    st.sampled_from(["replace", "append", "sync", "remove", "cut", "crash", "power"]), max_size=20
)


@given(calls=calls, seed=st.integers(0, 2**32))
def test_a_seed_replays_everything(calls: list[str], seed: int) -> None:
    def play() -> list[dict[Path, bytes]]:
        disk = memory_disk(seed)
        history = []
        for call in calls:
            act(disk, call)
            history.append(disk.files)
        return history

    assert play() == play()


def act(disk: MemoryDisk, call: str) -> None:
    """One thing that may be done to a disk."""
    if call == "replace":
        replace_file(disk, FILE, b"content %d" % disk.steps)
    elif call == "remove":
        disk.remove(FILE)
    elif call == "crash":
        disk.crash()
    elif call == "power":
        disk.lose_power()
    elif FILE in disk.files:
        file = disk.append_to(FILE)
        disk.on_step = lambda step: Fault.CUT if call == "cut" else None
        try:
            write_all(disk, file, b"appended")
        except PowerCut:
            disk.lose_power()
        disk.on_step = None
        if call == "sync":
            disk.sync(file)


def test_it_does_what_the_systems_disk_does(tmp_path: Path) -> None:
    def play(disk: Disk, folder: Path) -> list[object]:
        file, other = folder / "file", folder / "other"
        seen: list[object] = []
        replace_file(disk, file, b"one")
        number = disk.append_to(file)
        seen.append(disk.write(number, memoryview(b" two")))
        disk.sync_data(number)
        seen.append(disk.read(file))
        disk.rename(file, other)
        disk.write(number, b" three")  # A file keeps being the same under another name.
        seen.append(disk.read(other))
        disk.close(disk.create(other))
        seen.append(disk.read(other))
        disk.close(number)
        disk.remove(other)
        disk.remove(other)
        for missing in (disk.read, disk.append_to):
            with pytest.raises(FileNotFoundError):
                missing(other)
        disk.sync_directory(folder)
        return seen

    assert play(memory_disk(), FOLDER) == play(SYSTEM_DISK, tmp_path)
