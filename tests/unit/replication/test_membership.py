"""Who counts in a majority, while members come and go; each rule with what it prevents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pysyncobj.syncobj
import pytest
from support.members_bench import FOUNDERS, Member, Net

from licraft.errors import NotExecuted
from licraft.replication.library import Guard


@pytest.fixture(autouse=True, name="clock")
def clock_fixture() -> Iterator[None]:
    """PySyncObj's clock is one for the process: put it back."""
    before = pysyncobj.syncobj.monotonicTime
    yield
    pysyncobj.syncobj.monotonicTime = before


def with_learner(tmp_path: Path) -> tuple[Net, Member]:
    """Three voters of whom a leads, and d, who joins."""
    net = Net(tmp_path)
    leader = net.elect("a")
    net.start("d")
    net.change("a", b"join d")
    return net, leader


# A learner gets the log and counts nowhere.


def test_a_learner_gets_the_log(tmp_path: Path) -> None:
    net, leader = with_learner(tmp_path)
    leader.propose(b"x")
    net.run(0.5)
    assert net["d"].commands == [b"join d", b"x"]
    assert leader.node.caught_up_learners == {"d"}


def test_a_learner_gets_a_snapshot(tmp_path: Path) -> None:
    net = Net(tmp_path)
    leader = net.elect("a")
    for number in range(10):
        leader.propose(b"%d" % number)
    net.run(0.5)
    leader.node.forceLogCompaction()
    net.run(0.5)
    assert leader.journal[0][1] > 5
    net.start("d")
    net.change("a", b"join d")
    net.run(0.5)
    assert net["d"].machine.applied == leader.machine.applied
    assert net["d"].journal[0][1] > 5


def test_a_learner_does_not_make_a_majority_for_a_commit(tmp_path: Path) -> None:
    net, leader = with_learner(tmp_path)
    net.split("ad", "bc")
    leader.propose(b"x")
    net.run(0.3)
    assert leader.node.end_index in [entry[1] for entry in net["d"].journal[:]]
    assert b"x" not in leader.commands
    assert b"x" not in net["d"].commands


def test_a_leader_that_hears_only_learners_steps_down(tmp_path: Path) -> None:
    net, leader = with_learner(tmp_path)
    net.split("ad", "bc")
    net.run(1.5)
    assert not leader.leads
    net.run(5.0, "a", "d")
    assert not leader.leads


def test_a_learner_s_vote_does_not_count(tmp_path: Path) -> None:
    net, leader = with_learner(tmp_path)
    net.split("bd", "ac")
    term = net["b"].node.raftCurrentTerm
    net.run(5.0)
    assert net["b"].node.raftCurrentTerm == term  # not even a pre-vote is won
    net["b"].node._stand_now()
    net.run(1.0, "b", "d")
    assert net["b"].node.raftCurrentTerm > term
    assert not net["b"].leads
    assert leader.leads


def test_a_learner_never_stands(tmp_path: Path) -> None:
    net, _ = with_learner(tmp_path)
    term = net["d"].node.raftCurrentTerm
    for name in FOUNDERS:
        net.kill(name)
    net.run(10.0)
    net["d"].node._stand_now()
    net.run(1.0)
    assert net["d"].node.raftCurrentTerm == term
    net["d"].hear("a", {"type": "timeout_now", "term": term})
    net.run(1.0)
    assert net["d"].node.raftCurrentTerm == term


def test_a_server_that_is_to_join_never_forms_a_pool_of_its_own(tmp_path: Path) -> None:
    net = Net(tmp_path, names="")
    joining = net.start("d", founders="a")
    net.run(10.0)
    assert joining.node.raftCurrentTerm == 0
    assert not joining.leads


def test_a_learner_that_is_promoted_counts(tmp_path: Path) -> None:
    net, leader = with_learner(tmp_path)
    net.change("a", b"count d")
    net.split("ab", "cd")
    leader.propose(b"x")
    net.run(0.3)
    assert b"x" not in leader.commands
    net.cut = {("a", "c"), ("c", "a")}
    net.run(0.5)
    assert b"x" in leader.commands


def test_a_server_that_left_does_not_count_and_one_that_is_gone_hears_nothing(
    tmp_path: Path,
) -> None:
    net = Net(tmp_path)
    leader = net.elect("a")
    net.change("a", b"leave c")
    net.split("ac", "b")
    leader.propose(b"x")
    net.run(0.3)
    assert b"x" not in leader.commands
    net.cut.clear()
    net.run(0.5)
    assert b"x" in net["c"].commands
    net.change("a", b"drop c")
    leader.propose(b"y")
    net.run(0.5)
    assert b"y" not in net["c"].commands
    assert b"y" in net["b"].commands
    # What it still says is about a place that it no longer has.
    net["c"].node._SyncObj__sendNextNodeIdx(net["a"].node.selfNode, success=True)
    net.run(0.1)


