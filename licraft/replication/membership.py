"""Who counts in a majority: members that change with the log, one at a time.

May import pysyncobj and this room. Who takes part is part of the replicated state, which the
`Roster` reads; PySyncObj's own dynamic membership (pickled, in force when appended, read
again from everywhere at a restart) is not used, only its question whether a change may be
appended. As in etcd's raft a change is in force on each server when it has *applied* it.

Single-server changes keep the majorities of neighbouring sets overlapping (Ongaro's thesis,
4.1). So that no server ever counts by a set that is two changes old:

    (a) a leader appends a change only when it has applied the one before (M1), and an entry
        of its own term: whoever holds change k + 1 has therefore heard that k is committed,
        for that commit index came with it, and is in the same frame of its journal;
    (b) nobody stands before it has applied all that it has heard to be committed (M2);
    (c) after a restart the members are those of the snapshot and of what is applied of the
        journal, up to its commit index, before any election; never those of a file;
    (d) a name is used once (M4, see `core.membership`): the overlap rests on what voters
        remember, and a new server of an old name has forgotten it.

What happens otherwise: a leads {a, b, c}, and appends "add d" and "add e" at once. Both reach
b, a majority, and a applies them: now {a, d, e} are 3 of 5. b has them in its log and has not
applied them, since a is cut off from b and c. So b counts by {a, b, c}, is elected by itself
and c, and commits; and a commits with d and e: two logs. With (a), "add e" tells b that
"add d" is committed; with (b), b has therefore 4 members when it stands, and b and c are no
majority; with (c), that is so after a restart of b too. If b did not hear of "add e", that was
committed by {a, c, d}, and c does not vote for b, whose log is shorter.

A server that joins or leaves is a learner: PySyncObj calls it a read-only node, sends it the
log, and counts it nowhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pysyncobj.node import Node

from licraft.replication.elections import Candidate
from licraft.replication.engine import Members, Roster
from licraft.replication.library import FOLLOWER, Guard
from licraft.replication.messages import CHANGE

log = logging.getLogger(__name__)

NEARLY_ENTRIES = 100
"""A learner that lacks no more of the log has caught up: it has the rest in a moment."""


class Membership(Candidate):
    """A SyncObj whose members are what its log says; its subclass sets the attributes named."""

    _roster: Roster | None
    _members: Members
    _on_members: Callable[[Members], None]
    _fallback_s: float
    _SyncObj__otherNodes: set[Node]
    _SyncObj__readonlyNodes: set[Node]

    @property
    def voters(self) -> frozenset[str]:
        """The servers that count in majorities, by what this server has applied."""
        return frozenset(self._members.voters)

    @property
    def caught_up_learners(self) -> frozenset[str]:
        """The learners that have nearly the whole log, as far as this leader knows."""
        if not self._SyncObj__readonlyNodes or not self._isLeader():
            return frozenset()
        matched, enough = self._SyncObj__raftMatchIndex, self.end_index - NEARLY_ENTRIES
        return frozenset(
            node.id
            for node in self._SyncObj__readonlyNodes & self._SyncObj__connectedNodes
            if matched.get(node, 0) >= max(enough, 1)
        )

    def _adopt_members(self) -> None:
        """Count from now on by what was applied."""
        members = self._roster.members() if self._roster is not None else None
        if members is None or members == self._members:
            return
        self._count_by(members)
        voters = {Node(name) for name in members.voters if name != self._server}
        learners = {Node(name) for name in members.learners if name != self._server}
        gone = (self._SyncObj__otherNodes | self._SyncObj__readonlyNodes) - voters - learners
        self._SyncObj__otherNodes = voters
        self._SyncObj__readonlyNodes = learners
        for node in voters | learners:
            # As PySyncObj does for every node when it becomes the leader.
            self._SyncObj__raftNextIndex.setdefault(node, self.end_index + 1)
            self._SyncObj__raftMatchIndex.setdefault(node, 0)
            self._SyncObj__lastResponseTime.setdefault(node, self._clock())
        for node in gone:
            self._forget_node(node)
        self._on_members(members)
        if self._isLeader() and not self._votes:
            # It inherited its own removal from the leader before, and has just committed it.
            self.transferLeadership()
            self._SyncObj__setState(FOLLOWER)
            self._SyncObj__raftLeader = None

    def _count_by(self, members: Members) -> None:
        """Set what the elections need to know of the members."""
        self._members = members
        order = list(members.voters)
        self._size = len(order)
        self._votes = self._server in members.voters
        self._rank = order.index(self._server) if self._votes else self._size

    def _forget_node(self, node: Node) -> None:
        """Drop what is known of a server that is gone; the same name may come back as another."""
        for known in (
            self._SyncObj__raftNextIndex,
            self._SyncObj__raftMatchIndex,
            self._SyncObj__lastResponseTime,
        ):
            known.pop(node, None)

    # What PySyncObj asks about a change of members.

    def _SyncObj__parseChangeClusterRequest(self, command: bytes) -> bytes | None:
        """Tell PySyncObj which commands to ask `__changeCluster` about; it unpickles nothing."""
        return command if command[0] == CHANGE else None

    def _SyncObj__changeCluster(self, command: bytes) -> bool:
        """Whether this leader may append a change now; a refused one is never executed."""
        why = self._why_not_change(command[1:])
        if why is not None:
            log.info("a change of members is refused: %s", why)
        return why is None

    def _SyncObj__doChangeCluster(self, command: bytes, reverse: bool = False) -> bool:
        """Nothing changes when an entry is appended or taken back: only what is applied counts."""
        return False

    def _SyncObj__updateClusterConfiguration(self, nodes: object) -> None:
        """A snapshot's members are in its state, for the roster to read."""

    def _why_not_change(self, command: bytes) -> str | None:
        """Why a change of members must wait, or None."""
        after = self._roster.voters_after(command) if self._roster is not None else None
        if after is None:
            return "it is no command of this pool's"
        if not self.leads:
            return "this leader has not yet committed anything of its own term"
        if Guard.ONE_CHANGE in self._guards and self._change_is_open():
            return "the change before is not applied yet"
        if len(after ^ self.voters) > 1:
            return "it would change more than one voter"
        if self._server not in after:
            # Removing the leader: another one has to commit that.
            self.transferLeadership()
            return f"{self._server} leads, and hands over first"
        heard = self._clock() - self._fallback_s / 2
        last = self._SyncObj__lastResponseTime
        connected = self._SyncObj__connectedNodes
        answering = {self._server} | {node.id for node in connected if last.get(node, 0.0) > heard}
        if 2 * len(after & answering) <= len(after):
            silent = ", ".join(sorted(after - answering))
            return f"no majority of the servers that would count is there: {silent} are silent"
        return None

    def _change_is_open(self) -> bool:
        """Whether the log holds a change of members that is not applied yet."""
        first = self._journal[0][1]
        unapplied = self._journal[self.raftLastApplied + 1 - first :]
        return any(entry[0][0] == CHANGE for entry in unapplied)
