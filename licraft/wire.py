"""The bodies of the HTTP API, as typed values with their bounds.

May import msgspec and `core.outcomes`. The client module, the license server and
the API room share these, so that each body is defined once. Unknown fields are
refused in requests and ignored in answers. Times are seconds.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.json import encode

MAX_BODY_BYTES = 256 * 1024
MAX_LICENSE_BYTES = 3 * 1024 * 1024
MAX_COUNT = 1_000_000
MAX_WAIT_S = 3600.0
MAX_TOKENS = 1000

Name = Annotated[str, Meta(min_length=1, max_length=128)]
ShortText = Annotated[str, Meta(max_length=128)]
RequestId = Annotated[str, Meta(min_length=1, max_length=64, pattern="^[A-Za-z0-9._:-]+$(?!\n)")]
Token = Annotated[str, Meta(min_length=1, max_length=2048)]


class ClientInfo(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """Who asks: shown to administrators, never used for a decision about safety."""

    id: ShortText = ""
    user: ShortText = ""
    host: ShortText = ""
    pid: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    app: ShortText = ""


class CheckoutRequest(Struct, forbid_unknown_fields=True, gc=False):
    """`POST /v1/authorizations`: `count` seats of `feature`, waiting up to `wait` seconds."""

    feature: Name
    count: Annotated[int, Meta(ge=1, le=MAX_COUNT)] = 1
    wait: Annotated[float, Meta(ge=0, le=MAX_WAIT_S)] = 0.0
    version: ShortText | None = None
    nonce: ShortText | None = None
    id: RequestId | None = None
    client: ClientInfo | None = None


class HeartbeatRequest(Struct, forbid_unknown_fields=True, gc=False):
    """`POST /v1/heartbeats`: renews everything that one client holds."""

    tokens: Annotated[list[Token], Meta(max_length=MAX_TOKENS)]
    client: ShortText = ""
    servers_version: Annotated[int, Meta(ge=0)] = 0
    confirm: Annotated[dict[str, int], Meta(max_length=MAX_TOKENS)] = {}
    nonce: ShortText | UnsetType | None = UNSET


class CheckinRequest(Struct, forbid_unknown_fields=True, gc=False):
    """`POST /v1/checkins`: gives seats back; safe to repeat, at any server."""

    tokens: Annotated[list[Token], Meta(max_length=MAX_TOKENS)]


class Proof(Struct, omit_defaults=True):
    """That the answering server is of the pool with this key; only in answers to a `nonce`.

    `signature` is the pool's (Ed25519) over `proof_text`; `code` is a license code of the
    feature that the vendor bound to `pool_key`, in answers to a checkout. Both are base64url.
    """

    pool_key: str
    server: str
    signature: str
    code: str | None = None


def proof_text(
    nonce: str, server: str, pool_key: str, seats: Iterable[tuple[str, str, int, float]]
) -> bytes:
    """What a pool signs: seats are (id, feature, count, ttl), ttl in seconds.

    It is a JSON array, with ttl in whole milliseconds so that it has one text only.
    """
    plain = [(id, feature, count, round(ttl * 1000)) for id, feature, count, ttl in seats]
    return encode(["licraft proof 1", nonce, server, pool_key, plain])


class ServerEntry(Struct, frozen=True):
    """One server of the priority list; role leader|follower, state up|down|draining|new."""

    name: str
    url: str
    role: str
    state: str


class ServerList(Struct, frozen=True):
    """The leader priority list (R26): the order in which a client tries servers."""

    version: int
    list: builtins.list[ServerEntry]


class Authorization(Struct):
    """The right to use `count` seats for `ttl` seconds from when the request was sent."""

    id: str
    token: str
    feature: str
    count: int
    server: str
    ttl: float
    heartbeat: float
    granted_at: str
    servers: ServerList
    # Left out unless there is one: answers without a nonce are as they would be without it.
    proof: Proof | UnsetType | None = UNSET


class HeartbeatResult(Struct, omit_defaults=True):
    """What became of one token: `status` is one of `HEARTBEAT_STATUSES`."""

    id: str
    status: str
    ttl: float | None = None
    token: str | None = None
    server: str | None = None
    retry_after: float | None = None
    down_index: int | None = None
    code: str | None = None


HEARTBEAT_STATUSES = ("renewed", "adopted", "converted", "pending", "confirm", "lost")


class HeartbeatAnswer(Struct, omit_defaults=True):
    """Results in the order of the request's tokens, and the server list if it is newer.

    With a `nonce` its `proof` is over what was renewed, adopted and converted, in order.
    """

    results: list[HeartbeatResult]
    servers: ServerList | None = None
    proof: Proof | None = None


class CheckinAnswer(Struct):
    """Which authorizations this call ended, and which were not known any more (ids)."""

    released: list[str]
    unknown: list[str]


class Problem(Struct, omit_defaults=True):
    """A problem document (RFC 9457) with the contract's stable `code`."""

    status: int
    code: str
    detail: str
    title: str = ""
    type: str = "about:blank"
    field: str | None = None
    in_use: int | None = None
    deployed: int | None = None
    entitled: int | None = None
    waiting: int | None = None
    sequence: int | None = None
    retry_after: float | None = None
    servers: ServerList | None = None


