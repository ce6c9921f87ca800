"""What a simulated pool owes once nothing goes wrong any more, and by when.

May import the testing room and this folder. These are the promises of liveness; what must
never happen is for the checkers.
"""

from __future__ import annotations

from pathlib import Path

from licraft.core.table import FeaturePool
from licraft.testing.pool import InProcessPool
from licraft.wire import CheckoutRequest, Problem
from simulation.checkers.bounds import grown
from simulation.holders import Holders, Relied, SafetyBroken
from simulation.network import Network
from simulation.plan import Plan


class Settling:
    """After all faults are mended: what the pool must have recovered, and by when."""

    def __init__(
        self, chosen: Plan, pool: InProcessPool, network: Network, holders: Holders
    ) -> None:
        self.plan = chosen
        self.pool = pool
        self.network = network
        self.holders = holders

    async def recover(self) -> int:
        """While clients go on: in `ttl` + 3 leases all serve, and who held a seat holds it.

        Returns how many holds were judged: those with enough time left, at their next
        heartbeat, for a server to be called down and for an election.
        """
        pool, lease_s = self.pool, self.plan.lease_s
        end_s = pool.now() + self.plan.ttl_s + 3 * lease_s
        judged: dict[str, Relied] = {}
        served = known = False
        while pool.now() < end_s:
            for hold in self.holders.holding():
                at_s = max(hold.due_s, hold.clock.now())
                if hold.tenure.valid_until - at_s > lease_s + 2.5:
                    judged[hold.id] = hold
            served = served or pool.serving()
            known = known or (served and not self._unknown())
            await pool.advance(0.2)
        if not served:
            idle = [
                n for n in pool.names if n not in pool.running or not pool.server(n).may_grant()
            ]
            raise SafetyBroken(f"not all servers serve again: {', '.join(idle)} do not")
        if not known:
            raise SafetyBroken(f"on no record, but relied on: {self._unknown()}")
        for hold in judged.values():
            if hold.wanted and not hold.relied_on:
                raise SafetyBroken(
                    f"{hold.count} seats of {hold.feature} by {hold.server} were lost though all "
                    f"faults were mended: {hold.id}, {hold.tenure.reason or 'expired'}"
                )
        return len(judged)

    async def settle(self) -> None:
        """Once no client wants anything any more: all seats are there to be had again, soon."""
        pool, ttl_s = self.pool, self.plan.ttl_s
        calm_s = ttl_s + 3 * self.plan.lease_s
        # What is late under way may still ask for seats.
        late_s = 2 * ttl_s + pool.server(pool.names[0]).state.lease_s
        await pool.until(lambda: not self._answers_owed(), "every request is answered", late_s)
        await pool.until(lambda: not self._in_use(), "all seats come back", calm_s)
        await pool.until(lambda: not self._busy(), "every borrow ends, nothing is over", calm_s)
        for name in pool.names:
            for feature in sorted(self._table()):
                await self._take_all(name, feature)
        await pool.until(lambda: not self._differences(), "all servers agree", calm_s)
        if self.plan.raft:
            await pool.until(lambda: not any(grown(pool)), "what was kept is gone", calm_s)

    async def _take_all(self, name: str, feature: str) -> None:
        """One server can get every seat there is: none was forgotten anywhere."""
        pool = self.pool
        deployed = self._table()[feature].deployed
        if not deployed:
            return
        request = CheckoutRequest(feature, deployed, wait=20.0, id=f"all.{name}.{feature}")
        _, answer = await pool.checkout(name, request)
        if isinstance(answer, Problem):
            raise SafetyBroken(f"{name} cannot have all {deployed} of {feature}: {answer}")
        await pool.checkin(name, answer.token)

    def _differences(self) -> set[str]:
        """In what the servers differ: they have applied as much, and have one license on disk."""
        pool = self.pool
        servers = [pool.server(name) for name in pool.names]
        seen: dict[str, set[object]] = {
            "the license": {server.state.license.sequence for server in servers},
            "the license's copy": {_content(pool.data_dir(n) / "license.yaml") for n in pool.names},
            "the audit": {server.state.audit.sha256 for server in servers},
            "the seats": {repr(server.state.table) for server in servers},
        }
        return {what for what, found in seen.items() if len(found) > 1}

    def _table(self) -> dict[str, FeaturePool]:
        return self.pool.server(self.pool.names[0]).state.table.features

    def _unknown(self) -> set[str]:
        """Authorizations on which their holders rely, and that no server has on record."""
        servers = (self.pool.server(name) for name in self.pool.running)
        known = {a.id for server in servers for a in server.grants.record}
        return {hold.id for hold in self.holders.holding()} - known

    def _in_use(self) -> bool:
        return any(
            sum(self.pool.server(name).grants.record.in_use.values()) for name in self.pool.names
        )

    def _answers_owed(self) -> bool:
        """Whether a request is under way, or at a server that still runs."""
        servers = [None, *(self.pool.server(name) for name in self.pool.names)]
        return any(server in servers for server in self.network.in_flight.values())

    def _busy(self) -> bool:
        """Whether seats are still asked for, given, or retired."""
        return any(pool.pending or pool.over for pool in self._table().values()) or any(
            desk.borrow or desk.asking or desk.set_aside or desk.queue
            for name in self.pool.names
            for desk in self.pool.server(name).grants.desks.values()
        )


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
