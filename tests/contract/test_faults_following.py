"""Following a leader: what a log keeps, what it gives up, when it is applied (S1, S4, S9, L2)."""

from __future__ import annotations

from pathlib import Path

import pytest
from pysyncobj import FAIL_REASON
from stock_bench import CASES, bench_for, submit
from sync_bench import Bench, without
from sync_bench import clock_fixture as clock_fixture

from licraft.errors import InvariantBroken
from licraft.replication.library import ALL_GUARDS, Guard

Outcome = tuple[object, int]


def test_commands_are_bytes_and_their_index_is_the_logs(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.append((1, 0), 9, 9, commit=3)
    bench.turn()
    assert bench.machine.applied == [(2, b"2/9"), (3, b"3/9")]


@CASES
def test_s1_a_snapshot_message_commits_nothing_of_an_own_tail(tmp_path: Path, case: str) -> None:
    """A leader that was cut off appends a command; the next leader sends it a snapshot."""
    bench = bench_for(case, tmp_path, Guard.COMMIT_INDEX)
    bench.lead()
    outcomes: list[Outcome] = []
    submit(bench, b"nowhere else", lambda result, reason: outcomes.append((result, reason)))
    bench.turn()
    assert outcomes == []
    bench.piece(None, commit=700)
    bench.turn()
    if case == "guarded":
        assert bench.machine.applied == []
        assert outcomes == []
    else:
        assert bench.machine.applied == [(3, b"nowhere else")]
        assert outcomes == [(3, FAIL_REASON.SUCCESS)]


@CASES
def test_s4_only_a_conflict_truncates(tmp_path: Path, case: str) -> None:
    """An append_entries that was overtaken comes after one that says more."""
    bench = bench_for(case, tmp_path, Guard.CONFLICT_ONLY)
    (answer,) = bench.append((1, 0), 9, 9, 9)
    assert (answer[1]["success"], answer[1]["next_node_idx"]) == (True, 5)
    bench.append((1, 0), 9)
    assert bench.terms == ([0, 9, 9, 9] if case == "guarded" else [0, 9])


def test_s4_a_conflict_does_truncate(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.append((1, 0), 5, 5, 5, term=5)
    (answer,) = bench.append((1, 0), 5, 6, term=6)
    assert bench.terms == [0, 5, 6]
    assert (answer[1]["next_node_idx"], answer[1]["success"]) == (4, True)


@pytest.mark.parametrize("previous", [(2, 5), (3, 6)])
@pytest.mark.parametrize("case", ["stock", "guarded"])
def test_s4_what_is_committed_is_never_truncated(
    tmp_path: Path, case: str, previous: tuple[int, int]
) -> None:
    bench = bench_for(case, tmp_path)
    bench.append((1, 0), 5, 5, commit=3, term=5)
    bench.turn()
    if case == "guarded":
        with pytest.raises(InvariantBroken, match="committed entry 3"):
            bench.append(previous, 6, term=6)
        return
    bench.append(previous, 6, term=6)
    bench.append((1, 0), 6, 6, term=6)
    assert bench.machine.applied[1] == (3, b"3/5")
    assert bench.terms == [0, 6, 6]


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


@CASES
def test_l2_a_log_that_conflicts_is_found_out_in_one_step(tmp_path: Path, case: str) -> None:
    """A follower has 50 entries of a leader that failed; the next one asks where to begin."""
    bench = bench_for(case, tmp_path, Guard.RESET_TO_COMMIT)
    bench.append((1, 0), *[5] * 50, commit=3, term=5)
    rounds, next_index = 0, 52
    while True:
        rounds += 1
        previous = next_index - 1
        (answer,) = bench.append((previous, 5 if previous <= 3 else 6), term=6)
        if not answer[1]["reset"]:
            break
        next_index = answer[1]["next_node_idx"]
    assert rounds == (2 if case == "guarded" else 49)


@pytest.mark.parametrize("case", ["without", "guarded"])
def test_s9_the_log_is_durable_before_it_is_applied(tmp_path: Path, case: str) -> None:
    early = case == "without"
    bench = Bench(tmp_path, without(Guard.SYNC_BEFORE_APPLY) if early else ALL_GUARDS)
    bench.append((1, 0), 9, commit=2)
    bench.node.doTick(0.0)
    assert bench.machine.applied == ([(2, b"2/9")] if early else [])
    bench.journal.sync()
    bench.node.doTick(0.0)
    assert bench.machine.applied == [(2, b"2/9")]
