"""How often a client asks and how long it waits: the bounds that its docstring states."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licraft.client.pace import (
    FIRST_HEARTBEAT_EARLY,
    FIRST_TRY_SERVERS,
    MAX_RETRY_S,
    QUICK_S,
    Patience,
    heartbeat_delay,
    overload_delay,
    pending_delay,
    retry_delay,
    servers_of_try,
)

CHANCES = st.floats(0, 1)
TTLS = st.floats(1, 366 * 86400)


@given(CHANCES)
def test_heartbeats_are_up_to_a_tenth_early_and_the_first_up_to_half(chance: float) -> None:
    assert 18.0 <= heartbeat_delay(20.0, chance) <= 20.0
    assert 10.0 <= heartbeat_delay(20.0, chance, FIRST_HEARTBEAT_EARLY) <= 20.0


@given(st.integers(1, 10_000), TTLS, CHANCES)
def test_retries_begin_soon_and_are_never_closer_than_stated(
    failures: int, ttl_s: float, chance: float
) -> None:
    delay = retry_delay(failures, ttl_s, chance)
    assert min(0.5, ttl_s / 15) <= delay <= min(ttl_s / 7, 1.34 * MAX_RETRY_S)
    if failures == 1:
        assert delay <= 1.0
    if failures > 8:
        assert delay >= min(ttl_s / 15, 4.0)


@given(st.integers(1, 100), TTLS)
def test_retries_are_spread_over_as_much_time_as_the_shortest_takes(
    failures: int, ttl_s: float
) -> None:
    earliest, latest = retry_delay(failures, ttl_s, 0.0), retry_delay(failures, ttl_s, 1.0)
    assert latest - earliest >= 0.95 * earliest
    assert pending_delay(1.0, 60.0, 1.0) - pending_delay(1.0, 60.0, 0.0) >= 0.5


def test_retries_back_off() -> None:
    delays = [retry_delay(failures, 60.0, 0.5) for failures in range(1, 9)]
    assert delays == sorted(delays)
    assert delays[-1] == pytest.approx(6.0)


def test_a_first_try_may_ask_several_and_later_ones_ask_one() -> None:
    assert [servers_of_try(failures) for failures in (0, 1, 2, 50)] == [FIRST_TRY_SERVERS, 1, 1, 1]


@given(st.floats(0, 1e9), TTLS, CHANCES)
def test_who_is_told_to_come_later_does_so_but_not_too_late(
    told_s: float, ttl_s: float, chance: float
) -> None:
    retry_s = retry_delay(1, ttl_s, chance)
    delay = overload_delay(retry_s, told_s, ttl_s, chance)
    assert delay >= max(retry_s, min(told_s, ttl_s / 6))
    assert delay <= max(retry_s, 1.25 * told_s)
    assert delay <= max(retry_s, ttl_s / 4.5)


@given(st.floats(-1e9, 1e9), TTLS, CHANCES)
def test_who_is_told_pending_asks_again_within_that_time_and_never_at_once(
    told_s: float, ttl_s: float, chance: float
) -> None:
    delay = pending_delay(told_s, ttl_s, chance)
    assert 0.25 <= delay <= ttl_s / 4
    if 0.25 <= told_s <= ttl_s / 4:
        assert told_s / 2 <= delay <= told_s


# Patience


@pytest.mark.parametrize(("ttl_s", "home_s"), [(2.0, 0.25), (6.0, 0.5), (12.0, 1.0), (60.0, 1.0)])
def test_a_silent_server_is_left_soon_while_answers_come_quickly(
    ttl_s: float, home_s: float
) -> None:
    """Soon enough for the bound: served elsewhere within a lease and 2 s."""
    patience, remaining_s = Patience(), ttl_s * 2 / 3
    assert patience.at_home(ttl_s, remaining_s) == home_s
    patience.answered(0.3)
    assert patience.at_home(ttl_s, remaining_s) <= 1.0


@given(TTLS, st.floats(0, 1))
def test_the_second_server_has_the_time_to_ask_the_first(ttl_s: float, part: float) -> None:
    """For half a lease, of at most a quarter of ttl."""
    assert Patience().elsewhere(ttl_s, part * ttl_s) > ttl_s / 4 / 2


def test_every_wait_in_vain_doubles_the_next() -> None:
    patience = Patience()
    waits = []
    for _ in range(7):
        waits.append(patience.at_home(60.0, 40.0))
        patience.unanswered(waits[-1])
    assert waits == pytest.approx([1, 2, 4, 8, 16, 30, 30])
    for _ in range(7):
        patience.answered(0.01)
    assert patience.at_home(60.0, 40.0) == QUICK_S


@given(st.floats(1.0, 25.0))
def test_a_pool_that_is_slow_is_left_a_few_times_and_then_waited_for(takes_s: float) -> None:
    """Whatever it takes, as long as the seats stay valid: nobody wanders for ever."""
    patience = Patience()
    impatient = 0
    for _ in range(20):
        waited_s = patience.at_home(60.0, 40.0)
        if takes_s > waited_s:
            patience.unanswered(waited_s)
            impatient += 1
        patience.answered(takes_s)  # it is listened to all the while
    assert impatient <= 1


@given(TTLS, st.floats(0, 1), st.lists(st.tuples(st.booleans(), st.floats(0, 1e4)), max_size=20))
def test_a_wait_leaves_time_for_another_server(
    ttl_s: float, part: float, past: list[tuple[bool, float]]
) -> None:
    patience = Patience()
    for came, after_s in past:
        (patience.answered if came else patience.unanswered)(after_s)
    remaining_s = part * ttl_s
    least_s = min(max(ttl_s / 12, 0.25), 1.0)
    assert least_s <= patience.at_home(ttl_s, remaining_s) <= max(least_s, remaining_s * 3 / 4)
    least_s = ttl_s / 8 + 0.5
    assert patience.elsewhere(ttl_s, remaining_s) <= max(least_s, remaining_s * 3 / 4)
