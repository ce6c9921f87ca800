"""Elections: pre-vote, the check message, priorities, and what a higher term does (L4, R22)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pysyncobj.node import Node
from stock_bench import CASES, GUARDED, bench_for
from sync_bench import ALPHA, GAMMA, MEMBERS, Bench, acknowledge
from sync_bench import clock_fixture as clock_fixture

from licraft.replication.library import Guard


@CASES
def test_l4_an_isolated_server_does_not_raise_its_term(tmp_path: Path, case: str) -> None:
    bench = bench_for(case, tmp_path, Guard.PRE_VOTE)
    for _ in range(20):
        bench.now += 2.0
        bench.turn()
    assert bench.node.raftCurrentTerm == (0 if case == "guarded" else 20)


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


@CASES
def test_l4_a_message_of_a_lower_term_is_answered_with_the_higher(
    tmp_path: Path, case: str
) -> None:
    """PySyncObj says nothing, and the leader of the lower term never learns why."""
    bench = bench_for(case, tmp_path, Guard.PRE_VOTE)
    bench.append((1, 0), 9, term=9)
    answers = bench.append((1, 0), term=8)
    told = [(answer["term"], answer["success"]) for _, answer in answers]
    assert told == ([(9, False)] if case == "guarded" else [])


@GUARDED
def test_l4_a_leader_that_learns_of_a_higher_term_is_elected_anew(
    tmp_path: Path, guarded: bool
) -> None:
    """A server of a higher term takes no entries: only a newer term can bring it back."""
    bench = bench_for(guarded, tmp_path)
    bench.lead()
    bench.wire.take()
    acknowledge(bench, ALPHA, 1, term=40, success=False)
    assert bench.node._isLeader() != guarded
    bench.turn()
    votes = [m for _, m in bench.wire.take() if m["type"] == "request_vote"]
    assert {vote["term"] for vote in votes} == ({41} if guarded else set())


@GUARDED
def test_votes_are_counted_by_server(tmp_path: Path, guarded: bool) -> None:
    """Of five, one other's vote that comes twice is no majority."""
    bench = bench_for(guarded, tmp_path)
    bench.node._SyncObj__otherNodes |= {Node("delta"), Node("epsilon")}
    bench.node._pre_vote_won = True
    bench.node._SyncObj__raftElectionDeadline = 0.0
    bench.turn()
    for _ in range(2):
        bench.hear(GAMMA, "response_vote", term=bench.node.raftCurrentTerm)
    assert bench.node._isLeader() != guarded
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
