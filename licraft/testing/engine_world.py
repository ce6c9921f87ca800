"""What surrounds a simulated engine: its machine, its clock, and what all have in common.

May import this room and `replication`'s figures. A machine outlives the processes that run
on it: its disk, its configuration file, and what its operators mean to do with it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from licraft.replication.library import ALL_GUARDS, Guard
from licraft.replication.messages import BATCH_BYTES
from licraft.testing.disk import MemoryDisk
from licraft.testing.engine_checker import Checker
from licraft.testing.engine_network import Network, Schedule

if TYPE_CHECKING:
    from licraft.testing.engine_member import Member

START_S = 1000.0
DISK_S = 0.001


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all servers of a run have in common.

    Pieces of snapshots are `scale` times smaller than real ones, and so are the bounds for what
    waits. With `rests` a server that has nothing to do takes fewer turns, as a real one does.
    Without `members_of_the_log` a server that starts again counts by its configuration file.
    """

    guards: frozenset[Guard] = ALL_GUARDS
    careful_snapshots: bool = True
    members_of_the_log: bool = True
    batch_bytes: int = BATCH_BYTES
    compaction_entries: int = 40
    compaction_bytes: int = 4000
    state_bytes: int = 300
    rests: bool = False
    scale: int = 1


class Clock:
    """The clock that PySyncObj reads, one for the process: that of the server at work."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.rate = 1.0
        self.passed_s = 0.0

    def __call__(self) -> float:
        """Seconds, as the server at work counts them."""
        return START_S + self._schedule.now * self.rate + self.passed_s


@dataclass(slots=True)
class Host:
    """A server's machine: what outlives its processes.

    Its configuration file lists the servers in order of leader priority; with `joins` it
    forms no pool. One that is `retired` is not started again.
    """

    name: str
    disk: MemoryDisk
    clock_rate: float
    file: tuple[str, ...]
    joins: bool = False
    retired: bool = False
    term: int = 0  # the last that it was seen in
    starts: int = 0
    knows_pool: bool = False  # durably: whatever its file says, its log counts
    disk_s: float = DISK_S
    slept_s: float = 0.0  # by its own clock, which stood still meanwhile
    fails: bool = False  # its disk may return errors: stopping is then as it should be
    loses_power: bool = False  # and not only the process, when it is cut
    member: Member | None = None

    @property
    def newest_term(self) -> int:
        """The term that its server is in, or was when it ended."""
        return self.term if self.member is None else self.member.node.raftCurrentTerm


@dataclass(frozen=True, slots=True)
class World:
    """All that surrounds a member; `ended` is told when one ended by itself, and why.

    `adopted` is told when one counts by other members.
    """

    conditions: Conditions
    schedule: Schedule
    clock: Clock
    network: Network
    checker: Checker
    rng: random.Random
    ended: Callable[[Member, str], None]
    elected: Callable[[Member], None]
    adopted: Callable[[Member], None]
    succeeded: Callable[[str, bytes], None]
    tally: Counter[str]
