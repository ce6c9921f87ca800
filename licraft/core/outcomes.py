"""Why a request is denied, what became of a command, and what changed: closed lists.

May import nothing. The text of each `Code` is the `code` of a problem document and
part of the public contract: members are added, never renamed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """A problem code, in order of precedence: the first that applies is reported."""

    INVALID_REQUEST = "invalid_request"
    NOT_AUTHORIZED = "not_authorized"
    TOO_LARGE = "too_large"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    OVERLOADED = "overloaded"
    NO_QUORUM = "no_quorum"
    RECOVERING = "recovering"
    DRAINING = "draining"
    UNKNOWN_FEATURE = "unknown_feature"
    NOT_LICENSED = "not_licensed"
    EXCLUDED = "excluded"
    LIMIT_REACHED = "limit_reached"
    NO_SEATS = "no_seats"
    REMOVED = "removed"
    EXCEEDS_ENTITLEMENT = "exceeds_entitlement"
    STALE_SEQUENCE = "stale_sequence"
    INVALID_LICENSE = "invalid_license"
    OUTCOME_UNKNOWN = "outcome_unknown"
    INTERNAL = "internal"


class Effect(StrEnum):
    """What became of a committed command."""

    DONE = "done"
    NONE = "none"  # overtaken: what it was based on is no longer so
    STALE = "stale"  # its server is down or has come back as a later incarnation
    REFUSED = "refused"  # against a rule; the outcome's `code` says which


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one command: `count` is what it moved, or what its rule reports."""

    effect: Effect
    count: int = 0
    code: str = ""


DONE = Outcome(Effect.DONE)
OVERTAKEN = Outcome(Effect.NONE)
STALE = Outcome(Effect.STALE)


@dataclass(frozen=True, slots=True)
class PoolFormed:
    """The pool has members and timings from now on."""


@dataclass(frozen=True, slots=True)
class MembersChanged:
    """A server joins, counts or leaves: `state` is its word now, empty when it is gone."""

    server: str
    state: str


@dataclass(frozen=True, slots=True)
class ServerCameUp:
    """A server is up as `incarnation`; its record before is void if it was `reclaimed`.

    What was `adopted` while it was down is not on its record any more.
    """

    server: str
    incarnation: int
    nonce: str
    previous: int
    reclaimed: bool
    adopted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServerWentDown:
    """A server was designated as down."""

    server: str


@dataclass(frozen=True, slots=True)
class SeatsReclaimed:
    """What a down server left may be borrowed."""

    server: str


@dataclass(frozen=True, slots=True)
class LeaseRenewed:
    """A server's renewal `serial` counts."""

    server: str
    serial: int


@dataclass(frozen=True, slots=True)
class AllocationsChanged:
    """Seats of `feature` moved: the distribution criteria sync message (B6, B33)."""

    feature: str


@dataclass(frozen=True, slots=True)
class BorrowOpened:
    """A borrow still lacks seats after what was free: the servers are asked."""

    feature: str
    server: str


@dataclass(frozen=True, slots=True)
class SeatsBorrowed:
    """A borrow of `server` got `count` seats; `source` is leader, free, down or others."""

    feature: str
    server: str
    borrow: str
    reason: str
    source: str
    count: int


@dataclass(frozen=True, slots=True)
class BorrowEnded:
    """A borrow is over, or nobody has more to give while its requests go on waiting."""

    feature: str
    server: str
    borrow: str
    exhausted: bool


@dataclass(frozen=True, slots=True)
class Solicited:
    """`giver` is asked for seats for a borrow."""

    feature: str
    borrower: str
    borrow: str
    giver: str
    level: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """`server` asks `issuer` for an authorization."""

    id: str
    feature: str
    count: int
    issuer: str
    server: str
    server_incarnation: int


@dataclass(frozen=True, slots=True)
class Moved:
    """An authorization is `server`'s from now on, with its seats; it was `issuer`'s.

    With a count of 0 nothing moved: the issuer does not have it, and if it was `struck` off
    nobody should. `adopted` says that the issuer is down.
    """

    id: str
    feature: str
    count: int
    client: tuple[str, str, str, int, str]
    issuer: str
    server: str
    adopted: bool
    struck: bool = False


@dataclass(frozen=True, slots=True)
class LicenseChanged:
    """A license file was installed, or its entitlements changed with the day."""

    sequence: int


@dataclass(frozen=True, slots=True)
class LeaderPreferred:
    """An administrator wants `server` to lead."""

    server: str


Event = (
    PoolFormed
    | MembersChanged
    | ServerCameUp
    | ServerWentDown
    | SeatsReclaimed
    | LeaseRenewed
    | AllocationsChanged
    | BorrowOpened
    | SeatsBorrowed
    | BorrowEnded
    | Solicited
    | Claimed
    | Moved
    | LicenseChanged
    | LeaderPreferred
)


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying one entry gave: an outcome for each command, and what changed."""

    index: int
    server: str
    incarnation: int
    serial: int
    outcomes: tuple[Outcome, ...]
    events: tuple[Event, ...]
