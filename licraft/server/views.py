"""What a license server shows: its state as the bodies of the `GET` calls.

May import the core, the engine's contract, `wire` and this room. Reads only.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING

from licraft import __version__
from licraft.core.conflicts import conflicts
from licraft.core.license import CodeStatus, code_statuses
from licraft.core.priority import priority_list
from licraft.core.record import Authorization
from licraft.core.state import PoolState, ServerStatus
from licraft.core.table import FeaturePool, PendingBorrow
from licraft.replication.engine import EngineStatus
from licraft.server.answers import license_fault
from licraft.server.expiry import some
from licraft.server.reports import Line, LinesAnswer
from licraft.server.times import iso
from licraft.wire import (
    AllocationView,
    AuditLine,
    AuditView,
    AuthorizationList,
    AuthorizationView,
    BorrowedView,
    BorrowingView,
    ClientInfo,
    CodeView,
    ConflictView,
    FeatureView,
    LicenseDocument,
    LicenseView,
    OpenBorrow,
    PoolView,
    RefusedView,
    ServerView,
)

if TYPE_CHECKING:
    from licraft.server.license_server import LicenseServer


_CERTIFICATE_NOTICE_S = 30 * 86_400.0


def pool_view(server: LicenseServer) -> PoolView:
    """`GET /v1/pool`."""
    state = server.state
    status = server.engine.status()
    leader = leader_in_touch(status)
    servers = [
        ServerView(
            name=member.name,
            role="leader" if member.name == leader else "follower",
            state=member.word,
            url=member.api,
            incarnation=member.incarnation,
            lease_remaining=round(server.standing.lease_remaining_s(), 3)
            if member.name == server.name
            else None,
            in_use=sum(server.grants.in_use(member.name).values()),
            allocated=sum(
                pool.allocations.get(member.name, 0) for pool in state.table.features.values()
            ),
            peer=member.peer,
        )
        for member in state.servers.values()
    ]
    return PoolView(
        pool=state.pool or server.config.pool,
        server=server.name,
        state=server.status(),
        leader=leader,
        term=status.term,
        applied_index=status.applied_index,
        priority=[place.name for place in priority_list(state, leader)],
        servers=servers,
        license=LicenseView(state.license.sequence, state.license.sha256),
        trouble=trouble(server),
        version=__version__,
        pool_key=state.pool_key,
    )


def leader_in_touch(status: EngineStatus) -> str | None:
    """Who leads; None where that is only remembered, by a server that is cut off from it."""
    in_touch = status.leader == status.server or status.leader in status.connected
    return status.leader if in_touch else None


def feature_view(server: LicenseServer, feature: str) -> FeatureView:
    """`GET /v1/features/F`; `waiting` and `denied` are this server's own."""
    state = server.state
    pool = state.table.features[feature]
    desk = server.grants.desks.get(feature)
    servers = {
        member.name: AllocationView(
            allocated=pool.allocations.get(member.name, 0),
            in_use=server.grants.in_use(member.name).get(feature, 0),
            target=pool.target.get(member.name, 0) if pool.target is not None else None,
            threshold=pool.threshold_at(member.name, member.threshold),
            to_give=pool.surplus.get(member.name, 0),
            retiring=pool.retiring.get(member.name, 0),
            borrowing=pool.borrows(member.name),
            floor=pool.limits_at(member.name).floor,
            cap=pool.limits_at(member.name).cap,
        )
        for member in state.servers.values()
    }
    everywhere = pool.limits_at("")
    return FeatureView(
        feature=feature,
        version=pool.version,
        entitled=pool.entitled,
        deployed=pool.deployed,
        free=pool.free,
        in_use=sum(view.in_use for view in servers.values()),
        commuters=pool.commuters,
        waiting=len(desk.queue) if desk else 0,
        denied=desk.denied if desk else 0,
        starts=_day(pool.starts),
        expires=_day(pool.expires),
        status=pool.status,
        borrowing=BorrowingView(
            enabled=pool.borrows(""),
            pending=len(pool.pending),
            open=open_borrows(server, pool),
            sources=BorrowedView(**desk.borrowed) if desk else BorrowedView(),
            threshold=everywhere.threshold,
            floor=everywhere.floor,
            cap=everywhere.cap,
        ),
        servers=servers,
        over=pool.over,
        to_give=sum(pool.surplus.values()),
        missing=sum(max(0, (v.target or 0) - v.allocated + v.retiring) for v in servers.values()),
        index=state.index,
        expires_in_days=(pool.expires - state.pool_day).days if pool.expires else None,
        warning=_warning(server, pool),
        retired=pool.retired,
    )


