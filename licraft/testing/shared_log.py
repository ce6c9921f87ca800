"""One log for a whole pool in one process, and what can go wrong between its servers.

May import the engine's contract and `errors`. It stands for a Raft engine that does its
job: the log is one, what is in it is committed, a leader commits only with a majority.
All else is open to a test: who leads, who reaches whom, who is paused or has crashed,
how late each server applies, and by `fate` what becomes of each proposal.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from licraft.errors import NotExecuted, OutcomeUnknown, PeerUnreachable
from licraft.replication.engine import (
    MAX_COMMAND_BYTES,
    AskHandler,
    Engine,
    EngineStatus,
    StateMachine,
)

_BELIEF_S = 1.5
_ELECTION_S = 0.6


class Answer(enum.Enum):
    """What the proposer of a command learns."""

    RESULT = "its result, or OutcomeUnknown if that takes too long"
    UNKNOWN = "OutcomeUnknown"
    REFUSED = "NotExecuted"


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a proposal: when it is committed (any number of times), who learns it."""

    commits_after_s: tuple[float, ...] = (0.0,)
    answer: Answer = Answer.RESULT

    def __post_init__(self) -> None:
        """NotExecuted is a promise."""
        if self.answer is Answer.REFUSED and self.commits_after_s:
            raise ValueError("what is refused is never committed")


COMMITTED = Fate()
DROPPED = Fate((), Answer.REFUSED)
LOST = Fate((), Answer.UNKNOWN)
UNHEARD = Fate((0.0,), Answer.UNKNOWN)


def late(after_s: float) -> Fate:
    """Committed `after_s` seconds later, long after its proposer gave up."""
    return Fate((after_s,), Answer.UNKNOWN)


def twice(after_s: float) -> Fate:
    """Committed at once, and once more `after_s` seconds later."""
    return Fate((0.0, after_s))


@dataclass(frozen=True, slots=True)
class _View:
    """Who leads, in which term, from which log index on."""

    leader: str | None
    term: int
    start: int


class SharedLog:
    """The committed log of a pool, its leader and the links between its servers."""

    def __init__(
        self,
        servers: Sequence[str],
        random_source: random.Random | None = None,
        latency_s: tuple[float, float] = (0.001, 0.01),
    ) -> None:
        """Entry 1 is empty, as in a real log; nobody leads yet."""
        self.servers = tuple(servers)
        self.random = random_source or random.Random(0)
        self.latency_s = latency_s
        self.engines: dict[str, ScriptedEngine] = {}
        # Tasks that wait for a crashed engine wait for ever; asyncio reports those it forgets.
        self._crashed: list[ScriptedEngine] = []
        self.fate: Callable[[str, bytes], Fate] = lambda server, command: COMMITTED
        self.ask_lost: Callable[[str, str], bool] = lambda asker, asked: False
        self.on_applied: Callable[[str, int], None] = lambda server, index: None
        self.on_proposed: Callable[[str, bytes], None] = lambda server, command: None
        self.elections = True
        self._entries: list[bytes | None] = [None]
        self._base = 0
        self._snapshot = b""
        self._cut: set[frozenset[str]] = set()
        self._commits: dict[str, bool] = {}
        self._lame_since_s: float | None = None
        self.view = _View(None, 0, 0)

    @property
    def index(self) -> int:
        """The last committed log index."""
        return self._base + len(self._entries)

    @property
    def length(self) -> int:
        """How many entries the log has since it was compacted."""
        return len(self._entries)

    @property
    def leader(self) -> str | None:
        """Who leads."""
        return self.view.leader

    @property
    def base(self) -> tuple[int, bytes]:
        """The log index of the snapshot that replaces what was compacted, and the snapshot."""
        return self._base, self._snapshot

    def bury(self, engine: ScriptedEngine) -> None:
        """Keep a crashed engine, and with it all that waits for it, until the run is over."""
        self._crashed.append(engine)

    def entry(self, index: int) -> bytes | None:
        """The command at a log index after `base`; None is an election's empty entry."""
        return self._entries[index - self._base - 1]

    def latency(self) -> float:
        """How long the next message takes, in seconds."""
        return self.random.uniform(*self.latency_s)

    def append(self, command: bytes | None) -> int:
        """Commit an entry; every server that the leader reaches applies it soon."""
        self._entries.append(command)
        for engine in self.engines.values():
            engine.nudge()
        return self.index

    def compact(self) -> None:
        """Replace all that the foremost server applied by a snapshot; who lags gets that."""
        foremost = max(self.engines.values(), key=lambda e: e.applied, default=None)
        if foremost is not None and foremost.applied > self._base:
            self._snapshot = foremost.machine.snapshot()
            del self._entries[: foremost.applied - self._base]
            self._base = foremost.applied

    def cut(self, a: str, b: str) -> None:
        """Cut the link between two servers."""
        self._cut.add(frozenset((a, b)))
        self.rewired()

    def isolate(self, *group: str) -> None:
        """Cut every link between the servers of `group` and the others."""
        for inside in group:
            for outside in self.servers:
                if outside not in group:
                    self.cut(inside, outside)

    def heal(self) -> None:
        """Mend all links."""
        self._cut.clear()
        self.rewired()
        for engine in self.engines.values():
            engine.nudge()

    def rewired(self) -> None:
        """Links, servers or pauses have changed: who can commit is to be found out anew."""
        self._commits.clear()

    def linked(self, a: str, b: str) -> bool:
        """Whether two servers are there and can talk to each other."""
        return (
            a in self.engines
            and b in self.engines
            and (a == b or frozenset((a, b)) not in self._cut)
        )

    def commits(self, leader: str | None) -> bool:
        """Whether a server could commit as the leader: it runs and reaches a majority."""
        if leader is None or leader not in self.engines or self.engines[leader].paused:
            return False
        known = self._commits.get(leader)
        if known is None:
            votes = sum(self.linked(leader, n) and not self.engines[n].paused for n in self.engines)
            known = self._commits[leader] = 2 * votes > len(self.servers)
        return known

    def elect(self, leader: str) -> None:
        """Make a server the leader, in a new term."""
        if not self.commits(leader):
            raise NotExecuted(f"{leader} reaches no majority")
        self.view = _View(leader, self.view.term + 1, self.index + 1)
        self.append(None)

    def tend(self, now_s: float) -> None:
        """Elect somebody when the leader has been unable to commit for a while."""
        if self.commits(self.leader):
            self._lame_since_s = None
        elif self._lame_since_s is None:
            self._lame_since_s = now_s
        elif self.elections and now_s - self._lame_since_s >= _ELECTION_S:
            able = [name for name in self.servers if self.commits(name)]
            if able:
                self._lame_since_s = None
                self.elect(self.random.choice(able))


