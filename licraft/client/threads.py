"""`Client`: the same as `AsyncClient`, for programs without an event loop, from any thread.

May import the client's other modules. A daemon thread with a loop of its own does the
work, and is started by the first call. Fork: a child process gets a loop of its own when
it asks for seats, and the seats of its parent read as lost there. Exit: what is still
held is checked in, within a bounded time.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, Self, TypeVar

from msgspec import UNSET, UnsetType

from licraft.client.aio import AsyncClient
from licraft.client.clock import Clock, boottime
from licraft.client.proof import VendorKey
from licraft.client.routes import given_urls
from licraft.client.seats import Hold, SeatView
from licraft.client.transport import Verify
from licraft.errors import ClientError
from licraft.wire import (
    AuditView,
    AuthorizationList,
    FeatureView,
    Installed,
    LeaderAnswer,
    LicenseDocument,
    PoolView,
    ServerAnswer,
)

log = logging.getLogger("licraft.client")

T = TypeVar("T")


class Seat(SeatView):
    """A seat held through a `Client`; `with` checks it in at the end."""

    def __init__(self, client: Client, hold: Hold) -> None:
        super().__init__(hold)
        self._client = client

    def checkin(self) -> bool:
        """Give the seat back; whether a server confirmed it (if none did, it expires there)."""
        return self._client._release(self._hold)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.checkin()


class _Loop:
    """A daemon thread that runs one `AsyncClient` on a loop of its own."""

    def __init__(self, connect: Callable[[], AsyncClient]) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = connect()
        self._ending = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="licraft-client", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `work` on the loop; raises ClientError if that has ended."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop)
        except RuntimeError:
            work.close()
            raise ClientError("this client is closed", "closed") from None

    def stop(self, timeout_s: float) -> None:
        """Close the client and end the thread, within about `timeout_s`."""
        self.let_go()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.warning("the client's thread did not end in %.1f s", timeout_s)

    def let_go(self) -> None:
        """Close the client and end the thread, without waiting for it."""
        try:
            self.loop.call_soon_threadsafe(self._ending.set)
        except RuntimeError:
            pass  # it has ended already

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        await self._ending.wait()
        await self.client.aclose()


class Client:
    """A connection to a pool of license servers, for use from any thread.

    The arguments are those of `AsyncClient`. Use it with `with`: at the end, what is
    still held is checked in, within `close_timeout_s`.
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
        self._urls = given_urls(urls)
        self._close_timeout_s = close_timeout_s
        self._closed = False
        self._lock = threading.Lock()
        self._runner: _Loop | None = None

        def connect() -> AsyncClient:
            return AsyncClient(
                self._urls,
                token,
                user=user,
                host=host,
                app=app,
                verify=verify,
                connect_timeout_s=connect_timeout_s,
                read_timeout_s=read_timeout_s,
                close_timeout_s=close_timeout_s,
                clock=clock,
                vendor_key=vendor_key,
            )

        self._connect = connect
        _clients.add(self)

    # Seats

    def checkout(
        self,
        feature: str,
        count: int = 1,
        wait: float = 0.0,
        version: str | None = None,
        on_lost: Callable[[Seat], object] | None = None,
        id: str | None = None,
    ) -> Seat:
        """Take `count` seats of `feature`, waiting up to `wait` seconds for them.

        `on_lost(seat)` is called once, in a thread of its own, if the seat is lost.
        `id` names the request: repeating it at the same server returns the same
        authorization. Raises NoSeatsAvailable, UnknownFeature, NotLicensed,
        LimitReached, NotAuthorized, InvalidRequest, or PoolUnavailable when no
        server could answer.
        """

        async def acquire(client: AsyncClient) -> Seat:
            seat = Seat(self, await client.acquire(feature, count, wait, version, id))
            if on_lost is not None:
                seat._hold.on_lost = lambda: _tell(on_lost, seat)
            return seat

        return self._call(acquire)

    def _release(self, hold: Hold) -> bool:
        # The holder stops relying on the seat before the request is on its way.
        # Another process's copy of it, or one of a closed client, is not ours to return.
        runner = self._runner
        if runner is None or self._closed or hold.tenure().ended:
            return False
        return self._wait(runner.submit(runner.client.release(hold)))

    # Observation and administration

    def pool(self, index: int = 0) -> PoolView:
        """The pool as the first server that answers sees it.

        Here as in `features`, `feature` and `license`, that is a server which knows the log
        up to `index`: with the index of a change's answer the change is seen.
        """
        return self._call(lambda client: client.pool(index))

    def features(self, index: int = 0) -> list[FeatureView]:
        """Every feature, by name."""
        return self._call(lambda client: client.features(index))

    def feature(self, name: str, index: int = 0) -> FeatureView:
        """One feature; raises UnknownFeature."""
        return self._call(lambda client: client.feature(name, index))

    def authorizations(
        self, feature: str | None = None, user: str | None = None, server: str | None = None
    ) -> AuthorizationList:
        """The pool's record of who holds what, filtered."""
        return self._call(lambda client: client.authorizations(feature, user, server))

    def audit(self, after: int = 0) -> AuditView:
        """What administrators changed, after record `after`; needs the admin token."""
        return self._call(lambda client: client.audit(after))

    def license(self, index: int = 0) -> LicenseDocument:
        """The installed redundant license file (sequence 0 and no text if none)."""
        return self._call(lambda client: client.license(index))

    def install_license(self, text: str) -> Installed:
        """Install a redundant license file on the pool; needs the admin token.

        Raises LicenseError with code `stale_sequence` or `invalid_license`.
        """
        return self._call(lambda client: client.install_license(text))

    def add_code(
        self,
        code: str,
        distribution: str | Mapping[str, int] | None = None,
        threshold: float | None = None,
    ) -> Installed:
        """Add a license code to the pool's license file; needs the admin token.

        Safe to repeat. Raises LicenseError with code `invalid_license`.
        """
        return self._call(lambda client: client.add_code(code, distribution, threshold))

    def lead(self, server: str) -> LeaderAnswer:
        """Hand leadership to `server`, and wait until it leads; needs the admin token."""
        return self._call(lambda client: client.lead(server))

    def add_server(self, name: str, api: str, peer: str) -> ServerAnswer:
        """Have the server `name` join the pool; needs the admin token.

        `api` is its URL, `peer` the `host:port` where the other servers reach it.
        """
        return self._call(lambda client: client.add_server(name, api, peer))

    def remove_server(self, name: str) -> ServerAnswer:
        """Have the server `name` leave the pool; needs the admin token."""
        return self._call(lambda client: client.remove_server(name))

    def drain_server(self, name: str) -> ServerAnswer:
        """Have the server `name` give its seats and clients away; needs the admin token.

        Answered when that is committed: `pool` tells when nothing is `allocated` to it.
        """
        return self._call(lambda client: client.drain_server(name))

    def undrain_server(self, name: str) -> ServerAnswer:
        """Have the server `name`, which was drained, grant again; needs the admin token."""
        return self._call(lambda client: client.undrain_server(name))

    def distribute(self, feature: str, distribution: str | Mapping[str, int] | None) -> FeatureView:
        """Share a feature's seats out, "alpha:10^beta:20" or a map; needs the admin token.

        Unused seats move at once, the rest as they come back: `to_give` tells how many those
        are. With None seats stay where they are. Raises Denied with code
        `exceeds_entitlement`, or UnknownFeature.
        """
        return self._call(lambda client: client.distribute(feature, distribution))

    def add_allocations(self, feature: str, count: int, to: str | None = None) -> FeatureView:
        """Deploy `count` more seats, or with a negative one retire some; needs the admin token.

        `to` is the server that gets or loses them, else the free pool. Raises Denied with code
        `exceeds_entitlement`, or UnknownFeature.
        """
        return self._call(lambda client: client.add_allocations(feature, count, to))

    def set_borrowing(
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
        return self._call(
            lambda client: client.set_borrowing(
                feature, server, enabled=enabled, threshold=threshold, floor=floor, cap=cap
            )
        )

    def remove(self, id: str) -> None:
        """End an authorization, whoever holds it; needs the admin token."""
        return self._call(lambda client: client.remove(id))

    # Its own life

    def start(self) -> None:
        """Start the thread now rather than with the first call."""
        with self._lock:
            if self._closed:
                raise ClientError("this client is closed", "closed")
            if self._runner is None:
                self._runner = _Loop(self._connect)
                # For a program that forgets a client without closing it.
                weakref.finalize(self, self._runner.let_go).atexit = False

    def close(self) -> None:
        """Check in what is still held, within `close_timeout_s`, and end the thread."""
        with self._lock:
            self._closed = True
            runner, self._runner = self._runner, None
        if runner is not None:
            runner.stop(self._close_timeout_s + 1.0)

    def _call(self, work: Callable[[AsyncClient], Coroutine[Any, Any, T]]) -> T:
        if self._runner is None:
            self.start()
        runner = self._runner
        if runner is None:
            raise ClientError("this client is closed", "closed")
        return self._wait(runner.submit(work(runner.client)))

    def _wait(self, future: Future[T]) -> T:
        try:
            return future.result()
        except CancelledError:
            raise ClientError("this client was closed meanwhile", "closed") from None
        finally:
            future.cancel()  # after Ctrl-C: nobody waits for the result any more

    def _forked(self) -> None:
        """Begin anew in a child process: its parent keeps the thread, connections and seats.

        The parent's loop is kept, unused, so that nothing of it is finalized
        here: its selector is shared with the parent.
        """
        self._lock = threading.Lock()
        if self._runner is not None:
            _abandoned.append(self._runner)
            self._runner = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self._urls)}>"


def _tell(on_lost: Callable[[Seat], object], seat: Seat) -> None:
    # If it raises, `threading.excepthook` says so: as in any thread of the program.
    name = "licraft-on-lost"
    threading.Thread(target=on_lost, args=(seat,), name=name, daemon=True).start()


_clients: weakref.WeakSet[Client] = weakref.WeakSet()
_abandoned: list[_Loop] = []


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client._forked()


@atexit.register
def _close_all() -> None:
    for client in list(_clients):
        client.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
