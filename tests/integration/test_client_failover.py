"""The client module against a scripted pool: servers that vanish, stand still or come late."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from functools import partial

import pytest
from client_answers import BEAT, CHECKIN, GRANT, beats, moved, problem
from client_answers import clock_fixture as clock_fixture
from client_answers import pool_fixture as pool_fixture
from client_fakes import (
    Body,
    FakePool,
    FakeServer,
    Hang,
    Lose,
    ManualClock,
    Reply,
    drop_all,
    eventually,
)

from licraft.client import (
    AsyncClient,
    Client,
    Clock,
    PoolUnavailable,
    Seat,
    SeatState,
    boottime,
    grants,
)
from licraft.client.wires import Wires
from licraft.wire import MAX_TOKENS

CONNECTS_WITHIN_S = 20.0
"""What a client allows here for a connection, so that waiting for one would be seen."""

SOON_S = 5.0


def patient(pool: FakePool, clock: Clock = boottime) -> Client:
    """A client that would wait long for a connection or an answer."""
    return Client(
        pool.urls,
        connect_timeout_s=CONNECTS_WITHIN_S,
        read_timeout_s=CONNECTS_WITHIN_S,
        close_timeout_s=0.5,
        clock=clock,
    )


def beaten(server: FakeServer, times: int) -> bool:
    """Whether a server got so many heartbeats."""
    return len(server.calls(BEAT)) >= times


# Servers whose machine is gone


def test_a_first_checkout_does_not_wait_for_a_server_that_is_gone(pool: FakePool) -> None:
    alpha, beta, gamma = pool.members
    alpha.vanish()
    before = time.monotonic()
    with patient(pool) as client, client.checkout("cad") as seat:
        assert seat.server == "beta"
        assert time.monotonic() - before < SOON_S
        # It was sent to one server, and so granted by one.
        assert [len(server.calls(GRANT)) for server in pool.members] == [0, 1, 0]
        assert list(beta.granted) == [seat.id]
        assert not gamma.requests


def test_a_kept_alive_connection_to_a_server_that_is_gone_is_given_up(
    pool: FakePool, clock: ManualClock
) -> None:
    """With many seats, and no sooner than its machine fails to acknowledge the heartbeat."""
    alpha, beta, gamma = pool.members
    beta.always[BEAT] = moved("adopted", "beta")
    with patient(pool, clock) as client:
        seats = [client.checkout("cad") for _ in range(40)]
        alpha.vanish()
        before = time.monotonic()
        clock.advance(20)
        eventually(lambda: {seat.server for seat in seats} == {"beta"})
        assert time.monotonic() - before < SOON_S
        assert len(beta.calls(BEAT)) == 1
        assert not gamma.calls(BEAT)
        client.close()
        assert len(beta.calls(CHECKIN)) == 1


def test_what_was_on_its_way_to_a_server_that_went_is_asked_elsewhere(pool: FakePool) -> None:
    """The kept-alive connection is not waited for, though an answer might take long."""
    alpha, beta = pool.members[:2]
    with patient(pool) as client:
        client.checkout("cad").checkin()
        alpha.vanish()
        before = time.monotonic()
        seat = client.checkout("cad")
        assert seat.server == "beta"
        assert time.monotonic() - before < SOON_S
        assert len(alpha.calls(GRANT)) == 1
        seat.checkin()
    assert not beta.granted


def test_a_process_that_stands_still_is_told_from_a_machine_that_is_gone() -> None:
    """The kernel of the one acknowledges what it is sent, also what nobody reads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wires = Wires()
        ends = []
        for url in ("still", "gone"):
            end = socket.create_connection(listener.getsockname())
            ends += [end, listener.accept()[0]]
            wires.add(url, end)
        drop_all(ends[3].fileno())
        ends[0].sendall(b"heartbeat")
        ends[2].sendall(b"heartbeat")
        eventually(lambda: wires.unheard("gone"), 2)
        assert not wires.unheard("still")
        assert not wires.unheard("unknown")
        for end in ends:
            end.close()
        assert not wires.unheard("gone")


