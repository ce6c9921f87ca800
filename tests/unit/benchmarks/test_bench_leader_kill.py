"""The benchmark that kills leaders finds what is lost, and what differs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterable
from pathlib import Path

import pytest

from benchmarks import leader_kill
from benchmarks.kill_targets import Standing
from benchmarks.leader_kill import Course, Load, kill_again_and_again
from benchmarks.members import free_addresses
from benchmarks.replay import digests_of, last_common
from benchmarks.systems import Cluster, Node
from licraft.core import versions
from licraft.core.codec import encode_entry
from licraft.core.commands import Entry, FormPool, Member
from licraft.replication.pysyncobj_engine import EngineConfig, start_engine
from licraft.server.pool import ReplicatedPool

NAMES = ("alpha", "beta", "gamma")


class PretendedNode(Node):
    """A server that is only said to run."""

    def __init__(self) -> None:
        super().__init__([], Path(), {})
        self.runs = True

    def start(self) -> None:
        self.runs = True

    def freeze(self) -> None:
        self.runs = False

    def kill(self) -> None:
        self.runs = False


class PretendedLedger:
    """A pool in memory.

    `keeps`: no number is lost with its leader; `commits`: a probe is not answered before
    there is a new leader.
    """

    def __init__(self, *, keeps: bool = True, commits: bool = True) -> None:
        self.nodes = {name: PretendedNode() for name in NAMES}
        self.cluster = Cluster(self.nodes, dict.fromkeys(NAMES, "http://127.0.0.1:1"), Path())
        self.numbers: set[int] = set()
        self.leader = "alpha"
        self.term = 1
        self.keeps = keeps
        self.commits = commits
        self.closed = False

    def _elect(self) -> None:
        if not self.nodes[self.leader].runs:
            self.leader = next(name for name, node in self.nodes.items() if node.runs)
            self.term += 1
            if not self.keeps and self.numbers:
                self.numbers.discard(max(self.numbers))

    async def standing(self, names: Iterable[str]) -> Standing | None:
        self._elect()
        wanted = all(self.nodes[name].runs for name in names)
        return Standing(self.leader, self.term) if wanted else None

    async def record(self, name: str, number: int) -> bool:
        await asyncio.sleep(0.001)
        if not self.nodes[name].runs:
            return False
        self.numbers.add(number)
        return True

    async def probe(self, name: str) -> int | None:
        await asyncio.sleep(0.001)
        if not self.nodes[name].runs:
            return None
        if self.commits:
            self._elect()
        return self.term

    async def missing(self, name: str, numbers: Collection[int]) -> int | None:
        return len(set(numbers) - self.numbers)

    async def work(self, name: str, turn: int) -> bool:
        await asyncio.sleep(0.001)
        return self.nodes[name].runs

    async def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_kill, "_CALM_S", (0.1, 0.2))
    monkeypatch.setattr(leader_kill, "_KEPT_WITHIN_S", 0.02)


def _course(ledger: PretendedLedger, *, silent: bool = False) -> Course:
    rng = random.Random(1)
    return asyncio.run(kill_again_and_again(ledger, 3, 2, silent, rng))


@pytest.mark.parametrize("silent", [False, True])
def test_a_pool_that_keeps_everything_loses_nothing(silent: bool) -> None:
    ledger = PretendedLedger()
    course = _course(ledger, silent=silent)
    assert (len(course.outages_s), course.lost) == (3, 0)
    assert course.acknowledged == len(ledger.numbers) > 3
    assert course.rounds > 0
    assert ledger.term == 4
    assert all(node.runs for node in ledger.nodes.values())


def test_a_number_that_was_acknowledged_and_is_gone_is_counted() -> None:
    assert _course(PretendedLedger(keeps=False)).lost > 0


def test_a_probe_that_is_answered_without_a_commit_is_found_out() -> None:
    with pytest.raises(SystemExit, match="no commit"):
        _course(PretendedLedger(commits=False))


def test_a_kill_of_a_server_that_did_not_lead_does_not_count() -> None:
    async def kill_a_follower() -> Course:
        course = Course()
        ledger = PretendedLedger()
        load = Load(ledger, 0, course)
        await leader_kill._kill_once(ledger, load, course, Standing("gamma", 1), silent=False)
        return course

    course = asyncio.run(kill_a_follower())
    assert (course.outages_s, course.already_moved) == ([], 1)


def test_states_are_compared_where_all_have_been() -> None:
    same = {1: "a", 2: "b", 3: "c"}
    assert last_common({"alpha": same, "beta": {2: "b"}}) == (2, {"b"})
    assert last_common({"alpha": same, "beta": {2: "b", 3: "x"}}) == (3, {"c", "x"})
    assert last_common({"alpha": same, "beta": {4: "d"}}) == (0, set())


def test_a_disk_is_read_as_the_server_would_read_it(tmp_path: Path) -> None:
    async def scenario() -> tuple[str, int, dict[int, str]]:
        address = {"alpha": free_addresses()["alpha"]}

        async def answer(server: str, body: bytes) -> bytes:
            return b""

        machine = ReplicatedPool()
        config = EngineConfig("bench", "alpha", address, tmp_path / "alpha")
        engine = await start_engine(config, machine, answer, lambda: None)
        members = tuple(Member(name, "http://127.0.0.1:1", "127.0.0.1:1") for name in NAMES)
        form = FormPool("bench", members, 3.0, 60.0, 0.01, "0" * 64)
        entry = encode_entry(Entry("", 0, 0, (form,)), versions.KNOWN)
        async with asyncio.timeout(10):
            while not engine.status().leads:  # noqa: ASYNC110  # It has no event for this.
                await asyncio.sleep(0.005)
        await engine.propose(entry, 10.0)
        index, digest = engine.status().applied_index, machine.digest()
        # The next entry's frame tells the disk that the one before is committed.
        await engine.propose(entry, 10.0)
        await engine.close()
        found = await digests_of("bench", "alpha", address, tmp_path / "alpha")
        return digest, index, found

    digest, index, found = asyncio.run(scenario())
    assert found[index] == digest
