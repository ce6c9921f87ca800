"""The table of seats at random: all commands that change it, beside a dumb account of holders.

Administrators share out, add, retire, bound and drain; servers borrow, give, hand over, adopt,
go down, are reclaimed, come back, leave; entries come late and again. The servers here do what
real ones decide from their records, which `apply` never sees. The oracle says who holds what:
nobody's seat may be gone, none may be made or lost, and every token leads to its seat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.pools import CAD, NAMES, Pool, code, licensed
from support.profiles import examples, notices
from support.strategies import NOBODY, bounds, few, late, seats
from support.table_oracle import Holders, Numbers

from licraft.core import apply as core_apply
from licraft.core import criteria, moves
from licraft.core.codec import decode_entry, decode_state, encode_entry, encode_state
from licraft.core.commands import (
    AddAllocations,
    Adopt,
    Borrow,
    Command,
    Drain,
    DropServer,
    EndBorrow,
    Entry,
    ForgetMoves,
    HandOver,
    Level,
    Limits,
    Reason,
    Release,
    RemoveServer,
    SetBorrowing,
    SetDistribution,
    Solicit,
)
from licraft.core.outcomes import Applied, Code, Effect, Moved, Outcome, ServerCameUp
from licraft.core.state import PoolState
from licraft.core.table import FeaturePool

pytestmark = pytest.mark.timeout(400)  # a failing history takes a while to shrink

SEATS = 20
DELTA = "delta"
FOUR = (*NAMES, DELTA)

servers = st.sampled_from(FOUR)
ids = st.sampled_from("ABCDEF")
ages = st.sampled_from([0, 0, 1, 3, 10])
shares = st.dictionaries(servers, st.integers(0, 14), max_size=3)
some = st.integers(0, 1 << 16)
"""Which of those that there are, whatever their number."""


class TableMachine(RuleBasedStateMachine):
    """A pool of four, its administrators and its users."""

    def __init__(self) -> None:
        super().__init__()
        self.pool: Pool = licensed(SEATS, names=FOUR)
        self.holders = Holders({name: {} for name in FOUR})
        self.adoptions: list[Adopt] = []
        self.number = 0

    # -- looking --------------------------------------------------------------------------------

    @property
    def feature(self) -> FeaturePool:
        return self.pool.feature()

    def numbers(self) -> Numbers:
        feature = self.feature
        parts = {name: feature.allocations.get(name, 0) for name in FOUR}
        retiring = sum(feature.retiring.values())
        return Numbers(feature.entitled, feature.goal, feature.deployed, retiring, parts)

    def there(self, name: str) -> bool:
        return name in self.pool.state.servers

    def acts(self, name: str) -> bool:
        return self.there(name) and self.pool.state.servers[name].acts

    def takes(self, name: str) -> bool:
        """Whether authorizations may move to a server."""
        return self.acts(name) and not self.pool.state.servers[name].removing

    def acting(self) -> list[str]:
        return [name for name in FOUR if self.acts(name)]

    def silent(self) -> list[str]:
        return [name for name in self.pool.state.servers if not self.acts(name)]

    def unused(self, name: str) -> int:
        return self.feature.allocations.get(name, 0) - self.holders.in_use(name)

    def lacks(self, name: str) -> int:
        target = self.feature.target or {}
        kept = self.feature.allocations.get(name, 0) - self.feature.retiring.get(name, 0)
        return max(0, target.get(name, 0) - kept)

    def way(self, id: str, server: str) -> str | None:
        """Where the pool's state leads whoever has a token of this server."""
        members = self.pool.state.servers
        for _ in FOUR:
            if server not in members or id not in members[server].gone:
                break
            server = members[server].gone[id][0]
        return server if server in members else None

    def now_and_then(self) -> bool:
        """For what happens rarely: else most histories would be of little but that."""
        return self.pool.state.index % 8 == 0

    # -- doing ----------------------------------------------------------------------------------

    def commit(self, command: Command, by: str = "") -> Outcome:
        """Commit a command as it comes over the wire, and follow what it tells."""
        member = self.pool.state.servers.get(by)
        data = encode_entry(Entry(by, member.incarnation if member else 0, 0, (command,)), 1)
        (command,) = decode_entry(data).commands
        applied = self.pool.ask(by, command) if by else self.pool.now(command)
        self.follow(applied)
        return applied.outcomes[0]

    def follow(self, applied: Applied) -> None:
        """What moved is moved in the records too; what came up knows what it has no more."""
        for event in applied.events:
            match event:
                case Moved(id=id, count=count) if count:
                    assert self.holders.home[id] == event.issuer
                    assert self.holders.records[event.issuer][id] == count
                    self.holders.move(id, event.server, self.pool.state.index)
                case ServerCameUp(server=name, adopted=adopted, reclaimed=reclaimed):
                    assert not set(adopted) & self.holders.records[name].keys()
                    assert not (reclaimed and self.holders.records[name])

    def lent(self, command: Command, by: str = "") -> Outcome:
        """Commit what only borrowing may be the reason of: floors and caps are kept."""
        before = self.numbers()
        outcome = self.commit(command, by)
        for name, had in before.parts.items():
            limits, has = self.feature.limits_at(name), self.feature.allocations.get(name, 0)
            if limits.enabled is False:
                assert has == had
            assert has >= min(had, limits.floor or 0)
            assert limits.cap is None or has <= max(had, limits.cap)
        return outcome

    def hands_over(self, id: str, issuer: str, server: str, late: int = 0) -> None:
        """The issuer gives what it has on record; or says that it has it not."""
        count = self.holders.records[issuer].get(id, 0)
        incarnation = self.pool.state.servers[server].incarnation - late
        fits = self.takes(server) and not late and issuer != server
        self.commit(HandOver(id, CAD, count, NOBODY, issuer, server, incarnation), issuer)
        if count:
            assert self.holders.home[id] == (server if fits else issuer)

    def adopts(self, command: Adopt) -> None:
        """Commit an adoption; it has an effect where the oracle says so, and nowhere else."""
        member = self.pool.state.servers[command.issuer]
        fits = self.takes(command.server) and self.holders.home.get(command.id) == command.issuer
        fits = fits and not member.acts and not member.reclaimed
        fits = fits and member.down_index == command.down_index
        outcome = self.commit(command, command.server)
        assert (outcome.effect is Effect.DONE) == fits
        assert not fits or self.holders.home[command.id] == command.server

    def confirmed_to(self, id: str, server: str) -> Adopt:
        """A client that was valid when it heard that its server is down says so to another."""
        issuer = self.holders.home[id]
        index = self.pool.state.servers[issuer].down_index
        count = self.holders.records[issuer][id]
        command = Adopt(id, CAD, count, NOBODY, issuer, index, server)
        self.adoptions.append(command)
        return command

    # -- clients --------------------------------------------------------------------------------

    @initialize(homes=st.lists(servers, min_size=4, max_size=4))
    def begin(self, homes: list[str]) -> None:
        for id, server in zip("ABCD", homes, strict=True):
            self.check_out(id, server, 1)

    @rule(id=ids, server=servers, count=seats)
    def check_out(self, id: str, server: str, count: int) -> None:
        """An id is new where it is granted: it is neither on a record nor gone from there."""
        if not self.there(server) or id in self.holders.home:
            return
        member, feature = self.pool.state.servers[server], self.feature
        if not member.grants or id in member.gone or feature.over:
            return
        if count <= self.unused(server) - feature.owed(server):
            self.holders.grant(id, server, count)
            assert sum(map(self.holders.in_use, FOUR)) <= feature.goal <= feature.entitled

    @precondition(lambda self: self.holders.at(self.acting()))
    @rule(which=some)
    def check_in(self, which: int) -> None:
        held = self.holders.at(self.acting())
        self.holders.end(held[which % len(held)])

    @precondition(lambda self: self.holders.at(self.acting()))
    @rule(which=some, server=servers, late=late)
    def hand_over(self, which: int, server: str, late: int) -> None:
        held = self.holders.at(self.acting())
        id = held[which % len(held)]
        if self.there(server):
            self.hands_over(id, self.holders.home[id], server, late)

    @rule(id=ids, issuer=servers, server=servers)
    def hand_over_nothing(self, id: str, issuer: str, server: str) -> None:
        """Who is asked for what it has not says so."""
        if self.acts(issuer) and self.there(server) and self.holders.home.get(id) != issuer:
            self.hands_over(id, issuer, server)

    @precondition(lambda self: self.holders.at(self.silent()) and self.acting())
    @rule(which=some, to=some, at_once=st.booleans(), late=late)
    def adopt(self, which: int, to: int, at_once: bool, late: int) -> None:
        """A client of a down server comes; what it confirms may be committed much later."""
        held, acting = self.holders.at(self.silent()), self.acting()
        command = self.confirmed_to(held[which % len(held)], acting[to % len(acting)])
        if at_once:
            self.adopts(replace(command, down_index=command.down_index - late))

    @precondition(lambda self: self.holders.at(self.silent()) and self.acting())
    @rule(which=some, to=some, ends=st.booleans())
    def come_back_in_between(self, which: int, to: int, ends: bool) -> None:
        """What a client confirms is committed when its server has been back, and is down anew.

        Meanwhile the client may have ended, and the seat may be somebody else's.
        """
        held = self.holders.at(self.silent())
        id, other = held[which % len(held)], self.acting()[to % len(self.acting())]
        issuer = self.holders.home[id]
        command = self.confirmed_to(id, other)
        self.follow(self.pool.up(issuer))
        if not self.acts(issuer):
            return
        if ends and command.id in self.holders.home:
            count = self.holders.records[issuer][id]
            self.holders.end(id)
            self.check_out("F", issuer, count)
        self.follow(self.pool.down(issuer))
        self.adopts(command)

    @precondition(lambda self: self.adoptions and self.acting())
    @rule(which=some, to=some)
    def adopt_late(self, which: int, to: int) -> None:
        """What was confirmed to somebody long ago is committed now."""
        command = self.adoptions[which % len(self.adoptions)]
        server = self.acting()[to % len(self.acting())]
        if self.holders.home.get(command.id) != server and self.there(command.issuer):
            self.adopts(replace(command, server=server))

    @precondition(lambda self: self.holders.old and self.acting())
    @rule(which=some, to=some)
    def come_with_an_old_token(self, which: int, to: int) -> None:
        """A client that was not told of a move goes to any server."""
        known = sorted(self.holders.old)
        id, issuer = known[which % len(known)]
        server = self.acting()[to % len(self.acting())]
        member = self.pool.state.servers.get(issuer)
        if member is not None and not member.acts:
            # Nobody has it from the server that has it no more, by whichever entry that is down.
            count = self.holders.records[self.holders.home[id]][id]
            self.adopts(Adopt(id, CAD, count, NOBODY, issuer, member.down_index, server))
        holder = self.way(id, issuer)
        assert holder == self.holders.home[id]
        if holder != server and self.acts(holder):
            self.hands_over(id, holder, server)
        elif holder != server:
            self.adopts(self.confirmed_to(id, server))

    @rule(age=ages)
    def forget(self, age: int) -> None:
        """The leader has waited on all moves up to an index: no client holds a token of then."""
        index = self.pool.state.index - age
        self.commit(ForgetMoves(index))
        self.holders.forget(index)
        for server in self.pool.state.servers.values():
            if server.acts or server.reclaimed:
                assert all(moved > index for _, moved in server.gone.values())

    # -- servers --------------------------------------------------------------------------------

    @rule(server=servers, count=st.integers(1, 6), due=st.booleans())
    def give_up(self, server: str, count: int, due: bool) -> None:
        """A server gives up what it owes, or more, as one that is drained does."""
        count, before = min(count, self.unused(server)), self.numbers()
        if self.acts(server) and count:
            owed = self.feature.due(server)
            release = Release(CAD, server, count, "", "", Level.OFFERED, False, due)
            moved = self.commit(release, server).count
            assert moved == (min(count, owed) if due else count)
            assert self.feature.deployed <= before.deployed

    @rule(server=servers, want=st.integers(1, 12), need=few, reason=st.sampled_from(Reason))
    def borrow(self, server: str, want: int, need: int, reason: Reason) -> None:
        self.number += 1
        hold = self.number % 2 > 0
        if self.there(server):
            id = f"{server}-{self.number}"
            self.lent(Borrow(id, CAD, server, want, need, reason, 0, hold), server)

    @rule(giver=servers, to=servers, count=few, leader=st.booleans(), level=st.sampled_from(Level))
    def lend(self, giver: str, to: str, count: int, leader: bool, level: Level) -> None:
        """A server lends what it has unused, whatever it was told of floors and caps."""
        if to not in self.feature.pending:
            self.borrow(to, 12, 12, Reason.REQUEST)
        borrow = self.feature.pending.get(to)
        count = min(count, self.unused(giver))
        if borrow is not None and self.acts(giver):
            self.commit(Solicit(CAD, to, borrow.id, giver, level))
            self.lent(Release(CAD, giver, count, to, borrow.id, level, leader), giver)

    @rule(giver=servers, to=servers, floor=st.integers(0, 9), cap=st.integers(0, 9), which=some)
    def lend_within_bounds(self, giver: str, to: str, floor: int, cap: int, which: int) -> None:
        """Bounds change while a borrow waits, and seats come to it in other ways meanwhile."""
        if to not in self.feature.pending:
            self.borrow(to, 12, 12, Reason.REQUEST)
        self.bound(giver, None, floor, None, {"cap"})
        self.bound(to, None, None, 9 + cap, {"floor"})
        if self.acts(giver) and (held := self.holders.at([giver])) and self.there(to):
            self.hands_over(held[which % len(held)], giver, to)
        self.lend(giver, to, 8, False, Level.UNUSED)

    @rule(server=servers, exhausted=st.booleans())
    def end_borrow(self, server: str, exhausted: bool) -> None:
        borrow = self.feature.pending.get(server)
        if borrow is not None:
            self.commit(EndBorrow(CAD, server, borrow.id, exhausted))

    @precondition(lambda self: self.acting())
    @rule(which=some)
    def down(self, which: int) -> None:
        """Most often one of whose seats some are in use."""
        acting = self.acting()
        held = self.holders.at(acting)
        name = self.holders.home[held[which % len(held)]] if held else acting[which % len(acting)]
        self.follow(self.pool.down(name))

    @precondition(lambda self: self.silent())
    @rule(which=some)
    def up(self, which: int) -> None:
        self.follow(self.pool.up(self.silent()[which % len(self.silent())]))

    @precondition(lambda self: self.silent())
    @rule(which=some)
    def reclaim(self, which: int) -> None:
        name = self.silent()[which % len(self.silent())]
        member = self.pool.state.servers[name]
        if not member.reclaimed:
            self.holders.reclaim(name, member.down_index)
            self.follow(self.pool.reclaim(name))

    @precondition(lambda self: self.there(DELTA) and not self.takes(DELTA))
    @rule()
    def drop(self) -> None:
        """One that leaves is gone once nobody can rely on it."""
        self.commit(DropServer(DELTA))
        assert self.there(DELTA) or not self.holders.records[DELTA]

    # -- administrators -------------------------------------------------------------------------

    @rule(count=st.integers(0, 30), share=shares)
    def install(self, count: int, share: dict[str, int]) -> None:
        text = "^".join(f"{name}:{seats}" for name, seats in share.items())
        retired = self.feature.retired
        self.pool.install(code(count, text))
        assert self.feature.entitled == count
        assert self.feature.retired >= retired

    @rule(share=shares)
    def distribute(self, share: dict[str, int]) -> None:
        before = self.numbers()
        outcome = self.commit(SetDistribution(CAD, tuple(share.items())))
        refusal = None
        if any(name not in self.pool.state.voters for name in share):
            refusal = Outcome(Effect.REFUSED, code=Code.NOT_FOUND)
        elif sum(share.values()) > before.goal:
            refusal = Outcome(Effect.REFUSED, before.goal, Code.EXCEEDS_ENTITLEMENT)
        if refusal is not None:
            assert outcome == refusal
            assert self.numbers() == before
            return
        assert outcome.effect is Effect.DONE
        assert self.feature.target == (share or None)
        assert self.feature.deployed <= before.deployed
        if not self.feature.changing and share and not self.feature.over:
            # Whoever is not as the target has it lacks what nobody could give.
            lacking = [n for n in self.pool.state.deployable if self.lacks(n)]
            assert not lacking or not self.feature.free

    @rule(count=st.integers(-8, 8).filter(bool), to=st.sampled_from(["", *FOUR]))
    def add(self, count: int, to: str) -> None:
        before = self.numbers()
        outcome = self.commit(AddAllocations(CAD, count, to))
        after = self.numbers()
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
        server=st.sampled_from(["", *FOUR]),
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
        before = self.numbers()
        limits = Limits(enabled, None, floor, cap)
        outcome = self.commit(SetBorrowing(CAD, server, limits, tuple(sorted(defaults))))
        for name in self.feature.pending if outcome.effect is Effect.DONE else ():
            now = self.feature.limits_at(name)
            assert now.enabled is not False, f"{name} waits, and may not borrow"
            assert now.cap is None or self.feature.allocations.get(name, 0) < now.cap
        assert self.numbers().parts == before.parts or self.feature.free == 0

    @rule(server=servers, on=st.booleans())
    def drain(self, server: str, on: bool) -> None:
        """One that is to be empty still has what it had, until that moves or ends."""
        self.commit(Drain(server, on))

    @precondition(lambda self: self.now_and_then())
    @rule()
    def remove(self) -> None:
        """One of the four leaves for good; what it has goes the way of any silent server's."""
        self.commit(RemoveServer(DELTA))

    # -- the engine -----------------------------------------------------------------------------

    @precondition(lambda self: self.now_and_then())
    @rule()
    def snapshot(self) -> None:
        """All servers start again from a snapshot."""
        self.pool.state = decode_state(encode_state(self.pool.state))

    @precondition(lambda self: any(entry.serial for entry in self.pool.log))
    @rule(which=some)
    def again(self, which: int) -> None:
        """A sequenced entry comes again, however late: it counts once."""
        sequenced = [entry for entry in self.pool.log if entry.serial]
        before = self.state_bytes()
        applied = self.pool.apply(sequenced[which % len(sequenced)])
        assert applied.events == ()
        assert self.state_bytes() == before

    def state_bytes(self) -> bytes:
        """The state without the index, which every entry changes."""
        return encode_state(replace(self.pool.state, index=0))

    @precondition(lambda self: self.now_and_then())
    @rule()
    def all_come_back(self) -> None:
        """When nobody holds a seat any more, every change has come about."""
        for name, member in list(self.pool.state.servers.items()):
            if not member.acts:
                self.follow(self.pool.up(name))
        for id in list(self.holders.home):
            self.holders.end(id)
        for borrow in list(self.feature.pending.values()):
            self.commit(EndBorrow(CAD, borrow.server, borrow.id, False))
        expected = max(0, self.feature.goal - sum(self.feature.retiring.values()))
        target = self.feature.target if self.feature.changing else None
        for _ in range(2):  # What a server has retired may come back to one that has to give.
            for name in self.acting():
                count = min(self.unused(name), max(self.feature.over, self.feature.owed(name)))
                if count:
                    release = Release(CAD, name, count, "", "", Level.OFFERED, False)
                    self.commit(release, name)
        if self.silent():
            return  # What the one that leaves owes waits until it is reclaimed.
        assert (self.feature.surplus, self.feature.retiring, self.feature.over) == ({}, {}, 0)
        assert self.feature.deployed == expected
        assert not self.feature.changing
        if target and self.feature.free:
            assert not any(self.lacks(name) for name in self.pool.state.deployable)

    # -- what always holds ------------------------------------------------------------------------

    @invariant()
    def nothing_is_taken_from_a_holder(self) -> None:
        for name in FOUR:
            assert self.holders.in_use(name) <= self.feature.allocations.get(name, 0)

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

    @invariant()
    def no_free_seat_lies_idle_while_a_request_waits_for_it(self) -> None:
        feature = self.feature
        idle = feature.free + sum(
            feature.allocations.get(name, 0) for name in self.pool.state.available()
        )
        borrows = feature.pending.values()
        waiting = [b for b in borrows if b.reason is Reason.REQUEST or b.leader_gave]
        # With floors and caps not every seat may go to everybody.
        assert feature.limits or feature.over or not (idle and waiting)

    @invariant()
    def every_token_leads_to_its_seat(self) -> None:
        for id, home in self.holders.home.items():
            assert self.way(id, home) == home
        for id, server in self.holders.old:
            assert self.way(id, server) == self.holders.home[id]


