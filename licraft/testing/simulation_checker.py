"""Looks for what must never happen in a simulated pool.

May import this room and the core. It sees every server after every log index, and all
holders of seats in true time. Source: pool protocol, sections 2 and 3.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

from licraft.core.codec import decode_entry, encode_state
from licraft.core.commands import Command, InstallLicense, asked_for
from licraft.core.invariants import check
from licraft.core.license import entitlements
from licraft.core.state import PoolState
from licraft.testing.pool import InProcessPool
from licraft.testing.simulated_clients import Holders, SafetyBroken
from licraft.testing.simulation_seen import Seen

_DIGEST_EACH = 32


class Checker:
    """Looks at every server after every log index, and at all holders whenever that matters."""

    def __init__(self, pool: InProcessPool, holders: Holders) -> None:
        self._pool = pool
        self._holders = holders
        self._digests: dict[int, tuple[str, str]] = {}
        self._incarnations: dict[str, int] = {}
        self._newest = 0
        self._sequence = 0
        self._deployed: dict[str, int] = {}
        self.seen = Seen(pool, holders)
        self.fault: SafetyBroken | None = None

    def applied(self, server: str, index: int) -> None:
        """`server` has applied the log up to `index`."""
        self.seen.counts["entries applied"] += 1
        state = self._state(server)
        if broken := check(state):
            self._broken(f"{server} at index {index}: {'; '.join(broken)}")
        if index % _DIGEST_EACH == 0:
            digest = hashlib.sha256(encode_state(state)).hexdigest()
            other, theirs = self._digests.setdefault(index, (server, digest))
            if theirs != digest:
                self._broken(f"{server} and {other} differ at index {index}")
        self._within(server, state)
        if index > self._newest:
            self._follow(index, state)
            self.holders()

    def holders(self) -> None:
        """Compare what is relied on with what is deployed, by the newest state."""
        for feature, seats in self._holders.relied_on().items():
            deployed = self._deployed.get(feature, 0)
            self.seen.counts["every seat relied on"] += seats == deployed
            if seats > deployed:
                self._broken(
                    f"{seats} seats of {feature} are relied on, {deployed} "
                    f"are deployed: {self._holders.describe(feature)}"
                )

    def _within(self, name: str, state: PoolState) -> None:
        """Of what a server that acts has on record no more is relied on than it manages (B33).

        A record that was read back after a crash may hold more: what its holder had just
        given back, and the seats of that may have gone.
        """
        me = state.servers.get(name)
        if me is None or not me.acts or name not in self._pool.running:
            return
        server = self._pool.server(name)
        if server.standing.incarnation != me.incarnation:
            return
        if self._incarnations.get(name) != me.incarnation:
            self._incarnations[name] = me.incarnation
            self.seen.came_up(server)
        seats: Counter[str] = Counter()
        for authorization in server.grants.record:
            if self._holders.relies(authorization.id):
                seats[authorization.feature] += authorization.count
        for feature, count in seats.items():
            pool = state.table.features.get(feature)
            has = pool.allocations.get(name, 0) if pool else 0
            if count > has:
                self._broken(
                    f"{name} has {has} of {feature} at index {state.index}, and {count} on record "
                    f"are relied on: {self._holders.describe(feature)}"
                )

    def _state(self, server: str) -> PoolState:
        machine = self._pool.log.engines[server].machine
        state = getattr(machine, "state", None)
        assert isinstance(state, PoolState)
        return state

    def _commands(self, index: int) -> tuple[Command, ...]:
        """What was committed at a log index, whoever asked for it.

        Nothing if that was an election or is compacted.
        """
        log = self._pool.log
        entry = log.entry(index) if index > log.base[0] else None
        return () if entry is None else tuple(map(asked_for, decode_entry(entry).commands))

    def _follow(self, index: int, state: PoolState) -> None:
        """Look at what one entry changed: more is deployed only by a license that grants it.

        One entry may bring several licenses: what the first of them deployed may stay
        deployed when the last grants less. If entries were skipped nobody can tell.
        """
        commands = self._commands(index)
        granted = self._granted(commands, state)
        deployed = {name: pool.deployed for name, pool in state.table.features.items()}
        for name, pool in state.table.features.items():
            most = max(pool.entitled, granted.get(name, 0), self._deployed.get(name, 0))
            if pool.deployed > most and index == self._newest + 1:
                self._broken(f"{pool.deployed} of {name} deployed, {pool.entitled} entitled")
        self._newest, self._deployed = index, deployed
        self._sequence = state.license.sequence
        self.seen.committed(index, commands, state)

    def _granted(self, commands: Iterable[Command], state: PoolState) -> dict[str, int]:
        """The most that any license of an entry grants, of those newer than all before it."""
        most: dict[str, int] = {}
        sequence = self._sequence
        for command in commands:
            if isinstance(command, InstallLicense) and command.license.sequence > sequence:
                sequence = command.license.sequence
                found = entitlements(
                    command.license, state.pool, state.pool_day, pool_key=state.pool_key
                )
                for name, part in found.items():
                    most[name] = max(most.get(name, 0), part.count)
        return most

    def _broken(self, text: str) -> None:
        """Keep the first fault; the run ends soon."""
        if self.fault is None:
            self.fault = SafetyBroken(f"{self._pool.now():.3f} s: {text}")
