"""Pools whose leader is killed, seen from outside: licraft and etcd behind one contract.

May import httpx and this room. An acknowledged command is a number that a server said it
has committed; that it is kept can be asked of every server afterwards. In licraft the
numbers are those of license files, in etcd they are keys.

A license file takes the place of all with smaller numbers, so that a lost one is only
seen to be lost while no later one is installed. Therefore numbers are recorded one after
the other at the leader that will be killed, whose death ends what is under way; and what
is committed to see whether the pool works again changes nothing.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from benchmarks.systems import FEATURE, Cluster, write_license

MOVED = "moved"
SEATS = {FEATURE: 100, MOVED: 90}
_MOVED_AT_ONCE = 60
_WAIT_S = 2.0
_REQUEST_S = 10.0
_LOOK_S = 1.0
_LIMITS = httpx.Limits(max_connections=200, max_keepalive_connections=20)
_LAG = 5  # Entries: a server that is this close has caught up; renewals go on meanwhile.


@dataclass(frozen=True, slots=True)
class Standing:
    """Who leads, and since which term, as all servers say that run."""

    leader: str
    term: int


class Ledger(Protocol):
    """A pool that keeps numbers."""

    cluster: Cluster

    async def standing(self, names: Iterable[str]) -> Standing | None:
        """Who leads, if these servers agree, serve, and have what the others have."""
        ...

    async def record(self, name: str, number: int) -> bool:
        """Try once to commit a number through a server; True if that was acknowledged."""
        ...

    async def probe(self, name: str) -> int | None:
        """Try once to commit something that replaces no number; the term in which it was."""
        ...

    async def missing(self, name: str, numbers: Collection[int]) -> int | None:
        """How many of these acknowledged numbers a server does not have; None: no answer."""
        ...

    async def work(self, name: str, turn: int) -> bool:
        """One round of a client's work at a server; whether the server did it."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class LicraftLedger:
    """License files of growing sequence number, beside checkouts and moves of seats."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        if cluster.vendor is None:
            raise ValueError("the pool has no vendor to write licenses")
        # The vendor signs codes, not the file's number: the same codes serve for each.
        self._license = write_license(cluster.vendor, 0, SEATS)
        self._admins = _clients(cluster, cluster.admin_token)
        self._users = _clients(cluster, cluster.client_token)

    async def standing(self, names: Iterable[str]) -> Standing | None:
        """Who leads, if these servers serve, agree, and have applied the same log."""
        views = await asyncio.gather(*(_asked(self._users[n], "GET", "/v1/pool") for n in names))
        if not all(view and view["state"] == "serving" for view in views):
            return None
        told = {(view["leader"], view["term"]) for view in views}
        applied = [view["applied_index"] for view in views]
        if len(told) != 1 or max(applied) - min(applied) > _LAG:
            return None
        leader, term = told.pop()
        return Standing(leader, term) if leader else None

    async def record(self, name: str, number: int) -> bool:
        """Install the license file of this sequence number."""
        text = self._numbered(number)
        answer = await _asked(self._admins[name], "PUT", "/v1/license", content=text)
        return bool(answer and answer["sequence"] == number)

    async def probe(self, name: str) -> int | None:
        """Offer the license of number 1: the log refuses it, since a later one is installed.

        The refusal is the outcome of a committed command, as the term shows that follows:
        a server that refused by itself would still be in that of the leader that died.
        """
        try:
            answer = await self._admins[name].put("/v1/license", content=self._numbered(1))
        except httpx.TransportError:
            return None
        if answer.status_code != 409:
            return None
        view = await _asked(self._users[name], "GET", "/v1/pool")
        return int(view["term"]) if view is not None else None

    async def missing(self, name: str, numbers: Collection[int]) -> int | None:
        """How many of the numbers are greater than the installed one: a later file replaces."""
        answer = await _asked(self._users[name], "GET", "/v1/license")
        return sum(n > answer["sequence"] for n in numbers) if answer is not None else None

    async def work(self, name: str, turn: int) -> bool:
        """Check a seat out and in; each fourth turn so many that they must be moved first."""
        moves = turn % 4 == 0
        request = {
            "feature": MOVED if moves else FEATURE,
            "count": _MOVED_AT_ONCE if moves else 1,
            "wait": _WAIT_S if moves else 0,
        }
        client = self._users[name]
        granted = await _asked(client, "POST", "/v1/authorizations", json=request)
        if granted is None:
            return False
        body = {"tokens": [granted["token"]]}
        return await _asked(client, "POST", "/v1/checkins", json=body) is not None

    def _numbered(self, number: int) -> str:
        return self._license.replace("sequence: 0", f"sequence: {number}", 1)

    async def close(self) -> None:
        """Close the connections."""
        for client in (*self._admins.values(), *self._users.values()):
            await client.aclose()


class EtcdLedger:
    """A key for each number, through etcd's JSON gateway."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._clients = _clients(cluster, "")

    async def standing(self, names: Iterable[str]) -> Standing | None:
        """Who leads, if these nodes agree and have applied the same log."""
        wanted = list(names)
        path = "/v3/maintenance/status"
        found = await asyncio.gather(
            *(_asked(self._clients[n], "POST", path, json={}) for n in wanted)
        )
        if not all(found):
            return None
        ids = {status["header"]["member_id"]: n for n, status in zip(wanted, found, strict=True)}
        told = {(status.get("leader"), int(status["raftTerm"])) for status in found}
        applied = [int(status["raftAppliedIndex"]) for status in found]
        if len(told) != 1 or max(applied) - min(applied) > _LAG:
            return None
        leader, term = told.pop()
        return Standing(ids[leader], term) if leader in ids else None

    async def record(self, name: str, number: int) -> bool:
        """Put the number's key."""
        body = {"key": _key("ledger", number), "value": _key("", number)}
        return await _asked(self._clients[name], "POST", "/v3/kv/put", json=body) is not None

    async def probe(self, name: str) -> int | None:
        """Put a key that is no number's; the answer names the term."""
        body = {"key": _key("probe", 0), "value": _key("", 0)}
        answer = await _asked(self._clients[name], "POST", "/v3/kv/put", json=body)
        return int(answer["header"]["raft_term"]) if answer is not None else None

    async def missing(self, name: str, numbers: Collection[int]) -> int | None:
        """How many of the numbers have no key at this node itself."""
        if not numbers:
            return 0
        body = {
            "key": _key("ledger", min(numbers)),
            "range_end": _key("ledger", max(numbers) + 1),
            "serializable": True,
            "keys_only": True,
        }
        answer = await _asked(self._clients[name], "POST", "/v3/kv/range", json=body)
        if answer is None:
            return None
        found = {pair["key"] for pair in answer.get("kvs", ())}
        return sum(_key("ledger", number) not in found for number in numbers)

    async def work(self, name: str, turn: int) -> bool:
        """Put a key and delete it."""
        client, key = self._clients[name], _key("work", turn)
        put = await _asked(client, "POST", "/v3/kv/put", json={"key": key, "value": key})
        if put is None:
            return False
        deleted = await _asked(client, "POST", "/v3/kv/deleterange", json={"key": key})
        return deleted is not None

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.aclose()


def _clients(cluster: Cluster, token: str) -> dict[str, httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return {
        name: httpx.AsyncClient(
            base_url=url, headers=headers, timeout=_REQUEST_S, limits=_LIMITS, trust_env=False
        )
        for name, url in cluster.urls.items()
    }


async def _asked(client: httpx.AsyncClient, method: str, path: str, **body: Any) -> Any:
    """The answer's body, or None if there was none or it was not a success."""
    timeout_s = _LOOK_S if not body or body == {"json": {}} else _REQUEST_S
    try:
        answer = await client.request(method, path, timeout=timeout_s, **body)
    except httpx.TransportError:
        return None
    return answer.json() if answer.is_success else None


def _key(kind: str, number: int) -> str:
    return base64.b64encode(f"{kind}/{number:012d}".encode()).decode()
