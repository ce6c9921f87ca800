"""Looks for what must never happen in a simulated pool.

May import this room and the core. It sees every server after every log index, and all
holders of seats in true time. Source: pool protocol, sections 2 and 3.
"""

from __future__ import annotations

import hashlib
from collections import Counter

from licraft.core.codec import encode_state
from licraft.core.invariants import check
from licraft.core.state import PoolState, ServerStatus
from licraft.testing.pool import InProcessPool
from licraft.testing.simulated_clients import Holders, SafetyBroken

_DIGEST_EACH = 32


class Checker:
    """Looks at every server after every log index, and at all holders whenever that matters."""

    def __init__(self, pool: InProcessPool, holders: Holders) -> None:
        self._pool = pool
        self._holders = holders
        self._digests: dict[int, tuple[str, str]] = {}
        self._newest = 0
        self._deployed: dict[str, int] = {}
        self.entries = 0
        self.seen: Counter[str] = Counter()
        self.fault: SafetyBroken | None = None

    def applied(self, server: str, index: int) -> None:
        """`server` has applied the log up to `index`."""
        self.entries += 1
        state = self._state(server)
        if broken := check(state):
            self._broken(f"{server} at index {index}: {'; '.join(broken)}")
        if index % _DIGEST_EACH == 0:
            digest = hashlib.sha256(encode_state(state)).hexdigest()
            other, theirs = self._digests.setdefault(index, (server, digest))
            if theirs != digest:
                self._broken(f"{server} and {other} differ at index {index}")
        if index > self._newest:
            self._newest = index
            self._follow(state)
            self.holders()

    def holders(self) -> None:
        """Compare what is relied on with what is deployed, by the newest state."""
        for feature, seats in self._holders.relied_on().items():
            if seats > self._deployed.get(feature, 0):
                self._broken(
                    f"{seats} seats of {feature} are relied on, {self._deployed.get(feature, 0)} "
                    f"are deployed: {self._holders.describe(feature)}"
                )

    def _state(self, server: str) -> PoolState:
        machine = self._pool.log.engines[server].machine
        state = getattr(machine, "state", None)
        assert isinstance(state, PoolState)
        return state

    def _follow(self, state: PoolState) -> None:
        """Note how many seats are deployed: beyond the entitlement only as a license shrank."""
        deployed = {name: pool.deployed for name, pool in state.table.features.items()}
        for name, pool in state.table.features.items():
            if pool.deployed > max(pool.entitled, self._deployed.get(name, 0)):
                self._broken(f"{pool.deployed} of {name} deployed, {pool.entitled} entitled")
            self.seen["over"] += pool.over > 0
            self.seen["borrow pending"] += bool(pool.pending)
        self._deployed = deployed
        self.seen["down"] += any(s.status is ServerStatus.DOWN for s in state.servers.values())
        self.seen["reclaimed"] += any(s.reclaimed for s in state.servers.values())

    def _broken(self, text: str) -> None:
        """Keep the first fault; the run ends soon."""
        if self.fault is None:
            self.fault = SafetyBroken(f"{self._pool.now():.3f} s: {text}")
