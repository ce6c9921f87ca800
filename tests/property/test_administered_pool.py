"""Administrators, users and failures at random, on a pool of real servers in virtual time.

Whatever is installed, added, shared out, bounded, borrowed, held and drained where, and who
fails meanwhile: no seat is granted beyond the entitlement, borrowing keeps to its bounds, and
in the end every server has the greatest license, the same state, and all seats to be had.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation.checkers import Checker
from simulation.clients import Client
from simulation.habits import Habits
from simulation.holders import Holders
from simulation.network import Network, NoAnswer
from support.profiles import examples

from licraft.core.apply import apply
from licraft.core.codec import decode_entry
from licraft.core.commands import Borrow, Release, asked_for
from licraft.core.outcomes import Applied, SeatsBorrowed
from licraft.core.state import PoolState
from licraft.core.table import FeaturePool
from licraft.testing import InProcessPool, ManualClock, run_virtual
from licraft.vendor.codes import make_code
from licraft.vendor.keys import generate
from licraft.vendor.license_file import parse_license_file
from licraft.wire import (
    AllocationsRequest,
    Authorization,
    BorrowingRequest,
    CheckoutRequest,
    CodeRequest,
    DistributionRequest,
    Installed,
    Problem,
)

pytestmark = pytest.mark.timeout(400)  # a failing example takes a while to shrink

KEY = generate()
SERVERS = ("alpha", "beta", "gamma")
LEASE_S, TTL_S = 1.0, 4.0
UNDER_WAY_S = 0.02  # A grant is told, and an entry applied everywhere, within this.

where = st.sampled_from(SERVERS)
KINDS = (
    *("install", "install", "code", "put", "reread"),
    *("add", "add", "share", "share", "bound", "bound", "drain"),
    *("checkout",) * 6,
    *("checkin", "checkin"),
    *("fail", "isolate", "mend", "mend", "lead", "wait", "wait"),
)


@dataclass(frozen=True)
class Step:
    """One thing that somebody does, or that happens, at the server `at`."""

    kind: str
    at: str
    to: str
    number: int
    on: bool | None
    share: dict[str, int]


steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(KINDS),
        where,
        st.sampled_from(("", *SERVERS)),
        st.integers(1, 12),
        st.sampled_from((None, True, False)),
        st.dictionaries(where, st.integers(0, 6)),
    ),
    min_size=10,  # Without that most histories would be of five steps.
    max_size=40,
)


class User(Client):
    """Takes seats once, and keeps them as the client module does until told to give them back."""

    async def use(self, at: str, count: int, wait_s: float, played: Play) -> None:
        """Ask one server, and hold what it grants."""
        self._home = at
        request = CheckoutRequest("cad", count, wait=wait_s, id=self.name)
        sent_s = self._now()
        try:
            answer = await self._network.call(at, "checkout", request, wait_s + 2.0)
        except NoAnswer:
            return
        if isinstance(answer, Authorization):
            hold = self._granted(answer, at, sent_s)
            played.granted(at)
            await self._keep([hold])


class Play:
    """One history of a pool, and what was promised in it."""

    def __init__(self, pool: InProcessPool) -> None:
        self.pool = pool
        self.holders = Holders()
        self.checker = Checker(pool, self.holders)
        self.network = Network(pool, random.Random(1))
        self.promised = 0
        self.users: list[User] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.goals = [(0.0, 0)]
        pool.log.on_applied = self.applied

    # -- what happens ------------------------------------------------------------------------

    async def step(self, step: Step) -> None:
        pool, at, number = self.pool, step.at, step.number
        runs = at in pool.running
        match step.kind:
            case "put":
                pool.given_license(at).write_text(self.license(number))
            case "isolate":
                pool.log.isolate(at)
            case "mend":
                self.mend()
            case "wait":
                await pool.advance(number / 2)
            case "checkin" if self.users:
                self.users[number % len(self.users)].stopping = True
            case "reread" if runs:
                pool.server(at).keeper.reread()
            case "fail" if runs:
                pool.crash(at)
            case "lead" if runs and pool.log.commits(at):
                pool.log.elect(at)
            case "checkout":
                self.checkout(at, 1 + number % 3, 0.5 * (number % 4))
            case _ if runs:
                self.administer(step)

    def administer(self, step: Step) -> None:
        """Ask a server for a change; nobody waits for the answer."""
        server, number = self.pool.server(step.at), step.number
        match step.kind:
            case "install":
                newer = max(1, server.state.license.sequence + number % 4 - 1)
                self.ask(server.install_license(self.license(newer, number)))
            case "code":
                code = make_code(KEY, feature="cad", count=number)
                share = {n: s for n, s in step.share.items() if sum(step.share.values()) <= number}
                self.ask(server.add_code(CodeRequest(code, share or None)))
            case "add":
                count = number if step.on else -number
                self.ask(server.add_allocations("cad", AllocationsRequest(count, step.to or None)))
            case "share":
                self.ask(server.distribute("cad", DistributionRequest(step.share)))
            case "bound":
                floor, cap = sorted((step.share.get("alpha", 0), number % 6))
                enabled = step.on if number % 3 == 0 else None
                bounds = BorrowingRequest(enabled, server=step.to or None, floor=floor, cap=cap)
                self.ask(server.bound_borrowing("cad", bounds))
            case "drain":
                self.ask(server.drain(step.to or step.at, on=bool(step.on)))

    def license(self, number: int, seats: int = 0) -> str:
        return self.pool.license_text({"cad": seats or number}, sequence=number)

    def ask(self, call: Coroutine[Any, Any, object]) -> None:
        async def answered() -> None:
            answer = await call
            if isinstance(answer, Installed):
                self.promised = max(self.promised, answer.sequence)

        self.tasks.append(asyncio.get_running_loop().create_task(answered()))

    def checkout(self, at: str, count: int, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        habits = Habits(
            ManualClock(source=loop.time), 0.25, 1e6, 1.0, 1, revives=False, loyal=False
        )
        habits.behave()
        name = f"u{len(self.users)}"
        user = User(
            name, habits, self.network, self.holders, random.Random(name), self.checker.holders
        )
        self.users.append(user)
        self.tasks.append(loop.create_task(user.use(at, count, wait_s, self)))

    def mend(self) -> None:
        self.pool.log.heal()
        for name in self.pool.names:
            if name not in self.pool.running:
                self.pool.start(name)

    # -- what must hold meanwhile --------------------------------------------------------------

    def applied(self, server: str, index: int) -> None:
        """A server has applied an entry: what the table says holds, on every one."""
        self.checker.applied(server, index)
        self.goals.append((self.pool.now(), self.goal(server)))

    def goal(self, server: str) -> int:
        state = getattr(self.pool.log.engines[server].machine, "state", None)
        assert isinstance(state, PoolState)
        pool = state.table.features.get("cad")
        return min(pool.goal, pool.entitled) if pool else 0

    def granted(self, at: str) -> None:
        """More is granted only within the entitlement, as far as who granted it could know."""
        now_s = self.pool.now()
        latest = [goal for when_s, goal in self.goals if when_s >= now_s - UNDER_WAY_S]
        before = [goal for when_s, goal in self.goals if when_s < now_s - UNDER_WAY_S][-3:]
        here = self.goal(at) if at in self.pool.log.engines else 0
        relied_on = self.holders.relied_on().get("cad", 0)
        assert relied_on <= max(here, *latest, *before), f"{relied_on} relied on"

    # -- the end -------------------------------------------------------------------------------

    async def end(self) -> None:
        """All servers come back, each on its own file, and whoever held a seat has enough of it."""
        pool = self.pool
        self.mend()
        for name in list(pool.running):
            pool.crash(name)
        self.mend()
        given = [p for p in map(pool.given_license, pool.names) if p.exists()]
        greatest = max((parse_license_file(p.read_text(), ()).sequence for p in given), default=0)
        await pool.until(self.all_act, "all act")
        for name in pool.names:
            assert not isinstance(await pool.server("beta").drain(name, on=False), Problem)
        await pool.until(pool.serving, "all serve")
        for user in self.users:
            user.stopping = True
        await pool.advance(2 * TTL_S + 2.0)
        for task in self.tasks:
            if task.done() and not task.cancelled():
                task.result()
            task.cancel()
        judge_borrowing(pool)
        self.judge_licenses(greatest)
        await self.take_all()
        await pool.until(self.agree, "all have the same state", LEASE_S)
        assert self.checker.fault is None

    def judge_licenses(self, greatest: int) -> None:
        """The greatest number is everywhere, on disk too; what contradicts it is shown."""
        pool = self.pool
        found = {pool.server(name).license().text for name in pool.names}
        assert len(found) == 1
        (text,) = found
        number = pool.server("alpha").license().sequence
        assert number >= max(self.promised, greatest)
        if number:
            on_disk = {(pool.data_dir(name) / "license.yaml").read_text() for name in pool.names}
            assert on_disk == found
        # Exactly those whose own file has the number and is another are shown as such.
        others = {
            name
            for name in pool.names
            if (path := pool.given_license(name)).exists()
            and parse_license_file(path.read_text(), ()).sequence == number
            and path.read_text() != text
        }
        for name in pool.names:
            assert {c.server for c in pool.server(name).license().conflicts} == others

    async def take_all(self) -> None:
        """With no bounds any more, each server can have every seat there is to have."""
        pool = self.pool
        if "cad" not in pool.server("beta").state.table.features:
            return
        for bounded in (None, *pool.names):
            request = BorrowingRequest(None, floor=None, cap=None, server=bounded)
            answer = await pool.server("gamma").bound_borrowing("cad", request)
            assert not isinstance(answer, Problem)
        await pool.until(lambda: not self.busy(), "all has come about", TTL_S + 3 * LEASE_S)
        table = pool.server("alpha").state.table.features["cad"]
        assert table.deployed == table.goal <= table.entitled
        for name in pool.names if table.deployed else ():
            request_all = CheckoutRequest("cad", table.deployed, wait=20.0, id=f"all.{name}")
            _, answer_all = await pool.checkout(name, request_all)
            assert isinstance(answer_all, Authorization), answer_all
            await pool.checkin(name, answer_all.token)

    def all_act(self) -> bool:
        return all(self.pool.server(name).standing.acts() for name in self.pool.names)

    def agree(self) -> bool:
        """Whether all servers have the same state: renewals are always under way."""
        return len({self.pool.server(name).pool_machine.digest() for name in self.pool.names}) == 1

    def busy(self) -> bool:
        """Whether anybody holds, asks for, or has to give up a seat."""
        servers = [self.pool.server(name) for name in self.pool.names]
        pools = [s.state.table.features["cad"] for s in servers if s.state.table.features]
        return any(p.pending or p.over or p.surplus or p.retiring for p in pools) or any(
            sum(server.grants.record.in_use.values()) for server in servers
        )


def judge_borrowing(pool: InProcessPool) -> None:
    """By the log, command by command: borrowing never crosses a floor or a cap."""
    log, state = pool.log, PoolState()
    assert not log.base[0]
    for index in range(1, log.index + 1):
        data = log.entry(index)
        if data is None:
            continue
        entry = decode_entry(data)
        server = state.servers.get(entry.server)
        serial = server.requests if server else 0
        for command in entry.commands:
            if server is not None:
                server.requests = serial  # An entry counts once; here each of its commands does.
            before = {n: dict(p.allocations) for n, p in state.table.features.items()}
            applied = apply(state, index, replace(entry, commands=(command,)))
            for event in applied.events:
                if isinstance(event, SeatsBorrowed):
                    _judge(state.table.features[event.feature], event)
            if isinstance(command, Borrow | Release):
                now = state.table.features.get(command.feature)
                if now and _lends(command, applied):
                    _judge_givers(now, before.get(command.feature, {}), command.server)
            assert asked_for(command) is command or not isinstance(command, Borrow | Release)
    real = pool.server("alpha").state.table.features
    features = state.table.features
    assert {n: p.allocations for n, p in features.items()} == {
        n: p.allocations for n, p in real.items()
    }


def _lends(command: Borrow | Release, applied: Applied) -> bool:
    """Whether seats went from a server for the sake of a borrow alone."""
    borrowed = any(isinstance(event, SeatsBorrowed) for event in applied.events)
    return borrowed and (isinstance(command, Borrow) or command.to != "")


def _judge(pool: FeaturePool, event: SeatsBorrowed) -> None:
    limits, has = pool.limits_at(event.server), pool.allocations[event.server]
    assert limits.enabled is not False, f"{event.server} borrows, and must not"
    assert limits.cap is None or has <= limits.cap, f"{event.server} has {has} of {limits.cap}"


def _judge_givers(pool: FeaturePool, before: dict[str, int], borrower: str) -> None:
    for name, had in before.items():
        limits, has = pool.limits_at(name), pool.allocations.get(name, 0)
        if has < had:
            assert limits.enabled is not False, f"{name} lends, and must not"
            assert has >= (limits.floor or 0), f"{name} keeps {has} of at least {limits.floor}"


@examples(0.5)
@given(st.integers(4, 12), steps)
def test_whatever_is_decided_the_pool_keeps_to_it(seats: int, history: list[Step]) -> None:
    async def program() -> None:
        async with InProcessPool(
            SERVERS, lease_s=LEASE_S, ttl_s=TTL_S, tick_s=0.1, key=KEY
        ) as pool:
            play = Play(pool)
            play.promised = await pool.install({"cad": seats})
            for step in history:
                await play.step(step)
                await pool.advance(0.2)
            await play.end()

    run_virtual(program())