def _warning(server: LicenseServer, pool: FeaturePool) -> str | None:
    """What is wrong with a feature's license, or soon will be; None if nothing."""
    if pool.status is not CodeStatus.VALID:
        return license_fault(pool)
    if pool.over:
        return f"over by {pool.over}, falling as seats come back"
    soon = server.keeper.expiry.notice(pool.feature)
    return f"{soon.seats} seats expire at the end of {soon.day} (UTC)" if soon else None


def open_borrows(server: LicenseServer, pool: FeaturePool) -> list[OpenBorrow]:
    """What is being borrowed, in the order in which seats that come free are given."""
    leader = server.engine.status().leader
    return [
        OpenBorrow(
            id=borrow.id,
            server=borrow.server,
            reason=borrow.reason,
            want=borrow.want,
            need=borrow.need,
            source=_source(borrow, leader),
            asked=list(borrow.asked),
            got={source.value: count for source, count in borrow.got.items()},
        )
        for borrow in sorted(pool.pending.values(), key=lambda b: (b.since, b.server))
    ]


def _source(borrow: PendingBorrow, leader: str | None) -> str | None:
    """Who is asked now; whatever is nobody's was taken before."""
    if borrow.exhausted:
        return None
    return "others" if borrow.leader_gave or borrow.server == leader else "leader"


def authorization_list(parts: dict[str, LinesAnswer], limit: int) -> AuthorizationList:
    """`GET /v1/authorizations`, from each server's part."""
    lines = [
        AuthorizationView(
            id=line.id,
            feature=line.feature,
            count=line.count,
            client=ClientInfo(*line.client),
            server=server,
            granted_at=iso(line.granted_at_s),
            last_heartbeat=iso(line.heard_at_s),
        )
        for server, part in parts.items()
        for line in part.lines
    ]
    return AuthorizationList(
        authorizations=lines[:limit],
        truncated=len(lines) > limit or any(part.truncated for part in parts.values()),
        as_of={
            server: None if part.as_of_s is None else iso(part.as_of_s)
            for server, part in parts.items()
        },
    )


def holder(line: Authorization | Line) -> str:
    """Whose authorization it is, in words."""
    _, user, host, _, app = line.client
    return f"{line.count} of {line.feature}, {user}@{host} {app}".rstrip()


def audit_view(state: PoolState, after: int) -> AuditView:
    """`GET /v1/audit`."""
    records = [
        AuditLine(**asdict(record), sha256=record.sha256) for record in state.audit.after(after)
    ]
    return AuditView(state.audit.count, state.audit.sha256, records)


def license_document(server: LicenseServer) -> LicenseDocument:
    """`GET /v1/license`."""
    state, refused = server.state, server.keeper.refused
    statuses = code_statuses(state.license, state.pool, state.pool_day, state.pool_key)
    codes = [
        CodeView(
            id=code.id,
            vendor=code.vendor,
            feature=code.feature,
            version=code.version,
            count=code.count,
            starts=_day(code.starts),
            expires=_day(code.expires),
            pool=code.pool,
            pool_key=code.pool_key,
            status=status,
            options=dict(code.options),
        )
        for code, status in zip(state.license.codes, statuses, strict=True)
    ]
    return LicenseDocument(
        state.license.sequence,
        state.license.text,
        codes,
        [ConflictView(name, digest) for name, digest in conflicts(state).items()],
        RefusedView(str(refused.source), refused.sequence, refused.text) if refused else None,
    )


