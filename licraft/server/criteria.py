"""How an administrator's wishes about a feature's seats are committed, and refused in words.

May import the core, `errors`, `wire` and this room. Decides nothing about seats: the rules
are the core's, here a request becomes a command and its outcome an answer. Source:
interfaces, "Administration"; claims B7 to B12, B21 to B26.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from msgspec import UNSET, UnsetType

from licraft.core.commands import AddAllocations, Command, Limits, SetBorrowing, SetDistribution
from licraft.core.distribution import format_distribution, parse_distribution
from licraft.core.outcomes import Code, Effect, Outcome
from licraft.core.state import PoolState
from licraft.core.table import FeaturePool
from licraft.server.answers import Answers
from licraft.server.pool import ReplicatedPool
from licraft.wire import AllocationsRequest, BorrowingRequest, DistributionRequest, Problem

T = TypeVar("T")

Commit = Callable[[Command], Awaitable[Outcome | Problem]]


class Criteria:
    """The changes of distribution, allocations and borrowing that one server is asked for."""

    def __init__(self, pool: ReplicatedPool, answers: Answers, commit: Commit) -> None:
        self._pool = pool
        self._answers = answers
        self._commit = commit

    @property
    def state(self) -> PoolState:
        """The replicated state, to be read."""
        return self._pool.state

    async def distribute(self, feature: str, request: DistributionRequest) -> Problem | None:
        """Share a feature's seats out (B7, B21); None when that is committed."""
        try:
            target = _target(request.distribution)
        except ValueError as fault:
            return Problem(400, Code.INVALID_REQUEST, str(fault), field="distribution")

        def exceeds(pool: FeaturePool, _: int) -> str:
            wanted = f"{format_distribution(target)} is {sum(seats for _, seats in target)} seats"
            return f"{wanted}, but {pool.goal} may be deployed: {_numbers(pool)}"

        names = [name for name, _ in target]
        return await self._change(feature, SetDistribution(feature, target), names, exceeds)

    async def add(self, feature: str, request: AllocationsRequest) -> Problem | None:
        """Deploy more of a feature's seats, or retire some (B9, B23); None when committed."""
        if not request.count:
            return Problem(400, Code.INVALID_REQUEST, "0 seats change nothing", field="count")
        to = request.to or ""

        def exceeds(pool: FeaturePool, left: int) -> str:
            if request.count > 0:
                return f"{request.count} more are too many, {left} can be added: {_numbers(pool)}"
            whose = f" of {to}'s" if to else ""
            return f"{-request.count} cannot retire, only {left}{whose} can: {_numbers(pool)}"

        command = AddAllocations(feature, request.count, to)
        return await self._change(feature, command, [to] if to else [], exceeds)

    async def bound(self, feature: str, request: BorrowingRequest) -> Problem | None:
        """Bound borrowing of a feature, at one server or at all; None when committed."""
        asked = {
            "enabled": request.enabled,
            "threshold": request.threshold,
            "floor": request.floor,
            "cap": request.cap,
        }
        if all(value is UNSET for value in asked.values()):
            detail = "nothing to change: give enabled, threshold, floor or cap"
            return Problem(400, Code.INVALID_REQUEST, detail)
        limits = Limits(
            _given(request.enabled),
            _given(request.threshold),
            _given(request.floor),
            _given(request.cap),
        )
        defaults = tuple(name for name, value in asked.items() if value is None)
        server = request.server or ""
        command = SetBorrowing(feature, server, limits, defaults)
        return await self._change(feature, command, [server] if server else [], None)

    async def _change(
        self,
        feature: str,
        command: AddAllocations | SetBorrowing | SetDistribution,
        servers: list[str],
        exceeds: Callable[[FeaturePool, int], str] | None,
    ) -> Problem | None:
        """Commit a change; what is refused is put into words from the state after it."""
        outcome = await self._commit(command)
        if isinstance(outcome, Problem):
            return outcome
        pool = self.state.table.features.get(feature)
        if pool is None or outcome.code == Code.UNKNOWN_FEATURE:
            return self._answers.unknown(feature, self.state)
        if outcome.effect is Effect.DONE:
            return None
        if outcome.code == Code.NOT_FOUND:
            return self._unknown_server(servers)
        if outcome.code == Code.DRAINING:
            detail = f"{servers[0]} gets no seats: it is being drained, or leaves the pool"
            return Problem(409, Code.INVALID_REQUEST, detail, field="to")
        if outcome.code == Code.EXCEEDS_ENTITLEMENT and exceeds is not None:
            detail = f"{feature}: {exceeds(pool, outcome.count)}"
            return Problem(
                409, outcome.code, detail, entitled=pool.entitled, deployed=pool.deployed
            )
        if outcome.code == Code.INVALID_REQUEST:
            detail = f"{feature}: a floor above the cap leaves nothing between them"
            return Problem(409, Code.INVALID_REQUEST, detail, field="floor")
        detail = "this server came back meanwhile, and its request is void: repeat it"
        return self._answers.elsewhere(Code.NO_QUORUM, detail)

    def _unknown_server(self, servers: list[str]) -> Problem:
        known = self.state.voters
        name = next((name for name in servers if name not in known), servers[0])
        detail = f"no server {name} in this pool; it has {', '.join(known)}"
        return Problem(404, Code.NOT_FOUND, detail, field="server")


def _target(distribution: str | Mapping[str, int] | None) -> tuple[tuple[str, int], ...]:
    """Seats by server; raises ValueError. Nothing, or an empty text or map, is no criteria."""
    if not distribution:
        return ()
    if isinstance(distribution, str):
        return parse_distribution(distribution)
    return tuple(distribution.items())


def _given(value: T | UnsetType | None) -> T | None:
    return None if isinstance(value, UnsetType) else value


def _numbers(pool: FeaturePool) -> str:
    return f"the license entitles to {pool.entitled}, {pool.deployed} are deployed"
