"""The calls that change the pool: one definition each, for administrators only.

May import `wire`, `core.outcomes` and this room's values. Each is accepted by any server
and answered after commit; what a call is, `operations` says. Nothing here knows a socket.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from licraft.api.access import Access
from licraft.api.operations import Answer, Call, Parameter, Params
from licraft.api.service import LicenseService
from licraft.core.outcomes import Code
from licraft.wire import (
    AllocationsRequest,
    BorrowingRequest,
    CodeRequest,
    DistributionRequest,
    FeatureView,
    Installed,
    LeaderAnswer,
    LeaderRequest,
    Name,
    ServerAnswer,
    ServerName,
    ServerRequest,
)

AuthorizationId = Annotated[str, Meta(min_length=1, max_length=256)]

FEATURE = Parameter("name", "path", Name, "The feature's name", "cad")


async def _remove(service: LicenseService, _: None, params: Params) -> Answer:
    return 204, await service.remove_authorization(params["id"])


async def _install(service: LicenseService, text: str, _: Params) -> Answer:
    return 200, await service.install_license(text)


async def _add_code(service: LicenseService, body: CodeRequest, _: Params) -> Answer:
    return 200, await service.add_code(body)


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


async def _distribute(service: LicenseService, body: DistributionRequest, params: Params) -> Answer:
    return 200, await service.distribute(params["name"], body)


async def _add_allocations(
    service: LicenseService, body: AllocationsRequest, params: Params
) -> Answer:
    return 200, await service.add_allocations(params["name"], body)


async def _bound_borrowing(
    service: LicenseService, body: BorrowingRequest, params: Params
) -> Answer:
    return 200, await service.bound_borrowing(params["name"], body)


_SERVER = Parameter("server", "path", ServerName, "The server's name", "delta")
_DRAIN_PROBLEMS = {
    404: (Code.NOT_FOUND,),
    409: (Code.INVALID_REQUEST,),
    429: (Code.OVERLOADED,),
    503: (Code.NO_QUORUM, Code.DRAINING, Code.OUTCOME_UNKNOWN),
}
_CRITERIA_PROBLEMS = {
    404: (Code.UNKNOWN_FEATURE, Code.NOT_FOUND),
    409: (Code.EXCEEDS_ENTITLEMENT, Code.INVALID_REQUEST),
    429: (Code.OVERLOADED,),
    503: (Code.NO_QUORUM, Code.DRAINING, Code.OUTCOME_UNKNOWN),
}
_ID = Parameter("id", "path", AuthorizationId, "The authorization's id", "alpha-1-42")

CHANGES: tuple[Call, ...] = (
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
        name="add_code",
        method="POST",
        path="/v1/license/codes",
        access=Access.ADMIN,
        summary="Add a license code to the redundant license file; safe to repeat",
        run=_add_code,
        request=CodeRequest,
        answers={200: Installed},
        problems={
            409: (Code.STALE_SEQUENCE,),
            422: (Code.INVALID_LICENSE,),
            429: (Code.OVERLOADED,),
            503: (Code.NO_QUORUM, Code.DRAINING, Code.OUTCOME_UNKNOWN),
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
        name="distribute",
        method="PUT",
        path="/v1/features/{name}/distribution",
        access=Access.ADMIN,
        summary="Share a feature's seats out: unused ones at once, the rest as they come back",
        run=_distribute,
        request=DistributionRequest,
        answers={200: FeatureView},
        problems=_CRITERIA_PROBLEMS,
        parameters=(FEATURE,),
    ),
    Call(
        name="add_allocations",
        method="POST",
        path="/v1/features/{name}/allocations",
        access=Access.ADMIN,
        summary="Deploy more of a feature's seats, or with a negative count retire some",
        run=_add_allocations,
        request=AllocationsRequest,
        answers={200: FeatureView},
        problems=_CRITERIA_PROBLEMS,
        parameters=(FEATURE,),
    ),
    Call(
        name="bound_borrowing",
        method="PUT",
        path="/v1/features/{name}/borrowing",
        access=Access.ADMIN,
        summary="Bound borrowing of a feature: on or off, threshold, floor, cap",
        run=_bound_borrowing,
        request=BorrowingRequest,
        answers={200: FeatureView},
        problems=_CRITERIA_PROBLEMS,
        parameters=(FEATURE,),
    ),
)
