"""The commands that are committed: frozen values, one class for each.

May import `license`. Every command is proposed inside an `Entry`, which names its
server, that server's incarnation and, unless it is 0, the serial that makes proposing
it again harmless. Source: pool protocol, sections 3 to 8.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from licraft.core.license import LicenseFile


class Reason(StrEnum):
    """Why a server borrows: it decides the order of the sources (B5 or B14)."""

    REQUEST = "request"
    FAILOVER = "failover"


class Source(StrEnum):
    """Where the seats of a borrow come from, in the order of a fail-over (B14, B15)."""

    LEADER = "leader"
    FREE = "free"
    DOWN = "down"
    OTHERS = "others"


class Level(StrEnum):
    """How hard a giver is asked: within its own threshold, or for all that is unused."""

    OFFERED = "offered"
    SPARE = "spare"
    UNUSED = "unused"


@dataclass(frozen=True, slots=True)
class Member:
    """A server of the pool: its name, the URL of its API, the address of its peer port."""

    name: str
    api: str
    peer: str


@dataclass(frozen=True, slots=True)
class FormPool:
    """Makes the pool: its members in priority order, its timings and its secret; once.

    `pool_key` is the public key that belongs to the secret, in base64url.
    """

    pool: str
    members: tuple[Member, ...]
    lease_s: float
    ttl_s: float
    drift: float
    secret: str = field(repr=False)
    pool_key: str = ""


@dataclass(frozen=True, slots=True)
class AddServer:
    """`member` joins: it gets the log, and counts for nothing before `PromoteServer`."""

    member: Member


@dataclass(frozen=True, slots=True)
class PromoteServer:
    """`server`, which was joining, has the log: from now on it counts in every majority."""

    server: str


@dataclass(frozen=True, slots=True)
class RemoveServer:
    """`server` leaves: it counts in no majority any more, and its lease is not renewed.

    Its clients may rely on what it granted until it is down and reclaimed, as those of any
    server that fell silent: until then its seats stay in its name (protocol, section 4).
    """

    server: str


@dataclass(frozen=True, slots=True)
class DropServer:
    """`server`, which was leaving, has nothing any more that a client relies on: it is gone."""

    server: str


@dataclass(frozen=True, slots=True)
class Drain:
    """`server` is to give its seats and its clients away, or with `on` false to take them again.

    It holds until it is taken back: across restarts of that server too.
    """

    server: str
    on: bool


@dataclass(frozen=True, slots=True)
class ServerUp:
    """`server` is back (or here for the first time) as `incarnation`, the next one.

    `nonce` tells the process that proposed it from an earlier one of the same server,
    whose ServerUp it may still find in the log. `knows` is the newest version of
    commands and state that it can read.
    """

    server: str
    incarnation: int
    threshold: float
    nonce: str
    knows: int = 1


@dataclass(frozen=True, slots=True)
class RenewLease:
    """`server` asks to go on acting; reports what is in use and its wall clock (seconds)."""

    server: str
    incarnation: int
    serial: int
    in_use: dict[str, int]
    wall_s: int


@dataclass(frozen=True, slots=True)
class ServerDown:
    """The leader designates `server` as down, having waited on renewal `lease_serial` (R21)."""

    server: str
    incarnation: int
    lease_serial: int


@dataclass(frozen=True, slots=True)
class Reclaim:
    """What `server` left at the down of log index `down_index` may now be borrowed (B5)."""

    server: str
    down_index: int


@dataclass(frozen=True, slots=True)
class Borrow:
    """`server` lacks seats of `feature`: `need` at once, `want` to be sufficient again (B3).

    `since` is the log index at which the oldest request behind it first borrowed, 0 for
    this entry's own; the lower, the sooner it is served. With `hold` somebody goes on
    waiting when the pool is exhausted.
    """

    id: str
    feature: str
    server: str
    want: int
    need: int
    reason: Reason
    since: int
    hold: bool


@dataclass(frozen=True, slots=True)
class Release:
    """`server` gives `count` seats, set aside beforehand, to a borrow or the free pool.

    `to` is the borrowing server and `borrow` its borrow's id; both empty for the free
    pool. A count of 0 answers a `Solicit` with nothing. `leader` marks the leader's own
    gift, the first source that a borrow has among the servers (B5, B14). What is given up
    because it is `due` is given up only as far as it still is: others may have been sooner.
    """

    feature: str
    server: str
    count: int
    to: str
    borrow: str
    level: Level
    leader: bool
    due: bool = False


@dataclass(frozen=True, slots=True)
class Solicit:
    """The leader asks `giver` for the seats that a borrow still lacks (B15)."""

    feature: str
    borrower: str
    borrow: str
    giver: str
    level: Level


@dataclass(frozen=True, slots=True)
class EndBorrow:
    """A borrow ends: `exhausted` says the leader found no more, else the borrower withdrew."""

    feature: str
    server: str
    borrow: str
    exhausted: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """A client of `issuer` asks `server`, which asks `issuer` for the authorization (R9)."""

    id: str
    feature: str
    count: int
    issuer: str
    server: str
    server_incarnation: int


@dataclass(frozen=True, slots=True)
class HandOver:
    """`issuer` gives an authorization that was claimed to `server`, with its seats.

    `client` is (id, user, host, pid, app). A count of 0 says that it is not on record, and
    `struck` that somebody took it off, so that its client is to lose it.
    """

    id: str
    feature: str
    count: int
    client: tuple[str, str, str, int, str]
    issuer: str
    server: str
    server_incarnation: int
    struck: bool = False


@dataclass(frozen=True, slots=True)
class Adopt:
    """`server` takes over an authorization of `issuer`, down by the entry `down_index` (R16).

    Its client was valid when it had been told of that entry.
    """

    id: str
    feature: str
    count: int
    client: tuple[str, str, str, int, str]
    issuer: str
    down_index: int
    server: str


@dataclass(frozen=True, slots=True)
class ForgetMoves:
    """The leader has waited on every move up to log index `index`: no old token counts."""

    index: int


@dataclass(frozen=True, slots=True)
class PreferLeader:
    """An administrator hands leadership to `server`; holds until that server goes down."""

    server: str


@dataclass(frozen=True, slots=True)
class InstallLicense:
    """The redundant license file, verified by the server that proposes it (R10, R19).

    One that was made from the pool's file names that file's number as its `base`, and has
    no effect once the pool has another (B11).
    """

    license: LicenseFile
    base: int | None = None


@dataclass(frozen=True, slots=True)
class LicenseConflict:
    """`server` was given another file than the pool's under the pool's number `sequence`.

    An empty `sha256` says that there is none any more.
    """

    server: str
    sequence: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds borrowing, of a feature or of one server's seats of it; None says nothing.

    Borrowing neither takes a server's allocation under `floor` nor raises it over `cap`.
    With `enabled` false its seats neither come nor go by themselves.
    """

    enabled: bool | None = None
    threshold: float | None = None
    floor: int | None = None
    cap: int | None = None


