"""Servers join and leave pools that run: real processes, by the commands an operator uses."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support.processes import (
    POOL,
    Answer,
    MakePool,
    ServerPool,
    free_ports,
    wait_for,
)

from licraft.pool_files import PlannedServer
from licraft.vendor.codes import make_code

pytest_plugins = ["support.pool_fixtures"]
pytestmark = pytest.mark.timeout(240)

SEATS = 60


def licraft(pool: ServerPool, *arguments: str, at: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as an administrator would, in the pool's directory."""
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


def add(pool: ServerPool, name: str, at: str) -> PlannedServer:
    """`licraft server add`, for a server on free ports."""
    api, peer = free_ports(2)
    planned = PlannedServer(name, "127.0.0.1", api, peer)
    done = licraft(pool, "server", "add", name, f"127.0.0.1:{api}:{peer}", at=at)
    assert done.returncode == 0, done.stderr
    pool.urls[name] = planned.api_url
    pool.planned[name] = planned
    return planned


def join(pool: ServerPool, name: str, at: str) -> None:
    """Add a server, start it, and wait until it may grant."""
    add(pool, name, at)
    pool.names = (*pool.names, name)
    pool.start(name)
    pool.wait_ready(name)


def remove(pool: ServerPool, name: str, at: str) -> None:
    """`licraft server remove`, which waits until it is gone."""
    done = licraft(pool, "server", "remove", name, at=at)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{name} is removed\n"
    pool.names = tuple(n for n in pool.names if n != name)


def members(pool: ServerPool, by: str) -> dict[str, str]:
    """Name -> state, as one server tells it."""
    answer = pool.get(by, "/v1/pool")
    return {s["name"]: s["state"] for s in answer["servers"]} if answer.status == 200 else {}


def all_up(pool: ServerPool) -> bool:
    wanted = dict.fromkeys(pool.names, "up")
    return all(members(pool, name) == wanted for name in pool.names)


def logged(pool: ServerPool, name: str) -> str:
    return pool.processes[name].log.read_text(encoding="utf-8")


def seats_add_up(pool: ServerPool) -> None:
    assert pool.unbalanced() == []
    for name in pool.names:
        if pool.running(name):
            assert pool.feature(name)["deployed"] == SEATS


def test_a_pool_grows_restarts_and_loses_its_leader(make_pool: MakePool) -> None:
    pool = make_pool({"cad": SEATS})
    granted = pool.checkout("beta")
    assert granted.status == 201
    join(pool, "delta", at="alpha")
    wait_for(lambda: all_up(pool), 10, "four servers are up")
    seats_add_up(pool)
    assert pool.checkout("delta").status == 201  # It has borrowed.

    pool.kill(*pool.names)
    pool.start()
    pool.wait_ready()
    wait_for(lambda: all_up(pool), 10, "all know four servers after the restart")
    seats_add_up(pool)
    assert "differs from the pool's own: delta is not in it" in logged(pool, "alpha")

    # Four servers: two are no majority, three are.
    leader = pool.leader()
    others = [name for name in pool.names if name != leader]
    remove(pool, leader, at=others[0])
    wait_for(lambda: all_up(pool), 10, "three servers are left")
    seats_add_up(pool)
    assert sum(pool.allocated(others[0]).values()) + pool.feature(others[0])["free"] == SEATS
    assert leader not in pool.allocated(others[0])

    # What was removed grants nothing, and its certificate lets it in no more.
    assert pool.checkout(leader).status == 503
    pool.kill(leader)
    pool.start(leader)
    wait_for(
        lambda: pool.get(leader, "/readyz").body.get("state") == "removed",
        15,
        "it says that it is not let in",
    )
    assert pool.checkout(leader).status == 503
    assert leader not in members(pool, others[0])
    pool.kill(leader)

    pool.kill(*pool.names)
    pool.start(*pool.names)
    pool.wait_ready(*pool.names)
    wait_for(lambda: all_up(pool), 10, "all know three servers after the restart")
    assert pool.checkout(others[0], count=5, wait=5).status == 201
    seats_add_up(pool)


