"""Snapshots on their way to a follower: what may be installed, and what it does to the log."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from programs import program, was_executed
from stock_bench import CASES, GUARDED, bench_for, pieces_of, stock_pieces
from sync_bench import Bench, Recorder, snapshot
from sync_bench import clock_fixture as clock_fixture

from licraft.errors import InvariantBroken
from licraft.replication.library import Guard
from licraft.replication.messages import Piece


@CASES
def test_s5_an_old_snapshot_is_not_installed(tmp_path: Path, case: str) -> None:
    pieces = pieces_of(3, case != "stock", tmp_path)
    bench = bench_for(case, tmp_path / "follower", Guard.FRESH_RESET)
    bench.append((1, 0), 9, 9, 9, commit=4)
    bench.turn()
    assert bench.node.raftLastApplied == 4
    answers = [answer for piece in pieces for answer in bench.piece(piece, commit=4)]
    assert bench.node.raftLastApplied == (4 if case == "guarded" else 3)
    if case == "guarded":
        assert bench.machine.state == b""
        assert answers[-1][1]["next_node_idx"] == 5


@GUARDED
def test_l1_the_log_never_ends_up_empty(tmp_path: Path, guarded: bool) -> None:
    """An old snapshot is installed while a newer one of the server's own is being written."""
    pieces = pieces_of(5, guarded, tmp_path)
    bench = bench_for(guarded, tmp_path / "follower")
    bench.append((1, 0), *[9] * 20, commit=21)
    bench.turn()
    bench.node.forceLogCompaction()
    bench.turn()
    for piece in pieces:
        bench.piece(piece, commit=21)
    bench.turn()
    if guarded:
        assert [entry[1] for entry in bench.journal[:]] == [20, 21]
        assert bench.append((21, 9), 9)[0][1]["success"]
    else:
        assert len(bench.journal) == 0
        with pytest.raises(IndexError):
            bench.append((21, 9), 9)


@GUARDED
def test_s8_pieces_of_two_snapshots_are_not_put_together(tmp_path: Path, guarded: bool) -> None:
    """The leader begins one snapshot and, after a compaction, goes on with the next."""
    if guarded:
        old, new = snapshot(40, state=bytes(100)), snapshot(50, state=bytes(range(100)))
        half = len(old.data) // 2
        mixed: list[Any] = [
            old._replace(data=old.data[:half], last=False),
            new._replace(data=new.data[half:], first=False, offset=half),
        ]
    else:
        old, new = (stock_pieces(index, tmp_path / f"to {index}")[0] for index in (40, 50))
        half = len(old[0]) // 2
        mixed = [(old[0][:half], True, False), (new[0][half:], False, False), (b"", False, True)]
    bench = bench_for(guarded, tmp_path / "follower")
    answers = [message for piece in mixed for _, message in bench.piece(piece, commit=50)]
    assert any(answer["success"] for answer in answers) != guarded
    assert bench.machine.state == b""
    assert bench.node.raftLastApplied == 1


@GUARDED
def test_s8_a_snapshot_that_does_not_load_stops_the_process(
    tmp_path: Path, guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = pieces_of(40, guarded, tmp_path)
    bench = bench_for(guarded, tmp_path / "follower")

    def fail(self: Recorder, index: int, state: bytes) -> None:
        raise ValueError("cannot restore")

    monkeypatch.setattr(Recorder, "restore", fail)
    if guarded:
        with pytest.raises(InvariantBroken, match="could not be restored"):
            bench.piece(pieces[0], commit=40)
        return
    answers = [message for piece in pieces for _, message in bench.piece(piece, commit=40)]
    assert answers[-1]["success"]
    assert bench.machine.applied == []


def test_a_snapshot_is_installed_and_the_log_goes_on_after_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.append((1, 0), 5, 5, term=5)
    (answer,) = bench.piece(snapshot(40), commit=45)
    assert (answer[1]["success"], answer[1]["next_node_idx"]) == (True, 41)
    assert bench.machine.state == b"state of 40"
    assert bench.node.raftLastApplied == bench.node.raftCommitIndex == 40
    bench.append((40, 9), 9, commit=41)
    bench.turn()
    assert bench.machine.applied == [(41, b"41/9")]
    bench.journal.sync()
    again = bench.crash()
    assert again.machine.state == b"state of 40"
    assert again.node.raftLastApplied >= 40


def test_a_snapshot_of_what_the_log_holds_commits_it_and_keeps_the_rest(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.append((1, 0), 9, 9, 9, 9)
    (answer,) = bench.piece(snapshot(3), commit=5)
    assert bench.terms == [0, 9, 9, 9, 9]
    assert bench.machine.state == b""
    assert bench.node.raftCommitIndex == 3
    assert (answer[1]["reset"], answer[1]["next_node_idx"]) == (True, 4)


def test_compaction_keeps_two_entries_and_a_snapshot_of_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.append((1, 0), *[9] * 20, commit=15)
    bench.node.forceLogCompaction()
    bench.turn()
    bench.turn()
    assert [entry[1] for entry in bench.journal[:]] == list(range(14, 22))
    assert bench.store.current is not None
    assert bench.store.current.last == bench.journal[1]
    assert bench.store.current.previous == bench.journal[0]


@GUARDED
def test_a_snapshot_is_not_pickled(tmp_path: Path, guarded: bool) -> None:
    """What a leader sends as a snapshot is unpickled by PySyncObj: it is a program."""
    content = gzip.compress(program())
    bench = bench_for(guarded, tmp_path)
    if guarded:
        bench.piece(Piece(content, True, True, (40, 9), 0, len(content)), commit=40)
    else:
        for piece in ((content, True, False), (b"", False, True)):
            bench.piece(piece, commit=40)
    assert was_executed() != guarded
