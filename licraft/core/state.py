"""PoolState: everything that is replicated, and nothing else.

May import `table`, `license` and `outcomes`. It is changed by `apply` alone. Source:
pool protocol, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum

from licraft.core.audit import AuditTail
from licraft.core.license import NO_LICENSE, LicenseFile
from licraft.core.outcomes import Outcome
from licraft.core.table import AllocationTable

_UNIX_EPOCH_DAY = date(1970, 1, 1).toordinal()


class ServerStatus(StrEnum):
    """What the pool holds a server to be; a `new` one has never acted.

    A `joining` one does not have the log yet, and counts in no majority.
    """

    JOINING = "joining"
    NEW = "new"
    UP = "up"
    DOWN = "down"
    DRAINING = "draining"


@dataclass(slots=True)
class ServerState:
    """One member of the pool.

    `requests` and `results` are the serial and the outcomes of its last sequenced
    entry. `down_index` is the log index of the `ServerDown` in force, else 0. One that is
    `removing` is on its way out: it goes down, is reclaimed and dropped. `knows` is the
    newest version of commands and state that it could read when it last came up. `gone`
    names authorizations of its that moved to others, to whom, and at which log index, as
    long as a client may rely on a token from before. At
    `moved_index` an authorization last moved to it, or away by its own hand. One that is
    `drained` is to be empty, until that is taken back: its status is then never `up`.
    `license_conflict` is the SHA-256 of a license file that it was given and that is not the
    pool's, under the same number.
    """

    name: str
    api: str
    peer: str
    incarnation: int = 0
    status: ServerStatus = ServerStatus.NEW
    threshold: float = 0.8
    lease_serial: int = 0
    in_use: dict[str, int] = field(default_factory=dict)
    wall_s: int = 0
    down_index: int = 0
    reclaimed: bool = False
    requests: int = 0
    results: tuple[Outcome, ...] = ()
    removing: bool = False
    knows: int = 1
    gone: dict[str, tuple[str, int]] = field(default_factory=dict)
    moved_index: int = 0
    drained: bool = False
    license_conflict: str = ""

    @property
    def votes(self) -> bool:
        """Whether it counts in the pool's majorities."""
        return self.status is not ServerStatus.JOINING and not self.removing

    @property
    def word(self) -> str:
        """Its state in one word, for people: `removing` or its status."""
        return "removing" if self.removing else self.status.value

    @property
    def acts(self) -> bool:
        """Whether its commands count."""
        return self.status in (ServerStatus.UP, ServerStatus.DRAINING)

    @property
    def grants(self) -> bool:
        """Whether it may be given seats to grant, and may lead: it acts, and stays."""
        return self.status is ServerStatus.UP and not self.removing

    @property
    def available(self) -> bool:
        """Whether others may take its seats: it never acted, or was reclaimed."""
        return self.status is ServerStatus.NEW or self.reclaimed


@dataclass(slots=True)
class PoolState:
    """The replicated state of a pool; `servers` are in leader priority order.

    `preferred_leader` comes before all of them while it is not empty. `members_index` is the
    log index at which it last changed who takes part. `past_names` are those of servers
    that are gone. `version` is that of the commands and states which the pool writes.
    `pool_key` is the public key that belongs to `secret`, in base64url.
    """

    pool: str = ""
    secret: str = field(default="", repr=False)
    lease_s: float = 0.0
    ttl_s: float = 0.0
    drift: float = 0.0
    servers: dict[str, ServerState] = field(default_factory=dict)
    table: AllocationTable = field(default_factory=AllocationTable)
    license: LicenseFile = NO_LICENSE
    clock_s: int = 0
    preferred_leader: str = ""
    members_index: int = 0
    past_names: tuple[str, ...] = ()
    membership: int = 0
    index: int = 0
    version: int = 1
    audit: AuditTail = field(default_factory=AuditTail)
    pool_key: str = ""

    @property
    def formed(self) -> bool:
        """Whether the pool has members and timings."""
        return bool(self.servers)

    @property
    def pool_day(self) -> date:
        """The UTC day of the pool clock."""
        return date.fromordinal(_UNIX_EPOCH_DAY + self.clock_s // 86_400)

    @property
    def priority(self) -> list[str]:
        """The servers in the order in which they should lead."""
        first = self.preferred_leader
        return sorted(self.servers, key=lambda name: name != first)

    @property
    def voters(self) -> list[str]:
        """The servers that count in majorities."""
        return [server.name for server in self.servers.values() if server.votes]

    @property
    def deployable(self) -> list[str]:
        """The servers that get the seats of new licenses: those that stay, in priority order."""
        return [s.name for s in self.servers.values() if s.votes and not s.drained]

    def available(self) -> list[str]:
        """The servers whose seats others may take, in priority order."""
        return [server.name for server in self.servers.values() if server.available]
