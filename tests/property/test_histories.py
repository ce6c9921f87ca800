"""`apply` on histories that no honest servers would write, beside a dumb model of the seats.

What `test_table_machine` plays is what servers do that decide from their records. Here they give
what they do not have, adopt what nobody had, and every entry may come again at any place.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from support.pools import FEATURES
from support.profiles import examples
from support.seat_model import FREE, SeatModel
from support.strategies import histories

from licraft.core.apply import apply
from licraft.core.audit import AuditTail
from licraft.core.codec import encode_state
from licraft.core.commands import Audited, Entry
from licraft.core.invariants import check
from licraft.core.state import PoolState

pytestmark = pytest.mark.timeout(400)  # a failing history takes a while to shrink


def seats_of(state: PoolState, feature: str) -> dict[str, int]:
    pool = state.table.features[feature]
    parts = {FREE: pool.free, **pool.allocations}
    return {holder: count for holder, count in parts.items() if count}


def state_bytes(state: PoolState, *, audit: bool = True) -> bytes:
    """The state without the index, which every entry changes."""
    kept = state.index, state.audit
    state.index = 0
    if not audit:
        state.audit = AuditTail()
    data = encode_state(state)
    state.index, state.audit = kept
    return data


@given(histories())
def test_the_seats_are_where_the_model_has_them(log: list[Entry]) -> None:
    state, model = PoolState(), SeatModel()
    for index, entry in enumerate(log, 1):
        apply(state, index, entry)
        model.apply(index, entry)
        assert check(state) == []
        assert set(state.table.features) == set(model.seats)
        for feature in model.seats:
            pool = state.table.features[feature]
            assert seats_of(state, feature) == model.placed(feature)
            assert pool.goal == model.goal[feature]
            assert {b.server: (b.id, b.want, b.need) for b in pool.pending.values()} == {
                name: (w.id, w.want, w.need) for name, w in model.wishes[feature].items()
            }


@given(histories())
def test_seats_are_neither_made_nor_lost(log: list[Entry]) -> None:
    """`deployed` grows only to the goal, falls only while there are too many, else stays."""
    state = PoolState()
    for index, entry in enumerate(log, 1):
        before = {f: state.table.features[f].deployed for f in state.table.features}
        apply(state, index, entry)
        for feature in FEATURES:
            had = before.get(feature, 0)
            pool = state.table.features.get(feature)
            has, goal = (pool.deployed, pool.goal) if pool else (0, 0)
            assert has in (had, goal) or goal < has < had
            assert pool is None or sum(seats_of(state, feature).values()) == has


@given(histories(administered=True))
def test_whatever_administrators_decide_the_state_is_sound(log: list[Entry]) -> None:
    """Every decision is told of once, done or not, and nothing else is."""
    state = PoolState()
    for index, entry in enumerate(log, 1):
        told = state.audit.count
        server = state.servers.get(entry.server)
        before = server.requests if server else 0
        apply(state, index, entry)
        assert check(state) == []
        assert all(pool.deployed >= pool.goal for pool in state.table.features.values())
        counts = not entry.serial or (server is not None and server.requests > before)
        decided = sum(isinstance(command, Audited) for command in entry.commands)
        assert state.audit.count == told + (decided if counts else 0)


@given(histories())
def test_no_free_seat_lies_idle_while_a_request_waits_for_it(log: list[Entry]) -> None:
    state = PoolState()
    for index, entry in enumerate(log, 1):
        apply(state, index, entry)
        for pool in state.table.features.values():
            open_seats = pool.free + sum(pool.allocations.get(s, 0) for s in state.available())
            waiting = [b for b in pool.pending.values() if b.reason == "request" or b.leader_gave]
            assert not (open_seats and waiting)


@examples(0.5)
@given(histories(max_steps=40, administered=True))
def test_a_sequenced_entry_counts_once_whenever_it_comes_again(log: list[Entry]) -> None:
    state = PoolState()
    for index, entry in enumerate(log, 1):
        apply(state, index, entry)
        before = state_bytes(state)
        for earlier in log[:index]:
            if earlier.serial:
                assert apply(state, index, earlier).events == ()
                assert state_bytes(state) == before


@examples(0.5)
@given(histories(max_steps=40, administered=True))
def test_an_unsequenced_entry_twice_at_once_is_the_same_as_once(log: list[Entry]) -> None:
    """But in the audit: that it was committed twice is as it was."""
    state = PoolState()
    for index, entry in enumerate(log, 1):
        apply(state, index, entry)
        before = state_bytes(state, audit=False)
        apply(state, index, entry)
        assert state_bytes(state, audit=False) == before
