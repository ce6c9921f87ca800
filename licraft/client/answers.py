"""What an HTTP answer means: a body, a final error, or a reason to ask another server.

May import msgspec, `errors`, `wire`, `licraft.client.transport`. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import msgspec

from licraft.client.transport import Answer, NoAnswer
from licraft.errors import (
    ClientError,
    Denied,
    InvalidRequest,
    LicenseError,
    LicraftError,
    LimitReached,
    NoSeatsAvailable,
    NotAuthorized,
    NotLicensed,
    PoolUnavailable,
    UnknownFeature,
)
from licraft.wire import Problem, ServerList

T = TypeVar("T")

MAX_RETRY_AFTER_S = 30.0


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """This server cannot help now; another may. `problem` is what it said, if it was licraft."""

    url: str
    detail: str
    code: str = ""
    retry_after_s: float = 0.0
    servers: ServerList | None = None


_ERRORS: dict[str, type[ClientError]] = {
    "no_seats": NoSeatsAvailable,
    "unknown_feature": UnknownFeature,
    "not_licensed": NotLicensed,
    "limit_reached": LimitReached,
    "excluded": LimitReached,
    "not_authorized": NotAuthorized,
    "invalid_request": InvalidRequest,
    "too_large": InvalidRequest,
    "method_not_allowed": InvalidRequest,
    "outcome_unknown": PoolUnavailable,
}
_LICENSE_CODES = ("invalid_license", "stale_sequence")
_ELSEWHERE_STATUSES = frozenset({408, 421, 425, 429, 500, 501, 502, 503, 504})


def understand(answer: Answer | NoAnswer, body_type: type[T]) -> T | LicraftError | Elsewhere:
    """Read an answer as `body_type`, as a final error, or as a reason to go on."""
    if isinstance(answer, NoAnswer):
        return Elsewhere(answer.url, answer.detail)
    if 200 <= answer.status < 300:
        try:
            return msgspec.json.decode(answer.body or b"null", type=body_type)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return Elsewhere(answer.url, f"answered what no license server says ({error})")
    problem = _problem(answer)
    if problem is None:
        return Elsewhere(answer.url, f"answered {answer.status}, and not as a license server does")
    if answer.status in _ELSEWHERE_STATUSES and problem.code != "outcome_unknown":
        after = problem.retry_after or 0.0
        return Elsewhere(
            answer.url,
            f"{problem.code}: {_line(problem.detail)}",
            problem.code,
            min(max(after, 0.0), MAX_RETRY_AFTER_S),
            problem.servers,
        )
    return error_of(problem)


def error_of(problem: Problem) -> LicraftError:
    """The exception for a problem that no other server would answer otherwise."""
    detail = _line(problem.detail) or problem.code
    if problem.field and problem.field not in detail:
        detail = f"{_line(problem.field)}: {detail}"
    if problem.code in _LICENSE_CODES:
        return LicenseError(detail, problem.code)
    if problem.code in _ERRORS:
        return _ERRORS[problem.code](detail, problem.code)
    return Denied(detail, problem.code)


def unavailable(refusals: list[Elsewhere]) -> PoolUnavailable:
    """The error for a pool of which no server could answer, with what each one said."""
    said = "; ".join(f"{refusal.url}: {refusal.detail}" for refusal in refusals)
    code = next((refusal.code for refusal in refusals if refusal.code), "unreachable")
    return PoolUnavailable(f"no license server could answer ({said})", code)


def _problem(answer: Answer) -> Problem | None:
    try:
        return msgspec.json.decode(answer.body, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _line(text: str) -> str:
    """A server's text as one printable line of bounded length."""
    return "".join(c if c.isprintable() else " " for c in text[:500]).strip()