def test_an_administrators_distribution_stays_when_servers_come_and_go(
    make_pool: MakePool,
) -> None:
    """Codes without criteria of their own are split over whichever servers there are."""
    pool = make_pool({"cad": 9})
    leader, first, second = pool.leader(), *pool.followers()

    def add_code(at: str, feature: str, count: int, distribution: str | None = None) -> int:
        code = make_code(pool.vendor, feature=feature, count=count, pool=POOL)
        answer = pool.ask(
            at, "POST", "/v1/license/codes", {"code": code, "distribution": distribution}
        )
        assert answer.status == 200, answer
        return int(answer["index"])

    def targets(at: str, index: int) -> dict[str, int]:
        """The seats that are meant for each server, as one of them tells it."""
        answer = pool.get(at, f"/v1/features/cad?index={index}")
        assert answer.status == 200, answer
        parts = answer["servers"].items()
        return {name: part["target"] for name, part in parts if part["target"]}

    index = add_code(first, "cad", 4, f"{second}:4")
    evenly = dict.fromkeys(pool.names, 3)
    assert targets(second, index) == evenly | {second: 7}
    path = "/v1/features/cad/distribution"
    assert pool.ask(second, "PUT", path, {"distribution": {first: 13}}).status == 200
    join(pool, "delta", at=first)
    index = add_code("delta", "cam", 3)
    assert [targets(name, index) for name in pool.names] == [{first: 13}] * len(pool.names)
    remove(pool, second, at=first)
    pool.stop(second)
    index = add_code("delta", "sim", 3)
    assert [targets(name, index) for name in pool.names] == [{first: 13}] * len(pool.names)
    # The license file says another for this feature than it did: that is the last word now.
    index = add_code("delta", "cad", 2, f"{leader}:2")
    assert [targets(name, index) for name in pool.names] == [
        {leader: 5, first: 3, "delta": 3}
    ] * len(pool.names)


def test_one_that_was_away_while_the_pool_changed_finds_it_again(make_pool: MakePool) -> None:
    pool = make_pool({"cad": SEATS})
    pool.kill("beta")
    join(pool, "delta", at="gamma")
    remove(pool, "alpha", at="gamma")
    pool.kill("alpha")
    done = licraft(pool, "leader", "transfer", "delta", at="gamma")
    assert done.returncode == 0, done.stderr
    # Beta knows alpha, which is gone, and gamma; not delta, which leads.
    pool.start("beta")
    pool.wait_ready("beta")
    wait_for(lambda: all_up(pool), 10, "three servers are up")
    assert pool.checkout("beta", count=5, wait=5).status == 201
    seats_add_up(pool)


def test_servers_come_and_go_under_load(make_pool: MakePool) -> None:
    pool = make_pool({"cad": SEATS}, servers=4)
    stop = threading.Event()
    refused: list[Answer] = []
    served = [0]

    def work(name: str) -> None:
        while not stop.is_set():
            answer = pool.checkout(name, count=3, wait=2)
            if answer.status == 201:
                served[0] += 1
                pool.checkin(name, answer["token"])
            else:
                refused.append(answer)

    workers = [threading.Thread(target=work, args=(name,)) for name in ("beta", "gamma")]
    for worker in workers:
        worker.start()
    try:
        join(pool, "epsilon", at="alpha")
        wait_for(lambda: all_up(pool), 15, "five servers are up")
        wait_for(lambda: pool.leader() == "alpha", 20, "the first in priority leads")
        for name in ("delta", "alpha"):
            remove(pool, name, at="epsilon")
            wait_for(lambda: all_up(pool), 15, "those that are left are up")
    finally:
        stop.set()
        for worker in workers:
            worker.join(30)
    assert served[0] > 100
    assert refused == []
    seats_add_up(pool)


