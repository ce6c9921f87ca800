"""How long does it take until a server has borrowed what it lacks?

Pools of three and of five real servers at default settings, 50 features of 100 seats
each, evenly deployed. One client works strictly one request after the other, first
through the leader, then through a follower, and takes one feature after the other:

* at once: one request for all 100 seats. The server has a third or a fifth of them; all
  the others give what they have. Its time is that of one borrow from everybody.
* one by one: 100 requests of one seat. The server borrows as its threshold tells it to,
  before it has none left, so that most requests need not wait.

At the end of each feature the 101st seat must be refused and all are checked in. Each way
and role has features of its own, since seats stay where they went.

Usage: python -m benchmarks.borrowing [--servers 3 5] [--features 50] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.figures import Spread, machine, machine_line
from benchmarks.systems import licraft_servers
from benchmarks.wrk_load import table

_SEATS = 100
_WAIT_S = 10.0
_ROLES = ("leader", "follower")
_WAYS = ("at once", "one by one")


@dataclass(frozen=True, slots=True)
class Borrowing:
    """One way at one server: ms for a feature's 100 seats, ms for a request, s for all."""

    servers: int
    role: str
    way: str
    feature_ms: Spread
    request_ms: Spread
    total_s: float


def measure(servers: int, features: int) -> Iterator[Borrowing]:
    """Every way at the leader and at a follower of one pool."""
    seats = {
        _name(role, way, number): _SEATS
        for role in _ROLES
        for way in _WAYS
        for number in range(features)
    }
    with licraft_servers(servers, seats) as pool:
        first = next(iter(pool.urls.values()))
        headers = {"Authorization": f"Bearer {pool.client_token}"}
        options: dict[str, Any] = {"headers": headers, "timeout": _WAIT_S + 10, "trust_env": False}
        with httpx.Client(base_url=first, **options) as client:
            leader = client.get("/v1/pool").raise_for_status().json()["leader"]
        follower = [name for name in pool.urls if name != leader][-1]
        for role, server in zip(_ROLES, (leader, follower), strict=True):
            with httpx.Client(base_url=pool.urls[server], **options) as client:
                for way in _WAYS:
                    print(f"{servers} servers, {role}, {way}", file=sys.stderr)
                    names = [_name(role, way, number) for number in range(features)]
                    yield _measured(client, servers, role, way, names)


def _measured(
    client: httpx.Client, servers: int, role: str, way: str, features: Sequence[str]
) -> Borrowing:
    """One way at one server, all features."""
    requests_ms: list[float] = []
    features_ms = []
    count = _SEATS if way == "at once" else 1
    for feature in features:
        took_ms, tokens = _take_all(client, feature, count)
        requests_ms += took_ms
        features_ms.append(sum(took_ms))
        refused = _checkout(client, feature, 1, 0)
        if refused.status_code != 409:
            sys.exit(f"the 101st seat of {feature} was not refused: {refused.text[:300]}")
        client.post("/v1/checkins", json={"tokens": tokens}).raise_for_status()
    return Borrowing(
        servers,
        role,
        way,
        Spread.of(features_ms),
        Spread.of(requests_ms),
        sum(features_ms) / 1e3,
    )


def _take_all(client: httpx.Client, feature: str, count: int) -> tuple[list[float], list[str]]:
    """Check out all seats, `count` at a time: how long each request took (ms), and the tokens."""
    took_ms: list[float] = []
    tokens: list[str] = []
    for _ in range(_SEATS // count):
        started = time.perf_counter()
        answer = _checkout(client, feature, count, _WAIT_S)
        took_ms.append((time.perf_counter() - started) * 1e3)
        if answer.status_code != 201:
            sys.exit(f"{feature}: {len(tokens)} requests granted, then: {answer.text[:300]}")
        tokens.append(answer.json()["token"])
    return took_ms, tokens


def _checkout(client: httpx.Client, feature: str, count: int, wait_s: float) -> httpx.Response:
    body = {"feature": feature, "count": count, "wait": wait_s}
    return client.post("/v1/authorizations", json=body)


def _name(role: str, way: str, number: int) -> str:
    return f"{role}-{way.replace(' ', '-')}-{number:03d}"


def _row(one: Borrowing) -> list[str]:
    feature, request = one.feature_ms, one.request_ms
    times = (feature.median, feature.p99, feature.worst, request.median, request.p99, request.worst)
    return [
        str(one.servers),
        one.role,
        one.way,
        *(f"{ms:.1f}" for ms in times),
        f"{one.total_s:.2f}",
    ]


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--servers", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--features", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    found = [one for servers in options.servers for one in measure(servers, options.features)]
    print(f"{machine_line()}\n")
    print(f"{options.features} features of {_SEATS} seats; ms for a feature, ms for a request:\n")
    heads = ["servers", "through", "way", "feature", "p99", "worst", "request", "p99", "worst"]
    print(table([*heads, "all s"], [_row(one) for one in found]))
    if options.json:
        document = {
            "machine": machine(),
            "features": options.features,
            "seats": _SEATS,
            "results": [asdict(one) for one in found],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
