"""When a server is insufficient, how much it wants, and whom the leader asks next.

May import `table` and `commands`. Source: pool protocol, section 6; claims B1, B3, B5,
B13 to B15, B30, B31.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from licraft.core.commands import Level, Reason
from licraft.core.table import FeaturePool, PendingBorrow


def insufficient(in_use: int, allocation: int, threshold: float) -> bool:
    """Whether more than `threshold` of an allocation is in use (B1)."""
    if allocation == 0:
        return in_use > 0
    return in_use / allocation > threshold


def sufficient_allocation(in_use: int, threshold: float) -> int:
    """The smallest allocation of which `in_use` is not more than `threshold`."""
    size = max(in_use, math.floor(in_use / threshold) - 1)
    while insufficient(in_use, size, threshold):
        size += 1
    return size


def shortage(in_use: int, allocation: int, threshold: float) -> int:
    """The least number of seats that makes an allocation sufficient; 0 if it is."""
    return max(0, sufficient_allocation(in_use, threshold) - allocation)


def surplus(in_use: int, allocation: int, threshold: float) -> int:
    """The greatest number of seats that can be given without becoming insufficient."""
    return max(0, allocation - sufficient_allocation(in_use, threshold))


@dataclass(frozen=True, slots=True)
class Give:
    """The leader itself gives at this level."""

    level: Level


@dataclass(frozen=True, slots=True)
class Ask:
    """The leader asks `giver` at this level."""

    giver: str
    level: Level


@dataclass(frozen=True, slots=True)
class Wait:
    """`giver` was asked at this level and has not answered."""

    giver: str
    level: Level


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Everybody who has seats was asked."""


Step = Give | Ask | Wait | Exhausted

_RANK = {Level.OFFERED: 0, Level.SPARE: 1, Level.UNUSED: 2}


def next_step(
    pool: FeaturePool,
    borrow: PendingBorrow,
    leader: str,
    spare: Mapping[str, int],
    passed: Collection[tuple[str, Level]] = (),
) -> Step:
    """What the leader does next for a borrow that still lacks seats.

    `spare` is the surplus last reported by each functioning server; `passed` are the
    (server, level) that were asked and let the leader wait too long. First everybody
    within their thresholds, the leader before the others and the largest surplus before
    the smaller; then, only for what is needed at once, all that is unused.
    """
    if borrow.server == leader and borrow.reason is Reason.FAILOVER and not borrow.leader_gave:
        return Give(Level.SPARE)  # Nothing, to itself: the free pool and the down servers follow.
    givers = sorted(
        (name for name in spare if name not in (leader, borrow.server)),
        key=lambda name: -spare[name],
    )
    if borrow.server != leader:
        givers.insert(0, leader)
    for level in (Level.SPARE, Level.UNUSED):
        if level is Level.UNUSED and not borrow.need:
            break
        for giver in givers:
            done = borrow.answered.get(giver, Level.OFFERED)
            if _RANK[done] >= _RANK[level] or (giver, level) in passed:
                continue
            if not pool.lendable(giver) and (giver != leader or borrow.leader_gave):
                continue
            if giver == leader:
                return Give(level)
            if borrow.asked.get(giver) is level:
                return Wait(giver, level)
            return Ask(giver, level)
    return Exhausted()