def test_a_server_that_never_starts_harms_nobody(make_pool: MakePool) -> None:
    pool = make_pool({"cad": SEATS})
    add(pool, "delta", at="beta")
    wait_for(lambda: members(pool, "gamma").get("delta") == "joining", 5, "delta is joining")
    pool.kill(pool.followers()[0])
    left = [name for name in pool.names if pool.running(name)]
    # Two of three still are a majority: with delta it would be two of four.
    assert pool.checkout(left[0], count=25, wait=10).status == 201
    entries = pool.checkout(left[0])["servers"]["list"]
    assert "delta" not in [entry["name"] for entry in entries]
    remove(pool, "delta", at=left[0])
    pool.names = tuple(n for n in pool.names if n != "delta")
    assert "delta" not in members(pool, left[0])


def test_what_is_refused_says_why(make_pool: MakePool) -> None:
    pool = make_pool({"cad": SEATS})
    beta = pool.planned["beta"]

    def request(**changes: Any) -> Answer:
        body = {"name": "delta", "api": "http://127.0.0.1:1", "peer": "127.0.0.1:2"} | changes
        return pool.ask("gamma", "POST", "/v1/servers", body)

    for changes in ({"name": "beta"}, {"peer": beta.peer}, {"api": beta.api_url}):
        answer = request(**changes)
        assert (answer.status, answer.code) == (409, "invalid_request")
        assert "beta is" in answer["detail"]
    assert request(peer="127.0.0.1:77777").status == 400
    unknown = pool.ask("gamma", "DELETE", "/v1/servers/zeta")
    assert (unknown.status, unknown.code) == (404, "not_found")
    assert "alpha, beta, gamma" in unknown["detail"]
    # With one server down, the other two must both stay.
    leader = pool.leader()
    one, other = pool.followers()
    pool.kill(one)
    wait_for(lambda: members(pool, leader)[one] == "down", 10, "it is seen to be down")
    answer = pool.ask(leader, "DELETE", f"/v1/servers/{other}")
    assert (answer.status, answer.code) == (503, "no_quorum")
    assert "no majority of the servers that would count" in answer["detail"]
    assert members(pool, leader)[other] == "up"
    # The one that is down may go.
    remove(pool, one, at=leader)
    remove(pool, other, at=leader)
    wait_for(lambda: pool.leader() == leader, 10, "the last server leads")
    last = pool.ask(leader, "DELETE", f"/v1/servers/{leader}")
    assert (last.status, last.code) == (409, "invalid_request")
    assert pool.checkout(leader, count=SEATS, wait=10).status == 201


def test_a_single_server_becomes_a_pool(make_pool: MakePool) -> None:
    pool = make_pool({"cad": SEATS}, servers=1)
    join(pool, "beta", at="alpha")
    wait_for(lambda: all_up(pool), 10, "two servers are up")
    assert pool.checkout("beta", count=10, wait=10).status == 201
    remove(pool, "alpha", at="beta")
    assert pool.leader() == "beta"
    seats_add_up(pool)


def test_the_command_line_says_what_is_wrong(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(servers=1)
    malformed = licraft(pool, "server", "add", "beta", "nowhere", at="alpha")
    assert malformed.returncode == 2
    assert "HOST:APIPORT:PEERPORT" in malformed.stderr
    elsewhere = licraft(
        pool, "server", "add", "beta", "127.0.0.1:1:2", "--dir", str(tmp_path), at="alpha"
    )
    assert elsewhere.returncode == 2
    assert "ca.key" in elsewhere.stderr
    add(pool, "beta", at="alpha")
    key = pool.directory / "beta.key"
    assert key.stat().st_mode & 0o777 == 0o600
    planned = pool.planned["beta"]
    address = f"127.0.0.1:{planned.api_port}:{planned.peer_port}"
    before = key.read_bytes()
    again = licraft(pool, "server", "add", "beta", address, at="alpha")
    assert (again.returncode, key.read_bytes()) == (0, before)
    assert f"beta is joining in the pool {POOL}" in again.stdout
    unknown = licraft(pool, "server", "remove", "zeta", at="alpha")
    assert unknown.returncode == 1
    shown = licraft(pool, "servers", at="alpha")
    assert "joining" in shown.stdout
