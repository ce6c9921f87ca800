"""Every change of license and criteria, asked of a follower while nobody leads.

Claims R10, R19, B7 to B12, B21 to B26, B32. The leader is killed and the change is asked for at
once: it is answered after commit, every functioning server knows it at the index of the answer,
and it is made once. One pool serves all tests here; each changes something of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from support.processes import POOL, Answer, ServerPool, wait_for

from licraft.vendor.codes import make_code, read_code
from licraft.vendor.license_file import write_license_file

pytest_plugins = ["support.pool_fixtures"]
pytestmark = pytest.mark.timeout(60)

CAD, SIM = "/v1/features/cad", "/v1/features/sim"
LICENSE_S = 15.0
SOME = 60


def targets(feature: Any) -> dict[str, int | None]:
    return {name: part["target"] for name, part in feature["servers"].items()}


def known(
    pool: ServerPool, path: str, index: int, seen: Callable[[Any], bool], *servers: str
) -> None:
    """Read-your-writes: each of these servers, asked for that index, has the change."""
    for server in servers:
        answer = pool.ask(server, "GET", f"{path}?index={index}")
        assert answer.status == 200, answer
        assert seen(answer.body), f"{server}: {answer}"


def changes_once(
    pool: ServerPool,
    ask: Callable[[str], Answer],
    words: str,
    path: str,
    seen: Callable[[Any], bool],
) -> None:
    """Ask a follower while nobody leads: `words` are the audit's, `path` shows what is `seen`."""
    pool.wait_ready()
    leader, at, other = pool.leader(), *pool.followers()
    recorded = pool.get(at, "/v1/audit")["count"]
    pool.kill(leader)
    answer = ask(at)
    assert answer.status == 200, answer
    known(pool, path, answer["index"], seen, at, other)
    pool.start(leader)
    pool.wait_ready(leader)
    known(pool, path, answer["index"], seen, *pool.names)
    for server in pool.names:
        (record,) = pool.get(server, f"/v1/audit?after={recorded}")["records"]
        assert record["what"].startswith(words), record
        assert record["outcome"] == "done", record
        assert record["index"] <= answer["index"]


def test_b7_b8_b21_b22_the_distribution_is_changed(enduring: ServerPool) -> None:
    body = {"distribution": "alpha:0^beta:60^gamma:40"}
    changes_once(
        enduring,
        lambda at: enduring.ask(at, "PUT", f"{CAD}/distribution", body),
        "set distribution",
        CAD,
        lambda feature: targets(feature) == {"alpha": 0, "beta": 60, "gamma": 40},
    )
    wait_for(
        lambda: enduring.allocated("gamma") == {"alpha": 0, "beta": 60, "gamma": 40},
        10,
        "the seats have followed",
    )


def test_b9_b10_b23_b24_allocations_are_added(enduring: ServerPool) -> None:
    """First some retire, so that there are some to add; then some are added, some retire."""
    asked = enduring.ask("beta", "POST", f"{SIM}/allocations", {"count": -10})
    assert asked.status == 200, asked
    wait_for(lambda: enduring.feature("alpha", "sim")["deployed"] == 20, 10, "ten have retired")
    adds_once(enduring, 4, 24)
    adds_once(enduring, -5, 19)
    wait_for(lambda: enduring.feature("alpha", "sim")["deployed"] == 19, 10, "five have retired")


def adds_once(pool: ServerPool, count: int, deployed: int) -> None:
    changes_once(
        pool,
        lambda at: pool.ask(at, "POST", f"{SIM}/allocations", {"count": count}),
        "add allocations",
        SIM,
        lambda feature: feature["deployed"] - feature["over"] == deployed,
    )


def test_allocations_on_their_way_when_the_leader_dies_are_added_once(
    enduring: ServerPool,
) -> None:
    """Asked of both followers, many at a time, while the leader goes."""
    enduring.wait_ready()
    leader, *followers = enduring.leader(), *enduring.followers()
    deployed = enduring.feature(followers[0])["deployed"]
    recorded = enduring.get(followers[0], "/v1/audit")["count"]

    def retire(number: int) -> Answer:
        return enduring.ask(followers[number % 2], "POST", f"{CAD}/allocations", {"count": -1})

    with ThreadPoolExecutor(8) as askers:
        asked = [askers.submit(retire, number) for number in range(SOME)]
        wait_for(lambda: any(answer.done() for answer in asked), 10, "the first is answered")
        enduring.kill(leader)
        left = sum(not answer.done() for answer in asked)
        answers = [answer.result() for answer in asked]
    print(f"{left} of {SOME} were not answered when the leader was gone")
    assert [answer.status for answer in answers] == [200] * SOME, answers
    assert left
    enduring.start(leader)
    enduring.wait_ready(leader)
    last = max(answer["index"] for answer in answers)
    known(
        enduring, CAD, last, lambda f: f["deployed"] - f["over"] == deployed - SOME, *enduring.names
    )
    for name in enduring.names:
        records = enduring.get(name, f"/v1/audit?after={recorded}")["records"]
        assert len(records) == SOME
        assert {record["outcome"] for record in records} == {"done"}


def test_borrowing_is_bounded(enduring: ServerPool) -> None:
    body = {"server": "beta", "floor": 7}
    changes_once(
        enduring,
        lambda at: enduring.ask(at, "PUT", f"{CAD}/borrowing", body),
        "set borrowing",
        CAD,
        lambda feature: feature["servers"]["beta"]["floor"] == 7,
    )


def test_b11_b12_b25_b26_b32_a_code_is_added(enduring: ServerPool) -> None:
    """With criteria of its own: nothing for one server, for another all."""
    code = make_code(enduring.vendor, feature="new", count=9, pool=POOL)
    body = {"code": code, "distribution": "alpha:0^gamma:9"}
    path = "/v1/license/codes"
    changes_once(
        enduring,
        lambda at: enduring.ask(at, "POST", path, body, timeout_s=LICENSE_S),
        "install license",
        "/v1/features/new",
        lambda feature: feature["servers"]["gamma"]["allocated"] == feature["deployed"] == 9,
    )


def test_r10_r19_b32_a_file_is_installed(enduring: ServerPool) -> None:
    """All of its seats are for one server, and there they come."""
    code = make_code(enduring.vendor, feature="cam", count=50, pool=POOL)
    shares = (("alpha", 0), ("beta", 50), ("gamma", 0))
    read = replace(read_code(code, [enduring.vendor.public]), distribution=shares)
    content = write_license_file(POOL, 70, [read]).encode()
    changes_once(
        enduring,
        lambda at: enduring.ask(at, "PUT", "/v1/license", content=content, timeout_s=LICENSE_S),
        "install license",
        "/v1/license",
        lambda license: license["sequence"] == 70 and license["text"].encode() == content,
    )
    copies = [enduring.directory / "data" / name / "license.yaml" for name in enduring.names]
    wait_for(lambda: all(c.read_bytes() == content for c in copies), 10, "it is on every disk")
    # Of the seven seats of the first license some were elsewhere already, and stay there.
    assert enduring.feature("gamma", "cam")["deployed"] == 50
    assert targets(enduring.feature("gamma", "cam")) == {"alpha": 0, "beta": 50, "gamma": 0}
    assert enduring.unbalanced() == []
