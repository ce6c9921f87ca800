"""The claims, one by one, through the public interface of real servers: see docs/claims.rst."""

from __future__ import annotations

import time

from support.processes import MakePool, ServerPool, wait_for

from licraft.client import Client

pytest_plugins = ["support.pool_fixtures"]

NOBODY_BORROWS = {"alpha": 34, "beta": 33, "gamma": 33}


# -- R: redundancy ------------------------------------------------------------------------


def test_r7_each_server_grants_and_keeps_a_record_that_every_server_can_list(
    calm: ServerPool,
) -> None:
    granted = {}
    for name in calm.names:
        client = {"id": f"c-{name}", "user": f"ann-{name}", "host": "ws12", "pid": 7, "app": "cad"}
        answer = calm.checkout(name, client=client)
        assert answer["server"] == name
        granted[answer["id"]] = name, client, answer["token"]
    told = {id: (name, client) for id, (name, client, _) in granted.items()}

    def listed(asked: str) -> bool:
        lines = calm.holders(asked)
        return {line["id"]: (line["server"], line["client"]) for line in lines} == told

    # At once, or from the leader's record where two servers are not connected yet.
    calm.wait_everywhere(listed, 5, "all is listed")
    # Filters: by user, by server and by feature.
    assert [h["server"] for h in calm.holders("alpha", "?user=ann-beta")] == ["beta"]
    assert [h["server"] for h in calm.holders("beta", "?server=gamma")] == ["gamma"]
    assert calm.holders("gamma", "?feature=sim") == []
    for name, _, token in granted.values():
        assert calm.checkin(name, token)["unknown"] == []


def test_r7_a_new_leader_has_the_record_of_every_server(make_pool: MakePool) -> None:
    """R7c, R23, R40: also of a server that is silent by the time it is asked for its part."""
    pool = make_pool({"cad": 100}, ttl_s=20.0)
    old = pool.leader()
    first, second = pool.followers()
    ids = {name: pool.checkout(name)["id"] for name in (first, second)}
    pool.kill(old)
    new = wait_for(
        lambda: next((n for n in (first, second) if pool.get(n, "/v1/pool")["leader"] == n), ""),
        5,
        "a follower leads",
    )
    silent = second if new == first else first
    # Each reports the status of its allocations with its lease, at any server.
    wait_for(lambda: pool.feature(new)["servers"][silent]["in_use"] == 1, 5, "its use is reported")
    pool.start(old)
    pool.wait_ready(old)
    pool.kill(silent)
    listed = wait_for(
        lambda: (a := pool.get(new, "/v1/authorizations")).status == 200 and a,
        10,
        "the leader lists the pool",
    )
    assert {h["id"] for h in listed["authorizations"]} == set(ids.values())
    assert listed["as_of"][silent] is not None
    # And any other server has it from the leader.
    assert {h["id"] for h in pool.holders(old)} == set(ids.values())


def test_r7_the_leader_holds_the_allocations_of_all_and_followers_can_lead(
    calm: ServerPool,
) -> None:
    leader = calm.leader()
    for name in calm.names:
        view = calm.get(name, "/v1/pool")
        roles = {server["name"]: server["role"] for server in view["servers"]}
        assert roles == {n: "leader" if n == leader else "follower" for n in calm.names}
        assert calm.allocated(name) == calm.allocated(leader)


def test_r8_the_client_module_moves_its_seats_to_another_server(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 100}, ttl_s=6.0)
    home = pool.leader()
    lost: list[object] = []
    # It knows one server; the others it has from the priority list (R26).
    with Client([pool.urls[home]], pool.client, user="ann") as client:
        seats = [client.checkout("cad", on_lost=lost.append) for _ in range(5)]
        assert {seat.server for seat in seats} == {home}
        pool.kill(home)
        wait_for(lambda: all(s.server != home for s in seats), pool.ttl_s, "the seats moved")
        assert all(seat.valid for seat in seats)
        now_at = seats[0].server
        wait_for(lambda: len(pool.holders(now_at, "?user=ann")) >= 5, 5, "they are on record")
        assert lost == []
    left = [h for h in pool.holders(now_at, "?user=ann") if h["server"] != home]
    assert left == []


def test_r21_the_leader_designates_a_silent_follower_as_down(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 100})
    leader = pool.leader()
    silent, other = pool.followers()
    assert pool.state_of(silent, leader) == "up"
    killed = time.monotonic()
    pool.kill(silent)
    pool.wait_everywhere(lambda name: pool.state_of(silent, name) == "down", 4, "it is down")
    took_s = time.monotonic() - killed
    print(f"{silent} was designated down after {took_s:.2f} s")
    assert took_s >= pool.lease_s / 2  # its lease, renewed each third of it, was waited for
    order = [server["name"] for server in pool.checkout(other)["servers"]["list"]]
    assert order == [leader, other, silent]
    pool.start(silent)
    wait_for(lambda: pool.state_of(silent, leader) == "up", 5, "it is up again")


