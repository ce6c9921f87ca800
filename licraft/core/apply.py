"""apply(state, entry): the only thing that changes the replicated state.

May import the rest of the core. It reads no clock, random source or file, so every
server that applies the same log has the same state. It is total: a command that
does not fit the state has no effect and says so in its outcome.
"""

from __future__ import annotations

from functools import singledispatch

from licraft.core import criteria
from licraft.core.audit import audited
from licraft.core.commands import (
    AddAllocations,
    AddServer,
    Adopt,
    Audited,
    Borrow,
    Claim,
    Command,
    Drain,
    DropServer,
    EndBorrow,
    Entry,
    ForgetMoves,
    FormPool,
    HandOver,
    InstallLicense,
    Level,
    LicenseConflict,
    PreferLeader,
    PromoteServer,
    Reason,
    Reclaim,
    Release,
    RemoveAuthorization,
    RemoveServer,
    RenewLease,
    ServerDown,
    ServerUp,
    SetBorrowing,
    SetDistribution,
    Solicit,
    Source,
)
from licraft.core.conflicts import note_conflict, settle_conflicts
from licraft.core.lending import draw, drop, drop_borrows, empty, give, serve
from licraft.core.license import CodeStatus, entitlements, unpacked
from licraft.core.membership import change, drain
from licraft.core.moves import adopt, adopted_from, can_claim, forget, hand_over
from licraft.core.outcomes import (
    DONE,
    OVERTAKEN,
    STALE,
    AllocationsChanged,
    Applied,
    BorrowEnded,
    BorrowOpened,
    Claimed,
    Code,
    Effect,
    Event,
    LeaderPreferred,
    LeaseRenewed,
    LicenseChanged,
    MembersChanged,
    Moved,
    Outcome,
    PoolFormed,
    SeatsReclaimed,
    ServerCameUp,
    ServerWentDown,
    Solicited,
)
from licraft.core.state import PoolState, ServerState, ServerStatus
from licraft.core.table import PendingBorrow

_LAST_SECOND = 253_402_300_799  # of the year 9999, the last that a date can name


def apply(state: PoolState, index: int, entry: Entry) -> Applied:
    """Apply one committed entry; returns its outcomes and what changed.

    A sequenced entry counts once: repeated, it returns the outcomes of the first time.
    Entries of a server that is down or of an earlier incarnation have no effect.
    """
    state.index = index
    events: list[Event] = []
    server = state.servers.get(entry.server)
    outcomes: tuple[Outcome, ...]
    if entry.serial == 0:
        outcomes = tuple(_apply_from(entry, c, state, index, events) for c in entry.commands)
    elif server is None or not server.acts or server.incarnation != entry.incarnation:
        outcomes = tuple(STALE for _ in entry.commands)
    elif entry.serial == server.requests:
        outcomes = server.results
    elif entry.serial < server.requests:
        outcomes = tuple(OVERTAKEN for _ in entry.commands)
    else:
        outcomes = tuple(_apply_from(entry, c, state, index, events) for c in entry.commands)
        server.requests = entry.serial
        server.results = outcomes
    return Applied(index, entry.server, entry.incarnation, entry.serial, outcomes, tuple(events))


def _apply_from(
    entry: Entry, command: Command, state: PoolState, index: int, events: list[Event]
) -> Outcome:
    """Apply a command; seats are asked for and given once, by the server that has them."""
    match command:
        case Borrow(server=server) | Release(server=server) | Adopt(server=server):
            own = server == entry.server and entry.serial > 0
        case HandOver(issuer=issuer):
            own = issuer == entry.server and entry.serial > 0
        case Audited(command=wrapped):
            # Nobody but servers moves seats, and nobody asks for them by asking for an asking.
            own = not isinstance(wrapped, Audited | Borrow | Release | Adopt | HandOver)
        case _:
            own = True
    if not own:
        return STALE
    return _apply(command, state, index, events)


