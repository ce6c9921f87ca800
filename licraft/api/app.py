"""The ASGI application: every call, for whatever the protocol's fast path does not take.

May import Starlette and this room's calls. It decides nothing about a call: it
finds the operation, reads the body within its bound, and sends the reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence

from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from licraft.api.asking import USER_HEADER
from licraft.api.decoding import Fault, parse_query
from licraft.api.operations import Operation, fault_reply, too_large_reply
from licraft.api.replies import Reply, problem, problem_reply
from licraft.core.outcomes import Code

PENDING = "licraft.pending"
"""Key in the scope of a request that the fast path began and whose answer has to be waited for."""


def build_app(operations: Sequence[Operation], pages: Sequence[BaseRoute] = ()) -> ASGIApp:
    """One application for these operations; `pages` are further routes (dashboard, metrics)."""
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.call.path, {})[operation.call.method] = operation
    routes = [Route(path, PathEndpoint(methods)) for path, methods in by_path.items()]
    router = Router([*routes, *pages], redirect_slashes=False, default=_not_found)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pending: Awaitable[Reply] | None = scope.get(PENDING)
        if pending is None:
            await router(scope, receive, send)
        else:
            await _send_when_done(pending, receive, send)

    return app


class PathEndpoint:
    """The operations of one path, by method."""

    def __init__(self, operations: Mapping[str, Operation]) -> None:
        self._operations = dict(operations)
        if "GET" in self._operations:
            self._operations["HEAD"] = self._operations["GET"]
        self._allow = ", ".join(sorted(self._operations)).encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        operation = self._operations.get(scope["method"])
        if operation is None:
            refused = problem(
                405,
                Code.METHOD_NOT_ALLOWED,
                f"{scope['method']} is not for {scope['path'][:200]}; allowed: "
                + self._allow.decode("ascii"),
            )
            await send_reply(problem_reply(refused, ((b"allow", self._allow),)), send)
            return
        try:
            answer = await _ask(operation, scope, receive)
        except ClientDisconnect:
            return
        if isinstance(answer, Reply):
            await send_reply(answer, send)
        else:
            await _send_when_done(answer, receive, send)


async def _ask(operation: Operation, scope: Scope, receive: Receive) -> Reply | Awaitable[Reply]:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    authorization = headers.get(b"authorization")
    refused = operation.refusal(authorization)
    if refused is not None:
        return refused
    client = scope.get("client")
    operation.attribute(authorization, headers.get(USER_HEADER, b""), client[0] if client else "")
    try:
        params = scope["path_params"] | parse_query(scope["query_string"], operation.call.query)
    except Fault as fault:
        return fault_reply(fault)
    body = b""
    if operation.call.request is not None:
        limit = operation.call.max_body_bytes
        # llhttp has checked that Content-Length, if there is one, is a number.
        if int(headers.get(b"content-length", b"0")) > limit:
            return too_large_reply(limit)
        read = await _read_body(receive, limit)
        if read is None:
            return too_large_reply(limit)
        body = read
    return operation.answer(authorization, body, params)


async def _read_body(receive: Receive, limit: int) -> bytes | None:
    """The whole body, or None as soon as it is larger than `limit` bytes."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body", False):
            return bytes(body)


async def _send_when_done(pending: Awaitable[Reply], receive: Receive, send: Send) -> None:
    """Send the reply when it is there; a client that goes away cancels the work for it."""
    work = asyncio.ensure_future(pending)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            await send_reply(work.result(), send)
    finally:
        work.cancel()
        gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_reply(answer: Reply, send: Send) -> None:
    """Send one reply as ASGI messages."""
    headers = answer.headers()
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    detail = f"there is no {scope['path'][:200]}; /v1/openapi.json lists the calls"
    await send_reply(problem_reply(problem(404, Code.NOT_FOUND, detail)), send)
