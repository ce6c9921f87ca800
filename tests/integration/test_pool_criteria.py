"""Distribution, allocations and borrowing on real servers: claims B7 to B12, B21 to B26, B32.

Every change is asked for at a server that does not lead. What is asked for while nobody leads
is in `test_pool_elections`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest
from support.processes import Answer, MakePool, ServerPool, wait_for

from licraft.client import Client
from licraft.errors import Denied, NotAuthorized, UnknownFeature

pytest_plugins = ["support.pool_fixtures"]

CAD = "/v1/features/cad"
EVEN = {"alpha": 34, "beta": 33, "gamma": 33}


def distribute(pool: ServerPool, at: str, distribution: Any, feature: str = "cad") -> Answer:
    body = {"distribution": distribution}
    return pool.ask(at, "PUT", f"/v1/features/{feature}/distribution", body)


def add(pool: ServerPool, at: str, count: int, to: str | None = None) -> Answer:
    return pool.ask(at, "POST", f"{CAD}/allocations", {"count": count, "to": to})


def bound(pool: ServerPool, at: str, **limits: Any) -> Answer:
    return pool.ask(at, "PUT", f"{CAD}/borrowing", limits)


def done(answer: Answer) -> Any:
    assert answer.status == 200, answer
    return answer.body


def everywhere(pool: ServerPool, seats: dict[str, int], names: tuple[str, ...] = ()) -> None:
    """Wait until every server that is asked has the seats there."""

    def seen() -> bool:
        return all(pool.allocated(name) == seats for name in names or pool.names)

    wait_for(seen, 10, f"all see cad at {seats}")


def all_know(pool: ServerPool, index: int, names: tuple[str, ...] = ()) -> None:
    """Read-your-writes: each of these servers answers with what it knows at that index."""
    for name in names or pool.names:
        answer = pool.ask(name, "GET", f"{CAD}?index={index}")
        assert answer.status == 200, answer
        assert answer["index"] >= index


def licraft(pool: ServerPool, *arguments: str, at: str, token: str | None = None) -> Any:
    environ = {
        **pool.environ,
        "LICRAFT_SERVERS": pool.urls[at],
        "LICRAFT_TOKEN": pool.admin if token is None else token,
    }
    command = [sys.executable, "-m", "licraft", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30)


# -- B7, B8, B21, B22, B32: distribution criteria -------------------------------------------


def test_b7_a_change_of_distribution_at_any_server_is_everywhere(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 100})
    assert pool.allocated("alpha") == EVEN
    first, second = pool.followers()
    shown = done(distribute(pool, first, "alpha:10^beta:20^gamma:60"))
    assert shown["servers"]["gamma"]["target"] == 60
    everywhere(pool, {"alpha": 10, "beta": 20, "gamma": 60})
    assert pool.feature(second)["free"] == 10
    # B32: zero or more for each server, by a map as well.
    shown = done(distribute(pool, second, {"alpha": 0, "beta": 100}))
    everywhere(pool, {"alpha": 0, "beta": 100, "gamma": 0})
    all_know(pool, shown["index"])
    assert {n: pool.feature(n)["to_give"] for n in pool.names} == dict.fromkeys(pool.names, 0)


def test_b7_what_is_held_moves_as_it_is_checked_in(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 10})
    first, second = pool.followers()
    leader = pool.leader()
    done(distribute(pool, second, {first: 10}))
    everywhere(pool, dict.fromkeys(pool.names, 0) | {first: 10})
    tokens = [pool.checkout(first)["token"] for _ in range(6)]
    shown = done(distribute(pool, second, {leader: 10}))
    everywhere(pool, dict.fromkeys(pool.names, 0) | {first: 6, leader: 4})
    all_know(pool, shown["index"])
    for name in pool.names:
        seen = pool.feature(name)
        assert (seen["to_give"], seen["missing"]) == (6, 6)
    for left in range(5, -1, -1):
        assert pool.checkin(first, tokens.pop())["unknown"] == []
        everywhere(pool, dict.fromkeys(pool.names, 0) | {first: left, leader: 10 - left})
    assert (pool.feature(second)["to_give"], pool.feature(second)["missing"]) == (0, 0)


# -- B9, B10, B23, B24: allocations -----------------------------------------------------------


def test_b9_allocations_are_added_and_retired_at_any_server(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 100})
    first, second = pool.followers()
    refused = add(pool, first, 1)
    assert (refused.status, refused.code) == (409, "exceeds_entitlement")
    assert (refused["entitled"], refused["deployed"]) == (100, 100)
    assert "0 can be added" in refused["detail"]
    done(add(pool, first, -10, "beta"))
    everywhere(pool, EVEN | {"beta": 23})
    shown = done(add(pool, second, -7))
    all_know(pool, shown["index"])
    wait_for(lambda: pool.feature(first)["over"] == 0, 10, "seven seats retired")
    # All would give up at once what one of them has to, and no more goes than that.
    assert (pool.feature(first)["deployed"], pool.feature(first)["free"]) == (83, 0)
    shown = done(add(pool, first, 17, "gamma"))
    all_know(pool, shown["index"])
    seen = pool.feature(second)
    assert (seen["deployed"], seen["entitled"]) == (100, 100)
    parts = [part["allocated"] for part in seen["servers"].values()]
    assert seen["free"] + sum(parts) == 100


def test_b9_seats_in_use_retire_as_they_come_back(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 9})
    first, second = pool.followers()
    tokens = {name: pool.checkout(name, count=3)["token"] for name in pool.names}
    shown = done(add(pool, first, -4))
    assert (shown["over"], shown["deployed"]) == (4, 9)
    all_know(pool, shown["index"])
    assert "cad over by 4" in str(pool.get(second, "/v1/pool")["trouble"])
    assert pool.checkout(second).code == "no_seats"
    assert [pool.status_of(name, token) for name, token in tokens.items()] == ["renewed"] * 3
    for name in (first, second):
        pool.checkin(name, tokens[name])
    wait_for(lambda: pool.feature(first)["over"] == 0, 5, "they have retired")
    assert pool.feature(first)["deployed"] == 5
    assert wait_for(lambda: pool.checkout(first, count=2, wait=2).status == 201, 5, "what is left")
    assert pool.checkout(second).code == "no_seats"


# -- Borrowing within its bounds ---------------------------------------------------------------


def test_borrowing_is_bounded_at_any_server(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 30})
    first, second = pool.followers()
    leader = pool.leader()
    shown = done(bound(pool, first, server=second, floor=9, cap=12, threshold=1.0))
    part = shown["servers"][second]
    assert (part["floor"], part["cap"], part["threshold"]) == (9, 12, 1.0)
    all_know(pool, shown["index"])
    assert pool.checkout(first, count=21, wait=3).status == 201
    assert pool.allocated(first)[second] >= 9
    assert pool.checkout(first, wait=1).code == "no_seats"
    shown = done(bound(pool, leader, server=second, floor=None))
    all_know(pool, shown["index"])
    assert pool.checkout(first, count=9, wait=3).status == 201
    assert pool.checkout(second).code == "no_seats"
    shown = done(bound(pool, second, enabled=False, threshold=0.5))
    assert shown["borrowing"]["enabled"] is False
    all_know(pool, shown["index"])
    assert pool.feature(first)["servers"][leader]["threshold"] == 0.5
    assert pool.feature(first)["servers"][second]["threshold"] == 1.0


# -- Restarts, and no majority -----------------------------------------------------------------


def test_a_change_survives_the_restart_of_all_servers(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 10})
    first, second = pool.followers()
    shown = done(bound(pool, first, server=second, floor=3))
    done(add(pool, first, -2, second))
    done(distribute(pool, second, {first: 8}))
    everywhere(pool, dict.fromkeys(pool.names, 0) | {first: 8})
    all_know(pool, shown["index"])
    pool.kill(*pool.names)
    pool.start()
    pool.wait_ready()
    for name in pool.names:
        seen = pool.feature(name)
        assert (seen["deployed"], seen["servers"][second]["floor"]) == (8, 3)
        assert seen["servers"][first]["target"] == 8


def test_without_a_majority_nothing_changes_and_it_is_said(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 100})
    leader, at, other = pool.leader(), *pool.followers()
    pool.kill(leader, other)
    wait_for(lambda: not pool.ready(at), 10, f"{at} has lost its lease")
    begun_s = time.monotonic()
    answer = distribute(pool, at, "alpha:1")
    assert answer.status == 503
    assert answer.code in ("no_quorum", "outcome_unknown")
    assert time.monotonic() - begun_s < 8
    assert pool.feature(at)["servers"]["alpha"]["target"] is None


def test_a_server_that_does_not_know_a_change_says_so(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 100})
    index = pool.feature("alpha")["index"]
    begun_s = time.monotonic()
    for path in ("/v1/pool", "/v1/features", "/v1/license"):
        assert pool.ask("alpha", "GET", f"{path}?index={index}").status == 200
    assert time.monotonic() - begun_s < 4
    answer = pool.ask("alpha", "GET", f"{CAD}?index={index + 10**6}")
    assert (answer.status, answer.code) == (503, "no_quorum")
    assert "knows the log up to" in answer["detail"]
    assert pool.ask("alpha", "GET", f"{CAD}?index=soon").code == "invalid_request"


# -- Who may, and how it is asked for ------------------------------------------------------------


def test_only_an_administrator_changes_anything(calm: ServerPool) -> None:
    before = calm.feature("alpha")
    for method, path, body in (
        ("PUT", "distribution", {"distribution": "alpha:1"}),
        ("POST", "allocations", {"count": -1}),
        ("PUT", "borrowing", {"enabled": False}),
    ):
        for token, status in ((calm.client, 403), ("", 401)):
            answer = calm.ask("beta", method, f"{CAD}/{path}", body, token=token)
            assert (answer.status, answer.code) == (status, "not_authorized")
    urls = list(calm.urls.values())
    with Client(urls, token=calm.client) as client, pytest.raises(NotAuthorized):
        client.distribute("cad", "alpha:1")
    assert calm.feature("alpha")["servers"] == before["servers"]


@pytest.mark.parametrize(
    ("path", "method", "body", "field"),
    [
        ("distribution", "PUT", {}, "distribution"),
        ("distribution", "PUT", {"distribution": 7}, "distribution"),
        ("distribution", "PUT", {"distribution": {"alpha": -1}}, "distribution"),
        ("distribution", "PUT", {"distribution": "alpha:1^alpha:2"}, "distribution"),
        ("distribution", "PUT", {"distribution": "x" * 2000}, "distribution"),
        ("allocations", "POST", {"count": 0}, "count"),
        ("allocations", "POST", {"count": 1.5}, "count"),
        ("allocations", "POST", {"count": 10**12}, "count"),
        ("allocations", "POST", {"count": 1, "to": "../beta"}, "to"),
        ("borrowing", "PUT", {"threshold": 0}, "threshold"),
        ("borrowing", "PUT", {"threshold": 1.1}, "threshold"),
        ("borrowing", "PUT", {"floor": -1}, "floor"),
        ("borrowing", "PUT", {"flor": 1}, "flor"),
    ],
)
def test_what_is_malformed_is_refused_and_named(
    calm: ServerPool, path: str, method: str, body: Any, field: str
) -> None:
    answer = calm.ask("gamma", method, f"{CAD}/{path}", body)
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert field in json.dumps(answer.body)


def test_the_client_module_changes_criteria(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 10})
    first, _ = pool.followers()
    with Client([pool.urls[first]], token=pool.admin) as client:
        assert client.distribute("cad", {"beta": 10}).servers["beta"].target == 10
        assert client.add_allocations("cad", -2).entitled == 10
        shown = client.set_borrowing("cad", "beta", floor=2, enabled=False)
        assert (shown.servers["beta"].floor, shown.servers["beta"].borrowing) == (2, False)
        shown = client.set_borrowing("cad", "beta", floor=None, enabled=None)
        assert (shown.servers["beta"].floor, shown.servers["beta"].borrowing) == (None, True)
        assert client.distribute("cad", None).servers["beta"].target is None
        with pytest.raises(Denied, match="10") as denied:
            client.distribute("cad", "alpha:11")
        assert denied.value.code == "exceeds_entitlement"
        with pytest.raises(UnknownFeature):
            client.add_allocations("nope", 1)


def test_the_command_line_changes_criteria_and_shows_them(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 10})
    first, second = pool.followers()
    token = pool.checkout(first, count=3)["token"]

    set_ = licraft(pool, "distribution", "set", "cad", f"{second}:10", at=first)
    assert set_.returncode == 0, set_.stderr
    assert set_.stdout.startswith("cad: ")
    assert len(set_.stdout.splitlines()) == 1
    wait_for(lambda: pool.allocated(first)[second] == 7, 10, "what is unused has moved")
    shown = licraft(pool, "distribution", "show", "cad", at=second, token=pool.client)
    assert "3 seats are in use and move as they are checked in" in shown.stdout
    assert all(word in shown.stdout for word in ("TARGET", "TO GIVE", *pool.names))
    pool.checkin(first, token)
    wait_for(lambda: pool.allocated(second)[second] == 10, 10, "all has moved")
    shown = licraft(pool, "distribution", "show", "cad", at=second)
    assert "done: every server has its seats" in shown.stdout

    refused = licraft(pool, "distribution", "set", "cad", "alpha:11", at=first)
    assert refused.returncode == 1
    assert "alpha:11 is 11 seats, but 10 may be deployed" in refused.stderr
    assert licraft(pool, "distribution", "set", "cad", "alpha", at=first).returncode == 2
    assert licraft(pool, "distribution", "set", "cad", "none", at=first).returncode == 0

    retired = licraft(pool, "allocations", "add", "cad", "-4", "--to", second, at=first)
    assert retired.returncode == 0, retired.stderr
    wait_for(lambda: pool.feature(first)["deployed"] == 6, 10, "four seats have retired")
    added = licraft(pool, "allocations", "add", "cad", "4", at=second)
    assert added.stdout == "cad: 10 of 10 seats are deployed\n"
    assert licraft(pool, "allocations", "add", "cad", "1", at=second).returncode == 1

    limits = ("--threshold", "0.7", "--floor", "2", "--off")
    bounded = licraft(pool, "borrowing", "set", "cad", "--only", first, *limits, at=second)
    assert bounded.stdout == f"cad: borrowing off at {first}, threshold 0.7, floor 2\n"
    back = ("--threshold", "default", "--floor", "default", "--on", "--json")
    bounded = licraft(pool, "borrowing", "set", "cad", "--only", first, *back, at=second)
    part = json.loads(bounded.stdout)["servers"][first]
    assert (part["threshold"], part["floor"], part["borrowing"]) == (0.8, None, True)
    assert licraft(pool, "borrowing", "set", "cad", at=first).returncode == 2
    done_without = licraft(pool, "borrowing", "set", "cad", "--on", at=first, token=pool.client)
    assert done_without.returncode == 5
