"""One license server: answers clients from its own record, and takes part in its pool.

May import the core, the engine's contract, the vendor room, `wire` and `errors`. All
that it decides is decided in one thread, from memory; only moves of seats between
servers and what administrators change is committed. Source: pool protocol; claims R7 to
R9, R21, R23, R26, B1 to B6, B30 to B33.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import uuid
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec

from licraft.core.commands import FormPool, Member, Reason, RenewLease, ServerUp
from licraft.core.leases import recovery_end
from licraft.core.license import CodeStatus, covers
from licraft.core.outcomes import (
    AllocationsChanged,
    Applied,
    BorrowEnded,
    BorrowOpened,
    Code,
    LeaseRenewed,
    LicenseChanged,
    PoolFormed,
    ServerCameUp,
    ServerWentDown,
    Solicited,
)
from licraft.core.priority import list_version, priority_list
from licraft.core.record import Authorization
from licraft.core.state import PoolState
from licraft.core.table import FeaturePool
from licraft.errors import (
    InvariantBroken,
    LicenseError,
    NotExecuted,
    OutcomeUnknown,
    PeerUnreachable,
)
from licraft.replication.engine import Engine
from licraft.server import views
from licraft.server.borrower import Borrower
from licraft.server.clock import Clock, SystemClock
from licraft.server.desk import Decision, Denial, Desk
from licraft.server.grants import MAX_AUTHORIZATIONS, Grants, same_request
from licraft.server.leader import Leader
from licraft.server.lease import Lease
from licraft.server.license_keeper import LicenseKeeper
from licraft.server.pool import ReplicatedPool
from licraft.server.proposer import Proposer
from licraft.server.record_log import RecordLog, SavedRecord, boot_id
from licraft.server.reports import LIST_LIMIT, Reports
from licraft.server.tokens import ClientFields, TokenFields
from licraft.vendor.keys import VendorPublicKey
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
    LicenseDocument,
    PoolView,
    Problem,
    Readiness,
    ServerEntry,
    ServerList,
)

log = logging.getLogger(__name__)

_RETRY_S = 0.2
_UP_RETRY_S = 0.5
_REPORT_S = 1.0
_MAX_REMOVED = 10_000
_NOBODY: ClientFields = ("", "", "", 0, "")

CheckoutResult = tuple[int, Granted | Problem]
HeartbeatsResult = tuple[int, HeartbeatAnswer | Problem]
CheckinResult = tuple[int, CheckinAnswer | Problem]


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What one license server is told; times in seconds, `members` in priority order.

    The pool's own timings are those of the server that formed it; `tick_s` is how often
    this server looks at its clock.
    """

    pool: str
    server: str
    members: tuple[Member, ...]
    data_dir: Path
    lease_s: float = 3.0
    ttl_s: float = 60.0
    drift: float = 0.01
    threshold: float = 0.8
    vendor_keys: tuple[VendorPublicKey, ...] = ()
    license_file: Path | None = None
    tick_s: float = 0.05


