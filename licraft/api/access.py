"""Who may call what: two bearer tokens and a gate that compares them.

May import `wire` and `core.outcomes`. Never logs a token and never shows one in a
repr. Source: the contract's section "HTTP API"; RFC 6750 for the answers.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from licraft.core.outcomes import Code
from licraft.wire import Problem


class Access(Enum):
    """What a call asks of its caller."""

    OPEN = "open"  # nothing: probes and the description of the API
    ANY = "any"  # the client token or the admin token
    ADMIN = "admin"  # the admin token


@dataclass(frozen=True, slots=True)
class Tokens:
    """The accepted bearer tokens; several of a kind allow changing one without a gap."""

    admin: frozenset[str] = field(repr=False)
    client: frozenset[str] = field(repr=False)

    def __post_init__(self) -> None:
        for token in self.admin | self.client:
            if not token or not token.isascii() or token != token.strip():
                raise ValueError("an access token must be ASCII text without surrounding space")
        if not self.admin:
            raise ValueError("at least one admin token is needed")

    @classmethod
    def of(cls, admin: str, client: str) -> Tokens:
        """One token of each kind."""
        return cls(admin=frozenset([admin]), client=frozenset([client]))


class Gate:
    """Decides on the bytes of an Authorization header; without tokens it is open.

    The usual header is compared whole against prebuilt bytes, so that the hot
    path neither splits nor decodes it; `hmac.compare_digest` takes the same time
    wherever two headers first differ.
    """

    def __init__(self, tokens: Tokens | None) -> None:
        self.open = tokens is None
        self._client = _headers(tokens.client) if tokens else ()
        self._admin = _headers(tokens.admin) if tokens else ()

    def bearer(self, authorization: bytes | None) -> str:
        """Whose token a header has: its role and a short fingerprint, never the token."""
        if self.open:
            return "anybody"
        header = _canonical(authorization or b"")
        role = "admin" if _matches(header, self._admin) else "client"
        return f"{role} {hashlib.sha256(header.partition(b' ')[2]).hexdigest()[:8]}"

    def refusal(self, access: Access, authorization: bytes | None) -> Problem | None:
        """Why a call with this header is not allowed: 401 or 403 `not_authorized`, or None."""
        if self.open or access is Access.OPEN:
            return None
        if authorization is None:
            return _problem(
                401,
                "this call needs an access token: send the header 'Authorization: Bearer TOKEN'",
            )
        if access is Access.ANY:
            for expected in self._client:
                if hmac.compare_digest(authorization, expected):
                    return None
        header = _canonical(authorization)
        if _matches(header, self._admin):
            return None
        if not _matches(header, self._client):
            return _problem(401, "the access token is not one of this pool's: check the token file")
        if access is Access.ANY:
            return None
        return _problem(403, "this call changes the pool: it needs the admin token")


def _headers(tokens: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(b"Bearer " + token.encode("ascii") for token in sorted(tokens))


def _matches(header: bytes, accepted: tuple[bytes, ...]) -> bool:
    return any(hmac.compare_digest(header, expected) for expected in accepted)


def _canonical(authorization: bytes) -> bytes:
    """The header with its scheme, which is case-insensitive, as we spell it."""
    scheme, _, token = authorization.strip().partition(b" ")
    return b"Bearer " + token.strip() if scheme.lower() == b"bearer" else authorization


def _problem(status: int, detail: str) -> Problem:
    return Problem(status=status, code=Code.NOT_AUTHORIZED.value, detail=detail)
