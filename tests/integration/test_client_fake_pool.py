"""The client module against scripted servers: what is lost, late, refused or broken."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest
from client_fakes import Body, FakePool, Hang, Lose, ManualClock, Reply, eventually
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from licraft.client import (
    AsyncClient,
    AsyncSeat,
    Client,
    ClientError,
    Denied,
    InvalidRequest,
    LicenseError,
    LimitReached,
    NoSeatsAvailable,
    NotAuthorized,
    NotLicensed,
    PoolUnavailable,
    Seat,
    SeatLost,
    SeatState,
    UnknownFeature,
    keeper,
)

ROOT = Path(__file__).parents[2]
GRANT, BEAT, CHECKIN = "/v1/authorizations", "/v1/heartbeats", "/v1/checkins"


@pytest.fixture
def pool() -> Iterator[FakePool]:
    pool = FakePool()
    yield pool
    pool.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    monkeypatch.setattr(keeper, "WATCH_S", 0.02)  # a manual clock has to be looked at often
    return ManualClock()


def problem(status: int, code: str, **more: object) -> Reply:
    return Reply(status, {"status": status, "code": code, "detail": f"says {code}", **more})


def beats(status: str, **more: object) -> Reply:
    """Answer each token of a heartbeat alike."""

    def answer(body: Body) -> Body:
        return {
            "results": [
                {"id": token.split("|")[0], "status": status, **more} for token in body["tokens"]
            ]
        }

    return Reply(200, answer)


def moved(status: str, server: str, ttl: float = 60.0) -> Reply:
    """Answer each token with a new one of `server`."""

    def answer(body: Body) -> Body:
        ids = [token.split("|")[0] for token in body["tokens"]]
        return {
            "results": [
                {
                    "id": i,
                    "status": status,
                    "ttl": ttl,
                    "token": f"{i}|{server}|2",
                    "server": server,
                }
                for i in ids
            ]
        }

    return Reply(200, answer)


def facts(seat: Seat | AsyncSeat) -> tuple[str, bool, bool]:
    return str(seat.state), seat.valid, seat.lost


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
        seats = [client.checkout("cad") for _ in range(keeper.BATCH_TOKENS + 1)]
        clock.advance(20)
        eventually(lambda: all(seat.remaining == 60 for seat in seats))
        sizes = sorted(len(beat["tokens"]) for beat in pool.members[0].calls(BEAT))
        assert sizes == [1, keeper.BATCH_TOKENS]


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


# TLS


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(addresses, critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "authority.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(certificate.public_bytes(Encoding.PEM) + private)
    return file


def test_https_servers_are_checked_with_the_given_authority(authority: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority)
    pool = FakePool(1, tls=context)
    try:
        with Client(pool.urls, verify=authority) as client, client.checkout("cad") as seat:
            assert seat.server == "alpha"
        with Client(pool.urls) as client, pytest.raises(PoolUnavailable, match="CERTIFICATE"):
            client.checkout("cad")
    finally:
        pool.close()


# Its own life


def test_what_is_held_is_checked_in_at_the_end(pool: FakePool) -> None:
    with Client(pool.urls) as client:
        seats = [client.checkout("cad") for _ in range(3)]
    (checkin,) = pool.members[0].calls(CHECKIN)
    assert sorted(checkin["tokens"]) == sorted(seat.token for seat in seats)
    assert not any(seat.valid for seat in seats)


def test_closing_takes_a_bounded_time(pool: FakePool) -> None:
    for server in pool.members:
        server.always[CHECKIN] = Hang()
    client = Client(pool.urls, close_timeout_s=0.2)
    client.checkout("cad")
    runner = client._runner
    assert runner is not None
    client.close()
    eventually(lambda: not runner._thread.is_alive(), 2)


def test_checkin_goes_to_another_server_if_need_be(pool: FakePool) -> None:
    alpha, beta = pool.members[:2]
    with Client(pool.urls) as client:
        seat = client.checkout("cad")
        alpha.stop()
        assert seat.checkin()
        assert beta.calls(CHECKIN)[0]["tokens"] == [seat.token]
        assert not seat.checkin()


def program(text: str, pool: FakePool) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text), *pool.urls],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_a_program_that_just_ends_checks_in(pool: FakePool) -> None:
    process = program(
        """
        import sys
        from licraft.client import Client
        seat = Client(sys.argv[1:]).checkout("cad")
        print(seat.token)
        """,
        pool,
    )
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert pool.members[0].calls(CHECKIN)[0]["tokens"] == [output.strip()]


def test_a_fork_has_seats_of_its_own_only(pool: FakePool) -> None:
    process = program(
        """
        import os, sys
        from licraft.client import Client
        client = Client(sys.argv[1:])
        seat = client.checkout("cad")
        child = os.fork()
        if child == 0:
            told = [seat.valid, seat.lost_reason, seat.checkin()]
            with client.checkout("cad") as own:
                told += [own.valid, own.id != seat.id]
            client.close()
            os._exit(0 if told == [False, "forked", False, True, True] else 1)
        status = os.waitpid(child, 0)[1]
        print(status, seat.valid, seat.checkin())
        """,
        pool,
    )
    output, _ = process.communicate(timeout=20)
    assert output.split() == ["0", "True", "True"]
    assert len(pool.members[0].calls(CHECKIN)) == 2


def test_ctrl_c_while_waiting_ends_the_program_at_once(pool: FakePool) -> None:
    pool.members[0].plan(GRANT, Hang())
    process = program(
        """
        import sys
        from licraft.client import Client
        try:
            with Client(sys.argv[1:]) as client:
                client.checkout("cad", wait=60)
        except KeyboardInterrupt:
            print("stopped")
        """,
        pool,
    )
    eventually(lambda: pool.members[0].calls(GRANT), 20)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert output.strip() == "stopped"


# Observation and administration


POOL_VIEW = {
    "pool": "acme",
    "server": "beta",
    "state": "serving",
    "leader": "beta",
    "term": 3,
    "applied_index": 9,
    "priority": ["beta"],
    "servers": [],
    "license": {"sequence": 7, "sha256": "00"},
    "trouble": [],
    "version": "1",
}


def test_reads_are_answered_by_any_server(pool: FakePool) -> None:
    alpha, beta = pool.members[:2]
    alpha.always["/v1/pool"] = Lose()
    beta.always["/v1/pool"] = Reply(200, POOL_VIEW)
    beta.always["/v1/features"] = Reply(200, {"features": []})
    empty: Body = {"authorizations": [], "truncated": False, "as_of": {}}
    beta.always[GRANT] = Reply(200, empty)
    with Client(pool.urls) as client:
        alpha.stop()
        assert client.pool().pool == "acme"
        assert client.features() == []
        assert client.authorizations(feature="a b", user="ann").authorizations == []
        with pytest.raises(Denied, match="no /v1/features/x"):
            client.feature("x/../y")
    assert beta.calls(GRANT)[0]["_target"] == "/v1/authorizations?feature=a+b&user=ann"
    assert beta.requests[-1][1]["_target"] == "/v1/features/x%2F..%2Fy"


def test_changes_are_not_sent_twice_in_the_dark(pool: FakePool) -> None:
    alpha, beta = pool.members[:2]
    alpha.plan(
        "/v1/license", Lose(), problem(409, "stale_sequence"), problem(422, "invalid_license")
    )
    with Client(pool.urls) as client:
        with pytest.raises(PoolUnavailable, match="may or may not") as unknown:
            client.install_license("sequence: 8")
        assert unknown.value.code == "outcome_unknown"
        assert len(alpha.calls("/v1/license")) == 1
        assert not beta.requests
        for _ in range(2):
            with pytest.raises(LicenseError):
                Client([alpha.url]).install_license("sequence: 8")
        alpha.stop()
        beta.plan("/v1/license", Reply(200, {"sequence": 8, "index": 12}))
        assert client.install_license("sequence: 8").sequence == 8
    assert beta.calls("/v1/license")[0]["text"] == "sequence: 8"


def test_an_authorization_is_removed(pool: FakePool) -> None:
    pool.members[0].plan("/v1/authorizations/7", Reply(204), problem(404, "not_found"))
    with Client(pool.urls) as client:
        client.remove("7")
        with pytest.raises(Denied):
            client.remove("7")


def test_an_endless_answer_is_cut_off(pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("licraft.client.transport.MAX_ANSWER_BYTES", 1000)
    for server in pool.members:
        server.always["/v1/pool"] = Reply(200, b"x" * 2000)
    with Client(pool.urls) as client, pytest.raises(PoolUnavailable, match="more than 1000 bytes"):
        client.pool()
