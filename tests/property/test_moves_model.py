"""Authorizations that move at random: each is on one record, its seats are there, and old
tokens lead to it.

The records follow what `apply` tells, as a server's do. The model knows nothing of the
state: it is who holds what, where that is, and which servers' tokens its client may hold.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from support.pools import CAD, NAMES, Pool, licensed

from licraft.core.codec import decode_state, encode_state
from licraft.core.commands import Adopt, Drain, DropServer, ForgetMoves, HandOver, RemoveServer
from licraft.core.outcomes import Applied, Moved, ServerCameUp

SEATS = 12
DELTA = "delta"
FOUR = (*NAMES, DELTA)
NOBODY = ("", "", "", 0, "")

servers = st.sampled_from(FOUR)
ids = st.sampled_from("ABCDE")
counts = st.integers(1, 4)
late = st.sampled_from([0, 0, 0, 1])
ages = st.sampled_from([0, 0, 1, 3, 10])


class MovesMachine(RuleBasedStateMachine):
    """A pool of four, the record of each server, and the oracle.

    `home` is where each authorization is. `old` has the tokens from before its moves that
    its client may still hold, by (id, server) with the log index at which it left there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool: Pool = licensed(SEATS, names=FOUR)
        self.records: dict[str, dict[str, int]] = {name: {} for name in FOUR}
        self.home: dict[str, str] = {}
        self.old: dict[tuple[str, str], int] = {}
        self.adoptions: list[Adopt] = []

    # Looking.

    def there(self, name: str) -> bool:
        return name in self.pool.state.servers

    def acts(self, name: str) -> bool:
        return self.there(name) and self.pool.state.servers[name].acts

    def acting(self) -> list[str]:
        return [name for name in FOUR if self.acts(name)]

    def silent(self) -> list[str]:
        return [name for name in self.pool.state.servers if not self.acts(name)]

    def held_by_acting(self) -> list[str]:
        return sorted(id for id, home in self.home.items() if self.acts(home))

    def held_by_down(self) -> list[str]:
        return sorted(id for id, home in self.home.items() if not self.acts(home))

    def takes(self, name: str) -> bool:
        """Whether authorizations may move to a server."""
        return self.acts(name) and not self.pool.state.servers[name].removing

    def adoptable(self, id: str, issuer: str, down_index: int) -> bool:
        """Whether it lies at that server, which is down by that entry and not reclaimed."""
        if self.home.get(id) != issuer:
            return False
        member = self.pool.state.servers[issuer]
        return not member.acts and not member.reclaimed and member.down_index == down_index

    def way(self, id: str, server: str) -> str | None:
        """Where the pool's state leads whoever has a token of this server."""
        members = self.pool.state.servers
        for _ in FOUR:
            if server not in members or id not in members[server].gone:
                break
            server = members[server].gone[id][0]
        return server if server in members else None

    # What follows.

    def follow(self, applied: Applied) -> None:
        """Do with the records what a server does with its own (section 10)."""
        for event in applied.events:
            match event:
                case Moved(id=id, count=count) if count:
                    self.records[event.issuer].pop(id, None)
                    assert id not in self.records[event.server]
                    self.records[event.server][id] = count
                case ServerCameUp(server=name, adopted=adopted, reclaimed=reclaimed):
                    assert not set(adopted) & set(self.records[name])
                    if reclaimed:
                        self.records[name].clear()
                case _:
                    pass

    def moves(self, id: str, to: str) -> None:
        """The oracle moves an authorization; what its client holds is of before."""
        self.old[id, self.home[id]] = self.pool.state.index
        self.old.pop((id, to), None)
        self.home[id] = to

    def ends(self, id: str) -> None:
        """Its client relies on it no more, by whatever token."""
        del self.home[id]
        self.old = {key: index for key, index in self.old.items() if key[0] != id}

    def hands_over(self, id: str, issuer: str, server: str, late: int = 0) -> None:
        """The issuer, which acts, gives what it has on record; or says that it has it not."""
        count = self.records[issuer].get(id, 0)
        incarnation = self.pool.state.servers[server].incarnation - late
        command = HandOver(id, CAD, count, NOBODY, issuer, server, incarnation)
        fits = self.takes(server) and not late and issuer != server
        self.follow(self.pool.ask(issuer, command))
        if count and fits:
            self.moves(id, server)

    def adopts(self, command: Adopt) -> None:
        """Commit an adoption; it has an effect where the oracle says so, and nowhere else."""
        fits = self.takes(command.server)
        fits = fits and self.adoptable(command.id, command.issuer, command.down_index)
        before = self.pool.seats()
        self.follow(self.pool.ask(command.server, command))
        assert (self.pool.seats() != before) == fits
        if fits:
            self.moves(command.id, command.server)

    def confirmed_to(self, id: str, server: str) -> Adopt:
        """A client that was valid when it heard that its server is down says so to another."""
        issuer = self.home[id]
        index = self.pool.state.servers[issuer].down_index
        command = Adopt(id, CAD, self.records[issuer][id], NOBODY, issuer, index, server)
        self.adoptions.append(command)
        return command

    # What may happen.

    @initialize(homes=st.lists(servers, min_size=4, max_size=4))
    def begin(self, homes: list[str]) -> None:
        """Most of the seats are in use."""
        for id, server in zip("ABCD", homes, strict=True):
            self.grant(id, server, 1)

    @rule(id=ids, server=servers, count=counts)
    def grant(self, id: str, server: str, count: int) -> None:
        """An id is new where it is granted: it is neither on a record nor gone from there."""
        if not self.acts(server) or id in self.home:
            return
        in_use = sum(self.records[server].values())
        known = id in self.pool.state.servers[server].gone
        if not known and in_use + count <= self.pool.seats().get(server, 0):
            self.records[server][id] = count
            self.home[id] = server

    @precondition(lambda self: self.held_by_acting())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(self.held_by_acting()))
        del self.records[self.home[id]][id]
        self.ends(id)

    @precondition(lambda self: self.held_by_acting())
    @rule(data=st.data(), server=servers, late=late)
    def hand_over(self, data: st.DataObject, server: str, late: int) -> None:
        id = data.draw(st.sampled_from(self.held_by_acting()))
        if self.there(server):
            self.hands_over(id, self.home[id], server, late)

    @rule(id=ids, issuer=servers, server=servers)
    def hand_over_nothing(self, id: str, issuer: str, server: str) -> None:
        """Who is asked for what it has not says so."""
        if self.acts(issuer) and self.there(server) and self.home.get(id) != issuer:
            self.hands_over(id, issuer, server)

    @precondition(lambda self: self.held_by_down() and self.acting())
    @rule(data=st.data(), at_once=st.booleans(), late=late)
    def adopt(self, data: st.DataObject, at_once: bool, late: int) -> None:
        """A client of a down server comes; what it confirms may be committed much later."""
        id = data.draw(st.sampled_from(self.held_by_down()))
        command = self.confirmed_to(id, data.draw(st.sampled_from(self.acting())))
        if at_once:
            self.adopts(replace(command, down_index=command.down_index - late))

    @precondition(lambda self: self.adoptions and self.acting())
    @rule(data=st.data())
    def adopt_late(self, data: st.DataObject) -> None:
        """What was confirmed to somebody long ago is committed now."""
        command = data.draw(st.sampled_from(self.adoptions))
        server = data.draw(st.sampled_from(self.acting()))
        if self.home.get(command.id) != server and self.there(command.issuer):
            self.adopts(replace(command, server=server))

    @precondition(lambda self: self.old and self.acting())
    @rule(data=st.data())
    def come_with_an_old_token(self, data: st.DataObject) -> None:
        """A client that was not told of a move goes to any server, as `Failover` handles it."""
        id, issuer = data.draw(st.sampled_from(sorted(self.old)))
        server = data.draw(st.sampled_from(self.acting()))
        member = self.pool.state.servers.get(issuer)
        if member is not None and not member.acts:
            # Nobody has it from the server that has it no more, by whichever entry that is down.
            count = self.records[self.home[id]][id]
            self.adopts(Adopt(id, CAD, count, NOBODY, issuer, member.down_index, server))
        holder = self.way(id, issuer)
        assert holder == self.home[id]
        if holder != server and self.acts(holder):
            self.hands_over(id, holder, server)
        elif holder != server:
            self.adopts(self.confirmed_to(id, server))

    @rule(age=ages)
    def forget(self, age: int) -> None:
        """The leader has waited on all moves up to an index: no client holds a token of then."""
        index = self.pool.state.index - age
        self.follow(self.pool.now(ForgetMoves(index)))
        self.old = {key: left for key, left in self.old.items() if left > index}
        for server in self.pool.state.servers.values():
            if server.acts or server.reclaimed:
                assert all(moved > index for _, moved in server.gone.values())

    @precondition(lambda self: self.acting())
    @rule(data=st.data())
    def down(self, data: st.DataObject) -> None:
        self.follow(self.pool.down(data.draw(st.sampled_from(self.acting()))))

    @precondition(lambda self: self.silent())
    @rule(data=st.data())
    def up(self, data: st.DataObject) -> None:
        self.follow(self.pool.up(data.draw(st.sampled_from(self.silent()))))

    @precondition(lambda self: self.silent())
    @rule(data=st.data())
    def reclaim(self, data: st.DataObject) -> None:
        """Nobody relies any more on what a server granted that was down so long.

        So long ago is whatever moved before: no client holds a token of then.
        """
        server = data.draw(st.sampled_from(self.silent()))
        member = self.pool.state.servers[server]
        if member.reclaimed:
            return
        self.follow(self.pool.reclaim(server))
        for id in list(self.records[server]):
            self.ends(id)
        self.records[server].clear()
        self.old = {
            key: left
            for key, left in self.old.items()
            if left > member.down_index and key[1] != server
        }

    @rule(server=servers, on=st.booleans())
    def drain(self, server: str, on: bool) -> None:
        """One that is to be empty still has what it had, until that moves or ends."""
        if self.there(server):
            self.follow(self.pool.now(Drain(server, on)))

    @rule()
    def remove(self) -> None:
        """One of the four leaves for good; what it has goes the way of any silent server's."""
        self.follow(self.pool.now(RemoveServer(DELTA)))

    @rule()
    def drop(self) -> None:
        """It is gone once nobody can rely on it."""
        self.follow(self.pool.now(DropServer(DELTA)))
        if not self.there(DELTA):
            assert self.records[DELTA] == {}

    @rule(server=servers, count=counts)
    def borrow(self, server: str, count: int) -> None:
        """What is in the free pool goes to a server that grants."""
        count = min(count, self.pool.feature().free)
        if count and self.there(server) and self.pool.state.servers[server].grants:
            self.pool.borrow(server, count)

    @precondition(lambda self: self.pool.log)
    @rule()
    def snapshot(self) -> None:
        self.pool.state = decode_state(encode_state(self.pool.state))

    # What always holds.

    @invariant()
    def every_authorization_is_on_the_one_record_that_the_oracle_names(self) -> None:
        on_record = {id: name for name, record in self.records.items() for id in record}
        assert sum(map(len, self.records.values())) == len(on_record)
        assert on_record == self.home

    @invariant()
    def its_seats_are_where_it_is(self) -> None:
        seats = self.pool.seats()
        assert sum(seats.values()) == SEATS
        for name, record in self.records.items():
            assert sum(record.values()) <= seats.get(name, 0)

    @invariant()
    def every_token_leads_to_it(self) -> None:
        for id, home in self.home.items():
            assert self.way(id, home) == home
        for id, server in self.old:
            assert self.way(id, server) == self.home[id]


TestMoves = MovesMachine.TestCase
# Three times as many as usual: few of the rules fit together at random.
TestMoves.settings = settings(max_examples=3 * settings().max_examples, stateful_step_count=60)
