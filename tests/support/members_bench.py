"""Members of a pool on a bench: real journals, a clock and a network that a test turns by hand.

May import the replication room. Members know each other by one letter; commands change who
takes part: `join d`, `count d`, `leave d`, `drop d`; any other is only remembered.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from pysyncobj.node import Node
from pysyncobj.transport import Transport

from licraft.replication.engine import Members
from licraft.replication.guards import GuardedSyncObj
from licraft.replication.journal import DurableJournal
from licraft.replication.library import ALL_GUARDS, Guard, configuration
from licraft.replication.machine import ReplicatedMachine
from licraft.replication.messages import CHANGE, REGULAR, Message, decode, encode
from licraft.replication.proposals import error_of
from licraft.replication.snapshot import SnapshotStore, reconcile

STEP_S = 0.02
FOUNDERS = "abc"


class Roll:
    """A state machine that is the list of members, and remembers what was applied."""

    def __init__(self, founders: str) -> None:
        self.members_index = 0
        self.voters = list(founders)
        self.learners: list[str] = []
        self.applied: list[tuple[int, bytes]] = []

    def apply(self, index: int, command: bytes) -> object:
        self.applied.append((index, command))
        after = self._after(command)
        if after is not None:
            self.voters, self.learners = after
            self.members_index = index
        return index

    def members(self) -> Members | None:
        if not self.members_index:
            return None
        return Members(
            self.members_index,
            {v: f"{v}:1" for v in self.voters},
            {n: f"{n}:1" for n in self.learners},
        )

    def voters_after(self, command: bytes) -> frozenset[str] | None:
        after = self._after(command)
        return None if after is None else frozenset(after[0])

    def _after(self, command: bytes) -> tuple[list[str], list[str]] | None:
        verb, _, name = command.decode().partition(" ")
        voters = [v for v in self.voters if v != name]
        learners = [n for n in self.learners if n != name]
        match verb:
            case "join" | "leave":
                return voters, [*learners, name]
            case "count":
                return [*voters, name], learners
            case "drop":
                return voters, learners
            case _:
                return None

    def snapshot(self) -> bytes:
        applied = [(index, command.decode()) for index, command in self.applied]
        return json.dumps([self.members_index, self.voters, self.learners, applied]).encode()

    def restore(self, index: int, snapshot: bytes) -> None:
        self.members_index, self.voters, self.learners, applied = json.loads(snapshot)
        self.applied = [(index, command.encode()) for index, command in applied]


class Wire(Transport):  # type: ignore[misc]  # PySyncObj has no types
    """A transport that keeps what is sent, as the bytes that would leave."""

    def __init__(self) -> None:
        super().__init__(None, None, [])
        self.sent: list[tuple[str, bytes]] = []

    def send(self, node: Node, message: Message) -> bool:
        self.sent.append((node.id, encode(message)))
        return True


class Member:
    """One member: its files, its state machine, its SyncObj."""

    def __init__(self, net: Net, name: str, founders: str, *, roster: bool) -> None:
        self.name = name
        self.machine = Roll(founders)
        self.wire = Wire()
        directory = net.directory / name
        directory.mkdir(exist_ok=True)
        self.journal = DurableJournal(directory, "pool", name)
        self.store = SnapshotStore(directory, "pool", founders)
        reconcile(self.journal, self.store.current)
        conf = configuration(
            self.store.path,
            append_entries_period_s=0.1,
            election_timeout_s=(0.5, 1.0),
            leader_fallback_s=1.0,
            queue_size=100,
            batch_bytes=10_000,
            compaction_entries=1000,
            compaction_period_s=1e9,
        )
        self.node = GuardedSyncObj(
            name,
            {v: f"{v}:1" for v in founders},
            conf,
            ReplicatedMachine(self.machine),
            self.wire,
            self.journal,
            self.store,
            clock=lambda: net.now,
            rng=random.Random(name),
            guards=net.guards,
            roster=self.machine if roster else None,
        )
        self.node.doTick(0.0)
        self.journal.sync()

    @property
    def leads(self) -> bool:
        return bool(self.node._isLeader())

    @property
    def commands(self) -> list[bytes]:
        return [command for _, command in self.machine.applied]

    def hear(self, sender: str, message: Message) -> None:
        self.node._SyncObj__onMessageReceived(Node(sender), message)

    def propose(self, command: bytes, *, change: bool = False) -> list[object]:
        """Propose; the list gets the result or the error when there is one."""
        results: list[object] = []

        def told(result: object, reason: int) -> None:
            results.append(error_of(reason) if reason else result)

        self.node.submit(command, told, CHANGE if change else REGULAR)
        return results


class Net:
    """The members and what is under way between them; one way of a link can be cut."""

    def __init__(
        self, directory: Path, *guards_off: Guard, names: Iterable[str] = FOUNDERS
    ) -> None:
        self.directory = directory
        self.guards = ALL_GUARDS - set(guards_off)
        self.now = 100.0
        self.members: dict[str, Member] = {}
        self.cut: set[tuple[str, str]] = set()
        for name in names:
            self.start(name)

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    def start(self, name: str, founders: str = FOUNDERS, *, roster: bool = True) -> Member:
        """Start a member, again or for the first time, connected to all others."""
        member = Member(self, name, founders, roster=roster)
        for other in self.members.values():
            member.node._SyncObj__onNodeConnected(Node(other.name))
            other.node._SyncObj__onNodeConnected(Node(name))
        self.members[name] = member
        return member

    def kill(self, name: str) -> None:
        """End a member as `kill -9` would."""
        self.members.pop(name).journal.abandon()
        for other in self.members.values():
            other.node._SyncObj__onNodeDisconnected(Node(name))

    def split(self, *groups: str) -> None:
        """Cut all links between the groups."""
        for group in groups:
            for name in group:
                for other in "".join(groups):
                    if other not in group:
                        self.cut.add((name, other))

    def turn(self, *names: str) -> None:
        """One turn of these members, or all: tick, sync, deliver what they said."""
        for name in names or tuple(self.members):
            member = self.members[name]
            member.node.doTick(0.0)
            member.journal.sync()
            sent, member.wire.sent = member.wire.sent, []
            for to, body in sent:
                if to in self.members and (name, to) not in self.cut:
                    self.members[to].hear(name, decode(body))

    def run(self, seconds: float, *names: str) -> None:
        """Let time pass."""
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            self.turn(*names)

    def until(self, condition: Callable[[], Any], seconds: float = 10.0) -> None:
        """Let time pass until a condition holds."""
        end = self.now + seconds
        while not condition():
            assert self.now < end, "the condition did not come true in time"
            self.run(STEP_S)

    def elect(self, name: str) -> Member:
        """Make a member the leader, and wait until all know what it committed."""
        self.until(lambda: any(m.leads for m in self.members.values()))
        self.run(0.3)
        leader = next(m for m in self.members.values() if m.leads)
        if leader.name != name:
            leader.node.hand_over(name)
            self.until(lambda: self[name].leads)
            self.run(0.3)
        return self[name]

    def change(self, name: str, *commands: bytes) -> None:
        """Have a leader commit changes, one after the other."""
        for command in commands:
            results = self[name].propose(command, change=True)
            self.until(partial(bool, results))
            assert isinstance(results[0], int), results
            self.run(0.3)