class ServerView(Struct, omit_defaults=True):
    """One server, as `GET /v1/pool` tells it; `lease_remaining` is null for other servers."""

    name: str
    role: str
    state: str
    url: str
    incarnation: int
    lease_remaining: float | None
    in_use: int
    allocated: int
    peer: str = ""


class LicenseView(Struct):
    """The installed license file: its number and the SHA-256 of its text (both 0/"" if none)."""

    sequence: int
    sha256: str


class PoolView(Struct):
    """`GET /v1/pool`: the pool as this server sees it."""

    pool: str
    server: str
    # This server: serving | recovering | no_quorum | draining | starting, or joining | removing
    # | removed, or refused by the others.
    state: str
    leader: str | None
    term: int
    applied_index: int
    priority: list[str]
    servers: list[ServerView]
    license: LicenseView
    trouble: list[str]
    version: str
    pool_key: str = ""


class OpenBorrow(Struct):
    """A borrow that lacks `want` seats yet, `need` of them for requests that wait (B3, B13)."""

    id: str
    server: str
    # request: from the free pool, down servers, the leader, the others, in this order;
    # failover: from the leader, the free pool, down servers, the others.
    reason: str
    want: int
    need: int
    # leader | others, who are asked now for what was nowhere free; null once all were asked,
    # and it waits for seats that come back.
    source: str | None
    # The others that the leader has asked, in this order.
    asked: list[str]
    # The seats that it has by now: leader | free | down | others, in the order in which they came.
    got: dict[str, int] = {}


class BorrowedView(Struct, frozen=True):
    """The seats that a server has borrowed since it was started, by where they came from."""

    leader: int = 0
    free: int = 0
    down: int = 0
    others: int = 0


class BorrowingView(Struct):
    """Whether and when a feature's seats move by themselves; the limits set for all servers.

    `open` is first come, first served; `sources` counts what this server has borrowed.
    """

    enabled: bool
    pending: int
    open: list[OpenBorrow] = []
    sources: BorrowedView = BorrowedView()
    threshold: float | None = None
    floor: int | None = None
    cap: int | None = None


class AllocationView(Struct):
    """One server's share of a feature, with the limits of borrowing that count for it.

    `to_give` seats are more than its target, `retiring` ones more than it is to have: they go
    as they come back.
    """

    allocated: int
    in_use: int
    target: int | None
    threshold: float
    to_give: int = 0
    retiring: int = 0
    borrowing: bool = True
    floor: int | None = None
    cap: int | None = None


class FeatureView(Struct):
    """`GET /v1/features/F`; always `free + sum(allocated) + commuters == deployed`.

    `to_give` seats are still on their way to where the distribution criteria want them,
    `missing` is what its servers lack to their targets. `index` is the log index that it
    tells of.
    """

    feature: str
    version: str | None
    entitled: int
    deployed: int
    free: int
    in_use: int
    commuters: int
    waiting: int
    denied: int
    starts: str | None
    expires: str | None
    status: str
    borrowing: BorrowingView
    servers: dict[str, AllocationView]
    over: int = 0  # deployed beyond what is licensed; falls as seats are checked in
    to_give: int = 0
    missing: int = 0
    index: int = 0
    expires_in_days: int | None = None  # by the pool clock, 0 on the last day
    warning: str | None = None
    retired: int = 0  # licensed, and not deployed by an administrator's word


class FeatureList(Struct):
    """`GET /v1/features`."""

    features: list[FeatureView]


class AuthorizationView(Struct):
    """One line of the pool's record of allocations."""

    id: str
    feature: str
    count: int
    client: ClientInfo
    server: str
    granted_at: str
    last_heartbeat: str


class AuthorizationList(Struct):
    """`GET /v1/authorizations`; `as_of` says how fresh each server's part is (null: no report)."""

    authorizations: list[AuthorizationView]
    truncated: bool
    as_of: dict[str, str | None]


