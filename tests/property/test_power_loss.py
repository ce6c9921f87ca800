"""Nothing acknowledged is lost, at whatever step of the disk the power goes.

Runs of commands, votes, truncations, compactions, received snapshots and restarts, on a disk
in memory that is cut at each of its steps in turn. Every start afterwards has to find what
was acknowledged (`support.durable_life` knows what that is), and is never refused: only
damage that no power cut does is, by an error that names the file.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.durable_life import FOLDER, OPS, Life, Op
from support.profiles import examples

from licraft.errors import DataError
from licraft.testing.disk import Fault, MemoryDisk, PowerCut, Step

RUNS: dict[str, list[Op]] = {
    "commands": [("add", 2), ("sync", 0), ("add", 4), ("sync", 0), ("commit", 0), ("sync", 0)],
    "votes": [("vote", 1), ("sync", 0), ("vote", 2), ("add", 1), ("vote", 0), ("sync", 0)],
    "truncation": [
        *[("add", 2), ("sync", 0), ("commit", 2), ("vote", 2), ("cut", 1), ("sync", 0)],
        *[("add", 1), ("overlap", 2), ("sync", 0), ("restart", 0)],
    ],
    "compaction": [
        *[("add", 2), ("sync", 0), ("commit", 1), ("compact", 0), ("add", 5), ("sync", 0)],
        *[("commit", 0), ("later", 0), ("add", 7), ("sync", 0), ("compact", 0), ("restart", 1)],
    ],
    "snapshot received": [
        *[("add", 5), ("sync", 0), ("commit", 1), ("receive", 0), ("vote", 1), ("sync", 0)],
        *[("add", 2), ("sync", 0), ("commit", 0), ("receive", 1), ("add", 2), ("sync", 0)],
    ],
    "restarts": [
        *[("add", 2), ("sync", 0), ("add", 1), ("restart", 0), ("vote", 1), ("restart", 1)],
        *[("commit", 0), ("compact", 1), ("restart", 0), ("add", 3), ("sync", 0), ("restart", 0)],
    ],
}
AFTERWARDS: list[Op] = [("add", 2), ("vote", 1), ("sync", 0), ("commit", 0), ("compact", 0)]

End = Callable[[Life], None]


def lived(disk: MemoryDisk, ops: list[Op], step: int, fault: Fault = Fault.CUT) -> Life:
    """A life that meets a fault at a step; it may be over before."""
    disk.on_step = lambda at: fault if at.number == step else None
    life = Life(disk)
    try:
        life.live(ops)
    except PowerCut:
        assert fault is Fault.CUT
    except DataError as refusal:
        if fault not in (Fault.NO_SPACE, Fault.IO_ERROR) or str(FOLDER) not in str(refusal):
            raise
    disk.on_step = None
    return life


def cut_everywhere(
    make: type[MemoryDisk], ops: list[Op], end: End, *, seeds: int = 3, fault: Fault = Fault.CUT
) -> int:
    """Live up to each step in turn, end there, and live on; returns how many steps there are."""
    step = 0
    while True:
        step += 1
        for seed in range(seeds):
            disk = make(random.Random(f"{step}/{seed}"))
            life = lived(disk, ops, step, fault)
            if disk.steps < step:
                return step - 1
            end(life)
            life.live(AFTERWARDS)
            life.lose_power()
            life.start()


@pytest.mark.parametrize("end", [Life.lose_power, Life.crash])
@pytest.mark.parametrize("run", RUNS)
def test_a_cut_at_every_step(run: str, end: End) -> None:
    assert cut_everywhere(MemoryDisk, RUNS[run], end) > 15


@pytest.mark.parametrize("run", RUNS)
def test_a_start_that_is_itself_cut_at_every_step(run: str) -> None:
    """After each cut of the run, the start is cut at each of its steps, and after that another."""
    step, starts = 0, 0
    while True:
        step += 1
        disk = MemoryDisk(random.Random(step))
        first = lived(disk, RUNS[run], step)
        if disk.steps < step:
            break
        end = random.Random(step).choice([Life.lose_power, Life.crash])
        end(first)
        for later in range(1, 100):
            life = first.copy()
            last = life.disk.steps + later
            life.disk.on_step = lambda at, last=last: Fault.CUT if at.number == last else None
            try:
                life.start()
            except PowerCut:
                starts += 1
                life.lose_power()
                life.disk.on_step = None
                life.live(AFTERWARDS)
            else:
                break
        assert life.lives == 1
    assert starts > 5 * step


@pytest.mark.parametrize("fault", [Fault.NO_SPACE, Fault.IO_ERROR, Fault.SHORT])
@pytest.mark.parametrize("run", RUNS)
def test_an_error_at_every_step(run: str, fault: Fault) -> None:
    """The server stops, is started again in what its machine believes, and then loses power."""

    def end(life: Life) -> None:
        life.crash()
        life.start()
        life.lose_power()

    cut_everywhere(MemoryDisk, RUNS[run], end, seeds=2, fault=fault)


runs = st.lists(st.tuples(st.sampled_from(OPS), st.integers(0, 11)), max_size=30)
cuts = st.lists(st.tuples(st.integers(1, 120), st.booleans()), max_size=4)


@examples(3)
@given(ops=runs, cuts=cuts, seed=st.integers(0, 2**32))
def test_any_run_with_any_cuts(ops: list[Op], cuts: list[tuple[int, bool]], seed: int) -> None:
    disk = MemoryDisk(random.Random(seed))
    life = Life(disk)
    for steps, powerless in cuts:
        last = disk.steps + steps
        disk.on_step = lambda at, last=last: Fault.CUT if at.number == last else None
        try:
            life.live(ops)
        except PowerCut:
            pass
        (life.lose_power if powerless else life.crash)()
    disk.on_step = None
    life.live(ops)
    life.lose_power()
    life.start()


@examples()
@given(ops=runs, capacity=st.integers(200, 4000), seed=st.integers(0, 2**32))
def test_a_disk_that_fills_up(ops: list[Op], capacity: int, seed: int) -> None:
    disk = MemoryDisk(random.Random(seed), capacity_bytes=capacity)
    life = Life(disk)
    try:
        life.live(ops)
    except DataError as refusal:
        if "No space left on device" not in str(refusal):
            raise
    life.crash()
    disk.capacity_bytes = None
    life.live(AFTERWARDS)
    life.lose_power()
    life.start()


# The tests find what they look for.


class Forgetful(MemoryDisk):
    """A disk with syncs that say yes and do nothing; `lies` says which."""

    lies: Callable[[Step], bool]

    def __init__(self, rng: random.Random, *, capacity_bytes: int | None = None) -> None:
        super().__init__(rng, capacity_bytes=capacity_bytes)
        self.last = Step(0, "", FOLDER)

    def _step(self, call: str, path: Path) -> Fault | None:
        fault = super()._step(call, path)
        step, before = Step(self.steps, call, path), self.last
        self.last = step
        named = before.path if before.call == "rename" else path
        lied = type(self).lies(Step(step.number, call, named))
        return Fault.LIE if fault is None and lied else fault


class RenamesByCopying(MemoryDisk):
    """A disk as it would be for files that are overwritten in place."""

    def rename(self, source: Path, target: Path) -> None:
        content = self.read(source)
        file = self.create(target)
        self.write(file, content)
        self.sync(file)
        self.close(file)
        self.remove(source)


SNAPSHOT_ASIDE = FOLDER / "snapshot.new"
LIES: dict[str, Callable[[Step], bool]] = {
    "nothing is ever synced": lambda step: True,
    "files get their names before their content": lambda step: step.call == "sync",
    "what is appended is not synced": lambda step: step.call == "sync_data",
    "only the first write is synced": lambda step: step.call == "sync_data" and step.number > 12,
    "names are not synced": lambda step: step.call == "sync_directory",
    "a snapshot's content is not synced": lambda step: step[1:] == ("sync", SNAPSHOT_ASIDE),
    "a snapshot's name is not synced": lambda step: (
        step[1:] == ("sync_directory", FOLDER / "snapshot")
    ),
}


@pytest.mark.parametrize("lies", LIES)
def test_a_journal_that_leaves_out_a_sync_is_caught(lies: str) -> None:
    class Broken(Forgetful): ...

    Broken.lies = LIES[lies]
    assert is_caught(Broken)


def test_files_that_are_overwritten_are_caught() -> None:
    assert is_caught(RenamesByCopying)


def test_a_forgetful_disk_that_forgets_nothing_is_not_caught() -> None:
    class Honest(Forgetful): ...

    Honest.lies = lambda step: False
    assert not is_caught(Honest)


def is_caught(broken: type[MemoryDisk]) -> bool:
    """Whether some run loses something, or cannot start any more."""
    try:
        for ops in RUNS.values():
            cut_everywhere(broken, ops, Life.lose_power)
    except (AssertionError, DataError):
        return True
    return False


def test_only_real_damage_is_refused_and_the_file_is_named() -> None:
    """Every flipped bit of a directory that was synced, and every file that is missing."""
    disk = MemoryDisk(random.Random(1))
    life = Life(disk)
    life.live(RUNS["compaction"])
    life.lose_power()
    life.start()
    whole = disk.files
    assert {path.name for path in whole} == {"journal", "snapshot"}
    for path, content in whole.items():
        for position in range(len(content)):
            flipped = bytearray(content)
            flipped[position] ^= 1 << position % 8
            disk.damage(path, bytes(flipped))
            with pytest.raises(DataError, match=str(path)):
                life.copy().start()
        disk.damage(path, content)
        lacking = life.copy()
        lacking.disk.remove(path)
        with pytest.raises(DataError, match=str(FOLDER / "journal")):
            lacking.start()
    life.copy().start()
