"""License files and codes at random, on three servers that come and go, beside a dumb oracle.

The servers' own license keepers and state machines, on real files; the log between them is a
list, and time is virtual. Whatever is installed, added, put on a disk, committed late or lost:
the greatest number wins, everywhere, and what the file grants is what its codes say.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.license_oracle import NOTHING, Code, File, LicenseOracle, Share
from support.pools import CAD, CAM, NAMES, TODAY, form, noon
from support.profiles import examples, notices
from support.strategies import servers

from licraft.core import apply as core_apply
from licraft.core import license as core_license
from licraft.core.codec import encode_entry
from licraft.core.commands import (
    Command,
    Entry,
    InstallLicense,
    Level,
    LicenseConflict,
    Release,
    RenewLease,
    ServerUp,
    asked_for,
)
from licraft.core.license import LicenseFile
from licraft.core.outcomes import LicenseChanged, Outcome
from licraft.errors import LicenseError, NotExecuted, OutcomeUnknown
from licraft.server import license_keeper
from licraft.server.license_copy import previous_of
from licraft.server.license_keeper import LicenseKeeper
from licraft.server.pool import ReplicatedPool
from licraft.server.proposer import Proposer
from licraft.testing.loop import VirtualLoop
from licraft.vendor.codes import make_code
from licraft.vendor.keys import generate

pytestmark = pytest.mark.timeout(400)  # a failing history takes a while to shrink

KEYS = {"vendor": generate(), "stranger": generate()}
POOL = "acme"
TURN_S = 0.5
SETTLED_S = 15.0

CODES = (
    Code("ten", "1", CAD, 10),
    Code("eleven, by the same id", "1", CAD, 11),
    Code("old", "2", CAD, 5, version="2025"),
    Code("new for three days", "3", CAD, 7, version="2026.2", expires=3),
    Code("newest", "4", CAD, 4, version="2026.10"),
    Code("until tomorrow", "5", CAD, 6, expires=1),
    Code("as new in two days", "6", CAD, 3, version="2026.2", starts=2),
    Code("elsewhere", "7", CAD, 3, pool="other"),
    Code("today", "8", CAM, 2, expires=0),
    Code("cam", "9", CAM, 8),
    Code("in three days", "10", CAM, 1, starts=3, expires=4),
    Code("by a stranger", "11", CAM, 9, signer="stranger"),
)
WRITTEN = {
    code.name: make_code(
        KEYS[code.signer],
        id=code.id,
        feature=code.feature,
        count=code.count,
        version=code.version,
        starts=None if code.starts is None else TODAY + timedelta(days=code.starts),
        expires=None if code.expires is None else TODAY + timedelta(days=code.expires),
        pool=code.pool,
    )
    for code in CODES
}
# The shares are of less than any of the codes has, so that each may have each.
some_shares: st.SearchStrategy[Share] = st.sampled_from(
    [None, None, None, (("alpha", 1),), (("gamma", 0), ("beta", 1)), (("gamma", 1),)]
)
some_rows = st.lists(
    st.tuples(st.sampled_from(CODES), some_shares),
    min_size=1,
    max_size=5,
    unique_by=lambda row: row[0].id,
).map(tuple)
ahead = st.sampled_from([-1, 0, 0, 1, 1, 1, 2])
pools = st.sampled_from([None, None, POOL, POOL, POOL, "other"])
places = st.sampled_from(["given", "given", "copy"])


def written(file: File) -> str:
    """A license file as a vendor's system writes it."""
    lines = [f"pool: {file.pool or 'null'}", f"sequence: {file.sequence}", "codes:"]
    for code, share in file.rows:
        lines.append(f"  - code: {WRITTEN[code.name]}")
        if share is not None:
            lines.append("    distribution: " + "^".join(f"{n}:{seats}" for n, seats in share))
    return "\n".join(lines) + "\n"


@dataclass
class Call:
    """What an administrator asked of a server; `fates` is what the log made of it."""

    task: asyncio.Task[int]
    file: File | None = None
    code: Code | None = None
    share: Share = None
    refused: bool = False
    fates: list[tuple[str, File]] = field(default_factory=list)


