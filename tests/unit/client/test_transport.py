"""No exception of a lower layer leaves the transport, and nothing is loaded that is not needed."""

from __future__ import annotations

import asyncio
import inspect
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from licraft.client.transport import Answer, Gate, NoAnswer, Transport, tls_context
from licraft.errors import InvalidRequest

ROOT = Path(__file__).parents[3]


def httpx_exceptions() -> Iterator[type[Exception]]:
    """Every exception class that httpx names."""
    for name in sorted(httpx.__all__):
        kind = getattr(httpx, name)
        if inspect.isclass(kind) and issubclass(kind, Exception):
            yield kind


def raised(kind: type[Exception]) -> Exception:
    request = httpx.Request("GET", "http://alpha")
    if kind is httpx.HTTPStatusError:
        return httpx.HTTPStatusError("x", request=request, response=httpx.Response(500))
    try:
        return kind("some words")
    except TypeError:
        return kind()


class Failing(httpx.AsyncHTTPTransport):
    """Fails with what it is told, then answers; may connect anew for each request."""

    def __init__(self, *errors: Exception, connects: bool = False) -> None:
        super().__init__(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        self.errors = list(errors)
        self.connects = connects
        self.requests = self.sent = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        trace = request.extensions["trace"]
        if self.connects:
            await trace("connection.connect_tcp.complete", {"return_value": Stream()})
            await trace("http11.send_request_headers.started", {})
            self.sent += 1
        if self.errors:
            raise self.errors.pop(0)
        return httpx.Response(200, stream=httpx.ByteStream(b"{}"))


class Stream:
    """A connection that has no socket."""

    def get_extra_info(self, name: str) -> None:
        assert name == "socket"


def ask(failing: Failing, *, repeat: bool = False) -> Answer | NoAnswer:
    times = iter(range(100))
    transport = Transport(None, None, 1.0, lambda: float(next(times)))
    transport._plain = failing

    async def run() -> Answer | NoAnswer:
        return await transport.ask(
            "GET", "http://alpha:1", "/v1/pool", read_timeout_s=1.0, repeat=repeat
        )

    return asyncio.run(run())


def test_httpx_has_exceptions() -> None:
    assert {httpx.ReadError, httpx.PoolTimeout} <= set(httpx_exceptions())


@pytest.mark.parametrize("kind", list(httpx_exceptions()))
def test_every_httpx_exception_becomes_no_answer(kind: type[Exception]) -> None:
    outcome = ask(Failing(raised(kind)))
    assert isinstance(outcome, NoAnswer)
    unseen = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
    assert outcome.may_have_arrived == (kind not in unseen)


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("shutdown")])
def test_so_do_errors_of_the_system(error: Exception) -> None:
    assert isinstance(ask(Failing(error)), NoAnswer)


def test_a_broken_connection_is_tried_again_if_the_call_may_be_repeated() -> None:
    outcome = ask(Failing(httpx.RemoteProtocolError("closed")), repeat=True)
    assert outcome == Answer("http://alpha:1", 0.0, 200, b"{}")  # counted from the first sending
    assert ask(Failing(httpx.RemoteProtocolError("closed"))) == NoAnswer(
        "http://alpha:1", 0.0, "connection broken: closed", may_have_arrived=True, broken=True
    )


def test_a_new_connection_that_broke_is_not_tried_again() -> None:
    """It was not closed for being idle: whoever broke it may be turning clients away."""
    failing = Failing(httpx.ReadError("reset"), connects=True)
    outcome = ask(failing, repeat=True)
    assert isinstance(outcome, NoAnswer)
    assert outcome.broken
    assert failing.requests == 1


def test_nothing_is_sent_that_another_server_was_sent() -> None:
    async def run() -> None:
        gate = Gate()
        assert gate.enter("http://beta:1")
        transport = Transport(None, None, 1.0, lambda: 0.0)
        failing = Failing(connects=True)
        transport._plain = failing
        outcome = await transport.ask(
            "GET", "http://alpha:1", "/v1/pool", read_timeout_s=1.0, repeat=True, gate=gate
        )
        assert isinstance(outcome, NoAnswer)
        assert not outcome.may_have_arrived
        assert failing.sent == 0

    asyncio.run(run())


@pytest.mark.parametrize("mine", [True, False])
def test_the_gate_stands_before_the_first_byte(mine: bool) -> None:
    """By the events that httpcore names: a contract with the library."""
    received: list[bytes] = []
    ended: asyncio.Queue[None] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            received.append(data)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()
        ended.put_nowait(None)

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        transport, gate = Transport(None, None, 1.0, lambda: 0.0), Gate()
        if not mine:
            gate.enter("http://beta:1")
        for _ in range(2):
            outcome = await transport.ask("GET", url, "/", read_timeout_s=5.0, gate=gate)
            assert isinstance(outcome, Answer) == mine
        assert len(received) == (2 if mine else 0)
        assert transport._wires._open[url]
        await transport.close()
        for _ in range(1 if mine else 2):
            await ended.get()
        server.close()
        await server.wait_closed()

    asyncio.run(run())


@pytest.mark.parametrize("error", [TimeoutError(), httpx.ReadError("x")])
def test_what_ended_before_the_gate_cannot_have_arrived(error: Exception) -> None:
    async def run() -> None:
        transport = Transport(None, None, 1.0, lambda: 0.0)
        transport._plain = Failing(error)
        outcome = await transport.ask(
            "GET", "http://alpha:1", "/v1/pool", read_timeout_s=1.0, repeat=True, gate=Gate()
        )
        assert isinstance(outcome, NoAnswer)
        assert (outcome.may_have_arrived, outcome.broken, outcome.late) == (False, False, False)

    asyncio.run(run())


@pytest.mark.parametrize("error", [httpx.ConnectError("x"), httpx.ReadTimeout("x")])
def test_silence_is_not_tried_again(error: Exception) -> None:
    failing = Failing(error)
    assert isinstance(ask(failing, repeat=True), NoAnswer)
    assert failing.requests == 1


@pytest.mark.parametrize("token", ["a b", "a\nb", "\u00e4"])
def test_a_token_that_would_break_the_header_is_refused(token: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Transport(token, None, 1.0, lambda: 0.0)
    assert token not in str(refused.value)


def test_certificate_authorities_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"none\.pem"):
        tls_context(tmp_path / "none.pem")
    with pytest.raises(InvalidRequest, match=r"none\.pem"):
        Transport(None, tmp_path / "none.pem", 1.0, lambda: 0.0)
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(InvalidRequest, match=r"bad\.pem"):
        tls_context(tmp_path / "bad.pem")


def test_plain_connections_trust_no_certificate() -> None:
    transport = Transport(None, None, 1.0, lambda: 0.0)
    assert transport._for("http://alpha") is transport._plain
    assert transport._for("https://alpha") is not transport._plain


def test_importing_the_client_loads_nothing_of_the_server() -> None:
    text = "import licraft.client, sys; print('\\n'.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert "licraft.client" in loaded
    rooms = {name.split(".")[1] for name in loaded if name.startswith("licraft.")}
    assert rooms == {"client", "errors", "wire"}
    foreign = {"pysyncobj", "uvicorn", "cryptography", "pydantic", "starlette", "yaml"}
    assert not foreign & {name.split(".")[0] for name in loaded}
