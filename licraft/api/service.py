"""What the API asks of a license server: one method for each call.

The client calls answer at once from memory, or with an awaitable when the
request has to wait for seats; both kinds carry the HTTP status and the body.
A `Problem` is a body like any other, its status is its own `status`.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from licraft.wire import (
    AllocationsRequest,
    AuditView,
    Authorization,
    AuthorizationList,
    BorrowingRequest,
    CheckinAnswer,
    CheckinRequest,
    CheckoutRequest,
    CodeRequest,
    DistributionRequest,
    FeatureList,
    FeatureView,
    HeartbeatAnswer,
    HeartbeatRequest,
    Installed,
    LeaderAnswer,
    LicenseDocument,
    PoolView,
    Problem,
    Readiness,
    ServerAnswer,
    ServerRequest,
)

CheckoutResult = tuple[int, Authorization | Problem]
HeartbeatsResult = tuple[int, HeartbeatAnswer | Problem]
CheckinResult = tuple[int, CheckinAnswer | Problem]


class LicenseService(Protocol):
    """The license server, as seen from HTTP."""

    def checkout(self, request: CheckoutRequest) -> CheckoutResult | Awaitable[CheckoutResult]:
        """Grant seats: 201, or 200 for a repeated `id`, or a problem."""
        ...

    def heartbeat(
        self, request: HeartbeatRequest
    ) -> HeartbeatsResult | Awaitable[HeartbeatsResult]:
        """Renew what a client holds: 200, or a problem."""
        ...

    def checkin(self, request: CheckinRequest) -> CheckinResult | Awaitable[CheckinResult]:
        """Give seats back: 200, or a problem."""
        ...

    def settle(self) -> None:
        """Write down what the answers given so far promise; called before they leave."""
        ...

    async def reached(self, index: int) -> Problem | None:
        """Wait until the log is applied here up to an index; a problem if that takes too long."""
        ...

    def pool(self) -> PoolView:
        """The pool as this server sees it."""
        ...

    def features(self) -> FeatureList:
        """Every feature, by name."""
        ...

    def feature(self, name: str) -> FeatureView | Problem:
        """One feature, or 404 `unknown_feature`."""
        ...

    async def authorizations(
        self, feature: str | None, user: str | None, server: str | None
    ) -> AuthorizationList | Problem:
        """The pool's record of allocations, filtered."""
        ...

    async def remove_authorization(self, id: str) -> Problem | None:
        """End an authorization on whichever server granted it; None when done."""
        ...

    def audit(self, after: int) -> AuditView:
        """What administrators changed, after the record of this number; the last ones."""
        ...

    def license(self) -> LicenseDocument:
        """The installed redundant license file (sequence 0 and no text if none)."""
        ...

    async def install_license(self, text: str) -> Installed | Problem:
        """Verify and commit a redundant license file."""
        ...

    async def add_code(self, request: CodeRequest) -> Installed | Problem:
        """Add a license code to the redundant license file."""
        ...

    async def lead(self, server: str) -> LeaderAnswer | Problem:
        """Hand leadership to `server`, and wait until it leads."""
        ...

    async def drain(self, server: str, *, on: bool) -> ServerAnswer | Problem:
        """Have a server give its seats and clients to the others, or take them again."""
        ...

    async def distribute(self, feature: str, request: DistributionRequest) -> FeatureView | Problem:
        """Share a feature's seats out among the servers."""
        ...

    async def add_allocations(
        self, feature: str, request: AllocationsRequest
    ) -> FeatureView | Problem:
        """Deploy more of a feature's seats, or retire some."""
        ...

    async def bound_borrowing(
        self, feature: str, request: BorrowingRequest
    ) -> FeatureView | Problem:
        """Bound borrowing of a feature, at one server or at all."""
        ...

    async def add_server(self, request: ServerRequest) -> ServerAnswer | Problem:
        """Have a server join the pool: it counts once it runs and has caught up."""
        ...

    async def remove_server(self, name: str) -> ServerAnswer | Problem:
        """Have a server leave the pool: it is gone once nobody relies on its seats."""
        ...

    def readiness(self) -> Readiness:
        """Whether this server holds its lease and may grant."""
        ...
