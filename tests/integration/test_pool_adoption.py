"""A client's heartbeat arrives at a server that did not grant it its seats (R8, R9, R16 to R18).

Step by step, over HTTP, on real servers: pool protocol, section 10.
"""

from __future__ import annotations

import time
from typing import Literal

import yaml
from support.processes import Answer, MakePool, ServerPool, wait_for

pytest_plugins = ["support.pool_fixtures"]

DISTRIBUTION = "alpha:10^beta:10^gamma:10"


def result(answer: Answer) -> dict[str, object]:
    """What became of the one authorization that a heartbeat named."""
    assert answer.status == 200, answer
    (only,) = answer["results"]
    assert isinstance(only, dict)
    return only


def move(pool: ServerPool, name: str, token: str, within_s: float) -> list[dict[str, object]]:
    """Do what a client does until another server has taken it over; every different result."""
    seen: list[dict[str, object]] = []
    confirm: dict[str, int] = {}

    def moved() -> bool:
        answer = pool.heartbeat(name, token, confirm=confirm)
        if answer.status != 200:
            return False  # no quorum yet: the leader was lost
        found = result(answer)
        if not seen or seen[-1]["status"] != found["status"]:
            seen.append(found)
        if found["status"] == "confirm":
            index = found["down_index"]
            assert isinstance(index, int)
            confirm[str(found["id"])] = index
        return found["status"] in ("adopted", "converted", "lost")

    wait_for(moved, within_s, f"{name} takes it over")
    return seen


def fill(pool: ServerPool, feature: str = "cad") -> dict[str, str]:
    """Hold every seat that each server has; a token of each."""
    return {
        name: pool.checkout(name, feature, count=own)["token"]
        for name, own in pool.allocated("alpha", feature).items()
    }


def test_r8_r16_the_clients_of_a_lost_leader_are_adopted_in_two_steps_and_once(
    make_pool: MakePool,
) -> None:
    pool = make_pool({"cad": 30}, lease_s=1.0, ttl_s=10.0)
    home = pool.leader()
    here, there = pool.followers()
    tokens = fill(pool)
    before = pool.allocated(here)
    pool.kill(home)
    seen = move(pool, here, tokens[home], pool.ttl_s)
    # Before it is known to be down nothing is said; then the client must prove that it is valid.
    assert [found["status"] for found in seen][-2:] == ["confirm", "adopted"]
    assert {found["status"] for found in seen} <= {"pending", "confirm", "adopted"}
    adopted = seen[-1]
    assert (adopted["server"], adopted["ttl"]) == (here, pool.ttl_s)
    # R40: the record of allocations, everywhere, has the seats where their holder is.
    after = before | {here: before[here] + before[home], home: 0}
    pool.wait_everywhere(lambda name: pool.allocated(name) == after, 3, "the seats moved along")
    new = str(adopted["token"])
    assert pool.status_of(here, new) == "renewed"
    # The answer may have been lost: the old token finds it, and takes no second seat.
    again = result(pool.heartbeat(here, tokens[home]))
    assert (again["status"], again["token"]) == ("converted", new)
    # Nor does asking another server: what was adopted is asked for where it is now.
    (moved,) = move(pool, there, tokens[home], 5)
    assert (moved["status"], moved["server"]) == ("adopted", there)
    assert sum(line["count"] for line in pool.holders(here)) == 30
    for name in (here, there):
        assert pool.checkout(name).code == "no_seats"
    # The lost server comes back with nothing, and knows it.
    pool.start(home)
    pool.wait_ready(home)
    assert pool.checkout(home).code == "no_seats"
    assert pool.unbalanced() == []


def test_nothing_is_adopted_by_a_confirmation_of_another_loss(make_pool: MakePool) -> None:
    """The story of the stale claim: X was down, came back, and is down again."""
    pool = make_pool({"cad": 30}, lease_s=1.0, ttl_s=12.0)
    here, home = pool.leader(), pool.followers()[0]
    token = fill(pool)[home]

    def lose() -> int:
        pool.kill(home)
        wait_for(lambda: pool.state_of(home, here) == "down", 8, f"{home} is down")
        found = result(pool.heartbeat(here, token))
        assert found["status"] == "confirm"
        index = found["down_index"]
        assert isinstance(index, int)
        return index

    id = pool.holders(here, f"?server={home}")[0]["id"]
    first = lose()
    pool.start(home)
    pool.wait_ready(home)
    assert pool.status_of(home, token) == "renewed"
    second = lose()
    assert second > first
    stale = result(pool.heartbeat(here, token, confirm={id: first}))
    assert (stale["status"], stale["down_index"]) == ("confirm", second)
    assert pool.allocated(here)[home] == 10
    assert result(pool.heartbeat(here, token, confirm={id: second}))["status"] == "adopted"
    assert pool.allocated(here)[home] == 0


def test_r9_r17_a_client_that_leaves_a_server_that_works_takes_its_seats_along(
    make_pool: MakePool,
) -> None:
    """As a client does whose way to its server is cut, where the others can reach it."""
    pool = make_pool({"cad": 30}, ttl_s=10.0)
    leader = pool.leader()
    home = pool.followers()[0]
    token = fill(pool)[home]
    (moved,) = move(pool, leader, token, 5)
    assert (moved["status"], moved["server"]) == ("adopted", leader)
    pool.wait_everywhere(lambda name: pool.allocated(name)[home] == 0, 3, "its seats are gone")
    assert pool.allocated(leader)[leader] == 20
    assert pool.checkout(home).code == "no_seats"
    # R9: from now on the leader has it on record.
    assert pool.status_of(leader, str(moved["token"])) == "renewed"


