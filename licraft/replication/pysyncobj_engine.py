"""The engine of a real pool: PySyncObj, guarded, on the event loop.

May import this room, asyncio and `errors`. The only entry is `start_engine`. Everything
happens in turns on one event loop: messages and proposals that arrive in one iteration of
the loop are followed by one tick of PySyncObj, one sync of the journal, and only then the
departure of all that was said. The disk works in a thread of its own, so that a slow one
holds up the log and not the server; the next turn begins when it is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from licraft.errors import DataError, NotExecuted, OutcomeUnknown, Overloaded
from licraft.replication.engine import (
    MAX_COMMAND_BYTES,
    AskHandler,
    Engine,
    EngineStatus,
    Members,
    Roster,
    StateMachine,
)
from licraft.replication.files import DirectoryLock
from licraft.replication.guards import GuardedSyncObj
from licraft.replication.journal import DurableJournal
from licraft.replication.library import ALL_GUARDS, Guard, check_library, configuration
from licraft.replication.machine import ReplicatedMachine
from licraft.replication.messages import BATCH_BYTES, CHANGE, REGULAR
from licraft.replication.peers import Peers, PeerTls
from licraft.replication.proposals import Proposal, is_finished
from licraft.replication.snapshot import SnapshotStore, describe, reconcile

__all__ = ["EngineConfig", "FatalHandler", "PeerTls", "PySyncObjEngine", "start_engine"]

log = logging.getLogger(__name__)

FatalHandler = Callable[[BaseException], None]
TICK_S = 0.02
REST_S = 0.2
SWEEP_S = 1.0
TRANSFER_S = 1.0
CHECK_S = 0.3
EXIT_STATUS = 70
MAX_PROPOSED_BYTES = 32 * 1024 * 1024
"""What one server may have proposed and not seen committed: half of what a leader takes."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What one server's engine needs; times in seconds, sizes in bytes.

    `members` maps every server's name, this one's too, to its peer address `host:port`,
    in order of leader priority; it counts until the log says who the members are. One that
    is `joining` forms no pool and does not count before the log says so. `listen` defaults
    to this server's own peer address.
    """

    pool: str
    server: str
    members: Mapping[str, str]
    data_dir: Path
    tls: PeerTls | None = None
    listen: str | None = None
    joining: bool = False
    append_entries_period_s: float = 0.1
    election_timeout_s: tuple[float, float] = (0.5, 1.0)
    leader_fallback_s: float = 0.9
    max_proposals: int = 4096
    compaction_entries: int = 5000
    compaction_bytes: int = 32 * 1024 * 1024
    compaction_period_s: float = 300.0
    guards: frozenset[Guard] = field(default=ALL_GUARDS, repr=False)


def stop_process(fault: BaseException) -> None:
    """End the process at once: going on would answer with what may be wrong (S11)."""
    log.critical("the server stops: %s", fault, exc_info=fault)
    logging.shutdown()
    os._exit(EXIT_STATUS)


async def start_engine(
    config: EngineConfig,
    machine: StateMachine,
    on_ask: AskHandler,
    on_change: Callable[[], None],
    *,
    on_fatal: FatalHandler = stop_process,
    roster: Roster | None = None,
    clock: Callable[[], float] = time.monotonic,
    rng: random.Random | None = None,
) -> PySyncObjEngine:
    """Restore what `config.data_dir` holds, and take part in the pool.

    `machine` has the state of the newest snapshot when this returns; the log after it is
    applied as soon as it is known to be committed. `on_change` is called, never within a
    call of the engine, when leader, term or connections may have changed. `on_fatal` is
    called once if the engine cannot go on; it takes part in nothing any more by then.
    `roster` reads from the machine's state who the members are; without one they are those
    of the configuration for ever.
    Raises DataError, SettingsError or InvariantBroken if it cannot start.
    """
    check_library()
    engine = PySyncObjEngine(config, machine, on_ask, on_change, on_fatal, roster, clock, rng)
    await engine.start()
    return engine


class PySyncObjEngine(Engine):
    """One server's part in the pool's log; built and started by `start_engine`."""

    def __init__(
        self,
        config: EngineConfig,
        machine: StateMachine,
        on_ask: AskHandler,
        on_change: Callable[[], None],
        on_fatal: FatalHandler,
        roster: Roster | None,
        clock: Callable[[], float],
        rng: random.Random | None,
    ) -> None:
        self._config = config
        self._on_change = on_change
        self._on_fatal = on_fatal
        self._rng = rng or random.Random()
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._stopped: str | None = None
        self._proposals: dict[Proposal, None] = {}  # in the order they were made
        self._proposed_bytes = 0
        self._checks: set[asyncio.Task[int | None]] = set()
        self._seen: tuple[object, ...] = ()
        self._progress = (0, 0, 0)
        self._swept_at = clock()
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        # One thread for the journal's syncs, of which there is one at a time, one for snapshots.
        self._disk = ThreadPoolExecutor(2, thread_name_prefix="disk")
        self._syncing: Future[None] | None = None
        self._peers = Peers(
            config.pool,
            config.server,
            config.members,
            config.tls,
            on_ask,
            clock,
            self._rng,
            joining=config.joining,
        )
        self._lock = DirectoryLock(config.data_dir)
        try:
            self._journal = DurableJournal(config.data_dir, config.pool, config.server)
        except BaseException:
            self._lock.release()
            raise
        try:
            self._snapshots = SnapshotStore(config.data_dir, config.pool, config.members)
            reconcile(self._journal, self._snapshots.current)
            self._snapshots.background = self._disk.submit
            self._node = self._build(machine, roster)
        except BaseException:
            self._journal.abandon()
            self._lock.release()
            raise
        log.info(
            "restored the log from %s",
            config.data_dir,
            extra={"end_index": self._node.end_index, **describe(self._snapshots.current)},
        )

    def _build(self, machine: StateMachine, roster: Roster | None) -> GuardedSyncObj:
        """The guarded SyncObj of this server."""
        config = self._config
        voters = {
            name: address
            for name, address in config.members.items()
            if name != config.server or not config.joining
        }
        conf = configuration(
            self._snapshots.path,
            append_entries_period_s=config.append_entries_period_s,
            election_timeout_s=config.election_timeout_s,
            leader_fallback_s=config.leader_fallback_s,
            queue_size=2 * config.max_proposals,
            batch_bytes=BATCH_BYTES,
            compaction_entries=config.compaction_entries,
            compaction_period_s=config.compaction_period_s,
        )
        return GuardedSyncObj(
            config.server,
            voters,
            conf,
            ReplicatedMachine(machine),
            self._peers,
            self._journal,
            self._snapshots,
            clock=self._clock,
            rng=self._rng,
            pending_bytes=self._peers.pending_bytes,
            check_leader=self._check_leader,
            guards=config.guards,
            roster=roster,
            on_members=self._follow_members,
        )

    async def start(self) -> None:
        """Restore the snapshot, listen, dial, and begin to take turns."""
        config = self._config
        try:
            # The first tick loads the snapshot; it is taken here so that a fault is an error
            # of the start, before any peer is heard.
            self._node.doTick(0.0)
            self._journal.sync()
            self._peers.on_activity = self._wake
            self._peers.on_fault = self._halt
            self._peers.leading = self._leading
            await self._peers.start(config.listen or config.members[config.server])
        except BaseException:
            self._release()
            raise
        self._beat()

    # Engine

    async def propose(self, command: bytes, timeout_s: float) -> object:
        """Commit a command and return what applying it here returned (see `Engine`)."""
        return await self._commit(command, timeout_s, REGULAR)

    async def change_members(self, command: bytes, timeout_s: float) -> object:
        """Commit a change of members (see `Engine`)."""
        return await self._commit(command, timeout_s, CHANGE)

    async def _commit(self, command: bytes, timeout_s: float, kind: int) -> object:
        if len(command) > MAX_COMMAND_BYTES:
            raise ValueError(f"a command of {len(command)} bytes: at most {MAX_COMMAND_BYTES}")
        why = self._why_not()
        if why is not None:
            raise NotExecuted(f"not proposed: {why}")
        if len(self._proposals) >= self._config.max_proposals:
            raise Overloaded(f"not proposed: {len(self._proposals)} commands wait already")
        if self._proposed_bytes and self._proposed_bytes + len(command) > MAX_PROPOSED_BYTES:
            raise Overloaded(f"not proposed: {self._proposed_bytes} bytes wait already")
        proposal = Proposal(self._loop.create_future())
        self._proposals[proposal] = None
        self._proposed_bytes += len(command)
        self._node.submit(command, proposal, kind)
        self._wake()
        try:
            async with asyncio.timeout(timeout_s):
                return await proposal.future
        except TimeoutError:
            raise OutcomeUnknown(
                f"not seen committed within {timeout_s:g} s; propose it again with the same serial"
            ) from None
        finally:
            self._proposals.pop(proposal, None)
            self._proposed_bytes -= len(command)

    async def ask(self, server: str, body: bytes, timeout_s: float) -> bytes:
        """Ask one other server, outside the log; raises PeerUnreachable."""
        return await self._peers.ask(server, body, timeout_s)

    def status(self) -> EngineStatus:
        """The engine now."""
        node = self._node
        leader = node._getLeader()
        return EngineStatus(
            server=self._config.server,
            leader=leader.id if leader is not None else None,
            term=node.raftCurrentTerm,
            commit_index=node.raftCommitIndex,
            applied_index=node.raftLastApplied,
            leads=node.leads and self._stopped is None,
            connected=self._peers.connected,
            caught_up=node.caught_up_learners,
            turned_away=self._peers.turned_away,
            certificate_ends_s=self._peers.certificate_ends_s,
        )

    async def transfer(self, server: str) -> None:
        """Ask another server to take over at once, when it has the whole log.

        Returns when the request is on its way; `status` tells the outcome. Raises
        NotExecuted if this server does not lead or the other is not caught up in a second.
        """
        if server == self._config.server and self._node._isLeader():
            return
        if server not in self._node.voters:
            raise NotExecuted(f"{server} is no server of the pool that could lead")
        deadline = self._loop.time() + TRANSFER_S
        while self._stopped is None and self._node._isLeader():
            if server not in self._peers.connected:
                raise NotExecuted(f"{server} is not connected")
            if self._node.caught_up(server):
                self._node.hand_over(server)
                self._wake()
                return
            if self._loop.time() >= deadline:
                raise NotExecuted(f"{server} has not caught up with the log; try again")
            await asyncio.sleep(TICK_S)
        raise NotExecuted(f"{self._config.server} is not the leader")

    async def close(self) -> None:
        """Stop taking part; what is durable is closed in order, what is open is unknown."""
        if self._stopped is not None:
            return
        self._stop("the server stops")
        self._release()

    def abort(self) -> None:
        """Vanish as if the process had been killed: nothing more is sent, nor synced."""
        self._stop("the server was aborted")
        with contextlib.suppress(DataError):
            self._await_disk()
        self._journal.abandon()
        self._peers.destroy()
        self._lock.release()

    # Turns.

    def _wake(self) -> None:
        """Take a turn in the next iteration of the loop, once for all that arrive in this one."""
        if not self._scheduled and self._stopped is None:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _beat(self) -> None:
        """Take a turn now and then even when nothing arrives: heartbeats and elections."""
        if self._stopped is None:
            self._wake()
            # After that turn, which does what is due now: it would be due again at once.
            self._loop.call_soon(self._rest)

    def _rest(self) -> None:
        """Come back when the next thing is due by the clock."""
        if self._stopped is None:
            delay_s = min(max(TICK_S, self._node.rest_s), REST_S)
            self._timer = self._loop.call_later(delay_s, self._beat)

    def _turn(self) -> None:
        """Tick, sync, and only then let this turn's messages leave (S9)."""
        self._scheduled = False
        if self._stopped is not None:
            return
        node = self._node
        if self._syncing is not None:
            self._peers.flush()
            node.fall_back()
            self._notice_changes()
            return
        try:
            node.doTick(0.0)
            work = self._journal.begin_sync()
        except Exception as fault:  # noqa: BLE001  # Going on would answer from a broken state.
            self._halt(fault)
            return
        self._peers.seal()
        if work is None:
            self._peers.release()
        else:
            self._peers.flush()
            self._syncing = self._disk.submit(work)
            self._syncing.add_done_callback(self._synced_elsewhere)
        if self._journal.log_bytes > self._config.compaction_bytes and not self._snapshots.storing:
            node.forceLogCompaction()
        progress = (node.end_index, node.raftCommitIndex, node.raftLastApplied)
        if progress != self._progress:
            self._progress = progress
            self._wake()
        self._notice_changes()
        if self._clock() - self._swept_at > SWEEP_S:
            self._swept_at = self._clock()
            node.forget(is_finished)

    def _synced_elsewhere(self, syncing: Future[None]) -> None:
        """The disk's thread has done its part."""
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            self._loop.call_soon_threadsafe(self._synced, syncing)

    def _synced(self, syncing: Future[None]) -> None:
        """Let leave what is durable now, and take the next turn."""
        if self._syncing is not syncing:
            return
        self._syncing = None
        try:
            self._end_sync(syncing)
        except Exception as fault:  # noqa: BLE001  # As in a turn.
            self._halt(fault)
            return
        self._peers.release()
        self._turn()

    def _end_sync(self, syncing: Future[None]) -> None:
        """Tell the journal what became of a sync; raises whatever went wrong."""
        fault = syncing.exception()
        if fault is not None and not isinstance(fault, OSError):
            raise fault
        self._journal.end_sync(fault)

    def _await_disk(self) -> None:
        """Wait until no thread writes any more: then files may be closed."""
        syncing, self._syncing = self._syncing, None
        self._disk.shutdown()
        if syncing is not None:
            self._end_sync(syncing)
        self._snapshots.finish()

    def _notice_changes(self) -> None:
        """Tell `on_change` if leader, term or connections are not what they were."""
        node = self._node
        seen = (node._getLeader(), node.raftCurrentTerm, node.leads, self._peers.connected)
        if seen != self._seen:
            self._seen = seen
            self._loop.call_soon(self._on_change)

    def _why_not(self) -> str | None:
        """Why a command proposed now could never be committed, or None."""
        if self._stopped is not None:
            return self._stopped
        leader = self._node._getLeader()
        if leader is None:
            return "there is no leader; try again after the election"
        if leader.id != self._config.server and leader.id not in self._peers.connected:
            return f"the leader {leader.id} is not connected; try again after the election"
        return None

    def _follow_members(self, members: Members) -> None:
        """The log has said who the members are: reach those, and part with others."""
        log.info(
            "the pool's servers are %s",
            ", ".join(members.voters),
            extra={"since_index": members.index, "learners": ", ".join(members.learners)},
        )
        self._snapshots.members = tuple(members.addresses)
        self._peers.set_members(members)

    # The check message (R22).

    def _leading(self) -> int | None:
        """The term that this server leads, for whoever checks it."""
        if self._stopped is not None or not self._node._isLeader():
            return None
        term: int = self._node.raftCurrentTerm
        return term

    def _check_leader(self, server: str, done: Callable[[int | None], None]) -> None:
        """Ask a server whether it leads, over a fresh connection, and tell `done`."""
        task = self._loop.create_task(self._peers.check(server, CHECK_S))
        self._checks.add(task)
        task.add_done_callback(lambda ended: self._end_check(ended, done))

    def _end_check(
        self, task: asyncio.Task[int | None], done: Callable[[int | None], None]
    ) -> None:
        """A check is answered, or its time is up."""
        self._checks.discard(task)
        if self._stopped is None and not task.cancelled():
            done(task.result())
            self._wake()

    # The end.

    def _halt(self, fault: BaseException) -> None:
        """Take part in nothing any more, and say why; nothing of this turn has left."""
        if self._stopped is not None:
            return
        self._stop(f"the server stopped: {fault}")
        self._peers.destroy()
        with contextlib.suppress(Exception):  # One fault is told, the first.
            self._await_disk()
        self._journal.abandon()
        self._lock.release()
        self._on_fatal(fault)

    def _stop(self, why: str) -> None:
        """Refuse what comes, and leave the outcome of what is open unknown."""
        self._stopped = why
        if self._timer is not None:
            self._timer.cancel()
        for task in self._checks:
            task.cancel()
        for proposal in self._proposals:
            if not proposal.future.done():
                proposal.future.set_exception(OutcomeUnknown(why))

    def _release(self) -> None:
        """Close connections, journal and lock, in this order."""
        self._stopped = self._stopped or "the server did not start"
        try:
            self._await_disk()
            self._node._doDestroy()
        finally:
            self._lock.release()
