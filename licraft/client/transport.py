"""One HTTP request to one server: an `Answer`, or `NoAnswer`; never an httpx exception.

May import httpx, `licraft.client.clock`, `licraft.client.wires` and the standard library.
Knows nothing of seats, decides nothing about what to do next. Below httpx's client
(cookies, redirects, proxies and .netrc of the environment) on purpose: none of them has
a place between a program and its license servers.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from licraft import __version__
from licraft.client.clock import Clock
from licraft.client.wires import Wires
from licraft.errors import InvalidRequest

MAX_ANSWER_BYTES = 16 * 1024 * 1024
KEEPALIVE_CONNECTIONS = 32
KEEPALIVE_S = 90.0

Verify = ssl.SSLContext | str | Path | None
"""The authorities that a server's certificate is checked with: a context, a PEM file, or None."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said to a request that was sent at `sent_at` or later."""

    url: str
    sent_at: float
    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Nothing usable came back; `may_have_arrived` is False if the server cannot have seen it.

    `broken` says that the connection ended under us, as a stale kept-alive one does; `late`
    that the server took the request, and has not answered it in time.
    """

    url: str
    sent_at: float
    detail: str
    may_have_arrived: bool
    broken: bool = False
    late: bool = False


class Gate:
    """Lets one server have a request: the first that is ready to take it, and no other."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.owner: str | None = None
        self.entered: asyncio.Future[None] = self._loop.create_future()
        self._entered_s = 0.0

    def enter(self, url: str) -> bool:
        """Whether the request may be sent to `url`, which is connected now."""
        if self.owner is None:
            self.owner = url
            self._entered_s = self._loop.time()
            self.entered.set_result(None)
        return self.owner == url

    def since_entered(self) -> float:
        """Seconds since the request was sent; 0 if it was not."""
        return self._loop.time() - self._entered_s if self.owner else 0.0


