"""Hypothesis strategies of the core: any value for the codec, and histories for `apply`.

May import the core and `pools`. A history is a log as the engine might commit it: what
servers and the leader propose, late and repeated entries included.
"""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from licraft.core.apply import apply
from licraft.core.commands import (
    AddAllocations,
    AddServer,
    Adopt,
    Audited,
    Borrow,
    Claim,
    Command,
    Drain,
    DropServer,
    EndBorrow,
    Entry,
    ForgetMoves,
    FormPool,
    HandOver,
    InstallLicense,
    Level,
    LicenseConflict,
    Limits,
    Member,
    PreferLeader,
    PromoteServer,
    Reason,
    Reclaim,
    Release,
    RemoveAuthorization,
    RemoveServer,
    RenewLease,
    ServerDown,
    ServerUp,
    SetBorrowing,
    SetDistribution,
    Solicit,
)
from licraft.core.license import LicenseCode, LicenseFile
from licraft.core.state import PoolState
from licraft.core.table import PendingBorrow
from support.pools import FEATURES, NAMES, TODAY, form, noon

MAX_STEPS = 60
NOBODY = ("", "", "", 0, "")


# Any value: what the codec must carry

texts = st.text(max_size=12)
integers = st.integers(-(2**70), 2**70)
reals = st.floats(allow_nan=False, allow_infinity=False)
dates = st.none() | st.dates(date(1970, 1, 1))
pairs = st.lists(st.tuples(texts, integers), max_size=3).map(tuple)

any_code = st.builds(
    LicenseCode,
    code=texts,
    id=texts,
    vendor=texts,
    feature=texts,
    count=integers,
    version=st.none() | texts,
    starts=dates,
    expires=dates,
    pool=st.none() | texts,
    pool_key=st.none() | texts,
    options=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    trusted=st.booleans(),
    distribution=st.none() | pairs,
    threshold=st.none() | reals,
)
any_license = st.builds(
    LicenseFile, st.none() | texts, integers, texts, st.lists(any_code, max_size=3).map(tuple)
)
any_member = st.builds(Member, texts, texts, texts)
any_client = st.tuples(texts, texts, texts, integers, texts)
any_limits = st.builds(
    Limits, st.none() | st.booleans(), st.none() | reals, st.none() | integers, st.none() | integers
)
any_command: dict[type[Command], SearchStrategy[Command]] = {
    FormPool: st.builds(
        FormPool,
        texts,
        st.lists(any_member, max_size=3).map(tuple),
        reals,
        reals,
        reals,
        texts,
        texts,
    ),
    ServerUp: st.builds(ServerUp, texts, integers, reals, texts),
    RenewLease: st.builds(
        RenewLease,
        texts,
        integers,
        integers,
        st.dictionaries(texts, integers, max_size=3),
        integers,
    ),
    ServerDown: st.builds(ServerDown, texts, integers, integers),
    Reclaim: st.builds(Reclaim, texts, integers),
    Borrow: st.builds(
        Borrow,
        texts,
        texts,
        texts,
        integers,
        integers,
        st.sampled_from(Reason),
        integers,
        st.booleans(),
    ),
    Release: st.builds(
        Release, texts, texts, integers, texts, texts, st.sampled_from(Level), st.booleans()
    ),
    Solicit: st.builds(Solicit, texts, texts, texts, texts, st.sampled_from(Level)),
    EndBorrow: st.builds(EndBorrow, texts, texts, texts, st.booleans()),
    Claim: st.builds(Claim, texts, texts, integers, texts, texts, integers),
    HandOver: st.builds(
        HandOver, texts, texts, integers, any_client, texts, texts, integers, st.booleans()
    ),
    Adopt: st.builds(Adopt, texts, texts, integers, any_client, texts, integers, texts),
    ForgetMoves: st.builds(ForgetMoves, integers),
    InstallLicense: st.builds(InstallLicense, any_license, st.none() | integers),
    LicenseConflict: st.builds(LicenseConflict, texts, integers, texts),
    PreferLeader: st.builds(PreferLeader, texts),
    AddServer: st.builds(AddServer, any_member),
    PromoteServer: st.builds(PromoteServer, texts),
    RemoveServer: st.builds(RemoveServer, texts),
    DropServer: st.builds(DropServer, texts),
    Drain: st.builds(Drain, texts, st.booleans()),
    AddAllocations: st.builds(AddAllocations, texts, integers, texts),
    SetBorrowing: st.builds(
        SetBorrowing, texts, texts, any_limits, st.lists(texts, max_size=3).map(tuple)
    ),
    SetDistribution: st.builds(SetDistribution, texts, pairs),
}

