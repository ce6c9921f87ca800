"""What a license server says to clients: grants, refusals, and the list of servers.

May import the core, `wire` and this room. Decides nothing: it puts into words what was
decided. Source: interfaces, "Client calls"; claim R26.
"""

from __future__ import annotations

import asyncio
from typing import cast

import msgspec

from licraft.core.license import CodeStatus, covers
from licraft.core.outcomes import Code
from licraft.core.priority import list_version, priority_list
from licraft.core.record import Authorization
from licraft.core.state import PoolState
from licraft.core.table import FeaturePool
from licraft.replication.engine import EngineStatus
from licraft.server.license_keeper import LicenseKeeper
from licraft.server.standing import Standing
from licraft.server.times import iso
from licraft.wire import Authorization as Granted
from licraft.wire import (
    HeartbeatAnswer,
    HeartbeatResult,
    Problem,
    ServerEntry,
    ServerList,
)

_ELECTION_S = 2.5
_LOOK_S = 0.05


class Answers:
    """The bodies of one server's answers."""

    def __init__(self, server: str, standing: Standing, keeper: LicenseKeeper) -> None:
        self._server = server
        self._standing = standing
        self._keeper = keeper
        self._granted_at = (0, "")
        # Encoded once for each version: it is part of every answer to a checkout.
        self._servers = cast(ServerList, msgspec.Raw(b"null"))
        self._version = -1

    def refresh(self, state: PoolState, status: EngineStatus) -> None:
        """Make the leader priority list anew, if it has changed (R26)."""
        version = list_version(state, status.leader, status.term)
        if version == self._version:
            return
        places = [
            ServerEntry(p.name, p.api, "leader" if p.leads else "follower", p.status)
            for p in priority_list(state, status.leader)
        ]
        encoded = msgspec.json.encode(ServerList(version, places))
        self._servers = cast(ServerList, msgspec.Raw(encoded))
        self._version = version

    def granted(self, a: Authorization, ttl_s: float) -> Granted:
        """An authorization, as its holder gets it."""
        second = int(a.granted_at_s)
        if second != self._granted_at[0]:
            self._granted_at = (second, iso(a.granted_at_s))
        return Granted(
            a.id,
            a.token,
            a.feature,
            a.count,
            self._server,
            ttl_s,
            ttl_s / 3,
            self._granted_at[1],
            self._servers,
        )

    def heartbeats(self, results: list[HeartbeatResult], version: int) -> HeartbeatAnswer:
        """Results, and the server list if the client's is older."""
        return HeartbeatAnswer(results, self._servers if self._version > version else None)

    def refusal(self, recovering_too: bool = True) -> Problem | None:
        """Why nothing may be granted here now, with the list of where to go instead.

        Without `recovering_too` only why nothing at all may be decided here: one that
        recovers or drains still renews, and takes an administrator's orders.
        """
        name, standing = self._server, self._standing
        if standing.stopping:
            return self.elsewhere(Code.DRAINING, f"{name} is stopping")
        if standing.leaving:
            return self.elsewhere(Code.DRAINING, f"{name} is being removed from the pool")
        if not standing.acts():
            detail = f"{name} does not hold its lease: it hears no majority of the pool"
            return self.elsewhere(Code.NO_QUORUM, detail)
        left_s = standing.recovering_s()
        if recovering_too and left_s:
            detail = f"{name} lost its record in a crash and recovers for {left_s:.0f} s"
            return self.elsewhere(Code.RECOVERING, detail, left_s)
        return self.drains() if recovering_too and standing.draining else None

    async def order_refusal(self) -> Problem | None:
        """Why an administrator's order cannot be taken here now.

        An election that outlasts the lease is waited for, `_ELECTION_S` at most: a client
        has other servers to ask at once, a person has asked this one.
        """
        deadline_s = asyncio.get_running_loop().time() + _ELECTION_S
        while True:
            refusal = self.refusal(recovering_too=False)
            waited = asyncio.get_running_loop().time() >= deadline_s
            if refusal is None or refusal.code != Code.NO_QUORUM or waited:
                return refusal
            await asyncio.sleep(_LOOK_S)

    def drains(self) -> Problem:
        """This server is drained by an administrator's order: go elsewhere, with what you hold."""
        return self.elsewhere(Code.DRAINING, f"{self._server} is being drained: ask another server")

    def elsewhere(self, code: Code, detail: str, retry_after_s: float = 1.0) -> Problem:
        """A refusal that sends the client to another server."""
        status = 429 if code is Code.OVERLOADED else 503
        return Problem(status, code, detail, retry_after=retry_after_s, servers=self._servers)

    def denied(
        self, code: Code, pool: FeaturePool, count: int, in_use: int, waiting: int
    ) -> Problem:
        """Why a request for `count` seats that was understood gets none."""
        if code is Code.NO_SEATS:
            asked = f"{count} asked for" if count > 1 else "none left"
            detail = f"{pool.feature}: {asked}, {in_use} of {pool.deployed} seats are in use"
            bound = _bound(pool, self._server, count) if in_use + count <= pool.deployed else ""
            return Problem(
                409,
                code,
                detail + bound,
                in_use=in_use,
                deployed=pool.deployed,
                waiting=waiting,
            )
        if code is Code.OVERLOADED:
            return self.elsewhere(code, f"{pool.feature}: too many requests wait here")
        if code is Code.INVALID_REQUEST:
            return Problem(400, code, "another request used this id", field="id")
        detail = f"{self._server} could not grant in time"
        return self.refusal() or self.elsewhere(code, detail)

    def unknown(self, feature: str, state: PoolState) -> Problem:
        """There is no such feature."""
        known = ", ".join(sorted(state.table.features)[:20]) or "none: no license is installed"
        detail = f"no feature {feature!r} in this pool; it has {known}"
        return Problem(404, Code.UNKNOWN_FEATURE, detail, field="feature")

    def unlicensed(self, pool: FeaturePool, version: str | None) -> Problem | None:
        """Why a feature grants nothing, or None if it is licensed."""
        feature = pool.feature
        if pool.status is not CodeStatus.VALID:
            detail = f"{feature}: {license_fault(pool)}"
        elif not covers(pool.version, version):
            detail = f"{feature} is licensed up to version {pool.version}, not {version}"
        elif not self._keeper.trusts(feature):
            detail = f"{feature}: {self._server} cannot verify its license code"
        else:
            return None
        return Problem(403, Code.NOT_LICENSED, detail)


