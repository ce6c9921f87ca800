"""What one client can do to the HTTP server is bounded, in size and in time."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from api_fakes import (
    ADMIN,
    CLIENT,
    TOKENS,
    FakeService,
    Wire,
    checkout,
    request,
    run,
    serving,
    until,
)

from licraft.api.limits import Limits
from licraft.wire import MAX_BODY_BYTES, MAX_LICENSE_BYTES, Problem

A = "/v1/authorizations"
QUICK = Limits(receive_s=0.2, idle_s=0.4, stalled_s=0.3, sweep_s=0.05, stop_s=0.5)
CHUNKED = "Transfer-Encoding: chunked"
_PROBLEM = Problem(404, "unknown_feature", "gone")


def _head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_content_length_over_the_bound_is_refused_before_the_body() -> None:
    async def scenario() -> None:
        service = FakeService()
        async with serving(service) as server:
            wire = await Wire.to(server.port)
            await wire.send(_head("POST", A, f"Content-Length: {MAX_BODY_BYTES + 1}"))
            answer = await wire.answer()
            assert answer.status == 413
            assert json.loads(answer.body)["code"] == "too_large"
            await wire.send(b" " * (MAX_BODY_BYTES + 1))
            await wire.send(checkout())
            assert (await wire.answer()).status == 201
            assert service.calls == 1

    run(scenario())


def test_chunked_body_over_the_bound_is_refused_before_its_end() -> None:
    async def scenario() -> None:
        service = FakeService()
        async with serving(service) as server:
            wire = await Wire.to(server.port)
            await wire.send(_head("POST", A, CHUNKED))
            for _ in range(MAX_BODY_BYTES // 65536 + 1):
                await wire.send(_chunk(b" " * 65536))
            assert (await wire.answer()).status == 413
            assert service.calls == 0

    run(scenario())


def test_license_may_be_larger_than_other_bodies() -> None:
    async def scenario() -> None:
        service = FakeService()
        async with serving(service) as server:
            wire = await Wire.to(server.port)
            exact = b"#" * MAX_LICENSE_BYTES
            await wire.send(request("PUT", "/v1/license", exact))
            assert (await wire.answer()).status == 200
            assert len(service.installed[0]) == MAX_LICENSE_BYTES
            await wire.send(_head("PUT", "/v1/license", CHUNKED))
            await wire.send(
                b"".join(_chunk(exact[i : i + 50_000]) for i in range(0, 3145728, 50_000))
            )
            await wire.send(b"0\r\n\r\n")
            assert (await wire.answer()).status == 200
            await wire.send(request("PUT", "/v1/license", exact + b"#"))
            assert (await wire.answer()).status == 413
            assert len(service.installed) == 2

    run(scenario())


def test_a_body_without_end_is_cut_off() -> None:
    async def scenario() -> None:
        async with serving(FakeService(), limits=Limits(message_bytes=1024 * 1024)) as server:
            wire = await Wire.to(server.port)
            await wire.send(_head("POST", A, CHUNKED))
            chunks = _chunk(b" " * 65536) * 200
            with pytest.raises(ConnectionError):
                await wire.send(chunks)

    run(scenario())


def test_chunked_request_is_answered() -> None:
    async def scenario() -> None:
        async with serving(FakeService()) as server:
            wire = await Wire.to(server.port)
            await wire.send(_head("POST", A, CHUNKED))
            for byte in b'{"feature":"cad"}':
                await wire.send(_chunk(bytes([byte])))
            await wire.send(b"0\r\nX-Trailer: 1\r\n\r\n")
            assert (await wire.answer()).status == 201

    run(scenario())


def test_body_in_single_bytes_is_answered() -> None:
    async def scenario() -> None:
        async with serving(FakeService()) as server:
            wire = await Wire.to(server.port)
            for byte in checkout():
                await wire.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await wire.answer()).status == 201

    run(scenario())


@pytest.mark.parametrize(
    "start",
    [
        _head("POST", A)[:-4] + b"\r\nX-Long: ",
        _head("POST", A)[:-4] + b"\r\nX-Long",
        b"POST /",
        _head("POST", A, CHUNKED) + b"0\r\nX-Trailer: ",
        _head("POST", A, CHUNKED) + b"5;extension=",
    ],
    ids=["value", "name", "url", "trailer", "extension"],
)
def test_head_is_bounded(start: bytes) -> None:
    async def scenario() -> None:
        service = FakeService()
        async with serving(service) as server:
            wire = await Wire.to(server.port)
            await wire.send(start)
            try:
                for _ in range(100):
                    await wire.send(b"a" * 1024)
                    await asyncio.sleep(0)
            except ConnectionError:
                pass
            assert b" 200 " not in await wire.closed()
            assert service.calls == 0

    run(scenario())


def test_head_over_the_bound_is_told_so() -> None:
    async def scenario() -> None:
        async with serving(FakeService()) as server:
            wire = await Wire.to(server.port)
            await wire.send(_head("POST", A, "X: " + "a" * 33 * 1024, "Content-Length: 0")[:-4])
            answer = await wire.answer()
            assert answer.status == 431
            assert json.loads(answer.body)["code"] == "too_large"
            assert answer.headers["connection"] == "close"

    run(scenario())


@pytest.mark.parametrize(
    "half",
    [
        b"PO",
        b"POST /v1/authorizations HTTP/1.1\r\nHo",
        checkout()[:-1],
        _head("POST", A, CHUNKED) + b"5\r\nab",
        _head("PUT", "/v1/license", "Content-Length: 100000") + b"a" * 70_000,
    ],
)
def test_half_sent_requests_time_out(half: bytes) -> None:
    async def scenario() -> None:
        service = FakeService()
        # Idle connections are not what is tested here.
        async with serving(service, limits=replace(QUICK, idle_s=30)) as server:
            wire = await Wire.to(server.port)
            await wire.send(half)
            assert await wire.closed(3) == b""
            assert service.calls == 0

    run(scenario())


async def _drip(wire: Wire, data: bytes) -> None:
    for byte in data:
        await wire.send(bytes([byte]))
        await asyncio.sleep(0.01)


def test_half_sent_request_times_out_however_slowly_it_drips() -> None:
    async def scenario() -> None:
        async with serving(FakeService(), limits=QUICK) as server:
            wire = await Wire.to(server.port)
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(ConnectionError):
                await _drip(wire, checkout() * 100)
            assert loop.time() - began < 3

    run(scenario())


def test_idle_connections_are_closed_and_busy_ones_are_not() -> None:
    async def scenario() -> None:
        service = FakeService()
        async with serving(service, limits=QUICK) as server:
            never, once, waits = [await Wire.to(server.port) for _ in range(3)]
            await once.send(checkout())
            await waits.send(checkout("wait"))
            assert (await once.answer()).status == 201
            assert await never.closed(3) == b""
            assert await once.closed(3) == b""
            await asyncio.sleep(0.6)
            service.waiting[0].set_result((404, _PROBLEM))
            assert (await waits.answer()).status == 404

    run(scenario())


def test_idle_is_counted_from_the_last_request() -> None:
    async def scenario() -> None:
        async with serving(FakeService(), limits=QUICK) as server:
            wire = await Wire.to(server.port)
            for _ in range(8):
                await wire.send(checkout())
                assert (await wire.answer()).status == 201
                await asyncio.sleep(0.15)

    run(scenario())


def test_connections_are_bounded() -> None:
    async def scenario() -> None:
        async with serving(FakeService(), limits=Limits(connections=2)) as server:
            first, second = [await Wire.to(server.port) for _ in range(2)]
            for wire in (first, second):
                await wire.send(checkout())
                assert (await wire.answer()).status == 201
            third = await Wire.to(server.port)
            answer = await third.answer()
            assert answer.status == 503
            assert json.loads(answer.body)["code"] == "overloaded"
            assert answer.headers["retry-after"] == "1"
            assert await third.closed() == b""
            first.close()
            await until(lambda: len(server._shared.connections) == 1)
            fourth = await Wire.to(server.port)
            await fourth.send(checkout())
            assert (await fourth.answer()).status == 201

    run(scenario())


def test_pipelined_answers_keep_their_order_around_a_waiting_one() -> None:
    async def scenario() -> None:
        service = FakeService()
        async with serving(service) as server:
            wire = await Wire.to(server.port)
            await wire.send(
                checkout("first")
                + checkout("wait")
                + checkout("third")
                + request("GET", "/healthz")
                + checkout("wait")
                + checkout("last")
            )
            assert json.loads((await wire.answer()).body)["feature"] == "first"
            await until(lambda: len(service.waiting) == 1)
            # What comes after a waiting request is not even begun.
            assert [r.feature for r in service.requests] == ["first", "wait"]
            service.waiting[0].set_result((404, _PROBLEM))
            assert (await wire.answer()).status == 404
            assert json.loads((await wire.answer()).body)["feature"] == "third"
            assert json.loads((await wire.answer()).body) == {"alive": True}
            await until(lambda: len(service.waiting) == 2)
            service.waiting[1].set_result((404, _PROBLEM))
            assert (await wire.answer()).status == 404
            assert json.loads((await wire.answer()).body)["feature"] == "last"
            # Afterwards the connection is as it was.
            await wire.send(checkout())
            assert (await wire.answer()).status == 201

    run(scenario())


def test_requests_read_ahead_are_bounded() -> None:
    async def scenario() -> None:
        service = FakeService()
        async with serving(service) as server:
            wire = await Wire.to(server.port)
            flood = checkout("wait") + checkout("cad") * 20_000
            sending = asyncio.ensure_future(wire.send(flood))
            await until(lambda: service.waiting)
            (connection,) = server._connections()
            await until(lambda: connection.flow.read_paused)
            in_a_piece = Limits().piece_bytes // len(checkout()) + 1
            assert len(connection.pipeline) <= Limits().pipelined + in_a_piece
            assert len(connection._unread) < 1024 * 1024
            service.waiting[0].set_result((404, _PROBLEM))
            assert (await wire.answer()).status == 404
            for _ in range(20_000):
                assert (await wire.answer()).status == 201
            await sending

    run(scenario())


def test_a_client_that_does_not_read_is_not_served_without_end() -> None:
    async def scenario() -> None:
        service = FakeService()
        async with serving(service, limits=QUICK) as server:
            wire = await Wire.to(server.port, limit=1024)
            await until(server._connections)
            (connection,) = server._connections()

            async def flood() -> None:
                while True:
                    await wire.send(checkout() * 100)

            sending = asyncio.ensure_future(flood())
            await until(lambda: connection.flow.write_paused)
            assert connection.transport.get_write_buffer_size() < 1024 * 1024
            await until(lambda: not server._shared.connections)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    run(scenario())


def test_a_client_that_goes_away_cancels_its_waiting_request() -> None:
    async def scenario(fast: bool, behind: bytes) -> None:
        service = FakeService()
        async with serving(service, fast=fast) as server:
            wire = await Wire.to(server.port)
            await wire.send(checkout("wait") + behind)
            await until(lambda: service.waiting)
            wire.close()
            await until(lambda: service.waiting[0].cancelled())
            await until(lambda: not server._shared.connections and not server._shared.tasks)
            assert service.calls == 1

    for fast in (True, False):
        run(scenario(fast, b""))
        run(scenario(fast, checkout()))


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_expect_100_continue(method: str) -> None:
    async def scenario() -> None:
        body = b'{"feature":"cad"}'
        path = A if method == "POST" else "/v1/license"
        token = CLIENT if method == "POST" else ADMIN
        async with serving(FakeService(), tokens=TOKENS) as server:
            wire = await Wire.to(server.port)
            head = request(
                method, path, body, token=token, headers=("Expect: 100-continue",)
            ).removesuffix(body)
            await wire.send(head)
            assert (await wire.answer()).status == 100
            await wire.send(body)
            assert (await wire.answer()).status == (201 if method == "POST" else 200)

            # Who may not call is told so at once.
            await wire.send(head.replace(token.encode(), b"wrong"))
            assert (await wire.answer()).status == 401

    run(scenario())


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nX : y\r\n\r\n",
        b"POST " + A.encode() + b" HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST " + A.encode() + b" HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST " + A.encode() + b" HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST " + A.encode() + b" HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST "
        + A.encode()
        + b" HTTP/1.1\r\nContent-Length: 1\r\n"
        + CHUNKED.encode()
        + b"\r\n\r\n",
        _head("POST", A, CHUNKED) + b"zz\r\n",
        b"GET \xff\xfe HTTP/1.1\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(data: bytes) -> None:
    async def scenario() -> None:
        service = FakeService()
        async with serving(service) as server:
            wire = await Wire.to(server.port)
            await wire.send(data)
            answer = await wire.answer()
            assert answer.status == 400
            assert answer.headers["content-type"] == "application/problem+json"
            assert json.loads(answer.body)["code"] == "invalid_request"
            assert await wire.closed() == b""
            assert service.calls == 0
            again = await Wire.to(server.port)
            await again.send(checkout())
            assert (await again.answer()).status == 201

    run(scenario())


def test_garbage_behind_a_waiting_request_does_not_spoil_its_answer() -> None:
    async def scenario() -> None:
        service = FakeService()
        async with serving(service) as server:
            wire = await Wire.to(server.port)
            await wire.send(checkout("wait") + b"GARBAGE\r\n\r\n")
            await until(lambda: service.waiting)
            service.waiting[0].set_result((404, _PROBLEM))
            assert (await wire.answer()).status == 404
            assert await wire.closed() == b""

    run(scenario())


def test_keep_alive_is_honoured() -> None:
    async def scenario() -> None:
        async with serving(FakeService()) as server:
            closing = await Wire.to(server.port)
            await closing.send(
                request("POST", A, b'{"feature":"cad"}', headers=("Connection: close",))
            )
            answer = await closing.answer()
            assert (answer.status, answer.headers["connection"]) == (201, "close")
            assert await closing.closed() == b""

            old = await Wire.to(server.port)
            await old.send(checkout().replace(b"HTTP/1.1", b"HTTP/1.0"))
            assert (await old.answer()).status == 201
            assert await old.closed() == b""

    run(scenario())


def test_an_upgrade_is_ignored() -> None:
    async def scenario() -> None:
        upgrade = (
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABk",
        )
        async with serving(FakeService()) as server:
            wire = await Wire.to(server.port)
            await wire.send(request("GET", "/healthz", headers=upgrade) + checkout())
            assert (await wire.answer()).status == 200
            assert (await wire.answer()).status == 201
            await wire.send(request("POST", A, b'{"feature":"cad"}', headers=upgrade) + checkout())
            assert (await wire.answer()).status == 201
            assert (await wire.answer()).status == 201

    run(scenario())
