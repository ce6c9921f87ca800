"""An administrator who is busy all the time, at any server, whatever happens to the pool.

May import `history` and `pool`. What is ordered comes from the seed; each order and its
answer are kept. `tidy` ends with what a pool should have: all seats deployed, nobody drained.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from support.over_issue import now
from support.processes import Answer

from chaos.history import Keeper, Order
from chaos.pool import ChaosPool

PAUSES_S = (2.0, 10.0)
TIDY_S = 60.0
_TIMEOUT_S = 20.0
_AGAIN_S = 0.2
_RETIRED_PART = 0.2


@dataclass(frozen=True, slots=True)
class Wanted:
    """One order: what to call it, and the request for it."""

    what: str
    method: str
    path: str
    body: object
    feature: str = ""


class Administrator:
    """Orders all the time in a thread of its own; used as a context manager that ends it."""

    def __init__(
        self, pool: ChaosPool, seats: Mapping[str, int], seed: int, keeper: Keeper
    ) -> None:
        self._pool = pool
        self._seats = dict(seats)
        self._random = random.Random(f"administrator {seed}")
        self._keeper = keeper
        self._retired = dict.fromkeys(seats, 0)
        self._drained = ""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def __enter__(self) -> Administrator:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(_TIMEOUT_S + 5.0)

    def _live(self) -> None:
        while not self._ending.wait(self._random.uniform(*PAUSES_S)):
            self._give(self._next(), self._random.choice(self._pool.names))

    def _next(self) -> Wanted:
        chance = self._random
        feature = chance.choice(sorted(self._seats))
        if self._drained and chance.random() < 0.5:
            return drain(self._drained, on=False)
        match chance.randrange(6):
            case 0:
                return drain(chance.choice(self._pool.names), on=True)
            case 1:
                return Wanted(
                    "leader", "POST", "/v1/leader", {"server": chance.choice(self._pool.names)}
                )
            case 2 | 3:
                return self._resize(feature)
            case _:
                return self._share(feature)

    def _share(self, feature: str) -> Wanted:
        """Other shares for the servers, with some seats left over; at times none at all."""
        left = self._seats[feature] - self._retired[feature]
        shares = {}
        for name in self._pool.names:
            shares[name] = self._random.randint(0, left)
            left -= shares[name]
        wanted = None if self._random.random() < 0.3 else shares
        path = f"/v1/features/{feature}/distribution"
        what = f"distribution of {feature}: {wanted}"
        return Wanted(what, "PUT", path, {"distribution": wanted}, feature)

    def _resize(self, feature: str) -> Wanted:
        """Retire some unused seats, or deploy again what was retired."""
        retired = self._retired[feature]
        most = round(self._seats[feature] * _RETIRED_PART)
        return resize(feature, retired or -self._random.randint(1, most))

    def _give(self, wanted: Wanted, server: str) -> Order:
        sent_s = now()
        answer = self._pool.ask(
            server, wanted.method, wanted.path, wanted.body, timeout_s=_TIMEOUT_S
        )
        order = _order(wanted, server, sent_s, answer)
        self._keeper.note(order)
        self._learn(wanted, order)
        return order

    def _learn(self, wanted: Wanted, order: Order) -> None:
        if order.deployed is not None:
            self._retired[order.feature] = self._seats[order.feature] - order.deployed
        if wanted.path.endswith("/drain") and not order.code:
            self._drained = wanted.path.split("/")[-2]
        elif wanted.path.endswith("/undrain") and not order.code:
            self._drained = ""

    def tidy(self) -> list[str]:
        """When nobody harms the pool any more, put everything in order; what could not be."""
        until_s = now() + TIDY_S
        lacking = [drain(name, on=False) for name in self._pool.names]
        lacking += [Wanted("leader", "POST", "/v1/leader", {"server": self._pool.names[0]})]
        for feature, seats in sorted(self._seats.items()):
            shares = {"distribution": None}
            path = f"/v1/features/{feature}/distribution"
            lacking.append(Wanted(f"distribution of {feature}: none", "PUT", path, shares, feature))
            lacking.append(resize(feature, seats))
        while lacking and now() < until_s:
            lacking = [wanted for wanted in lacking if not self._put_right(wanted)]
            time.sleep(_AGAIN_S)  # between two tries, as long as something is lacking
        return [wanted.what for wanted in lacking]

    def _put_right(self, wanted: Wanted) -> bool:
        """Give an order that may have been given before; whether it is so now."""
        server = self._random.choice(self._pool.names)
        if not wanted.path.endswith("/allocations"):
            order = self._give(wanted, server)
            # Nothing is to be done for a server that is not being drained.
            return order.code in ("", "invalid_request")
        answer = self._pool.get(server, f"/v1/features/{wanted.feature}")
        if answer.status != 200:
            return False
        lacks = self._seats[wanted.feature] - int(answer["deployed"])
        if lacks:
            self._give(resize(wanted.feature, lacks), server)
        return not lacks


def drain(server: str, *, on: bool) -> Wanted:
    """Have a server give its seats away, or take them again."""
    word = "drain" if on else "undrain"
    return Wanted(f"{word} {server}", "POST", f"/v1/servers/{server}/{word}", None)


def resize(feature: str, count: int) -> Wanted:
    """Deploy more seats of a feature, or fewer."""
    path = f"/v1/features/{feature}/allocations"
    return Wanted(f"{count:+d} {feature}", "POST", path, {"count": count}, feature)


def _order(wanted: Wanted, server: str, sent_s: float, answer: Answer) -> Order:
    done = 200 <= answer.status < 300
    body = answer.body if isinstance(answer.body, dict) else {}
    return Order(
        sent_s,
        now(),
        server,
        wanted.what,
        "" if done else answer.code or f"status {answer.status}",
        int(body.get("index", 0)) if done else 0,
        wanted.feature,
        int(body["deployed"]) if done and "deployed" in body else None,
    )