TestTable = TableMachine.TestCase
TestTable.settings = examples(3, steps=60)


# The machine finds what it looks for.


def _adopts_by_any_down(state: PoolState, index: int, command: Adopt) -> Outcome:
    """By which entry the issuer is down is not looked at."""
    issuer = state.servers.get(command.issuer)
    down_index = issuer.down_index if issuer else 0
    return moves.adopt(state, index, replace(command, down_index=down_index))


def _forgets_too_much(state: PoolState, command: ForgetMoves) -> Outcome:
    """The moves of a moment ago are forgotten too."""
    return moves.forget(state, replace(command, index=state.index))


def _retires_uncounted(self: FeaturePool, server: str, count: int) -> int:
    """What retires is deployed anew at once."""
    return 0


def _hides_its_surplus(self: FeaturePool, target: dict[str, int] | None) -> None:
    """What is beyond the target stays where it is."""
    self.target, self.changing, self.surplus = target, False, {}


Patch = pytest.MonkeyPatch
FAULTS: dict[str, Callable[[Patch], None]] = {
    "a server is down by any entry": lambda patch: patch.setattr(
        core_apply, "adopt", _adopts_by_any_down
    ),
    "moves are forgotten too early": lambda patch: patch.setattr(
        core_apply, "forget", _forgets_too_much
    ),
    "a floor is no floor": lambda patch: patch.setattr(
        FeaturePool, "lendable", lambda self, server: self.allocations.get(server, 0)
    ),
    "what retires is not counted": lambda patch: patch.setattr(
        FeaturePool, "withdraw", _retires_uncounted
    ),
    "nobody has a surplus": lambda patch: patch.setattr(FeaturePool, "aim", _hides_its_surplus),
    "what a dead server asked for is served": lambda patch: patch.setattr(
        core_apply, "drop_borrows", lambda state, server, events: None
    ),
    "who waits in vain is not told": lambda patch: patch.setattr(
        criteria, "hopeless", lambda pool: ()
    ),
    "what came free is given to nobody": lambda patch: patch.setattr(
        core_apply, "serve", lambda state, pool, events: None
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[fault](monkeypatch)
    assert notices(TableMachine)
