"""What is checked when a run is over: the table, the audit, the logs, and every server's state.

May import `pool` and `history`, licraft's core, its journal, its snapshots and its replicated
pool: the digests are computed here, from the files that the servers leave, by the rule that
the servers themselves apply.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copy

from support.processes import POOL, balanced

from chaos.pool import ChaosPool
from licraft.core.audit import AuditFault, AuditRecord, read_line
from licraft.core.codec import digest
from licraft.errors import LicraftError
from licraft.replication.journal import JOURNAL_NAME, DurableJournal
from licraft.replication.messages import CHANGE, REGULAR
from licraft.replication.snapshot import SNAPSHOT_NAME, SnapshotStore
from licraft.server.audit_log import audit_files
from licraft.server.pool import ReplicatedPool

AUDIT_NAME = "audit.log"
_COMMAND_S = 60.0
_MAX_SHOWN = 20
_MAX_LINE = 300
_FULL = ("No space left on device", "Disk quota exceeded")


@dataclass(frozen=True, slots=True)
class Digests:
    """The digest of each server's state after log index `index`, and what is wrong with any."""

    index: int
    by_server: Mapping[str, str]
    faults: tuple[str, ...]


class Replica:
    """One server's state, applied again from the files that it has left."""

    def __init__(self, pool: str, name: str, data: Path) -> None:
        """Read copies of the files; raises LicraftError if they are not what a start accepts."""
        with tempfile.TemporaryDirectory(prefix="licraft-replica-") as folder:
            for file in (JOURNAL_NAME, SNAPSHOT_NAME):
                if (data / file).exists():
                    copy(data / file, folder)
            journal = DurableJournal(Path(folder), pool, name)
            try:
                self._entries = journal[:]
                self.committed = journal.getRaftCommitIndex()
            finally:
                journal.abandon()
            self._snapshot = SnapshotStore(Path(folder), pool, ()).current

    @property
    def begins(self) -> int:
        """The log index before which its state cannot be told any more."""
        return self._snapshot.id[0] if self._snapshot is not None else 0

    def digest_at(self, index: int) -> str:
        """The SHA-256 of the state after log index `index`."""
        pool = ReplicatedPool()
        if self._snapshot is not None:
            pool.restore(self.begins, self._snapshot.state)
        for command, at, _ in self._entries:
            if self.begins < at <= index and command[0] in (REGULAR, CHANGE):
                pool.apply(at, command[1:])
        return digest(pool.state)


def digests(data: Mapping[str, Path], pool: str = POOL) -> Digests:
    """The digests of all servers' states at the last index that all have committed.

    The servers must have stopped. A server's snapshot is the state that it had in memory, so
    what is compared is not the logs alone.
    """
    try:
        replicas = {name: Replica(pool, name, path) for name, path in data.items()}
        index = min(replica.committed for replica in replicas.values())
        late = [name for name, replica in replicas.items() if replica.begins > index]
        if late:
            fault = f"the others end at log index {index}, and {', '.join(late)} begins after it"
            return Digests(index, {}, (fault,))
        by_server = {name: replica.digest_at(index) for name, replica in replicas.items()}
    except LicraftError as fault:
        return Digests(0, {}, (f"the state cannot be read again: {fault}",))
    differ = len(set(by_server.values())) > 1
    words = ", ".join(f"{name} {found[:12]}" for name, found in by_server.items())
    return Digests(index, by_server, (f"at log index {index}: {words}",) if differ else ())


def table_faults(pool: ChaosPool, seats: Mapping[str, int]) -> list[str]:
    """What is wrong with the table of any server when nobody holds anything any more."""
    faults = []
    for name in pool.names:
        answer = pool.get(name, "/v1/features")
        if answer.status != 200:
            faults.append(f"{name} does not tell its features: {answer.status} {answer.code}")
            continue
        told = {feature["feature"]: feature for feature in answer["features"]}
        if told.keys() != seats.keys():
            faults.append(f"{name}: there are {sorted(told)}, expected {sorted(seats)}")
        for feature, view in told.items():
            wanted = {"entitled": seats.get(feature, 0), "deployed": seats.get(feature, 0)}
            wanted |= {"in_use": 0, "waiting": 0, "over": 0}
            faults += [
                f"{name}: {feature}: {key} is {view[key]}, expected {value}"
                for key, value in wanted.items()
                if view[key] != value
            ]
            if not balanced(view):
                faults.append(f"{name}: {feature}: the shares do not add up: {view}")
    return faults


def audit_faults(pool: ChaosPool) -> list[str]:
    """What `licraft audit verify` finds in all servers' files and in the pool itself."""
    files = [str(pool.data(name) / AUDIT_NAME) for name in pool.names]
    urls = [option for url in pool.urls.values() for option in ("--server", url)]
    command = [sys.executable, "-m", "licraft", "audit", "verify", *files, "--against-pool", *urls]
    done = subprocess.run(
        [*command, "--json"],
        capture_output=True,
        text=True,
        timeout=_COMMAND_S,
        check=False,
        env={**pool.environ, "LICRAFT_TOKEN": pool.admin},
    )
    try:
        faults = [str(fault) for fault in json.loads(done.stdout)["faults"]]
    except (ValueError, KeyError):
        return [f"licraft audit verify: exit status {done.returncode}: {done.stderr.strip()}"]
    return faults[:_MAX_SHOWN]


def audit_indices(files: Sequence[Path]) -> list[int]:
    """The log indices of all records in some servers' audit files, each record once."""
    found: dict[int, int] = {}
    for path in files:
        for file in audit_files(path):
            for text in file.read_text(encoding="ascii", errors="replace").splitlines():
                try:
                    line = read_line(text)
                except AuditFault:
                    continue  # that is for `audit_faults` to say
                if isinstance(line, AuditRecord):
                    found[line.number] = line.index
    return [found[number] for number in sorted(found)]


def log_faults(name: str, text: str, *, disk_was_full: bool) -> list[str]:
    """Lines of a server's log that are no part of what was done to it.

    Errors are expected only of a disk that was full; a line that is no JSON comes from
    something that failed before logging began, or from beneath it.
    """
    lines = [line for line in text.splitlines() if line.strip() and _complains(line)]
    if disk_was_full:
        lines = [line for line in lines if not any(word in line for word in _FULL)]
    return [f"{name}: {line[:_MAX_LINE]}" for line in lines[:_MAX_SHOWN]]


def _complains(line: str) -> bool:
    try:
        return json.loads(line)["level"] in ("error", "critical")
    except (ValueError, KeyError, TypeError):
        return True