# Servers that stand still, or lose their answers


def test_a_heartbeat_without_an_answer_goes_to_the_next(pool: FakePool, clock: ManualClock) -> None:
    """A stopped process accepts connections and does not answer: it is left after a second."""
    alpha, beta, gamma = pool.members
    alpha.always[BEAT] = Hang()
    beta.always[BEAT] = moved("adopted", "beta")
    with patient(pool, clock) as client:
        seats = [client.checkout("cad") for _ in range(3)]
        clock.advance(20)
        eventually(lambda: {seat.server for seat in seats} == {"beta"}, SOON_S)
        assert len(beta.calls(BEAT)) == 1
        assert not gamma.calls(BEAT)


def test_a_late_answer_counts(pool: FakePool, clock: ManualClock) -> None:
    alpha, beta = pool.members[:2]
    alpha.plan(BEAT, Reply(200, beats("renewed", ttl=60.0).body, after_s=2.0))
    beta.always[BEAT] = Hang()
    with patient(pool, clock) as client:
        seat = client.checkout("cad")
        clock.advance(20)
        eventually(lambda: seat.state is SeatState.SUSPENDED and beta.calls(BEAT))
        eventually(lambda: seat.state is SeatState.HELD)
        assert (seat.server, seat.remaining) == ("alpha", 60)


def test_every_seat_of_a_call_is_told_apart(pool: FakePool, clock: ManualClock) -> None:
    alpha, beta = pool.members[:2]

    def mixed(body: Body) -> Body:
        fates: list[Body] = [
            {"status": "adopted", "ttl": 60.0, "server": "beta"},
            {"status": "converted", "ttl": 60.0, "server": "beta"},
            {"status": "pending", "retry_after": 1.0},
            {"status": "lost", "code": "no_seats"},
            {"status": "confirm", "down_index": 9},
        ]
        results = []
        for token, fate in zip(body["tokens"], fates, strict=True):
            id = token.split("|")[0]
            if fate["status"] in ("adopted", "converted"):
                fate["token"] = f"{id}|beta|2"
            results.append({"id": id, **fate})
        return {"results": results}

    beta.plan(BEAT, Reply(200, mixed), moved("adopted", "beta"))
    beta.always[BEAT] = beats("pending", retry_after=1.0)
    with patient(pool, clock) as client:
        seats = [client.checkout("cad") for _ in range(5)]
        alpha.stop()
        clock.advance(20)
        eventually(lambda: seats[-1].server == "beta" and seats[3].lost)
        states = [str(seat.state) for seat in seats]
        assert states == ["held", "held", "suspended", "lost", "held"]
        first, confirming = beta.calls(BEAT)[:2]
        assert first["tokens"] == [f"{seat.id}|alpha|1" for seat in seats]
        assert confirming["confirm"] == {seats[4].id: 9}
        assert len(confirming["tokens"]) == 1


def test_a_thousand_seats_move_in_a_few_calls(pool: FakePool, clock: ManualClock) -> None:
    alpha, beta = pool.members[:2]
    beta.always[BEAT] = moved("adopted", "beta")
    with patient(pool, clock) as client:
        seats = [client.checkout("cad") for _ in range(MAX_TOKENS)]
        alpha.stop()
        clock.advance(20)
        eventually(lambda: {seat.server for seat in seats} == {"beta"})
        assert len(beta.calls(BEAT)) == 2


# Checkouts whose answer is lost


