"""Looks at the servers all the time, from outside all cuts, and keeps what is seen.

May import `history` and `pool`. One thread for each server, so that one that does not answer
keeps nobody from being seen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any

import httpx
from support.over_issue import now

from chaos.history import CONDITIONS, Count, Keeper, Seen
from chaos.pool import ChaosPool

LOOK_S = 0.25
_TIMEOUT_S = 1.0
_COUNT_EVERY = 4


class Watch:
    """Threads that look at the servers; used as a context manager, whose end ends them."""

    def __init__(
        self, pool: ChaosPool, keeper: Keeper, stopped: Callable[[], Collection[str]]
    ) -> None:
        """`stopped` names the servers that are stopped by SIGSTOP."""
        self._pool = pool
        self._keeper = keeper
        self._stopped = stopped
        self._seen: dict[str, tuple[str, bool]] = {}
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._look_at, args=(name,), daemon=True) for name in pool.names
        ]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(5.0)

    def well(self) -> set[str]:
        """The servers that were seen to hold their lease when they were last looked at."""
        return {name for name, (condition, _) in self._seen.items() if condition in WELL}

    def _look_at(self, name: str) -> None:
        url, token = self._pool.urls[name], self._pool.admin
        headers = {"authorization": f"Bearer {token}"}
        look = 0
        with httpx.Client(
            base_url=url, headers=headers, timeout=_TIMEOUT_S, trust_env=False
        ) as http:
            while not self._ending.wait(LOOK_S):
                view = _get(http, "/v1/pool")
                self._note(name, self._condition(name, view), bool(view) and leads(view))
                look += 1
                if view is not None and leads(view) and look % _COUNT_EVERY == 0:
                    self._count(_get(http, "/v1/features"))

    def _condition(self, name: str, view: Any) -> str:
        if name in self._stopped():
            return "paused"
        if not self._pool.running(name):
            return "down"
        if view is None:
            return "silent"
        state = str(view["state"])
        return state if state in CONDITIONS else "starting"

    def _note(self, name: str, condition: str, leading: bool) -> None:
        if self._seen.get(name) != (condition, leading):
            self._seen[name] = (condition, leading)
            self._keeper.note(Seen(now(), name, condition, leading))

    def _count(self, features: Any) -> None:
        for feature in (features or {}).get("features", []):
            self._keeper.note(
                Count(now(), feature["feature"], int(feature["in_use"]), int(feature["deployed"]))
            )


WELL = ("serving", "draining")
"""The conditions in which a server holds its lease and knows what it granted."""


def leads(view: Any) -> bool:
    """Whether a server says of itself that it leads."""
    return bool(view["leader"] == view["server"])


def _get(http: httpx.Client, path: str) -> Any:
    try:
        answer = http.get(path)
        return answer.json() if answer.status_code == httpx.codes.OK else None
    except (httpx.TransportError, ValueError):
        return None