any_command[RemoveAuthorization] = st.builds(RemoveAuthorization, texts, texts)
any_command[Audited] = st.builds(Audited, texts, texts, st.one_of(*any_command.values()))


def entries_of(commands: SearchStrategy[Command]) -> SearchStrategy[Entry]:
    """Entries of up to three of these commands."""
    return st.builds(
        Entry, texts, integers, integers, st.lists(commands, min_size=1, max_size=3).map(tuple)
    )


# Small values, so that things meet: what the machines and the histories draw from

servers = st.sampled_from(NAMES)
features = st.sampled_from(FEATURES)
few = st.integers(0, 8)
seats = st.integers(1, 4)
bounds = st.none() | st.integers(0, 12)
shares = st.dictionaries(servers, few, max_size=3)
late = st.sampled_from([0, 0, 0, 1])
clients = st.sampled_from([("ann", "ann", "ws1", 1, "cad"), ("bob", "bob", "ws2", 2, "cad")])
record_ids = st.sampled_from("ABCDEF")
record_pauses_s = st.sampled_from([0.01, 0.24, 0.25, 0.3, 1.0, 5.0, 19.9, 20.2, 100.0, 1e5])


# Histories: what a pool may live through


def plausible_codes(feature: str) -> SearchStrategy[LicenseCode]:
    """A code of some seats of `feature`; some have a distribution, some soon expire."""
    days = st.none() | st.none() | st.integers(0, 4).map(lambda n: TODAY + timedelta(days=n))
    shares = st.dictionaries(servers, few, min_size=1).map(lambda d: tuple(d.items()))
    return st.builds(
        LicenseCode,
        code=st.just(f"LIC1.{feature}"),
        id=st.just(feature),
        vendor=st.just("acme-software"),
        feature=st.just(feature),
        count=st.integers(0, 24),
        expires=days,
        distribution=st.none() | shares,
    )


@st.composite
def installs(draw: DrawFn, state: PoolState) -> Command:
    """A license file, most often newer than the pool's; sometimes a feature is gone from it."""
    sequence = state.license.sequence + draw(st.sampled_from([1, 1, 1, 0]))
    named = draw(st.sampled_from([FEATURES, FEATURES[:1], FEATURES[:1], ()]))
    codes = tuple(draw(plausible_codes(feature)) for feature in named)
    pool = draw(st.sampled_from([None, None, None, "other"]))
    return InstallLicense(LicenseFile(pool, sequence, f"file {sequence} {len(codes)}", codes))


def open_borrows(state: PoolState) -> list[tuple[str, PendingBorrow]]:
    """Every borrow that lacks seats, with its feature."""
    return [(p.feature, b) for p in state.table.features.values() for b in p.pending.values()]


@st.composite
def moves(draw: DrawFn, state: PoolState, server: str, feature: str, *, adopts: bool) -> Command:
    """`server` hands an authorization over, or adopts one; the same id may move again."""
    id, count = draw(st.sampled_from("ABC")), draw(few)
    late = draw(st.sampled_from([0, 0, 0, 1]))
    other = state.servers[draw(st.sampled_from(list(state.servers)))]
    down = [s for s in state.servers.values() if s.down_index]
    if adopts and down:
        other = draw(st.sampled_from(down))
    if adopts:
        return Adopt(id, feature, count, NOBODY, other.name, other.down_index - late, server)
    return HandOver(id, feature, count, NOBODY, server, other.name, other.incarnation - late)


