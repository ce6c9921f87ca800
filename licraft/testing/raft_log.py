"""A pool's log in virtual time that is Raft itself: PySyncObj, guarded, with its journals.

May import this room, `replication` and `errors`. It stands where a `SharedLog` stands, but
nothing here decides what is committed: the simulated engines do, over connections and disks
that fail. Both share the event loop's virtual time.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from licraft.errors import DataError, NotExecuted, OutcomeUnknown, PeerUnreachable
from licraft.replication.engine import (
    MAX_COMMAND_BYTES,
    AskHandler,
    Engine,
    EngineStatus,
    Members,
)
from licraft.replication.messages import CHANGE, REGULAR
from licraft.replication.proposals import Proposal
from licraft.server.pool import ReplicatedPool
from licraft.testing.disk import MemoryDisk
from licraft.testing.engine_checker import NO_COMMAND, Checker, Leadership, chain
from licraft.testing.engine_member import Member
from licraft.testing.engine_network import Network, Schedule
from licraft.testing.engine_roll import NOBODY, Roll
from licraft.testing.engine_world import DISK_S, START_S, Clock, Conditions, Host, World
from licraft.testing.loop import VirtualLoop

LATENCY_S = 0.0005


class LoopSchedule(Schedule):
    """The engines' virtual time, which is the event loop's."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self._loop.now_s

    def after(self, delay_s: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call `action` in `delay_s` seconds."""
        self._loop.post(self._loop.now_s + delay_s, action, arguments)

    def at(self, time_s: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call `action` when it is `time_s`."""
        self._loop.post(time_s, action, arguments)


class LoopClock(Clock):
    """The clock that PySyncObj reads: read so often that each step on the way counts."""

    def __init__(self, loop: VirtualLoop, schedule: Schedule) -> None:
        super().__init__(schedule)
        self._loop = loop

    def __call__(self) -> float:
        """Seconds, as the server at work counts them."""
        return START_S + self._loop.now_s * self.rate + self.passed_s


class PoolChecker(Checker):
    """Raft's properties for commands that may be proposed again: the pool tells them apart."""

    def _once(self, server: str, command: bytes, index: int) -> None:
        """An entry that is there twice takes effect once, by its serial number."""
        self.index_of[command] = index
        self.never.discard(command)

    def failure(self, server: str, command: bytes, fault: BaseException) -> None:
        """What was not executed in one try may have been in another."""
        self.unknown += not isinstance(fault, NotExecuted)


class PoolMachine:
    """The pool's state machine, with a digest of all that it has applied."""

    def __init__(
        self,
        server: str,
        checker: Checker,
        applied: Callable[[int], None],
        pool: ReplicatedPool,
        told: Callable[[int], None],
    ) -> None:
        """`applied` is told each index, `told` each index after `pool` has applied it."""
        self.index = 1
        self.digest = b""
        self.roll = NOBODY
        self.on_restored: Callable[[], None] = lambda: None
        self._server = server
        self._checker = checker
        self._applied = applied
        self._pool = pool
        self._told = told
        self.members_index = 0

    def apply(self, index: int, command: bytes) -> object:
        """Apply a command; the entries before it that are not commands are no-ops."""
        self.catch_up(index - 1)
        self.index = index
        self._applied(index)
        self.digest = chain(self.digest, index, command)
        if self.digest != self._checker.history[index].digest:
            raise self._checker.broken(f"{self._server} has another state at {index}")
        result = self._pool.apply(index, command)
        self._follow()
        self._told(index)
        return result

    def _follow(self) -> None:
        """Take note of who takes part."""
        members = self._pool.members()
        if members is not None and members.index != self.roll.index:
            self.roll = Roll(members.index, tuple(members.voters), tuple(members.learners))
            self.members_index = members.index
            self._checker.follows(self._server, self.roll)

    def members(self) -> Members | None:
        """Who takes part; None before the pool is formed."""
        return self._pool.members()

    def voters_after(self, command: bytes) -> frozenset[str] | None:
        """The voters if `command` were applied now; None if it is not a change of members."""
        return self._pool.voters_after(command)

    def catch_up(self, index: int) -> None:
        """Take note of the no-ops up to `index`: they are applied now."""
        while self.index < index:
            self.index += 1
            self._applied(self.index)
            self._told(self.index)

    def snapshot(self) -> bytes:
        """The digest and the pool's state."""
        return bytes([len(self.digest)]) + self.digest + self._pool.snapshot()

    def restore(self, index: int, snapshot: bytes) -> None:
        """Take over a state; it may not be older than the own one."""
        if index < self.index:
            raise self._checker.broken(f"{self._server} goes back from {self.index} to {index}")
        end = 1 + snapshot[0]
        self.index, self.digest = index, snapshot[1:end]
        self._checker.restored(self._server, index, self.digest)
        self._pool.restore(index, snapshot[end:])
        self._follow()
        self._told(index)
        self.on_restored()


class RaftLog:
    """The engines of a pool, their machines and the network between them."""

    def __init__(
        self,
        servers: Sequence[str],
        random_source: random.Random,
        rates: Mapping[str, float],
    ) -> None:
        """`rates` are the true rates of the servers' clocks."""
        self.servers = tuple(servers)
        self.random = random_source
        self.engines: dict[str, RaftEngine] = {}
        self.on_applied: Callable[[str, int], None] = lambda server, index: None
        self.on_proposed: Callable[[str, bytes], None] = lambda server, command: None
        self.ask_lost: Callable[[str, str], bool] = lambda asker, asked: False
        self.fate: Callable[[str, bytes], object] = lambda server, command: None
        # Of a server whose disk fails: it is to be ended, with its name and why it stops.
        self.on_ended: Callable[[str, str], None] | None = None
        self.checker = PoolChecker()
        self.tally: Counter[str] = Counter()
        self._buried: list[RaftEngine] = []
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop), "engines are simulated in virtual time"
        schedule = LoopSchedule(loop)
        self.world = World(
            conditions=Conditions(compaction_entries=150, compaction_bytes=10**9, rests=True),
            schedule=schedule,
            clock=LoopClock(loop, schedule),
            network=Network(schedule, random_source, LATENCY_S),
            checker=self.checker,
            rng=random_source,
            ended=self._ended,
            elected=lambda member: None,
            adopted=lambda member: None,
            succeeded=lambda server, command: None,
            tally=self.tally,
        )
        self.hosts = {
            name: Host(
                name,
                MemoryDisk(random.Random(random_source.getrandbits(64))),
                rates.get(name, 1.0),
                file=self.servers,
            )
            for name in self.servers
        }

    def join(self, server: str) -> None:
        """Have a machine with an empty disk, as for a server that joins."""
        self.servers = (*self.servers, server)
        disk = MemoryDisk(random.Random(self.random.getrandbits(64)))
        self.hosts[server] = Host(server, disk, 1.0, file=self.servers, joins=True)

    def forget(self, server: str) -> None:
        """A server has left, and its machine is not started again."""
        self.servers = tuple(other for other in self.servers if other != server)

    # -- looking -------------------------------------------------------------------------

    @property
    def index(self) -> int:
        """The last log index that any server has applied."""
        return len(self.checker.history) - 1

    @property
    def leader(self) -> str | None:
        """Who leads: of several that believe it the one of the newest term."""
        leading = [
            (found.term, name)
            for name, engine in self.engines.items()
            if (found := engine.member.leadership) is not None
        ]
        return max(leading)[1] if leading else None

    @property
    def view(self) -> Leadership:
        """Who leads, in the newest term that anybody leads or led."""
        return Leadership(self.leader or "", max(self.checker.leaders, default=0), frozenset())

    @property
    def base(self) -> tuple[int, bytes]:
        """Every entry that was ever committed is known here."""
        return 0, b""

    @property
    def length(self) -> int:
        """The servers take snapshots by themselves: nothing is long."""
        return 0

    def entry(self, index: int) -> bytes | None:
        """The command at a log index; None is an election's empty entry."""
        content = self.checker.history[index].content
        return None if content == NO_COMMAND or not content else content[1:]

    def linked(self, a: str, b: str) -> bool:
        """Whether two servers run and nothing blocks the way between them."""
        blocked = self.world.network.blocked
        there = a in self.engines and b in self.engines
        return there and (a == b or ((a, b) not in blocked and (b, a) not in blocked))

    def commits(self, leader: str | None) -> bool:
        """Whether a server could commit as the leader: it runs and reaches a majority."""
        if leader is None or leader not in self.engines or self.engines[leader].paused:
            return False
        votes = sum(self.linked(leader, n) and not self.engines[n].paused for n in self.engines)
        return 2 * votes > len(self.servers)

    # -- what a test does to it ----------------------------------------------------------

    def isolate(self, *group: str) -> None:
        """Let nothing pass between the servers of `group` and the others."""
        for inside in group:
            for outside in self.servers:
                if outside not in group:
                    self.world.network.block((inside, outside))
                    self.world.network.block((outside, inside))

    def heal(self) -> None:
        """Let everything pass."""
        self.world.network.heal()

    def elect(self, server: str) -> None:
        """Have whoever leads hand over to a server, if that can be."""
        leader = self.leader
        if leader is not None and leader != server:
            engine = self.engines[leader]
            engine.member.at_work(partial(engine.member.transfer, server))

    def compact(self) -> None:
        """Have every server take a snapshot."""
        for engine in self.engines.values():
            engine.member.at_work(engine.member.compact)

    def bury(self, engine: RaftEngine) -> None:
        """Keep a crashed engine, and with it all that waits for it, until the run is over."""
        self._buried.append(engine)

    def _ended(self, member: Member, why: str) -> None:
        if self.on_ended is None:
            raise self.checker.broken(f"{member.name} stopped: {why}")
        member.end(power=False)
        self.on_ended(member.name, why)


