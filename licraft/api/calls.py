"""The calls of the HTTP API: one definition each, however a request comes in.

May import `wire`, `errors`, `core.outcomes` and this room's values. A `Call` says
what a call is; an `Operation` is a call bound to a license server and a gate, and
turns a request's parts into a `Reply`. The protocol's fast path and the ASGI
application use the same operations; the description in `openapi` is made from the
same table. Nothing here knows a socket.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta, Raw, Struct

from licraft.api.access import Access, Gate
from licraft.api.decoding import BodyDecoder, Fault, check_parameter, decode_text
from licraft.api.replies import Reply, problem, problem_reply, reply
from licraft.api.service import LicenseService
from licraft.core.outcomes import Code
from licraft.errors import InvariantBroken, NotExecuted, OutcomeUnknown, Overloaded
from licraft.wire import (
    MAX_BODY_BYTES,
    MAX_LICENSE_BYTES,
    Authorization,
    AuthorizationList,
    CheckinAnswer,
    CheckinRequest,
    CheckoutRequest,
    FeatureList,
    FeatureView,
    HeartbeatAnswer,
    HeartbeatRequest,
    Installed,
    LeaderAnswer,
    LeaderRequest,
    LicenseDocument,
    Name,
    PoolView,
    Problem,
    Readiness,
    ServerAnswer,
    ServerName,
    ServerRequest,
)

log = logging.getLogger(__name__)

AuthorizationId = Annotated[str, Meta(min_length=1, max_length=256)]


class Health(Struct):
    """`GET /healthz`: the process answers; says nothing about its lease."""

    alive: bool = True


Answer = tuple[int, Struct | Raw | None]
Params = Mapping[str, str]
# The body's type differs from call to call (`Call.request`), which a table cannot express.
Run = Callable[[LicenseService, Any, Params], "Answer | Awaitable[Answer]"]
Broken = Callable[[InvariantBroken], None]

NO_PARAMS: Params = {}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A path or query parameter: text, with its bounds in `kind`."""

    name: str
    where: str  # path | query
    kind: Any
    description: str
    example: str


@dataclass(frozen=True, slots=True)
class Call:
    """What one call is: how it is asked, by whom, and everything it can answer."""

    name: str
    method: str
    path: str
    access: Access
    summary: str
    run: Run
    answers: Mapping[int, Any]  # status -> type of the body, None for no body
    problems: Mapping[int, tuple[Code, ...]]
    request: Any = None  # type of the JSON body, `str` for text, None for no body
    parameters: tuple[Parameter, ...] = ()

    @property
    def max_body_bytes(self) -> int:
        """How large a body may be."""
        return MAX_LICENSE_BYTES if self.request is str else MAX_BODY_BYTES

    @property
    def query(self) -> tuple[str, ...]:
        """The names of the query parameters."""
        return tuple(p.name for p in self.parameters if p.where == "query")


