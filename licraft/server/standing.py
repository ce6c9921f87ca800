"""This server's standing in its pool: up or not, its incarnation, its lease, its recovery.

May import the core, the engine's contract and this room. Only here is decided whether
the server may act. Source: pool protocol, sections 4 and 5.
"""

from __future__ import annotations

import asyncio
import logging
import secrets

from licraft.core import versions
from licraft.core.commands import FormPool, Member, RenewLease, ServerUp
from licraft.core.leases import recovery_end
from licraft.core.outcomes import ServerCameUp
from licraft.core.state import PoolState, ServerStatus
from licraft.errors import DataError, InvariantBroken
from licraft.replication.engine import Engine
from licraft.server.clock import Clock
from licraft.server.config import ServerConfig
from licraft.server.lease import Lease
from licraft.server.pool import ReplicatedPool
from licraft.server.proof import PoolKey
from licraft.server.proposer import Proposer

log = logging.getLogger(__name__)

_RETRY_S = 0.2
_UP_RETRY_S = 0.5
_NEVER = float("-inf")


class Standing:
    """Whether one server may act; proposes what makes and keeps it so."""

    def __init__(
        self,
        config: ServerConfig,
        pool: ReplicatedPool,
        engine: Engine,
        proposer: Proposer,
        clock: Clock,
    ) -> None:
        self._config = config
        self._pool = pool
        self._engine = engine
        self._proposer = proposer
        self._now = clock.now
        self._wall = clock.wall
        self._lease = Lease()
        self._up_due_s = _NEVER
        self._renewal_due_s = _NEVER
        self._renewing: asyncio.Task[None] | None = None
        # The same until this process is up: a repeated ServerUp must be known as its own.
        self._nonce = secrets.token_hex(8)
        self._recovering_until_s = _NEVER
        self.incarnation = 0
        self.up = False
        self.stopping = False
        self.leaving = False
        self.draining = False
        # When this incarnation's lease began: before, it had heard from no holder.
        self.acting_since_s = float("inf")
        self._stopped = False

    @property
    def state(self) -> PoolState:
        """The replicated state, to be read."""
        return self._pool.state

    def acts(self) -> bool:
        """Whether this server may renew what it granted: it is up and its lease runs."""
        return self._lease.runs(self._now())

    def may_grant(self) -> bool:
        """Whether it may give seats away, to clients or to other servers."""
        now = self._now()
        closed = self.stopping or self.leaving or self.draining
        return self._lease.runs(now) and now >= self._recovering_until_s and not closed

    def may_return(self) -> bool:
        """Whether it may give back what nobody holds: it acts, and knows what it has granted."""
        now = self._now()
        return self._lease.runs(now) and now >= self._recovering_until_s

    def others_grant(self) -> bool:
        """Whether, as far as the pool knows, there is another server to send clients to."""
        me = self._config.server
        return any(s.grants for s in self.state.servers.values() if s.name != me)

    def lease_remaining_s(self) -> float:
        """How long it may act without another renewal."""
        return self._lease.remaining_s(self._now())

    def recovering_s(self) -> float:
        """How long it may still have granted seats that it no longer knows of."""
        return max(0.0, self._recovering_until_s - self._now())

    def word(self) -> str:
        """This server in one word: starting, draining, no_quorum, recovering or serving.

        Or, of a server that comes or goes: joining, removing, removed; refused by the others.
        """
        if self.stopping:
            return "draining"
        me = self.state.servers.get(self._config.server)
        turned_away = bool(self._engine.status().turned_away)
        if self.state.formed and me is None:
            return "removed" if turned_away or self.incarnation else "joining"
        if me is not None and not me.votes:
            return "removed" if turned_away and me.removing else me.word
        if turned_away:
            return "refused"
        if not self.incarnation:
            return "starting"
        if not self.acts():
            return "no_quorum"
        if self.recovering_s():
            return "recovering"
        return "draining" if self.draining else "serving"

    def tick(self) -> None:
        """Propose to be up, or to stay so, when it is time."""
        me = self.state.servers.get(self._config.server)
        draining = me is not None and me.status is ServerStatus.DRAINING
        if draining and not self.draining:
            log.warning("%s is being drained: it grants nothing new", self._config.server)
        self.draining = draining
        if not self.up and not self.stopping:
            self._come_up(self._now())

    def renewal_due(self) -> bool:
        """Whether the lease is to be renewed now."""
        return (
            self.up
            and not self._stopped
            and not self.leaving
            and self._renewing is None
            and self._now() >= self._renewal_due_s
        )

    def renew(self, in_use: dict[str, int]) -> None:
        """Propose the next renewal of the lease, with what is in use (R23)."""
        now = self._now()
        third_s = self.state.lease_s / 3
        command = RenewLease(
            self._config.server,
            self.incarnation,
            self._lease.propose(now),
            in_use,
            int(self._wall()),
        )
        before_s = self._lease.until_s
        self._renewal_due_s = now + third_s
        self._renewing = self._proposer.attempt(command, timeout_s=third_s)

        def done(_: asyncio.Task[None]) -> None:
            self._renewing = None
            if self._lease.until_s == before_s:
                self._renewal_due_s = min(self._renewal_due_s, self._now() + _RETRY_S)

        self._renewing.add_done_callback(done)

    def renewed(self, serial: int) -> None:
        """A renewal of this server was applied."""
        if self.up:
            self._lease.renewed(serial, self.state.lease_s)
            self.acting_since_s = min(self.acting_since_s, self._now())

    def is_mine(self, event: ServerCameUp) -> bool:
        """Whether this process came up, not an earlier one that the log remembers.

        Raises InvariantBroken if another process acts under this server's name.
        """
        if event.nonce == self._nonce:
            return True
        if self.up:
            raise InvariantBroken(
                f"another process came up as {event.server}, incarnation {event.incarnation}: "
                "two servers run under one name; stop one of them"
            )
        return False

    def came_up(self, incarnation: int) -> None:
        """This process is up as `incarnation`; it acts once its lease is renewed."""
        self._proposer.begin(incarnation)
        self._lease.begin()
        self.incarnation = incarnation
        self.up = True
        self.acting_since_s = float("inf")
        self._renewal_due_s = _NEVER

    def recover(self) -> None:
        """What this server granted before is not known: wait until nobody relies on it."""
        self._recovering_until_s = recovery_end(self._now(), self.state.ttl_s, self.state.drift)

    def went_down(self) -> None:
        """The pool took this server for down; it comes back as the next incarnation."""
        if self.up:
            log.warning("%s was designated as down; coming back", self._config.server)
            self._nonce = secrets.token_hex(8)
        self.up = False
        self._lease.begin()

    def leave(self, leaving: bool) -> None:
        """Whether this server is being removed from the pool: then it gives nothing away."""
        if leaving and not self.leaving:
            log.warning("%s is being removed from the pool: it grants nothing", self._config.server)
        self.leaving = leaving

    def close(self) -> None:
        """Take nothing on any more, for good: what is held here still moves to others."""
        self.stopping = True

    def stop(self) -> None:
        """Act no more, for good."""
        self.stopping = self._stopped = True
        self._lease.begin()
        if self._renewing is not None:
            self._renewing.cancel()

    def _come_up(self, now: float) -> None:
        """Form the pool if there is none, then propose to be up as the next incarnation."""
        status = self._engine.status()
        if now < self._up_due_s or status.leader is None:
            return
        if not self.state.formed:
            self._up_due_s = now + _RETRY_S
            if status.leads:
                self._proposer.attempt(_formation(self._config))
            return
        self._up_due_s = now + _UP_RETRY_S
        config = self._config
        me = self.state.servers.get(config.server)
        if me is None or not me.votes:
            return  # It joins, or was removed: `word` says so.
        if self.state.version > versions.KNOWN:
            raise DataError(
                f"pool {self.state.pool} writes version {self.state.version} of its log, and this "
                f"licraft knows up to {versions.KNOWN}: install the release that the others run"
            )
        self._proposer.attempt(
            ServerUp(
                config.server, me.incarnation + 1, config.threshold, self._nonce, versions.KNOWN
            )
        )


def _formation(config: ServerConfig) -> FormPool:
    """The command that makes a pool of this configuration, with a new secret."""
    members: tuple[Member, ...] = config.members
    secret = secrets.token_hex(32)
    return FormPool(
        config.pool,
        members,
        config.lease_s,
        config.ttl_s,
        config.drift,
        secret,
        PoolKey(secret).public,
    )