# What may be appended.


def refused(net: Net, command: bytes) -> str:
    results = net["a"].propose(command, change=True)
    logged = [entry[0][1:] for entry in net["a"].journal[:]].count(command)
    net.run(0.1)
    assert [entry[0][1:] for entry in net["a"].journal[:]].count(command) == logged
    assert isinstance(results[0], NotExecuted)
    return str(results[0])


def test_a_change_waits_until_the_leader_has_committed_in_its_term(tmp_path: Path) -> None:
    net = Net(tmp_path)
    net.elect("a")
    net["a"].node._SyncObj__noopIDx = net["a"].node.end_index + 1
    refused(net, b"join d")


def test_a_change_waits_for_the_one_before(tmp_path: Path) -> None:
    net, leader = with_learner(tmp_path)
    net.cut |= {(name, "a") for name in "bc"}
    leader.propose(b"leave c", change=True)
    net.run(0.1)
    refused(net, b"count d")
    net.cut.clear()
    net.run(0.5)
    net.change("a", b"count d")
    assert net["b"].machine.voters == ["a", "b", "d"]


def test_of_two_changes_at_once_one_is_refused(tmp_path: Path) -> None:
    net, leader = with_learner(tmp_path)
    first = leader.propose(b"leave c", change=True)
    second = leader.propose(b"leave b", change=True)
    net.run(0.5)
    assert isinstance(first[0], int)
    assert isinstance(second[0], NotExecuted)


def test_a_change_that_would_leave_no_majority_in_reach_is_refused(tmp_path: Path) -> None:
    net = Net(tmp_path)
    net.elect("a")
    net.split("ab", "c")
    net.run(1.2)
    refused(net, b"leave b")
    net.change("a", b"leave c")


def test_what_is_no_change_and_what_is_too_much_of_one_is_refused(tmp_path: Path) -> None:
    net, leader = with_learner(tmp_path)
    refused(net, b"x")
    leader.machine.learners.append("e")
    too_many = frozenset("abcde")
    leader.machine.voters_after = lambda command: too_many  # type: ignore[method-assign]  # A fault.
    refused(net, b"count d")


def test_a_leader_that_is_to_be_removed_hands_over(tmp_path: Path) -> None:
    net = Net(tmp_path)
    net.elect("a")
    refused(net, b"leave a")
    net.until(lambda: net["b"].leads or net["c"].leads, 0.4)
    leader = "b" if net["b"].leads else "c"
    net.run(0.3)
    net.change(leader, b"leave a", b"drop a")
    net.run(3.0)
    assert not net["a"].leads
    assert net[leader].leads


def test_a_leader_that_inherits_its_own_removal_steps_down(tmp_path: Path) -> None:
    net = Net(tmp_path)
    net.elect("a")
    net.cut |= {("b", "a"), ("c", "a")}
    net["a"].propose(b"leave b", change=True)
    net.run(0.1)
    net.kill("a")
    net["c"].node._SyncObj__raftElectionDeadline = net.now + 60
    net.until(lambda: net["b"].leads)
    net["c"].node._SyncObj__raftElectionDeadline = net.now + 60
    net.until(lambda: b"leave b" in net["b"].commands)
    assert not net["b"].leads
    # The one that remains was handed leadership, and needs a majority of two with a.
    net.start("a")
    net.until(lambda: net["c"].leads or net["a"].leads)
    net.run(3.0)
    assert not net["b"].leads


# Two majorities that do not meet: rules (a), (b) and (c).


def five(tmp_path: Path, *guards_off: Guard) -> Net:
    """Three voters of whom a leads, and two learners."""
    net = Net(tmp_path, *guards_off)
    net.elect("a")
    for name in "de":
        net.start(name)
        net.change("a", b"join " + name.encode())
    return net


def diverged(net: Net) -> bool:
    """Whether two members applied different commands at one index."""
    seen: dict[int, bytes] = {}
    applied = [entry for member in net.members.values() for entry in member.machine.applied]
    return any(seen.setdefault(index, command) != command for index, command in applied)