class Operation:
    """A call bound to the license server that answers it."""

    def __init__(self, call: Call, service: LicenseService, gate: Gate, broken: Broken) -> None:
        self.call = call
        self._service = service
        self._gate = gate
        self._broken = broken
        self._run = call.run
        self._decode = _decoder(call.request)
        self._kinds = {p.name: p.kind for p in call.parameters}

    def refusal(self, authorization: bytes | None) -> Reply | None:
        """The refusal of a caller who may not make this call, before the body is read."""
        refused = self._gate.refusal(self.call.access, authorization)
        return None if refused is None else problem_reply(refused)

    def answer(
        self, authorization: bytes | None, body: bytes, params: Params = NO_PARAMS
    ) -> Reply | Awaitable[Reply]:
        """Check, decode, ask the license server, encode; never raises but for a cancellation.

        An awaitable is returned when the license server has to wait or to commit.
        """
        refused = self._gate.refusal(self.call.access, authorization)
        if refused is not None:
            return problem_reply(refused)
        answer = self.answer_allowed(body, params)
        if type(answer) is Reply:
            self._service.settle()
        return answer

    def answer_allowed(self, body: bytes, params: Params = NO_PARAMS) -> Reply | Awaitable[Reply]:
        """`answer` for a caller whose header was found to be allowed before.

        The caller sees to it that the service has settled before an answer leaves
        that is returned at once; an awaited one has.
        """
        try:
            request = self._decode(body)
            if params:
                for name, value in params.items():
                    check_parameter(name, value, self._kinds[name])
        except Fault as fault:
            return fault_reply(fault)
        try:
            result = self._run(self._service, request, params)
            if type(result) is tuple:
                return reply(result[0], result[1])
        except Exception as error:  # noqa: BLE001  # one call's fault must not end the others
            return self._failed(error)
        return self._later(result)  # type: ignore[arg-type]  # mypy keeps the tuple in the union

    async def _later(self, result: Awaitable[Answer]) -> Reply:
        try:
            status, body = await result
            self._service.settle()
            return reply(status, body)
        except Exception as error:  # noqa: BLE001  # as in `answer`
            return self._failed(error)

    def _failed(self, error: Exception) -> Reply:
        if isinstance(error, InvariantBroken):
            self._broken(error)
        elif isinstance(error, Overloaded):
            detail = f"not done, and safe to repeat: {error}"
            return problem_reply(
                Problem(status=429, code=Code.OVERLOADED.value, detail=detail, retry_after=1.0)
            )
        elif isinstance(error, NotExecuted):
            detail = f"not done, and safe to repeat: {error}"
            return problem_reply(
                Problem(status=503, code=Code.NO_QUORUM.value, detail=detail, retry_after=1.0)
            )
        elif isinstance(error, OutcomeUnknown):
            detail = f"it may or may not have been done: look before you repeat it: {error}"
            return problem_reply(problem(503, Code.OUTCOME_UNKNOWN, detail))
        log.error("%s %s failed", self.call.method, self.call.path, exc_info=error)
        detail = "the server met an error that it did not expect; its log says more"
        return problem_reply(problem(500, Code.INTERNAL, detail))


def fault_reply(fault: Fault) -> Reply:
    """400 `invalid_request`, naming the field."""
    return problem_reply(problem(400, Code.INVALID_REQUEST, fault.detail, fault.field))


def too_large_reply(limit: int) -> Reply:
    """413 `too_large`."""
    detail = f"the body may have at most {limit} bytes"
    return problem_reply(problem(413, Code.TOO_LARGE, detail))


def _decoder(request: Any) -> Callable[[bytes], Any]:
    if request is None:
        return _ignore
    return decode_text if request is str else BodyDecoder(request).decode


def _ignore(_: bytes) -> None:
    return None


def _checkout(service: LicenseService, body: CheckoutRequest, _: Params) -> Any:
    return service.checkout(body)


def _heartbeat(service: LicenseService, body: HeartbeatRequest, _: Params) -> Any:
    return service.heartbeat(body)


def _checkin(service: LicenseService, body: CheckinRequest, _: Params) -> Any:
    return service.checkin(body)


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


async def _remove(service: LicenseService, _: None, params: Params) -> Answer:
    return 204, await service.remove_authorization(params["id"])


def _license(service: LicenseService, _: None, __: Params) -> Answer:
    return 200, service.license()


async def _install(service: LicenseService, text: str, _: Params) -> Answer:
    return 200, await service.install_license(text)


async def _lead(service: LicenseService, body: LeaderRequest, _: Params) -> Answer:
    return 200, await service.lead(body.server)


async def _add_server(service: LicenseService, body: ServerRequest, _: Params) -> Answer:
    return 200, await service.add_server(body)


async def _remove_server(service: LicenseService, _: None, params: Params) -> Answer:
    return 200, await service.remove_server(params["server"])


async def _drain(service: LicenseService, _: None, params: Params) -> Answer:
    return 200, await service.drain(params["server"], on=True)


async def _undrain(service: LicenseService, _: None, params: Params) -> Answer:
    return 200, await service.drain(params["server"], on=False)


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

