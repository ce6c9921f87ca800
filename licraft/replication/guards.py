"""PySyncObj 0.3.17 with a guard at each of its known faults.

May import pysyncobj and this room. Nearly every override is a filter before or after the
inherited method, so that Raft itself stays PySyncObj's. The identifiers (S1, L2, ...) are
those of the list of faults that the contract and simulation tests name. Each guard can be
left out, for tests that show that the fault is real.

What a filter may rely on is Raft's: a leader's log holds every committed entry (leader
completeness), and two logs that agree in one entry agree in all before it (log matching).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

from pysyncobj import FAIL_REASON, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from licraft.errors import InvariantBroken
from licraft.replication.elections import LeaderCheck
from licraft.replication.engine import Members, Roster
from licraft.replication.journal import DurableJournal
from licraft.replication.library import (
    ALL_GUARDS,
    FOLLOWER,
    Guard,
    NoPoller,
    check_library,
    check_member,
    journal_seam,
    use_clock,
)
from licraft.replication.machine import ReplicatedMachine
from licraft.replication.membership import Membership
from licraft.replication.messages import CHANGE, NO_OP, REGULAR, Entry, Message, Piece
from licraft.replication.snapshot import SnapshotStore

WINDOW_BYTES = 4 * 1024 * 1024
MAX_WAITING_BYTES = 64 * 1024 * 1024
"""What a leader takes on before it is committed: etcd calls it MaxUncommittedEntriesSize."""


class GuardedSyncObj(Membership):
    """One member of the pool: a SyncObj whose node ids are server names."""

    def __init__(
        self,
        server: str,
        members: Mapping[str, str],
        conf: SyncObjConf,
        machine: ReplicatedMachine,
        transport: Transport,
        journal: DurableJournal,
        snapshots: SnapshotStore,
        *,
        clock: Callable[[], float],
        rng: random.Random,
        pending_bytes: Callable[[str], int] = lambda server: 0,
        check_leader: LeaderCheck | None = None,
        guards: frozenset[Guard] = ALL_GUARDS,
        roster: Roster | None = None,
        on_members: Callable[[Members], None] = lambda members: None,
    ) -> None:
        """Build the member; `members` are the voters, in order of leader priority.

        They count until the `roster` knows better, which `on_members` is then told. A
        `server` that is not among them is to join.
        """
        check_library()
        use_clock(clock)
        self._journal = journal
        self._snapshots = snapshots
        self._clock = clock
        self._rng = rng
        self._pending_bytes = pending_bytes
        self._guards = guards
        self._server = server
        self._roster = roster
        self._on_members = on_members
        self._fallback_s: float = conf.leaderFallbackTimeout
        self._count_by(Members(0, dict(members), {}))
        self._min_timeout_s: float = conf.raftMinTimeout
        self._max_timeout_s: float = conf.raftMaxTimeout
        self._answering = 0
        self._sent: dict[Node, int] = {}
        self._reset_floor: dict[Node, int] = {}
        self._conflict: int | None = None
        self._paused: set[Node] = set()
        self._announced = (0, 0)
        self._voters: tuple[int, set[Node]] = (0, set())
        self._waiting_bytes = 0
        self._heard_at = clock() - conf.raftMaxTimeout
        self._round = rng.getrandbits(32)
        self._pre_votes: set[Node] = set()
        self._pre_vote_won = False
        self._leader_silent = False
        self._check_leader = check_leader
        others = [Node(name) for name in members if name != server]
        with journal_seam(journal):
            super().__init__(
                Node(server),
                others,
                conf,
                consumers=[machine],
                nodeClass=Node,
                transport=transport,
            )
        check_member(self)
        self._poller = NoPoller()
        self._SyncObj__serializer = snapshots
        self._SyncObj__transport = _Stamping(transport, self._stamp)
        # Request numbers that start at 1 again after a restart would take an answer meant for
        # the process before for their own.
        self._SyncObj__commandsLocalCounter = rng.getrandbits(48)

    # What the engine uses.

    @property
    def leads(self) -> bool:
        """Whether this server is the leader and has applied an entry of its own term."""
        noop = self._SyncObj__noopIDx
        return bool(self._isLeader() and noop is not None and self.raftLastApplied >= noop)

    @property
    def rest_s(self) -> float:
        """How long nothing is due by the clock: no message or fall of a leader, no election."""
        due = self._SyncObj__raftElectionDeadline
        if self._isLeader():
            due = min(self._SyncObj__newAppendEntriesTime, self._falls_back_at())
        return float(due - self._clock())

    def caught_up(self, server: str) -> bool:
        """Whether a follower's log is known to be as long as this leader's."""
        matched: int = self._SyncObj__raftMatchIndex.get(Node(server), 0)
        return matched == self.end_index

    def hand_over(self, server: str) -> None:
        """Tell a follower that has the whole log to stand at once (Raft's TimeoutNow)."""
        self.transferLeadership(Node(server))

    def submit(
        self, command: bytes, callback: Callable[[object, int], None], kind: int = REGULAR
    ) -> None:
        """Queue a state machine command: its bytes after a type byte, never pickled."""
        self._applyCommand(command, callback, kind)

    def forget(self, finished: Callable[[Any], bool]) -> None:
        """Drop the callbacks that nobody waits for any more: PySyncObj keeps some for ever."""
        replies = self._SyncObj__commandsWaitingReply
        for number in [n for n, callback in replies.items() if finished(callback)]:
            del replies[number]
        commits = self._SyncObj__commandsWaitingCommit
        for index in list(commits):
            commits[index] = [waiting for waiting in commits[index] if not finished(waiting[1])]
            if not commits[index]:
                del commits[index]

    def fall_back(self) -> None:
        """Stop leading if no majority has answered for long; a tick does this too.

        Nothing of it has to be durable, so it need not wait for a disk as ticks do.
        """
        if self._isLeader() and self._falls_back_at() <= self._clock():
            self._SyncObj__setState(FOLLOWER)
            self._SyncObj__raftLeader = None

    def _falls_back_at(self) -> float:
        """When a majority will not have answered this leader for too long, if none does."""
        last = self._SyncObj__lastResponseTime
        answers = sorted((last[node] for node in self._SyncObj__otherNodes), reverse=True)
        others_needed = (len(answers) + 1) // 2
        return answers[others_needed - 1] + self._fallback_s if others_needed else math.inf

    # Turns.

    def _onTick(self, timeToWait: float = 0.0) -> None:
        """A tick, with a pre-vote before an election (L4) and news sent at once after it."""
        if Guard.PRE_VOTE in self._guards and self._election_is_due():
            self._start_pre_vote()
        super()._onTick(timeToWait)
        self._pre_vote_won = False
        self._waiting_bytes = 0
        if self._isLeader():
            # What was queued is in the log by now, or was refused.
            unapplied = self._journal[self.raftLastApplied + 1 - self._journal[0][1] :]
            self._waiting_bytes = sum(len(entry[0]) for entry in unapplied)
            # PySyncObj sends only every period, or else once for every single command.
            progress = (self.end_index, self.raftCommitIndex)
            if progress != self._announced:
                self._announced = progress
                self._SyncObj__sendAppendEntries()

    def _applyCommand(
        self, command: bytes, callback: object, commandType: int | None = None
    ) -> None:
        """Queue a command, this server's or another's; a leader has a bound in bytes as well."""
        if self._isLeader():
            waiting = self._waiting_bytes + len(command)
            if self._waiting_bytes and waiting > MAX_WAITING_BYTES:
                self._SyncObj__callErrCallback(FAIL_REASON.QUEUE_FULL, callback)
                return
            self._waiting_bytes = waiting  # Until the end of the tick, which counts anew.
        super()._applyCommand(command, callback, commandType)

    def _SyncObj__applyLogEntries(self) -> bool:
        """Apply what is committed, and only as far as this server's own log is durable (S9)."""
        if Guard.SYNC_BEFORE_APPLY not in self._guards:
            return bool(super()._SyncObj__applyLogEntries())
        commit = self.raftCommitIndex
        self._SyncObj__raftCommitIndex = min(commit, self._journal.durable_end)
        try:
            return bool(super()._SyncObj__applyLogEntries())
        finally:
            self._SyncObj__raftCommitIndex = commit

    def _SyncObj__doApplyCommand(self, command: bytes) -> object:
        """Hand a command's bytes to the one replicated method; nothing is unpickled."""
        kind = command[0]
        if kind in (REGULAR, CHANGE):
            result: object = self._idToMethod[0](command[1:], _doApply=True)
            # Any command may have formed the pool, which says who its members are.
            if self._roster is not None and self._roster.members_index != self._members.index:
                self._adopt_members()
            return result
        if kind != NO_OP:
            # PySyncObj's own entries are pickles: no server of ours proposes one.
            raise InvariantBroken(f"log entry {self.raftLastApplied + 1} has type {kind}")
        return None

    def _SyncObj__sendAppendEntries(self) -> None:
        """Send to each follower, a window of a snapshot at a time."""
        super()._SyncObj__sendAppendEntries()
        # `_stamp` took congested followers out, which is how the inherited loop is left.
        self._SyncObj__connectedNodes |= self._paused
        self._paused.clear()

    def _stamp(self, node: Node, message: Message) -> Message:
        """Add to an outgoing message what lets its receiver judge its age (S5, S6)."""
        kind = message["type"]
        if kind == "append_entries":
            message["seq"] = self._sent[node] = self._sent.get(node, 0) + 1
            if "serialized" in message:
                self._pace_snapshot(node, message["serialized"])
            elif message["entries"]:
                self._pace_entries(node, message)
        elif kind == "next_node_idx":
            message["term"] = self.raftCurrentTerm
            message["seq"] = self._answering
        return message

    def _pace_snapshot(self, node: Node, piece: Piece | None) -> None:
        """Pause a snapshot while the follower's connection holds a window of it already."""
        if piece is not None and piece.last:
            return  # The inherited loop must go on to set the follower's next index.
        if piece is None or self._pending_bytes(node.id) > WINDOW_BYTES:
            self._pause(node)

    def _pace_entries(self, node: Node, message: Message) -> None:
        """Send a heartbeat instead while the follower's connection holds a window of entries.

        PySyncObj hands over the whole rest of the log at once; where that is more than a
        connection may hold, it would end each new one before anything of it arrived.
        """
        if self._pending_bytes(node.id) > WINDOW_BYTES:
            message["entries"] = []
            self._SyncObj__raftNextIndex[node] = message["prevLogIdx"] + 1
            self._pause(node)

    def _pause(self, node: Node) -> None:
        """Leave the inherited loop over what this follower lacks, for this time."""
        self._SyncObj__connectedNodes.discard(node)
        self._paused.add(node)

    # Messages.

    def _SyncObj__onMessageReceived(self, node: Node, message: Message) -> None:
        """Filter a message, then let PySyncObj act on it."""
        kind = message["type"]
        if kind == "append_entries":
            self._receive_append_entries(node, message)
        elif kind == "next_node_idx":
            self._receive_acknowledgement(node, message)
        elif kind == "pre_vote":
            self._answer_pre_vote(node, message)
        elif kind == "pre_vote_answer":
            self._count_pre_vote(node, message)
        elif kind == "timeout_now" and not self._votes:
            pass  # It would wait for its own election for ever.
        elif kind != "response_vote" or self._first_vote(node, message["term"]):
            super()._SyncObj__onMessageReceived(node, message)

    def _receive_append_entries(self, node: Node, message: Message) -> None:
        """Take a leader's message; tell one of an earlier term which term it is (L4)."""
        self._answering = message["seq"]
        if message["term"] < self.raftCurrentTerm:
            if Guard.PRE_VOTE in self._guards:
                self._SyncObj__sendNextNodeIdx(node)
            return
        self._heard_at = self._clock()
        self._pre_vote_won = False
        self._round += 1
        if "prevLogIdx" not in message:
            self._receive_snapshot(node, message)
            return
        message, self._conflict = self._unseen_part(message)
        super()._SyncObj__onMessageReceived(node, message)
        self._conflict = None

    def _unseen_part(self, message: Message) -> tuple[Message, int | None]:
        """What of the entries this log lacks, and the index where it contradicts them, if any.

        The commit index is bounded by the last entry that is known to match (Raft,
        figure 2): PySyncObj bounds it by the end of the log, of which a tail may be
        anybody's.
        """
        if Guard.CONFLICT_ONLY not in self._guards:
            return message, None
        entries: list[Entry] = message["entries"]
        previous, previous_term = message["prevLogIdx"], message["prevLogTerm"]
        first, end, applied = self._journal[0][1], self.end_index, self.raftLastApplied
        matched_end = previous + len(entries)
        conflict = None
        if first <= previous <= end and self._journal[previous - first][2] != previous_term:
            if previous <= max(applied, self.raftCommitIndex):
                raise InvariantBroken(f"the leader contradicts the committed entry {previous}")
            return message, None  # PySyncObj answers with a reset and goes no further.
        if previous > end:
            return message, None
        seen = 0
        for _, index, term in entries:
            if index > end:
                break
            if index >= first and self._journal[index - first][2] != term:
                conflict = index
                break
            seen += 1
        if conflict is not None and conflict <= max(applied, self.raftCommitIndex):
            raise InvariantBroken(f"the leader contradicts the committed entry {conflict}")
        # Everything applied is committed, so the leader's log agrees with ours up to there.
        agreed = max(previous + seen, applied)
        return {
            **message,
            "entries": entries[agreed - previous :],
            "prevLogIdx": agreed,
            "prevLogTerm": self._journal[agreed - first][2],
            "commit_index": min(message["commit_index"], max(matched_end, applied)),
        }, conflict

    def _receive_snapshot(self, node: Node, message: Message) -> None:
        """Take a piece of a snapshot, or a heartbeat that stands for one, and acknowledge it."""
        piece: Piece | None = message["serialized"]
        # S1: the leader's commit index says nothing about a log that was not compared.
        commit_index = 0 if Guard.COMMIT_INDEX in self._guards else message["commit_index"]
        refused = Guard.FRESH_RESET in self._guards and self._has_snapshot(piece)
        complete = not refused and piece is not None and self._snapshots.take_piece(node, piece)
        super()._SyncObj__onMessageReceived(
            node, {**message, "serialized": complete, "commit_index": commit_index}
        )
        if not complete:
            # PySyncObj acknowledges the last piece only: meanwhile its leader would take this
            # server for dead, and step down.
            self._SyncObj__sendNextNodeIdx(node, reset=refused)

    def _has_snapshot(self, piece: Piece | None) -> bool:
        """Whether a snapshot would take this server back, or tell it only what it has (S5)."""
        if piece is None:
            return False
        index, term = piece.id
        first = self._journal[0][1]
        if index <= self.raftLastApplied:
            return True
        if index > self.end_index or self._journal[index - first][2] != term:
            return False
        # The log agrees with the snapshot at its end, hence all before it: it is committed,
        # and the entries after it must not be given up.
        self._SyncObj__raftCommitIndex = max(self.raftCommitIndex, index)
        return True

    def _receive_acknowledgement(self, node: Node, message: Message) -> None:
        """Take a follower's answer, if it belongs to this term and is not overtaken (S5, S6)."""
        if message["term"] > self.raftCurrentTerm:
            self._give_way(message["term"])
            return
        stale = message["term"] < self.raftCurrentTerm
        if stale and Guard.TERM_OF_ACKNOWLEDGEMENT in self._guards:
            return
        if not self._isLeader() or message["next_node_idx"] > self.end_index + 1:
            return
        if node not in self._SyncObj__raftNextIndex:
            return  # It was a member.
        reset = message["reset"]
        if reset and Guard.FRESH_RESET in self._guards:
            # A reset answers one message; others that were already on their way when it came
            # are answered with resets too, and those are about the state before it.
            reset = message["seq"] > self._reset_floor.get(node, 0)
            if reset:
                self._reset_floor[node] = self._sent.get(node, 0)
        next_index = self._SyncObj__raftNextIndex
        before = next_index[node]
        super()._SyncObj__onMessageReceived(node, {**message, "reset": reset})
        if not reset and next_index[node] < before:
            # PySyncObj takes the next index back to what was acknowledged, and sends again
            # everything that is on its way.
            next_index[node] = before

    def _SyncObj__sendNextNodeIdx(
        self,
        node: Node,
        reset: bool = False,
        nextNodeIdx: int | None = None,
        success: bool = False,
    ) -> None:
        """Answer a leader; a reset names the first index that may differ from its log (L2)."""
        if reset and Guard.RESET_TO_COMMIT in self._guards:
            # The committed part agrees with every leader's log, so one step back suffices.
            nextNodeIdx = max(self.raftCommitIndex, self.raftLastApplied) + 1
        super()._SyncObj__sendNextNodeIdx(
            node, reset=reset, nextNodeIdx=nextNodeIdx, success=success
        )

    def _SyncObj__deleteEntriesFrom(self, fromIDx: int) -> None:
        """Truncate the log where it contradicts the leader's, and only there (S4)."""
        if Guard.CONFLICT_ONLY in self._guards:
            if self._conflict is None:
                return
            if fromIDx != self._conflict:
                raise InvariantBroken(f"truncation at {fromIDx}, conflict at {self._conflict}")
        super()._SyncObj__deleteEntriesFrom(fromIDx)

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:
        """Load the verified snapshot; PySyncObj only logs a failure, and goes on (S8)."""
        super()._SyncObj__loadDumpFile(clearJournal)
        current = self._snapshots.current
        if current is None or self.raftLastApplied != current.last[1]:
            raise InvariantBroken("a snapshot could not be restored: see the error logged before")
        # Whatever a snapshot holds is committed.
        commit = max(self.raftCommitIndex, current.last[1])
        self._SyncObj__raftCommitIndex = commit
        self._journal.setRaftCommitIndex(commit)
        self._SyncObj__lastSerializedEntry = current.previous[1]
        self._adopt_members()

    # Connections and members.

    def _forget_node(self, node: Node) -> None:
        """Forget what was sent to a server that is gone."""
        super()._forget_node(node)
        self._sent.pop(node, None)
        self._reset_floor.pop(node, None)
        self._paused.discard(node)
        self._snapshots.cancelTransmisstion(node)

    def _SyncObj__onNodeConnected(self, node: Node) -> None:
        """A new connection starts a snapshot from its beginning (S8)."""
        self._snapshots.cancelTransmisstion(node)
        super()._SyncObj__onNodeConnected(node)

    def _SyncObj__onNodeDisconnected(self, node: Node) -> None:
        """Forget half a snapshot, and stand soon if it was the leader that went."""
        self._snapshots.cancelTransmisstion(node)
        self._paused.discard(node)
        super()._SyncObj__onNodeDisconnected(node)
        if node == self._SyncObj__raftLeader:
            self._snapshots.drop_arriving()
            soon = self._clock() + self._election_timeout_s() - self._min_timeout_s
            self._SyncObj__raftElectionDeadline = min(self._SyncObj__raftElectionDeadline, soon)


class _Stamping:
    """PySyncObj's view of the transport: everything that it sends is stamped first."""

    ready = True

    def __init__(self, transport: Transport, stamp: Callable[[Node, Message], Message]) -> None:
        self._transport = transport
        self._stamp = stamp

    def send(self, node: Node, message: Message) -> bool:
        """Stamp and send; whether the peer is connected."""
        return bool(self._transport.send(node, self._stamp(node, message)))

    def destroy(self) -> None:
        """Close every connection."""
        self._transport.destroy()