@st.composite
def own_commands(draw: DrawFn, state: PoolState, server: str, number: int) -> Command:
    """What `server` proposes for itself: it borrows, gives, withdraws."""
    feature = draw(st.sampled_from([*FEATURES[:1], *FEATURES]))
    kinds = ["borrow", "borrow", "give", "give", "return", "withdraw", "hand over", "adopt"]
    kind = draw(st.sampled_from(kinds))
    if kind in ("hand over", "adopt"):
        return draw(moves(state, server, feature, adopts=kind == "adopt"))
    pending = open_borrows(state)
    others = [(f, b) for f, b in pending if b.server != server]
    mine = [(f, b) for f, b in pending if b.server == server]
    if kind == "give" and others:
        feature, borrow = draw(st.sampled_from(others))
        level = draw(st.sampled_from(Level))
        return Release(
            feature, server, draw(few), borrow.server, borrow.id, level, draw(st.booleans())
        )
    if kind == "withdraw" and mine:
        feature, borrow = draw(st.sampled_from(mine))
        return EndBorrow(feature, server, borrow.id, False)
    if kind == "return":
        due = draw(st.booleans())
        return Release(feature, server, draw(few), "", "", Level.OFFERED, False, due)
    since = draw(st.sampled_from([0, 0, *(borrow.since for _, borrow in pending)]))
    want, need, reason = draw(st.integers(0, 16)), draw(few), draw(st.sampled_from(Reason))
    id = f"{server}-{number}"
    return Borrow(id, feature, server, want, need, reason, since, draw(st.booleans()))


@st.composite
def changes_of_members(draw: DrawFn) -> Command:
    """A server joins, counts, leaves or is gone; a name may come back."""
    name = draw(st.sampled_from((*NAMES, "delta")))
    kind = draw(st.sampled_from(["add", "promote", "remove", "drop", "drop"]))
    if kind == "add":
        return AddServer(Member(name, f"http://{name}:7700", f"{name}:7800"))
    commands: dict[str, type[PromoteServer | RemoveServer | DropServer]] = {
        "promote": PromoteServer,
        "remove": RemoveServer,
        "drop": DropServer,
    }
    return commands[kind](name)


@st.composite
def duties(draw: DrawFn, state: PoolState) -> Command:
    """What is proposed unsequenced: lives of servers, the leader's duties, licenses."""
    late = draw(st.sampled_from([0, 0, 0, 1]))
    usual = ["renew", "down", "down", "next", "next", "borrow", "license", "prefer"]
    kind = draw(st.sampled_from([*usual, "members", "members"]))
    if kind == "members":
        return draw(changes_of_members())
    server = state.servers[draw(st.sampled_from(list(state.servers)))]
    gone = [s for s in state.servers.values() if not s.acts]
    pending = open_borrows(state)
    if kind == "license":
        return draw(installs(state))
    if kind == "borrow" and pending:
        feature, borrow = draw(st.sampled_from(pending))
        id = "none" if late else borrow.id
        if draw(st.booleans()):
            return EndBorrow(feature, borrow.server, id, True)
        level = draw(st.sampled_from(Level))
        return Solicit(feature, borrow.server, id, draw(servers), level)
    if kind == "prefer":
        return PreferLeader(draw(servers))
    if kind == "down":
        return ServerDown(server.name, server.incarnation, server.lease_serial - late)
    if kind == "next":
        server = draw(st.sampled_from(gone)) if gone else server
        if gone and not server.reclaimed and draw(st.booleans()):
            return Reclaim(server.name, server.down_index - late)
        return ServerUp(server.name, server.incarnation + 1 - late, 0.8, "nonce")
    wall_s = noon(TODAY + timedelta(days=draw(st.integers(0, 5))))
    serial = server.lease_serial + 1 - late
    in_use = draw(st.dictionaries(st.sampled_from(FEATURES), few))
    return RenewLease(server.name, server.incarnation, serial, in_use, wall_s)


