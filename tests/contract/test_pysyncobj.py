"""The facts about PySyncObj 0.3.17 that the engine is built on.

Each test states one of them, most by leaving a guard out and watching the fault happen,
and then that the guard stops it. An upgrade that changes a fact fails here first.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pysyncobj.syncobj
import pytest
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, SyncObjConsumer, replicated
from pysyncobj.journal import Journal
from pysyncobj.node import Node
from pysyncobj.serializer import Serializer
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from licraft.errors import InvariantBroken, NotExecuted, OutcomeUnknown
from licraft.replication import library
from licraft.replication.guards import GuardedSyncObj
from licraft.replication.journal import DurableJournal
from licraft.replication.library import ALL_GUARDS, Guard, check_library, configuration
from licraft.replication.machine import ReplicatedMachine
from licraft.replication.messages import NO_OP, REGULAR, Message, Piece
from licraft.replication.proposals import error_of
from licraft.replication.snapshot import Snapshot, SnapshotStore, encode, reconcile

ALPHA, BETA, GAMMA = Node("alpha"), Node("beta"), Node("gamma")
MEMBERS = {"alpha": "127.0.0.1:1", "beta": "127.0.0.1:2", "gamma": "127.0.0.1:3"}


class Recorder:
    """A state machine that remembers what was applied."""

    def __init__(self) -> None:
        self.applied: list[tuple[int, bytes]] = []
        self.state = b""

    def apply(self, index: int, command: bytes) -> object:
        if command == b"raise":
            raise ValueError("not total")
        self.applied.append((index, command))
        return index

    def snapshot(self) -> bytes:
        return b"state"

    def restore(self, index: int, snapshot: bytes) -> None:
        self.applied.clear()
        self.state = snapshot


class Wire(Transport):  # type: ignore[misc]  # PySyncObj has no types
    """A transport that keeps what is sent."""

    def __init__(self) -> None:
        super().__init__(None, None, [])
        self.sent: list[tuple[str, Message]] = []

    def send(self, node: Node, message: Message) -> bool:
        self.sent.append((node.id, dict(message)))
        return True

    def take(self) -> list[tuple[str, Message]]:
        sent, self.sent = self.sent, []
        return sent


@dataclass
class Bench:
    """One member, alone with a clock, a wire and whatever messages a test invents."""

    directory: Path
    guards: frozenset[Guard] = ALL_GUARDS
    server: str = "beta"
    now: float = 100.0
    machine: Recorder = field(default_factory=Recorder)
    wire: Wire = field(default_factory=Wire)
    seq: int = 0

    def __post_init__(self) -> None:
        self.directory.mkdir(exist_ok=True)
        self.journal = DurableJournal(self.directory, "pool", self.server)
        self.store = SnapshotStore(self.directory, "pool", MEMBERS)
        reconcile(self.journal, self.store.current)
        conf = self.configure(self.store.path)
        self.node = GuardedSyncObj(
            self.server,
            MEMBERS,
            conf,
            ReplicatedMachine(self.machine),
            self.wire,
            self.journal,
            self.store,
            clock=lambda: self.now,
            rng=random.Random(1),
            guards=self.guards,
        )
        for name in MEMBERS:
            if name != self.server:
                self.node._SyncObj__onNodeConnected(Node(name))
        self.node.doTick(0.0)

    @staticmethod
    def configure(path: Path) -> SyncObjConf:
        """Small batches and compaction only when it is forced."""
        return configuration(
            path,
            append_entries_period_s=0.1,
            election_timeout_s=(0.5, 1.0),
            leader_fallback_s=1.0,
            queue_size=100,
            batch_bytes=10_000,
            compaction_entries=1000,
            compaction_period_s=1e9,
        )

    def hear(self, node: Node, kind: str, **fields: Any) -> None:
        self.node._SyncObj__onMessageReceived(node, {"type": kind, **fields})

    def append(
        self, previous: tuple[int, int], *terms: int, commit: int = 0, term: int = 9
    ) -> list[tuple[str, Message]]:
        """An append_entries of alpha's; each entry is told by its term. Returns the answers."""
        self.seq += 1
        index, previous_term = previous
        entries = [
            (b"\0%d/%d" % (index + 1 + offset, entry_term), index + 1 + offset, entry_term)
            for offset, entry_term in enumerate(terms)
        ]
        self.hear(
            ALPHA,
            "append_entries",
            term=term,
            seq=self.seq,
            commit_index=commit,
            prevLogIdx=index,
            prevLogTerm=previous_term,
            entries=entries,
        )
        return self.wire.take()

    def piece(self, piece: Piece | None, commit: int) -> list[tuple[str, Message]]:
        """A piece of a snapshot from alpha."""
        self.seq += 1
        self.hear(
            ALPHA,
            "append_entries",
            term=9,
            seq=self.seq,
            commit_index=commit,
            serialized=piece,
        )
        return self.wire.take()

    @property
    def terms(self) -> list[int]:
        """The terms of the log's entries, from index 1 on."""
        return [entry[2] for entry in self.journal[:]]

    def lead(self) -> None:
        """Become the leader by beta's or gamma's vote."""
        voter = GAMMA if self.server != "gamma" else BETA
        self.now += 2.0
        self.node.doTick(0.0)
        questions = [m for _, m in self.wire.take() if m["type"] == "pre_vote"]
        if questions:
            answer = {"term": self.node.raftCurrentTerm, "round": questions[0]["round"]}
            self.hear(voter, "pre_vote_answer", granted=True, **answer)
            self.node.doTick(0.0)
        self.hear(voter, "response_vote", term=self.node.raftCurrentTerm)
        assert self.node._isLeader()
        self.node.doTick(0.0)