def test_r18_a_heartbeat_for_what_nobody_has_any_more_becomes_a_request(
    make_pool: MakePool,
) -> None:
    pool = make_pool({"cad": 30}, ttl_s=4.0)
    home, here = pool.followers()
    token = pool.checkout(home, count=2)["token"]
    pool.kill(home)
    begun = time.monotonic()
    reclaimed_s = 2 * pool.ttl_s + 2 * pool.lease_s
    # All others' seats and, once it is reclaimed, the lost server's are in use.
    granted = pool.checkout(here, count=30, wait=reclaimed_s)
    assert granted.status == 201, granted
    assert time.monotonic() - begun >= pool.ttl_s
    late = result(pool.heartbeat(here, token))
    assert (late["status"], late["code"]) == ("lost", "no_seats")
    assert pool.checkin(here, granted["token"])["released"]
    converted = result(pool.heartbeat(here, token))
    assert (converted["status"], converted["server"]) == ("converted", here)
    assert pool.feature(here)["servers"][here]["in_use"] == 2


def test_b14_a_heartbeat_that_comes_too_late_to_be_adopted_borrows_from_the_down_server(
    make_pool: MakePool,
) -> None:
    pool = make_pool({"cad": 30}, lease_s=0.5, ttl_s=3.0)
    leader = pool.leader()
    home, here = pool.followers()
    token = pool.checkout(home, count=2)["token"]
    kept = {name: pool.checkout(name, count=10)["token"] for name in (leader, here)}
    pool.kill(home)
    beaten_s = 0.0

    def reclaimed() -> dict[str, object] | Literal[False]:
        """A client that never confirms: what it holds is reclaimed, while others keep theirs."""
        nonlocal beaten_s
        if time.monotonic() > beaten_s + 0.5:
            assert [pool.status_of(name, own) for name, own in kept.items()] == ["renewed"] * 2
            beaten_s = time.monotonic()
        found = result(pool.heartbeat(here, token))
        return False if found["status"] in ("pending", "confirm") else found

    found = wait_for(reclaimed, 4 * pool.ttl_s, "the seats are reclaimed")
    assert (found["status"], found["server"]) == ("converted", here)
    # All others' seats are in use: these were the lost server's.
    allocated = pool.allocated(here)
    assert allocated[here] >= 12
    assert allocated[leader] >= 10
    assert allocated[home] <= 8


def test_b13_b14_b15_a_heartbeat_borrows_from_the_leader_the_free_pool_and_the_others(
    make_pool: MakePool,
) -> None:
    """B27 to B29: sources in this order, and another order than a request's (B5)."""
    pool = make_pool({}, ttl_s=30.0)
    text = yaml.safe_load(pool.license_text({"cad": 40}))
    text["codes"][0] |= {"distribution": DISTRIBUTION, "borrowing_threshold": 1.0}
    answer = pool.ask("alpha", "PUT", "/v1/license", content=yaml.safe_dump(text).encode())
    assert answer.status == 200, answer
    leader = pool.leader()
    other, here = pool.followers()
    even = {leader: 10, other: 10, here: 10}
    pool.wait_everywhere(lambda name: pool.allocated(name) == even, 5, "the seats are deployed")
    assert pool.feature(here)["free"] == 10
    assert pool.checkout(here, count=10).status == 201  # nothing is unused here

    def forgotten() -> str:
        """A token that its server has no record of any more."""
        token = str(pool.checkout(other)["token"])
        assert pool.checkin(other, token)["released"]
        return token

    def take_what_is_unused() -> None:
        """A borrow may bring more than was asked for."""
        own = pool.feature(here)["servers"][here]
        unused = own["allocated"] - own["in_use"]
        if unused:
            assert pool.checkout(here, count=unused).status == 201

    def steady() -> bool:
        """Whether it has told the others what is in use: it asks for more as that grows."""
        take_what_is_unused()
        own = pool.feature(here)["servers"][here]
        told = {pool.feature(name)["servers"][here]["in_use"] for name in (leader, other)}
        return told == {own["in_use"]} and own["in_use"] == own["allocated"]

    def sources() -> dict[str, int]:
        """What could give, and how many seats it has."""
        feature = pool.feature(here)
        others = {name: pool.allocated(here)[name] for name in (leader, other)}
        return {**others, "free": feature["free"]}

    def giver_to_a_heartbeat() -> set[str]:
        """What has fewer seats after a heartbeat was made a request of."""
        wait_for(steady, 10, "all that it has is in use, and for a while")
        token, before = forgotten(), sources()
        (found,) = move(pool, here, token, 5)
        assert found["status"] == "converted"
        return {name for name, count in sources().items() if count < before[name]}

    # B14: the leader is the first, although there are free seats,
    assert giver_to_a_heartbeat() == {leader}
    # where a request's first source is the free pool;
    before = sources()
    assert pool.checkout(here, wait=5).status == 201
    assert sources()["free"] < before["free"]
    assert sources()[leader] == before[leader]
    # a leader that needs its own is passed over, and the free pool is next;
    assert pool.checkout(leader, count=before[leader]).status == 201
    assert giver_to_a_heartbeat() == {"free"}
    # B15: with none of those left, the functioning servers that are not the leader.
    while sources()["free"]:
        assert pool.checkout(here, wait=5).status == 201
        take_what_is_unused()
    assert giver_to_a_heartbeat() == {other}
    assert pool.unbalanced() == []
