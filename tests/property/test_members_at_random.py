"""Members come and go while links are cut and servers die: the log stays one.

Replay a failure with `life(directory, SEED)`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pysyncobj.syncobj
import pytest
from support.members_bench import Member, Net
from support.profiles import examples

from licraft.errors import InvariantBroken
from licraft.replication.library import Guard

NAMES = "abcdef"
STEPS = 60
SEEDS = max(10, examples(0.12).max_examples)
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True, name="clock")
def clock_fixture() -> Iterator[None]:
    """PySyncObj's clock is one for the process: put it back."""
    before = pysyncobj.syncobj.monotonicTime
    yield
    pysyncobj.syncobj.monotonicTime = before


class Life:
    """A pool that lives through what a seed says; the ledger is what was ever applied."""

    def __init__(self, directory: Path, seed: int, *guards_off: Guard) -> None:
        directory.mkdir()
        self.rng = random.Random(seed)
        self.net = Net(directory, *guards_off)
        self.ledger: dict[int, bytes] = {}
        self.changes = 0
        self.count = 0

    def go(self) -> None:
        """Live, then see that everybody agrees and the pool commits again."""
        for _ in range(STEPS):
            getattr(self, f"_{self.rng.choice(['cut', 'heal', 'die', 'boot'] + ['ask'] * 5)}")()
            self._pass(self.rng.choice([0.02, 0.06, 0.2, 0.5, 1.5]))
        self.net.cut.clear()
        for name in NAMES:
            if name not in self.net.members and (self.net.directory / name).exists():
                self.net.start(name)
        self._settle()

    def _pass(self, seconds: float) -> None:
        self.net.run(seconds)
        for member in self.net.members.values():
            for index, command in member.machine.applied:
                known = self.ledger.setdefault(index, command)
                assert known == command, f"{member.name} applied {command!r} for {known!r}"

    def _settle(self) -> None:
        """Within 20 s the pool commits, and all that take part have the same."""
        for _ in range(50):
            self._pass(0.2)
            leader = next((m for m in self.net.members.values() if m.leads), None)
            done = leader.propose(b"the end") if leader else []
            self._pass(0.2)
            if leader and done and isinstance(done[0], int) and self._agree(leader):
                self.changes = sum(b" " in c and c != b"the end" for c in leader.commands)
                return
        raise AssertionError("the pool does not commit any more, or does not agree")

    def _agree(self, leader: Member) -> bool:
        part = set(leader.machine.voters + leader.machine.learners) & set(self.net.members)
        return all(self.net[n].machine.applied == leader.machine.applied for n in part)

    def _cut(self) -> None:
        a, b = self.rng.sample(NAMES, 2)
        self.net.cut.add((a, b))
        if self.rng.random() < 0.5:
            self.net.cut.add((b, a))

    def _heal(self) -> None:
        self.net.cut.clear()

    def _die(self) -> None:
        alive = [n for n in NAMES if n in self.net.members]
        if len(alive) > 2:
            self.net.kill(self.rng.choice(alive))

    def _boot(self) -> None:
        gone = [n for n in NAMES if n not in self.net.members]
        if gone:
            self.net.start(self.rng.choice(gone))

    def _ask(self) -> None:
        """Whoever leads, or believes so, is asked for two things at once."""
        leaders = [m for m in self.net.members.values() if m.leads]
        if not leaders:
            return
        leader = self.rng.choice(leaders)
        for _ in range(2):
            self.count += 1
            command, change = self._command(leader)
            leader.propose(command, change=change)
        if self.rng.random() < 0.1:
            leader.node.forceLogCompaction()

    def _command(self, leader: Member) -> tuple[bytes, bool]:
        roll = leader.machine
        strangers = [n for n in NAMES if n not in roll.voters + roll.learners]
        kinds = {"join": strangers, "count": roll.learners, "drop": roll.learners}
        kinds["leave"] = roll.voters if len(roll.voters) > 1 else []
        kind = self.rng.choice([*kinds, "count", "leave", "plain"])
        names = kinds.get(kind)
        if not names:
            return b"%d" % self.count, False
        return f"{kind} {self.rng.choice(names)}".encode(), True


def life(directory: Path, seed: int, *guards_off: Guard) -> Life:
    lived = Life(directory, seed, *guards_off)
    lived.go()
    return lived


def test_the_log_stays_one(tmp_path: Path) -> None:
    lives = [life(tmp_path / str(seed), seed) for seed in range(SEEDS)]
    assert sum(lived.changes for lived in lives) > 5 * SEEDS
    sizes = {len(m.machine.voters) for lived in lives for m in lived.net.members.values()}
    assert {2, 3, 4} <= sizes


def test_changes_two_at_a_time_are_noticed(tmp_path: Path) -> None:
    def many() -> None:
        for seed in range(400):
            life(tmp_path / str(seed), seed, Guard.ONE_CHANGE)

    with pytest.raises((AssertionError, InvariantBroken)):
        many()
