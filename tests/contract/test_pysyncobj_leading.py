"""Facts about PySyncObj 0.3.17 that we build on: leading and elections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pysyncobj import FAIL_REASON
from pysyncobj.node import Node
from sync_bench import ALPHA, GAMMA, MEMBERS, Bench, without
from sync_bench import clock_fixture as clock_fixture

from licraft.replication.library import ALL_GUARDS, Guard

# Leading.


def acknowledge(bench: Bench, node: Node, next_index: int, **changes: Any) -> None:
    fields = {
        "term": bench.node.raftCurrentTerm,
        "seq": bench.node._sent.get(node, 0),
        "next_node_idx": next_index,
        "reset": False,
        "success": True,
    }
    bench.hear(node, "next_node_idx", **{**fields, **changes})


def test_a_leader_commits_and_answers_its_proposer(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.lead()
    outcomes: list[tuple[object, int]] = []
    bench.node.submit(b"x", lambda result, reason: outcomes.append((result, reason)))
    bench.turn()
    acknowledge(bench, GAMMA, bench.node.end_index + 1)
    bench.turn()
    assert bench.machine.applied == [(3, b"x")]
    assert outcomes == [(3, FAIL_REASON.SUCCESS)]
    assert bench.node.leads


@pytest.mark.parametrize("guarded", [False, True])
def test_s6_an_acknowledgement_of_an_earlier_term_counts_nothing(
    tmp_path: Path, guarded: bool
) -> None:
    bench = Bench(tmp_path, ALL_GUARDS if guarded else without(Guard.TERM_OF_ACKNOWLEDGEMENT))
    bench.lead()
    acknowledge(bench, GAMMA, bench.node.end_index + 1, term=bench.node.raftCurrentTerm - 1)
    bench.turn()
    assert bench.node.raftCommitIndex == (1 if guarded else 2)


@pytest.mark.parametrize("guarded", [False, True])
def test_s5_of_two_resets_in_flight_one_counts(tmp_path: Path, guarded: bool) -> None:
    bench = Bench(tmp_path, ALL_GUARDS if guarded else without(Guard.FRESH_RESET))
    bench.lead()
    first = bench.node._sent[GAMMA]
    acknowledge(bench, GAMMA, 2, reset=True, success=False, seq=first)
    bench.now += 0.2
    bench.turn()
    assert bench.node._SyncObj__raftNextIndex[GAMMA] == 3
    acknowledge(bench, GAMMA, 2, reset=True, success=False, seq=first)
    assert bench.node._SyncObj__raftNextIndex[GAMMA] == (3 if guarded else 2)


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


# Elections.


@pytest.mark.parametrize("guarded", [False, True])
def test_l4_an_isolated_server_does_not_raise_its_term(tmp_path: Path, guarded: bool) -> None:
    bench = Bench(tmp_path, ALL_GUARDS if guarded else without(Guard.PRE_VOTE))
    for _ in range(20):
        bench.now += 2.0
        bench.turn()
    assert bench.node.raftCurrentTerm == (0 if guarded else 20)


def pre_vote(bench: Bench, node: Node, term: int, log: tuple[int, int]) -> bool | None:
    bench.wire.take()
    bench.hear(node, "pre_vote", term=term, round=5, last_log_index=log[0], last_log_term=log[1])
    granted = [m["granted"] for _, m in bench.wire.take() if m["type"] == "pre_vote_answer"]
    return granted[0] if granted else None


def test_l4_a_pre_vote_is_granted_when_the_leader_is_silent(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.append((1, 0), 9)
    assert pre_vote(bench, GAMMA, 9, (2, 9)) is False
    bench.now += 0.6
    assert pre_vote(bench, GAMMA, 9, (2, 9)) is True
    assert pre_vote(bench, GAMMA, 9, (1, 9)) is False
    assert pre_vote(bench, GAMMA, 8, (2, 9)) is False
    bench.append((2, 9))
    assert pre_vote(bench, GAMMA, 9, (2, 9)) is False
    bench.node._SyncObj__onNodeDisconnected(ALPHA)
    assert pre_vote(bench, GAMMA, 9, (2, 9)) is True


def test_l4_a_message_of_a_lower_term_is_answered_with_the_higher(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.append((1, 0), 9, term=9)
    (answer,) = bench.append((1, 0), term=8)
    assert answer[1]["term"] == 9
    assert not answer[1]["success"]


def test_l4_a_leader_that_learns_of_a_higher_term_is_elected_anew(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.lead()
    bench.wire.take()
    acknowledge(bench, ALPHA, 1, term=40, success=False)
    assert not bench.node._isLeader()
    bench.turn()
    votes = [m for _, m in bench.wire.take() if m["type"] == "request_vote"]
    assert {vote["term"] for vote in votes} == {41}


def test_votes_are_counted_by_server(tmp_path: Path) -> None:
    members = 5
    bench = Bench(tmp_path)
    for extra in range(members - 3):
        bench.node._SyncObj__otherNodes.add(Node(f"extra{extra}"))
    bench.node._pre_vote_won = True
    bench.node._SyncObj__raftElectionDeadline = 0.0
    bench.turn()
    for _ in range(3):
        bench.hear(GAMMA, "response_vote", term=bench.node.raftCurrentTerm)
    assert not bench.node._isLeader()
    bench.hear(ALPHA, "response_vote", term=bench.node.raftCurrentTerm)
    assert bench.node._isLeader()


def test_the_check_message_keeps_a_leader_that_answers(tmp_path: Path) -> None:
    """R22: no election while the leader answers a check, whatever the others say."""
    for answer, elected in ((9, False), (8, True), (None, True)):
        bench = Bench(tmp_path / str(answer))
        checks: list[tuple[str, Any]] = []
        bench.node._check_leader = lambda server, done, to=checks: to.append((server, done))
        bench.append((1, 0), 9)
        bench.now += 2.0
        bench.turn()
        ((server, done),) = checks
        assert server == "alpha"
        fields = {"term": 9, "round": bench.node._round, "granted": True}
        bench.hear(GAMMA, "pre_vote_answer", **fields)
        bench.turn()
        assert bench.node.raftCurrentTerm == 9
        done(answer)
        bench.turn()
        assert bench.node.raftCurrentTerm == (10 if elected else 9)


def test_timeouts_follow_the_priority(tmp_path: Path) -> None:
    """The slots do not overlap, so the highest server that is up usually stands first."""
    highest = 0.0
    for server in MEMBERS:
        node = Bench(tmp_path / server, server=server).node
        timeouts = [node._SyncObj__generateRaftTimeout() for _ in range(100)]
        assert min(timeouts) >= 0.5
        assert max(timeouts) <= 1.0
        assert min(timeouts) > highest
        highest = max(timeouts)