def elected(net: Net, names: str) -> bool:
    """Whether one of these members is elected soon."""
    for _ in range(100):
        if any(net[name].leads for name in names):
            return True
        net.run(0.1)
    return False


@pytest.mark.parametrize("guarded", [True, False])
def test_a_next_change_is_appended_only_after_the_last_is_applied(
    tmp_path: Path, guarded: bool
) -> None:
    net = five(tmp_path, *([] if guarded else [Guard.ONE_CHANGE]))
    a, b = net["a"], net["b"]
    net.split("a", "c")
    first = a.propose(b"count d", change=True)
    second = a.propose(b"count e", change=True)
    net.turn("a")  # b has both in its log, or one,
    net.split("ade", "bc")  # and hears no more of a,
    net.cut.discard(("b", "a"))  # which hears that b has them.
    net.turn("b")
    net.split("ade", "bc")
    net.run(0.1)
    assert first
    assert second
    assert isinstance(second[0], NotExecuted) == guarded
    for _ in range(3):
        a.propose(b"by a, d and e")
    net.run(0.5)
    net["c"].node._SyncObj__raftElectionDeadline = net.now + 60
    elected(net, "b")
    for _ in range(3):
        b.propose(b"by b and c")
    net.run(1.0)
    assert diverged(net) != guarded


def ready_to_stand(net: Net) -> None:
    """Let b hear both changes and that the first is committed, and nothing after that."""
    net.cut |= {("a", "c"), ("a", "b")}
    net.change("a")  # Nothing: only so that it is seen that a leads.
    net["a"].propose(b"count d", change=True)
    net.run(0.04)
    net.cut.discard(("a", "c"))
    net.until(lambda: b"count d" in net["a"].commands)
    net["a"].propose(b"count e", change=True)
    net.until(lambda: b"count e" in net["a"].commands)


@pytest.mark.parametrize("guarded", [True, False])
def test_nobody_stands_before_it_has_applied_what_it_knows_to_be_committed(
    tmp_path: Path, guarded: bool
) -> None:
    net = five(tmp_path, *([] if guarded else [Guard.APPLIED_BEFORE_STANDING]))
    ready_to_stand(net)
    b, term = net["b"], net["a"].node.raftCurrentTerm
    missing = net["a"].journal[b.node.end_index :]
    before = b.journal[-1]
    b.wire.sent.clear()
    b.hear(
        "a",
        {
            "type": "append_entries",
            "term": term,
            "seq": 10**6,
            "commit_index": missing[0][1],  # "count d", when "count e" was appended
            "prevLogIdx": before[1],
            "prevLogTerm": before[2],
            "entries": missing[:2],
        },
    )
    b.hear("a", {"type": "timeout_now", "term": term})
    b.node.doTick(0.0)  # Before the disk is done with what came: nothing of it is applied.
    b.hear("c", {"type": "response_vote", "term": b.node.raftCurrentTerm})
    assert b.leads != guarded
    b.journal.sync()
    b.node.doTick(0.0)
    assert sorted(b.node.voters) == list("abcd")
    b.node.doTick(0.0)
    b.hear("c", {"type": "response_vote", "term": b.node.raftCurrentTerm})
    assert b.leads != guarded


@pytest.mark.parametrize("guarded", [True, False])
def test_after_a_restart_the_members_are_those_of_the_log(tmp_path: Path, guarded: bool) -> None:
    net = five(tmp_path)
    for name in "de":
        net.change("a", b"count " + name.encode())
    net.kill("b")
    net.kill("c")
    for _ in range(3):
        net["a"].propose(b"by a, d and e")
    net.run(0.5)
    assert b"by a, d and e" in net["a"].commands
    b, c = (net.start(name, roster=guarded) for name in "bc")
    net.split("ade", "bc")
    assert sorted(b.node.voters) == (list("abcde") if guarded else list("abc"))
    elected(net, "bc")
    for member in (b, c, b, c, b, c):
        member.propose(b"by b and c")
    net.run(1.0)
    assert diverged(net) != guarded


def test_after_a_restart_the_members_are_those_of_the_snapshot(tmp_path: Path) -> None:
    net = five(tmp_path)
    net.change("a", b"count d", b"leave c")
    for _ in range(3):
        net["a"].propose(b"x")
    net.run(0.3)
    net["b"].node.forceLogCompaction()
    net.run(0.3)
    net.kill("b")
    b = net.start("b")
    assert b.journal[0][1] >= b.machine.members_index
    assert sorted(b.node.voters) == list("abd")
    assert {node.id for node in b.node._SyncObj__readonlyNodes} == set("ce")