class Transport:
    """Keeps connections to the pool's servers and asks them one request at a time.

    Connections are not limited in number: a checkout that waits for an hour
    occupies one, and must not keep a heartbeat from being sent. The client
    bounds how many checkouts can wait.
    """

    def __init__(
        self, token: str | None, verify: Verify, connect_timeout_s: float, clock: Clock
    ) -> None:
        self._headers = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": f"licraft-client/{__version__}",
        }
        if token:
            if not (token.isascii() and token.isprintable()) or " " in token:
                raise InvalidRequest("token: only visible ASCII characters are possible")
            self._headers["authorization"] = f"Bearer {token}"
        self.connect_timeout_s = connect_timeout_s
        self._clock = clock
        self._wires = Wires()
        # Reading the system's certificate authorities takes long, so their context
        # is made when the first https URL is asked; the plain one trusts nobody.
        self._plain = self._http(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        self._secure = None if verify is None else self._http(tls_context(verify))

    @staticmethod
    def _http(context: ssl.SSLContext) -> httpx.AsyncHTTPTransport:
        limits = httpx.Limits(
            max_connections=None,
            max_keepalive_connections=KEEPALIVE_CONNECTIONS,
            keepalive_expiry=KEEPALIVE_S,
        )
        return httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits)

    def _for(self, url: str) -> httpx.AsyncHTTPTransport:
        if url.startswith("http://"):
            return self._plain
        if self._secure is None:
            self._secure = self._http(tls_context(None))
        return self._secure

    async def ask(
        self,
        method: str,
        url: str,
        path: str,
        content: bytes | None = None,
        *,
        read_timeout_s: float,
        connect_timeout_s: float | None = None,
        repeat: bool = False,
        content_type: str = "application/json",
        user: str = "",
        gate: Gate | None = None,
    ) -> Answer | NoAnswer:
        """Send one request and read its whole answer, within connect plus read timeout.

        With `repeat` a request is sent once more if its connection broke that had been
        kept alive: for calls that may be repeated, where the server most likely closed it
        at that moment. `sent_at` is always the time of the first sending: the cautious
        one. Not a byte of the request is sent before the `gate` was entered.
        """
        connect_s = connect_timeout_s or self.connect_timeout_s
        try:
            request = self._request(method, url + path, content, content_type)
            if user:  # for the audit of a change
                request.headers["licraft-user"] = quote(user, safe="@ ")
        except (httpx.InvalidURL, ValueError) as error:
            raise InvalidRequest(f"{url}{path}: {error}") from error
        request.extensions["timeout"] = {
            "connect": connect_s,
            "pool": connect_s,
            "write": read_timeout_s,
            "read": read_timeout_s,
        }
        course = _Course(url, gate, self._wires)
        request.extensions["trace"] = course.follow
        outcome = await self._once(url, request, connect_s + read_timeout_s)
        if isinstance(outcome, NoAnswer) and gate is not None and gate.owner != url:
            return replace(outcome, may_have_arrived=False, broken=False, late=False)
        kept_alive = not course.connected
        if repeat and kept_alive and isinstance(outcome, NoAnswer) and outcome.broken:
            again = await self._once(url, request, connect_s + read_timeout_s)
            if isinstance(again, Answer):
                return Answer(url, outcome.sent_at, again.status, again.body)
            detail, late = again.detail, again.late
            return NoAnswer(url, outcome.sent_at, detail, may_have_arrived=True, late=late)
        return outcome

    def unheard(self, url: str) -> bool:
        """Whether the machine of `url` acknowledges nothing of what was sent to it."""
        return self._wires.unheard(url)

    def _request(
        self, method: str, url: str, content: bytes | None, content_type: str
    ) -> httpx.Request:
        headers = dict(self._headers)
        if content is not None:
            headers["content-type"] = content_type
        return httpx.Request(method, url, headers=headers, content=content)

    async def _once(self, url: str, request: httpx.Request, timeout_s: float) -> Answer | NoAnswer:
        sent_at = self._clock()
        try:
            # The timeouts of httpx are for single reads; a server that answers
            # one byte at a time is stopped by this one.
            async with asyncio.timeout(timeout_s):
                status, body = await self._exchange(url, request)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return NoAnswer(url, sent_at, _said(error, "cannot connect"), may_have_arrived=False)
        except (httpx.TimeoutException, TimeoutError):
            return NoAnswer(url, sent_at, "no answer in time", may_have_arrived=True, late=True)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
            detail = _said(error, "connection broken")
            return NoAnswer(url, sent_at, detail, may_have_arrived=True, broken=True)
        except _TooLate:
            detail = "another server was ready sooner"
            return NoAnswer(url, sent_at, detail, may_have_arrived=False)
        except _Unusable as error:
            return NoAnswer(url, sent_at, str(error), may_have_arrived=True)
        except _OTHER_ERRORS as error:
            return NoAnswer(url, sent_at, _said(error, "failed"), may_have_arrived=True)
        except RuntimeError as error:
            # Threads for name look-ups are refused while the interpreter ends.
            return NoAnswer(url, sent_at, _said(error, "failed"), may_have_arrived=True)
        return Answer(url, sent_at, status, body)

    async def _exchange(self, url: str, request: httpx.Request) -> tuple[int, bytes]:
        response = await self._for(url).handle_async_request(request)
        try:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise _Unusable("answered with a content encoding that was not asked for")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise _Unusable(f"answered with more than {MAX_ANSWER_BYTES} bytes")
        finally:
            await response.aclose()
        return response.status_code, bytes(body)

    async def close(self) -> None:
        """Close every connection."""
        for http in (self._plain, self._secure):
            if http is not None:
                try:
                    await http.aclose()
                except (httpx.HTTPError, OSError, RuntimeError):
                    pass  # The sockets go with the process; nothing more can be done.


_OTHER_ERRORS = (
    httpx.HTTPError,
    httpx.StreamError,
    httpx.InvalidURL,
    httpx.CookieConflict,
    OSError,
    ValueError,
)


class _Unusable(Exception):
    """The answer breaks a bound."""


class _TooLate(Exception):
    """Another server has the request."""


class _Course:
    """What becomes of one request on its way, as httpx's `trace` extension tells it."""

    def __init__(self, url: str, gate: Gate | None, wires: Wires) -> None:
        self.connected = False
        self._url = url
        self._gate = gate
        self._wires = wires

    async def follow(self, event: str, info: dict[str, Any]) -> None:
        """Take note of a new connection, and stop at the gate before the first byte."""
        if event == "connection.connect_tcp.complete":
            self.connected = True
            self._wires.add(self._url, info["return_value"].get_extra_info("socket"))
        elif event == "http11.send_request_headers.started" and not self._may_send():
            raise _TooLate

    def _may_send(self) -> bool:
        return self._gate is None or self._gate.enter(self._url)


def tls_context(verify: Verify) -> ssl.SSLContext:
    """The context to check servers with; raises InvalidRequest if its file cannot be used."""
    if isinstance(verify, ssl.SSLContext):
        return verify
    try:
        return ssl.create_default_context(cafile=verify)
    except (OSError, ssl.SSLError) as error:
        raise InvalidRequest(f"certificate authorities {verify}: {error}") from error


def _said(error: Exception, otherwise: str) -> str:
    """The error's own words on one line, bounded."""
    text = " ".join(str(error).split())[:200]
    return f"{otherwise}: {text}" if text else otherwise
