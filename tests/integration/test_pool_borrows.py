"""What is being borrowed is seen at every server, over HTTP, on real servers (B13 to B15)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import yaml
from support.processes import Answer, MakePool, ServerPool, wait_for

pytest_plugins = ["support.pool_fixtures"]


def install(pool: ServerPool, seats: int, distribution: dict[str, int]) -> None:
    """Install a license, and wait until its seats are where it says, the rest free."""
    sequence = pool.get("alpha", "/v1/license")["sequence"] + 1
    text = yaml.safe_load(pool.license_text({"cad": seats}, sequence=sequence))
    shares = "^".join(f"{name}:{count}" for name, count in distribution.items())
    text["codes"][0] |= {"distribution": shares, "borrowing_threshold": 1.0}
    answer = pool.ask("alpha", "PUT", "/v1/license", content=yaml.safe_dump(text).encode())
    assert answer.status == 200, answer

    def deployed(name: str) -> bool:
        answer = pool.get(name, "/v1/features/cad")
        return (
            answer.status == 200
            and {
                server: part["allocated"]
                for server, part in answer["servers"].items()
                if part["allocated"]
            }
            == distribution
        )

    pool.wait_everywhere(deployed, 5, f"{seats} seats are where they should be")


def open_borrows(pool: ServerPool, name: str) -> list[dict[str, Any]]:
    """The borrows that lack seats, as one server shows them."""
    borrowing = pool.feature(name)["borrowing"]
    assert borrowing["pending"] == len(borrowing["open"])
    shown = borrowing["open"]
    assert isinstance(shown, list)
    return shown


def forgotten(pool: ServerPool, issuer: str, count: int) -> str:
    """A token for seats that its server has no record of any more."""
    token = str(pool.checkout(issuer, count=count)["token"])
    assert pool.checkin(issuer, token)["released"]
    return token


def test_a_borrow_that_waits_is_seen_at_every_server_until_it_has_its_seats(
    make_pool: MakePool,
) -> None:
    pool = make_pool({}, ttl_s=20.0)
    install(pool, 6, dict.fromkeys(pool.names, 2))
    tokens = {name: pool.checkout(name, count=2)["token"] for name in pool.names}
    with ThreadPoolExecutor(1) as others:
        waits = others.submit(pool.checkout, "beta", count=1, wait=15)
        pool.wait_everywhere(
            lambda name: [b["source"] for b in open_borrows(pool, name)] == [None],
            5,
            "all were asked, and it waits",
        )
        for name in pool.names:
            (borrow,) = open_borrows(pool, name)
            assert (borrow["server"], borrow["reason"]) == ("beta", "request")
            assert (borrow["want"], borrow["need"]) == (1, 1)
            assert borrow["id"].startswith("beta:")
        assert pool.checkin("gamma", tokens["gamma"])["released"]
        granted: Answer = waits.result(timeout=10)
    assert granted.status == 201, granted
    pool.wait_everywhere(lambda name: not open_borrows(pool, name), 5, "nothing is borrowed")


def test_b13_b14_b15_one_fail_over_has_its_seats_from_all_the_sources(
    make_pool: MakePool,
) -> None:
    """The leader's, the free ones, what a server that is down left, and one of the others'."""
    pool = make_pool({}, servers=4, lease_s=1.0, ttl_s=4.0)
    leader = pool.leader()
    here, lost, other = pool.followers()
    install(pool, 10, {lost: 10})
    token = forgotten(pool, lost, 10)
    install(pool, 4, {lost: 4})
    install(pool, 12, {leader: 2, lost: 4, other: 3})
    assert pool.feature(here)["free"] == 3
    pool.kill(lost)

    def reclaimed() -> bool:
        return any("its seats may be borrowed" in t for t in pool.get(here, "/v1/pool")["trouble"])

    wait_for(reclaimed, 4 * pool.ttl_s, f"{lost} is reclaimed")
    wait_for(lambda: pool.status_of(here, token) == "converted", 5, "its client has its seats")
    left = {leader: 0, here: 10, lost: 0, other: 2}
    pool.wait_everywhere(lambda name: pool.allocated(name) == left, 5, "all gave what they had")
    assert pool.feature(here)["free"] == 0
    assert open_borrows(pool, here) == []
    sources = {name: pool.feature(name)["borrowing"]["sources"] for name in (here, leader)}
    assert sources[here] == {"leader": 2, "free": 3, "down": 4, "others": 1}
    assert sources[leader] == dict.fromkeys(sources[here], 0)
