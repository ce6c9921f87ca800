"""`AsyncClient`: check out seats of a pool and keep them, on the caller's event loop.

May import the client's other modules, `errors` and `wire`. `licraft.client.threads`
is the same for programs without a loop.
"""

from __future__ import annotations

import asyncio
import getpass
import inspect
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode
from uuid import uuid4

import msgspec
from msgspec import UNSET, UnsetType

from licraft.client.answers import Elsewhere, unavailable
from licraft.client.clock import Clock, boottime
from licraft.client.contact import Contact
from licraft.client.grants import Granter, checkout_request
from licraft.client.keeper import Keeper, by_home
from licraft.client.proof import VendorKey, Verifier
from licraft.client.routes import Routes
from licraft.client.seats import Hold, SeatView
from licraft.client.transport import Answer, Gate, NoAnswer, Transport, Verify
from licraft.errors import (
    ClientError,
    InvalidRequest,
    LicraftError,
    LimitReached,
)
from licraft.wire import (
    MAX_LICENSE_BYTES,
    AllocationsRequest,
    AuditView,
    AuthorizationList,
    BorrowingRequest,
    ClientInfo,
    CodeRequest,
    DistributionRequest,
    FeatureList,
    FeatureView,
    Installed,
    LeaderAnswer,
    LeaderRequest,
    LicenseDocument,
    PoolView,
    ServerAnswer,
    ServerRequest,
)

log = logging.getLogger("licraft.client")

T = TypeVar("T")

MAX_SEATS = 10_000


class AsyncSeat(SeatView):
    """A seat held through an `AsyncClient`; `async with` checks it in at the end."""

    def __init__(self, client: AsyncClient, hold: Hold) -> None:
        super().__init__(hold)
        self._client = client

    async def checkin(self) -> bool:
        """Give the seat back; whether a server confirmed it (if none did, it expires there)."""
        return await self._client.release(self._hold)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.checkin()


class Checkout:
    """A checkout about to happen: `await` it for the seat, or use it with `async with`."""

    def __init__(self, acquire: Callable[[], Awaitable[AsyncSeat]]) -> None:
        self._acquire = acquire
        self._seat: AsyncSeat | None = None

    def __await__(self) -> Generator[Any, None, AsyncSeat]:
        return self._acquire().__await__()

    async def __aenter__(self) -> AsyncSeat:
        self._seat = await self._acquire()
        return self._seat

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._seat is not None:
            await self._seat.checkin()


