"""What a call of the HTTP API is, and an operation: a call bound to a license server.

May import `wire`, `errors`, `core.outcomes` and this room's values. A `Call` says how
it is asked, by whom, and all that it can answer; the table of them is in `calls`. An
`Operation` turns a request's parts into a `Reply`: the protocol's fast path and the ASGI
application use the same ones. Nothing here knows a socket, or any single call.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import Raw, Struct

from licraft.api.access import Access, Gate
from licraft.api.asking import attribute
from licraft.api.decoding import BodyDecoder, Fault, check_parameter, decode_license
from licraft.api.replies import Reply, problem, problem_reply, reply
from licraft.api.service import LicenseService
from licraft.core.outcomes import Code
from licraft.errors import InvariantBroken, NotExecuted, OutcomeUnknown, Overloaded
from licraft.wire import MAX_BODY_BYTES, MAX_LICENSE_BYTES, Problem

log = logging.getLogger(__name__)

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

    def attribute(self, authorization: bytes | None, user: bytes, peer: str) -> None:
        """Note for the audit who makes a call that changes the pool, in the caller's context."""
        if self.call.access is Access.ADMIN:
            attribute(self._gate.bearer(authorization), user, peer)

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
    """400 `invalid_request`, naming the field, or 422 `invalid_license`."""
    status = 422 if fault.code is Code.INVALID_LICENSE else 400
    return problem_reply(problem(status, fault.code, fault.detail, fault.field))


def too_large_reply(limit: int) -> Reply:
    """413 `too_large`."""
    detail = f"the body may have at most {limit} bytes"
    return problem_reply(problem(413, Code.TOO_LARGE, detail))


def _decoder(request: Any) -> Callable[[bytes], Any]:
    if request is None:
        return _ignore
    return decode_license if request is str else BodyDecoder(request).decode


def _ignore(_: bytes) -> None:
    return None
