"""A license service that does as it is told, and a raw HTTP client, for the API's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvloop

from licraft.api.access import Tokens
from licraft.api.server import ApiServer
from licraft.api.service import CheckinResult, CheckoutResult, HeartbeatsResult
from licraft.errors import InvariantBroken, NotExecuted, OutcomeUnknown, Overloaded
from licraft.wire import (
    AllocationsRequest,
    AllocationView,
    AuditView,
    Authorization,
    AuthorizationList,
    BorrowingRequest,
    BorrowingView,
    CheckinAnswer,
    CheckinRequest,
    CheckoutRequest,
    CodeRequest,
    DistributionRequest,
    FeatureList,
    FeatureView,
    HeartbeatAnswer,
    HeartbeatRequest,
    HeartbeatResult,
    Installed,
    LeaderAnswer,
    LicenseDocument,
    LicenseView,
    PoolView,
    Problem,
    Readiness,
    ServerAnswer,
    ServerEntry,
    ServerList,
    ServerRequest,
)

ADMIN = "admin-token-of-the-tests"
CLIENT = "client-token-of-the-tests"
TOKENS = Tokens.of(admin=ADMIN, client=CLIENT)
APPLIED = 103
"""How far the log is applied, for calls that ask for an index."""

SERVERS = ServerList(1, [ServerEntry("alpha", "http://127.0.0.1:7700", "leader", "up")])


def authorization(request: CheckoutRequest) -> Authorization:
    """The same authorization for the same request, always."""
    return Authorization(
        id="alpha-1-1",
        token="t" * 80,
        feature=request.feature,
        count=request.count,
        server="alpha",
        ttl=60.0,
        heartbeat=20.0,
        granted_at="2026-11-21T12:00:00Z",
        servers=SERVERS,
    )


def feature_view(name: str) -> FeatureView:
    """A feature of ten seats."""
    return FeatureView(
        feature=name,
        version=None,
        entitled=10,
        deployed=10,
        free=0,
        in_use=1,
        commuters=0,
        waiting=0,
        denied=0,
        starts=None,
        expires=None,
        status="valid",
        borrowing=BorrowingView(enabled=True, pending=0),
        servers={"alpha": AllocationView(allocated=10, in_use=1, target=None, threshold=0.8)},
    )


class FakeService:
    """Behaves by the feature's name; `waiting` are the checkouts that wait for the test."""

    def __init__(self) -> None:
        self.calls = 0
        self.settled = 0
        self.requests: list[CheckoutRequest] = []
        self.waiting: list[asyncio.Future[CheckoutResult]] = []
        self.installed: list[str] = []
        self.removed: list[str] = []
        self.criteria: list[tuple[str, object]] = []
        self.asked: list[tuple[str | None, str | None, str | None]] = []
        self.ready = True

    def settle(self) -> None:
        """Nothing is written down here; counted, so that a test can see it come first."""
        self.settled = self.calls

    def checkout(self, request: CheckoutRequest) -> CheckoutResult | Awaitable[CheckoutResult]:
        self.calls += 1
        self.requests.append(request)
        match request.feature:
            case "busy":
                detail = "all 10 seats of busy are in use"
                return 409, Problem(409, "no_seats", detail, in_use=10, deployed=10, waiting=2)
            case "later":
                detail = "no lease"
                problem = Problem(503, "no_quorum", detail, retry_after=1.2, servers=SERVERS)
                return 503, problem
            case "unknown":
                return 404, Problem(404, "unknown_feature", "no feature of this name")
            case "crash":
                raise RuntimeError("a bug in the license server")
            case "broken":
                raise InvariantBroken("41 seats of 40")
            case "crash-later":
                return self._crash_later()
            case "not-executed":
                raise NotExecuted("no leader")
            case "overloaded":
                raise Overloaded("4096 commands wait already")
            case "outcome-unknown":
                raise OutcomeUnknown("the leader went away")
            case "wait":
                future = asyncio.get_running_loop().create_future()
                self.waiting.append(future)
                return future
            case "soon":
                return self._soon(request)
            case "repeated":
                return 200, authorization(request)
        return 201, authorization(request)

    async def _crash_later(self) -> CheckoutResult:
        await asyncio.sleep(0)
        raise RuntimeError("a bug in the license server, later")

    async def _soon(self, request: CheckoutRequest) -> CheckoutResult:
        await asyncio.sleep(0)
        return 201, authorization(request)

    def heartbeat(
        self, request: HeartbeatRequest
    ) -> HeartbeatsResult | Awaitable[HeartbeatsResult]:
        self.calls += 1
        results = [HeartbeatResult(id=t[:8], status="renewed", ttl=60.0) for t in request.tokens]
        return 200, HeartbeatAnswer(results=results)

    def checkin(self, request: CheckinRequest) -> CheckinResult | Awaitable[CheckinResult]:
        self.calls += 1
        return 200, CheckinAnswer(released=list(request.tokens), unknown=[])

    async def reached(self, index: int) -> Problem | None:
        await asyncio.sleep(0)
        if index <= APPLIED:
            return None
        detail = f"alpha knows the log up to {APPLIED}, not to {index} yet"
        return Problem(503, "no_quorum", detail, retry_after=1.0, servers=SERVERS)

    def pool(self) -> PoolView:
        return PoolView(
            pool="acme",
            server="alpha",
            state="serving",
            leader="alpha",
            term=1,
            applied_index=APPLIED,
            priority=["alpha"],
            servers=[],
            license=LicenseView(sequence=1, sha256="00"),
            trouble=[],
            version="0",
        )

    def features(self) -> FeatureList:
        return FeatureList([feature_view("cad")])

    def feature(self, name: str) -> FeatureView | Problem:
        if name.startswith("cad"):
            return feature_view(name)
        return Problem(404, "unknown_feature", "no feature of this name")

    async def authorizations(
        self, feature: str | None, user: str | None, server: str | None
    ) -> AuthorizationList | Problem:
        self.asked.append((feature, user, server))
        return AuthorizationList([], truncated=False, as_of={"alpha": None})

    async def remove_authorization(self, id: str) -> Problem | None:
        self.removed.append(id)
        return Problem(404, "not_found", "no such authorization") if id == "unknown" else None

    def audit(self, after: int) -> AuditView:
        return AuditView(count=after, sha256="00", records=[])

    def license(self) -> LicenseDocument:
        return LicenseDocument(sequence=1, text="sequence: 1", codes=[])

    async def install_license(self, text: str) -> Installed | Problem:
        self.installed.append(text)
        if text.startswith("stale"):
            return Problem(409, "stale_sequence", "not newer", sequence=7)
        return Installed(sequence=8, index=99)

    async def add_code(self, request: CodeRequest) -> Installed | Problem:
        self.installed.append(request.code)
        if request.code.startswith("stale"):
            return Problem(409, "stale_sequence", "not newer", sequence=7)
        return Installed(sequence=9, index=100)

    async def lead(self, server: str) -> LeaderAnswer | Problem:
        if server != "beta":
            return Problem(404, "not_found", f"no server {server}", field="server")
        return LeaderAnswer(leader=server, term=4, index=100)

    async def drain(self, server: str, *, on: bool) -> ServerAnswer | Problem:
        if server != "beta":
            return Problem(404, "not_found", f"no server {server}", field="server")
        return ServerAnswer(server, "draining" if on else "up", APPLIED)

    async def distribute(self, feature: str, request: DistributionRequest) -> FeatureView | Problem:
        return self._changed(feature, request)

    async def add_allocations(
        self, feature: str, request: AllocationsRequest
    ) -> FeatureView | Problem:
        return self._changed(feature, request)

    async def bound_borrowing(
        self, feature: str, request: BorrowingRequest
    ) -> FeatureView | Problem:
        return self._changed(feature, request)

    def _changed(self, feature: str, request: object) -> FeatureView | Problem:
        self.criteria.append((feature, request))
        if feature == "full":
            detail = "full: 10 entitled"
            return Problem(409, "exceeds_entitlement", detail, entitled=10, deployed=10)
        return self.feature(feature)

    async def add_server(self, request: ServerRequest) -> ServerAnswer | Problem:
        if request.name == "alpha":
            return Problem(409, "invalid_request", "alpha is there already", field="name")
        return ServerAnswer(request.name, "joining", 101)

    async def remove_server(self, name: str) -> ServerAnswer | Problem:
        if name != "beta":
            return Problem(404, "not_found", f"no server {name}", field="name")
        return ServerAnswer(name, "removing", 102)

    def readiness(self) -> Readiness:
        return Readiness(self.ready, "serving" if self.ready else "no_quorum", "")


