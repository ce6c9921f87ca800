"""What one license server does about what the log brings.

May import the core and this room. What was applied has already happened, on every
server: here it is only followed, in this server's own record, lease and queues. Decides
one thing, what this server knows of what it had granted before. Source: pool protocol,
sections 4 to 6; claims B6, B33.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from licraft.core.outcomes import (
    AllocationsChanged,
    Applied,
    BorrowEnded,
    BorrowOpened,
    Claimed,
    Code,
    LeaderPreferred,
    LeaseRenewed,
    LicenseChanged,
    MembersChanged,
    Moved,
    PoolFormed,
    SeatsBorrowed,
    ServerCameUp,
    ServerWentDown,
    Solicited,
)
from licraft.core.state import PoolState
from licraft.server.audit_log import AuditLog
from licraft.server.borrower import Borrower
from licraft.server.config import ServerConfig
from licraft.server.grants import Grants
from licraft.server.leader import Leader
from licraft.server.license_keeper import LicenseKeeper
from licraft.server.members import Members
from licraft.server.moves import Moves
from licraft.server.pool import ReplicatedPool
from licraft.server.proposer import Proposer
from licraft.server.standing import Standing

log = logging.getLogger(__name__)


class Reactions:
    """Follows the replicated state on one server; hung on its `ReplicatedPool`."""

    def __init__(
        self,
        config: ServerConfig,
        pool: ReplicatedPool,
        proposer: Proposer,
        standing: Standing,
        grants: Grants,
        borrower: Borrower,
        leader: Leader,
        keeper: LicenseKeeper,
        members: Members,
        moves: Moves,
        refresh: Callable[[], None],
        audit_log: AuditLog,
    ) -> None:
        """`refresh` makes the leader priority list anew, as the servers' states changed (R26)."""
        self._config = config
        self._server = config.server
        self._pool = pool
        self._proposer = proposer
        self._standing = standing
        self._grants = grants
        self._borrower = borrower
        self._leader = leader
        self._keeper = keeper
        self._members = members
        self._moves = moves
        self._refresh = refresh
        self._audit_log = audit_log
        self._seen_index = 0

    @property
    def state(self) -> PoolState:
        """The replicated state, to be read."""
        return self._pool.state

    def applied(self, applied: Applied) -> None:
        """Follow a committed entry: the distribution criteria sync message, among others (B6)."""
        self._seen_index = applied.index
        self._proposer.note(applied)
        self._leader.note(applied)
        self._audit_log.follow(self.state.audit)
        me = self._server
        # First what moved, by any command of the entry: the state has its seats here
        # already, and they are for nobody who waits here or elsewhere.
        for event in applied.events:
            if isinstance(event, Moved):
                self._moves.moved(event, applied.index)
        for event in applied.events:
            match event:
                case PoolFormed():
                    self._refresh()
                case ServerCameUp():
                    self._came_up(event)
                case ServerWentDown(server=server):
                    self._went_down(server)
                case LeaseRenewed(server=server, serial=serial) if server == me:
                    self._standing.renewed(serial)
                case AllocationsChanged(feature=feature):
                    self._borrower.allocated(feature)
                case SeatsBorrowed(server=server) if server == me:
                    self._borrower.borrowed(event)
                case BorrowEnded(server=server) if server == me:
                    self._borrower.ended(event)
                case BorrowOpened(feature=feature) | BorrowEnded(feature=feature):
                    self._borrower.offer(self._grants.desk(feature))
                case Solicited(giver=giver) if giver == me:
                    self._borrower.give(event)
                case Claimed():
                    self._moves.claimed(event)
                case LicenseChanged():
                    self._keeper.changed()
                case MembersChanged(server=server):
                    self._refresh()
                    if server == me:
                        self._follow_own_state()
                case LeaderPreferred(server=server):
                    self._leader.prefer(server)
                case _:
                    pass
        if (applied.events or applied.serial) and self._standing.may_grant():
            self._leader.pump()

    def restored(self) -> None:
        """The state was replaced by a snapshot: entries were skipped, look at all of it."""
        self._proposer.note_restored(self.state)
        self._audit_log.follow(self.state.audit)
        me = self.state.servers.get(self._server)
        known = me is not None and me.incarnation == self._standing.incarnation
        told = self._moves.restored(self._seen_index)
        self._seen_index = self.state.index
        if self._standing.incarnation and not (known and told):
            # It came up unseen, so whether it had been reclaimed before cannot be known; or an
            # authorization moved unseen, to this server or away from it.
            self._grants.forget()
            self._standing.recover()
        if me is None or not known or not me.acts:
            self._went_down(self._server)
        self._refresh()
        self._follow_own_state()
        for feature in self.state.table.features:
            self._borrower.allocated(feature)
        for desk in self._grants.desks.values():
            self._borrower.restored(desk)
        self._keeper.changed()

    def _follow_own_state(self) -> None:
        """This server leaves the pool, or does not: what nobody holds goes before it."""
        me = self.state.servers.get(self._server)
        leaving = self._standing.up and (me is None or me.removing)
        if leaving and not self._standing.leaving:
            if self._standing.may_grant():
                self._borrower.give_back()
            self._grants.turn_away(Code.DRAINING)
        self._standing.leave(leaving)

    def _came_up(self, event: ServerCameUp) -> None:
        """A server is up; if it is this one, decide what it knows of what it had granted."""
        self._refresh()
        self._moves.forget_claims(event.server)
        if event.server != self._server or not self._standing.is_mine(event):
            return
        first = self._standing.incarnation == 0
        saved = self._grants.recall(event.previous)
        if saved is not None:
            saved = self._moves.recall(saved, event.adopted)
        if event.reclaimed:
            # Nobody relies on what it granted any more, and the seats may be elsewhere.
            self._grants.forget()
            saved = None
        elif not first or event.previous == 0:
            saved = None  # Its record is in memory, or it never granted anything.
        elif saved is None:
            self._standing.recover()
            log.warning(
                "%s does not know what it had granted: it recovers for %.0f s",
                self._server,
                self._standing.recovering_s(),
            )
        self._standing.came_up(event.incarnation)
        self._borrower.reset()
        for id in event.adopted:
            self._grants.left(id)
        self._moves.begin()
        self._grants.begin(event.incarnation, saved, self.state.servers[self._server].moved_index)
        if not self._standing.recovering_s():
            self._grants.keep_log()
        log.info(
            "%s is up as incarnation %d with %d authorizations",
            self._server,
            event.incarnation,
            len(self._grants.record),
        )
        self._members.compare(self._config.members)

    def _went_down(self, server: str) -> None:
        self._refresh()
        self._moves.forget_claims(server)
        if server == self._server:
            self._standing.went_down()
            self._grants.turn_away(Code.NO_QUORUM)