_FEATURE = Parameter("name", "path", Name, "The feature's name", "cad")
_SERVER = Parameter("server", "path", ServerName, "The server's name", "delta")
_DRAIN_PROBLEMS = {
    404: (Code.NOT_FOUND,),
    409: (Code.INVALID_REQUEST,),
    429: (Code.OVERLOADED,),
    503: (Code.NO_QUORUM, Code.DRAINING, Code.OUTCOME_UNKNOWN),
}
_ID = Parameter("id", "path", AuthorizationId, "The authorization's id", "alpha-1-42")

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
        name="remove_authorization",
        method="DELETE",
        path="/v1/authorizations/{id}",
        access=Access.ADMIN,
        summary="End an authorization, whichever server granted it",
        run=_remove,
        answers={204: None},
        problems={404: (Code.NOT_FOUND,), 503: (Code.NO_QUORUM, Code.OUTCOME_UNKNOWN)},
        parameters=(_ID,),
    ),
    Call(
        name="pool",
        method="GET",
        path="/v1/pool",
        access=Access.ANY,
        summary="The pool as this server sees it",
        run=_pool,
        answers={200: PoolView},
        problems={},
    ),
    Call(
        name="features",
        method="GET",
        path="/v1/features",
        access=Access.ANY,
        summary="Every feature, with its allocations and what is in use",
        run=_features,
        answers={200: FeatureList},
        problems={},
    ),
    Call(
        name="feature",
        method="GET",
        path="/v1/features/{name}",
        access=Access.ANY,
        summary="One feature, with its allocations and what is in use",
        run=_feature,
        answers={200: FeatureView},
        problems={404: (Code.UNKNOWN_FEATURE,)},
        parameters=(_FEATURE,),
    ),
    Call(
        name="license",
        method="GET",
        path="/v1/license",
        access=Access.ANY,
        summary="The installed redundant license file",
        run=_license,
        answers={200: LicenseDocument},
        problems={},
    ),
    Call(
        name="install_license",
        method="PUT",
        path="/v1/license",
        access=Access.ADMIN,
        summary="Install a redundant license file with a greater sequence number",
        run=_install,
        request=str,
        answers={200: Installed},
        problems={
            409: (Code.STALE_SEQUENCE,),
            422: (Code.INVALID_LICENSE,),
            429: (Code.OVERLOADED,),
            503: (Code.NO_QUORUM, Code.OUTCOME_UNKNOWN),
        },
    ),
    Call(
        name="lead",
        method="POST",
        path="/v1/leader",
        access=Access.ADMIN,
        summary="Hand leadership to another server",
        run=_lead,
        request=LeaderRequest,
        answers={200: LeaderAnswer},
        problems={
            404: (Code.NOT_FOUND,),
            429: (Code.OVERLOADED,),
            503: (Code.NO_QUORUM, Code.OUTCOME_UNKNOWN),
        },
    ),
    Call(
        name="add_server",
        method="POST",
        path="/v1/servers",
        access=Access.ADMIN,
        summary="Have a server join the pool; it counts once it runs and has caught up",
        run=_add_server,
        request=ServerRequest,
        answers={200: ServerAnswer},
        problems={
            403: (Code.LIMIT_REACHED,),
            409: (Code.INVALID_REQUEST,),
            503: (Code.NO_QUORUM, Code.DRAINING, Code.OUTCOME_UNKNOWN),
        },
    ),
    Call(
        name="remove_server",
        method="DELETE",
        path="/v1/servers/{server}",
        access=Access.ADMIN,
        summary="Have a server leave the pool; its seats stay its clients' for their time to live",
        run=_remove_server,
        answers={200: ServerAnswer},
        problems={
            404: (Code.NOT_FOUND,),
            409: (Code.INVALID_REQUEST,),
            503: (Code.NO_QUORUM, Code.DRAINING, Code.OUTCOME_UNKNOWN),
        },
        parameters=(_SERVER,),
    ),
    Call(
        name="drain_server",
        method="POST",
        path="/v1/servers/{server}/drain",
        access=Access.ADMIN,
        summary="Have a server give its seats and clients to the others, as they come free",
        run=_drain,
        answers={200: ServerAnswer},
        problems=_DRAIN_PROBLEMS,
        parameters=(_SERVER,),
    ),
    Call(
        name="undrain_server",
        method="POST",
        path="/v1/servers/{server}/undrain",
        access=Access.ADMIN,
        summary="Have a server that was drained grant seats again",
        run=_undrain,
        answers={200: ServerAnswer},
        problems=_DRAIN_PROBLEMS,
        parameters=(_SERVER,),
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
)
