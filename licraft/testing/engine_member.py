"""One run of one simulated server: the real guarded engine, driven as on the event loop.

May import this room, `replication` and `errors`. What `PySyncObjEngine` does with asyncio,
threads and sockets happens here in virtual time, in the same order: messages and proposals
wake a turn; a turn ticks, begins a sync and seals what was said; while the disk works no
further turn begins; when it is done what was sealed leaves, and the next turn begins.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from licraft.errors import DataError
from licraft.replication.directory import Directory
from licraft.replication.engine import Members
from licraft.replication.guards import GuardedSyncObj
from licraft.replication.library import configuration
from licraft.replication.link import MAX_UNSENT_BYTES
from licraft.replication.machine import ReplicatedMachine
from licraft.replication.messages import REGULAR, Message, decode, encode
from licraft.replication.peers import PING_S, SILENCE_S
from licraft.replication.proposals import is_finished
from licraft.replication.pysyncobj_engine import CHECK_S, REST_S, SWEEP_S, TICK_S, EngineConfig
from licraft.replication.snapshot import SnapshotStore, reconcile
from licraft.testing.disk import Fault, PowerCut
from licraft.testing.engine_checker import Leadership, SafetyBroken
from licraft.testing.engine_network import PING, Frame, Link, Process
from licraft.testing.engine_parts import (
    DIRECTORY,
    POOL,
    CarelessStore,
    Machine,
    WatchedJournal,
    WatchedProposal,
    Wire,
    Writing,
)
from licraft.testing.engine_roll import addresses
from licraft.testing.engine_world import Host, World

LEAST_S = 1e-6
DEFAULTS = EngineConfig(POOL, "", {}, DIRECTORY)
WORK_STEPS = 8
"""About how many steps of the disk a sync or a snapshot takes."""


class Member:
    """One process: started, paused, continued, and ended at any moment."""

    def __init__(
        self,
        world: World,
        host: Host,
        machine: Callable[[Callable[[int], None]], Any] | None = None,
        turned: Callable[[], None] | None = None,
    ) -> None:
        """Build what needs no disk; `start` is the rest.

        `machine` makes another state machine than the simulation's own, from who is to be told
        of each index; `turned` is called after each turn.
        """
        self.world = world
        self.host = host
        self.name = host.name
        self.alive = True
        self.paused = False
        self.links: dict[str, Link] = {}
        self._backlog: list[Callable[[], None]] = []
        self.proposals: dict[WatchedProposal, None] = {}
        self._scheduled = False
        self._sync: Callable[[], None] | None = None
        self._writing: Writing | None = None
        self._progress = (0, 0, 0)
        self._term = self._led = 0
        self._swept_at = self._watched_at = 0.0
        self._wire = Wire(self._say)
        self._joins, self._file = host.joins, host.file
        self._directory = Directory(host.name, addresses(host.file))
        self._nodes: dict[str, Any] = {}
        self._listens = False
        self._turned = turned
        self._in_turn = False
        state_bytes = world.conditions.state_bytes
        self.machine = (
            machine(self._applied)
            if machine is not None
            else Machine(host.name, world.checker, self._applied, state_bytes)
        )

    def start(self) -> None:
        """Read the disk, restore the state, listen, dial, and begin to take turns."""
        world, conditions = self.world, self.world.conditions
        self.journal = WatchedJournal(self.name, world.checker, self.host.disk)
        world.checker.started(
            self.name, self.journal.getCurrentTerm(), self.journal.getVotedForNodeId()
        )
        kind = SnapshotStore if conditions.careful_snapshots else CarelessStore
        self.store = kind(DIRECTORY, POOL, self._file, self.host.disk)
        reconcile(self.journal, self.store.current)
        self.store.background = self._write_in_background
        self.node = self._build()
        self._term = self.node.raftCurrentTerm
        # A server that counts alone stands as soon as any time has passed since it was built.
        world.clock.passed_s = LEAST_S - self.host.slept_s
        self._tick()
        self.journal.sync()
        self.host.knows_pool |= self.machine.roll.index > 0
        self.machine.on_restored = partial(world.tally.update, ["snapshots installed"])
        world.network.processes[self.name] = self
        self._listens = True
        self._meet()
        self._swept_at = self._watched_at = self.clock()
        self.host.member = self
        self.host.starts += 1
        self._watch()
        self._beat()

    def _build(self) -> GuardedSyncObj:
        """The guarded SyncObj, as `PySyncObjEngine` builds it."""
        world, conditions = self.world, self.world.conditions
        conf = configuration(
            # PySyncObj only looks whether there is a file; the store reads it, elsewhere.
            Path(__file__ if self.store.current is not None else os.devnull),
            append_entries_period_s=DEFAULTS.append_entries_period_s,
            election_timeout_s=DEFAULTS.election_timeout_s,
            leader_fallback_s=DEFAULTS.leader_fallback_s,
            queue_size=2 * DEFAULTS.max_proposals,
            batch_bytes=conditions.batch_bytes,
            compaction_entries=conditions.compaction_entries,
            compaction_period_s=DEFAULTS.compaction_period_s,
        )
        return GuardedSyncObj(
            self.name,
            addresses(n for n in self._file if n != self.name or not self._joins),
            conf,
            ReplicatedMachine(self.machine),
            self._wire,
            self.journal,
            self.store,
            clock=world.clock,
            rng=random.Random(world.rng.getrandbits(64)),
            pending_bytes=self._pending_bytes,
            check_leader=self._check_leader,
            guards=conditions.guards,
            roster=self.machine if conditions.members_of_the_log or not self.host.starts else None,
            on_members=self._follow_members,
        )

    # The process.

    def clock(self) -> float:
        """Its own clock, as long as it is at work."""
        return self.world.clock()

    def at_work(self, action: Callable[[], None]) -> None:
        """Do something, now or when continued; whatever goes wrong ends the simulation."""
        if not self.alive:
            return
        if self.paused:
            self._backlog.append(action)
            return
        clock, host = self.world.clock, self.host
        clock.rate, clock.passed_s = host.clock_rate, -host.slept_s
        try:
            action()
        except PowerCut as cut:
            self.world.ended(self, str(cut))
        except DataError as fault:
            if not self.host.fails:
                raise SafetyBroken(f"{self.name} stopped: {fault!r}") from fault
            self.world.ended(self, str(fault))
        except Exception as fault:  # Of any kind, it would have stopped the server.
            raise self.world.checker.fault or SafetyBroken(
                f"{self.name} stopped: {fault!r}"
            ) from fault

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something in `delay_s` seconds of its own clock."""
        self.world.schedule.after(delay_s / self.host.clock_rate, self.at_work, action)

    def resume(self) -> None:
        """Go on after a pause (SIGCONT): all that came meanwhile is there at once."""
        self.paused = False
        backlog, self._backlog = self._backlog, []
        for action in backlog:
            self.at_work(action)

    def end(self, *, power: bool) -> None:
        """Be gone, with or without the machine; nobody learns what became of proposals."""
        self.alive = False
        self.host.term = max(self.host.term, self._term)
        self.world.network.vanish(self, list(self.links.values()), silently=power)
        for proposal in list(self.proposals):
            proposal.give_up()

    def finish(self) -> None:
        """Do on the disk what its threads are at: the process stops in an orderly way."""
        if self._sync is not None:
            work, self._sync = self._sync, None
            work()
        if self._writing is not None:
            self._writing.finish()

    def leave_undone(self) -> None:
        """Do on the disk only a part of what its threads are at, in the moment of the end."""
        rng, disk = self.world.rng, self.host.disk
        works: list[Callable[[], object]] = []
        if self._sync is not None:
            works.append(self._sync)
        if self._writing is not None and not self._writing.done():
            works.append(self._writing.work)
        rng.shuffle(works)
        last = disk.steps + rng.randrange(2 * WORK_STEPS)
        disk.on_step = lambda step: Fault.CUT if step.number > last else None
        try:
            for work in works:
                work()
        except (PowerCut, OSError, DataError):
            pass  # As it was meant to.

    # What the engine does.

    def propose(
        self, command: bytes, timeout_s: float, kind: int = REGULAR
    ) -> WatchedProposal | None:
        """Propose a command, unless it is known at once that it could not be committed."""
        leader = self.node._getLeader()
        if leader is None or (leader.id != self.name and leader.id not in self.links):
            return None
        proposal = WatchedProposal(self.name, self.world.checker, command, self.world.succeeded)
        self.proposals[proposal] = None
        self.node.submit(command, proposal, kind)
        self.wake()
        self.after(timeout_s, partial(self._give_up, proposal))
        return proposal

    def _give_up(self, proposal: WatchedProposal) -> None:
        """The deadline of a proposal is there, met or not."""
        self.proposals.pop(proposal, None)
        proposal.give_up()

    def transfer(self, server: str) -> None:
        """Hand leadership over, if the other counts and has caught up."""
        node = self.node
        if (
            node._isLeader()
            and server in node.voters
            and server in self.links
            and node.caught_up(server)
        ):
            self.node.hand_over(server)
            self.wake()

    def compact(self) -> None:
        """Take a snapshot in the next turn."""
        self.node.forceLogCompaction()

    @property
    def leads(self) -> bool:
        """Whether it believes that it leads."""
        return bool(self.alive and self.leading() is not None)

    def leading(self) -> int | None:
        """The term that it leads, for whoever checks it (R22)."""
        if not self.node._isLeader():
            return None
        term: int = self.node.raftCurrentTerm
        return term

    @property
    def leadership(self) -> Leadership | None:
        """The term that it believes to lead, and by whom it counts."""
        term = self.leading()
        return None if term is None else Leadership(self.name, term, self.node.voters)

    # Turns.

    def wake(self) -> None:
        """Take a turn soon, once for all that arrive now; `_synced` does if the disk works."""
        if not self._scheduled and self._sync is None:
            self._scheduled = True
            self.world.schedule.after(0.0, self.at_work, self._turn)

    def _beat(self) -> None:
        """Take a turn now and then even when nothing arrives."""
        if not self.world.conditions.rests:
            self.after(TICK_S, self._beat)
            self._turn()
            return
        self._turn()
        self.after(min(max(TICK_S, self.node.rest_s), REST_S), self._beat)

    def _turn(self) -> None:
        """Tick, begin a sync, and let leave what was said once that is done (S9)."""
        self._scheduled = False
        node = self.node
        if self._sync is not None:
            node.fall_back()
            return
        self._in_turn = self.world.conditions.rests
        self._tick()
        self._in_turn = False
        work = self.journal.begin_sync()
        self._observe()
        for link in self.links.values():
            link.sealed += link.kept
            link.kept.clear()
        if work is None:
            self._release()
        else:
            self._sync = work
            self.after(self._disk_time_s(), self._synced)
        bound = self.world.conditions.compaction_bytes
        if self.journal.log_bytes > bound and not self.store.storing:
            node.forceLogCompaction()
        progress = (node.end_index, node.raftCommitIndex, node.raftLastApplied)
        if progress != self._progress:
            self._progress = progress
            self.wake()
        if self.clock() - self._swept_at > SWEEP_S:
            self._swept_at = self.clock()
            node.forget(is_finished)
        if self._turned is not None:
            self._turned()

    def _tick(self) -> None:
        """Tick; who is elected by it was counted by the members from before it."""
        node, voters = self.node, self.node.voters
        node.doTick(0.0)
        term = node.raftCurrentTerm
        if self._led != term and node._isLeader():
            self.world.checker.counts(self.name, term, voters)

    def _synced(self) -> None:
        """The disk has done its part: let leave what is durable now, and take the next turn."""
        work = self._sync
        assert work is not None
        fault: OSError | None = None
        try:
            work()
        except OSError as error:
            fault = error
        self._sync = None
        self.journal.end_sync(fault)
        self._release()
        self._turn()

    def _release(self) -> None:
        """Let leave what was sealed."""
        world = self.world
        for peer, link in self.links.items():
            if link.sealed:
                frames, link.sealed = link.sealed, []
                for _, message in frames:
                    world.checker.said(self.name, peer, message)
                link.sent_at = world.clock()
                world.network.carry(link, frames)

    def _disk_time_s(self) -> float:
        """How long the disk takes this time."""
        return self.host.disk_s * (0.2 + 2.0 * self.world.rng.random())

    def _write_in_background(self, work: Callable[[], bytes]) -> Future[bytes]:
        """Write a snapshot while the engine goes on."""
        self.world.tally["snapshots taken"] += 1
        writing = self._writing = Writing(work)
        self.after(10 * self._disk_time_s(), writing.finish)
        return writing

    def _applied(self, index: int) -> None:
        """Show the checker the entry at an index that is applied now."""
        entry = self.journal[index - self.journal[0][1]]
        self.world.checker.applied(self.name, entry, self.node.raftCurrentTerm)

    def _observe(self) -> None:
        """Show the checker what this turn has brought."""
        node = self.node
        self.machine.catch_up(node.raftLastApplied)
        if self.journal.truncated:
            self.world.checker.truncated(self.name, self.journal.truncated, self.journal[:])
            self.journal.truncated.clear()
        term = node.raftCurrentTerm
        if term < self._term or node.raftLastApplied < self._progress[2]:
            raise self.world.checker.broken(
                f"{self.name} goes back from {self._term}, {self._progress}"
            )
        self._term = term
        if self._led != term and node._isLeader():
            self._led = term
            self.world.checker.leads(self.name, term, self.journal[:])
            self.world.elected(self)

    # Who may connect, as in `Peers`.

    @property
    def founders(self) -> tuple[str, ...]:
        """The servers of which it would form a pool; none if there is one."""
        return () if self._joins or self._directory.index else tuple(sorted(self._file))

    def admits(self, other: Process) -> bool:
        """Whether another one is a server of the pool, by the newest word of it."""
        strange = self.founders and other.founders and self.founders != other.founders
        return not strange and other.name in self._nodes

    def reaches(self, servers: Iterable[str]) -> bool:
        """Whether it knows a majority of these servers, itself perhaps among them."""
        wanted = set(servers)
        return 2 * len(wanted & {self.name, *self._directory.others}) > len(wanted)

    def _follow_members(self, members: Members) -> None:
        """The log has said who the members are: reach those, and part with others."""
        formed_at = self.world.checker.rolls[1].index
        if members.index > formed_at:
            # It heard with the later change that the first one is committed: rule (a).
            self.host.knows_pool = True
        self.store.members = tuple(members.addresses)
        if self._directory.apply(members):
            self._meet()
        self.world.adopted(self)

    def _meet(self) -> None:
        """Have a node and, where it is for this server to dial, a connection for each other one."""
        if not self._listens:
            return
        others, node_of = self._directory.others, type(self.node.selfNode)
        for name in sorted(self._nodes.keys() - others):
            link = self.links.get(name)
            if link is not None:
                self.link_closed(link)
            del self._nodes[name]
        for name in sorted(others - self._nodes.keys()):
            node = self._nodes[name] = node_of(name)
            if name < self.name:
                self.world.network.dial(self, name, partial(self._knows, node))
        for link in list(self.links.values()):
            self._tell(link)

    def _knows(self, node: Any) -> bool:
        """Whether a server is one of the pool since it was met: it may have gone and come."""
        return self._nodes.get(node.id) is node

    def _tell(self, link: Link) -> None:
        """Tell a peer whom this server knows, once the pool has been formed."""
        if self._directory.index:
            told = partial(self._send_members, link)
            self.world.schedule.after(0.0, self.at_work, told)

    def _send_members(self, link: Link) -> None:
        """Nothing that has to be durable is said, so it leaves at once."""
        if not link.closed:
            directory = self._directory
            news = {"type": "members", "index": directory.index, "entries": directory.entries}
            self.world.network.carry(link, [(b"", news)])

    # Connections.

    def link_ready(self, link: Link) -> None:
        """A connection is there; the one that it replaces is closed first (S7)."""
        before = self.links.pop(link.peer, None)
        if before is not None:
            self._lose(before)
        self.links[link.peer] = link
        self._tell(link)
        self._wire.on_connected(self._nodes[link.peer])
        self.wake()

    def link_closed(self, link: Link) -> None:
        """A connection has ended, whoever has closed it."""
        if link.closed:
            return
        if self.links.get(link.peer) is link:
            del self.links[link.peer]
            self._lose(link)
        if link.wanted is not None:
            self.world.network.dial_later(self, link.peer, link.wanted)

    def _lose(self, link: Link) -> None:
        """Close an end, and let the engine know."""
        self.world.network.hang_up(link)
        self._wire.on_disconnected(self._nodes[link.peer])
        self.wake()

    def receive(self, link: Link, frames: list[Frame]) -> None:
        """Messages have arrived."""
        on_message, stale = self._wire.on_message, link.closed
        for body, message in frames:
            node = self._nodes.get(link.peer)
            if node is None or (link.closed and not stale):
                return
            if body:
                on_message(node, decode(body))
            elif message["type"] == "members" and self._directory.hear(
                message["index"], message["entries"]
            ):
                self._meet()
        self.wake()

    def _say(self, peer: str, message: Message) -> bool:
        """Keep a message until its turn is durable; who does not read loses the connection."""
        link = self.links.get(peer)
        if link is None:
            return False
        body = encode(message)
        link.kept.append((body, message))
        link.unread_bytes += len(body)
        if self._pending_bytes(peer) > MAX_UNSENT_BYTES:
            self.link_closed(link)
            return False
        if not self._in_turn:
            self.wake()
        return True

    def _pending_bytes(self, peer: str) -> int:
        """What a peer has not taken yet, as if all were as large as it really is."""
        link = self.links.get(peer)
        return link.unread_bytes * self.world.conditions.scale if link is not None else 0

    def _watch(self) -> None:
        """Ping where it is quiet, and close what is silent, as `Peers` does."""
        now = self.clock()
        held_up_s = max(0.0, now - self._watched_at - 2 * PING_S)
        self._watched_at = now
        for link in list(self.links.values()):
            link.received_at += held_up_s
            if now - link.received_at > SILENCE_S:
                self.link_closed(link)
            elif now - link.sent_at > PING_S:
                link.sent_at = now
                self.world.network.carry(link, [PING])
        self.after(PING_S, self._watch)

    def _check_leader(self, server: str, done: Callable[[int | None], None]) -> None:
        """Ask a server over a fresh connection whether it leads; None if it does not say."""
        answers: list[int | None] = []

        def answered(term: int | None) -> None:
            if not answers:
                answers.append(term)
                done(term)
                self.wake()

        self.world.network.check(self, server, answered)
        self.after(CHECK_S, partial(answered, None))