class Server:
    """One server: its disk, and while it runs its state and its license keeper."""

    def __init__(self, name: str, world: LicenseMachine, directory: Path) -> None:
        self.name, self.world = name, world
        self.copy, self.given = directory / f"{name}.yaml", directory / f"{name}.given"
        self.keys = {"vendor"}
        self.connected = self.running = self.lossy = False
        self.sequence = self.applied = 0
        self.call: Call | None = None
        self.start()

    def start(self) -> None:
        """A process begins; what is in its own log it applies."""
        self.running = True
        self.pool = ReplicatedPool()
        keys = [KEYS[name].public for name in sorted(self.keys)]
        way = cast(Proposer, self)
        self.keeper = LicenseKeeper(self.name, self.pool, way, keys, self.copy, self.given)
        self.apply_to(self.applied)

    def stop(self) -> None:
        """As by `kill -9`."""
        self.running = self.connected = False
        call = self.call.task if self.call else None
        for task in (self.keeper._looking, self.keeper._following, call):
            if task is not None:
                task.cancel()
        self.call = None

    def follow(self) -> None:
        """Come to know what all know; one that was away for long gets a snapshot."""
        ahead = self.world.ahead
        if ahead is not None and ahead.state.index > self.pool.state.index + 3:
            self.pool.restore(ahead.state.index, ahead.snapshot())
            self.keeper.changed()
        self.apply_to(len(self.world.log))
        self.applied = len(self.world.log)

    def apply_to(self, last: int) -> None:
        for index in range(self.pool.state.index + 1, last + 1):
            applied = self.pool.apply(index, self.world.log[index - 1])
            if any(isinstance(event, LicenseChanged) for event in applied.events):
                self.keeper.changed()

    def submit(self, command: Command) -> asyncio.Future[Outcome]:
        """What the keeper takes for its way into the log."""
        future: asyncio.Future[Outcome] = self.world.loop.create_future()
        # Who asked may be gone: then nobody looks at what became of it.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.world.loop.call_later(self.world.delay_s, self.arrive, self.keeper, command, future)
        return future

    def arrive(
        self, keeper: LicenseKeeper, command: Command, future: asyncio.Future[Outcome]
    ) -> None:
        """A command is at the log, if its server still lives and can reach it."""
        if keeper is not self.keeper or not self.running:
            if not future.done():
                future.set_exception(OutcomeUnknown("the server is stopping"))
        elif self.lossy and not future.done():
            future.set_exception(NotExecuted("this server has come back"))
        elif not self.connected:
            self.world.loop.call_later(TURN_S, self.arrive, keeper, command, future)
        else:
            outcome = self.world.commit(self, command)
            if not future.done():
                future.set_result(outcome)


