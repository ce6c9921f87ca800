"""What administrators decide of seats, in any order with all else, beside a dumb oracle.

The oracle holds the records of the servers, one number for each, which `apply` never sees,
and knows nothing of how seats move: it says what must not have happened to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.pools import CAD, NAMES, Pool, code

from licraft.core.codec import decode_entry, decode_state, encode_entry, encode_state
from licraft.core.commands import (
    AddAllocations,
    Borrow,
    Command,
    Drain,
    EndBorrow,
    Entry,
    HandOver,
    Level,
    Limits,
    Reason,
    Release,
    SetBorrowing,
    SetDistribution,
)
from licraft.core.outcomes import Code, Effect, Outcome
from licraft.core.table import FeaturePool

pytestmark = pytest.mark.timeout(400)  # a failing history takes a while to shrink

servers = st.sampled_from(NAMES)
few = st.integers(0, 8)
bounds = st.none() | st.integers(0, 12)
shares = st.dictionaries(servers, st.integers(0, 14), max_size=3)


@dataclass(frozen=True)
class Before:
    """What a feature was before a command."""

    entitled: int
    goal: int
    deployed: int
    retiring: int
    parts: dict[str, int]

    @classmethod
    def of(cls, feature: FeaturePool) -> Before:
        """These numbers now."""
        parts = {name: feature.allocations.get(name, 0) for name in NAMES}
        retiring = sum(feature.retiring.values())
        return cls(feature.entitled, feature.goal, feature.deployed, retiring, parts)


class Administered(RuleBasedStateMachine):
    """A pool of three, its administrators and its users."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool()
        self.in_use = dict.fromkeys(NAMES, 0)
        self.number = 0
        self.pool.install(code(20))

    # -- the pool -------------------------------------------------------------------------

    @property
    def feature(self) -> FeaturePool:
        return self.pool.feature()

    def acts(self, server: str) -> bool:
        return self.pool.state.servers[server].acts

    def unused(self, server: str) -> int:
        return self.feature.allocations.get(server, 0) - self.in_use[server]

    def commit(self, command: Command, by: str = "") -> Outcome:
        """Commit a command as it comes over the wire; nobody's seats may be gone after it."""
        server = self.pool.state.servers.get(by)
        data = encode_entry(Entry(by, server.incarnation if server else 0, 0, (command,)), 1)
        (command,) = decode_entry(data).commands
        applied = self.pool.ask(by, command) if by else self.pool.now(command)
        return applied.outcomes[0]

    def lent(self, command: Command, by: str = "") -> Outcome:
        """Commit what only borrowing may be the reason of: floors and caps are kept."""
        before = Before.of(self.feature)
        outcome = self.commit(command, by)
        for name, had in before.parts.items():
            limits, has = self.feature.limits_at(name), self.feature.allocations.get(name, 0)
            if limits.enabled is False:
                assert has == had
            assert has >= min(had, limits.floor or 0)
            assert limits.cap is None or has <= max(had, limits.cap)
        return outcome

    # -- administrators -------------------------------------------------------------------

    @rule(count=st.integers(0, 30), share=shares)
    def install(self, count: int, share: dict[str, int]) -> None:
        text = "^".join(f"{name}:{seats}" for name, seats in share.items())
        retired = self.feature.retired
        self.pool.install(code(count, text))
        assert self.feature.entitled == count
        assert self.feature.retired >= retired

    @rule(share=shares)
    def distribute(self, share: dict[str, int]) -> None:
        before = Before.of(self.feature)
        outcome = self.commit(SetDistribution(CAD, tuple(share.items())))
        if sum(share.values()) > before.goal:
            assert outcome == Outcome(Effect.REFUSED, before.goal, Code.EXCEEDS_ENTITLEMENT)
            assert Before.of(self.feature) == before
            return
        assert outcome.effect is Effect.DONE
        assert self.feature.target == (share or None)
        assert self.feature.deployed <= before.deployed
        if not self.feature.changing and share and not self.feature.over:
            # Whoever is not as the target has it lacks what nobody could give.
            lacking = [n for n in self.pool.state.deployable if self.lacks(n)]
            assert not lacking or not self.feature.free

    def lacks(self, server: str) -> int:
        target = self.feature.target or {}
        kept = self.feature.allocations.get(server, 0) - self.feature.retiring.get(server, 0)
        return max(0, target.get(server, 0) - kept)

    @rule(count=st.integers(-8, 8).filter(bool), to=st.sampled_from(["", *NAMES]))
    def add(self, count: int, to: str) -> None:
        before = Before.of(self.feature)
        outcome = self.commit(AddAllocations(CAD, count, to))
        after = Before.of(self.feature)
        if outcome.effect is not Effect.DONE:
            assert after == before
            return
        assert after.goal - after.retiring == before.goal - before.retiring + count
        assert 0 <= after.goal <= after.entitled
        assert after.deployed <= max(before.deployed, after.goal)
        if count > 0 and to:
            # What is over is not added to; else the server has them all.
            lacked = max(0, after.goal - before.deployed)
            assert after.parts[to] >= before.parts[to] + min(count, lacked)

    @rule(
        server=st.sampled_from(["", *NAMES]),
        enabled=st.sampled_from([None, None, True, False]),
        floor=bounds,
        cap=bounds,
        defaults=st.sets(st.sampled_from(["enabled", "floor", "cap"])),
    )
    def bound(
        self,
        server: str,
        enabled: bool | None,
        floor: int | None,
        cap: int | None,
        defaults: set[str],
    ) -> None:
        limits = Limits(enabled, None, floor, cap)
        parts = Before.of(self.feature).parts
        self.commit(SetBorrowing(CAD, server, limits, tuple(sorted(defaults))))
        assert Before.of(self.feature).parts == parts or self.feature.free == 0

    @rule(server=servers, on=st.booleans())
    def drain(self, server: str, on: bool) -> None:
        self.commit(Drain(server, on))

    # -- users, and the servers' part -----------------------------------------------------

    @rule(server=servers, count=st.integers(1, 4))
    def checkout(self, server: str, count: int) -> None:
        member, feature = self.pool.state.servers[server], self.feature
        owed = feature.owed(server)
        if not member.grants or feature.over or count > self.unused(server) - owed:
            return
        self.in_use[server] += count
        assert sum(self.in_use.values()) <= feature.goal <= feature.entitled

    @rule(server=servers, count=st.integers(1, 4))
    def checkin(self, server: str, count: int) -> None:
        self.in_use[server] = max(0, self.in_use[server] - count)

    @rule(server=servers, count=st.integers(1, 6))
    def give_up(self, server: str, count: int) -> None:
        """A server gives up what it owes, or more, as one that is drained does."""
        count = min(count, self.unused(server))
        if self.acts(server) and count:
            self.commit(Release(CAD, server, count, "", "", Level.OFFERED, False), server)

    @rule(server=servers, want=st.integers(1, 12), need=few, reason=st.sampled_from(Reason))
    def borrow(self, server: str, want: int, need: int, reason: Reason) -> None:
        self.number += 1
        id = f"{server}-{self.number}"
        self.lent(Borrow(id, CAD, server, want, need, reason, 0, self.number % 2 > 0), server)

    @rule(giver=servers, to=servers, count=few, leader=st.booleans())
    def lend(self, giver: str, to: str, count: int, leader: bool) -> None:
        """A server lends what it has unused, whatever it was told of floors and caps."""
        if to not in self.feature.pending:
            self.borrow(to, 12, 12, Reason.REQUEST)
        borrow = self.feature.pending.get(to)
        count = min(count, self.unused(giver))
        if borrow is not None and self.acts(giver):
            command = Release(CAD, giver, count, to, borrow.id, Level.UNUSED, leader)
            self.lent(command, giver)

    @rule(giver=servers, to=servers, floor=st.integers(0, 9), cap=st.integers(0, 9))
    def lend_within_bounds(self, giver: str, to: str, floor: int, cap: int) -> None:
        """Bounds change while a borrow waits, and seats come to it in other ways meanwhile."""
        if to not in self.feature.pending:
            self.borrow(to, 12, 12, Reason.REQUEST)
        self.bound(giver, None, floor, None, {"cap"})
        self.bound(to, None, None, 9 + cap, {"floor"})
        self.hand_over(giver, to)
        self.lend(giver, to, 8, leader=False)

    @rule(server=servers, exhausted=st.booleans())
    def end_borrow(self, server: str, exhausted: bool) -> None:
        borrow = self.feature.pending.get(server)
        if borrow is not None:
            self.commit(EndBorrow(CAD, server, borrow.id, exhausted))

    @rule(giver=servers, to=servers)
    def hand_over(self, giver: str, to: str) -> None:
        """An authorization moves with its seat."""
        self.number += 1
        if not self.in_use[giver] or not self.acts(giver):
            return
        incarnation = self.pool.state.servers[to].incarnation
        client = ("", "", "", 0, "")
        command = HandOver(f"a{self.number}", CAD, 1, client, giver, to, incarnation)
        if self.commit(command, giver).effect is Effect.DONE:
            self.in_use[giver] -= 1
            self.in_use[to] += 1

    # -- servers go and come ------------------------------------------------------------------

    @rule(server=servers)
    def crash(self, server: str) -> None:
        if self.acts(server):
            self.pool.down(server)

    @precondition(lambda self: any(s.down_index for s in self.pool.state.servers.values()))
    @rule(server=servers)
    def reclaim(self, server: str) -> None:
        member = self.pool.state.servers[server]
        if member.down_index and not member.reclaimed:
            self.in_use[server] = 0  # Nobody relies on it any more.
            self.pool.reclaim(server)

    @rule(server=servers)
    def restart(self, server: str) -> None:
        self.pool.up(server)

    @rule()
    def restore(self) -> None:
        """All servers start again from a snapshot."""
        self.pool.state = decode_state(encode_state(self.pool.state))

    @rule()
    def all_come_back(self) -> None:
        """When nobody holds a seat any more, every change has come about."""
        for server, member in self.pool.state.servers.items():
            if not member.acts:
                self.pool.up(server)
        self.in_use = dict.fromkeys(NAMES, 0)
        for borrow in list(self.feature.pending.values()):
            self.commit(EndBorrow(CAD, borrow.server, borrow.id, False))
        expected = max(0, self.feature.goal - sum(self.feature.retiring.values()))
        target = self.feature.target if self.feature.changing else None
        for _ in range(2):  # What a server has retired may come back to one that has to give.
            for server in NAMES:
                count = min(self.unused(server), max(self.feature.over, self.feature.owed(server)))
                if count:
                    release = Release(CAD, server, count, "", "", Level.OFFERED, False)
                    self.commit(release, server)
        assert (self.feature.surplus, self.feature.retiring, self.feature.over) == ({}, {}, 0)
        assert self.feature.deployed == expected
        assert not self.feature.changing
        if target and self.feature.free:
            assert not any(self.lacks(name) for name in self.pool.state.deployable)

    # -- what always holds ----------------------------------------------------------------------

    @invariant()
    def nothing_is_taken_from_a_holder(self) -> None:
        for name, held in self.in_use.items():
            assert 0 <= held <= self.feature.allocations.get(name, 0)

    @invariant()
    def seats_are_neither_made_nor_lost(self) -> None:
        feature = self.feature
        parts = [feature.free, *feature.allocations.values()]
        assert min(parts) >= 0
        assert sum(parts) == feature.deployed
        assert 0 <= feature.goal <= feature.entitled
        assert feature.deployed >= feature.goal
        assert all(count > 0 for count in feature.surplus.values())
        assert bool(feature.surplus) <= feature.changing


TestAdministered = Administered.TestCase
TestAdministered.settings = settings(
    stateful_step_count=50,
    max_examples=4 * settings().max_examples,  # They are quick, and what goes wrong is rare.
)
