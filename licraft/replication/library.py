"""PySyncObj 0.3.17 as a library: what of it is used, how it is configured, where it is joined.

May import pysyncobj and `errors`. The version is pinned by behaviour: private names are
overridden, so each is checked at start, and `tests/contract/` holds the facts behind them.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Iterator
from pathlib import Path

import pysyncobj.syncobj
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.journal import Journal
from pysyncobj.poller import Poller
from pysyncobj.version import VERSION

from licraft.errors import InvariantBroken, SettingsError

PINNED_VERSION = "0.3.17"
FOLLOWER, CANDIDATE, LEADER = 0, 1, 2

METHODS = (
    "_onTick",
    "_applyCommand",
    "_doDestroy",
    "_getLeader",
    "_isLeader",
    "_SyncObj__applyLogEntries",
    "_SyncObj__callErrCallback",
    "_SyncObj__changeCluster",
    "_SyncObj__connectedToAnyone",
    "_SyncObj__deleteEntriesFrom",
    "_SyncObj__doApplyCommand",
    "_SyncObj__doChangeCluster",
    "_SyncObj__generateRaftTimeout",
    "_SyncObj__loadDumpFile",
    "_SyncObj__onMessageReceived",
    "_SyncObj__onNodeConnected",
    "_SyncObj__onNodeDisconnected",
    "_SyncObj__parseChangeClusterRequest",
    "_SyncObj__sendAppendEntries",
    "_SyncObj__sendNextNodeIdx",
    "_SyncObj__setCurrentTerm",
    "_SyncObj__setState",
    "_SyncObj__tryLogCompaction",
    "_SyncObj__updateClusterConfiguration",
    "transferLeadership",
)
"""Methods of SyncObj that are called or overridden here."""

ATTRIBUTES = (
    "_idToMethod",
    "_poller",
    "_SyncObj__commandsLocalCounter",
    "_SyncObj__commandsWaitingCommit",
    "_SyncObj__commandsWaitingReply",
    "_SyncObj__connectedNodes",
    "_SyncObj__lastResponseTime",
    "_SyncObj__lastSerializedEntry",
    "_SyncObj__newAppendEntriesTime",
    "_SyncObj__noopIDx",
    "_SyncObj__otherNodes",
    "_SyncObj__raftCommitIndex",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__raftLastApplied",
    "_SyncObj__raftLeader",
    "_SyncObj__raftLog",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__raftNextIndex",
    "_SyncObj__raftState",
    "_SyncObj__readonlyNodes",
    "_SyncObj__serializer",
    "_SyncObj__transferInProgress",
    "_SyncObj__transport",
)
"""Attributes of a SyncObj that are read or set here."""


class Guard(enum.Enum):
    """The guards that a test can leave out, by the fault that each answers."""

    COMMIT_INDEX = "S1"
    CONFLICT_ONLY = "S4"
    FRESH_RESET = "S5"
    TERM_OF_ACKNOWLEDGEMENT = "S6"
    SYNC_BEFORE_APPLY = "S9"
    RESET_TO_COMMIT = "L2"
    PRE_VOTE = "L4"
    ONE_CHANGE = "M1"
    APPLIED_BEFORE_STANDING = "M2"


ALL_GUARDS = frozenset(Guard)


class NoPoller(Poller):  # type: ignore[misc]  # PySyncObj has no types
    """Nothing to poll in a tick: connections, timers and threads are the engine's."""

    def poll(self, timeout: float) -> None:
        """Every tick asks, and would ask the kernel."""


def check_library() -> None:
    """Raise InvariantBroken unless PySyncObj is the version that the guards were made for."""
    if VERSION != PINNED_VERSION:
        raise InvariantBroken(
            f"PySyncObj {VERSION} is installed, and licraft is only safe on {PINNED_VERSION}: "
            f"pip install pysyncobj=={PINNED_VERSION}"
        )
    for name in METHODS:
        if not callable(getattr(SyncObj, name, None)):
            raise InvariantBroken(f"PySyncObj {VERSION} has no method {name}: reinstall it")


def check_member(member: SyncObj) -> None:
    """Raise InvariantBroken unless a built SyncObj has every attribute that is used."""
    for name in ATTRIBUTES:
        if not hasattr(member, name):
            raise InvariantBroken(f"PySyncObj {VERSION} has no attribute {name}: reinstall it")


def use_clock(clock: Callable[[], float]) -> None:
    """Let PySyncObj read `clock` (seconds), in this whole process.

    Its own is CLOCK_MONOTONIC_RAW, which drifts from the event loop's clock, and where it
    finds no C library silently the wall clock, which steps.
    """
    pysyncobj.syncobj.monotonicTime = clock


@contextlib.contextmanager
def journal_seam(journal: Journal) -> Iterator[None]:
    """Let the SyncObj built inside use `journal`: its module's factory is the only seam."""
    factory = pysyncobj.syncobj.createJournal
    pysyncobj.syncobj.createJournal = lambda path=None: journal
    try:
        yield
    finally:
        pysyncobj.syncobj.createJournal = factory


def configuration(
    snapshot_path: Path,
    *,
    append_entries_period_s: float,
    election_timeout_s: tuple[float, float],
    leader_fallback_s: float,
    queue_size: int,
    batch_bytes: int,
    compaction_entries: int,
    compaction_period_s: float,
) -> SyncObjConf:
    """Every option of PySyncObj, set here and nowhere else: misspelt ones are ignored.

    Raises SettingsError if they contradict each other, which PySyncObj only asserts.
    """
    shortest_s, longest_s = election_timeout_s
    faults = [
        fault
        for holds, fault in (
            (append_entries_period_s > 0, "append_entries_period_s has to be positive"),
            (
                3 * append_entries_period_s < shortest_s < longest_s,
                "election_timeout_s has to be a range above three append_entries_period_s",
            ),
            (
                leader_fallback_s > append_entries_period_s,
                "leader_fallback_s has to be above append_entries_period_s",
            ),
            (min(queue_size, batch_bytes, compaction_period_s) > 0, "sizes have to be positive"),
            (compaction_entries >= 2, "compaction_entries has to be 2 or more"),
        )
        if not holds
    ]
    if faults:
        raise SettingsError("engine", faults)
    return SyncObjConf(
        appendEntriesBatchSizeBytes=batch_bytes,
        appendEntriesPeriod=append_entries_period_s,
        appendEntriesUseBatch=True,
        autoTick=False,
        autoTickPeriod=0.05,
        bindAddress=None,
        bindRetryTime=1.0,
        commandsQueueSize=queue_size,
        commandsWaitLeader=False,
        connectionRetryTime=1.0,
        connectionTimeout=max(3.5, election_timeout_s[1]),
        deserializer=None,
        dnsCacheTime=0.0,
        dnsFailCacheTime=0.0,
        # Only so that it asks before it appends a change: see `membership`.
        dynamicMembershipChange=True,
        fullDumpFile=str(snapshot_path),
        journalFile=None,
        leaderFallbackTimeout=leader_fallback_s,
        logCompactionBatchSize=2**16,
        logCompactionMinEntries=compaction_entries,
        logCompactionMinTime=compaction_period_s,
        logCompactionSplit=False,
        maxBindRetries=0,
        onCodeVersionChanged=None,
        onReady=None,
        onStateChanged=None,
        password=None,
        pollerType="auto",
        preferredAddrType=None,
        raftMaxTimeout=election_timeout_s[1],
        raftMinTimeout=election_timeout_s[0],
        recvBufferSize=2**16,
        sendBufferSize=2**16,
        serializeChecker=None,
        serializer=None,
        tcp_keepalive=None,
        useFork=False,
    )