class LicenseMachine(RuleBasedStateMachine):
    """A pool of three, its log, and what its administrators do with license files."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        # Nobody cuts the power here: what is written counts as on disk.
        self.patch.setattr(os, "fsync", lambda _: None)
        self.loop = VirtualLoop()
        self.directory = Path(tempfile.mkdtemp(prefix="license-"))
        self.oracle = LicenseOracle(POOL, NAMES)
        self.log: list[bytes] = []
        self.ahead: ReplicatedPool | None = None
        self.delay_s = 0.1
        self.files: dict[str, File] = {}
        self.renewals = 0
        self.servers = {name: Server(name, self, self.directory) for name in NAMES}

    @initialize()
    def form(self) -> None:
        for server in self.servers.values():
            server.connected = True

        async def begin() -> None:
            self.put(form(pool=POOL))
            for name in NAMES:
                self.put(ServerUp(name, 1, 0.8, "nonce"))
                self.renew(name, 0)

        self.loop.run_until_complete(begin())

    def teardown(self) -> None:
        for server in self.servers.values():
            server.stop()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        shutil.rmtree(self.directory)
        self.patch.undo()

    # -- the log ------------------------------------------------------------------------------

    def put(self, command: Command, by: str = "") -> Outcome:
        """Commit a command; whoever is connected applies it."""
        entry = Entry(by, 1, 0, (command,))
        self.log.append(encode_entry(entry, 1))
        if self.ahead is None:
            self.ahead = ReplicatedPool()
        (outcome,) = self.ahead.apply(len(self.log), self.log[-1]).outcomes
        for server in self.servers.values():
            if server.running and server.connected:
                server.follow()
        return outcome

    def commit(self, server: Server, command: Command) -> Outcome:
        """What a license keeper proposed is committed, as the oracle says."""
        plain = asked_for(command)
        if isinstance(plain, LicenseConflict):
            self.oracle.tell_conflict(server.name, plain.sequence, contradicts=bool(plain.sha256))
            return self.put(command, server.name)
        assert isinstance(plain, InstallLicense)
        text, call = plain.license.text, server.call
        if plain.base is not None:
            assert call is not None
            assert call.code is not None
            file = self.oracle.with_code(call.code, call.share)
        else:
            file = self.files[text]
        before = self.oracle.current
        fate = self.oracle.commit(file, plain.base)
        if fate == "done":
            self.files.setdefault(text, file)
        if call is not None and (plain.base is not None or call.file == file):
            call.fates.append((fate, before))
        outcome = self.put(command, server.name)
        told = {"done": "done", "overtaken": "none"}.get(fate, "refused")
        assert str(outcome.effect) == told
        assert outcome.count == self.oracle.current.sequence
        return outcome

    def renew(self, name: str, day: int) -> None:
        self.renewals += 1
        wall_s = noon(TODAY + timedelta(days=day))
        self.put(RenewLease(name, 1, self.renewals, {}, wall_s))
        self.oracle.tell_day(name, day)

    def let_pass(self, seconds: float) -> None:
        """Time passes, and the servers look after their files."""

        async def turns() -> None:
            for _ in range(round(seconds / TURN_S)):
                for server in self.servers.values():
                    if server.running:
                        server.keeper.tick(acts=server.connected)
                await asyncio.sleep(TURN_S)

        self.loop.run_until_complete(turns())
        assert not self.loop.faults, self.loop.faults
        for server in self.servers.values():
            if server.call and server.call.task.done():
                call, server.call = server.call, None
                self.judge(call)

    def judge(self, call: Call) -> None:
        """An administrator was told what became of a call."""
        fault = call.task.exception()
        if fault is None:
            self.judge_success(call, call.task.result())
            return
        fates = [fate for fate, _ in call.fates]
        if isinstance(fault, LicenseError):
            twins = [
                code
                for file in self.oracle.history.values()
                for code, _ in file.rows
                if call.code and code.id == call.code.id and code != call.code
            ]
            assert call.refused or fates[-1:] == [fault.code] or twins, fault
            return
        assert isinstance(fault, NotExecuted | OutcomeUnknown)
        assert "done" not in fates

    def judge_success(self, call: Call, number: int) -> None:
        assert not call.refused
        fates = [fate for fate, _ in call.fates]
        if call.file is not None:
            assert fates == ["done"]
            assert number == call.file.sequence
            return
        assert call.code is not None
        assert any(code == call.code for code, _ in self.oracle.history[number].rows)
        if fates[-1:] == ["done"]:
            _, before = call.fates[-1]
            assert number == before.sequence + 1

    # -- administrators -----------------------------------------------------------------------

    def ask(
        self, server: Server, call: Callable[[], Coroutine[Any, Any, int]], **what: Any
    ) -> None:
        async def begin() -> None:
            server.call = Call(asyncio.get_running_loop().create_task(call()), **what)

        self.loop.run_until_complete(begin())

    def file(self, sequence: int, pool: str | None, rows: tuple[tuple[Code, Share], ...]) -> File:
        """A file numbered `sequence` after the pool's; the same text is the same file."""
        made = File(pool, max(1, self.oracle.current.sequence + sequence), rows)
        self.files[written(made)] = made
        return made

    @rule(name=servers, sequence=ahead, pool=pools, rows=some_rows, settle=st.booleans())
    def install(
        self,
        name: str,
        sequence: int,
        pool: str | None,
        rows: tuple[tuple[Code, Share], ...],
        settle: bool,
    ) -> None:
        server = self.servers[name]
        if not server.running or server.call or not server.pool.state.formed:
            return
        file = self.file(sequence, pool, rows)
        refused = self.oracle.refuses(file, server.keys)
        text = written(file)
        self.ask(server, lambda: server.keeper.install(text), file=file, refused=refused)
        self.let_pass(3 * TURN_S if settle else 0.0)

    @precondition(lambda self: self.oracle.current.sequence)
    @rule(name=servers)
    def install_again(self, name: str) -> None:
        """The very file that the pool has, which is no conflict."""
        server, file = self.servers[name], self.oracle.current
        texts = [text for text, known in self.files.items() if known == file]
        if server.running and not server.call and server.pool.state.formed:
            refused = self.oracle.refuses(file, server.keys)
            self.ask(server, lambda: server.keeper.install(texts[0]), file=file, refused=refused)

    @rule(name=servers, code=st.sampled_from(CODES), share=some_shares, settle=st.booleans())
    def add_code(self, name: str, code: Code, share: Share, settle: bool) -> None:
        server = self.servers[name]
        if not server.running or server.call or not server.pool.state.formed:
            return
        status = self.oracle.status(code)
        if not server.connected and status in ("expired", "not_started", "valid"):
            return  # What day it believes it is depends on when it was cut off.
        refused = code.signer not in server.keys or status in ("other_pool", "expired")
        self.ask(
            server,
            lambda: server.keeper.add_code(WRITTEN[code.name], share, None),
            code=code,
            share=share,
            refused=refused,
        )
        self.let_pass(3 * TURN_S if settle else 0.0)

    @rule(name=servers, place=places, sequence=ahead, pool=pools, rows=some_rows)
    def put_on_disk(
        self,
        name: str,
        place: str,
        sequence: int,
        pool: str | None,
        rows: tuple[tuple[Code, Share], ...],
    ) -> None:
        """Somebody gives a server a file, or a backup comes back while it is down."""
        server = self.servers[name]
        if place == "given" or not server.running:
            path = server.given if place == "given" else server.copy
            path.write_text(written(self.file(sequence, pool, rows)))

    @rule(name=servers)
    def take_away(self, name: str) -> None:
        self.servers[name].given.unlink(missing_ok=True)

    @rule(name=servers, keys=st.sampled_from([("vendor",), ("vendor", "stranger"), ("stranger",)]))
    def change_keys(self, name: str, keys: tuple[str, ...]) -> None:
        """It looks at its files with other keys from now on."""
        server = self.servers[name]
        if server.running and not server.call:
            server.keys = set(keys)
            self.reread(server)

    def reread(self, server: Server) -> None:
        async def read() -> None:
            server.keeper.reread([KEYS[key].public for key in sorted(server.keys)])

        self.loop.run_until_complete(read())

    # -- fate ---------------------------------------------------------------------------------

    @rule(name=servers)
    def stop(self, name: str) -> None:
        self.servers[name].stop()

    @rule(name=servers, connected=st.booleans())
    def come(self, name: str, connected: bool) -> None:
        """It starts if it must, and can reach the others, or cannot any more."""
        server = self.servers[name]

        async def follow() -> None:
            if not server.running:
                server.start()
            server.connected = connected
            if connected:
                server.follow()

        self.loop.run_until_complete(follow())

    @rule(name=servers, lossy=st.booleans())
    def lose(self, name: str, lossy: bool) -> None:
        """What it proposes is not executed, for a while."""
        self.servers[name].lossy = lossy

    @rule(delay_s=st.sampled_from([0.0, 0.1, 0.4, 1.1]), seconds=st.sampled_from([0.5, 2.0]))
    def wait(self, delay_s: float, seconds: float) -> None:
        self.let_pass(seconds)
        self.delay_s = delay_s

    @rule(name=servers, day=st.integers(0, 6))
    def day_passes(self, name: str, day: int) -> None:
        """A server's clock says what day it is, rightly or not."""
        self.in_loop(lambda: self.renew(name, day))

    @rule()
    def give_back(self) -> None:
        """Nobody holds a seat: what is too much comes back."""
        assert self.ahead is not None
        for feature, pool in list(self.ahead.state.table.features.items()):
            for name, count in list(pool.allocations.items()):
                release = Release(feature, name, count, "", "", Level.OFFERED, False, True)
                self.in_loop(partial(self.release, name, release))

    def release(self, name: str, command: Release) -> None:
        assert self.ahead is not None
        serial = self.ahead.state.servers[name].requests + 1
        self.log.append(encode_entry(Entry(name, 1, serial, (command,)), 1))
        self.ahead.apply(len(self.log), self.log[-1])
        for server in self.servers.values():
            if server.running and server.connected:
                server.follow()

    def in_loop(self, work: Callable[[], object]) -> None:
        async def run() -> None:
            work()

        self.loop.run_until_complete(run())

    @rule()
    def all_is_settled(self) -> None:
        """Everybody is there, has looked at its files, and has had the time to say so."""
        for name, server in self.servers.items():
            self.come(name, connected=True)
            server.lossy = False
        self.delay_s = 0.1
        for _ in range(2):
            for server in self.servers.values():
                self.reread(server)
            self.let_pass(SETTLED_S)
        current = self.oracle.current
        for server in self.servers.values():
            assert server.call is None
            given = self.meaning(server.given)
            assert given.sequence <= current.sequence or self.oracle.refuses(given, server.keys)
            text = server.pool.state.license.text
            if current.sequence:
                assert server.copy.read_text() == text
                assert self.files[text] == current
            found = [self.meaning(server.given), self.meaning(previous_of(server.copy))]
            contradicts = any(f.sequence == current.sequence and f != current for f in found)
            assert (server.name in self.oracle.conflicts) == contradicts
            assert (server.keeper.refused is not None) == contradicts
            for feature in self.oracle.features():
                signers = {c.signer for c, _ in current.rows if c.feature == feature}
                assert server.keeper.trusts(feature) == (signers <= server.keys)

    def meaning(self, path: Path) -> File:
        return self.files[path.read_text()] if path.exists() else NOTHING

    # -- what always holds ----------------------------------------------------------------------

    @invariant()
    def the_pool_has_the_greatest_file(self) -> None:
        for server in self.servers.values():
            if server.running:
                license = server.pool.state.license
                assert license.sequence >= (server.sequence if server.connected else 0)
                server.sequence = max(server.sequence, license.sequence)
            if server.running and server.connected:
                installed = [(c.id, c.count) for c in server.pool.state.license.codes]
                assert server.pool.state.license.sequence == self.oracle.current.sequence
                assert installed == [(c.id, c.count) for c, _ in self.oracle.current.rows]
                members = server.pool.state.servers.values()
                shown = {member.name for member in members if member.license_conflict}
                assert shown == self.oracle.conflicts

    @invariant()
    def it_grants_what_its_codes_say(self) -> None:
        if self.ahead is None:
            return
        state = self.ahead.state
        assert (state.pool_day - TODAY).days == self.oracle.day
        assert self.oracle.features() <= state.table.features.keys()
        for feature, pool in state.table.features.items():
            assert (pool.entitled, str(pool.status)) == self.oracle.grants(feature)
            assert pool.deployed >= pool.entitled
            wanted = self.oracle.shared_out(feature)
            if pool.status == "valid":
                kept = {n: seats for n, seats in (pool.target or {}).items() if seats}
                assert kept == {n: seats for n, seats in (wanted or {}).items() if seats}


TestLicense = LicenseMachine.TestCase
TestLicense.settings = examples(1, steps=30)


# The machine finds what it looks for.

Patch = pytest.MonkeyPatch
FAULTS: dict[str, Callable[[Patch], None]] = {
    "another file of the same number is taken for the same": lambda patch: patch.setattr(
        LicenseFile, "says_the_same", lambda self, other: True
    ),
    "a code is added to whatever file there is by then": lambda patch: patch.setattr(
        license_keeper, "InstallLicense", lambda license, base=None: InstallLicense(license)
    ),
    "a settled conflict is shown for ever": lambda patch: patch.setattr(
        core_apply, "settle_conflicts", lambda state: None
    ),
    "versions are compared as texts": lambda patch: patch.setattr(
        core_license, "version_key", lambda version: ((0, version),)
    ),
    "the pool's copy is not followed": lambda patch: patch.setattr(
        license_keeper, "replace_text", lambda path, text: None
    ),
    "the pool believes the first clock": lambda patch: patch.setattr(
        core_apply, "sorted", lambda clocks: [max(clocks, default=0)] * 3, raising=False
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[fault](monkeypatch)
    assert notices(LicenseMachine)
