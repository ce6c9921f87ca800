"""The facts about PySyncObj 0.3.17 that the engine is built on.

Each test states one of them, most by leaving a guard out and watching the fault happen,
and then that the guard stops it. An upgrade that changes a fact fails here first.
"""

from __future__ import annotations

from pathlib import Path

import pysyncobj.syncobj
import pytest
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, SyncObjConsumer, replicated
from pysyncobj.journal import Journal
from pysyncobj.node import Node
from pysyncobj.serializer import Serializer
from pysyncobj.version import VERSION
from sync_bench import MEMBERS, Bench, Wire, without
from sync_bench import clock_fixture as clock_fixture

from licraft.errors import InvariantBroken, NotExecuted, OutcomeUnknown
from licraft.replication import library
from licraft.replication.journal import DurableJournal
from licraft.replication.library import ALL_GUARDS, Guard, check_library
from licraft.replication.messages import NO_OP, REGULAR, Piece
from licraft.replication.proposals import error_of
from licraft.replication.snapshot import Snapshot, SnapshotStore, encode

# The shape of the library.


def test_version_and_private_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert VERSION == library.PINNED_VERSION
    check_library()
    monkeypatch.delattr(SyncObj, "_SyncObj__sendNextNodeIdx")
    with pytest.raises(InvariantBroken, match="_SyncObj__sendNextNodeIdx"):
        check_library()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "VERSION", "0.3.18")
    with pytest.raises(InvariantBroken, match=r"pip install pysyncobj==0\.3\.17"):
        check_library()


def test_every_option_is_set_and_none_is_misspelt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(library, "SyncObjConf", given.update)
    Bench.configure(tmp_path)
    assert set(given) == set(vars(SyncObjConf()))


