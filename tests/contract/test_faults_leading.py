"""Leading: what an acknowledgement proves, and for how long a leader believes in itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from pysyncobj import FAIL_REASON
from stock_bench import CASES, GUARDED, bench_for
from sync_bench import BETA, GAMMA, Bench, acknowledge
from sync_bench import clock_fixture as clock_fixture

from licraft.replication import guards
from licraft.replication.library import Guard
from licraft.replication.pysyncobj_engine import EngineConfig


def test_a_leader_commits_and_answers_its_proposer(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.lead()
    outcomes: list[tuple[object, int]] = []
    bench.node.submit(b"x", lambda result, reason: outcomes.append((result, reason)))
    bench.turn()
    acknowledge(bench, GAMMA, bench.journal[-1][1] + 1)
    bench.turn()
    assert bench.machine.applied == [(3, b"x")]
    assert outcomes == [(3, FAIL_REASON.SUCCESS)]
    assert bench.node.leads


@CASES
def test_s6_an_acknowledgement_of_an_earlier_term_counts_nothing(tmp_path: Path, case: str) -> None:
    bench = bench_for(case, tmp_path, Guard.TERM_OF_ACKNOWLEDGEMENT)
    bench.lead()
    acknowledge(bench, GAMMA, bench.journal[-1][1] + 1, term=bench.node.raftCurrentTerm - 1)
    bench.turn()
    assert bench.node.raftCommitIndex == (1 if case == "guarded" else 2)


@CASES
def test_s5_of_two_resets_in_flight_one_counts(tmp_path: Path, case: str) -> None:
    bench = bench_for(case, tmp_path, Guard.FRESH_RESET)
    bench.lead()
    first = getattr(bench.node, "_sent", {}).get(GAMMA, 0)
    acknowledge(bench, GAMMA, 2, reset=True, success=False, seq=first)
    bench.now += 0.2
    bench.turn()
    assert bench.node._SyncObj__raftNextIndex[GAMMA] == 3
    acknowledge(bench, GAMMA, 2, reset=True, success=False, seq=first)
    assert bench.node._SyncObj__raftNextIndex[GAMMA] == (3 if case == "guarded" else 2)


def test_an_acknowledgement_takes_back_nothing_that_is_on_its_way(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.lead()
    for _ in range(5):
        bench.node.submit(b"x", lambda result, reason: None)
    bench.turn()
    assert bench.node._SyncObj__raftNextIndex[GAMMA] == 8
    acknowledge(bench, GAMMA, 4)
    assert bench.node._SyncObj__raftNextIndex[GAMMA] == 8
    assert bench.node._SyncObj__raftMatchIndex[GAMMA] == 3


def test_an_answer_for_another_process_of_this_server_is_not_taken(tmp_path: Path) -> None:
    """PySyncObj numbers requests from 1; after a restart they would be confused."""
    first, second = Bench(tmp_path / "1"), Bench(tmp_path / "2")
    assert first.node._SyncObj__commandsLocalCounter > 2**20
    assert second.node._SyncObj__commandsLocalCounter > 2**20


def test_finished_callbacks_are_forgotten(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.append((1, 0))

    def callback(result: object, reason: int) -> None: ...

    bench.node.submit(b"x", callback)
    bench.turn()
    assert len(bench.node._SyncObj__commandsWaitingReply) == 1
    bench.node._SyncObj__commandsWaitingCommit[70].append((1, callback))
    bench.node.forget(lambda waiting: waiting is callback)
    assert not bench.node._SyncObj__commandsWaitingReply
    assert not bench.node._SyncObj__commandsWaitingCommit


@GUARDED
def test_an_isolated_leader_does_not_believe_in_itself_for_long(
    tmp_path: Path, guarded: bool
) -> None:
    """With PySyncObj's own options it is the leader of nobody for 30 s."""
    bench = bench_for(guarded, tmp_path)
    bench.lead()
    led_s = 0.0
    while bench.node._isLeader():
        bench.now += 0.1
        led_s += 0.1
        bench.turn()
    assert 0.9 < led_s < 1.2 if guarded else 29.9 < led_s < 30.2


