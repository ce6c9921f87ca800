"""The seat's state machine: a table of its steps, and its rule against a simple oracle."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licraft.client.clock import boottime
from licraft.client.tenure import EXPIRED, SeatState, Tenure

START = Tenure(sent_at=100.0, ttl_s=60.0)


def test_valid_until_ttl_after_the_request_was_sent() -> None:
    assert not START.at(159.999).ended
    assert START.at(160.0).state is SeatState.LOST
    assert START.at(160.0).reason == EXPIRED


def test_a_renewal_counts_from_its_sending() -> None:
    renewed = START.renewed(now=125.0, sent_at=120.0, ttl_s=60.0)
    assert renewed.valid_until == 180.0
    assert renewed.state is SeatState.HELD


def test_suspended_is_still_valid_and_is_held_again_when_renewed() -> None:
    suspended = START.unanswered(150.0)
    assert suspended.state is SeatState.SUSPENDED
    assert suspended.valid_until == START.valid_until
    assert suspended.renewed(155.0, 154.0, 60.0).state is SeatState.HELD
    assert suspended.at(160.0).state is SeatState.LOST


def test_a_late_answer_revives_nothing() -> None:
    late = START.renewed(now=160.0, sent_at=159.0, ttl_s=60.0)
    assert late.state is SeatState.LOST
    assert late.renewed(161.0, 161.0, 60.0) is late


def test_a_success_that_is_over_when_it_arrives_is_a_loss() -> None:
    assert START.renewed(now=150.0, sent_at=140.0, ttl_s=10.0).state is SeatState.LOST


def test_a_shorter_ttl_shortens() -> None:
    assert START.renewed(now=121.0, sent_at=120.0, ttl_s=12.0).valid_until == 132.0


def test_an_older_answer_changes_nothing() -> None:
    renewed = START.renewed(130.0, 125.0, 60.0)
    assert renewed.renewed(131.0, 120.0, 600.0) == renewed


def test_the_ends_are_final() -> None:
    lost, returned = START.lost(110.0, "no_seats"), START.returned(110.0)
    assert (lost.state, lost.reason) == (SeatState.LOST, "no_seats")
    assert returned.state is SeatState.RETURNED
    for end in (lost, returned):
        assert end.returned(120.0) is end
        assert end.lost(120.0, "other") is end
        assert end.unanswered(120.0) is end
        assert end.renewed(120.0, 119.0, 60.0) is end
        assert end.at(1000.0) is end


def test_what_has_expired_cannot_be_returned() -> None:
    assert START.returned(160.0).state is SeatState.LOST


def test_the_clock_goes_on_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLOCK_BOOTTIME where there is one; the monotonic clock stands still meanwhile."""
    slept = {getattr(time, "CLOCK_BOOTTIME", -1): 4711.0, time.CLOCK_MONOTONIC: 11.0}
    monkeypatch.setattr(time, "clock_gettime", slept.get)
    monkeypatch.setattr(time, "monotonic", lambda: 11.0)
    assert boottime() == (4711.0 if hasattr(time, "CLOCK_BOOTTIME") else 11.0)


STEPS = st.lists(
    st.tuples(
        st.floats(0, 30),  # time that passes before the step
        st.sampled_from(["renewed", "unanswered", "look"]),
        st.floats(0, 40),  # how long ago a renewed request was sent
        st.floats(1, 90),  # its ttl
    ),
    max_size=30,
)


@given(STEPS)
def test_it_is_valid_exactly_as_long_as_the_rule_says(
    steps: list[tuple[float, str, float, float]],
) -> None:
    """The oracle keeps the last success by sending, and remembers ever having been invalid."""
    now, tenure = 100.0, START
    sent, until, alive = START.sent_at, START.valid_until, True
    for passed, step, ago, ttl_s in steps:
        now += passed
        alive = alive and now < until
        if step == "renewed":
            tenure = tenure.renewed(now, now - ago, ttl_s)
            if alive and now - ago >= sent:
                sent, until = now - ago, now - ago + ttl_s
        elif step == "unanswered":
            tenure = tenure.unanswered(now)
        else:
            tenure = tenure.at(now)
        alive = alive and now < until
        assert (not tenure.at(now).ended) == alive
        if alive:
            assert tenure.valid_until == until


@given(STEPS)
def test_once_invalid_never_valid_again(steps: list[tuple[float, str, float, float]]) -> None:
    now, tenure, ended = 100.0, START, False
    for passed, step, ago, ttl_s in steps:
        now += passed
        tenure = tenure.renewed(now, now - ago, ttl_s) if step == "renewed" else tenure.at(now)
        assert tenure.ended or not ended
        ended = tenure.ended
