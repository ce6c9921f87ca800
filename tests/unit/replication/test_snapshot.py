"""Snapshots: whole, or not there; on their way to a follower in pieces that are checked."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pysyncobj.config import SERIALIZER_STATE
from pysyncobj.node import Node

from licraft.errors import DataError
from licraft.replication import snapshot as module
from licraft.replication.messages import Piece
from licraft.replication.snapshot import Snapshot, SnapshotError, SnapshotStore, decode, encode
from licraft.testing.disk import Fault, MemoryDisk, PowerCut

LEADER, OTHER = Node("alpha"), Node("gamma")


def make(index: int = 8, state: bytes = b"state", pool: str = "pool") -> Snapshot:
    return Snapshot(pool, ("alpha", "beta"), (b"\0b", index, 2), (b"\0a", index - 1, 1), state)


def store(directory: Path) -> SnapshotStore:
    directory.mkdir(exist_ok=True)
    return SnapshotStore(directory, "pool", ["alpha", "beta"])


def serialize(target: SnapshotStore, snapshot: Snapshot) -> None:
    data = ([{}, snapshot.state], snapshot.last, snapshot.previous, {LEADER})
    target.serialize(data, snapshot.previous[1])


def test_a_snapshot_survives_a_restart(tmp_path: Path) -> None:
    serialize(store(tmp_path), make())
    assert store(tmp_path).current == make()
    assert store(tmp_path).deserialize()[0] == [{}, (8, b"state")]


def test_success_is_said_once(tmp_path: Path) -> None:
    target = store(tmp_path)
    assert target.checkSerializing() == (SERIALIZER_STATE.NOT_SERIALIZING, None)
    serialize(target, make())
    assert target.getTransmissionData(OTHER) is None  # the log is not compacted yet
    assert target.checkSerializing() == (SERIALIZER_STATE.SUCCESS, 7)
    assert target.checkSerializing() == (SERIALIZER_STATE.NOT_SERIALIZING, None)


def test_any_flipped_byte_is_found(tmp_path: Path) -> None:
    content = encode(make())
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        with pytest.raises(SnapshotError):
            decode(bytes(damaged), "pool")
    for length in range(len(content)):
        with pytest.raises(SnapshotError):
            decode(content[:length], "pool")


def test_a_damaged_file_is_an_error_and_not_an_empty_state(tmp_path: Path) -> None:
    (tmp_path / "snapshot").write_bytes(encode(make())[:-1])
    with pytest.raises(DataError, match="snapshot"):
        store(tmp_path)


def test_the_snapshot_of_another_pool_is_refused(tmp_path: Path) -> None:
    (tmp_path / "snapshot").write_bytes(encode(make(pool="other")))
    with pytest.raises(DataError, match="belongs to pool other"):
        store(tmp_path)


def transmission(source: SnapshotStore, node: Node = OTHER) -> list[Piece]:
    pieces: list[Piece] = []
    while not pieces or not pieces[-1].last:
        piece = source.getTransmissionData(node)
        assert piece is not None
        pieces.append(piece)
    return pieces


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SnapshotStore:
    monkeypatch.setattr(module, "PIECE_BYTES", 16)
    source = store(tmp_path / "source")
    serialize(source, make(state=bytes(range(200))))
    source.checkSerializing()
    return source


def test_a_follower_gets_the_same_file(tmp_path: Path, source: SnapshotStore) -> None:
    target = store(tmp_path / "target")
    pieces = transmission(source)
    assert len(pieces) > 10
    assert [target.take_piece(LEADER, piece) for piece in pieces[:-1]] == [False] * (
        len(pieces) - 1
    )
    assert target.current is None
    assert target.take_piece(LEADER, pieces[-1])
    assert store(tmp_path / "target").current == source.current


@pytest.mark.parametrize("fault", ["lost", "twice", "flipped", "other sender", "other snapshot"])
def test_a_faulty_transmission_installs_nothing(
    tmp_path: Path, source: SnapshotStore, fault: str
) -> None:
    target = store(tmp_path / "target")
    pieces = transmission(source)
    senders = [LEADER] * len(pieces)
    if fault == "lost":
        del pieces[3]
    elif fault == "twice":
        pieces.insert(3, pieces[3])
        senders.append(LEADER)
    elif fault == "flipped":
        pieces[3] = pieces[3]._replace(data=bytes(16))
    elif fault == "other sender":
        senders[3] = OTHER
    else:
        pieces[3] = pieces[3]._replace(id=(99, 2))
    taken = [target.take_piece(*item) for item in zip(senders, pieces, strict=False)]
    assert not any(taken)
    assert store(tmp_path / "target").current is None


def test_a_new_snapshot_starts_transmissions_again(source: SnapshotStore) -> None:
    first = source.getTransmissionData(OTHER)
    assert first is not None
    assert first.first
    serialize(source, make(index=20, state=bytes(200)))
    source.checkSerializing()
    again = source.getTransmissionData(OTHER)
    assert again is not None
    assert again.first
    assert again.id == (20, 2)


@pytest.mark.parametrize("fault", [Fault.NO_SPACE, Fault.IO_ERROR])
@pytest.mark.parametrize("step", range(1, 6))
def test_a_disk_that_fails_leaves_the_old_snapshot_or_the_new(fault: Fault, step: int) -> None:
    disk = MemoryDisk(random.Random(step))
    target = SnapshotStore(Path("/data"), "pool", ["alpha", "beta"], disk)
    serialize(target, make(8))
    target.checkSerializing()
    before = disk.steps
    disk.on_step = lambda at: fault if at.number == before + step else None
    with pytest.raises(DataError, match=r"/data/snapshot: .*: check the disk"):
        serialize(target, make(9))
    disk.crash()
    again = SnapshotStore(Path("/data"), "pool", ["alpha", "beta"], disk)
    assert again.current == make(8 if step < 5 else 9)
    assert not any(path.suffix == ".new" for path in disk.files)


def test_a_power_cut_leaves_the_old_snapshot_or_the_new() -> None:
    found = set()
    for step in range(1, 7):
        for seed in range(20):
            disk = MemoryDisk(random.Random(seed))
            target = SnapshotStore(Path("/data"), "pool", ["alpha", "beta"], disk)
            serialize(target, make(8))
            target.checkSerializing()
            last = disk.steps + step
            disk.on_step = lambda at, last=last: Fault.CUT if at.number == last else None
            try:
                serialize(target, make(9))
                done = True
            except PowerCut:
                done = False
            disk.on_step = None
            disk.lose_power()
            current = SnapshotStore(Path("/data"), "pool", ["alpha", "beta"], disk).current
            assert current == make(9) or (not done and current == make(8))
            found.add((step, current.last[1]))
    assert found == {*((step, 8) for step in range(1, 6)), (5, 9), (6, 9)}
