"""Draining on real servers, with the client module: nobody loses a seat, and nothing is left."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.processes import MakePool, ServerPool, wait_for

from licraft.client import Client, Seat

pytest_plugins = ["support.pool_fixtures"]
pytestmark = pytest.mark.timeout(180)

SEATS = 30
STOP_S = 4.0


def licraft(pool: ServerPool, *arguments: str, at: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as an administrator would."""
    command = [sys.executable, "-m", "licraft", *arguments, "--server", pool.urls[at]]
    return subprocess.run(
        [*command, "--token-file", "admin.token"],
        cwd=pool.directory,
        env=pool.environ,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@contextmanager
def holders(pool: ServerPool, each: int) -> Iterator[dict[str, list[Seat]]]:
    """Programs at every server that hold `each` seats there, and the seats."""
    clients = {
        name: Client([pool.urls[name], *pool.urls.values()], pool.client) for name in pool.names
    }
    try:
        yield {
            name: [client.checkout("cad") for _ in range(each)] for name, client in clients.items()
        }
    finally:
        for client in clients.values():
            client.close()


def all_valid(seats: dict[str, list[Seat]]) -> bool:
    return all(seat.valid for each in seats.values() for seat in each)


def drained(pool: ServerPool, name: str, by: str) -> bool:
    return pool.allocated(by)[name] == 0


def test_a_server_full_of_holders_is_drained_and_nobody_loses_a_seat(make_pool: MakePool) -> None:
    pool = make_pool({"cad": SEATS})
    victim = pool.leader()  # So that it hands over leadership too.
    other = next(name for name in pool.names if name != victim)
    with holders(pool, SEATS // 3) as seats:
        assert {seat.server for seat in seats[victim]} == {victim}
        done = licraft(pool, "server", "drain", victim, "--timeout", "60", at=victim)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{victim} is draining and empty\n"
        assert "seats to go" in done.stderr
        assert all_valid(seats)
        assert victim not in {seat.server for seat in seats[victim]}
        assert pool.state_of(victim, by=other) == "draining"
        wait_for(lambda: pool.leader() != victim, 10, "another leads")
        refused = pool.checkout(victim)
        assert (refused.status, refused.code) == (503, "draining")
        assert refused["servers"]["list"][0]["name"] != victim

        # It stays so, whatever is restarted, and its holders lose nothing by the stop.
        began_s = time.monotonic()
        pool.stop(victim)
        assert time.monotonic() - began_s < STOP_S
        pool.start(victim)
        wait_for(
            lambda: pool.get(victim, "/readyz").body.get("state") == "draining", 15, "it drains on"
        )
        assert pool.checkout(victim).code == "draining"
        assert drained(pool, victim, other)
        shown = licraft(pool, "servers", at=other)
        assert "draining" in shown.stdout
        trouble = licraft(pool, "status", at=other)
        assert f"server {victim} is draining" in trouble.stdout

        back = licraft(pool, "server", "undrain", victim, at=victim)
        assert (back.returncode, back.stdout) == (0, f"{victim} is up\n")
        pool.wait_ready(victim)
        seats[other].pop().checkin()
        answer = pool.checkout(victim, wait=10)
        assert answer.status == 201
        assert all_valid(seats)
        assert pool.unbalanced() == []


def test_a_holder_who_does_not_move_is_named_and_keeps_its_seat(make_pool: MakePool) -> None:
    pool = make_pool({"cad": SEATS})
    client = {"user": "ann", "host": "ws12"}
    granted = pool.checkout("beta", count=2, client=client)
    assert granted.status == 201
    done = licraft(pool, "server", "drain", "beta", "--timeout", "1", at="alpha")
    assert done.returncode == 1
    assert "2 of cad held by ann@ws12" in done.stderr
    # It asks nobody else, so it is renewed here before its time is over.
    until_s = time.monotonic() + 2 * pool.ttl_s
    renewed_s = time.monotonic()
    said = set()
    while time.monotonic() < until_s:
        sent_s = time.monotonic()
        word = pool.status_of("beta", granted["token"])
        said.add(word)
        if word == "renewed":
            renewed_s = sent_s
        assert time.monotonic() - renewed_s < pool.ttl_s
        time.sleep(0.25)
    assert said == {"draining", "renewed"}
    assert pool.allocated("alpha")["beta"] == 2
    pool.checkin("beta", granted["token"])
    wait_for(lambda: drained(pool, "beta", "alpha"), 5, "the seats are in the pool")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_one_server_after_the_other_is_restarted_and_nobody_notices(
    make_pool: MakePool, how: str
) -> None:
    pool = make_pool({"cad": SEATS})
    with holders(pool, SEATS // 3) as seats:
        for name in pool.names:
            if how == "stop":
                began_s = time.monotonic()
                pool.stop(name)
                assert time.monotonic() - began_s < STOP_S
            else:
                done = licraft(pool, "server", "drain", name, "--timeout", "60", at=name)
                assert done.returncode == 0, done.stderr
                pool.kill(name)
            pool.start(name)
            if how == "kill":
                licraft(pool, "server", "undrain", name, at=pool.names[pool.names.index(name) - 1])
            pool.wait_ready(name)
            assert all_valid(seats)
        held = sum(len(each) for each in seats.values())
        wait_for(lambda: pool.feature("alpha")["in_use"] == held, 15, "every seat is on record")
        assert pool.unbalanced() == []


def test_a_stop_gives_back_what_nobody_holds_and_is_quick(make_pool: MakePool) -> None:
    pool = make_pool({"cad": SEATS})
    pool.stop("gamma")
    assert pool.allocated("alpha")["gamma"] == 0
    assert pool.checkout("beta", count=SEATS, wait=10).status == 201