@asynccontextmanager
async def serving(service: FakeService, **options: Any) -> AsyncIterator[ApiServer]:
    """An API server on a free port of loopback, stopped at the end."""
    options = {"tls": None, "tokens": None} | options
    server = ApiServer(service, "127.0.0.1", 0, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@dataclass(frozen=True)
class Raw:
    """One answer as it came."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def comparable(self) -> tuple[int, tuple[tuple[str, str], ...], bytes]:
        """Everything but the date."""
        return (
            self.status,
            tuple(sorted((k, v) for k, v in self.headers.items() if k != "date")),
            self.body,
        )


class Wire:
    """A connection that sends any bytes, and reads answers one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, port: int, **options: Any) -> Wire:
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, **options))

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        if self.writer.transport.is_closing():
            raise ConnectionResetError("the server has closed the connection")
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, timeout_s: float = 5.0, head: bool = False) -> Raw:
        """The next answer, with a Content-Length or chunked; raises IncompleteReadError at EOF."""
        async with asyncio.timeout(timeout_s):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            length = 0 if head else int(headers.get("content-length", "0"))
            body = await self.reader.readexactly(length)
            return Raw(int(lines[0].split(" ")[1]), headers, body)

    async def closed(self, timeout_s: float = 5.0) -> bytes:
        """What comes until the server closes; a reset counts as closing."""
        async with asyncio.timeout(timeout_s):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def close(self) -> None:
        """Close without waiting."""
        self.writer.close()


def request(
    method: str,
    path: str,
    body: bytes = b"",
    *,
    token: str | None = None,
    headers: tuple[str, ...] = (),
) -> bytes:
    """A request with a Content-Length; `headers` are whole lines."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def checkout(feature: str = "cad", **options: Any) -> bytes:
    """A checkout request."""
    body = b'{"feature":"%b"}' % feature.encode()
    return request("POST", "/v1/authorizations", body, **options)


def run(test: Coroutine[Any, Any, Any]) -> Any:
    """Run a test on the loop that the server runs on."""
    return uvloop.run(asyncio.wait_for(test, 60))


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Wait until a condition holds; raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # what is watched has no event to wait on
            await asyncio.sleep(0.005)
