"""Elections of real servers on a network that loses its links: calm when they can be, else fast.

Where a test sleeps, the length of an outage is what it is about; everything else is waited for.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import Answer, wait_for
from support.relayed_pool import RelayedPool
from support.relays import Network

from licraft.pool_files import NAMES

LONG_S = 10.0
"""An outage of many election timeouts, of several leases, and longer than a ttl."""

FLAPS_S = 6.0
STEPS_DOWN_S = 1.0
BACK_WITHIN_S = 6.0
NOISE_S = 0.5
"""Two servers and a test share a busy machine: what is measured may be this much late."""


def running_pool(directory: Path) -> Iterator[RelayedPool]:
    """A pool that is ready and has committed something, until the generator is closed."""
    with Network(*NAMES[:3]) as network:
        made = RelayedPool(directory, network)
        try:
            made.start()
            made.wait_ready()
            made.commit_at(made.names[0])
            made.wait_alike()
            yield made
        finally:
            network.mend_all()
            # Shown beside a failure only.
            print(made.logs())
            made.close()


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[RelayedPool]:
    yield from running_pool(tmp_path / "pool")


@pytest.fixture(scope="module")
def calm_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayedPool]:
    """For the tests after which everything is as it was."""
    yield from running_pool(tmp_path_factory.mktemp("calm") / "pool")


def outage(pool: RelayedPool, length_s: float, *at: str) -> list[float]:
    """Let an outage last, while commits at these servers go on; the seconds of each commit."""
    over = time.monotonic() + length_s
    took = []
    while time.monotonic() < over:
        took += [pool.commit_at(name) for name in at]
        time.sleep(0.05)
    return took


def leads(pool: RelayedPool, name: str) -> str | None:
    """Who leads, as a server sees it."""
    answer = pool.get(name, "/v1/pool")
    assert answer.status == 200
    leader: str | None = answer["leader"]
    return leader


def state(pool: RelayedPool, name: str) -> str:
    """Whether a server may grant, in its own words."""
    return str(pool.get(name, "/v1/pool")["state"])


def test_a_follower_that_was_cut_off_changes_neither_leader_nor_term(
    calm_pool: RelayedPool,
) -> None:
    pool = calm_pool
    before = pool.wait_agreed()
    leader = pool.leader()
    lost, other = pool.followers()
    with pool.watched(leader, other) as watch:
        pool.network.isolate(lost)
        wait_for(lambda: state(pool, lost) == "no_quorum", 5, f"{lost} misses the leader")
        took = outage(pool, LONG_S, leader, other)
        alone = pool.view(lost)
        pool.network.mend_all()
        pool.wait_ready(lost, within_s=BACK_WITHIN_S)
        # The term of a server that is back spreads with its first answers to the leader.
        pool.commit_at(lost)
        assert pool.wait_agreed() == before
    assert alone is not None
    assert alone.term == before.term
    assert watch.all == {before}
    assert sorted(took)[len(took) // 2] < 0.2
    pool.wait_alike()


@pytest.mark.parametrize("direction", ["it hears nothing", "it is not heard"])
def test_a_follower_with_half_a_link_changes_neither_leader_nor_term(
    calm_pool: RelayedPool, direction: str
) -> None:
    pool = calm_pool
    before = pool.wait_agreed()
    leader = pool.leader()
    lost, other = pool.followers()
    with pool.watched(leader, other) as watch:
        if direction == "it hears nothing":
            pool.network.cut(leader, lost)
        else:
            pool.network.cut(lost, leader)
        wait_for(lambda: state(pool, lost) == "no_quorum", 5, f"{lost} cannot renew its lease")
        # Some election timeouts more, and longer than a silent connection lives.
        outage(pool, 3.0, leader, other)
        pool.network.mend_all()
        pool.wait_ready(lost, within_s=BACK_WITHIN_S)
        pool.commit_at(lost)
        assert pool.wait_agreed() == before
    assert watch.all == {before}
    pool.wait_alike()


@pytest.mark.parametrize("direction", ["both", "it is not heard", "it hears nothing"])
def test_a_leader_that_is_cut_off_steps_down_and_the_others_elect_one(
    pool: RelayedPool, direction: str
) -> None:
    before = pool.wait_agreed()
    leader, followers = pool.leader(), pool.followers()
    begun = time.monotonic()
    for follower in followers:
        if direction != "it hears nothing":
            pool.network.cut(leader, follower)
        if direction != "it is not heard":
            pool.network.cut(follower, leader)
    # None or, if it hears of the other's election, the other.
    wait_for(lambda: leads(pool, leader) != leader, 5, "it does not lead")
    stepped_down_s = time.monotonic() - begun
    after = pool.wait_agreed(*followers, after_term=before.term)
    elected_s = time.monotonic() - begun
    print(f"stepped down after {stepped_down_s:.2f} s, another leads after {elected_s:.2f} s")
    assert stepped_down_s < STEPS_DOWN_S + NOISE_S
    assert elected_s < 2 * STEPS_DOWN_S + NOISE_S
    assert after.leader in followers
    wait_for(lambda: state(pool, leader) == "no_quorum", 5, f"{leader} grants nothing")
    pool.commit_at(followers[1])

    with pool.watched(*followers) as watch:
        pool.network.mend_all()
        wait_for(lambda: pool.agreed() == after, BACK_WITHIN_S, f"{leader} follows")
        pool.wait_ready(leader, within_s=BACK_WITHIN_S)
    assert watch.all == {after}
    pool.commit_at(leader)
    pool.wait_alike()


def test_a_stopped_leader_that_is_continued_applies_nothing_of_its_own(pool: RelayedPool) -> None:
    before = pool.wait_agreed()
    leader, followers = pool.leader(), pool.followers()
    # An entry that nobody else has: proposed in the moment before it knows that it is alone.
    sequence = pool.get(leader, "/v1/license")["sequence"] + 1
    ghost = pool.license_text({"cad": 7777}, sequence=sequence)
    (code,) = re.findall(r"LIC1\.[\w.-]+", ghost)
    journal = pool.directory / "data" / leader / "journal"
    answers: list[Answer] = []
    asked = threading.Thread(target=lambda: answers.append(pool.propose_license(leader, ghost)))
    pool.network.isolate(leader)
    asked.start()
    wait_for(lambda: code.encode() in journal.read_bytes(), 5, "it is in the leader's journal")
    pool.pause(leader)

    after = pool.wait_agreed(*followers, after_term=before.term)
    truth = pool.license_text({"cad": 55}, sequence=sequence)
    wait_for(
        lambda: pool.propose_license(followers[0], truth).status == 200, 10, "the others commit"
    )
    outage(pool, LONG_S)
    with pool.watched(*followers) as watch:
        # What it had said arrives now, too.
        pool.network.mend_all()
        pool.resume(leader)
        wait_for(lambda: pool.agreed() == after, BACK_WITHIN_S, f"{leader} follows")
        pool.wait_ready(leader, within_s=BACK_WITHIN_S)
    asked.join(20)
    assert watch.all == {after}
    assert [answer.status for answer in answers] != [200]
    pool.wait_alike()
    assert {pool.get(name, "/v1/license")["text"] for name in pool.names} == {truth}
    assert pool.feature(leader)["entitled"] == 55


@pytest.mark.parametrize("how", ["killed", "stopped", "paused"])
def test_a_follower_that_comes_back_does_not_unseat_the_leader(
    calm_pool: RelayedPool, how: str
) -> None:
    pool = calm_pool
    before = pool.wait_agreed()
    leader = pool.leader()
    with pool.watched(leader) as watch:
        for lost in pool.followers()[: 1 if how == "paused" else 2]:
            if how == "paused":
                pool.pause(lost)
                # Longer than an election timeout and than a silent connection lives.
                outage(pool, 3.0, leader)
                pool.resume(lost)
            else:
                (pool.kill if how == "killed" else pool.stop)(lost)
                pool.commit_at(leader)
                pool.start(lost)
            pool.wait_ready(lost, within_s=BACK_WITHIN_S)
            pool.commit_at(lost)
            assert pool.wait_agreed() == before
    assert watch.all == {before}
    pool.wait_alike()


@pytest.mark.parametrize("down_s", [0.2, 0.8])
def test_links_that_flap_do_not_raise_the_term(calm_pool: RelayedPool, down_s: float) -> None:
    pool = calm_pool
    before = pool.wait_agreed()
    leader = pool.leader()
    lost, other = pool.followers()
    with pool.watched(leader, other) as watch:
        over = time.monotonic() + FLAPS_S
        while time.monotonic() < over:
            # Shorter and longer than an election timeout: the outage is the condition.
            pool.network.isolate(lost)
            outage(pool, down_s, leader)
            pool.network.mend_all()
            outage(pool, 0.3, other)
        pool.wait_ready(lost, within_s=BACK_WITHIN_S)
        pool.commit_at(lost)
        assert pool.wait_agreed() == before
    assert watch.all == {before}
    pool.wait_alike()