def status_detail(server: LicenseServer) -> str:
    """This server's state in a sentence."""
    match server.status():
        case "serving":
            left_s = server.standing.lease_remaining_s()
            return f"holds its lease for another {left_s:.1f} s"
        case "recovering":
            left_s = server.standing.recovering_s()
            return f"grants nothing for another {left_s:.0f} s: its record was lost"
        case "no_quorum":
            return "does not hold its lease: it hears no majority of the pool"
        case "draining" if not server.standing.stopping:
            return "is being drained: it grants nothing new, and sends its clients to the others"
        case "draining":
            return "is stopping"
        case "joining":
            return "joins the pool: it counts once the leader has sent it the log"
        case "removing":
            return "is being removed from the pool: it grants nothing"
        case "removed":
            return "was removed from the pool and can be stopped"
        case "refused":
            return f"is refused by the others: {server.engine.status().turned_away}"
        case _:
            leader = leader_in_touch(server.engine.status())
            return f"is joining the pool; leader: {leader or 'none yet'}"


def trouble(server: LicenseServer) -> list[str]:
    """What an administrator should look at, one line each."""
    state, config = server.state, server.config
    lines = []
    lines += [
        f"server {member.name} is {member.word}"
        for member in state.servers.values()
        if not member.votes and member.name != server.name
    ]
    if server.status() != "serving":
        lines.append(f"{server.name} {status_detail(server)}")
    lines += [
        f"server {member.name} is down"
        + (": its seats may be borrowed" if member.reclaimed else ": its seats are kept for it")
        for member in state.servers.values()
        if member.status is ServerStatus.DOWN
    ]
    if state.formed:
        ours = (config.lease_s, config.ttl_s, config.drift)
        pools = (state.lease_s, state.ttl_s, state.drift)
        for key, mine, theirs in zip(("lease", "ttl", "drift"), ours, pools, strict=True):
            if mine != theirs:
                lines.append(
                    f"{server.name} is configured with {key} {mine:g}, the pool was formed "
                    f"with {theirs:g}, which counts"
                )
        if not state.license.sequence:
            lines.append("no license is installed: licraft license install FILE")
    faults: dict[str, list[str]] = {}
    for pool in state.table.features.values():
        if pool.status not in (CodeStatus.VALID, CodeStatus.EXPIRED):
            faults.setdefault(license_fault(pool), []).append(pool.feature)
    lines += [f"{some(features)}: {fault}" for fault, features in faults.items()]
    lines += server.keeper.expiry.trouble()
    over = [f"{p.feature} over by {p.over}" for p in state.table.features.values() if p.over]
    over += [
        f"{pool.feature} at {name} over by {count}"
        for pool in state.table.features.values()
        for name, count in pool.retiring.items()
    ]
    if over:
        lines.append(f"{some(over)}: falling as seats come back")
    lines += [
        f"server {name} was given another license file than the pool's number "
        f"{state.license.sequence}, which stays: `licraft license diff` shows how they differ; "
        f"install a greater number, or mend that file and SIGHUP {name}"
        for name in conflicts(state)
    ]
    return lines + server.keeper.trouble + server.audit_log.trouble + _certificates(server)


def _certificates(server: LicenseServer) -> list[str]:
    """The peer certificates that expire soon: without one a server is cut off from its pool."""
    now_s = server.clock.wall()
    lines = []
    for name, ends_s in sorted(server.engine.status().certificate_ends_s.items()):
        if ends_s <= now_s:
            lines.append(f"server {name}: its peer certificate has expired: give it a new one")
        elif ends_s - now_s <= _CERTIFICATE_NOTICE_S:
            day = iso(ends_s)[:10]
            lines.append(f"server {name}: its peer certificate expires on {day}: give it a new one")
    return lines


def _day(day: date | None) -> str | None:
    return day.isoformat() if day else None
