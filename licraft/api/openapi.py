"""The description of the API (OpenAPI 3.1), made from the table of calls and the wire types.

May import msgspec and this room's calls. Nothing is described
by hand but examples: paths, parameters, bodies, answers and problems come from
where the server takes them.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from licraft import __version__, wire
from licraft.api.access import Access
from licraft.api.calls import CALLS, Health
from licraft.api.operations import Answer, Call, Parameter, Params
from licraft.api.replies import TITLES, TYPE_PREFIX
from licraft.api.service import LicenseService
from licraft.core.outcomes import Code

_REF = "#/components/schemas/{name}"

_SERVERS = {
    "version": 12,
    "list": [
        {"name": "alpha", "url": "http://127.0.0.1:7700", "role": "leader", "state": "up"},
        {"name": "beta", "url": "http://127.0.0.1:7701", "role": "follower", "state": "up"},
    ],
}
_FEATURE = {
    "feature": "cad",
    "version": "2026",
    "entitled": 100,
    "deployed": 100,
    "free": 0,
    "in_use": 27,
    "commuters": 0,
    "waiting": 0,
    "denied": 0,
    "starts": None,
    "expires": "2027-12-31",
    "status": "valid",
    "borrowing": {
        "enabled": True,
        "pending": 1,
        "open": [
            {
                "id": "alpha:1:7",
                "server": "alpha",
                "reason": "failover",
                "want": 2,
                "need": 2,
                "source": "others",
                "asked": ["beta"],
                "got": {"leader": 1, "free": 3},
            }
        ],
        "sources": {"leader": 4, "free": 12, "down": 0, "others": 2},
    },
    "servers": {
        "alpha": {"allocated": 60, "in_use": 27, "target": None, "threshold": 0.8},
        "beta": {"allocated": 40, "in_use": 0, "target": None, "threshold": 0.8},
    },
}
_LICENSE_TEXT = "pool: acme\nsequence: 7\ncodes:\n  - code: LIC1.eyJ2ZW5kb3IiOiJ4In0.c2lnbmF0dXJl\n"

EXAMPLES: dict[str, Any] = {
    "AuditView": {
        "count": 41,
        "sha256": "9f2c" * 16,
        "records": [
            {
                "number": 41,
                "index": 1207,
                "time": "2026-11-21T12:00:00Z",
                "who": "admin 3f2a91bc (ann@ws12)",
                "where": "10.0.0.7",
                "what": "drain server=gamma on=True",
                "before": "state up, drained False",
                "after": "state draining, drained True",
                "outcome": "done",
                "previous": "51d0" * 16,
                "sha256": "9f2c" * 16,
            }
        ],
    },
    "CheckoutRequest": {
        "feature": "cad",
        "count": 1,
        "wait": 0,
        "client": {"id": "c-17", "user": "ann", "host": "ws12", "pid": 4711, "app": "cad.exe"},
    },
    "HeartbeatRequest": {"tokens": ["TOKEN"], "client": "c-17", "servers_version": 12},
    "CheckinRequest": {"tokens": ["TOKEN"]},
    "DistributionRequest": {"distribution": "alpha:10^beta:20"},
    "AllocationsRequest": {"count": 5, "to": "beta"},
    "BorrowingRequest": {"threshold": 0.7, "server": "beta", "floor": 10, "cap": None},
    "Authorization": {
        "id": "alpha-1-42",
        "token": "TOKEN",
        "feature": "cad",
        "count": 1,
        "server": "alpha",
        "ttl": 60.0,
        "heartbeat": 20.0,
        "granted_at": "2026-11-21T12:00:00Z",
        "servers": _SERVERS,
    },
    "HeartbeatAnswer": {"results": [{"id": "alpha-1-42", "status": "renewed", "ttl": 60.0}]},
    "CheckinAnswer": {"released": ["alpha-1-42"], "unknown": []},
    "AuthorizationList": {
        "authorizations": [
            {
                "id": "alpha-1-42",
                "feature": "cad",
                "count": 1,
                "client": {"id": "c-17", "user": "ann", "host": "ws12", "pid": 4711, "app": "cad"},
                "server": "alpha",
                "granted_at": "2026-11-21T12:00:00Z",
                "last_heartbeat": "2026-11-21T12:00:20Z",
            }
        ],
        "truncated": False,
        "as_of": {"alpha": "2026-11-21T12:00:21Z", "beta": None},
    },
    "PoolView": {
        "pool": "acme",
        "server": "alpha",
        "state": "serving",
        "leader": "alpha",
        "term": 3,
        "applied_index": 812,
        "priority": ["alpha", "beta"],
        "servers": [
            {
                "name": "alpha",
                "role": "leader",
                "state": "up",
                "url": "http://127.0.0.1:7700",
                "incarnation": 1,
                "lease_remaining": 2.4,
                "in_use": 27,
                "allocated": 60,
            }
        ],
        "license": {"sequence": 7, "sha256": "9f86d081884c7d659a2feaa0c55ad015"},
        "trouble": [],
        "version": __version__,
        "pool_key": "mC5uDc1yQyW4m0Ds8w9m0CzH3q6M8Yb1xk7s8V3nP2E",
    },
    "FeatureView": _FEATURE,
    "FeatureList": {"features": [_FEATURE]},
    "LicenseDocument": {"sequence": 7, "text": _LICENSE_TEXT, "codes": []},
    "Installed": {"sequence": 7, "index": 812},
    "CodeRequest": {"code": "LIC1.eyJjb3VudCI6MTB9.c2lnbmF0dXJl", "distribution": "alpha:10"},
    "LeaderRequest": {"server": "beta"},
    "LeaderAnswer": {"leader": "beta", "term": 4, "index": 813},
    "ServerRequest": {"name": "delta", "api": "http://delta:7700", "peer": "delta:7800"},
    "ServerAnswer": {"name": "delta", "state": "joining", "index": 814},
    "Health": {"alive": True},
    "Readiness": {"ready": True, "state": "serving", "detail": ""},
}


def describe() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    kinds = [wire.Problem, Health]
    calls = (*CALLS, OPENAPI)
    for call in calls:
        kinds += [kind for kind in (call.request, *call.answers.values()) if _is_struct(kind)]
    unique = list(dict.fromkeys(kinds))
    _, components = msgspec.json.schema_components(unique, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for call in calls:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "licraft",
            "version": __version__,
            "summary": "A floating-license server pool",
            "description": (
                "Errors are problem documents (RFC 9457) with a stable `code`; their `type` is "
                f"`{TYPE_PREFIX}` followed by the code. Times are seconds. Unknown fields and "
                "unknown or repeated parameters are refused."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {**components, "ProblemCode": _codes()},
            "securitySchemes": {
                "client": {"type": "http", "scheme": "bearer", "description": "Client token"},
                "admin": {"type": "http", "scheme": "bearer", "description": "Admin token"},
            },
        },
    }


@functools.cache
def _document() -> bytes:
    return msgspec.json.encode(describe())


def _openapi(_: LicenseService, __: None, ___: Params) -> Answer:
    return 200, msgspec.Raw(_document())


OPENAPI = Call(
    name="openapi",
    method="GET",
    path="/v1/openapi.json",
    access=Access.OPEN,
    summary="This description",
    run=_openapi,
    answers={200: dict},
    problems={},
)


def _operation(call: Call) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": call.name,
        "summary": call.summary,
        "security": _security(call.access),
        "responses": {str(status): _answer(status, kind) for status, kind in call.answers.items()},
    }
    for status, codes in _problems(call).items():
        if str(status) not in described["responses"]:
            described["responses"][str(status)] = _problem(status, codes)
        else:  # readiness answers 503 itself, and so may the server when it has too much to do
            content = described["responses"][str(status)]["content"]
            content |= _problem(status, codes)["content"]
    if call.parameters:
        described["parameters"] = [_parameter(p) for p in call.parameters]
    if call.request is not None:
        described["requestBody"] = _request_body(call)
    return described


def _security(access: Access) -> list[dict[str, list[str]]]:
    if access is Access.OPEN:
        return []
    return [{"client": []}, {"admin": []}] if access is Access.ANY else [{"admin": []}]


def _problems(call: Call) -> dict[int, tuple[Code, ...]]:
    common: dict[int, tuple[Code, ...]] = {
        400: (Code.INVALID_REQUEST,),
        500: (Code.INTERNAL,),
        503: (Code.OVERLOADED,),
    }
    if call.access is not Access.OPEN:
        common[401] = (Code.NOT_AUTHORIZED,)
    if call.access is Access.ADMIN:
        common[403] = (Code.NOT_AUTHORIZED,)
    if call.request is not None:
        common[413] = (Code.TOO_LARGE,)
        common[431] = (Code.TOO_LARGE,)
    merged = {
        status: tuple(dict.fromkeys((*call.problems.get(status, ()), *common.get(status, ()))))
        for status in {*common, *call.problems}
    }
    return dict(sorted(merged.items()))


def _answer(status: int, kind: Any) -> dict[str, Any]:
    if kind is None:
        return {"description": "Done"}
    if kind is dict:
        return {
            "description": "The OpenAPI document",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    name = kind.__name__
    description = {201: "Granted", 503: "Not ready"}.get(status, "Done")
    example = EXAMPLES[name]
    if status == 503:
        example = {"ready": False, "state": "no_quorum", "detail": "the lease has run out"}
    schema = {"$ref": _REF.format(name=name)}
    return {
        "description": description,
        "content": {"application/json": {"schema": schema, "example": example}},
    }


def _problem(status: int, codes: tuple[Code, ...]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "description": "; ".join(f"`{code.value}`: {TITLES[code]}" for code in codes),
        "content": {
            "application/problem+json": {
                "schema": {
                    "allOf": [
                        {"$ref": _REF.format(name="Problem")},
                        {"properties": {"code": {"$ref": _REF.format(name="ProblemCode")}}},
                    ]
                },
                "examples": {
                    code.value: {"value": _problem_example(status, code)} for code in codes
                },
            }
        },
    }
    if status == 503:
        described["headers"] = {
            "Retry-After": {
                "description": "Seconds to wait, if the server can say",
                "schema": {"type": "integer", "minimum": 1},
            }
        }
    if status == 401:
        described["headers"] = {
            "WWW-Authenticate": {"description": "RFC 6750", "schema": {"type": "string"}}
        }
    return described


def _problem_example(status: int, code: Code) -> dict[str, Any]:
    return {
        "status": status,
        "code": code.value,
        "detail": TITLES[code],
        "title": TITLES[code],
        "type": TYPE_PREFIX + code.value,
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.where == "path",
        "description": parameter.description,
        "schema": msgspec.json.schema(parameter.kind),
        "example": parameter.example,
    }


def _request_body(call: Call) -> dict[str, Any]:
    described: dict[str, Any]
    if call.request is str:
        described = {"text/yaml": {"schema": {"type": "string"}, "example": _LICENSE_TEXT}}
    else:
        name = call.request.__name__
        described = {
            "application/json": {
                "schema": {"$ref": _REF.format(name=name)},
                "example": EXAMPLES[name],
            }
        }
    size = call.max_body_bytes // 1024
    return {"required": True, "description": f"At most {size} KiB", "content": described}


def _codes() -> dict[str, Any]:
    return {
        "type": "string",
        "description": "Stable codes; members are added, never renamed",
        "enum": [code.value for code in Code],
    }


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
