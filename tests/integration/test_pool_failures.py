"""Servers are killed, paused and stopped; the others go on, and what was committed is kept."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.processes import MakePool, ServerPool, wait_for

pytest_plugins = ["support.pool_fixtures"]

BORROWS_WITHIN_S = 2.0
BACK_WITHIN_S = 5.0
LICRAFT = [sys.executable, "-m", "licraft"]


@contextmanager
def holding_program(pool: ServerPool, server: str, directory: Path) -> Iterator[Path]:
    """`licraft exec` at `server`, of a program that writes a line ten times a second.

    It must not end by itself, and ends with its program's status.
    """
    lines = directory / "lines"
    script = f"while [ ! -e {directory}/end ]; do date >> {lines}; sleep 0.1; done; exit 7"
    command = [*LICRAFT, "exec", "cad", "--server", pool.urls[server], "--", "sh", "-c", script]
    environ = {**pool.environ, "LICRAFT_TOKEN": pool.client}
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE)
    try:
        wait_for(lines.exists, 10, "the program runs")
        yield lines
        (directory / "end").touch()
        _, said = process.communicate(timeout=10)
        assert process.returncode == 7, said
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(10)


def borrow_until_done(pool: ServerPool, server: str) -> float:
    """Take more seats at `server` than it has; the seconds until that is granted."""
    begun = time.monotonic()
    count = pool.allocated(server)[server] + 1
    granted = wait_for(
        lambda: (a := pool.checkout(server, count=count, wait=5)).status == 201 and a,
        10,
        f"{server} borrows",
    )
    took_s = time.monotonic() - begun
    assert pool.checkin(server, granted["token"])["released"]
    return took_s


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_server_is_killed_and_comes_back(make_pool: MakePool, tmp_path: Path, place: int) -> None:
    pool = make_pool({"cad": 100})
    leader = pool.leader()
    victim = [leader, *pool.followers()][place]
    others = [name for name in pool.names if name != victim]
    held = [pool.checkout(victim)["token"] for _ in range(3)]
    with holding_program(pool, victim, tmp_path) as lines:
        pool.kill(victim)
        # Checkouts at the others go on at once, from what they have.
        for name in others:
            assert pool.checkout(name).status == 201
        took_s = borrow_until_done(pool, others[0])
        print(f"borrowed {took_s:.2f} s after the loss of {victim} (leader: {leader})")
        assert took_s < BORROWS_WITHIN_S
        # The program's seat is held at another server, before the lost one is back.
        user = wait_for(
            lambda: [
                h
                for h in pool.holders(others[0])
                if h["client"]["app"] == "__main__.py" and h["server"] in others
            ],
            pool.ttl_s,
            "the program's seat is held elsewhere",
        )
        assert len(user) == 1

        begun = time.monotonic()
        pool.start(victim)
        wait_for(lambda: pool.ready(victim), BACK_WITHIN_S, f"{victim} is back")
        back_s = time.monotonic() - begun
        print(f"{victim} was back after {back_s:.2f} s")
        assert back_s < BACK_WITHIN_S
        # The same boot: it grants at once, and knows what it had granted.
        assert pool.checkout(victim).status == 201
        assert [pool.status_of(victim, token) for token in held] == ["renewed"] * 3
        index = pool.get(others[0], "/v1/pool")["applied_index"]
        wait_for(lambda: pool.get(victim, "/v1/pool")["applied_index"] >= index, 5, "it is current")
        assert pool.allocated(victim) == pool.allocated(others[0])
        assert pool.unbalanced() == []
        written = lines.stat().st_size
        wait_for(lambda: lines.stat().st_size > written, 5, "the program still runs")


def test_all_servers_are_killed_and_started_again(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 100, "sim": 30}, ttl_s=15.0)
    # Seats have moved, so that the table is not what the license alone would give.
    tokens = [pool.checkout("gamma", count=60)["token"]]
    tokens += [pool.checkout(name, "sim", count=2)["token"] for name in pool.names]
    # 60 of 75 are in use: 0.8. Whose seats they were depends on who led.
    wait_for(lambda: pool.allocated("alpha")["gamma"] == 75, 5, "the borrows are over")
    table = pool.allocated("alpha"), pool.allocated("gamma", "sim")
    text = pool.get("alpha", "/v1/license")["text"]
    term = pool.get("alpha", "/v1/pool")["term"]

    pool.kill(*pool.names)
    begun = time.monotonic()
    pool.start()
    pool.wait_ready()
    print(f"all three were back after {time.monotonic() - begun:.2f} s")
    for name in pool.names:
        assert (pool.allocated(name), pool.allocated(name, "sim")) == table
        assert pool.get(name, "/v1/license")["text"] == text
        assert pool.get(name, "/v1/pool")["term"] > term
    homes = ["gamma", *pool.names]
    statuses = [pool.status_of(home, token) for home, token in zip(homes, tokens, strict=True)]
    assert statuses == ["renewed"] * 4
    assert pool.feature("gamma")["servers"]["gamma"]["in_use"] == 60
    assert pool.checkout("alpha", count=41).code == "no_seats"
    assert pool.checkout("alpha", count=40, wait=5).status == 201


def test_the_last_server_stops_granting_within_its_lease(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 100})
    last = pool.names[2]
    token = pool.checkout(last)["token"]
    pool.stop("beta")
    pool.kill("alpha")
    begun = time.monotonic()
    granted_s = 0.0
    while (answer := pool.checkout(last, "cad")).status == 201:
        granted_s = time.monotonic() - begun
        assert granted_s < pool.lease_s
        time.sleep(0.02)
    print(f"granted until {granted_s:.2f} s after the loss of the majority")
    # It says so, and where else to go.
    assert (answer.status, answer.code) == (503, "no_quorum")
    assert {server["name"] for server in answer["servers"]["list"]} == set(pool.names)
    assert int(answer.headers["retry-after"]) >= 1
    beat = pool.heartbeat(last, token)
    assert (beat.status, beat.code) == (503, "no_quorum")
    assert {server["name"] for server in beat["servers"]["list"]} == set(pool.names)
    ready = pool.get(last, "/readyz")
    assert (ready.status, ready["state"], ready["ready"]) == (503, "no_quorum", False)
    assert pool.get(last, "/healthz").status == 200
    assert pool.get(last, "/v1/pool")["state"] == "no_quorum"

    pool.start("beta")
    pool.wait_ready(last, "beta", within_s=BACK_WITHIN_S)
    assert pool.checkout(last).status == 201
    assert pool.status_of(last, token) == "renewed"


@pytest.mark.parametrize("leads", [False, True], ids=["follower", "leader"])
def test_a_paused_server_is_designated_down_and_comes_back(
    make_pool: MakePool, leads: bool
) -> None:
    pool = make_pool({"cad": 100}, ttl_s=8.0)
    leader = pool.leader()
    paused = leader if leads else pool.followers()[0]
    other = next(name for name in pool.names if name != paused)
    before = pool.incarnation(paused, other)
    token = pool.checkout(paused)["token"]
    pool.pause(paused)
    try:
        begun = time.monotonic()
        wait_for(lambda: pool.state_of(paused, other) == "down", 10, f"{paused} is down")
        print(f"{paused} was down after {time.monotonic() - begun:.2f} s")
        # Its last renewal, at most a third of a lease before the pause, was waited for.
        assert time.monotonic() - begun >= pool.lease_s / 2
        assert pool.checkout(other).status == 201
        with ThreadPoolExecutor(1) as asker:
            asked = asker.submit(pool.checkout, paused)
            wait_for(asked.running, 5, "it was asked")
            time.sleep(0.2)  # the request lies in its socket; nothing can be seen of that
            pool.resume(paused)
            # What it does first, with the state of before, must not be a grant.
            assert asked.result(10).code == "no_quorum"
    finally:
        pool.resume(paused)
    wait_for(lambda: pool.ready(paused), BACK_WITHIN_S, f"{paused} is back")
    assert pool.incarnation(paused, other) == before + 1
    assert pool.state_of(paused, other) == "up"
    # It was not reclaimed: it goes on with its record.
    assert pool.status_of(paused, token) == "renewed"
    assert pool.unbalanced() == []