def test_the_journal_is_made_by_a_name_of_the_module(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.node._SyncObj__raftLog is bench.journal
    assert pysyncobj.syncobj.createJournal.__module__ == "pysyncobj.journal"


def test_journal_and_serializer_have_the_methods_that_ours_have() -> None:
    wanted = {name for name in vars(Journal) if not name.startswith("__")}
    assert wanted <= set(vars(DurableJournal))
    wanted = {name for name in vars(Serializer) if not name.startswith("_")}
    assert wanted <= set(vars(SnapshotStore))


def test_type_bytes_and_reasons() -> None:
    kinds = pysyncobj.syncobj._COMMAND_TYPE
    assert (kinds.REGULAR, kinds.NO_OP) == (REGULAR, NO_OP)
    states = pysyncobj.syncobj._RAFT_STATE
    assert (states.FOLLOWER, states.CANDIDATE, states.LEADER) == (0, 1, 2)


def test_every_reason_is_either_certain_or_unknown() -> None:
    reasons = {v for n, v in vars(FAIL_REASON).items() if n.isupper() and n != "SUCCESS"}
    assert reasons == set(range(1, 8))
    unknown = {reason for reason in reasons if isinstance(error_of(reason), OutcomeUnknown)}
    assert unknown == {FAIL_REASON.LEADER_CHANGED, FAIL_REASON.UNKNOWN_OUTCOME}
    assert all(isinstance(error_of(reason), NotExecuted) for reason in reasons - unknown)
    assert isinstance(error_of(99), OutcomeUnknown)


def test_method_numbers_are_ranks(tmp_path: Path) -> None:
    """S12: a second replicated method renumbers the first, unless there never is one."""

    class Two(SyncObjConsumer):  # type: ignore[misc]  # PySyncObj has no types
        @replicated  # type: ignore[untyped-decorator]  # PySyncObj has no types
        def second(self) -> None: ...

        @replicated  # type: ignore[untyped-decorator]  # PySyncObj has no types
        def added_later(self) -> None: ...

    conf = SyncObjConf(autoTick=False)
    node = SyncObj(Node("a"), [], conf, [Two()], nodeClass=Node, transport=Wire())
    assert [m.__name__ for m in node._idToMethod.values()] == ["added_later_v0", "second_v0"]
    ours = Bench(tmp_path).node._idToMethod
    assert [m.__name__ for m in ours.values()] == ["execute_v0"]


def test_the_clock_is_a_name_of_the_module(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert 0.5 < bench.node._SyncObj__raftElectionDeadline - bench.now < 1.0


# Following.


def test_commands_are_bytes_and_their_index_is_the_logs(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.append((1, 0), 9, 9, commit=3)
    bench.turn()
    assert bench.machine.applied == [(2, b"2/9"), (3, b"3/9")]


def test_s11_a_method_that_raises_stops_the_tick(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.journal.add(b"\0raise", 2, 1)
    bench.node._SyncObj__raftCommitIndex = 2
    with pytest.raises(ValueError, match="not total"):
        bench.turn()


def test_s9_the_log_is_durable_before_it_is_applied(tmp_path: Path) -> None:
    for guards, early in ((without(Guard.SYNC_BEFORE_APPLY), True), (ALL_GUARDS, False)):
        bench = Bench(tmp_path / str(early), guards)
        bench.append((1, 0), 9, commit=2)
        bench.node.doTick(0.0)
        assert bench.machine.applied == ([(2, b"2/9")] if early else [])
        bench.journal.sync()
        bench.node.doTick(0.0)
        assert bench.machine.applied == [(2, b"2/9")]


@pytest.mark.parametrize("guarded", [False, True])
def test_s4_only_a_conflict_truncates(tmp_path: Path, guarded: bool) -> None:
    bench = Bench(tmp_path, ALL_GUARDS if guarded else without(Guard.CONFLICT_ONLY))
    bench.append((1, 0), 9, 9, 9)
    bench.append((1, 0), 9)
    assert bench.terms == ([0, 9, 9, 9] if guarded else [0, 9])


def test_s4_a_conflict_does_truncate(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.append((1, 0), 5, 5, 5, term=5)
    (answer,) = bench.append((1, 0), 5, 6, term=6)
    assert bench.terms == [0, 5, 6]
    assert (answer[1]["next_node_idx"], answer[1]["success"]) == (4, True)


def test_s4_what_is_committed_is_never_truncated(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.append((1, 0), 5, 5, commit=3, term=5)
    with pytest.raises(InvariantBroken, match="committed entry 3"):
        bench.append((2, 5), 6, term=6)
    bench = Bench(tmp_path / "again")
    bench.append((1, 0), 5, 5, commit=3, term=5)
    with pytest.raises(InvariantBroken, match="committed entry 3"):
        bench.append((3, 6), 6, term=6)


def test_the_commit_index_ends_with_what_matches(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.append((1, 0), 5, 5, 5, term=5)
    bench.append((2, 5), commit=4, term=9)
    assert bench.node.raftCommitIndex == 2


def test_entries_that_are_applied_already_are_skipped(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.append((1, 0), 9, 9, 9, commit=4)
    bench.turn()
    (answer,) = bench.append((1, 0), 9, 9, 9, 9, commit=5)
    assert answer[1]["next_node_idx"] == 6
    assert bench.terms == [0, 9, 9, 9, 9]
    (answer,) = bench.append((1, 0), 9)
    assert (answer[1]["next_node_idx"], answer[1]["success"]) == (5, True)


@pytest.mark.parametrize("guarded", [False, True])
def test_l2_a_reset_names_the_end_of_what_is_committed(tmp_path: Path, guarded: bool) -> None:
    bench = Bench(tmp_path, ALL_GUARDS if guarded else without(Guard.RESET_TO_COMMIT))
    bench.append((1, 0), *[5] * 50, commit=3, term=5)
    (answer,) = bench.append((51, 6), term=6)
    assert answer[1]["reset"]
    assert answer[1]["next_node_idx"] == (4 if guarded else 51)


# Snapshots.


def snapshot(index: int, term: int = 9) -> Piece:
    """A snapshot in one piece."""
    last, previous = (b"\0last", index, term), (b"\0previous", index - 1, term)
    content = encode(Snapshot("pool", tuple(MEMBERS), last, previous, b"state of %d" % index))
    return Piece(content, True, True, (index, term), 0, len(content))


@pytest.mark.parametrize("guarded", [False, True])
def test_s1_a_snapshot_message_commits_nothing(tmp_path: Path, guarded: bool) -> None:
    bench = Bench(tmp_path, ALL_GUARDS if guarded else without(Guard.COMMIT_INDEX))
    bench.append((1, 0), 5, 5, term=5)  # never matched with the new leader's log
    bench.piece(None, commit=700)
    bench.turn()
    assert [index for index, _ in bench.machine.applied] == ([] if guarded else [2, 3])


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
    bench.journal.abandon()
    again = Bench(tmp_path)
    assert again.machine.state == b"state of 40"
    assert again.node.raftLastApplied >= 40


@pytest.mark.parametrize("guarded", [False, True])
def test_s5_an_old_snapshot_is_not_installed(tmp_path: Path, guarded: bool) -> None:
    bench = Bench(tmp_path, ALL_GUARDS if guarded else without(Guard.FRESH_RESET))
    bench.append((1, 0), 9, 9, 9, commit=4)
    bench.turn()
    answers = bench.piece(snapshot(3), commit=4)
    assert bench.node.raftLastApplied == (4 if guarded else 3)
    if guarded:
        assert bench.machine.state == b""
        assert answers[-1][1]["next_node_idx"] == 5


def test_a_snapshot_of_what_the_log_holds_commits_it_and_keeps_the_rest(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.append((1, 0), 9, 9, 9, 9)
    (answer,) = bench.piece(snapshot(3), commit=5)
    assert bench.terms == [0, 9, 9, 9, 9]
    assert bench.machine.state == b""
    assert bench.node.raftCommitIndex == 3
    assert (answer[1]["reset"], answer[1]["next_node_idx"]) == (True, 4)


def test_s8_a_snapshot_that_does_not_load_stops_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)

    def fail(index: int, state: bytes) -> None:
        raise ValueError("cannot restore")

    monkeypatch.setattr(bench.machine, "restore", fail)
    with pytest.raises(InvariantBroken, match="could not be restored"):
        bench.piece(snapshot(40), commit=40)


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