def test_r26_answers_bring_the_priority_list_with_the_leader_first(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 100}, ttl_s=20.0)
    leader = pool.leader()
    answer = pool.checkout(pool.followers()[0])
    servers = answer["servers"]
    assert [s["name"] for s in servers["list"]] == [leader, *pool.followers()]
    assert [s["role"] for s in servers["list"]] == ["leader", "follower", "follower"]
    assert {s["name"]: s["url"] for s in servers["list"]} == pool.urls
    # Who has this version is not sent it again; after an election there is a newer one.
    home, token, version = answer["server"], answer["token"], servers["version"]
    assert "servers" not in pool.heartbeat(home, token, version=version).body
    pool.kill(leader)
    newer = wait_for(
        lambda: (
            (a := pool.heartbeat(home, token, version=version)).status == 200
            and (found := a.body.get("servers"))
            and found["list"][0]["role"] == "leader"
            and found["list"][-1]["state"] == "down"
            and found
        ),
        8,
        "a newer list",
    )
    assert newer["version"] > version
    assert newer["list"][0]["name"] != leader
    assert newer["list"][-1]["name"] == leader


# -- B: balancing -------------------------------------------------------------------------


def test_b32_the_initial_distribution_is_even(calm: ServerPool) -> None:
    for name in calm.names:
        assert calm.allocated(name) == NOBODY_BORROWS
        assert calm.allocated(name, "cam") == {"alpha": 3, "beta": 2, "gamma": 2}
        assert calm.unbalanced([name]) == []


def test_b1_b3_b31_a_server_borrows_as_soon_as_it_is_insufficient(make_pool: MakePool) -> None:
    """B1: 26 of 33 are below the threshold of 0.8, 27 of 33 above it."""
    pool = make_pool({"cad": 100})
    assert pool.feature("beta")["servers"]["beta"]["threshold"] == 0.8
    assert pool.checkout("beta", count=26).status == 201
    assert pool.allocated("beta") == NOBODY_BORROWS
    # The request that makes it insufficient is granted from what is there (B30) and brings
    # at least one allocation (B3, B31), without any further request.
    assert pool.checkout("beta", count=1).status == 201
    wait_for(lambda: pool.allocated("beta")["beta"] > 33, 3, "beta has more")
    assert 27 / pool.allocated("beta")["beta"] <= 0.8


def test_b5_b6_b33_seats_move_from_the_leader_and_every_server_knows(make_pool: MakePool) -> None:
    """B5: with nothing free and nobody down, the leader gives. B4, B6, B33: all know it."""
    pool = make_pool({"cad": 99})
    leader = pool.leader()
    taker, other = pool.followers()
    assert pool.checkout(taker, count=33 + 7, wait=5).status == 201
    expected = {leader: 33 - 17, taker: 33 + 17, other: 33}  # 40 of 50 is 0.8
    pool.wait_everywhere(lambda name: pool.allocated(name) == expected, 3, "it is known")
    assert pool.unbalanced() == []
    # Each grants from its own number of allocations: the leader's is smaller now.
    assert pool.checkout(leader, count=12).status == 201  # 12 of 16: no reason to borrow
    assert pool.allocated(leader)[leader] == 16


def test_b5_the_seats_of_a_server_that_is_down_are_borrowed(make_pool: MakePool) -> None:
    """B5, B14: once nobody can rely on them any more, and not before."""
    pool = make_pool({"cad": 30}, ttl_s=4.0)
    down = pool.followers()[0]
    other = pool.followers()[1]
    assert pool.checkout(down, count=2).status == 201
    killed = time.monotonic()
    pool.kill(down)
    granted = pool.checkout(other, count=30, wait=15)
    took_s = time.monotonic() - killed
    print(f"the seats of {down} were borrowed {took_s:.2f} s after its loss")
    assert granted.status == 201
    assert took_s >= pool.ttl_s
    assert pool.allocated(other) == {name: 30 if name == other else 0 for name in pool.names}
    # What was left of it is its own again when it returns: here nothing.
    pool.start(down)
    pool.wait_ready(down)
    assert pool.checkout(down).code == "no_seats"


def test_b5_the_followers_give_when_nobody_else_has_any(make_pool: MakePool) -> None:
    """B15: all functioning servers that are not the leader come last."""
    pool = make_pool({"cad": 30})
    leader = pool.leader()
    giver, taker = pool.followers()
    assert pool.checkout(leader, count=10).status == 201
    assert pool.checkout(taker, count=19, wait=3).status == 201
    wait_for(lambda: pool.allocated(taker)[taker] >= 19, 3, "the taker has what it granted")
    assert pool.allocated(taker)[giver] <= 1


def test_b1b_every_server_serves_every_call(calm: ServerPool) -> None:
    for name in calm.names:
        token = calm.checkout(name, "sim", count=2)["token"]
        assert calm.status_of(name, token) == "renewed"
        other = next(n for n in calm.names if n != name)
        # A check-in is taken by any server, and is safe to repeat.
        assert len(calm.checkin(other, token)["released"]) == 1
        assert len(calm.checkin(name, token)["unknown"]) == 1
        assert calm.get(name, "/v1/license")["sequence"] == 1


def test_b30_a_server_grants_from_what_it_has_without_the_others(make_pool: MakePool) -> None:
    """B2, B30: its own allocation needs nobody: seats are granted while the leader is lost."""
    pool = make_pool({"cad": 100})
    pool.kill(pool.leader())
    survivor = next(name for name in pool.names if pool.running(name))
    own = pool.allocated(survivor)[survivor]
    for _ in range(own // 2):
        assert pool.checkout(survivor).status == 201
    assert pool.allocated(survivor)[survivor] == own