def asked(command: Command, number: int) -> Command:
    """Every other of the commands that administrators give, as the audit has it."""
    kinds = AddServer | RemoveServer | Drain | InstallLicense | PreferLeader
    by_somebody = isinstance(command, kinds) and number % 2 == 0
    return Audited(f"admin {number}", "10.0.0.1", command) if by_somebody else command


@st.composite
def decisions(draw: DrawFn, state: PoolState, number: int) -> Command:
    """What an administrator decides that takes effect once, with who that was."""
    feature, server = draw(st.sampled_from([*FEATURES[:1], *FEATURES])), draw(servers)
    seats, anywhere = draw(few), draw(st.sampled_from(["", server]))
    kind = draw(st.sampled_from(["share", "share", "add", "add", "bound", "drain", "code", "rest"]))
    command: Command
    match kind:
        case "share":
            target = draw(st.dictionaries(servers, few))
            command = SetDistribution(feature, tuple(target.items()))
        case "add":
            command = AddAllocations(feature, draw(st.sampled_from([seats, -seats])), anywhere)
        case "bound":
            bounds = st.none() | few
            enabled = st.sampled_from([None, None, True, False])
            limits = Limits(draw(enabled), None, draw(bounds), draw(bounds))
            defaults = draw(st.sets(st.sampled_from(["enabled", "floor", "cap"])))
            command = SetBorrowing(feature, anywhere, limits, tuple(sorted(defaults)))
        case "drain":
            command = Drain(server, draw(st.booleans()))
        case "code":
            made = draw(installs(state))
            assert isinstance(made, InstallLicense)
            base = state.license.sequence - draw(st.sampled_from([0, 0, 1]))
            command = InstallLicense(made.license, base)
        case _:
            told = LicenseConflict(server, state.license.sequence, draw(st.sampled_from(["", "a"])))
            command = told if seats else RemoveAuthorization("A", "1 of cad")
    return Audited(f"admin {number}", "10.0.0.1", command)


@st.composite
def histories(
    draw: DrawFn, max_steps: int = MAX_STEPS, *, administered: bool = False
) -> list[Entry]:
    """A log that begins with a pool of three and a license.

    If it is `administered`, people also share seats out, add and bound, and drain servers.

    Any earlier entry may come again at any later place, as the engine may do with one
    whose outcome its proposer could not learn.
    """
    state = PoolState()
    log: list[Entry] = []
    serials: dict[tuple[str, int], int] = {}

    def add(entry: Entry) -> None:
        log.append(entry)
        apply(state, len(log), entry)

    # The priority order is not that of the alphabet, as it need not be in life.
    add(Entry("", 0, 0, (form((NAMES[2], *NAMES[:2])),)))
    add(Entry("", 0, 0, tuple(ServerUp(name, 1, 0.8, "nonce") for name in NAMES)))
    code = draw(plausible_codes(FEATURES[0]))
    add(Entry("", 0, 0, (InstallLicense(LicenseFile(None, 1, "file 1", (code,))),)))
    kinds = ["own"] * 4 + ["duty"] * 3 + ["again"] + ["decision"] * (3 * administered)
    for _ in range(draw(st.integers(0, max_steps))):
        kind = draw(st.sampled_from(kinds))
        if kind == "again":
            add(draw(st.sampled_from(log)))
        elif kind == "duty":
            add(Entry("", 0, 0, (asked(draw(duties(state)), len(log)),)))
        else:
            server = draw(st.sampled_from(list(state.servers)))
            incarnation = state.servers[server].incarnation
            serial = serials.get((server, incarnation), 0) + 1
            serials[server, incarnation] = serial
            numbers = range(10 * len(log), 10 * len(log) + draw(st.integers(1, 3)))
            if kind == "decision":
                commands = [draw(decisions(state, number)) for number in numbers]
            else:
                commands = [draw(own_commands(state, server, number)) for number in numbers]
            add(Entry(server, incarnation, serial, tuple(commands)))
    return log
