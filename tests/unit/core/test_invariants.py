"""What must hold of the state: each contradiction is found, and named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.pools import ALPHA, BETA, CAD, GAMMA, Pool, licensed

from licraft.core.commands import Drain, HandOver, PreferLeader
from licraft.core.invariants import check
from licraft.core.state import PoolState, ServerState, ServerStatus

NOBODY = ("", "", "", 0, "")


def a_pool() -> PoolState:
    """Three servers with ten seats each; A went from gamma to beta and on to alpha."""
    pool = licensed(30)
    pool.ask(GAMMA, HandOver("A", CAD, 1, NOBODY, GAMMA, BETA, 1))
    pool.ask(BETA, HandOver("A", CAD, 1, NOBODY, BETA, ALPHA, 1))
    return pool.state


def only_fault(state: PoolState) -> str:
    (fault,) = check(state)
    return fault


def test_a_state_that_the_log_made_has_no_fault() -> None:
    assert check(PoolState()) == []
    assert check(a_pool()) == []


def set_status(status: ServerStatus, **values: object) -> Callable[[ServerState], None]:
    def change(server: ServerState) -> None:
        server.status = status
        for name, value in values.items():
            setattr(server, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (set_status(ServerStatus.DOWN), "gamma: down with down index 0"),
        (set_status(ServerStatus.UP, down_index=3), "gamma: up with down index 3"),
        (set_status(ServerStatus.UP, reclaimed=True), "gamma: reclaimed while up"),
        (set_status(ServerStatus.UP, drained=True), "gamma: up and drained"),
        (set_status(ServerStatus.DRAINING), "gamma: draining and not drained"),
        (set_status(ServerStatus.UP, name="delta"), "gamma: filed under another server's name"),
        (set_status(ServerStatus.JOINING), "cad: 9 at gamma, which has not joined yet"),
        (
            set_status(ServerStatus.DOWN, down_index=3, reclaimed=True, drained=True),
            "cad: 9 left at gamma, which is drained and available",
        ),
        (set_status(ServerStatus.UP, moved_index=99), "gamma: moved at 99, after log index 10"),
    ],
)
def test_what_a_server_is(change: Callable[[ServerState], None], fault: str) -> None:
    state = a_pool()
    assert state.index == 10
    change(state.servers[GAMMA])
    assert only_fault(state) == fault


@pytest.mark.parametrize(
    ("moves", "fault"),
    [
        ({GAMMA: (BETA, 8), BETA: (GAMMA, 9)}, "beta: A gone to gamma at 9, and on from there"),
        ({GAMMA: (GAMMA, 8)}, "gamma: A gone to gamma at 8"),
        ({GAMMA: (BETA, 0)}, "gamma: A gone to beta at 0"),
        ({GAMMA: (BETA, 11)}, "gamma: A gone to beta at 11, by log index 10"),
        ({GAMMA: ("nobody", 8)}, "gamma: A gone to nobody, who was never a server"),
        ({GAMMA: (BETA, 9)}, "gamma: A gone to beta at 9, where the last came at 8"),
    ],
)
def test_where_an_authorization_has_gone(moves: dict[str, tuple[str, int]], fault: str) -> None:
    state = a_pool()
    for name in (ALPHA, BETA, GAMMA):
        state.servers[name].gone = {}
    state.servers[BETA].moved_index = 8
    state.servers[GAMMA].moved_index = 9
    for name, move in moves.items():
        state.servers[name].gone = {"A": move}
    assert only_fault(state).startswith(fault)


def test_an_authorization_may_have_gone_to_a_server_that_has_left() -> None:
    state = a_pool()
    state.servers[BETA].gone = {"B": ("delta", 4)}
    state.past_names = ("delta",)
    assert check(state) == []


def test_who_holds_and_borrows_seats() -> None:
    state = a_pool()
    pool = state.table.features[CAD]
    pool.allocations["delta"] = pool.allocations.pop(GAMMA)
    assert only_fault(state) == "cad: held by delta, who is no server of the pool"
    pool.allocations["delta"] -= 1
    assert len(check(state)) == 2


@pytest.mark.parametrize("who", [BETA, "delta"])
def test_who_borrows_and_who_is_to_lead(who: str) -> None:
    pool = licensed(30)
    pool.borrow(GAMMA, 5)
    pool.now(PreferLeader(GAMMA))
    pool.now(Drain(BETA, on=True))
    assert check(pool.state) == []
    pending = pool.feature().pending
    pending[who] = pending.pop(GAMMA)
    pending[who].server = pool.state.preferred_leader = who
    assert check(pool.state) == [
        f"cad: borrowed by {who}, who does not grant",
        f"{who} is to lead, and does not grant",
    ]


def test_somebody_votes() -> None:
    state = Pool(up=False).state
    for server in state.servers.values():
        server.status = ServerStatus.JOINING
    assert only_fault(state) == "no server of the pool counts in a majority"