class CodeView(Struct):
    """One license code of the installed file, with its status and, if it has one, its fault."""

    id: str
    vendor: str
    feature: str
    version: str | None
    count: int
    starts: str | None
    expires: str | None
    pool: str | None
    status: str
    options: dict[str, str] = {}
    pool_key: str | None = None


class ConflictView(Struct):
    """A server that was given another license file under the pool's number, and its digest."""

    server: str
    sha256: str


class RefusedView(Struct):
    """The license file that the pool did not take from the server that answers."""

    source: str
    sequence: int
    text: str


class CodeRequest(Struct, forbid_unknown_fields=True):
    """`POST /v1/license/codes`: one code to add to the pool's license file (B11).

    `distribution` is "alpha:10^beta:20" or a map; without it the seats are split evenly.
    """

    code: Annotated[str, Meta(min_length=1, max_length=32 * 1024)]
    distribution: (
        Annotated[str, Meta(min_length=1, max_length=4096)]
        | Annotated[
            dict[Name, Annotated[int, Meta(ge=0, le=MAX_COUNT)]], Meta(min_length=1, max_length=64)
        ]
        | None
    ) = None
    threshold: Annotated[float, Meta(gt=0, le=1)] | None = None


class LicenseDocument(Struct, omit_defaults=True):
    """`GET /v1/license`; `refused` is the answering server's own file, if it is in conflict."""

    sequence: int
    text: str
    codes: list[CodeView]
    conflicts: list[ConflictView] = []
    refused: RefusedView | None = None


class Installed(Struct):
    """`PUT /v1/license`: the number now installed and the log index of the commit."""

    sequence: int
    index: int


class LeaderRequest(Struct, forbid_unknown_fields=True):
    """`POST /v1/leader`: the server that is to lead."""

    server: Name


ServerName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$(?!\n)")]
SeatCount = Annotated[int, Meta(ge=0, le=MAX_COUNT)]


class DistributionRequest(Struct, forbid_unknown_fields=True):
    """`PUT /v1/features/F/distribution`: "alpha:10^beta:20" or a map; empty or null for none."""

    distribution: (
        Annotated[str, Meta(max_length=1000)]
        | Annotated[dict[ServerName, SeatCount], Meta(max_length=32)]
        | None
    )


class AllocationsRequest(Struct, forbid_unknown_fields=True):
    """`POST /v1/features/F/allocations`: `count` more seats, or fewer, `to` a server or to all."""

    count: Annotated[int, Meta(ge=-MAX_COUNT, le=MAX_COUNT)]
    to: ServerName | None = None


class BorrowingRequest(Struct, forbid_unknown_fields=True):
    """`PUT /v1/features/F/borrowing`: what is left out stays, null goes back to the default."""

    enabled: bool | UnsetType | None = UNSET
    threshold: Annotated[float, Meta(gt=0, le=1)] | UnsetType | None = UNSET
    server: ServerName | None = None
    floor: SeatCount | UnsetType | None = UNSET
    cap: SeatCount | UnsetType | None = UNSET


class ServerRequest(Struct, forbid_unknown_fields=True):
    """`POST /v1/servers`: a server that is to join, its API's URL, its peers' `host:port`."""

    name: ServerName
    api: Annotated[str, Meta(max_length=300, pattern=r"^https?://[^\s/@]+$(?!\n)")]
    peer: Annotated[str, Meta(max_length=300, pattern=r"^[^\s/@]+:[0-9]{1,5}$(?!\n)")]


class ServerAnswer(Struct):
    """A server that was changed: its state now, and the log index of the last change."""

    name: str
    state: str  # joining | removing | removed | draining | up, or what it was already
    index: int


class LeaderAnswer(Struct):
    """The server that leads now, in which Raft term, and the log index of the wish."""

    leader: str
    term: int
    index: int


class AuditLine(Struct, frozen=True):
    """One change by an administrator, as `core.audit` records it; `time` is the pool's clock."""

    number: int
    index: int
    time: str
    who: str
    where: str
    what: str
    before: str
    after: str
    outcome: str
    previous: str
    sha256: str


class AuditView(Struct):
    """`GET /v1/audit`: how many records there are, the last one's hash, the last ones."""

    count: int
    sha256: str
    records: list[AuditLine]


class Readiness(Struct):
    """`GET /readyz`: 200 while `ready` (holds its lease and may grant), else 503."""

    ready: bool
    state: str
    detail: str
