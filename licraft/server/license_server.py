"""One license server: answers clients from its own record, and takes part in its pool.

May import the core, the engine's contract, the vendor room, `wire` and `errors`. All
that it decides is decided in one thread, from memory; only moves of seats between
servers and what administrators change is committed. Source: pool protocol; claims R7 to
R9, R21, R23, R26, B1 to B6, B30 to B33.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import cast

from licraft.core.commands import Reason
from licraft.core.license import CodeStatus
from licraft.core.outcomes import (
    AllocationsChanged,
    Applied,
    BorrowEnded,
    BorrowOpened,
    Code,
    LeaderPreferred,
    LeaseRenewed,
    LicenseChanged,
    MembersChanged,
    PoolFormed,
    ServerCameUp,
    ServerWentDown,
    Solicited,
)
from licraft.core.record import Authorization
from licraft.core.state import PoolState
from licraft.errors import DataError, NotExecuted, PeerUnreachable
from licraft.replication.engine import Engine
from licraft.server import views
from licraft.server.administration import Administration
from licraft.server.answers import Answers
from licraft.server.borrower import Borrower
from licraft.server.clock import Clock, SystemClock
from licraft.server.config import ServerConfig
from licraft.server.desk import Decision, Denial, Desk
from licraft.server.failover import Failover
from licraft.server.grants import MAX_AUTHORIZATIONS, Grants, same_request
from licraft.server.ids import Ids
from licraft.server.leader import Leader
from licraft.server.license_keeper import LicenseKeeper
from licraft.server.members import Members
from licraft.server.pool import ReplicatedPool
from licraft.server.proposer import Proposer
from licraft.server.record_log import RecordLog, SavedRecord, boot_id
from licraft.server.reports import LIST_LIMIT, Reports
from licraft.server.standing import Standing
from licraft.server.tokens import ClientFields
from licraft.wire import Authorization as Granted
from licraft.wire import (
    AuthorizationList,
    CheckinAnswer,
    CheckinRequest,
    CheckoutRequest,
    ClientInfo,
    FeatureList,
    FeatureView,
    HeartbeatAnswer,
    HeartbeatRequest,
    HeartbeatResult,
    Installed,
    LeaderAnswer,
    LicenseDocument,
    PoolView,
    Problem,
    Readiness,
    ServerAnswer,
    ServerRequest,
)

__all__ = ["LicenseServer", "ServerConfig"]

log = logging.getLogger(__name__)

_REPORT_S = 1.0
_NOBODY: ClientFields = ("", "", "", 0, "")

CheckoutResult = tuple[int, Granted | Problem]
HeartbeatsResult = tuple[int, HeartbeatAnswer | Problem]
CheckinResult = tuple[int, CheckinAnswer | Problem]


class LicenseServer:
    """The license service of one server; `tick` must be called every `config.tick_s`."""

    def __init__(
        self,
        config: ServerConfig,
        pool: ReplicatedPool,
        engine: Engine,
        clock: Clock | None = None,
        boot: str | None = None,
    ) -> None:
        """Take part in the pool by `engine`, which replicates `pool`.

        `clock` and `boot` (the kernel's boot id) are the machine's unless given.
        """
        name = config.server
        self.config = config
        self.pool_machine = pool
        self.engine = engine
        self.clock = clock or SystemClock()
        self._boot = boot_id() if boot is None else boot
        self._record_log = RecordLog(config.data_dir / "record.log", self._boot)
        self._saved: SavedRecord | None = self._record_log.load()
        self.proposer = Proposer(name, engine, lambda: pool.state.version)
        self.standing = Standing(config, pool, engine, self.proposer, self.clock)
        self.grants = Grants(name, pool, self.clock, self._record_log)
        self.borrower = Borrower(name, self.grants, self.proposer, self.clock)
        self.leader = Leader(
            name,
            pool,
            self.proposer,
            self.borrower,
            self.clock,
            engine.status,
            engine.transfer,
            handback=config.leader_handback,
        )
        self.keeper = LicenseKeeper(
            name,
            pool,
            self.proposer,
            config.vendor_keys,
            config.data_dir / "license.yaml",
            config.license_file,
        )
        self.answers = Answers(name, self.standing, self.keeper)
        self.administration = Administration(pool, engine, self.proposer, self.keeper, self.answers)
        self.members = Members(pool, engine, self.proposer, self.answers)
        self.failover = Failover(name, self.grants, self.borrower, self.standing, self.answers)
        self.reports = Reports(name, engine, self.grants, self.clock, self.failover.strike)
        self.grants.may_act = self.standing.may_grant
        self.grants.on_freed = self.borrower.offer
        self.grants.yields = self.borrower.yields
        # Called when going on could issue a seat twice; must not return.
        self.on_fatal: Callable[[BaseException], None] = _raise
        self._ids = Ids()
        self._report_due_s = 0.0
        self._reporting: asyncio.Task[None] | None = None
        pool.on_applied = self._applied
        pool.on_restored = self._restored
        self.engine_changed()
        if self.state.formed:
            self._restored()  # The engine found a snapshot before there was a server.

    @property
    def state(self) -> PoolState:
        """The replicated state, to be read."""
        return self.pool_machine.state

    @property
    def name(self) -> str:
        """This server's name."""
        return self.config.server

    def may_grant(self) -> bool:
        """Whether it may give seats away, to clients or to other servers."""
        return self.standing.may_grant()

    def status(self) -> str:
        """This server in one word: starting, draining, no_quorum, recovering or serving."""
        return self.standing.word()

    # -- client calls ---------------------------------------------------------------

    def checkout(self, request: CheckoutRequest) -> CheckoutResult | Awaitable[CheckoutResult]:
        """Grant seats: 201, or 200 for a repeated `id`, or a problem."""
        if not self.standing.may_grant():
            refusal = self.answers.refusal()
            if refusal is not None:
                return refusal.status, refusal
        feature, count = request.feature, request.count
        pool = self.state.table.features.get(feature)
        if pool is None:
            return _answer(self.answers.unknown(feature, self.state))
        unlicensed = self.answers.unlicensed(pool, request.version)
        if unlicensed is not None:
            return _answer(unlicensed)
        client = _client(request.client) if request.client else _NOBODY
        grants = self.grants
        id = request.id
        if id is None:
            id = self._ids.next()
        else:
            known = grants.record.get(id)
            if known is not None:
                return self._repeated(known, request, client)
        desk = grants.desk(feature)
        if len(grants.record) >= MAX_AUTHORIZATIONS:
            return self._denied(desk, Code.OVERLOADED, count)
        granted = grants.request(desk, id, count, client)
        if granted is not None:
            self.borrower.consider(desk)
            return 201, self.answers.granted(granted, self.state.ttl_s)
        # A request that will not wait is not queued behind those who are waiting already.
        behind = request.wait == 0 and bool(desk.queue and desk.borrow) and not desk.asking
        if count > pool.deployed or behind:
            desk.denied += 1
            return self._denied(desk, Code.NO_SEATS, count)
        patience_s = self.state.lease_s
        decision = grants.enqueue(desk, id, count, client, Reason.REQUEST, request.wait, patience_s)
        self.borrower.consider(desk)
        return self._decided(desk, count, decision)

    def heartbeat(
        self, request: HeartbeatRequest
    ) -> HeartbeatsResult | Awaitable[HeartbeatsResult]:
        """Renew what a client holds; what another server granted becomes a request (R9)."""
        refusal = self.answers.refusal(recovering_too=False)
        if refusal is not None:
            return refusal.status, refusal
        results: list[HeartbeatResult | Awaitable[HeartbeatResult]] = []
        waits = False
        find, renew, ttl_s = self.grants.record.find, self.grants.renew, self.state.ttl_s
        for token in request.tokens:
            authorization = find(token)
            if authorization is not None:
                renew(authorization)
                results.append(HeartbeatResult(authorization.id, "renewed", ttl_s))
                continue
            result = self.failover.heartbeat(token)
            waits = waits or not isinstance(result, HeartbeatResult)
            results.append(result)
        if waits:
            return self._gathered(results, request.servers_version)
        done = cast(list[HeartbeatResult], results)
        return 200, self.answers.heartbeats(done, request.servers_version)

    def checkin(self, request: CheckinRequest) -> CheckinResult | Awaitable[CheckinResult]:
        """Give seats back; those of another server are passed on to it."""
        released: list[str] = []
        unknown: list[str] = []
        elsewhere: dict[str, list[str]] = {}
        for token in request.tokens:
            authorization = self.grants.record.find(token)
            if authorization is not None:
                self.grants.release(authorization.id)
                released.append(authorization.id)
                continue
            fields = self.grants.mint.open(token) if self.state.formed else None
            if fields is None:
                unknown.append("")
            elif self.grants.release(fields.id) is not None:
                released.append(fields.id)
            elif fields.server == self.name or fields.server not in self.state.servers:
                unknown.append(fields.id)
            else:
                elsewhere.setdefault(fields.server, []).append(fields.id)
        if elsewhere:
            return self._passed_on(elsewhere, released, unknown)
        return 200, CheckinAnswer(released, unknown)

    def settle(self) -> None:
        """Write down what was granted and ended since the last time, before answers leave."""
        try:
            self._record_log.flush()
        except DataError as fault:
            self.on_fatal(fault)

    # -- observation and administration -----------------------------------------------

    def pool(self) -> PoolView:
        """The pool as this server sees it."""
        return views.pool_view(self)

    def features(self) -> FeatureList:
        """Every feature, by name."""
        names = sorted(self.state.table.features)
        return FeatureList([views.feature_view(self, name) for name in names])

    def feature(self, name: str) -> FeatureView | Problem:
        """One feature, or 404 `unknown_feature`."""
        if name not in self.state.table.features:
            return self.answers.unknown(name, self.state)
        return views.feature_view(self, name)

    async def authorizations(
        self, feature: str | None, user: str | None, server: str | None
    ) -> AuthorizationList | Problem:
        """The pool's authorizations, each server's part by its own word where it answers."""
        if server and server not in self.state.servers:
            return Problem(404, Code.NOT_FOUND, f"no server {server} in this pool", field="server")
        names = [server] if server else list(self.state.servers)
        parts = await asyncio.gather(
            *(self.reports.lines(name, feature or "", user or "") for name in names)
        )
        return views.authorization_list(dict(zip(names, parts, strict=True)), LIST_LIMIT)

    async def remove_authorization(self, id: str) -> Problem | None:
        """End an authorization on whichever server granted it; None when done."""
        if self.failover.strike(id):
            return None
        found, silent = await self.reports.strike_anywhere(self.state.servers, id)
        if found:
            return None
        if silent:
            detail = f"no server that answered holds {id}; no answer from {', '.join(silent)}"
            return Problem(503, Code.OUTCOME_UNKNOWN, detail, retry_after=1.0)
        return Problem(404, Code.NOT_FOUND, f"no authorization {id} in this pool")

    def license(self) -> LicenseDocument:
        """The installed redundant license file."""
        return views.license_document(self.state)

    async def install_license(self, text: str) -> Installed | Problem:
        """Verify a redundant license file and commit it."""
        return await self.administration.install_license(text)

    async def lead(self, server: str) -> LeaderAnswer | Problem:
        """Hand leadership to `server`, and wait until it leads."""
        return await self.administration.lead(server)

    async def add_server(self, request: ServerRequest) -> ServerAnswer | Problem:
        """Have a server join the pool."""
        return await self.members.add(request)

    async def remove_server(self, name: str) -> ServerAnswer | Problem:
        """Have a server leave the pool."""
        return await self.members.remove(name)

    def readiness(self) -> Readiness:
        """Whether this server holds its lease and may grant."""
        return Readiness(self.may_grant(), self.status(), views.status_detail(self))

    # -- life ---------------------------------------------------------------------------

    def tick(self) -> None:
        """Do what time makes due; called every `config.tick_s`."""
        self.standing.tick()
        if self.standing.renewal_due():
            for desk in self.grants.desks.values():
                self.borrower.sample(desk)
            self.standing.renew({f: n for f, n in self.grants.record.in_use.items() if n})
        may_grant = self.may_grant()
        if may_grant:
            self.keeper.offer()
            self.grants.keep_log()
        elif not self.standing.acts():
            self._turn_away(Code.NO_QUORUM)
        self.grants.expire()
        self.settle()
        for desk in list(self.grants.desks.values()):
            self.borrower.tick(desk)
        self.leader.tick(acts=may_grant)
        self.members.tick(self.engine.status())
        now = self.clock.now()
        if self.standing.up and now >= self._report_due_s and self._reporting is None:
            self._report_due_s = now + _REPORT_S
            self._reporting = asyncio.get_running_loop().create_task(self.reports.report())
            self._reporting.add_done_callback(self._reported)

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            self.tick()
            await asyncio.sleep(self.config.tick_s)

    async def answer(self, server: str, body: bytes) -> bytes:
        """Answer another server of the pool."""
        return await self.reports.answer(server, body)

    async def stop(self) -> None:
        """Stop in an orderly way: grant no more, hand leadership over, save the record."""
        self.standing.stop()
        self.leader.close()
        self.members.close()
        self._turn_away(Code.DRAINING)
        status = self.engine.status()
        for name in self.state.servers if status.leads else ():
            if name in status.connected:
                try:
                    await self.engine.transfer(name)
                except NotExecuted as fault:
                    log.info("leadership was not handed to %s: %s", name, fault)
                    continue
                break
        if self._reporting is not None:
            self._reporting.cancel()
        self.proposer.close()
        if self.standing.up:
            self._record_log.close_orderly()

    def engine_changed(self) -> None:
        """The leader, the term or a connection changed."""
        self.answers.refresh(self.state, self.engine.status())

    # -- what the log brings ------------------------------------------------------------

    def _applied(self, applied: Applied) -> None:
        """Follow a committed entry: the distribution criteria sync message, among others (B6)."""
        self.proposer.note(applied)
        self.leader.note(applied)
        me = self.name
        for event in applied.events:
            match event:
                case PoolFormed():
                    self.engine_changed()
                case ServerCameUp():
                    self._came_up(event)
                case ServerWentDown(server=server):
                    self._went_down(server)
                case LeaseRenewed(server=server, serial=serial) if server == me:
                    self.standing.renewed(serial)
                case AllocationsChanged(feature=feature):
                    self._allocated(feature)
                case BorrowEnded(server=server) if server == me:
                    self.borrower.ended(event)
                case BorrowOpened(feature=feature) | BorrowEnded(feature=feature):
                    self.borrower.offer(self.grants.desk(feature))
                case Solicited(giver=giver) if giver == me:
                    self.borrower.give(event)
                case LicenseChanged():
                    self.keeper.changed()
                case MembersChanged(server=server):
                    self.engine_changed()
                    if server == me:
                        self._follow_own_state()
                case LeaderPreferred(server=server):
                    self.leader.prefer(server)
                case _:
                    pass
        if (applied.events or applied.serial) and self.may_grant():
            self.leader.pump()

    def _restored(self) -> None:
        """The state was replaced by a snapshot: entries were skipped, look at all of it."""
        self.proposer.note_restored(self.state)
        me = self.state.servers.get(self.name)
        known = me is not None and me.incarnation == self.standing.incarnation
        if self.standing.incarnation and not known:
            # It came up unseen, so whether it had been reclaimed before cannot be known.
            self.grants.forget()
            self.standing.recover()
        if me is None or not known or not me.acts:
            self._went_down(self.name)
        self.engine_changed()
        self._follow_own_state()
        for feature in self.state.table.features:
            self._allocated(feature)
        for desk in self.grants.desks.values():
            self.borrower.restored(desk)
        self.keeper.changed()

    def _follow_own_state(self) -> None:
        """This server leaves the pool, or does not: what nobody holds goes before it."""
        me = self.state.servers.get(self.name)
        leaving = self.standing.up and (me is None or me.removing)
        if leaving and not self.standing.leaving:
            if self.may_grant():
                self.borrower.give_back()
            self._turn_away(Code.DRAINING)
        self.standing.leave(leaving)

    def _allocated(self, feature: str) -> None:
        """This server's seats of a feature may have changed: update the record of them (B33)."""
        desk = self.grants.desk(feature)
        allocation = self.grants.allocation(feature)
        if allocation > desk.allocated and desk.borrow:
            desk.received_s = self.clock.now()
        desk.allocated = allocation
        self.grants.serve(desk)
        self.borrower.offer(desk)

    def _came_up(self, event: ServerCameUp) -> None:
        """A server is up; if it is this one, decide what it knows of what it had granted."""
        self.engine_changed()
        if event.server != self.name or not self.standing.is_mine(event):
            return
        first = self.standing.incarnation == 0
        saved, self._saved = self._saved, None
        if event.reclaimed:
            # Nobody relies on what it granted any more, and the seats may be elsewhere.
            self.grants.forget()
            saved = None
        elif not first or event.previous == 0:
            saved = None  # Its record is in memory, or it never granted anything.
        elif saved is None or not saved.trusted(event.previous, self._boot):
            saved = None
            self.standing.recover()
            log.warning(
                "%s does not know what it had granted: it recovers for %.0f s",
                self.name,
                self.standing.recovering_s(),
            )
        self.standing.came_up(event.incarnation)
        self.borrower.reset()
        self.grants.begin(event.incarnation, saved)
        if not self.standing.recovering_s():
            self.grants.keep_log()
        log.info(
            "%s is up as incarnation %d with %d authorizations",
            self.name,
            event.incarnation,
            len(self.grants.record),
        )
        self.members.compare(self.config.members)

    def _went_down(self, server: str) -> None:
        self.engine_changed()
        if server == self.name:
            self.standing.went_down()
            self._turn_away(Code.NO_QUORUM)

    def _reported(self, task: asyncio.Task[None]) -> None:
        self._reporting = None
        if not task.cancelled() and task.exception() is not None:
            log.error("the report to the leader failed", exc_info=task.exception())

    # -- answers that take time ---------------------------------------------------------

    def _denied(self, desk: Desk, code: Code, count: int) -> CheckoutResult:
        pool = self.state.table.features.get(desk.feature)
        if pool is None:
            return _answer(self.answers.unknown(desk.feature, self.state))
        if code is Code.NO_SEATS and pool.status is not CodeStatus.VALID:
            return _answer(self.answers.unlicensed(pool, None) or Problem(409, code, ""))
        in_use = sum(views.in_use(self, name).get(desk.feature, 0) for name in self.state.servers)
        return _answer(self.answers.denied(code, pool, count, in_use, len(desk.queue)))

    def _repeated(
        self, known: Authorization, request: CheckoutRequest, client: ClientFields
    ) -> CheckoutResult:
        """A checkout whose answer was lost gets the same authorization, valid from now."""
        if not same_request(known, request.feature, request.count, client):
            desk = self.grants.desk(request.feature)
            return self._denied(desk, Code.INVALID_REQUEST, request.count)
        self.grants.renew(known)
        return 200, self.answers.granted(known, self.state.ttl_s)

    async def _decided(
        self, desk: Desk, count: int, decision: asyncio.Future[Decision]
    ) -> CheckoutResult:
        """Wait for the queue's decision; a client that goes away leaves the queue.

        What was granted but cannot be answered stays on record until it expires: the
        same request, repeated, may have been answered with it.
        """
        result = await decision
        if isinstance(result, Denial):
            return self._denied(desk, result.code, count)
        if not self.standing.acts():
            # Paused between the grant and now: its answer must not leave without a lease.
            return self._denied(desk, Code.NO_QUORUM, count)
        self.borrower.consider(desk)
        return 201, self.answers.granted(result, self.state.ttl_s)

    async def _gathered(
        self, results: Iterable[HeartbeatResult | Awaitable[HeartbeatResult]], version: int
    ) -> HeartbeatsResult:
        """Wait for the results that have to wait for a borrow."""
        done = [r if isinstance(r, HeartbeatResult) else await r for r in results]
        # If the lease ran out meanwhile nothing may be confirmed.
        refusal = self.answers.refusal(recovering_too=False)
        if refusal is not None:
            return refusal.status, refusal
        return 200, self.answers.heartbeats(done, version)

    async def _passed_on(
        self, elsewhere: dict[str, list[str]], released: list[str], unknown: list[str]
    ) -> CheckinResult:
        """Have other servers release what they granted; what they do not confirm is unknown."""
        for server, ids in elsewhere.items():
            try:
                struck = await self.reports.strike(server, ids)
            except PeerUnreachable:
                struck = []
            released += [id for id in ids if id in struck]
            unknown += [id for id in ids if id not in struck]
        return 200, CheckinAnswer(released, unknown)

    def _turn_away(self, code: Code) -> None:
        """Send everybody who waits to another server."""
        for desk in self.grants.desks.values():
            if desk.queue:
                self.grants.deny(desk, lambda _: True, code)


def _raise(fault: BaseException) -> None:
    raise fault


def _answer(problem: Problem) -> tuple[int, Problem]:
    return problem.status, problem


def _client(info: ClientInfo) -> ClientFields:
    return info.id, info.user, info.host, info.pid, info.app
