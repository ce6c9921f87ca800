"""Why a request is denied or a command had no effect: closed lists of codes.

The text of each member is the `code` of a problem document and part of the
public contract: members are added, never renamed.
"""

from __future__ import annotations

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
    EXCEEDS_ENTITLEMENT = "exceeds_entitlement"
    STALE_SEQUENCE = "stale_sequence"
    INVALID_LICENSE = "invalid_license"
    OUTCOME_UNKNOWN = "outcome_unknown"
    INTERNAL = "internal"


class Effect(StrEnum):
    """What became of a committed command."""

    DONE = "done"
    NONE = "none"  # overtaken: what it was based on is no longer so
    REPEATED = "repeated"  # its serial was applied before; the first result stands
    STALE = "stale"  # of an earlier incarnation of its server
    REFUSED = "refused"  # against a rule; the outcome's code says which
