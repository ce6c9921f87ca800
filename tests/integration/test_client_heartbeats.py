"""The client module against a scripted pool: heartbeats and fail-over."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest
from client_answers import BEAT, CHECKIN, beats, moved, problem
from client_answers import clock_fixture as clock_fixture
from client_answers import pool_fixture as pool_fixture
from client_fakes import Body, FakePool, Lose, ManualClock, Reply, eventually

from licraft.client import (
    AsyncClient,
    AsyncSeat,
    Client,
    Seat,
    SeatState,
    renewing,
)

# Heartbeats and fail-over


def test_one_heartbeat_renews_everything(pool: FakePool, clock: ManualClock) -> None:
    alpha = pool.members[0]
    with Client(pool.urls, clock=clock) as client:
        seats = [client.checkout("cad") for _ in range(5)]
        clock.advance(20)
        eventually(lambda: all(seat.remaining == 60 for seat in seats))
        (beat,) = alpha.calls(BEAT)
        assert sorted(beat["tokens"]) == sorted(seat.token for seat in seats)
        assert beat["servers_version"] == 1


def test_many_tokens_go_in_several_requests(pool: FakePool, clock: ManualClock) -> None:
    with Client(pool.urls, clock=clock) as client:
        seats = [client.checkout("cad") for _ in range(renewing.BATCH_TOKENS + 1)]
        clock.advance(20)
        eventually(lambda: all(seat.remaining == 60 for seat in seats))
        sizes = sorted(len(beat["tokens"]) for beat in pool.members[0].calls(BEAT))
        assert sizes == [1, renewing.BATCH_TOKENS]


def test_a_failed_server_is_left_for_the_next_at_once(pool: FakePool, clock: ManualClock) -> None:
    alpha, beta, gamma = pool.members
    beta.always[BEAT] = moved("adopted", "beta")
    with Client(pool.urls, clock=clock) as client:
        seat = client.checkout("cad")
        before = seat.token
        alpha.stop()
        clock.advance(20)
        eventually(lambda: seat.server == "beta")
        assert (seat.state, seat.remaining) == (SeatState.HELD, 60)
        assert beta.calls(BEAT)[0]["tokens"] == [before]
        clock.advance(20)
        eventually(lambda: len(beta.calls(BEAT)) == 2)
        assert beta.calls(BEAT)[1]["tokens"] == [seat.token]
        assert seat.token.endswith("|beta|2")
        seat.checkin()
        assert beta.calls(CHECKIN)[0]["tokens"] == [seat.token]
    assert not gamma.calls(BEAT)


def test_a_closed_connection_is_no_failed_server(pool: FakePool, clock: ManualClock) -> None:
    alpha, beta = pool.members[:2]
    alpha.plan(BEAT, Lose())
    with Client(pool.urls, clock=clock) as client, client.checkout("cad") as seat:
        clock.advance(20)
        eventually(lambda: seat.remaining == 60)
        assert len(alpha.calls(BEAT)) == 2
        assert not beta.calls(BEAT)


@pytest.mark.parametrize("code", ["no_quorum", "draining"])
def test_a_server_that_may_not_renew_is_left_too(
    pool: FakePool, clock: ManualClock, code: str
) -> None:
    alpha, beta = pool.members[:2]
    alpha.always[BEAT] = problem(503, code)
    beta.always[BEAT] = moved("converted", "beta")
    with Client(pool.urls, clock=clock) as client, client.checkout("cad") as seat:
        clock.advance(20)
        eventually(lambda: seat.server == "beta")
        assert seat.state is SeatState.HELD


def test_pending_is_tried_again_while_the_seat_is_valid(pool: FakePool, clock: ManualClock) -> None:
    alpha, beta = pool.members[:2]
    beta.plan(BEAT, beats("pending", retry_after=0.5), beats("pending", retry_after=0.5))
    beta.always[BEAT] = moved("adopted", "beta")

    def beta_was_asked(times: int) -> bool:
        clock.advance(0.01)  # little by little: when the retry is planned is not ours to see
        return len(beta.calls(BEAT)) == times

    with Client(pool.urls, clock=clock) as client, client.checkout("cad") as seat:
        alpha.stop()
        clock.advance(20)
        eventually(lambda: seat.state is SeatState.SUSPENDED)
        assert seat.valid
        for tries in (2, 3):
            eventually(partial(beta_was_asked, tries))
        eventually(lambda: seat.state is SeatState.HELD)


def test_a_valid_seat_is_confirmed_at_once(pool: FakePool, clock: ManualClock) -> None:
    alpha, beta = pool.members[:2]
    beta.plan(BEAT, beats("confirm", down_index=4711), moved("adopted", "beta"))
    with Client(pool.urls, clock=clock) as client, client.checkout("cad") as seat:
        alpha.stop()
        clock.advance(20)
        eventually(lambda: seat.server == "beta")
        assert [beat["confirm"] for beat in beta.calls(BEAT)] == [{}, {seat.id: 4711}]


def test_a_seat_that_expired_meanwhile_is_not_confirmed(pool: FakePool, clock: ManualClock) -> None:
    alpha, beta = pool.members[:2]

    def late(body: Body) -> Body:
        clock.advance(45)
        return {"results": [{"id": seat.id, "status": "confirm", "down_index": 4711}]}

    beta.plan(BEAT, Reply(200, late))
    with Client(pool.urls, clock=clock) as client:
        seat = client.checkout("cad")
        alpha.stop()
        clock.advance(20)
        eventually(lambda: seat.lost)
        eventually(lambda: not client._runner.client._keeper._tasks)  # type: ignore[union-attr]
        assert len(beta.calls(BEAT)) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_lost_seat_is_told_once_and_renewed_no_more(pool: FakePool, clock: ManualClock) -> None:
    alpha = pool.members[0]
    alpha.plan(BEAT, beats("lost", code="no_seats"))
    told: list[tuple[Seat, str]] = []

    def on_lost(seat: Seat) -> None:
        told.append((seat, threading.current_thread().name))
        raise ValueError("a program's own fault")

    with Client(pool.urls, clock=clock) as client:
        seat = client.checkout("cad", on_lost=on_lost)
        kept = client.checkout("cam")
        alpha.plan(BEAT, None)
        clock.advance(20)
        eventually(lambda: told)
        assert (seat.lost, seat.lost_reason) == (True, "no_seats")
        assert told == [(seat, "licraft-on-lost")]
        assert kept.lost  # it was in the same heartbeat
        clock.advance(20)
        other = client.checkout("cad")
        clock.advance(20)
        eventually(lambda: len(alpha.calls(BEAT)) == 2)
        assert alpha.calls(BEAT)[1]["tokens"] == [other.token]
        assert len(told) == 1


def test_silence_loses_the_seat_when_its_time_is_over(pool: FakePool, clock: ManualClock) -> None:
    told: list[AsyncSeat] = []

    async def hold() -> None:
        async with AsyncClient(pool.urls, clock=clock) as client:

            async def on_lost(seat: AsyncSeat) -> None:
                told.append(seat)
                await client.aclose()  # a program may close its client here

            seat = await client.checkout("cad", on_lost=on_lost)
            for server in pool.members:
                server.stop()
            clock.advance(59.9)
            await asyncio.to_thread(eventually, lambda: seat.state is SeatState.SUSPENDED)
            assert seat.valid
            clock.advance(0.1)
            assert seat.lost
            await asyncio.to_thread(eventually, lambda: told)
            assert seat.lost_reason == "expired"

    asyncio.run(asyncio.wait_for(hold(), 20))
    assert len(told) == 1


def test_a_late_success_revives_nothing_and_is_given_back(
    pool: FakePool, clock: ManualClock
) -> None:
    alpha = pool.members[0]

    def late(body: Body) -> Body:
        clock.advance(41)
        assert not seat.valid
        return {"results": [{"id": seat.id, "status": "renewed", "ttl": 60.0}]}

    alpha.plan(BEAT, Reply(200, late))
    with Client(pool.urls, clock=clock) as client:
        seat = client.checkout("cad")
        clock.advance(20)
        eventually(lambda: alpha.calls(CHECKIN))
        assert alpha.calls(CHECKIN)[0]["tokens"] == [seat.token]
        assert seat.lost
        assert not seat.valid


def test_validity_counts_from_when_the_heartbeat_was_sent(
    pool: FakePool, clock: ManualClock
) -> None:
    def slow(body: Body) -> Body:
        clock.advance(5)
        return {"results": [{"id": seat.id, "status": "renewed", "ttl": 60.0}]}

    pool.members[0].plan(BEAT, Reply(200, slow))
    with Client(pool.urls, clock=clock) as client:
        seat = client.checkout("cad")
        clock.advance(20)
        eventually(lambda: pool.members[0].calls(BEAT) and seat.remaining > 40)
        assert seat.remaining == 55


@pytest.mark.parametrize(
    "answer",
    [
        Reply(200, {"results": []}),
        Reply(200, {"results": [{"id": "another", "status": "renewed", "ttl": 60.0}]}),
        Reply(200, {"results": [{"id": "another", "status": "lost", "code": "no_seats"}]}),
        Reply(200, b"[]"),
        problem(401, "not_authorized"),
    ],
)
def test_a_heartbeat_answer_that_cannot_be_counts_as_none(
    pool: FakePool, clock: ManualClock, answer: Reply
) -> None:
    for server in pool.members:
        server.always[BEAT] = answer
    with Client(pool.urls, clock=clock) as client, client.checkout("cad") as seat:
        clock.advance(20)
        eventually(lambda: seat.state is SeatState.SUSPENDED)
        assert seat.remaining == 40


def test_a_newer_server_list_is_followed(pool: FakePool, clock: ManualClock) -> None:
    alpha, _, gamma = pool.members
    newer = {
        "version": 5,
        "list": [{"name": "gamma", "url": gamma.url, "role": "leader", "state": "up"}],
    }

    def renewed(body: Body) -> Body:
        results = [{"id": seat.id, "status": "renewed", "ttl": 60.0}]
        return {"results": results, "servers": newer}

    alpha.plan(BEAT, Reply(200, renewed))
    gamma.always[BEAT] = moved("adopted", "gamma")
    with Client([alpha.url], clock=clock) as client:
        seat = client.checkout("cad")
        clock.advance(20)
        eventually(lambda: seat.remaining == 60)
        alpha.stop()
        clock.advance(20)
        eventually(lambda: seat.server == "gamma")
        assert gamma.calls(BEAT)[0]["servers_version"] == 5