def test_a_lost_answer_is_asked_for_by_its_name_and_given_back(pool: FakePool) -> None:
    """The retry went elsewhere: what the first server granted is not held for its ttl."""
    alpha, beta = pool.members[:2]
    alpha.plan(GRANT, Lose(), Lose())
    with Client(pool.urls) as client:
        seat = client.checkout("cad")
        assert seat.server == "beta"
        eventually(lambda: not alpha.granted)
        first, again, disowned = alpha.calls(GRANT)
        assert first["id"] == again["id"] == disowned["id"] != seat.id
        (checkin,) = alpha.calls(CHECKIN)
        assert checkin["tokens"] == [f"{first['id']}|alpha|1"]
        assert list(beta.granted) == [seat.id]
        assert seat.valid
        assert not beta.calls(CHECKIN)


def test_what_was_granted_unheard_is_never_renewed(pool: FakePool, clock: ManualClock) -> None:
    """Where it cannot be given back it ends by itself: nobody holds two seats beyond ttl."""
    alpha, beta = pool.members[:2]
    alpha.plan(GRANT, Lose(), Lose(), Lose())
    with Client(pool.urls, clock=clock) as client, client.checkout("cad") as seat:
        unheard = alpha.calls(GRANT)[0]["id"]
        assert unheard in alpha.granted
        for _ in range(3):
            before = len(beta.calls(BEAT))
            clock.advance(20)
            eventually(partial(beaten, beta, before + 1))
        assert not alpha.calls(BEAT)
        assert all(unheard not in token for beat in beta.calls(BEAT) for token in beat["tokens"])
        assert seat.valid


def test_a_request_that_is_still_asked_keeps_its_name_at_each_server(pool: FakePool) -> None:
    """In a later try too: what a server had granted unheard is then what the client holds."""
    alpha, beta, gamma = pool.members
    alpha.plan(GRANT, Lose(), Lose())
    for server in (beta, gamma):
        server.plan(GRANT, problem(503, "no_quorum"))
        server.always[GRANT] = problem(503, "recovering")
    with Client(pool.urls) as client, client.checkout("cad", wait=30) as seat:
        assert seat.server == "alpha"
        assert {body["id"] for body in alpha.calls(GRANT)} == {seat.id}
        assert list(alpha.granted) == [seat.id]
    assert len({body["id"] for s in pool.members for body in s.calls(GRANT)}) <= 3


def test_a_named_request_that_failed_is_left_for_its_repetition(pool: FakePool) -> None:
    """Giving it back would take the seat from under the program that asks for it again."""
    alpha = pool.members[0]
    for server in pool.members[1:]:
        server.stop()
    alpha.plan(GRANT, Lose(), Lose())
    with Client(pool.urls) as client:
        with pytest.raises(PoolUnavailable):
            client.checkout("cad", id="job-7")
        assert list(alpha.granted) == ["job-7"]
        seat = client.checkout("cad", id="job-7")
        assert (seat.id, seat.server) == ("job-7", "alpha")
        assert not alpha.calls(CHECKIN)


def test_a_named_request_that_was_granted_elsewhere_is_given_back_where_it_was_lost(
    pool: FakePool,
) -> None:
    """There, and nowhere else: the other server knows its own seat by the same name."""
    alpha, beta = pool.members[:2]
    alpha.plan(GRANT, Lose(), Lose())
    with Client(pool.urls) as client, client.checkout("cad", id="job-7") as seat:
        assert seat.server == "beta"
        eventually(lambda: not alpha.granted)
        assert list(beta.granted) == ["job-7"]
        assert seat.valid
        assert not beta.calls(CHECKIN)


def test_a_checkout_without_an_answer_goes_elsewhere_and_is_disowned(pool: FakePool) -> None:
    alpha, beta = pool.members[:2]
    alpha.plan(GRANT, Hang())
    with Client(pool.urls, read_timeout_s=0.3) as client, client.checkout("cad") as seat:
        assert seat.server == "beta"
        eventually(lambda: len(alpha.calls(GRANT)) == 2 and not alpha.granted)
        assert alpha.calls(CHECKIN)
        assert not beta.calls(CHECKIN)