def _bound(pool: FeaturePool, server: str, count: int) -> str:
    """What keeps seats that nobody holds from a server: the limits of borrowing, for people."""
    here = pool.allocations.get(server, 0)
    cap = pool.limits_at(server).cap
    if not pool.borrows(server):
        return f"; {server} has {here} of them, and borrowing is off there"
    if cap is not None and cap < max(here + 1, count):
        return f"; {server} has {here} of them, and may not borrow beyond {cap}"
    others = [name for name in pool.allocations if name != server]
    if any(pool.lendable(name) < pool.allocations[name] for name in others):
        return "; others keep theirs, where borrowing is off or has a floor"
    return ""


def license_fault(pool: FeaturePool) -> str:
    """Why a feature grants nothing, for people."""
    match pool.status:
        case CodeStatus.EXPIRED:
            return f"its license expired on {pool.expires}; ask the vendor for a new code"
        case CodeStatus.NOT_STARTED:
            return f"its license starts on {pool.starts}"
        case CodeStatus.OTHER_POOL:
            return "its license code is bound to another pool"
        case CodeStatus.BAD_SIGNATURE:
            return "its license code is not signed by a trusted vendor"
        case CodeStatus.REMOVED:
            return "it is no longer in the license file"
        case _:
            return f"its license code is {pool.status}"