def test_an_isolated_leader_steps_down_with_the_engines_own_options() -> None:
    assert EngineConfig("pool", "alpha", {}, Path()).leader_fallback_s < 1.0


@pytest.mark.parametrize("silence_s", [0.9, 1.1])
def test_a_leader_falls_back_without_a_tick_or_a_word_to_its_disk(
    tmp_path: Path, silence_s: float
) -> None:
    """While the disk syncs there are no ticks, and a slow one must not keep a leader in place."""
    bench = Bench(tmp_path)
    bench.lead()
    acknowledge(bench, GAMMA, bench.journal[-1][1] + 1)
    bench.journal.sync()
    bench.now += silence_s
    bench.node.fall_back()
    assert bench.node._isLeader() == (silence_s < 1.0)
    assert (bench.node._getLeader() is None) == (silence_s > 1.0)
    assert not bench.journal.dirty


def test_a_leader_refuses_more_bytes_than_it_may_hold_uncommitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a bound in bytes, commands of 4 MB each would fill a leader's memory."""
    bench = Bench(tmp_path, server="alpha")
    monkeypatch.setattr(guards, "MAX_WAITING_BYTES", 4050)
    bench.lead()
    bench.wire.take()
    reasons: list[int] = []
    whole = 1000

    def propose(size: int) -> None:
        bench.node.submit(bytes(size), lambda _, reason: reasons.append(reason))

    for _ in range(3):
        propose(whole)
        bench.turn()
    bench.hear(BETA, "apply_command", command=b"\0" + bytes(whole - 1), request_id=6)
    propose(100)
    assert reasons == [FAIL_REASON.QUEUE_FULL]
    bench.hear(BETA, "apply_command", command=b"\0" + bytes(99), request_id=7)
    refusals = [message for server, message in bench.wire.take() if "error" in message]
    assert [(m["request_id"], m["error"]) for m in refusals] == [(7, FAIL_REASON.QUEUE_FULL)]
    # What is committed makes room again.
    bench.turn()
    acknowledge(bench, GAMMA, bench.journal[-1][1] + 1)
    bench.turn()
    assert reasons == [FAIL_REASON.QUEUE_FULL, *[FAIL_REASON.SUCCESS] * 3]
    propose(5000)  # One by itself always has room.
    bench.turn()
    acknowledge(bench, GAMMA, bench.journal[-1][1] + 1)
    bench.turn()
    assert reasons[4:] == [FAIL_REASON.SUCCESS]


def test_what_an_earlier_term_left_uncommitted_takes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "MAX_WAITING_BYTES", 4000)
    bench = Bench(tmp_path, server="alpha")
    bench.lead()
    bench.node.submit(bytes(4000), lambda *_: None)
    bench.turn()
    bench.now += 2.0
    bench.turn()
    assert not bench.node._isLeader()
    bench.lead()
    reasons: list[int] = []
    bench.node.submit(b"x", lambda _, reason: reasons.append(reason))
    bench.turn()
    assert reasons == []


def test_what_a_leader_refused_takes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queue is bounded in number too: what overflowed is not in the log, and never applied."""
    monkeypatch.setattr(guards, "MAX_WAITING_BYTES", 40_000)
    bench = Bench(tmp_path, server="alpha", batch_bytes=100_000)
    bench.lead()
    reasons: list[int] = []

    def propose() -> None:
        bench.node.submit(bytes(100), lambda _, reason: reasons.append(reason))

    for _ in range(300):  # The bench's queue takes 100.
        propose()
    assert reasons == [FAIL_REASON.QUEUE_FULL] * 200
    for _ in range(2):
        bench.turn()
        acknowledge(bench, GAMMA, bench.journal[-1][1] + 1)
    bench.turn()
    assert reasons[200:] == [FAIL_REASON.SUCCESS] * 100
    bench.node.submit(bytes(25_000), lambda _, reason: reasons.append(reason))
    bench.turn()
    assert reasons[300:] == []  # It waits to be committed, like any other.
