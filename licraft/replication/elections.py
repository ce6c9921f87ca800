"""Elections: pre-vote, the leader priority list, and how a higher term is taken over (L4).

May import pysyncobj and this room. The election itself, and the votes, are PySyncObj's.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from pysyncobj import SyncObj
from pysyncobj.node import Node

from licraft.replication.journal import DurableJournal
from licraft.replication.library import FOLLOWER, Guard
from licraft.replication.messages import Message

LeaderCheck = Callable[[str, Callable[[int | None], None]], None]
"""Asks a server over a fresh connection; calls back with the term that it leads, or None."""


class Candidate(SyncObj):  # type: ignore[misc]  # PySyncObj has no types
    """A SyncObj that asks before it stands; its subclass sets the attributes named here."""

    _journal: DurableJournal
    _clock: Callable[[], float]
    _rng: random.Random
    _guards: frozenset[Guard]
    _server: str
    _rank: int
    _size: int
    _votes: bool
    _min_timeout_s: float
    _max_timeout_s: float
    _heard_at: float
    _round: int
    _pre_votes: set[Node]
    _pre_vote_won: bool
    _leader_silent: bool
    _check_leader: LeaderCheck | None
    _voters: tuple[int, set[Node]]
    _SyncObj__raftElectionDeadline: float
    _SyncObj__raftLeader: Node | None

    @property
    def end_index(self) -> int:
        """Index of the last log entry."""
        return self._journal[-1][1]

    def _SyncObj__generateRaftTimeout(self) -> float:
        """An election timeout (s), shorter for a server of higher leader priority."""
        return self._election_timeout_s()

    def _election_timeout_s(self) -> float:
        """Random within this rank's slot of the range, so that the highest usually stands first."""
        if self._size == 1 and self._votes:
            return 0.0
        slot = (self._max_timeout_s - self._min_timeout_s) / self._size
        return self._min_timeout_s + slot * (self._rank + 0.6 * self._rng.random())

    def _election_is_due(self) -> bool:
        """Whether PySyncObj would start an election in this tick without having asked."""
        return bool(
            self._size > 1
            and self._may_stand()
            and not self._isLeader()
            and not self._pre_vote_won
            and not self._SyncObj__transferInProgress
            and self._SyncObj__raftElectionDeadline < self._clock()
        )

    def _may_stand(self) -> bool:
        """Whether this server may be elected: it counts, and knows by whom it is counted (M2)."""
        known = self.raftLastApplied >= self.raftCommitIndex
        return self._votes and (known or Guard.APPLIED_BEFORE_STANDING not in self._guards)

    def _SyncObj__connectedToAnyone(self) -> bool:
        """The last thing that PySyncObj asks before it starts an election."""
        return self._may_stand() and bool(super()._SyncObj__connectedToAnyone())

    def _start_pre_vote(self) -> None:
        """Ask whether an election would be won, before it costs anyone a term."""
        self._SyncObj__raftElectionDeadline = self._clock() + self._election_timeout_s()
        self._round += 1
        self._pre_votes = set()
        self._send_check()
        question = {
            "type": "pre_vote",
            "term": self.raftCurrentTerm,
            "round": self._round,
            "last_log_index": self.end_index,
            "last_log_term": self._journal[-1][2],
        }
        for node in self._SyncObj__otherNodes:
            self._SyncObj__transport.send(node, dict(question))

    def _send_check(self) -> None:
        """Ask the leader itself, over a fresh connection; no election while it answers (R22)."""
        leader, round_ = self._SyncObj__raftLeader, self._round
        self._leader_silent = leader is None or self._check_leader is None
        if leader is not None and self._check_leader is not None:
            self._check_leader(leader.id, lambda term: self._end_check(round_, term))

    def _end_check(self, round_: int, term: int | None) -> None:
        """The leader has answered the check with the term that it leads, or has not (None)."""
        if round_ != self._round:
            return
        if term is not None and term >= self.raftCurrentTerm:
            self._round += 1  # It leads: what is still answered to this round counts no more.
            return
        self._leader_silent = True
        self._stand_if_wanted()

    def _answer_pre_vote(self, node: Node, message: Message) -> None:
        """Grant a pre-vote if no leader is alive and the candidate's log is as good as ours."""
        theirs = (message["last_log_term"], message["last_log_index"])
        ours = (self._journal[-1][2], self.end_index)
        granted = (
            message["term"] >= self.raftCurrentTerm
            and theirs >= ours
            and not self._leader_is_alive()
        )
        if message["term"] > self.raftCurrentTerm and self._isLeader():
            # The asker ignores whatever a lower term says: only a new term brings it back.
            self._give_way(message["term"])
            return
        answer = {
            "type": "pre_vote_answer",
            "term": self.raftCurrentTerm,
            "round": message["round"],
            "granted": granted,
        }
        self._SyncObj__transport.send(node, answer)

    def _leader_is_alive(self) -> bool:
        """Whether this server leads, or has heard from a leader that it is connected to."""
        if self._isLeader():
            return True
        leader = self._SyncObj__raftLeader
        silence_s = self._clock() - self._heard_at
        return leader in self._SyncObj__connectedNodes and silence_s < 0.9 * self._min_timeout_s

    def _count_pre_vote(self, node: Node, message: Message) -> None:
        """Count an answer of this round; with a majority the election starts in the next tick."""
        if message["term"] > self.raftCurrentTerm:
            self._give_way(message["term"])
            return
        if message["round"] != self._round or not message["granted"] or self._isLeader():
            return
        if node not in self._SyncObj__otherNodes:
            return
        self._pre_votes.add(node)
        self._stand_if_wanted()

    def _stand_if_wanted(self) -> None:
        """Stand if a majority, with this server, would vote for it and the leader is silent."""
        if self._leader_silent and 2 * (len(self._pre_votes) + 1) > self._size:
            self._stand_now()

    def _stand_now(self) -> None:
        """Let the next tick start an election."""
        self._pre_vote_won = True
        self._SyncObj__raftElectionDeadline = 0.0

    def _give_way(self, term: int) -> None:
        """Take over a higher term; a leader is elected anew in the next one (L4)."""
        led = self._isLeader()
        self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None
        if led:
            self._stand_now()

    def _first_vote(self, node: Node, term: int) -> bool:
        """Whether this is the first vote of a voter in a term: PySyncObj counts messages."""
        if node not in self._SyncObj__otherNodes:
            return False
        if self._voters[0] != term:
            self._voters = (term, set())
        if node in self._voters[1]:
            return False
        self._voters[1].add(node)
        return True