@pytest.fixture(autouse=True)
def clock() -> Iterator[None]:
    """PySyncObj's clock is one for the process: put it back."""
    before = pysyncobj.syncobj.monotonicTime
    yield
    pysyncobj.syncobj.monotonicTime = before


def without(*guards: Guard) -> frozenset[Guard]:
    return ALL_GUARDS - set(guards)


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
    bench.node.doTick(0.0)
    assert bench.machine.applied == [(2, b"2/9"), (3, b"3/9")]


def test_s11_a_method_that_raises_stops_the_tick(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.journal.add(b"\0raise", 2, 1)
    bench.node._SyncObj__raftCommitIndex = 2
    with pytest.raises(ValueError, match="not total"):
        bench.node.doTick(0.0)


def test_s9_the_log_is_durable_before_it_is_applied(tmp_path: Path) -> None:
    for guards, durable in ((without(Guard.SYNC_BEFORE_APPLY), False), (ALL_GUARDS, True)):
        bench = Bench(tmp_path / str(durable), guards)
        bench.append((1, 0), 9, commit=2)
        bench.node.doTick(0.0)
        assert bench.machine.applied == [(2, b"2/9")]
        assert bench.journal.dirty is not durable


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
    bench.node.doTick(0.0)
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
    bench.node.doTick(0.0)
    assert [index for index, _ in bench.machine.applied] == ([] if guarded else [2, 3])


def test_a_snapshot_is_installed_and_the_log_goes_on_after_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.append((1, 0), 5, 5, term=5)
    (answer,) = bench.piece(snapshot(40), commit=45)
    assert (answer[1]["success"], answer[1]["next_node_idx"]) == (True, 41)
    assert bench.machine.state == b"state of 40"
    assert bench.node.raftLastApplied == bench.node.raftCommitIndex == 40
    bench.append((40, 9), 9, commit=41)
    bench.node.doTick(0.0)
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
    bench.node.doTick(0.0)
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
    bench.node.doTick(0.0)
    bench.node.doTick(0.0)
    assert [entry[1] for entry in bench.journal[:]] == list(range(14, 22))
    assert bench.store.current is not None
    assert bench.store.current.last == bench.journal[1]
    assert bench.store.current.previous == bench.journal[0]


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
    bench.node.doTick(0.0)
    acknowledge(bench, GAMMA, bench.node.end_index + 1)
    bench.node.doTick(0.0)
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
    bench.node.doTick(0.0)
    assert bench.node.raftCommitIndex == (1 if guarded else 2)


@pytest.mark.parametrize("guarded", [False, True])
def test_s5_of_two_resets_in_flight_one_counts(tmp_path: Path, guarded: bool) -> None:
    bench = Bench(tmp_path, ALL_GUARDS if guarded else without(Guard.FRESH_RESET))
    bench.lead()
    first = bench.node._sent[GAMMA]
    acknowledge(bench, GAMMA, 2, reset=True, success=False, seq=first)
    bench.now += 0.2
    bench.node.doTick(0.0)
    assert bench.node._SyncObj__raftNextIndex[GAMMA] == 3
    acknowledge(bench, GAMMA, 2, reset=True, success=False, seq=first)
    assert bench.node._SyncObj__raftNextIndex[GAMMA] == (3 if guarded else 2)


def test_an_acknowledgement_takes_back_nothing_that_is_on_its_way(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.lead()
    for _ in range(5):
        bench.node.submit(b"x", lambda result, reason: None)
    bench.node.doTick(0.0)
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
    bench.node.doTick(0.0)
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
        bench.node.doTick(0.0)
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
    bench.node.doTick(0.0)
    votes = [m for _, m in bench.wire.take() if m["type"] == "request_vote"]
    assert {vote["term"] for vote in votes} == {41}


def test_votes_are_counted_by_server(tmp_path: Path) -> None:
    members = 5
    bench = Bench(tmp_path)
    for extra in range(members - 3):
        bench.node._SyncObj__otherNodes.add(Node(f"extra{extra}"))
    bench.node._pre_vote_won = True
    bench.node._SyncObj__raftElectionDeadline = 0.0
    bench.node.doTick(0.0)
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
        bench.node.doTick(0.0)
        ((server, done),) = checks
        assert server == "alpha"
        fields = {"term": 9, "round": bench.node._round, "granted": True}
        bench.hear(GAMMA, "pre_vote_answer", **fields)
        bench.node.doTick(0.0)
        assert bench.node.raftCurrentTerm == 9
        done(answer)
        bench.node.doTick(0.0)
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