class AsyncClient:
    """A connection to a pool of license servers, for use on one event loop.

    `urls` are servers of the pool, in the order to try them until the pool's own
    list is known (at most 16); `token` is the access token; `verify` is a file of
    certificate authorities or an `ssl.SSLContext` (None: the system's). `user`,
    `host` and `app` are shown to administrators. With `vendor_key`, the path or text of
    the vendor's public key, a seat counts only if its server proves, at every checkout and
    heartbeat, that its pool holds a code of that vendor; else checkouts raise NotProved.
    Raises InvalidRequest for arguments that cannot be used; every error is a
    `licraft.errors.LicraftError`.
    """

    def __init__(
        self,
        urls: Sequence[str],
        token: str | None = None,
        *,
        user: str | None = None,
        host: str | None = None,
        app: str | None = None,
        verify: Verify = None,
        connect_timeout_s: float = 1.0,
        read_timeout_s: float = 5.0,
        close_timeout_s: float = 3.0,
        clock: Clock = boottime,
        vendor_key: VendorKey = None,
    ) -> None:
        proofs = None if vendor_key is None else Verifier(vendor_key)
        self.info = client_info(user, host, app)
        self._clock = clock
        self._routes = Routes(urls)
        self._read_timeout_s = read_timeout_s
        self._close_timeout_s = close_timeout_s
        self._transport = Transport(token, verify, connect_timeout_s, clock)
        self._contact = Contact(self._transport, self._routes, clock)
        self._keeper = Keeper(
            self._transport,
            self._routes,
            clock,
            client_id=self.info.id,
            read_timeout_s=read_timeout_s,
            proofs=proofs,
        )
        self._granter = Granter(
            self._transport,
            self._routes,
            self._keeper,
            clock,
            read_timeout_s=read_timeout_s,
            proofs=proofs,
        )
        self._granting: set[asyncio.Task[Hold]] = set()
        self._callbacks: set[asyncio.Task[None]] = set()
        self._closed = False

    # Seats

    def checkout(
        self,
        feature: str,
        count: int = 1,
        wait: float = 0.0,
        version: str | None = None,
        on_lost: Callable[[AsyncSeat], object] | None = None,
        id: str | None = None,
    ) -> Checkout:
        """Take `count` seats of `feature`, waiting up to `wait` seconds for them.

        `await` it, or use `async with`. `on_lost(seat)`, a function or a coroutine
        function, is called once on the loop if the seat is lost. `id` names the
        request: repeating it at the same server returns the same authorization.
        Raises NoSeatsAvailable, UnknownFeature, NotLicensed, LimitReached,
        NotAuthorized, InvalidRequest, or PoolUnavailable when no server could answer.
        """

        async def acquire() -> AsyncSeat:
            seat = AsyncSeat(self, await self.acquire(feature, count, wait, version, id))
            if on_lost is not None:
                seat._hold.on_lost = lambda: self._tell(on_lost, seat)
            return seat

        return Checkout(acquire)

    async def acquire(
        self, feature: str, count: int, wait: float, version: str | None, id: str | None
    ) -> Hold:
        """What `checkout` does, without the wrapping; nothing happens between grant and return."""
        self._check_open()
        request = checkout_request(feature, count, wait, version, id, self.info)
        if len(self._keeper) + len(self._granting) >= MAX_SEATS:
            raise LimitReached(f"this client already holds {MAX_SEATS} seats", "limit_reached")
        # A task of its own, so that closing the client can end it.
        granting = asyncio.get_running_loop().create_task(self._granter.grant(request))
        self._granting.add(granting)
        try:
            hold = await granting
        except asyncio.CancelledError:
            self._abandon(granting)
            raise
        finally:
            self._granting.discard(granting)
        if self._closed:
            self._abandon(granting)
        self._keeper.add(hold)
        return hold

    def _abandon(self, granting: asyncio.Task[Hold]) -> None:
        """Nobody takes what `granting` brought; raises ClientError if closing ended it."""
        if granting.done() and not granting.cancelled() and granting.exception() is None:
            hold = granting.result()
            self._keeper.give_back_soon([hold.token], hold.url)
        caller = asyncio.current_task()
        if caller is None or not caller.cancelling():
            self._check_open()

    async def release(self, hold: Hold) -> bool:
        """Give one hold back; whether a server confirmed it. Safe to repeat."""
        held = hold.returned()
        self._keeper.drop(hold)
        if not held or self._closed:
            return False
        return await self._keeper.give_back([hold.token], hold.url)

    def _tell(self, on_lost: Callable[[AsyncSeat], object], seat: AsyncSeat) -> None:
        async def call() -> None:
            result = on_lost(seat)
            if inspect.isawaitable(result):
                await result

        # Not among the keeper's tasks: it may close this client.
        task = asyncio.get_running_loop().create_task(call())
        self._callbacks.add(task)
        task.add_done_callback(self._told)

    def _told(self, task: asyncio.Task[None]) -> None:
        self._callbacks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            message = "on_lost failed"
            context = {"message": message, "exception": task.exception(), "task": task}
            asyncio.get_running_loop().call_exception_handler(context)

    # Observation and administration

    async def pool(self, index: int = 0) -> PoolView:
        """The pool as the first server that answers sees it.

        Here as in `features`, `feature` and `license`, that is a server which knows the log
        up to `index`: with the index of a change's answer the change is seen.
        """
        return await self._call("GET", _at_index("/v1/pool", index), PoolView)

    async def features(self, index: int = 0) -> list[FeatureView]:
        """Every feature, by name."""
        return (await self._call("GET", _at_index("/v1/features", index), FeatureList)).features

    async def feature(self, name: str, index: int = 0) -> FeatureView:
        """One feature; raises UnknownFeature."""
        path = f"/v1/features/{quote(name, safe='')}"
        return await self._call("GET", _at_index(path, index), FeatureView)

    async def authorizations(
        self, feature: str | None = None, user: str | None = None, server: str | None = None
    ) -> AuthorizationList:
        """The pool's record of who holds what, filtered."""
        filters = {"feature": feature, "user": user, "server": server}
        query = urlencode({key: value for key, value in filters.items() if value is not None})
        path = "/v1/authorizations" + (f"?{query}" if query else "")
        return await self._call("GET", path, AuthorizationList)

    async def audit(self, after: int = 0) -> AuditView:
        """What administrators changed, after record `after`; needs the admin token."""
        return await self._call("GET", f"/v1/audit?after={after}", AuditView)

    async def license(self, index: int = 0) -> LicenseDocument:
        """The installed redundant license file (sequence 0 and no text if none)."""
        return await self._call("GET", _at_index("/v1/license", index), LicenseDocument)

    async def install_license(self, text: str) -> Installed:
        """Install a redundant license file on the pool; needs the admin token.

        Raises LicenseError with code `stale_sequence` or `invalid_license`.
        """
        content = text.encode()
        if len(content) > MAX_LICENSE_BYTES:
            raise InvalidRequest(f"license file: more than {MAX_LICENSE_BYTES} bytes", "too_large")
        return await self._call(
            "PUT", "/v1/license", Installed, content, changes=True, content_type="application/yaml"
        )

    async def add_code(
        self,
        code: str,
        distribution: str | Mapping[str, int] | None = None,
        threshold: float | None = None,
    ) -> Installed:
        """Add a license code to the pool's license file; needs the admin token.

        `distribution` is seats by server; without it they are split evenly. Safe to repeat.
        Raises LicenseError with code `invalid_license`.
        """
        shares = dict(distribution) if isinstance(distribution, Mapping) else distribution
        content = msgspec.json.encode(CodeRequest(code, shares, threshold))
        return await self._call("POST", "/v1/license/codes", Installed, content, changes=True)

    async def lead(self, server: str) -> LeaderAnswer:
        """Hand leadership to `server`, and wait until it leads; needs the admin token."""
        content = msgspec.json.encode(LeaderRequest(server))
        return await self._call("POST", "/v1/leader", LeaderAnswer, content, changes=True)

    async def add_server(self, name: str, api: str, peer: str) -> ServerAnswer:
        """Have the server `name` join the pool; needs the admin token.

        `api` is its URL, `peer` the `host:port` where the other servers reach it.
        """
        content = msgspec.json.encode(ServerRequest(name, api, peer))
        return await self._call("POST", "/v1/servers", ServerAnswer, content, changes=True)

    async def remove_server(self, name: str) -> ServerAnswer:
        """Have the server `name` leave the pool; needs the admin token."""
        path = f"/v1/servers/{quote(name, safe='')}"
        return await self._call("DELETE", path, ServerAnswer, changes=True)

    async def drain_server(self, name: str) -> ServerAnswer:
        """Have the server `name` give its seats and clients away; needs the admin token.

        Answered when that is committed: `pool` tells when nothing is `allocated` to it.
        """
        path = f"/v1/servers/{quote(name, safe='')}/drain"
        return await self._call("POST", path, ServerAnswer, changes=True)

    async def undrain_server(self, name: str) -> ServerAnswer:
        """Have the server `name`, which was drained, grant again; needs the admin token."""
        path = f"/v1/servers/{quote(name, safe='')}/undrain"
        return await self._call("POST", path, ServerAnswer, changes=True)

    async def distribute(
        self, feature: str, distribution: str | Mapping[str, int] | None
    ) -> FeatureView:
        """Share a feature's seats out, "alpha:10^beta:20" or a map; needs the admin token.

        Unused seats move at once, the rest as they come back: `to_give` tells how many those
        are. With None seats stay where they are. Raises Denied with code
        `exceeds_entitlement`, or UnknownFeature.
        """
        wanted = dict(distribution) if isinstance(distribution, Mapping) else distribution
        return await self._adjust("PUT", feature, "distribution", DistributionRequest(wanted))

    async def add_allocations(self, feature: str, count: int, to: str | None = None) -> FeatureView:
        """Deploy `count` more seats, or with a negative one retire some; needs the admin token.

        `to` is the server that gets or loses them, else the free pool. Raises Denied with code
        `exceeds_entitlement`, or UnknownFeature.
        """
        return await self._adjust("POST", feature, "allocations", AllocationsRequest(count, to))

    async def set_borrowing(
        self,
        feature: str,
        server: str | None = None,
        *,
        enabled: bool | UnsetType | None = UNSET,
        threshold: float | UnsetType | None = UNSET,
        floor: int | UnsetType | None = UNSET,
        cap: int | UnsetType | None = UNSET,
    ) -> FeatureView:
        """Bound borrowing, at `server` or at all; needs the admin token.

        What is not given stays as it is; None goes back to the default. Borrowing takes no
        server's seats under `floor`, and raises them over `cap` for none.
        """
        request = BorrowingRequest(enabled, threshold, server, floor, cap)
        return await self._adjust("PUT", feature, "borrowing", request)

    async def _adjust(
        self, method: str, feature: str, what: str, request: msgspec.Struct
    ) -> FeatureView:
        path = f"/v1/features/{quote(feature, safe='')}/{what}"
        content = msgspec.json.encode(request)
        return await self._call(method, path, FeatureView, content, changes=True)

    async def remove(self, id: str) -> None:
        """End an authorization, whoever holds it; needs the admin token."""
        path = f"/v1/authorizations/{quote(id, safe='')}"
        await self._call("DELETE", path, type(None), changes=True)

    async def _call(
        self,
        method: str,
        path: str,
        body_type: type[T],
        content: bytes | None = None,
        *,
        changes: bool = False,
        content_type: str = "application/json",
    ) -> T:
        """Ask server after server until one answers; a change is not sent twice in the dark."""
        self._check_open()

        def send(url: str, gate: Gate) -> Coroutine[Any, Any, Answer | NoAnswer]:
            return self._transport.ask(
                method,
                url,
                path,
                content,
                read_timeout_s=self._read_timeout_s * (3 if changes else 1),
                repeat=not changes,
                content_type=content_type,
                user=f"{self.info.user}@{self.info.host}" if changes else "",
                gate=gate,
            )

        walk = self._routes.walk(self._clock)
        refusals: list[Elsewhere] = []
        while True:
            reached = await self._contact.reach(walk, Gate(), send)
            refusals += reached.passed_over
            outcome = reached.outcome
            if outcome is None:
                raise unavailable(refusals)
            answer = self._contact.heed(outcome, body_type)
            if isinstance(answer, LicraftError):
                raise answer
            if not isinstance(answer, Elsewhere):
                self._routes.prefer(outcome.url)
                return answer
            refusals.append(answer)
            if changes and isinstance(outcome, NoAnswer):
                error = unavailable(refusals)
                raise type(error)(f"{error}; the change may or may not be made", "outcome_unknown")

    # Its own life

    async def aclose(self) -> None:
        """Check in what is still held, within `close_timeout_s`, and close every connection."""
        if self._closed:
            return
        self._closed = True
        for granting in self._granting:
            granting.cancel()
        await asyncio.gather(*self._granting, return_exceptions=True)
        await self._keeper.stop()
        held = [hold for hold in self._keeper.holds() if hold.returned()]
        for url, tokens in by_home(held).items():
            self._keeper.give_back_soon(tokens, url)
        if not await self._keeper.settled(self._close_timeout_s):
            log.warning("not every seat could be checked in; the rest expires at its server")
        await self._transport.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClientError("this client is closed", "closed")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self._routes.given)}: {len(self._keeper)} seats>"


def _at_index(path: str, index: int) -> str:
    return f"{path}?index={index}" if index else path


def client_info(user: str | None, host: str | None, app: str | None) -> ClientInfo:
    """Who asks, completed from the process: shown to administrators."""
    if user is None:
        try:
            user = getpass.getuser()
        except (OSError, KeyError, ImportError):
            user = ""  # a container's user id without a name
    return ClientInfo(
        id=str(uuid4()),
        user=_short(user),
        host=_short(socket.gethostname() if host is None else host),
        pid=os.getpid(),
        app=_short(Path(sys.argv[0] if sys.argv else "").name if app is None else app),
    )


def _short(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:128]
