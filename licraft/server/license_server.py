"""One license server: its parts put together, its clock, and what others ask of it.

May import the core, the engine's contract, `wire`, `errors` and this room. Clients' calls
stand in `client_calls`, what follows from the log in `reactions`. All that a server decides
is decided in one thread, from memory; only moves of seats between servers and what
administrators change is committed. Source: pool protocol; claims R7 to R9, R21, R23, R26,
B1 to B6, B30 to B33.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from licraft.core.outcomes import Code
from licraft.core.state import PoolState
from licraft.errors import DataError, NotExecuted
from licraft.replication.engine import Engine
from licraft.server import views
from licraft.server.administration import Administration
from licraft.server.answers import Answers
from licraft.server.audit_log import AuditLog
from licraft.server.borrower import Borrower
from licraft.server.client_calls import ClientCalls, HeartbeatsResult
from licraft.server.clock import Clock, SystemClock
from licraft.server.config import ServerConfig
from licraft.server.criteria import Criteria
from licraft.server.draining import Draining, successors
from licraft.server.failover import Failover
from licraft.server.grants import Grants
from licraft.server.leader import Leader
from licraft.server.license_keeper import LicenseKeeper
from licraft.server.members import Members
from licraft.server.moves import Moves
from licraft.server.pool import ReplicatedPool
from licraft.server.proof import Prover
from licraft.server.proposer import Proposer
from licraft.server.reactions import Reactions
from licraft.server.record_log import RecordLog, boot_id
from licraft.server.reports import LIST_LIMIT, Reports
from licraft.server.standing import Standing
from licraft.wire import (
    AllocationsRequest,
    AuditView,
    AuthorizationList,
    BorrowingRequest,
    CodeRequest,
    DistributionRequest,
    FeatureList,
    FeatureView,
    HeartbeatRequest,
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
_REACH_S = 5.0
_REACH_LOOK_S = 0.01


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
        boot = boot_id() if boot is None else boot
        self._record_log = RecordLog(config.data_dir / "record.log", boot)
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
            config.expiry_grace_s,
        )
        self.answers = Answers(name, self.standing, self.keeper)
        self.administration = Administration(pool, engine, self.proposer, self.keeper, self.answers)
        self.criteria = Criteria(pool, self.answers, self.administration.commit)
        self.members = Members(pool, engine, self.proposer, self.answers)
        self.moves = Moves(name, self.grants, self.standing, self.proposer, self.clock)
        self.failover = Failover(
            name, self.grants, self.borrower, self.standing, self.moves, self.answers
        )
        self.draining = Draining(
            self.grants,
            self.borrower,
            self.leader,
            self.standing,
            self.answers,
            engine,
            self.clock,
        )
        self.reports = Reports(name, engine, self.grants, self.clock, self.grants.strike)
        self.grants.may_act = self.standing.may_grant
        self.grants.on_freed = self.borrower.offer
        self.grants.yields = self.borrower.yields
        # Called when going on could issue a seat twice; must not return.
        self.on_fatal: Callable[[BaseException], None] = _raise
        self._report_due_s = 0.0
        self._reporting: asyncio.Task[None] | None = None
        calls = ClientCalls(
            name,
            pool,
            self.standing,
            self.grants,
            self.borrower,
            self.failover,
            self.answers,
            self.reports,
            Prover(name, lambda: pool.state, self.grants.record.get),
        )
        # Bound here and not called from methods of this class: they are what a server does
        # all day, and another call costs them some percent.
        self.checkout = calls.checkout
        self._calls = calls
        self._renewing = calls.heartbeat
        self.heartbeat = self._renewing  # `tick` binds another while it drains.
        self.checkin = calls.checkin
        self.audit_log = AuditLog(config.data_dir / "audit.log")
        reactions = Reactions(
            config,
            pool,
            self.proposer,
            self.standing,
            self.grants,
            self.borrower,
            self.leader,
            self.keeper,
            self.members,
            self.moves,
            self.engine_changed,
            self.audit_log,
        )
        pool.on_applied = reactions.applied
        pool.on_restored = reactions.restored
        self.engine_changed()
        if self.state.formed:
            reactions.restored()  # The engine found a snapshot before there was a server.

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

    def settle(self) -> None:
        """Write down what was granted and ended since the last time, before answers leave."""
        try:
            self._record_log.flush()
        except DataError as fault:
            self.on_fatal(fault)

    # -- observation and administration -----------------------------------------------

    async def reached(self, index: int) -> Problem | None:
        """Wait until the log is applied here up to an index; a problem if that takes too long."""
        deadline_s = asyncio.get_running_loop().time() + _REACH_S
        while self.state.index < index:
            if asyncio.get_running_loop().time() >= deadline_s:
                detail = f"{self.name} knows the log up to {self.state.index}, not to {index} yet"
                return self.answers.elsewhere(Code.NO_QUORUM, detail)
            await asyncio.sleep(_REACH_LOOK_S)
        return None

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
        known = self.grants.record.get(id)
        line = known if known is not None else await self.reports.find(self.state.servers, id)
        refusal = await self.administration.remove(id, views.holder(line) if line else "")
        if refusal is not None:
            return refusal
        if self.grants.strike(id):
            return None
        found, silent = await self.reports.strike_anywhere(self.state.servers, id)
        if found:
            return None
        if silent:
            detail = f"no server that answered holds {id}; no answer from {', '.join(silent)}"
            return Problem(503, Code.OUTCOME_UNKNOWN, detail, retry_after=1.0)
        return Problem(404, Code.NOT_FOUND, f"no authorization {id} in this pool")

    def audit(self, after: int) -> AuditView:
        """What administrators changed, after the record of this number; the last ones."""
        return views.audit_view(self.state, after)

    def license(self) -> LicenseDocument:
        """The installed redundant license file."""
        return views.license_document(self)

    async def install_license(self, text: str) -> Installed | Problem:
        """Verify a redundant license file and commit it."""
        return await self.administration.install_license(text)

    async def add_code(self, request: CodeRequest) -> Installed | Problem:
        """Add a license code to the redundant license file."""
        return await self.administration.add_code(request)

    async def lead(self, server: str) -> LeaderAnswer | Problem:
        """Hand leadership to `server`, and wait until it leads."""
        return await self.administration.lead(server)

    async def drain(self, server: str, *, on: bool) -> ServerAnswer | Problem:
        """Have a server give its seats and clients to the others, or take them again."""
        return await self.administration.drain(server, on=on)

    async def distribute(self, feature: str, request: DistributionRequest) -> FeatureView | Problem:
        """Share a feature's seats out among the servers."""
        return await self.criteria.distribute(feature, request) or self.feature(feature)

    async def add_allocations(
        self, feature: str, request: AllocationsRequest
    ) -> FeatureView | Problem:
        """Deploy more of a feature's seats, or retire some."""
        return await self.criteria.add(feature, request) or self.feature(feature)

    async def bound_borrowing(
        self, feature: str, request: BorrowingRequest
    ) -> FeatureView | Problem:
        """Bound borrowing of a feature, at one server or at all."""
        return await self.criteria.bound(feature, request) or self.feature(feature)

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
        ended = self.keeper.expiry.any_ended()
        self._renewing = self._ending if ended else self._calls.heartbeat
        self.heartbeat = self._sending_away if self.standing.draining else self._renewing
        if self.standing.renewal_due():
            for desk in self.grants.desks.values():
                self.borrower.sample(desk)
            self.standing.renew({f: n for f, n in self.grants.record.in_use.items() if n})
        may_grant = self.may_grant()
        self.keeper.tick(acts=self.standing.acts())
        if may_grant:
            self.grants.keep_log()
        elif not self.standing.acts():
            self.grants.turn_away(Code.NO_QUORUM)
        self.grants.expire()
        self.settle()
        for desk in list(self.grants.desks.values()):
            self.borrower.tick(desk)
        self.moves.tick()
        self.draining.tick()
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
        """Answer another server of the pool, once what the answer promises is settled."""
        answer = await self.reports.answer(server, body)
        # It may tell that authorizations are struck: a restart must not bring them back.
        self.settle()
        return answer

    async def stop(self) -> None:
        """Stop in an orderly way: grant no more, drain for a moment, save the record."""
        self.standing.close()
        self.leader.close()
        self.grants.turn_away(Code.DRAINING)
        await self._resign()
        await self.draining.hurry(self.tick, self.config.tick_s)
        self.standing.stop()
        self.leader.close()
        self.members.close()
        if self._reporting is not None:
            self._reporting.cancel()
        self.proposer.close()
        await self.audit_log.close()
        if self.standing.up:
            self._record_log.close_orderly()

    async def _resign(self) -> None:
        """Hand leadership to a server that goes on, if this one leads."""
        for name in successors(self.state, self.engine.status()):
            try:
                await self.engine.transfer(name)
            except NotExecuted as fault:
                log.info("leadership was not handed to %s: %s", name, fault)
                continue
            return

    def engine_changed(self) -> None:
        """The leader, the term or a connection changed."""
        self.answers.refresh(self.state, self.engine.status())

    def _ending(self, request: HeartbeatRequest) -> HeartbeatsResult | Awaitable[HeartbeatsResult]:
        """Heartbeats while a feature has expired whose holders are not renewed any more."""
        return self.keeper.expiry.heartbeat(request, self.grants.mint, self._calls.heartbeat)

    def _sending_away(
        self, request: HeartbeatRequest
    ) -> HeartbeatsResult | Awaitable[HeartbeatsResult]:
        """Heartbeats while this server drains."""
        refusal = self.draining.sends_away(request.tokens)
        return self._renewing(request) if refusal is None else (refusal.status, refusal)

    def _reported(self, task: asyncio.Task[None]) -> None:
        self._reporting = None
        if not task.cancelled() and task.exception() is not None:
            log.error("the report to the leader failed", exc_info=task.exception())


def _raise(fault: BaseException) -> None:
    raise fault
