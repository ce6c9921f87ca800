"""Answers as values: what goes on the wire, and how a problem becomes one.

May import msgspec, `wire` and `core.outcomes`. Knows neither sockets nor ASGI: the
protocol's fast path and the ASGI application both send what is made here.
"""

from __future__ import annotations

import math
from http import HTTPStatus

import msgspec

from licraft.core.outcomes import Code
from licraft.wire import Problem

JSON = b"application/json"
PROBLEM_JSON = b"application/problem+json"
TYPE_PREFIX = "urn:licraft:problem:"

Header = tuple[bytes, bytes]

TITLES: dict[str, str] = {
    Code.INVALID_REQUEST: "The request is not valid",
    Code.NOT_AUTHORIZED: "Not authorized",
    Code.TOO_LARGE: "The request is too large",
    Code.NOT_FOUND: "There is nothing here",
    Code.METHOD_NOT_ALLOWED: "The method is not allowed here",
    Code.OVERLOADED: "The server has too much to do",
    Code.NO_QUORUM: "The server may not grant now",
    Code.RECOVERING: "The server is recovering",
    Code.DRAINING: "The server is being drained",
    Code.UNKNOWN_FEATURE: "There is no such feature",
    Code.NOT_LICENSED: "The feature is not licensed",
    Code.EXCLUDED: "The pool's policy excludes this client",
    Code.LIMIT_REACHED: "A limit of the pool's policy is reached",
    Code.NO_SEATS: "No seats are available",
    Code.REMOVED: "The authorization was ended by an administrator",
    Code.EXCEEDS_ENTITLEMENT: "More than the license grants",
    Code.STALE_SEQUENCE: "The license file is not newer",
    Code.INVALID_LICENSE: "The license file cannot be used",
    Code.OUTCOME_UNKNOWN: "The outcome is not known",
    Code.INTERNAL: "The server failed",
}


class Reply(msgspec.Struct, frozen=True, gc=False):
    """One answer: status, media type, further headers, body; `media` is empty with no body."""

    status: int
    body: bytes
    media: bytes = JSON
    extra: tuple[Header, ...] = ()

    def headers(self) -> list[Header]:
        """The header fields, with lower-case names, in the order in which they are sent."""
        if not self.media:
            return list(self.extra)
        length = str(len(self.body)).encode("ascii")
        return [(b"content-type", self.media), *self.extra, (b"content-length", length)]


_encode = msgspec.json.Encoder().encode


def reply(status: int, body: msgspec.Struct | msgspec.Raw | None) -> Reply:
    """The answer that carries `body` as JSON; a `Problem` brings its own status and type."""
    if body is None:
        return Reply(status, b"", b"")
    if type(body) is Problem:
        return problem_reply(body)
    return Reply(status, _encode(body))


def problem_reply(problem: Problem, extra: tuple[Header, ...] = ()) -> Reply:
    """The problem document (RFC 9457) with the title and type of its code.

    Adds `Retry-After` (whole seconds, rounded up, at least 1) when the problem says
    when to come back, and `WWW-Authenticate` to a 401 (RFC 6750, section 3).
    """
    described = msgspec.structs.replace(
        problem,
        title=problem.title or TITLES.get(problem.code, problem.code),
        type=TYPE_PREFIX + problem.code if problem.type == "about:blank" else problem.type,
    )
    if problem.retry_after is not None:
        seconds = max(1, math.ceil(problem.retry_after))
        extra = (*extra, (b"retry-after", str(seconds).encode("ascii")))
    if problem.status == 401:
        extra = (*extra, (b"www-authenticate", b'Bearer realm="licraft"'))
    return Reply(problem.status, _encode(described), PROBLEM_JSON, extra)


def problem(status: int, code: Code, detail: str, field: str | None = None) -> Problem:
    """A problem document's value, from a code of the closed list."""
    return Problem(status=status, code=code.value, detail=detail, field=field)


def status_line(status: int) -> bytes:
    """`HTTP/1.1 404 Not Found` and its line end."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode("ascii")


def http_bytes(answer: Reply, headers: list[Header]) -> bytes:
    """The whole HTTP/1.1 message, with `headers` (date, connection) before the answer's own."""
    lines = [status_line(answer.status)]
    for name, value in [*headers, *answer.headers()]:
        lines += (name, b": ", value, b"\r\n")
    return b"".join([*lines, b"\r\n", answer.body])