@singledispatch
def _apply(command: Command, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """Apply one command; the state machine knows no other kinds."""
    raise TypeError(f"no rule for {type(command).__name__}")


@_apply.register
def _audited(command: Audited, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """An administrator's command has its effect like any, and is written into the audit."""
    return audited(state, index, command, lambda inner: _apply(inner, state, index, events))


@_apply.register
def _struck(
    command: RemoveAuthorization, state: PoolState, index: int, events: list[Event]
) -> Outcome:
    """An authorization is to end: told here for the audit, done by the server that has it."""
    return DONE


@_apply.register
def _form(command: FormPool, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """The first FormPool counts; later ones, proposed by other servers, have no effect."""
    if state.formed or not command.members:
        return OVERTAKEN
    state.pool = command.pool
    state.secret = command.secret
    state.pool_key = command.pool_key
    state.lease_s = command.lease_s
    state.ttl_s = command.ttl_s
    state.drift = command.drift
    state.servers = {m.name: ServerState(m.name, m.api, m.peer) for m in command.members}
    state.members_index = index
    state.membership += 1
    events.append(PoolFormed())
    return DONE


@_apply.register
def _members(
    command: AddServer | PromoteServer | RemoveServer,
    state: PoolState,
    index: int,
    events: list[Event],
) -> Outcome:
    """A server joins, counts from now on, or is on its way out."""
    outcome = change(state, index, command)
    if outcome.effect is Effect.DONE:
        server = command.member.name if isinstance(command, AddServer) else command.server
        if isinstance(command, RemoveServer):
            drop_borrows(state, server, events)
        events.append(MembersChanged(server, state.servers[server].word))
    return outcome


@_apply.register
def _dropped(command: DropServer, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """A server that left is gone, and what was in its name is in the free pool."""
    outcome = change(state, index, command)
    if outcome.effect is Effect.DONE:
        empty(state, command.server, events)
        criteria.forget(state, command.server)
        events.append(MembersChanged(command.server, ""))
    return outcome


@_apply.register
def _drain(command: Drain, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """A server is to be empty, or not any more; what it still holds it gives away itself."""
    outcome = drain(state, command)
    if outcome.effect is Effect.DONE:
        server = state.servers[command.server]
        if server.drained:
            drop_borrows(state, server.name, events)
        if server.drained and server.available:
            empty(state, server.name, events)
        events.append(MembersChanged(server.name, server.word))
    return outcome


@_apply.register
def _up(command: ServerUp, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """A server starts to act, as the next incarnation; what it had asked before is void."""
    server = state.servers.get(command.server)
    if server is None or not server.votes or command.incarnation != server.incarnation + 1:
        return OVERTAKEN
    if command.knows < state.version:
        return STALE  # It could not read what the pool writes.
    events.append(
        ServerCameUp(
            server.name,
            command.incarnation,
            command.nonce,
            server.incarnation,
            server.reclaimed,
            adopted_from(server),
        )
    )
    server.incarnation = command.incarnation
    server.status = ServerStatus.DRAINING if server.drained else ServerStatus.UP
    server.threshold = command.threshold
    server.knows = command.knows
    state.version = max(state.version, min(s.knows for s in state.servers.values()))
    server.lease_serial = server.requests = server.down_index = 0
    server.results = ()
    server.in_use = {}
    server.reclaimed = False
    state.membership += 1
    drop_borrows(state, server.name, events)
    return DONE


@_apply.register
def _renew(command: RenewLease, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """A renewal counts if it is of the acting incarnation and newer than the last (section 4)."""
    server = state.servers.get(command.server)
    if server is None or not server.acts or server.incarnation != command.incarnation:
        return STALE
    if server.removing:
        return STALE  # Its lease runs out, and with it what it may do.
    if command.serial <= server.lease_serial:
        return OVERTAKEN
    server.lease_serial = command.serial
    server.in_use = dict(command.in_use)
    server.wall_s = command.wall_s
    events.append(LeaseRenewed(server.name, command.serial))
    _advance_clock(state, events)
    return DONE


@_apply.register
def _down(command: ServerDown, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """A server is down, unless a renewal later than the one waited on came first (R21)."""
    server = state.servers.get(command.server)
    if (
        server is None
        or not server.acts
        or server.incarnation != command.incarnation
        or server.lease_serial != command.lease_serial
    ):
        return OVERTAKEN
    server.status = ServerStatus.DOWN
    server.down_index = index
    if state.preferred_leader == server.name:
        state.preferred_leader = ""
    state.membership += 1
    events.append(ServerWentDown(server.name))
    drop_borrows(state, server.name, events)
    return DONE


@_apply.register
def _reclaim(command: Reclaim, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """What the server left is available, if it is still down by that very entry (section 4)."""
    server = state.servers.get(command.server)
    if server is None or server.reclaimed or server.down_index != command.down_index:
        return OVERTAKEN
    if server.status is not ServerStatus.DOWN:
        return OVERTAKEN
    server.reclaimed = True
    server.in_use = {}
    events.append(SeatsReclaimed(server.name))
    for pool in state.table.features.values():
        if pool.retire(state.available()):
            events.append(AllocationsChanged(pool.feature))
        serve(state, pool, events)
    if server.drained:
        empty(state, server.name, events)
    return DONE


@_apply.register
def _borrow(command: Borrow, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """Take what is available; what lacks stays pending, replacing an older borrow (section 6)."""
    pool = state.table.features.get(command.feature)
    server = state.servers.get(command.server)
    if pool is None:
        return Outcome(Effect.REFUSED, code=Code.UNKNOWN_FEATURE)
    if pool.status is not CodeStatus.VALID or pool.over or not pool.borrows(command.server):
        return Outcome(Effect.REFUSED, code=Code.NOT_LICENSED)
    want = min(command.want, pool.room(command.server))
    if server is None or not server.grants or want < 1:
        return OVERTAKEN
    borrow = PendingBorrow(
        id=command.id,
        server=command.server,
        want=want,
        need=max(0, min(command.need, want)),
        reason=command.reason,
        since=command.since or index,
        hold=command.hold,
    )
    pool.pending[command.server] = borrow
    moved = 0
    if command.reason is Reason.REQUEST:
        moved = draw(state, pool, borrow, events)
    if pool.pending.get(command.server) is borrow:
        events.append(BorrowOpened(pool.feature, command.server))
    return Outcome(Effect.DONE, moved)


@_apply.register
def _release(command: Release, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """A server gives seats that it had set aside, to a borrow or to the free pool (B33)."""
    pool = state.table.features.get(command.feature)
    giver = state.servers.get(command.server)
    if pool is None or giver is None or not giver.acts or command.count < 0:
        return OVERTAKEN
    count = min(command.count, pool.allocations.get(command.server, 0))
    if not command.to:
        if command.due:
            count = min(count, pool.due(command.server))
        pool.move(command.server, "", count)
        pool.retire(state.available())
        events.append(AllocationsChanged(pool.feature))
        serve(state, pool, events)
        return Outcome(Effect.DONE, count)
    borrow = pool.pending.get(command.to)
    if borrow is None or borrow.id != command.borrow or pool.over:
        return OVERTAKEN
    count = min(count, pool.lendable(command.server))
    if command.to == command.server:
        count = 0  # A leader that borrows has nothing to give to itself.
    if command.level is not Level.OFFERED:
        borrow.answered[command.server] = command.level
    source = Source.LEADER if command.leader else Source.OTHERS
    count = give(pool, borrow, command.server, count, source, events)
    if command.leader and not borrow.leader_gave:
        borrow.leader_gave = True
        if borrow.reason is Reason.FAILOVER and borrow.want:
            draw(state, pool, borrow, events)
    return Outcome(Effect.DONE, count)


@_apply.register
def _solicit(command: Solicit, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """A server is asked to give to a borrow that still lacks seats."""
    pool = state.table.features.get(command.feature)
    borrow = pool.pending.get(command.borrower) if pool else None
    if borrow is None or borrow.id != command.borrow or command.giver not in state.servers:
        return OVERTAKEN
    borrow.asked[command.giver] = command.level
    events.append(
        Solicited(command.feature, command.borrower, borrow.id, command.giver, command.level)
    )
    return DONE


@_apply.register
def _end(command: EndBorrow, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """A borrow ends, or waits for seats that come free if somebody waits for it."""
    pool = state.table.features.get(command.feature)
    borrow = pool.pending.get(command.server) if pool else None
    if pool is None or borrow is None or borrow.id != command.borrow:
        return OVERTAKEN
    if command.exhausted and borrow.hold and borrow.need:
        borrow.exhausted = True
        borrow.want = borrow.need
    else:
        del pool.pending[command.server]
    events.append(BorrowEnded(pool.feature, command.server, borrow.id, command.exhausted))
    return DONE


@_apply.register
def _claim(command: Claim, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """A server asks another for an authorization that it has granted (section 10, case 2)."""
    if not can_claim(state, command):
        return OVERTAKEN
    events.append(
        Claimed(
            command.id,
            command.feature,
            command.count,
            command.issuer,
            command.server,
            command.server_incarnation,
        )
    )
    return DONE


@_apply.register
def _moved(command: HandOver | Adopt, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """An authorization goes to another server with its seats (section 10, cases 2 and 4)."""
    if isinstance(command, Adopt):
        outcome = adopt(state, index, command)
    else:
        outcome = hand_over(state, index, command)
    if outcome.effect is Effect.DONE:
        # First the authorization, then its seats: they are not for anybody who waits.
        events.append(
            Moved(
                command.id,
                command.feature,
                outcome.count,
                command.client,
                command.issuer,
                command.server,
                isinstance(command, Adopt),
                isinstance(command, HandOver) and command.struck,
            )
        )
        if outcome.count:
            events.append(AllocationsChanged(command.feature))
    return outcome


@_apply.register
def _forget(command: ForgetMoves, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """Old moves are forgotten."""
    return forget(state, command)


@_apply.register
def _install(command: InstallLicense, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """The file with the greater sequence number is the pool's from now on (R10, R19)."""
    new, old = unpacked(command.license), state.license
    if command.base is not None and command.base != old.sequence:
        return Outcome(Effect.NONE, old.sequence)
    if new.pool is not None and new.pool != state.pool:
        return Outcome(Effect.REFUSED, old.sequence, Code.INVALID_LICENSE)
    if new.sequence == old.sequence and new.says_the_same(old):
        return Outcome(Effect.DONE, old.sequence)
    if new.sequence <= old.sequence:
        return Outcome(Effect.REFUSED, old.sequence, Code.STALE_SEQUENCE)
    state.license = new
    settle_conflicts(state)
    _entitle(state, events)
    events.append(LicenseChanged(new.sequence))
    return Outcome(Effect.DONE, new.sequence)


@_apply.register
def _conflict(
    command: LicenseConflict, state: PoolState, index: int, events: list[Event]
) -> Outcome:
    """A server was given another license file under the pool's number, or it is settled."""
    return note_conflict(state, command)


@_apply.register
def _prefer(command: PreferLeader, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """Leadership belongs to this server, if it acts."""
    server = state.servers.get(command.server)
    if server is None or not server.grants:
        return STALE
    state.preferred_leader = command.server
    events.append(LeaderPreferred(command.server))
    return DONE


@_apply.register
def _criteria(
    command: SetDistribution | AddAllocations | SetBorrowing,
    state: PoolState,
    index: int,
    events: list[Event],
) -> Outcome:
    """An administrator shares out, adds or retires seats, or bounds borrowing (B7, B9)."""
    outcome = criteria.change(state, command)
    if outcome.effect is Effect.DONE:
        pool = state.table.features[command.feature]
        events.append(AllocationsChanged(pool.feature))
        for borrow in criteria.hopeless(pool):
            drop(pool, borrow, events)
        serve(state, pool, events)
    return outcome


def _advance_clock(state: PoolState, events: list[Event]) -> None:
    """The pool clock is the median of the acting servers' clocks, and never goes back."""
    walls = sorted(
        s.wall_s for s in state.servers.values() if s.acts and 0 < s.wall_s <= _LAST_SECOND
    )
    if not walls:
        return
    day = state.pool_day
    state.clock_s = max(state.clock_s, walls[(len(walls) - 1) // 2])
    if state.pool_day != day and state.license.sequence:
        _entitle(state, events)
        events.append(LicenseChanged(state.license.sequence))


def _entitle(state: PoolState, events: list[Event]) -> None:
    """Follow the license as it is today."""
    granted = entitlements(
        state.license, state.pool, state.pool_day, list(state.servers), state.pool_key
    )
    servers = state.deployable
    for pool in list(state.table.features.values()):
        if pool.feature not in granted:
            for borrow in list(pool.pending.values()):
                drop(pool, borrow, events)
    for feature in state.table.entitle(granted, servers, state.available()):
        events.append(AllocationsChanged(feature))
        changed = state.table.features.get(feature)
        if changed is not None:
            serve(state, changed, events)
