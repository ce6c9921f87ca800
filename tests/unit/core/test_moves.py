"""Authorizations that move between servers, in the replicated state (protocol, section 10)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.pools import ALPHA, BETA, CAD, GAMMA, Pool, licensed

from licraft.core.codec import decode_state, encode_state
from licraft.core.commands import Adopt, Claim, Entry, ForgetMoves, HandOver, RemoveServer
from licraft.core.moves import MAX_GONE
from licraft.core.outcomes import (
    DONE,
    OVERTAKEN,
    STALE,
    AllocationsChanged,
    Applied,
    Claimed,
    Effect,
    Moved,
    Outcome,
    ServerCameUp,
)

ANN = ("c", "ann", "ws1", 7, "cad.exe")
CLAIM = Claim("A", CAD, 3, GAMMA, BETA, 1)
HAND_OVER = HandOver("A", CAD, 3, ANN, GAMMA, BETA, 1)
THIRDS = {ALPHA: 10, BETA: 10, GAMMA: 10}
MOVED = {ALPHA: 10, BETA: 13, GAMMA: 7}


def adopt(pool: Pool, **changes: object) -> Applied:
    """BETA adopts 3 seats of GAMMA, unless `changes` say something else."""
    index = pool.state.servers[GAMMA].down_index
    command = replace(Adopt("A", CAD, 3, ANN, GAMMA, index, BETA), **changes)  # type: ignore[arg-type]  # Fields by name.
    return pool.ask(command.server, command)


def with_gamma_down() -> Pool:
    pool = licensed(30)
    pool.down(GAMMA)
    return pool


def moved_indexes(pool: Pool) -> dict[str, int]:
    """When something last moved, of the servers of which that is to be known."""
    servers = pool.state.servers.values()
    return {server.name: server.moved_index for server in servers if server.moved_index}


# A claim


def test_a_claim_moves_nothing_and_asks_the_issuer() -> None:
    pool = licensed(30)
    applied = pool.now(CLAIM)
    assert applied.outcomes == (DONE,)
    assert applied.events == (Claimed("A", CAD, 3, GAMMA, BETA, 1),)
    assert pool.seats() == THIRDS
    assert moved_indexes(pool) == {}


@pytest.mark.parametrize(
    "claim",
    [
        replace(CLAIM, server_incarnation=0),
        replace(CLAIM, server_incarnation=2),
        replace(CLAIM, server="nobody"),
        replace(CLAIM, issuer="nobody"),
        replace(CLAIM, server=GAMMA),
    ],
)
def test_a_claim_by_who_is_not_there_or_of_itself_asks_nobody(claim: Claim) -> None:
    applied = licensed(30).now(claim)
    assert (applied.outcomes, applied.events) == ((OVERTAKEN,), ())


@pytest.mark.parametrize("gone", [GAMMA, BETA])
def test_a_claim_while_one_of_the_two_is_down_asks_nobody(gone: str) -> None:
    pool = licensed(30)
    pool.down(gone)
    assert pool.now(CLAIM).events == ()


# A hand-over


def test_a_hand_over_moves_the_seats_with_the_authorization_first() -> None:
    """What holds the seats is told before who waits for seats is: they are not for him."""
    pool = licensed(30)
    applied = pool.ask(GAMMA, HAND_OVER)
    assert applied.outcomes == (Outcome(Effect.DONE, 3),)
    assert applied.events == (
        Moved("A", CAD, 3, ANN, GAMMA, BETA, False),
        AllocationsChanged(CAD),
    )
    assert pool.seats() == MOVED
    assert moved_indexes(pool) == {BETA: applied.index, GAMMA: applied.index}
    assert pool.state.servers[GAMMA].gone == {"A": (BETA, applied.index)}


def test_a_hand_over_of_nothing_is_an_answer_and_moves_nothing() -> None:
    pool = licensed(30)
    applied = pool.ask(GAMMA, replace(HAND_OVER, count=0))
    assert applied.outcomes == (DONE,)
    assert applied.events == (Moved("A", CAD, 0, ANN, GAMMA, BETA, False),)
    assert pool.seats() == THIRDS
    assert moved_indexes(pool) == {}


@pytest.mark.parametrize(
    "command",
    [
        replace(HAND_OVER, server_incarnation=0),
        replace(HAND_OVER, server_incarnation=2),
        replace(HAND_OVER, server="nobody"),
        replace(HAND_OVER, server=GAMMA),
        replace(HAND_OVER, feature="unknown"),
        replace(HAND_OVER, count=11),
        replace(HAND_OVER, count=-1),
    ],
)
def test_a_hand_over_that_does_not_fit_moves_nothing(command: HandOver) -> None:
    pool = licensed(30)
    applied = pool.ask(GAMMA, command)
    assert (applied.outcomes, applied.events) == ((OVERTAKEN,), ())
    assert (pool.seats(), moved_indexes(pool)) == (THIRDS, {})


def test_all_that_a_server_has_can_be_handed_over() -> None:
    pool = licensed(30)
    assert pool.ask(GAMMA, replace(HAND_OVER, count=10)).outcomes == (Outcome(Effect.DONE, 10),)
    assert pool.seats() == {ALPHA: 10, BETA: 20}


def test_nothing_is_handed_to_a_server_that_is_down_came_back_or_leaves() -> None:
    down, back, leaving = licensed(30), licensed(30), licensed(30)
    down.down(BETA)
    back.down(BETA)
    back.up(BETA)
    leaving.now(RemoveServer(BETA))
    for pool in (down, back, leaving):
        assert pool.ask(GAMMA, HAND_OVER).outcomes == (OVERTAKEN,)
        assert (pool.seats(), moved_indexes(pool)) == (THIRDS, {})


def test_only_the_issuer_hands_over_and_only_once() -> None:
    pool = licensed(30)
    assert pool.now(HAND_OVER).outcomes == (STALE,)
    assert pool.ask(BETA, HAND_OVER).outcomes == (STALE,)
    assert pool.ask(ALPHA, HAND_OVER).outcomes == (STALE,)
    assert pool.seats() == THIRDS
    pool.ask(GAMMA, HAND_OVER)
    again = pool.apply(pool.log[-1])
    assert (again.outcomes, again.events) == ((Outcome(Effect.DONE, 3),), ())
    assert pool.seats() == MOVED


@pytest.mark.parametrize("back", [False, True])
def test_a_hand_over_of_an_earlier_incarnation_has_no_effect(back: bool) -> None:
    pool = licensed(30)
    pool.down(GAMMA)
    if back:
        pool.up(GAMMA)
    assert pool.apply(Entry(GAMMA, 1, 1, (HAND_OVER,))).outcomes == (STALE,)
    assert pool.seats() == THIRDS


# An adoption


def test_an_adoption_moves_the_seats_and_is_remembered_where_they_were() -> None:
    pool = with_gamma_down()
    applied = adopt(pool)
    assert applied.outcomes == (Outcome(Effect.DONE, 3),)
    assert applied.events == (Moved("A", CAD, 3, ANN, GAMMA, BETA, True), AllocationsChanged(CAD))
    assert pool.seats() == MOVED
    assert moved_indexes(pool) == {BETA: applied.index}  # GAMMA learns it when it comes up.
    assert pool.state.servers[GAMMA].gone == {"A": (BETA, applied.index)}


def test_whole_authorizations_move() -> None:
    """Of 4 seats where 3 are left nothing moves at all."""
    pool = with_gamma_down()
    adopt(pool, id="B", count=7)
    assert adopt(pool, id="C", count=4).outcomes == (OVERTAKEN,)
    assert adopt(pool, id="D", count=3).outcomes == (Outcome(Effect.DONE, 3),)
    assert pool.seats() == {ALPHA: 10, BETA: 20}
    assert list(pool.state.servers[GAMMA].gone) == ["B", "D"]


@pytest.mark.parametrize(
    "change",
    [
        {"count": 11},
        {"count": 0},
        {"count": -1},
        {"feature": "unknown"},
        {"issuer": "nobody"},
        {"issuer": ALPHA},
        {"issuer": BETA},
        {"down_index": 0},
        {"down_index": 1},
        {"down_index": 10**6},
    ],
)
def test_an_adoption_that_does_not_fit_moves_nothing(change: dict[str, object]) -> None:
    pool = with_gamma_down()
    applied = adopt(pool, **change)
    assert (applied.outcomes, applied.events) == ((OVERTAKEN,), ())
    assert (pool.seats(), moved_indexes(pool)) == (THIRDS, {})
    assert pool.state.servers[GAMMA].gone == {}


def test_an_authorization_is_adopted_once_whoever_asks() -> None:
    pool = with_gamma_down()
    adopt(pool)
    assert adopt(pool).outcomes == (OVERTAKEN,)
    assert adopt(pool, server=ALPHA).outcomes == (OVERTAKEN,)
    again = pool.apply(pool.log[-3])
    assert again.events == ()
    assert pool.seats() == MOVED


def test_nothing_is_adopted_from_a_server_that_acts() -> None:
    pool = licensed(30)
    assert adopt(pool).outcomes == (OVERTAKEN,)
    assert pool.seats() == THIRDS


def test_nothing_is_adopted_once_it_is_reclaimed() -> None:
    pool = with_gamma_down()
    pool.reclaim(GAMMA)
    assert adopt(pool).outcomes == (OVERTAKEN,)
    assert pool.seats() == THIRDS


def test_an_adoption_names_the_down_that_its_client_was_told_of() -> None:
    """It was sent while GAMMA was down, and comes when GAMMA was back and is down anew."""
    pool = with_gamma_down()
    first = pool.state.servers[GAMMA].down_index
    pool.up(GAMMA)
    assert adopt(pool, down_index=first).outcomes == (OVERTAKEN,)
    pool.down(GAMMA)
    assert adopt(pool, down_index=first).outcomes == (OVERTAKEN,)
    assert pool.seats() == THIRDS
    assert adopt(pool).outcomes == (Outcome(Effect.DONE, 3),)


def test_a_server_that_is_leaving_or_down_adopts_nothing() -> None:
    leaving, down = with_gamma_down(), with_gamma_down()
    leaving.now(RemoveServer(BETA))
    assert adopt(leaving).outcomes == (OVERTAKEN,)
    down.down(BETA)
    assert adopt(down).outcomes == (STALE,)
    for pool in (leaving, down):
        assert pool.seats() == THIRDS


def test_only_the_server_itself_adopts_and_only_in_a_numbered_entry() -> None:
    pool = with_gamma_down()
    command = Adopt("A", CAD, 3, ANN, GAMMA, pool.state.servers[GAMMA].down_index, BETA)
    assert pool.now(command).outcomes == (STALE,)
    assert pool.ask(ALPHA, command).outcomes == (STALE,)
    assert pool.seats() == THIRDS


def test_who_comes_back_is_told_what_was_adopted_and_begins_anew() -> None:
    pool = with_gamma_down()
    adopt(pool)
    adopt(pool, id="B", server=ALPHA)
    came_up = pool.up(GAMMA).events[0]
    assert isinstance(came_up, ServerCameUp)
    assert came_up.adopted == ("A", "B")
    assert not came_up.reclaimed
    # It is remembered: the clients may not know it yet when the server is down again.
    assert list(pool.state.servers[GAMMA].gone) == ["A", "B"]
    pool.down(GAMMA)
    assert adopt(pool, down_index=pool.state.index).outcomes == (OVERTAKEN,)
    assert pool.up(GAMMA).events[0].adopted == ()  # type: ignore[union-attr]  # As above.
    assert pool.seats() == {ALPHA: 13, BETA: 13, GAMMA: 4}


def test_who_was_reclaimed_is_told_both() -> None:
    pool = with_gamma_down()
    adopt(pool)
    pool.reclaim(GAMMA)
    came_up = pool.up(GAMMA).events[0]
    assert isinstance(came_up, ServerCameUp)
    assert (came_up.adopted, came_up.reclaimed) == (("A",), True)


def test_what_was_adopted_can_be_adopted_again_from_its_new_server() -> None:
    pool = with_gamma_down()
    adopt(pool)
    pool.down(BETA)
    index = pool.state.servers[BETA].down_index
    again = adopt(pool, issuer=BETA, down_index=index, server=ALPHA)
    assert again.outcomes == (Outcome(Effect.DONE, 3),)
    assert pool.seats() == {ALPHA: 13, BETA: 10, GAMMA: 7}


def test_seats_that_move_are_not_for_a_borrow_that_waits() -> None:
    pool = licensed(30)
    pool.borrow(BETA, 5)
    assert pool.pending(BETA).want == 5
    pool.ask(GAMMA, HAND_OVER)
    assert pool.pending(BETA).want == 5
    assert pool.seats() == MOVED


def test_a_feature_of_which_too_many_are_deployed_moves_like_any_other() -> None:
    """Its seats retire as they come back; what is in use goes with its client until then."""
    pool = licensed(30)
    pool.install()
    assert pool.feature().over == 30
    assert pool.ask(GAMMA, HAND_OVER).outcomes == (Outcome(Effect.DONE, 3),)
    assert pool.seats() == MOVED


def test_what_moved_is_in_the_snapshot() -> None:
    pool = with_gamma_down()
    adopt(pool)
    copy = decode_state(encode_state(pool.state))
    assert copy.servers[GAMMA].gone == {"A": (BETA, pool.state.index)}
    assert copy.servers[BETA].moved_index == pool.state.index


# What clients may not know yet


def test_what_was_handed_over_is_not_adopted_from_who_had_it() -> None:
    """Its client may hold the old token, and be valid; the seats are at BETA by then."""
    pool = licensed(30)
    pool.ask(GAMMA, HAND_OVER)
    pool.down(GAMMA)
    late = adopt(pool, server=ALPHA, down_index=pool.state.index)
    assert late.outcomes == (OVERTAKEN,)
    assert pool.seats() == MOVED


def test_what_comes_back_can_be_adopted_again() -> None:
    pool = licensed(30)
    pool.ask(GAMMA, HAND_OVER)
    pool.ask(BETA, replace(HAND_OVER, issuer=BETA, server=GAMMA))
    assert pool.state.servers[GAMMA].gone == {}
    assert list(pool.state.servers[BETA].gone) == ["A"]
    pool.down(GAMMA)
    assert adopt(pool, down_index=pool.state.index).outcomes == (Outcome(Effect.DONE, 3),)


def test_moves_are_forgotten_up_to_an_index_and_not_while_they_can_be_adopted() -> None:
    pool = licensed(30)
    first = pool.ask(GAMMA, HAND_OVER).index
    pool.ask(GAMMA, replace(HAND_OVER, id="B", count=1))
    assert pool.now(ForgetMoves(first)).outcomes == (DONE,)
    assert list(pool.state.servers[GAMMA].gone) == ["B"]
    assert pool.now(ForgetMoves(first)).outcomes == (OVERTAKEN,)
    pool.down(GAMMA)
    pool.now(ForgetMoves(10**6))
    assert list(pool.state.servers[GAMMA].gone) == ["B"]
    pool.reclaim(GAMMA)
    pool.now(ForgetMoves(10**6))
    assert pool.state.servers[GAMMA].gone == {}


def test_how_many_moves_are_remembered_is_bounded() -> None:
    pool = licensed(30)
    pool.state.servers[GAMMA].gone = {str(n): (BETA, 1) for n in range(MAX_GONE)}
    pool.state.servers[BETA].moved_index = 1
    assert pool.ask(GAMMA, HAND_OVER).outcomes == (OVERTAKEN,)
    assert pool.seats() == THIRDS
