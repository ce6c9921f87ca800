"""What a server knows of its own grants: expiry, restarts, and what it does when it forgot."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from support.processes import MakePool, ServerPool, wait_for

pytest_plugins = ["support.pool_fixtures"]

BACK_WITHIN_S = 5.0


def in_use(pool: ServerPool, server: str) -> int:
    return int(pool.feature(server)["servers"][server]["in_use"])


def test_seats_of_a_silent_holder_are_free_after_its_ttl(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 3}, servers=1, ttl_s=4.0)
    begun = time.monotonic()
    silent, lively = (pool.checkout("alpha")["token"] for _ in range(2))
    beaten = 0.0

    def seen() -> int:
        nonlocal beaten
        if time.monotonic() > beaten + 0.5:
            assert pool.status_of("alpha", lively) == "renewed"
            beaten = time.monotonic()
        return in_use(pool, "alpha")

    wait_for(lambda: seen() == 1, 8, "the silent holder's seat is free")
    took_s = time.monotonic() - begun
    assert pool.ttl_s <= took_s < pool.ttl_s + 1.5
    # Its own heartbeat comes too late: it is a request now, and there is a seat for it.
    assert pool.status_of("alpha", silent) == "converted"
    assert pool.status_of("alpha", lively) == "renewed"


def test_a_late_heartbeat_is_lost_when_the_seat_has_gone_to_somebody_else(
    make_pool: MakePool,
) -> None:
    pool = make_pool({"cad": 1}, servers=1, ttl_s=4.0)
    token = pool.checkout("alpha")["token"]
    assert pool.checkout("alpha").code == "no_seats"
    assert pool.checkout("alpha", wait=10).status == 201
    (result,) = pool.heartbeat("alpha", token)["results"]
    assert (result["status"], result["code"]) == ("lost", "no_seats")


@pytest.mark.parametrize(
    ("end", "servers"),
    [(ServerPool.stop, 3), (ServerPool.kill, 1)],
    ids=["stopped, one of three", "killed, the only one"],
)
def test_a_server_that_comes_back_grants_at_once_and_knows_its_holders(
    make_pool: MakePool, end: Callable[..., None], servers: int
) -> None:
    pool = make_pool({"cad": 30}, servers=servers, ttl_s=20.0)
    name = pool.names[-1]
    tokens = [pool.checkout(name)["token"] for _ in range(5)]
    assert pool.checkin(name, tokens.pop())["released"]
    end(pool, name)
    begun = time.monotonic()
    pool.start(name)
    pool.wait_ready(name, within_s=BACK_WITHIN_S)
    print(f"{name} was back after {time.monotonic() - begun:.2f} s")
    assert pool.checkout(name).status == 201
    assert [pool.status_of(name, token) for token in tokens] == ["renewed"] * 4
    assert in_use(pool, name) == 5


def test_an_orderly_stop_is_believed_after_a_reboot(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 30}, servers=1, ttl_s=20.0)
    token = pool.checkout("alpha")["token"]
    pool.stop("alpha")
    pool.reboot("alpha")
    pool.start("alpha")
    pool.wait_ready(within_s=BACK_WITHIN_S)
    assert pool.status_of("alpha", token) == "renewed"


def test_a_server_that_lost_its_record_recovers_before_it_grants(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 30}, ttl_s=6.0)
    name = pool.names[2]
    tokens = [pool.checkout(name)["token"] for _ in range(2)]
    pool.kill(name)
    pool.reboot(name)
    begun = time.monotonic()
    pool.start(name)
    refused = wait_for(
        lambda: (a := pool.checkout(name)).code == "recovering" and a, BACK_WITHIN_S, "it recovers"
    )
    assert refused.status == 503
    assert {server["name"] for server in refused["servers"]["list"]} == set(pool.names)
    assert 1 <= int(refused.headers["retry-after"]) <= pool.ttl_s + 1
    ready = pool.get(name, "/readyz")
    assert (ready.status, ready["state"]) == (503, "recovering")
    # Heartbeats are accepted, and rebuild what it had forgotten, from those who are still valid.
    result = pool.heartbeat(name, tokens[0])["results"][0]
    assert result["status"] == "confirm"
    assert in_use(pool, name) == 0
    confirmed = pool.heartbeat(name, tokens[0], confirm={result["id"]: result["down_index"]})
    assert confirmed["results"][0]["status"] == "renewed"
    assert in_use(pool, name) == 1
    # The others grant meanwhile.
    assert pool.checkout(pool.names[0]).status == 201
    beaten = 0.0

    def granted() -> bool:
        nonlocal beaten
        if time.monotonic() > beaten + 1:
            assert pool.status_of(name, tokens[0]) == "renewed"
            beaten = time.monotonic()
        return pool.checkout(name).status == 201

    wait_for(granted, pool.ttl_s + BACK_WITHIN_S, "it grants again")
    assert time.monotonic() - begun >= pool.ttl_s
    assert in_use(pool, name) == 2