@dataclass(frozen=True, slots=True)
class SetDistribution:
    """The seats of `feature` are shared out by `target`, seats by server (B7, B21).

    An empty `target` says that they stay where they are.
    """

    feature: str
    target: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class AddAllocations:
    """`count` more seats of `feature` are deployed, or with a negative count retire (B9, B23).

    `to` is the server that gets them or loses them; empty for the free pool, or for whoever
    has unused ones.
    """

    feature: str
    count: int
    to: str


@dataclass(frozen=True, slots=True)
class SetBorrowing:
    """What bounds borrowing of `feature` changes, at `server` or, if that is empty, everywhere.

    `limits` are the new ones where they are not None; `defaults` names the fields that say
    nothing any more.
    """

    feature: str
    server: str
    limits: Limits
    defaults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RemoveAuthorization:
    """An administrator ends an authorization; `holder` says in words whose it was, if known.

    The server that has it on its record takes it off when it is told to, after this.
    """

    id: str
    holder: str


@dataclass(frozen=True, slots=True)
class Audited:
    """What an administrator changes: `command`, and for the audit who asked from where."""

    who: str
    where: str
    command: Command


Command = (
    FormPool
    | AddServer
    | PromoteServer
    | RemoveServer
    | DropServer
    | Drain
    | ServerUp
    | RenewLease
    | ServerDown
    | Reclaim
    | Borrow
    | Release
    | Solicit
    | EndBorrow
    | Claim
    | HandOver
    | Adopt
    | ForgetMoves
    | InstallLicense
    | LicenseConflict
    | PreferLeader
    | Audited
    | RemoveAuthorization
    | AddAllocations
    | SetBorrowing
    | SetDistribution
)

COMMANDS: tuple[type[Command], ...] = (
    Audited,
    RemoveAuthorization,
    FormPool,
    AddServer,
    PromoteServer,
    RemoveServer,
    DropServer,
    Drain,
    ServerUp,
    RenewLease,
    ServerDown,
    Reclaim,
    Borrow,
    Release,
    Solicit,
    EndBorrow,
    Claim,
    HandOver,
    Adopt,
    ForgetMoves,
    InstallLicense,
    LicenseConflict,
    PreferLeader,
    AddAllocations,
    SetBorrowing,
    SetDistribution,
)

MembershipCommand = AddServer | PromoteServer | RemoveServer | DropServer
"""What changes who takes part: proposed alone, one at a time (see `core.membership`)."""


def asked_for(command: Command) -> Command:
    """The command itself, without who asked for it."""
    return command.command if isinstance(command, Audited) else command


@dataclass(frozen=True, slots=True)
class Entry:
    """What one server proposes at once; `serial` 0 marks commands that are harmless twice."""

    server: str
    incarnation: int
    serial: int
    commands: tuple[Command, ...]