class LoopProposal(Proposal):
    """A proposal of the pool's, whose outcome the checker hears of."""

    __slots__ = ("_checker", "_command", "_server")

    def __init__(
        self, server: str, checker: Checker, command: bytes, future: asyncio.Future[object]
    ) -> None:
        super().__init__(future)
        self._server = server
        self._checker = checker
        self._command = command

    def __call__(self, result: object, reason: int) -> None:
        """Be told the outcome by PySyncObj."""
        if self.future.done():
            return
        super().__call__(result, reason)
        fault = self.future.exception()
        if fault is not None:
            self._checker.failure(self._server, self._command, fault)
        elif self._command not in self._checker.index_of:
            raise self._checker.broken(f"{self._server} reports done what is nowhere")


class RaftEngine(Engine):
    """One process of a server: its engine, driven in the loop's virtual time."""

    def __init__(self, log: RaftLog, server: str, machine: ReplicatedPool) -> None:
        """Start on the disk of its host."""
        self.log = log
        self.server = server
        self.machine = machine
        self.handler: AskHandler | None = None
        self.on_change: Callable[[], None] = lambda: None
        self.paused = False
        self._asleep_at: float | None = None
        self._loop = asyncio.get_running_loop()
        self._awake = asyncio.Event()
        self._awake.set()
        self._crashed = self._closed = False
        self._stuck: list[asyncio.Future[None]] = []
        self._seen: tuple[object, ...] = ()
        self.host = log.hosts[server]
        self.member = Member(log.world, self.host, self._machine, self._turned)
        log.engines[server] = self
        self.member.at_work(self.member.start)
        if not self.member.alive:
            self._end(power=False)
            raise DataError(f"{server} cannot read its data directory")

    def _machine(self, applied: Callable[[int], None]) -> PoolMachine:
        return PoolMachine(
            self.server,
            self.log.checker,
            applied,
            self.machine,
            lambda index: self.log.on_applied(self.server, index),
        )

    @property
    def lag_s(self) -> float:
        """How long its disk takes more than usual, about."""
        return self.host.disk_s - DISK_S

    @lag_s.setter
    def lag_s(self, seconds: float) -> None:
        self.host.disk_s = DISK_S + seconds / 4

    @property
    def applied(self) -> int:
        """The last log index that it has applied."""
        index: int = self.member.node.raftLastApplied
        return index

    # -- the contract --------------------------------------------------------------------

    async def propose(self, command: bytes, timeout_s: float) -> object:
        """Commit a command and return what applying it here returned (see `Engine`)."""
        return await self._commit(command, timeout_s, REGULAR)

    async def change_members(self, command: bytes, timeout_s: float) -> object:
        """Commit a change of members (see `Engine`)."""
        return await self._commit(command, timeout_s, CHANGE)

    async def _commit(self, command: bytes, timeout_s: float, kind: int) -> object:
        if len(command) > MAX_COMMAND_BYTES:
            raise ValueError(f"a command of {len(command)} bytes: at most {MAX_COMMAND_BYTES}")
        await self._alive()
        self.log.on_proposed(self.server, command)
        member = self.member
        leader = member.node._getLeader()
        if self._closed or leader is None:
            raise NotExecuted("not proposed: the engine is closed, or knows no leader")
        if leader.id != self.server and leader.id not in member.links:
            raise NotExecuted(f"not proposed: the leader {leader.id} is not connected")
        future: asyncio.Future[object] = self._loop.create_future()
        proposal = LoopProposal(self.server, self.log.checker, command, future)
        member.at_work(lambda: member.node.submit(command, proposal, kind))
        member.wake()
        try:
            async with asyncio.timeout(timeout_s):
                result = await future
        except TimeoutError:
            await self._alive()
            raise OutcomeUnknown(f"not applied within {timeout_s:g} s") from None
        await self._alive()
        return result

    async def ask(self, server: str, body: bytes, timeout_s: float) -> bytes:
        """Ask another server's handler; raises PeerUnreachable."""
        await self._alive()
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._ask(server, body)
        except TimeoutError:
            await self._alive()
            raise PeerUnreachable(f"{server} did not answer within {timeout_s:g} s") from None
        await self._alive()
        return answer

    async def _ask(self, server: str, body: bytes) -> bytes:
        log = self.log
        peer = log.engines.get(server)
        if peer is None or peer.handler is None or server not in self.member.links:
            raise PeerUnreachable(f"{server} is not connected")
        await asyncio.sleep(log.world.network.latency_s((self.server, server)))
        if not log.linked(self.server, server) or log.ask_lost(self.server, server):
            await asyncio.get_running_loop().create_future()
        await peer.awake()
        if log.engines.get(server) is not peer:
            raise PeerUnreachable(f"{server} has gone")
        try:
            answer = await peer.handler(self.server, body)
        except Exception as fault:  # As over a network, any fault there is this one error here.
            raise PeerUnreachable(f"{server} could not answer: {fault!r}") from fault
        await asyncio.sleep(log.world.network.latency_s((server, self.server)))
        if not log.linked(self.server, server):
            await asyncio.get_running_loop().create_future()
        return answer

    def status(self) -> EngineStatus:
        """The engine now."""
        node = self.member.node
        leader = node._getLeader()
        return EngineStatus(
            server=self.server,
            leader=leader.id if leader is not None else None,
            term=node.raftCurrentTerm,
            commit_index=node.raftCommitIndex,
            applied_index=node.raftLastApplied,
            leads=node.leads and not self._gone,
            connected=frozenset(self.member.links),
            caught_up=node.caught_up_learners,
        )

    async def transfer(self, server: str) -> None:
        """Hand leadership over; raises NotExecuted if this cannot be tried."""
        await self._alive()
        member = self.member
        if member.leading() is None or server not in member.links:
            raise NotExecuted(f"{self.server} cannot hand over to {server}")
        member.at_work(partial(member.transfer, server))

    async def close(self) -> None:
        """Leave in an orderly way: what is begun on the disk is ended."""
        self._closed = True
        if self.member.alive:
            self.member.finish()
        self._end(power=False)

    # -- what a test does to it ----------------------------------------------------------

    def crash(self) -> None:
        """End as if killed: whoever waits for this engine waits for ever."""
        self._crashed = True
        if self.member.alive:
            self.member.end(power=False)
            self.member.leave_undone()
        self._end(power=False)
        self.log.bury(self)

    def pause(self) -> None:
        """Stand still while time goes on, like a process that is stopped."""
        self.paused = self.member.paused = True
        self._awake.clear()

    def suspend(self) -> None:
        """Stand still with the machine: the clock that PySyncObj reads does, too."""
        self.pause()
        if self._asleep_at is None:
            self._asleep_at = self._loop.time()

    def resume(self) -> None:
        """Go on."""
        if self.paused:
            self.paused = False
            self._awake.set()
            if self._asleep_at is not None and not self._gone:
                host = self.member.host
                host.slept_s += (self._loop.time() - self._asleep_at) * host.clock_rate
            self._asleep_at = None
            self.member.resume()

    async def awake(self) -> None:
        """Wait until this server is not paused."""
        await self._awake.wait()

    def poll(self) -> bool:
        """Whether leader, term or connections are not what they were when last looked at."""
        node = self.member.node
        seen = (node._getLeader(), node.raftCurrentTerm, node.leads, tuple(self.member.links))
        changed = seen != self._seen
        self._seen = seen
        return changed

    def apply_up_to(self, index: int) -> None:
        """Nothing: what its disk has is applied when it starts."""

    # -- inside --------------------------------------------------------------------------

    @property
    def _gone(self) -> bool:
        return self._crashed or self._closed

    def _turned(self) -> None:
        """A turn of the engine is over."""
        if self.poll():
            self._loop.call_soon(self._changed)

    def _changed(self) -> None:
        if not self._gone and not self.paused:
            self.on_change()

    def _end(self, *, power: bool) -> None:
        if self.member.alive:
            self.member.end(power=power)
        self.host.disk.on_step = None
        self.host.disk.crash()
        self.host.member = None
        if self.log.engines.get(self.server) is self:
            del self.log.engines[self.server]

    async def _alive(self) -> None:
        """Go on only if this server runs: nothing happens any more in one that crashed."""
        if not self._crashed:
            await self._awake.wait()
        if self._crashed:
            never: asyncio.Future[None] = self._loop.create_future()
            self._stuck.append(never)
            await never