class ScriptedEngine(Engine):
    """One server's engine over a `SharedLog`."""

    def __init__(self, log: SharedLog, server: str, machine: StateMachine) -> None:
        """Join the log; the state machine starts empty or from the log's snapshot."""
        self.log = log
        self.server = server
        self.machine = machine
        self.handler: AskHandler | None = None
        self.applied = 0
        self.paused = False
        self.lag_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._awake = asyncio.Event()
        self._awake.set()
        self._crashed = False
        self._closed = False
        self._stuck: list[asyncio.Future[None]] = []
        self._waiting: dict[int, asyncio.Future[object]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._view = _View(None, 0, 0)
        self._seen_s = float("-inf")
        if log.base[0]:
            self.applied, snapshot = log.base
            machine.restore(self.applied, snapshot)
        log.engines[server] = self
        log.rewired()
        self.nudge()

    # -- the contract -----------------------------------------------------------------

    async def propose(self, command: bytes, timeout_s: float) -> object:
        """Commit a command and return what applying it here returned (see `Engine`)."""
        if len(command) > MAX_COMMAND_BYTES:
            raise ValueError(f"a command of {len(command)} bytes: at most {MAX_COMMAND_BYTES}")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._propose(command, timeout_s)
        except TimeoutError:
            await self._alive()
            raise OutcomeUnknown(f"not applied within {timeout_s:g} s") from None

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

    def status(self) -> EngineStatus:
        """The engine now; for a while a server that was cut off believes what it knew."""
        self.poll()
        view = self._view
        return EngineStatus(
            server=self.server,
            leader=view.leader,
            term=view.term,
            commit_index=self.log.index if self._hears() else self.applied,
            applied_index=self.applied,
            leads=view.leader == self.server and self.applied >= view.start,
            connected=frozenset(
                name
                for name in self.log.servers
                if name != self.server and self.log.linked(self.server, name)
            ),
        )

    async def transfer(self, server: str) -> None:
        """Make another server the leader; raises NotExecuted if it cannot be."""
        if self.log.leader != self.server or not self.log.linked(self.server, server):
            raise NotExecuted(f"{self.server} cannot hand over to {server}")
        self.log.elect(server)

    async def close(self) -> None:
        """Leave the log in an orderly way."""
        self._closed = True
        self._leave()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(OutcomeUnknown("the engine was closed"))

    # -- what a test does to it ---------------------------------------------------------

    def crash(self) -> None:
        """End as if killed: whoever waits for this engine waits for ever."""
        self._crashed = True
        self._leave()
        self.log.bury(self)

    def pause(self) -> None:
        """Stand still while time goes on, like a process that is stopped."""
        self.paused = True
        self.log.rewired()
        self._awake.clear()

    def resume(self) -> None:
        """Go on."""
        self.paused = False
        self.log.rewired()
        self._awake.set()
        self.nudge()

    async def awake(self) -> None:
        """Wait until this server is not paused."""
        await self._awake.wait()

    def poll(self) -> bool:
        """Look who leads; whether that has changed for this server."""
        now = self._loop.time()
        view = self._view
        if self._hears():
            self._seen_s = now
            view = self.log.view
        elif now - self._seen_s > _BELIEF_S:
            view = _View(None, view.term, 0)
        changed = view != self._view
        self._view = view
        return changed

    def nudge(self) -> None:
        """There is something to apply: do it soon."""
        if self._timer is None and not self._gone:
            self._timer = self._loop.call_later(self.log.latency() + self.lag_s, self._catch_up)

    # -- inside ---------------------------------------------------------------------------

    @property
    def _gone(self) -> bool:
        return self._crashed or self._closed

    def _hears(self) -> bool:
        """Whether this server is in touch with a leader that can commit."""
        leader = self.log.leader
        return (
            leader is not None and self.log.linked(self.server, leader) and self.log.commits(leader)
        )

    def _leave(self) -> None:
        if self.log.engines.get(self.server) is self:
            del self.log.engines[self.server]
            self.log.rewired()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _alive(self) -> None:
        """Go on only if this server runs: nothing happens any more in one that crashed."""
        if not self._crashed:
            await self._awake.wait()
        if self._crashed:
            never: asyncio.Future[None] = self._loop.create_future()
            self._stuck.append(never)
            await never

    async def _propose(self, command: bytes, timeout_s: float) -> object:
        await self._alive()
        self.log.on_proposed(self.server, command)
        fate = self.log.fate(self.server, command)
        if self._closed or fate.answer is Answer.REFUSED or self.status().leader is None:
            raise NotExecuted("not proposed: the engine is closed, refuses, or knows no leader")
        await asyncio.sleep(self.log.latency())
        heard: asyncio.Future[object] = self._loop.create_future()
        for after_s in fate.commits_after_s:
            if after_s:
                self._loop.call_later(after_s, self._commit_late, command)
            elif self._hears():
                self._waiting[self.log.append(command)] = heard
        if fate.answer is Answer.UNKNOWN:
            await asyncio.sleep(self.log.random.uniform(0.0, timeout_s))
            await self._alive()
            raise OutcomeUnknown("the answer was lost")
        try:
            result = await heard
        finally:
            self._waiting = {i: f for i, f in self._waiting.items() if f is not heard}
        await self._alive()
        return result

    def _commit_late(self, command: bytes) -> None:
        """A message that was under way all the time arrives at whoever leads now."""
        if self.log.commits(self.log.leader):
            self.log.append(command)

    async def _ask(self, server: str, body: bytes) -> bytes:
        peer = self.log.engines.get(server)
        if peer is None or peer.handler is None or not self.log.linked(self.server, server):
            raise PeerUnreachable(f"{server} is not connected")
        await asyncio.sleep(self.log.latency())
        await peer.awake()
        if self.log.engines.get(server) is not peer:
            raise PeerUnreachable(f"{server} has gone")
        lost = self.log.ask_lost(self.server, server)
        try:
            answer = await peer.handler(self.server, body)
        except Exception as fault:  # As over a network, any fault there is this one error here.
            raise PeerUnreachable(f"{server} could not answer: {fault!r}") from fault
        await asyncio.sleep(self.log.latency())
        if lost or not self.log.linked(self.server, server):
            raise PeerUnreachable(f"the answer of {server} was lost")
        return answer

    def _catch_up(self) -> None:
        """Apply what is committed, if the leader can be heard."""
        self._timer = None
        if self._gone or self.paused or not self._hears():
            return
        self.apply_up_to(self.log.index)
        self.poll()

    def apply_up_to(self, index: int) -> None:
        """Apply committed entries; what was compacted comes as a snapshot."""
        base, snapshot = self.log.base
        if self.applied < base:
            self.machine.restore(base, snapshot)
            self.applied = base
            self.log.on_applied(self.server, base)
        while self.applied < index:
            command = self.log.entry(self.applied + 1)
            result = None if command is None else self.machine.apply(self.applied + 1, command)
            self.applied += 1
            self.log.on_applied(self.server, self.applied)
            waiting = self._waiting.pop(self.applied, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(result)
