"""The client module against a scripted pool: checkout and checkin."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest
from client_answers import BEAT, CHECKIN, GRANT, facts, problem
from client_answers import clock_fixture as clock_fixture
from client_answers import pool_fixture as pool_fixture
from client_fakes import Body, FakePool, Hang, Lose, ManualClock, Reply, eventually

from licraft.client import (
    AsyncClient,
    Client,
    ClientError,
    Denied,
    InvalidRequest,
    LimitReached,
    NoSeatsAvailable,
    NotAuthorized,
    NotLicensed,
    PoolUnavailable,
    SeatLost,
    UnknownFeature,
)

# Checkout and checkin


def test_a_seat_is_held_and_checked_in(pool: FakePool) -> None:
    alpha = pool.members[0]
    with Client(pool.urls, "secret", user="ann", host="ws12", app="cad.exe") as client:
        with client.checkout("cad", count=2, version="2026.1") as seat:
            assert (seat.feature, seat.count, seat.server) == ("cad", 2, "alpha")
            assert facts(seat) == ("held", True, False)
            assert 50 < seat.remaining <= 60
            seat.ensure()
        assert facts(seat) == ("returned", False, False)
        assert seat.remaining == 0
        with pytest.raises(SeatLost):
            seat.ensure()
    (asked,) = alpha.calls(GRANT)
    assert asked["client"]["user"] == "ann"
    assert asked["client"]["pid"] == os.getpid()
    assert "authorization: bearer secret" in asked["_head"].lower()
    assert [c["tokens"] for c in alpha.calls(CHECKIN)] == [[seat.token]]
    assert "secret" not in repr(client)
    assert seat.token not in repr(seat)


def test_async_seats_with_await_and_with_async_with(pool: FakePool) -> None:
    async def use() -> None:
        async with AsyncClient(pool.urls) as client:
            seat = await client.checkout("cad")
            async with client.checkout("cad") as other:
                assert facts(other) == facts(seat) == ("held", True, False)
            assert facts(other) == ("returned", False, False)
            assert await seat.checkin()
            assert not await seat.checkin()

    asyncio.run(use())
    assert len(pool.members[0].calls(CHECKIN)) == 2


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (409, "no_seats", NoSeatsAvailable),
        (404, "unknown_feature", UnknownFeature),
        (403, "not_licensed", NotLicensed),
        (403, "limit_reached", LimitReached),
        (403, "excluded", LimitReached),
        (401, "not_authorized", NotAuthorized),
        (403, "not_authorized", NotAuthorized),
        (400, "invalid_request", InvalidRequest),
        (413, "too_large", InvalidRequest),
        (409, "some_new_denial", Denied),
    ],
)
def test_a_final_answer_is_not_asked_for_twice(
    pool: FakePool, status: int, code: str, kind: type[ClientError]
) -> None:
    pool.members[0].plan(GRANT, problem(status, code))
    with Client(pool.urls) as client, pytest.raises(kind, match=f"says {code}") as raised:
        client.checkout("cad", wait=5)
    assert type(raised.value) is kind
    assert raised.value.code == code
    assert not pool.members[1].requests


@pytest.mark.parametrize(
    "answer",
    [
        problem(503, "no_quorum"),
        problem(503, "recovering"),
        problem(503, "draining"),
        problem(429, "overloaded"),
        problem(500, "internal"),
        Reply(500, b"<html>oops"),
        Reply(404, b"<html>a web server"),
        Reply(302, None, headers="location: http://127.0.0.1:1/\r\n"),
        Reply(200, b"{}"),
        Reply(200, b"\xff\xfe"),
        Reply(201, b"x", headers="content-encoding: gzip\r\n"),
        Hang(),
    ],
)
def test_the_next_server_is_asked(pool: FakePool, answer: Reply | Hang) -> None:
    pool.members[0].always[GRANT] = answer
    with Client(pool.urls, read_timeout_s=0.2) as client, client.checkout("cad") as seat:
        assert seat.server == "beta"


def test_servers_that_are_down_are_passed_over_and_asked_last(pool: FakePool) -> None:
    pool.members[0].stop()
    pool.members[1].stop()
    with Client(pool.urls) as client:
        assert client.checkout("cad").server == "gamma"
        assert client.checkout("cad").server == "gamma"


def test_a_pool_without_answers_says_what_each_server_said(pool: FakePool) -> None:
    alpha, beta, gamma = pool.members
    alpha.stop()
    beta.always[GRANT] = problem(503, "no_quorum")
    gamma.always[GRANT] = problem(503, "draining")
    with Client(pool.urls) as client, pytest.raises(PoolUnavailable) as raised:
        client.checkout("cad")
    for said in (
        f"{alpha.url}: cannot connect",
        f"{beta.url}: no_quorum",
        f"{gamma.url}: draining",
    ):
        assert said in str(raised.value)
    assert raised.value.code == "no_quorum"


def test_waiting_outlasts_a_pool_without_quorum(pool: FakePool) -> None:
    for server in pool.members:
        server.plan(GRANT, problem(503, "no_quorum"))
    with Client(pool.urls) as client, client.checkout("cad", wait=10) as seat:
        assert seat.server == "alpha"
    assert all(0 < body["wait"] <= 10 for body in pool.members[0].calls(GRANT))


def test_a_dead_pool_is_not_waited_for(pool: FakePool) -> None:
    for server in pool.members:
        server.stop()
    before = time.monotonic()
    with Client(pool.urls) as client, pytest.raises(PoolUnavailable):
        client.checkout("cad", wait=60)
    assert time.monotonic() - before < 20


def test_the_servers_of_a_503_are_adopted(pool: FakePool) -> None:
    alpha, beta = pool.members[:2]
    pool.version = 9
    alpha.plan(GRANT, problem(503, "draining", servers=pool.servers()))
    with Client([alpha.url]) as client, client.checkout("cad") as seat:
        assert seat.server == "beta"
    assert beta.calls(GRANT)


def test_a_lost_answer_is_asked_for_again_under_the_same_id(pool: FakePool) -> None:
    alpha = pool.members[0]
    alpha.plan(GRANT, Lose())
    with Client(pool.urls) as client, client.checkout("cad") as seat:
        assert seat.server == "alpha"
        first, second = alpha.calls(GRANT)
        assert first["id"] == second["id"] == seat.id
        assert len(alpha.granted) == 1


def test_another_server_gets_another_id(pool: FakePool) -> None:
    alpha, beta = pool.members[:2]
    alpha.plan(GRANT, Lose(), Lose())
    with Client(pool.urls) as client, client.checkout("cad"):
        assert alpha.calls(GRANT)[0]["id"] != beta.calls(GRANT)[0]["id"]


def test_a_program_may_name_its_request(pool: FakePool) -> None:
    with Client(pool.urls) as client:
        assert client.checkout("cad", id="job-7").id == "job-7"


@pytest.mark.parametrize("grant", [{"count": 2}, {"feature": "cam"}, {"ttl": 0.0}, {"token": ""}])
def test_what_was_not_asked_is_given_back(pool: FakePool, grant: Body) -> None:
    alpha = pool.members[0]
    alpha.plan(GRANT, Reply(201, lambda body: {**alpha.authorization(body), **grant}))
    with Client(pool.urls) as client, client.checkout("cad") as seat:
        assert seat.server == "beta"
        eventually(lambda: alpha.calls(CHECKIN))


def test_after_a_long_wait_the_grant_is_renewed_before_it_is_handed_out(
    pool: FakePool, clock: ManualClock
) -> None:
    alpha = pool.members[0]

    def granted_late(body: Body) -> Body:
        clock.advance(100)
        return alpha.authorization(body)

    alpha.plan(GRANT, Reply(201, granted_late))
    with Client(pool.urls, clock=clock) as client, client.checkout("cad", wait=200) as seat:
        assert seat.valid
        assert seat.remaining == 60
        assert len(alpha.calls(BEAT)) == 1


def test_a_cancelled_checkout_leaves_nothing_behind(pool: FakePool) -> None:
    alpha = pool.members[0]
    alpha.plan(GRANT, Reply(201, alpha.authorization, after_s=30))

    async def give_up() -> None:
        async with AsyncClient(pool.urls) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.checkout("cad", wait=60)

    asyncio.run(give_up())
    first, second = alpha.calls(GRANT)
    assert first["id"] == second["id"]
    assert not alpha.granted
    assert alpha.calls(CHECKIN)


def test_closing_ends_a_waiting_checkout(pool: FakePool) -> None:
    pool.members[0].plan(GRANT, Hang())
    client = Client(pool.urls)
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            client.checkout("cad", wait=60)
        except ClientError as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: pool.members[0].calls(GRANT))
    client.close()
    thread.join(5)
    assert [type(error) for error in failed] == [ClientError]
    with pytest.raises(ClientError):
        client.checkout("cad")


@pytest.mark.parametrize(
    "arguments",
    [{"count": 0}, {"wait": -1}, {"wait": float("nan")}, {"feature": ""}, {"id": "a b"}],
)
def test_arguments_that_cannot_be_are_refused_here(pool: FakePool, arguments: Body) -> None:
    with Client(pool.urls) as client, pytest.raises(InvalidRequest):
        client.checkout(**{"feature": "cad", **arguments})
    assert not pool.members[0].requests
