"""Lease arithmetic: until when a server may act, and how long others must wait for it.

May import nothing. All times are seconds and arguments; `drift` is the greatest
difference of two clocks' rates. Source: pool protocol, sections 2, 4 and 5.
"""

from __future__ import annotations


def lease_end(first_proposed_s: float, lease_s: float) -> float:
    """A renewal that was applied lets its server act until then, by the server's clock."""
    return first_proposed_s + lease_s


def down_due(renewal_applied_s: float, lease_s: float, drift: float) -> float:
    """The earliest time, by the leader's clock, at which a silent server may be called down."""
    return renewal_applied_s + lease_s * (1 + drift)


def reclaim_due(down_applied_s: float, ttl_s: float, drift: float) -> float:
    """The earliest time, by the leader's clock, at which a down server's seats are free."""
    return down_applied_s + ttl_s * (1 + drift)


def expiry(heard_s: float, ttl_s: float, drift: float) -> float:
    """When the issuer may drop an authorization last heard of at `heard_s`, by its clock."""
    return heard_s + ttl_s * (1 + drift)


def recovery_end(started_s: float, ttl_s: float, drift: float) -> float:
    """Until when a server that lost its record gives nothing away, by its clock."""
    return started_s + ttl_s * (1 + drift)