class LicenseServer:
    """The license service of one server; `tick` must be called every `tick_s`."""

    def __init__(
        self,
        config: ServerConfig,
        pool: ReplicatedPool,
        engine: Engine,
        clock: Clock | None = None,
        boot: str | None = None,
    ) -> None:
        self.config = config
        self.pool_machine = pool
        self.engine = engine
        self.clock = clock or SystemClock()
        name = config.server
        self._boot = boot_id() if boot is None else boot
        self._record_log = RecordLog(config.data_dir / "record.log", self._boot)
        self._saved: SavedRecord | None = self._record_log.load()
        self.lease = Lease()
        self.grants = Grants(name, pool, self.clock, self._record_log)
        self.proposer = Proposer(name, engine)
        self.borrower = Borrower(name, self.grants, self.proposer, self.clock)
        self.leader = Leader(name, pool, self.proposer, self.borrower, self.clock, engine.status)
        self.keeper = LicenseKeeper(
            name,
            pool,
            self.proposer,
            config.vendor_keys,
            config.data_dir / "license.yaml",
            config.license_file,
        )
        self.reports = Reports(name, engine, self.grants, self.clock, self._strike)
        self.grants.may_act = self.may_grant
        self.grants.on_freed = self.borrower.offer
        self._up = False
        # The same until this process is up: a repeated ServerUp must be known as its own.
        self._nonce = secrets.token_hex(8)
        self._stopping = False
        self._recovering_until_s = float("-inf")
        self._due = {"up": 0.0, "renew": 0.0, "report": 0.0}
        self._reporting: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._removed: dict[str, None] = {}
        self._granted_at = (0, "")
        self._servers = msgspec.Raw(b"")
        self._servers_version = -1
        pool.on_applied = self._applied
        pool.on_restored = self._restored
        self.refresh()

    @property
    def state(self) -> PoolState:
        """The replicated state, to be read."""
        return self.pool_machine.state

    @property
    def name(self) -> str:
        """This server's name."""
        return self.config.server

    def acts(self) -> bool:
        """Whether this server may renew what it granted: it is up and its lease runs."""
        return self._up and self.lease.runs(self.clock.now())

    def recovering(self) -> bool:
        """Whether it may have granted seats that it no longer knows of."""
        return self.clock.now() < self._recovering_until_s

    def recovering_s(self) -> float:
        """How long it still recovers."""
        return max(0.0, self._recovering_until_s - self.clock.now())

    def may_grant(self) -> bool:
        """Whether it may give seats away, to clients or to other servers."""
        return self.acts() and not self._stopping and not self.recovering()

    def status(self) -> str:
        """This server in one word: starting, stopping, no_quorum, recovering or serving."""
        if self._stopping:
            return "draining"
        if not self._up:
            return "starting" if self._recovering_until_s == float("-inf") else "no_quorum"
        if not self.acts():
            return "no_quorum"
        return "recovering" if self.recovering() else "serving"

    # -- client calls ---------------------------------------------------------------

    def checkout(self, request: CheckoutRequest) -> CheckoutResult | Awaitable[CheckoutResult]:
        """Grant seats: 201, or 200 for a repeated `id`, or a problem."""
        refusal = self._refusal()
        if refusal is not None:
            return refusal.status, refusal
        pool = self.state.table.features.get(request.feature)
        unlicensed = self._unlicensed(request.feature, pool, request.version)
        if unlicensed is not None or pool is None:
            return _answer(unlicensed or self._unknown(request.feature))
        client = _client(request.client)
        if request.id is not None:
            known = self.grants.record.get(request.id)
            if known is not None:
                return self._repeated(known, request, client)
        id = request.id or str(uuid.uuid4())
        desk = self.grants.desk(request.feature)
        if len(self.grants.record) >= MAX_AUTHORIZATIONS:
            return _answer(self._denied(desk, Code.OVERLOADED))
        granted = self.grants.request(desk, id, request.count, client)
        if granted is not None:
            self.borrower.consider(desk)
            return 201, self._granted(granted)
        hopeless = request.count > pool.deployed or (
            request.wait == 0 and bool(desk.queue) and bool(desk.borrow) and not desk.asking
        )
        if hopeless:
            desk.denied += 1
            return _answer(self._denied(desk, Code.NO_SEATS))
        decision = self.grants.enqueue(
            desk, id, request.count, client, Reason.REQUEST, request.wait, self.state.lease_s
        )
        self.borrower.consider(desk)
        return self._decided(desk, decision)

    def heartbeat(
        self, request: HeartbeatRequest
    ) -> HeartbeatsResult | Awaitable[HeartbeatsResult]:
        """Renew what a client holds; what another server granted becomes a request (R9)."""
        if not self.acts() or self._stopping:
            refusal = self._refusal()
            if refusal is not None:
                return refusal.status, refusal
        results: list[HeartbeatResult | Awaitable[HeartbeatResult]] = []
        waits = False
        find, renew, ttl = self.grants.record.find, self.grants.renew, self.state.ttl_s
        for token in request.tokens:
            authorization = find(token)
            if authorization is not None:
                renew(authorization)
                results.append(HeartbeatResult(authorization.id, "renewed", ttl))
                continue
            result = self._moved(token)
            waits = waits or not isinstance(result, HeartbeatResult)
            results.append(result)
        if waits:
            return self._gathered(results, request.servers_version)
        return 200, self._heartbeats(cast(list[HeartbeatResult], results), request.servers_version)

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
            return self._unknown(name)
        return views.feature_view(self, name)

    async def authorizations(
        self, feature: str | None, user: str | None, server: str | None
    ) -> AuthorizationList | Problem:
        """The pool's authorizations, each server's part by its own word where it answers."""
        names = [server] if server else list(self.state.servers)
        if server and server not in self.state.servers:
            return Problem(404, Code.NOT_FOUND, f"no server {server} in this pool", field="server")
        parts = await asyncio.gather(
            *(self.reports.lines(name, feature or "", user or "") for name in names)
        )
        return views.authorization_list(dict(zip(names, parts, strict=True)), LIST_LIMIT)

    async def remove_authorization(self, id: str) -> Problem | None:
        """End an authorization on whichever server granted it; None when done."""
        if self._strike(id):
            return None
        found, silent = await self.reports.strike_anywhere(self.state.servers, id)
        if found:
            return None
        if silent:
            return Problem(
                503,
                Code.OUTCOME_UNKNOWN,
                f"no server that answered holds {id}; no answer from {', '.join(silent)}",
                retry_after=1.0,
            )
        return Problem(404, Code.NOT_FOUND, f"no authorization {id} in this pool")

    def license(self) -> LicenseDocument:
        """The installed redundant license file."""
        return views.license_document(self.state)

    async def install_license(self, text: str) -> Installed | Problem:
        """Verify a redundant license file and commit it."""
        refusal = self._refusal(recovering_too=False)
        if refusal is not None:
            return refusal
        try:
            sequence = await self.keeper.install(text)
        except LicenseError as fault:
            status = 409 if fault.code == Code.STALE_SEQUENCE else 422
            sequence = self.state.license.sequence
            return Problem(status, fault.code, str(fault), sequence=sequence)
        except NotExecuted as fault:
            return self._problem(503, Code.NO_QUORUM, f"not installed: {fault}", retry_after=1.0)
        except OutcomeUnknown as fault:
            return Problem(503, Code.OUTCOME_UNKNOWN, f"perhaps installed: {fault}")
        return Installed(sequence, self.state.index)

    def readiness(self) -> Readiness:
        """Whether this server holds its lease and may grant."""
        return Readiness(self.may_grant(), self.status(), views.status_detail(self))

    def trouble(self) -> list[str]:
        """What an administrator should look at, one line each."""
        return views.trouble(self)

    # -- life ---------------------------------------------------------------------------

    def tick(self) -> None:
        """Do what time makes due; called every `tick_s`."""
        now = self.clock.now()
        if not self._up:
            self._come_up(now)
        elif now >= self._due["renew"] and self._renewing is None:
            self._renew(now)
        acts = self.acts()
        if not acts:
            self._turn_away(Code.NO_QUORUM)
        elif not self.recovering():
            self.keeper.offer()
        self.grants.expire()
        self.grants.compact()
        for desk in list(self.grants.desks.values()):
            self.borrower.tick(desk)
        self.leader.tick(acts=acts and not self.recovering())
        if self._up and now >= self._due["report"] and self._reporting is None:
            self._due["report"] = now + _REPORT_S
            self._reporting = asyncio.get_running_loop().create_task(self.reports.report())
            self._reporting.add_done_callback(self._report_done)

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
        self._stopping = True
        self._turn_away(Code.DRAINING)
        status = self.engine.status()
        if status.leads:
            for name in self.state.servers:
                if name in status.connected:
                    try:
                        await self.engine.transfer(name)
                    except NotExecuted:
                        continue
                    break
        for task in (self._reporting, self._renewing):
            if task is not None:
                task.cancel()
        self.proposer.close()
        if self._up:
            self._record_log.close_orderly()

    def engine_changed(self) -> None:
        """The leader, the term or a connection changed."""
        self.refresh()

    def refresh(self) -> None:
        """Make the leader priority list anew (R26)."""
        status = self.engine.status()
        version = list_version(self.state, status.leader, status.term)
        if version == self._servers_version:
            return
        places = [
            ServerEntry(p.name, p.api, "leader" if p.leads else "follower", p.status)
            for p in priority_list(self.state, status.leader)
        ]
        self._servers = msgspec.Raw(msgspec.json.encode(ServerList(version, places)))
        self._servers_version = version

    # -- what the log brings ------------------------------------------------------------

    def _applied(self, applied: Applied) -> None:
        """Follow a committed entry: the distribution criteria sync message, among others (B6)."""
        self.proposer.note(applied)
        self.leader.note(applied)
        seek = False
        for event in applied.events:
            match event:
                case PoolFormed():
                    self.refresh()
                case ServerCameUp():
                    self._came_up(event)
                case ServerWentDown(server=server):
                    self.refresh()
                    if server == self.name:
                        self._went_down()
                case LeaseRenewed(server=server, serial=serial) if server == self.name and self._up:
                    self.lease.renewed(serial, self.state.lease_s)
                case AllocationsChanged(feature=feature):
                    self._allocated(feature)
                case BorrowEnded(server=server) if server == self.name:
                    self.borrower.ended(event)
                case Solicited(giver=giver) if giver == self.name:
                    self.borrower.give(event)
                case LicenseChanged():
                    self.keeper.changed()
                case BorrowOpened():
                    seek = True
                case _:
                    pass
        if seek or applied.events:
            self._seek()

    def _restored(self) -> None:
        """The state was replaced by a snapshot: entries were skipped, look at all of it."""
        self.proposer.note_restored(self.state)
        self.refresh()
        me = self.state.servers.get(self.name)
        if self._up and (me is None or me.incarnation != self.grants.incarnation or not me.acts):
            self._went_down()
        for feature in self.state.table.features:
            self._allocated(feature)
        self.keeper.changed()

    def _seek(self) -> None:
        """As the leader, look at once for seats that borrows lack."""
        if self.may_grant():
            self.leader.pump()

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
        self.refresh()
        if event.server != self.name:
            return
        if event.nonce != self._nonce:
            if self._up:
                raise InvariantBroken(
                    f"another process came up as {self.name}, incarnation {event.incarnation}: "
                    "two servers run under one name; stop one of them"
                )
            return
        first = self.grants.incarnation == 0
        saved, self._saved = self._saved, None
        if not first:
            saved = None
            if event.reclaimed:
                self.grants.forget()
        elif event.reclaimed or event.previous == 0:
            # Nothing of it can be relied upon: it was waited for, or never was.
            saved = None
        elif saved is None or not saved.trusted(event.previous, self._boot):
            saved = None
            self._recovering_until_s = recovery_end(
                self.clock.now(), self.state.ttl_s, self.state.drift
            )
            log.warning("recovering for %.0f s: this server's record was lost", self.recovering_s())
        self.proposer.begin(event.incarnation)
        self.borrower.reset()
        self.lease.begin()
        self.grants.begin(event.incarnation, saved)
        self._up = True
        self._due["renew"] = 0.0
        log.info(
            "%s is up as incarnation %d with %d authorizations",
            self.name,
            event.incarnation,
            len(self.grants.record),
        )

    def _went_down(self) -> None:
        """The pool took this server for down; it comes back as the next incarnation."""
        if self._up:
            log.warning("%s was designated as down; coming back", self.name)
        self._up = False
        self._nonce = secrets.token_hex(8)
        self.lease.begin()
        self._turn_away(Code.NO_QUORUM)

    def _come_up(self, now: float) -> None:
        """Form the pool if there is none, then propose to be up as the next incarnation."""
        status = self.engine.status()
        if now < self._due["up"] or status.leader is None or self._stopping:
            return
        self._due["up"] = now + _UP_RETRY_S
        config = self.config
        if not self.state.formed:
            if status.leads:
                form = FormPool(
                    config.pool,
                    config.members,
                    config.lease_s,
                    config.ttl_s,
                    config.drift,
                    secrets.token_hex(32),
                )
                self.proposer.attempt(form)
                self._due["up"] = now + _RETRY_S
            return
        me = self.state.servers.get(self.name)
        if me is None:
            log.error("%s is no member of pool %s; check `servers`", self.name, self.state.pool)
            return
        self.proposer.attempt(
            ServerUp(self.name, me.incarnation + 1, config.threshold, self._nonce)
        )

    def _renew(self, now: float) -> None:
        """Propose the next renewal of the lease, with what is in use (R23)."""
        serial = self.lease.propose(now)
        in_use = {f: n for f, n in self.grants.record.in_use.items() if n}
        for desk in self.grants.desks.values():
            self.borrower.sample(desk)
        third_s = self.state.lease_s / 3
        self._due["renew"] = now + third_s
        before = self.lease.until_s
        command = RenewLease(
            self.name, self.grants.incarnation, serial, in_use, int(self.clock.wall())
        )
        attempt = self.proposer.attempt(command, timeout_s=third_s)
        self._renewing = attempt

        def done(_: asyncio.Task[None]) -> None:
            self._renewing = None
            if self.lease.until_s == before:
                self._due["renew"] = min(self._due["renew"], self.clock.now() + _RETRY_S)

        attempt.add_done_callback(done)

    def _report_done(self, task: asyncio.Task[None]) -> None:
        self._reporting = None
        if not task.cancelled() and task.exception() is not None:
            log.error("the report to the leader failed", exc_info=task.exception())

    # -- answers ------------------------------------------------------------------------

    def _refusal(self, recovering_too: bool = True) -> Problem | None:
        """Why nothing may be granted here now, with the list of where to go instead."""
        if self._stopping:
            return self._problem(503, Code.DRAINING, f"{self.name} is stopping", retry_after=1.0)
        if not self.acts():
            detail = f"{self.name} does not hold its lease: it hears no majority of the pool"
            return self._problem(503, Code.NO_QUORUM, detail, retry_after=1.0)
        if recovering_too and self.recovering():
            left_s = self.recovering_s()
            detail = f"{self.name} lost its record in a crash and recovers for {left_s:.0f} s"
            return self._problem(503, Code.RECOVERING, detail, retry_after=left_s)
        return None

    def _problem(
        self, status: int, code: Code, detail: str, retry_after: float | None = None
    ) -> Problem:
        servers = cast(ServerList, self._servers)
        return Problem(status, code, detail, retry_after=retry_after, servers=servers)

    def _unknown(self, feature: str) -> Problem:
        known = ", ".join(sorted(self.state.table.features)[:20]) or "none: no license is installed"
        detail = f"no feature {feature!r} in this pool; it has {known}"
        return Problem(404, Code.UNKNOWN_FEATURE, detail, field="feature")

    def _unlicensed(
        self, feature: str, pool: FeaturePool | None, version: str | None
    ) -> Problem | None:
        """Why a feature grants nothing, or None."""
        if pool is None:
            return self._unknown(feature)
        if pool.status is CodeStatus.VALID:
            if not covers(pool.version, version):
                detail = f"{feature} is licensed up to version {pool.version}, not {version}"
            elif not self.keeper.trusts(feature):
                detail = f"{feature}: {self.name} cannot verify its license code"
            else:
                return None
        else:
            detail = f"{feature}: {views.license_fault(pool)}"
        return Problem(403, Code.NOT_LICENSED, detail)

    def _denied(self, desk: Desk, code: Code) -> Problem:
        if code is Code.NO_SEATS:
            view = views.feature_view(self, desk.feature)
            return Problem(
                409,
                code,
                f"{desk.feature}: {view.in_use} of {view.deployed} seats are in use",
                in_use=view.in_use,
                deployed=view.deployed,
                waiting=len(desk.queue),
            )
        if code is Code.OVERLOADED:
            detail = f"{desk.feature}: too many requests wait here"
            return self._problem(429, code, detail, retry_after=1.0)
        if code is Code.INVALID_REQUEST:
            return Problem(400, code, "another request used this id", field="id")
        return self._refusal() or self._problem(
            503, code, f"{self.name} could not grant in time", retry_after=1.0
        )

    def _granted(self, a: Authorization) -> Granted:
        ttl_s = self.state.ttl_s
        second = int(a.granted_at_s)
        if second != self._granted_at[0]:
            self._granted_at = (second, views.iso(a.granted_at_s))
        return Granted(
            a.id,
            a.token,
            a.feature,
            a.count,
            self.name,
            ttl_s,
            ttl_s / 3,
            self._granted_at[1],
            cast(ServerList, self._servers),
        )

    def _repeated(
        self, known: Authorization, request: CheckoutRequest, client: ClientFields
    ) -> CheckoutResult:
        """A checkout whose answer was lost gets the same authorization, valid from now."""
        if not same_request(known, request.feature, request.count, client):
            return _answer(
                Problem(400, Code.INVALID_REQUEST, "another request used this id", field="id")
            )
        self.grants.renew(known)
        return 200, self._granted(known)

    async def _decided(self, desk: Desk, decision: asyncio.Future[Decision]) -> CheckoutResult:
        """Wait for the queue's decision; a client that goes away leaves the queue."""
        result = await decision
        if isinstance(result, Denial):
            return _answer(self._denied(desk, result.code))
        if not self.acts():
            # Paused between the grant and now: its answer must not leave without a lease.
            self.grants.release(result.id)
            return _answer(self._denied(desk, Code.NO_QUORUM))
        self.borrower.consider(desk)
        return 201, self._granted(result)

    def _moved(self, token: str) -> HeartbeatResult | Awaitable[HeartbeatResult]:
        """A heartbeat for what is not on record under this token (R8, R9)."""
        fields = self.grants.mint.open(token)
        if fields is None:
            return HeartbeatResult("", "lost", code=Code.NOT_AUTHORIZED)
        known = self.grants.record.get(fields.id)
        if known is not None:
            if not same_request(known, fields.feature, fields.count, fields.client):
                return HeartbeatResult(fields.id, "lost", code=Code.NOT_AUTHORIZED)
            self.grants.renew(known)
            return self._converted(known)
        if fields.id in self._removed:
            return HeartbeatResult(fields.id, "lost", code=Code.REMOVED)
        if self.recovering():
            return self._recovered(fields, token)
        pool = self.state.table.features.get(fields.feature)
        unlicensed = self._unlicensed(fields.feature, pool, None)
        if unlicensed is not None:
            return HeartbeatResult(fields.id, "lost", code=unlicensed.code)
        desk = self.grants.desk(fields.feature)
        granted = self.grants.request(desk, fields.id, fields.count, fields.client)
        if granted is not None:
            self.borrower.consider(desk, Reason.FAILOVER)
            return self._converted(granted)
        decision = self.grants.enqueue(
            desk,
            fields.id,
            fields.count,
            fields.client,
            Reason.FAILOVER,
            0.0,
            self.state.lease_s / 2,
        )
        self.borrower.consider(desk, Reason.FAILOVER)
        return self._conversion(fields, decision)

    def _recovered(self, fields: TokenFields, token: str) -> HeartbeatResult:
        """While recovering, the tokens of an earlier incarnation rebuild its record."""
        desk = self.grants.desk(fields.feature)
        if fields.server != self.name or fields.count > self.grants.returnable(desk):
            return HeartbeatResult(fields.id, "pending", retry_after=1.0)
        known = self.grants.readmit(fields.feature, fields.id, fields.count, fields.client, token)
        return HeartbeatResult(known.id, "renewed", self.state.ttl_s)

    def _converted(self, a: Authorization) -> HeartbeatResult:
        return HeartbeatResult(a.id, "converted", self.state.ttl_s, a.token, self.name)

    async def _conversion(
        self, fields: TokenFields, decision: asyncio.Future[Decision]
    ) -> HeartbeatResult:
        """The outcome of a heartbeat that became a request and has to wait for a borrow."""
        result = await decision
        if isinstance(result, Authorization):
            return self._converted(result)
        issuer = self.state.servers.get(fields.server)
        may_return = issuer is not None and fields.server != self.name and not issuer.reclaimed
        if may_return or result.code is not Code.NO_SEATS:
            return HeartbeatResult(fields.id, "pending", retry_after=1.0)
        return HeartbeatResult(fields.id, "lost", code=result.code)

    async def _gathered(
        self, results: Iterable[HeartbeatResult | Awaitable[HeartbeatResult]], version: int
    ) -> HeartbeatsResult:
        done = [r if isinstance(r, HeartbeatResult) else await r for r in results]
        if not self.acts():
            # The lease ran out while a borrow was waited for: nothing may be confirmed.
            refusal = self._refusal()
            if refusal is not None:
                return refusal.status, refusal
        return 200, self._heartbeats(done, version)

    def _heartbeats(self, results: list[HeartbeatResult], version: int) -> HeartbeatAnswer:
        newer = self._servers_version > version
        return HeartbeatAnswer(results, cast(ServerList, self._servers) if newer else None)

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

    def _strike(self, id: str) -> bool:
        """Take an authorization off the record; its heartbeats are `lost` from now on."""
        if self.grants.release(id) is None:
            return False
        self._removed[id] = None
        if len(self._removed) > _MAX_REMOVED:
            del self._removed[next(iter(self._removed))]
        return True

    def _turn_away(self, code: Code) -> None:
        """Send everybody who waits to another server."""
        for desk in self.grants.desks.values():
            if desk.queue:
                self.grants.deny(desk, lambda _: True, code)


def _answer(problem: Problem) -> tuple[int, Problem]:
    return problem.status, problem


def _client(info: ClientInfo | None) -> ClientFields:
    return (info.id, info.user, info.host, info.pid, info.app) if info else _NOBODY