def test_a_queue_is_left_when_its_server_lives_no_more(
    pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had taken the request, and may keep it for as long as it was told to wait."""
    monkeypatch.setattr(grants, "WATCH_S", 0.2)
    alpha = pool.members[0]
    for path in (GRANT, "/healthz"):
        alpha.always[path] = Hang()
    with Client(pool.urls, read_timeout_s=0.5) as client, client.checkout("cad", wait=60) as seat:
        assert seat.server == "beta"


def test_a_queue_is_not_left_while_its_server_lives(
    pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants, "WATCH_S", 0.2)
    alpha = pool.members[0]
    alpha.plan(GRANT, Reply(201, alpha.authorization, after_s=1.0))
    with Client(pool.urls, read_timeout_s=0.5) as client, client.checkout("cad", wait=60) as seat:
        assert seat.server == "alpha"
    assert len(alpha.calls(GRANT)) == 1
    assert alpha.calls("/healthz")


# Suspended machines


def test_a_machine_that_slept_too_long_wakes_without_its_seat(
    pool: FakePool, clock: ManualClock
) -> None:
    told: list[Seat] = []
    with Client(pool.urls, clock=clock) as client:
        seat = client.checkout("cad", on_lost=told.append)
        clock.advance(61)
        assert (seat.valid, seat.state, seat.remaining) == (False, SeatState.LOST, 0)
        assert seat.lost_reason == "expired"
        eventually(lambda: told == [seat])
        assert not any(server.calls(BEAT) for server in pool.members)
        # It never comes back to life, and a new one can be had.
        with client.checkout("cad") as other:
            assert other.valid
        assert seat.lost


def test_a_machine_that_wakes_in_time_asks_at_once(pool: FakePool, clock: ManualClock) -> None:
    with Client(pool.urls, clock=clock) as client:
        seat = client.checkout("cad")
        clock.advance(55)
        assert (seat.valid, seat.remaining) == (True, 5)
        eventually(lambda: seat.remaining == 60, 2)
        assert seat.state is SeatState.HELD
        assert len(pool.members[0].calls(BEAT)) == 1


def test_an_answer_that_a_sleeper_finds_is_as_old_as_its_question(
    pool: FakePool, clock: ManualClock
) -> None:
    """The machine slept between the heartbeat and the reading of its answer."""
    alpha = pool.members[0]

    def slept(body: Body) -> Body:
        clock.advance(100)
        return {"results": [{"id": seat.id, "status": "renewed", "ttl": 60.0}]}

    alpha.plan(BEAT, Reply(200, slept))
    with Client(pool.urls, clock=clock) as client:
        seat = client.checkout("cad")
        clock.advance(20)
        eventually(lambda: alpha.calls(CHECKIN))
        assert seat.lost


def test_an_async_program_sees_the_same_states(pool: FakePool, clock: ManualClock) -> None:
    async def live() -> None:
        lost = asyncio.Event()
        async with AsyncClient(pool.urls, clock=clock) as client:
            seat = await client.checkout("cad", on_lost=lambda _: lost.set())
            assert (seat.state, seat.remaining) == (SeatState.HELD, 60)
            for server in pool.members:
                server.stop()
            clock.advance(20)
            await asyncio.to_thread(eventually, lambda: seat.state is SeatState.SUSPENDED)
            assert (seat.valid, seat.lost, seat.remaining) == (True, False, 40)
            clock.advance(40)
            assert (seat.state, seat.valid, seat.remaining) == (SeatState.LOST, False, 0)
            await lost.wait()

    asyncio.run(asyncio.wait_for(live(), 20))


# The list of servers


def listed(pool: FakePool, version: int, *names: str) -> Body:
    """A list of some of the pool's servers."""
    members = [server for server in pool.members if server.name in names]
    entries = [{"name": s.name, "url": s.url, "role": "follower", "state": "up"} for s in members]
    return {"version": version, "list": entries}


def test_an_older_list_does_not_replace_a_newer_one(pool: FakePool, clock: ManualClock) -> None:
    alpha, beta, gamma = pool.members
    pool.version = 5

    def renewed(version: int, *names: str) -> Reply:
        def body(asked: Body) -> Body:
            results = [{"id": seat.id, "status": "renewed", "ttl": 60.0}]
            return {"results": results, "servers": listed(pool, version, *names)}

        return Reply(200, body)

    alpha.plan(BEAT, renewed(4, "gamma"), renewed(6, "gamma"))
    gamma.always[BEAT] = moved("adopted", "gamma")
    beta.always[BEAT] = moved("adopted", "beta")
    with Client([alpha.url], clock=clock) as client:
        seat = client.checkout("cad")
        for version in (5, 6):
            clock.advance(20)
            eventually(lambda: seat.remaining == 60)
            assert client._runner is not None
            assert client._runner.client._routes.version == version
        alpha.stop()
        clock.advance(20)
        eventually(lambda: seat.server == "gamma")
        assert not beta.requests


def test_a_pool_whose_servers_were_all_replaced_is_found_by_the_given_urls(
    pool: FakePool,
) -> None:
    """The name that the program knows leads to new servers; the list that it had, nowhere."""
    alpha, beta, gamma = pool.members
    pool.version = 3
    old = FakePool(2)
    beta.plan(GRANT, problem(503, "draining", servers={**old.servers(), "version": 2}))
    try:
        with Client([beta.url]) as client:
            assert client.checkout("cad").server in ("alpha", "beta")
        old.version = 9
        alpha.plan(GRANT, problem(503, "draining", servers=old.servers()))
        with Client([alpha.url]) as client:
            client.checkout("cad").checkin()
            for server in old.members:
                server.stop()
            pool.version = 10
            with client.checkout("cad") as seat:
                assert seat.server == "alpha"
            assert client._runner is not None
            assert client._runner.client._routes.listed == tuple(pool.urls)
        assert gamma.url in pool.urls
    finally:
        old.close()


@pytest.mark.parametrize(
    "servers",
    [
        {"version": 2**63, "list": [{"name": "x", "url": "http://x", "role": "", "state": ""}]},
        {"version": 10**400, "list": []},
        {
            "version": 9,
            "list": [
                {"name": f"s{i}", "url": f"http://s{i}:1", "role": "follower", "state": "up"}
                for i in range(10_000)
            ],
        },
        {"version": 9, "list": [{"name": "x", "url": "ftp://x", "role": "", "state": ""}]},
        {"version": -1, "list": []},
    ],
    ids=["version", "endless", "many", "nonsense", "negative"],
)
def test_a_list_that_cannot_be_does_no_harm(
    pool: FakePool, clock: ManualClock, servers: Body
) -> None:
    alpha = pool.members[0]

    def renewed(body: Body) -> Body:
        results = [{"id": seat.id, "status": "renewed", "ttl": 60.0}]
        return {"results": results, "servers": servers}

    alpha.plan(BEAT, Reply(200, renewed))
    with Client(pool.urls, clock=clock) as client:
        seat = client.checkout("cad")
        for times in (1, 2):
            clock.advance(20)
            eventually(partial(beaten, alpha, times))
            eventually(lambda: seat.remaining >= 40)
        eventually(lambda: seat.state is SeatState.HELD)
        assert client._runner is not None
        assert client._runner.client._routes.listed == tuple(pool.urls)
        assert all(beat["servers_version"] == 1 for beat in alpha.calls(BEAT))


def test_ten_threads_share_a_client_while_its_server_dies(
    pool: FakePool, clock: ManualClock
) -> None:
    alpha, beta = pool.members[:2]
    beta.always[BEAT] = moved("adopted", "beta")
    seats: list[Seat] = []
    with patient(pool, clock) as client:
        threads = [
            threading.Thread(target=lambda: seats.append(client.checkout("cad"))) for _ in range(10)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        alpha.stop()
        clock.advance(20)
        eventually(lambda: [seat.server for seat in seats] == ["beta"] * 10)
        assert len(beta.calls(BEAT)) == 1
