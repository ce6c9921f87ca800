"""The calls of the HTTP API: one definition each, however a request comes in.

May import `wire`, `core.outcomes` and this room's values. Here are the clients' calls and
those that only look; those that change the pool are in `administration`. The protocol's
fast path, the ASGI application and the description in `openapi` use the same table.
Nothing here knows a socket.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from msgspec import Meta, Struct

from licraft.api.access import Access
from licraft.api.administration import CHANGES, FEATURE
from licraft.api.operations import Answer, Call, Parameter, Params, Run
from licraft.api.service import LicenseService
from licraft.core.outcomes import Code
from licraft.wire import (
    AuditView,
    Authorization,
    AuthorizationList,
    CheckinAnswer,
    CheckinRequest,
    CheckoutRequest,
    FeatureList,
    FeatureView,
    HeartbeatAnswer,
    HeartbeatRequest,
    LicenseDocument,
    Name,
    PoolView,
    Readiness,
)


class Health(Struct):
    """`GET /healthz`: the process answers; says nothing about its lease."""

    alive: bool = True


def _checkout(service: LicenseService, body: CheckoutRequest, _: Params) -> Any:
    return service.checkout(body)


def _heartbeat(service: LicenseService, body: HeartbeatRequest, _: Params) -> Any:
    return service.heartbeat(body)


def _checkin(service: LicenseService, body: CheckinRequest, _: Params) -> Any:
    return service.checkin(body)


def _at_index(run: Callable[[LicenseService, None, Params], Answer]) -> Run:
    """A call that is answered once the server knows the log as far as it is asked to."""

    async def later(service: LicenseService, params: Params, index: int) -> Answer:
        behind = await service.reached(index)
        return run(service, None, params) if behind is None else (behind.status, behind)

    def answer(service: LicenseService, _: None, params: Params) -> Answer | Awaitable[Answer]:
        index = int(params.get("index", "0"))
        return later(service, params, index) if index else run(service, None, params)

    return answer


def _pool(service: LicenseService, _: None, __: Params) -> Answer:
    return 200, service.pool()


def _features(service: LicenseService, _: None, __: Params) -> Answer:
    return 200, service.features()


def _feature(service: LicenseService, _: None, params: Params) -> Answer:
    return 200, service.feature(params["name"])


async def _authorizations(service: LicenseService, _: None, params: Params) -> Answer:
    return 200, await service.authorizations(
        params.get("feature"), params.get("user"), params.get("server")
    )


def _audit(service: LicenseService, _: None, params: Params) -> Answer:
    return 200, service.audit(int(params.get("after", "0")))


def _license(service: LicenseService, _: None, __: Params) -> Answer:
    return 200, service.license()


def _healthz(_: LicenseService, __: None, ___: Params) -> Answer:
    return 200, Health()


def _readyz(service: LicenseService, _: None, __: Params) -> Answer:
    readiness = service.readiness()
    return (200 if readiness.ready else 503), readiness


_AWAY = (Code.NO_QUORUM, Code.RECOVERING, Code.DRAINING)

CHECKOUT = Call(
    name="checkout",
    method="POST",
    path="/v1/authorizations",
    access=Access.ANY,
    summary="Check out seats of a feature, waiting for them if asked to",
    run=_checkout,
    request=CheckoutRequest,
    answers={201: Authorization, 200: Authorization},
    problems={
        403: (Code.NOT_LICENSED, Code.LIMIT_REACHED, Code.EXCLUDED),
        404: (Code.UNKNOWN_FEATURE,),
        409: (Code.NO_SEATS,),
        429: (Code.OVERLOADED,),
        503: _AWAY,
    },
)
HEARTBEAT = Call(
    name="heartbeat",
    method="POST",
    path="/v1/heartbeats",
    access=Access.ANY,
    summary="Renew everything that a client holds",
    run=_heartbeat,
    request=HeartbeatRequest,
    answers={200: HeartbeatAnswer},
    problems={429: (Code.OVERLOADED,), 503: _AWAY},
)
CHECKIN = Call(
    name="checkin",
    method="POST",
    path="/v1/checkins",
    access=Access.ANY,
    summary="Give seats back; safe to repeat, at any server",
    run=_checkin,
    request=CheckinRequest,
    answers={200: CheckinAnswer},
    problems={429: (Code.OVERLOADED,), 503: _AWAY},
)
CLIENT_CALLS = (CHECKOUT, HEARTBEAT, CHECKIN)

_Number = Annotated[str, Meta(pattern=r"^[0-9]{1,15}$(?!\n)")]
_INDEX = Parameter(
    "index",
    "query",
    _Number,
    "Answer once the log is applied here up to this `index` of a change's answer; 503 `no_quorum`"
    " if it is not within five seconds",
    "812",
)

CALLS: tuple[Call, ...] = (
    *CLIENT_CALLS,
    Call(
        name="list_authorizations",
        method="GET",
        path="/v1/authorizations",
        access=Access.ANY,
        summary="List the authorizations of the whole pool",
        run=_authorizations,
        answers={200: AuthorizationList},
        problems={503: (Code.NO_QUORUM, Code.OUTCOME_UNKNOWN)},
        parameters=(
            Parameter("feature", "query", Name, "Only of this feature", "cad"),
            Parameter("user", "query", Name, "Only of this user", "ann"),
            Parameter("server", "query", Name, "Only granted by this server", "alpha"),
        ),
    ),
    Call(
        name="pool",
        method="GET",
        path="/v1/pool",
        access=Access.ANY,
        summary="The pool as this server sees it",
        run=_at_index(_pool),
        answers={200: PoolView},
        problems={503: (Code.NO_QUORUM,)},
        parameters=(_INDEX,),
    ),
    Call(
        name="features",
        method="GET",
        path="/v1/features",
        access=Access.ANY,
        summary="Every feature, with its allocations and what is in use",
        run=_at_index(_features),
        answers={200: FeatureList},
        problems={503: (Code.NO_QUORUM,)},
        parameters=(_INDEX,),
    ),
    Call(
        name="feature",
        method="GET",
        path="/v1/features/{name}",
        access=Access.ANY,
        summary="One feature, with its allocations and what is in use",
        run=_at_index(_feature),
        answers={200: FeatureView},
        problems={404: (Code.UNKNOWN_FEATURE,), 503: (Code.NO_QUORUM,)},
        parameters=(FEATURE, _INDEX),
    ),
    Call(
        name="audit",
        method="GET",
        path="/v1/audit",
        access=Access.ADMIN,
        summary="What administrators changed: the last records, each chained to the one before",
        run=_audit,
        answers={200: AuditView},
        problems={},
        parameters=(Parameter("after", "query", _Number, "Only records after this number", "40"),),
    ),
    Call(
        name="license",
        method="GET",
        path="/v1/license",
        access=Access.ANY,
        summary="The installed redundant license file",
        run=_at_index(_license),
        answers={200: LicenseDocument},
        problems={503: (Code.NO_QUORUM,)},
        parameters=(_INDEX,),
    ),
    Call(
        name="healthz",
        method="GET",
        path="/healthz",
        access=Access.OPEN,
        summary="Whether the process is alive",
        run=_healthz,
        answers={200: Health},
        problems={},
    ),
    Call(
        name="readyz",
        method="GET",
        path="/readyz",
        access=Access.OPEN,
        summary="Whether this server holds its lease and may grant",
        run=_readyz,
        answers={200: Readiness, 503: Readiness},
        problems={},
    ),
    *CHANGES,
)
