"""A server's record of distribution: which authorizations it has granted (R7a).

May import nothing of licraft. Grant, renew and release are O(1); expiry is by a timing
wheel, O(1) for each authorization and `ttl`. Times are seconds on the server's own
clock and arguments. The record does not decide whether a grant is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

_SLOT_S = 0.25


class Authorization:
    """Seats of one feature that one client may use until `expires_s`.

    `client` is (id, user, host, pid, app). Only
    `expires_s`, `heard_s` and the wheel's own `slot` change.
    """

    __slots__ = (
        "client",
        "count",
        "expires_s",
        "feature",
        "granted_at_s",
        "heard_s",
        "id",
        "slot",
        "token",
    )

    def __init__(
        self,
        id: str,
        feature: str,
        count: int,
        token: str,
        client: tuple[str, str, str, int, str],
        granted_at_s: float,
    ) -> None:
        """A new authorization; `granted_at_s` is wall-clock time, for people."""
        self.id = id
        self.feature = feature
        self.count = count
        self.token = token
        self.client = client
        self.granted_at_s = granted_at_s
        self.heard_s = 0.0
        self.expires_s = 0.0
        self.slot = 0


class Record:
    """The authorizations of one server, by id and by token, and what they add up to."""

    def __init__(self) -> None:
        self._by_id: dict[str, Authorization] = {}
        self._by_token: dict[str, Authorization] = {}
        self._leaving: dict[str, Authorization] = {}
        self._wheel: dict[int, dict[str, Authorization]] = {}
        self._swept: int | None = None
        self.in_use: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._by_id) + len(self._leaving)

    def __iter__(self) -> Iterator[Authorization]:
        return chain(self._by_id.values(), self._leaving.values())

    def get(self, id: str) -> Authorization | None:
        """The authorization of this id, if it is on record."""
        return self._by_id.get(id)

    def find(self, token: str) -> Authorization | None:
        """The authorization of exactly this token, if it is on record."""
        return self._by_token.get(token)

    def grant(self, authorization: Authorization, now_s: float, expires_s: float) -> None:
        """Add an authorization; its id must not be on record."""
        if authorization.id in self._by_id:
            raise ValueError(f"authorization {authorization.id} is on record")
        self._by_id[authorization.id] = authorization
        self._by_token[authorization.token] = authorization
        feature = authorization.feature
        self.in_use[feature] = self.in_use.get(feature, 0) + authorization.count
        authorization.heard_s = now_s
        authorization.expires_s = expires_s
        self._file(authorization)

    def renew(self, authorization: Authorization, now_s: float, expires_s: float) -> None:
        """Note a heartbeat; the wheel finds the later expiry when the old one comes up."""
        authorization.heard_s = now_s
        authorization.expires_s = expires_s

    def release(self, id: str) -> Authorization | None:
        """Remove an authorization; returns it, or None if it is not on record."""
        authorization = self._take_out(id)
        if authorization is not None:
            self.in_use[authorization.feature] -= authorization.count
        return authorization

    def leave(self, id: str) -> Authorization | None:
        """Begin to move an authorization to another server.

        It is neither renewed nor does it expire, and its seats stay in use, until `left`.
        """
        authorization = self._take_out(id)
        if authorization is not None:
            self._leaving[id] = authorization
        return authorization

    def left(self, id: str) -> Authorization | None:
        """End that, whatever became of it: returns what is not on record any more."""
        authorization = self._leaving.pop(id, None)
        if authorization is not None:
            self.in_use[authorization.feature] -= authorization.count
        return authorization

    def leaves(self, id: str) -> bool:
        """Whether an authorization is on its way to another server."""
        return id in self._leaving

    def _take_out(self, id: str) -> Authorization | None:
        authorization = self._by_id.pop(id, None)
        if authorization is None:
            return None
        del self._by_token[authorization.token]
        slot = self._wheel[authorization.slot]
        del slot[id]
        if not slot:
            del self._wheel[authorization.slot]
        return authorization

    def expire(self, now_s: float) -> list[Authorization]:
        """Remove and return every authorization whose time has run out."""
        current = int(now_s / _SLOT_S)
        first = min(self._wheel, default=current) if self._swept is None else self._swept
        gone: list[Authorization] = []
        # After a long pause the wheel has fewer slots than the time that went by.
        due = (
            range(first, current)
            if current - first <= len(self._wheel)
            else sorted(slot for slot in self._wheel if slot < current)
        )
        for slot in due:
            for authorization in self._wheel.pop(slot, {}).values():
                if authorization.expires_s <= now_s:
                    gone.append(authorization)
                else:
                    self._file(authorization)
        self._swept = max(current, self._swept or current)
        for authorization in gone:
            del self._by_id[authorization.id]
            del self._by_token[authorization.token]
            self.in_use[authorization.feature] -= authorization.count
        return gone

    def clear(self) -> None:
        """Forget everything."""
        self._by_id.clear()
        self._by_token.clear()
        self._leaving.clear()
        self._wheel.clear()
        self.in_use.clear()

    def _file(self, authorization: Authorization) -> None:
        """Put an authorization into the slot in which its time runs out."""
        slot = int(authorization.expires_s / _SLOT_S)
        if self._swept is not None and slot < self._swept:
            slot = self._swept
        authorization.slot = slot
        due = self._wheel.get(slot)
        if due is None:
            due = self._wheel[slot] = {}
        due[authorization.id] = authorization
