"""A pool, its clients and all that can go wrong, from one seed; the same each time.

May import this room and the core. `simulate` raises SafetyBroken if holders ever rely on
more seats than are licensed, if two servers differ after the same log index, or if the
pool does not recover once everything works again. To replay one seed:

    python -m licraft.testing.simulation SEED
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import math
import random
import sys
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from licraft.core.codec import encode_state
from licraft.core.invariants import check
from licraft.core.state import PoolState, ServerStatus
from licraft.core.table import FeaturePool
from licraft.testing.clock import ManualClock
from licraft.testing.loop import VirtualLoop, run_virtual
from licraft.testing.pool import NAMES, InProcessPool
from licraft.testing.shared_log import COMMITTED, DROPPED, LOST, UNHEARD, Fate, late, twice
from licraft.testing.simulated_clients import (
    Client,
    Habits,
    Holders,
    Network,
    SafetyBroken,
    Trouble,
)
from licraft.vendor.keys import generate
from licraft.wire import CheckoutRequest, Problem

DURATION_S = 120.0
FAULTS = (
    *("isolate", "isolate", "split", "pause", "crash", "crash", "crash again", "crash all"),
    *(
        "outage",
        "cut off",
        "stop",
        "elect",
        "lag",
        "compact",
        "bad log",
        "bad network",
        "unreachable",
        "license",
    ),
)
_DIGEST_EACH = 32
_HISTORY = 40
_LONG_LOG = 300  # Longer logs are compacted: what restarts would replay them.


@dataclass(frozen=True, slots=True)
class Plan:
    """What one seed decides beforehand.

    `heartbeats` are the clients' pauses between heartbeats as parts of `ttl_s`. `revives`
    lets them rely again on seats whose time was over when a late answer came; `loyal` is
    the part of them that know one server only. `calm_s` is the mean time between faults,
    `faults` are their names (none for all), `records` what becomes of a record's file.
    """

    seed: int
    servers: int
    lease_s: float
    ttl_s: float
    drift: float
    features: dict[str, int]
    clients: int
    thresholds: dict[str, float]
    rates: dict[str, float]
    revives: bool
    calm_s: float
    loyal: float = 0.3
    heartbeats: tuple[float, ...] = (1 / 3, 1 / 3, 0.6, 0.97)
    faults: tuple[str, ...] = ()
    records: tuple[str, ...] = ("kept", "kept", "torn", "old backup", "removed")
    duration_s: float = DURATION_S


def plan(seed: int, **changes: Any) -> Plan:
    """The plan of a seed: small pools, short times, clocks as far off as is allowed.

    `changes` are fields of the plan that are to be something else.
    """
    rng = random.Random(f"plan {seed}")
    lease_s = rng.choice((2.0, 3.0))
    chosen: dict[str, Any] = {
        "servers": rng.choice((1, 2, 3, 3, 3, 4, 5, 5)),
        "lease_s": lease_s,
        "ttl_s": lease_s * rng.choice((4, 4, 5)),
        "drift": rng.choice((0.01, 0.05, 0.1)),
        "features": {name: rng.randint(2, 20) for name in ("cad", "cam")[: rng.randint(1, 2)]},
        "clients": rng.randint(5, 40),
        "revives": rng.random() < 0.5,
        "calm_s": rng.choice((2.0, 5.0, 10.0)),
        **changes,
    }
    names = NAMES[: chosen["servers"]]
    return Plan(
        seed=seed,
        thresholds={name: rng.choice((0.5, 0.8, 1.0)) for name in names},
        rates={name: clock_rate(rng, chosen["drift"]) for name in names},
        **chosen,
    )


def clock_rate(rng: random.Random, drift: float) -> float:
    """A clock's rate such that no two differ by more than `drift`."""
    widest = math.sqrt(1.0 + drift)
    return rng.choice((1.0 / widest, widest, rng.uniform(1.0 / widest, widest)))


class Checker:
    """Looks at every server after every log index, and at all holders whenever that matters."""

    def __init__(self, pool: InProcessPool, holders: Holders) -> None:
        self._pool = pool
        self._holders = holders
        self._digests: dict[int, tuple[str, str]] = {}
        self._newest = 0
        self._deployed: dict[str, int] = {}
        self.entries = 0
        self.seen: Counter[str] = Counter()
        self.fault: SafetyBroken | None = None

    def applied(self, server: str, index: int) -> None:
        """`server` has applied the log up to `index`."""
        self.entries += 1
        state = self._state(server)
        if broken := check(state):
            self._broken(f"{server} at index {index}: {'; '.join(broken)}")
        if index % _DIGEST_EACH == 0:
            digest = hashlib.sha256(encode_state(state)).hexdigest()
            other, theirs = self._digests.setdefault(index, (server, digest))
            if theirs != digest:
                self._broken(f"{server} and {other} differ at index {index}")
        if index > self._newest:
            self._newest = index
            self._follow(state)
            self.holders()

    def holders(self) -> None:
        """Compare what is relied on with what is deployed, by the newest state."""
        for feature, seats in self._holders.relied_on().items():
            if seats > self._deployed.get(feature, 0):
                self._broken(
                    f"{seats} seats of {feature} are relied on, {self._deployed.get(feature, 0)} "
                    f"are deployed: {self._holders.describe(feature)}"
                )

    def _state(self, server: str) -> PoolState:
        machine = self._pool.log.engines[server].machine
        state = getattr(machine, "state", None)
        assert isinstance(state, PoolState)
        return state

    def _follow(self, state: PoolState) -> None:
        """Note how many seats are deployed: beyond the entitlement only as a license shrank."""
        deployed = {name: pool.deployed for name, pool in state.table.features.items()}
        for name, pool in state.table.features.items():
            if pool.deployed > max(pool.entitled, self._deployed.get(name, 0)):
                self._broken(f"{pool.deployed} of {name} deployed, {pool.entitled} entitled")
            self.seen["over"] += pool.over > 0
            self.seen["borrow pending"] += bool(pool.pending)
        self._deployed = deployed
        self.seen["down"] += any(s.status is ServerStatus.DOWN for s in state.servers.values())
        self.seen["reclaimed"] += any(s.reclaimed for s in state.servers.values())

    def _broken(self, text: str) -> None:
        """Keep the first fault; the run ends soon."""
        if self.fault is None:
            self.fault = SafetyBroken(f"{self._pool.now():.3f} s: {text}")


@dataclass(slots=True)
class Simulation:
    """One run."""

    plan: Plan
    pool: InProcessPool
    rng: random.Random
    network: Network
    checker: Checker
    down: dict[str, str] = field(default_factory=dict)
    old_records: dict[str, bytes] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    history: deque[str] = field(default_factory=lambda: deque(maxlen=_HISTORY))

    def note(self, text: str) -> None:
        """Remember what happened, to tell it if something breaks."""
        self.history.append(f"{self.pool.now():9.3f} s  {text}")

    # -- faults ---------------------------------------------------------------------------

    async def misfortune(self) -> None:
        """Let things go wrong, one after another and several at once."""
        loop = asyncio.get_running_loop()
        pending: set[asyncio.Task[None]] = set()
        names = self.plan.faults or FAULTS
        try:
            while True:
                await asyncio.sleep(self.rng.expovariate(1.0 / self.plan.calm_s))
                if self.pool.log.length > _LONG_LOG:
                    self.pool.log.compact()
                name = self.rng.choice(names)
                self.done[name] += 1
                self.note(name)
                task = loop.create_task(self._faults()[name]())
                pending.add(task)
                task.add_done_callback(pending.discard)
        finally:
            for task in pending:
                task.cancel()

    def _faults(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        return {
            "isolate": self._isolate,
            "split": self._split,
            "pause": self._pause,
            "crash": self._crash,
            "crash again": self._crash_again,
            "outage": self._outage,
            "cut off": self._cut_off,
            "stop": self._stop,
            "crash all": self._crash_all,
            "elect": self._elect,
            "lag": self._lag,
            "compact": self._compact,
            "bad log": self._bad_log,
            "bad network": self._bad_network,
            "unreachable": self._unreachable,
            "license": self._license,
        }

    def _while(self) -> float:
        """A while: shorter than a lease, some leases, or longer than all that waits."""
        lease_s, ttl_s = self.plan.lease_s, self.plan.ttl_s
        return self.rng.choice(
            (
                self.rng.uniform(0.1, lease_s),
                self.rng.uniform(lease_s, 3 * lease_s),
                self.rng.uniform(lease_s + ttl_s, lease_s + 2 * ttl_s),
            )
        )

    def _any(self) -> str:
        return self.rng.choice(self.pool.names)

    async def _isolate(self) -> None:
        self.pool.log.isolate(self._any())
        await asyncio.sleep(self._while())
        self.pool.log.heal()

    async def _split(self) -> None:
        group = self.rng.sample(self.pool.names, self.rng.randint(1, len(self.pool.names)))
        self.pool.log.isolate(*group)
        await asyncio.sleep(self._while())
        self.pool.log.heal()

    async def _pause(self) -> None:
        name = self._any()
        if name in self.pool.running:
            engine = self.pool.engine(name)
            engine.pause()
            await asyncio.sleep(self._while())
            engine.resume()

    async def _crash(self) -> None:
        name = self._any()
        if name in self.pool.running:
            self._kill(name)
            await asyncio.sleep(self.rng.choice((0.0, self._while())))
            self._revive(name)

    def _until_reclaimed(self) -> float:
        """Long enough for a server to be reclaimed, and soon after for its clients to remember."""
        waits_s = (self.plan.lease_s + self.plan.ttl_s) * (1 + self.plan.drift)
        return waits_s + self.rng.uniform(0.5, self.plan.lease_s)

    async def _outage(self) -> None:
        name = self._any()
        if name in self.pool.running:
            self._kill(name)
            await asyncio.sleep(self._until_reclaimed())
            self._revive(name)

    async def _cut_off(self) -> None:
        self.pool.log.isolate(self._any())
        await asyncio.sleep(self._until_reclaimed())
        self.pool.log.heal()

    async def _crash_again(self) -> None:
        """A server that has just come back is killed again, soon."""
        name = self._any()
        for _ in range(self.rng.randint(2, 3)):
            if name in self.pool.running:
                self._kill(name)
                await asyncio.sleep(self.rng.uniform(0.0, self.plan.lease_s))
                self._revive(name)
            await asyncio.sleep(self.rng.uniform(0.0, 2 * self.plan.lease_s))

    async def _stop(self) -> None:
        name = self._any()
        if name in self.pool.running and not self.pool.engine(name).paused:
            self.down[name] = "stopped"
            await self.pool.stop(name)
            await asyncio.sleep(self._while())
            self._revive(name)

    async def _crash_all(self) -> None:
        for name in list(self.pool.running):
            self._kill(name)
        await asyncio.sleep(self.rng.uniform(0.0, self.plan.ttl_s / 2))
        for name in list(self.down):
            self._revive(name)

    async def _elect(self) -> None:
        able = [name for name in self.pool.names if self.pool.log.commits(name)]
        if able:
            self.pool.log.elect(self.rng.choice(able))

    async def _lag(self) -> None:
        name = self._any()
        if name in self.pool.running:
            engine = self.pool.engine(name)
            engine.lag_s = self.rng.uniform(0.05, self.plan.lease_s)
            await asyncio.sleep(self._while())
            engine.lag_s = 0.0

    async def _compact(self) -> None:
        self.pool.log.compact()

    async def _bad_log(self) -> None:
        """Proposals are dropped, lost, unheard, late and committed twice."""
        part = self.rng.uniform(0.1, 0.6)
        self.pool.log.fate = lambda server, command: self._fate(part)
        self.pool.log.ask_lost = lambda asker, asked: self.rng.random() < part
        await asyncio.sleep(self._while())
        self._good_log()

    def _good_log(self) -> None:
        self.pool.log.fate = lambda server, command: COMMITTED
        self.pool.log.ask_lost = lambda asker, asked: False

    def _fate(self, part: float) -> Fate:
        if self.rng.random() >= part:
            return COMMITTED
        delay_s = self.rng.uniform(0.0, self.rng.choice((1.0, self.plan.ttl_s)))
        return self.rng.choice((DROPPED, LOST, UNHEARD, late(delay_s), twice(delay_s)))

    async def _bad_network(self) -> None:
        rng = self.rng
        self.network.trouble = Trouble(
            rng.uniform(0.0, 0.3),
            rng.uniform(0.0, 0.5),
            rng.uniform(0.0, 0.3),
            rng.uniform(0.0, 0.3),
            rng.choice((1.0, 2 * self.plan.ttl_s)),
        )
        await asyncio.sleep(self._while())
        self.network.trouble = Trouble()

    async def _unreachable(self) -> None:
        name = self._any()
        self.network.unreachable.add(name)
        await asyncio.sleep(self._while())
        self.network.unreachable.discard(name)

    async def _license(self) -> None:
        """Install more seats, or fewer."""
        text = self.pool.license_text({f: self.rng.randint(1, 20) for f in self.plan.features})
        name = self._any()
        if name in self.pool.running:
            await self.pool.server(name).install_license(text)

    def _kill(self, name: str) -> None:
        path = self.pool.data_dir(name) / "record.log"
        if path.exists() and name not in self.old_records:
            self.old_records[name] = path.read_bytes()
        self.down[name] = "crashed"
        self.note(f"{name} is killed")
        self.pool.crash(name)

    def _revive(self, name: str) -> None:
        """Start a server again; its record may have suffered, as from a loss of power."""
        if name not in self.down or name in self.pool.running:
            return
        cause = self.down.pop(name)
        path = self.pool.data_dir(name) / "record.log"
        fate = self.rng.choice(self.plan.records)
        # What a machine loses with its power is what it had not written to its disk.
        reboot = fate == "torn" or (cause == "stopped" and self.rng.random() < 0.5)
        if fate == "old backup" and name in self.old_records:
            path.write_bytes(self.old_records[name])
        elif fate == "removed":
            path.unlink(missing_ok=True)
        elif fate == "torn" and cause == "crashed" and path.exists():
            data = path.read_bytes()
            path.write_bytes(data[: self.rng.randint(0, len(data))])
        self.done[f"record {fate}"] += 1
        self.note(f"{name} starts{' after a reboot' if reboot else ''}, record {fate}")
        self.done["reboot"] += reboot
        self.pool.start(name, reboot=reboot, replayed=self.rng.randint(0, self.pool.log.index))

    def heal(self) -> None:
        """Everything works from now on."""
        log = self.pool.log
        self._good_log()
        self.network.trouble = Trouble()
        self.network.unreachable.clear()
        for name in self.pool.names:
            if name not in self.pool.running:
                self.down.setdefault(name, "crashed")
                self._revive(name)
            log.engines[name].lag_s = 0.0
            log.engines[name].resume()
        log.heal()

    # -- the end ----------------------------------------------------------------------------

    async def settle(self) -> None:
        """After healing: all serve, all is answered, all seats are there to be had again."""
        pool, ttl_s = self.pool, self.plan.ttl_s
        calm_s = 4 * ttl_s + 20.0
        await pool.until(pool.serving, "all servers serve again", calm_s)
        await pool.until(lambda: not self._answers_owed(), "every request is answered", calm_s)
        await pool.until(lambda: not self._in_use(), "all seats come back", calm_s)
        await pool.until(lambda: not self._borrowing(), "every borrow ends", calm_s)
        for name in pool.names:
            for feature in sorted(self._table()):
                await self._take_all(name, feature)

    async def _take_all(self, name: str, feature: str) -> None:
        """One server can get every seat there is: none was forgotten anywhere."""
        pool = self.pool
        pool_of = self._table()[feature]
        if pool_of.over:
            raise SafetyBroken(f"{feature} is over by {pool_of.over} though nobody holds a seat")
        if not pool_of.deployed:
            return
        request = CheckoutRequest(feature, pool_of.deployed, wait=20.0, id=f"all.{name}.{feature}")
        _, answer = await pool.checkout(name, request)
        if isinstance(answer, Problem):
            raise SafetyBroken(f"{name} cannot have all {pool_of.deployed} of {feature}: {answer}")
        await pool.checkin(name, answer.token)

    def _table(self) -> dict[str, FeaturePool]:
        return self.pool.server(self.pool.names[0]).state.table.features

    def _in_use(self) -> bool:
        return any(
            sum(self.pool.server(name).grants.record.in_use.values()) for name in self.pool.names
        )

    def _borrowing(self) -> bool:
        return any(pool.pending for pool in self._table().values()) or any(
            desk.borrow or desk.asking or desk.set_aside or desk.queue
            for name in self.pool.names
            for desk in self.pool.server(name).grants.desks.values()
        )

    def _answers_owed(self) -> bool:
        """Whether a server that still runs has not answered a call yet."""
        servers = [self.pool.server(name) for name in self.pool.names]
        return any(server in servers for server in self.network.in_flight.values())


async def simulate(chosen: Plan) -> Counter[str]:
    """Run one simulation; returns how often what happened, raises SafetyBroken."""
    rng = random.Random(f"run {chosen.seed}")
    tallies: Counter[str] = Counter()
    async with InProcessPool(
        chosen.servers,
        lease_s=chosen.lease_s,
        ttl_s=chosen.ttl_s,
        drift=chosen.drift,
        threshold=chosen.thresholds,
        rates=chosen.rates,
        tick_s=0.1,
        seed=chosen.seed,
        key=_KEY,
    ) as pool:
        holders = Holders()
        network = Network(pool, rng)
        checker = Checker(pool, holders)
        pool.log.on_applied = checker.applied
        run = Simulation(chosen, pool, rng, network, checker)
        await pool.install(chosen.features)
        clients = [
            Client(f"c{n}", _habits(chosen, rng, tallies), network, holders, rng, checker.holders)
            for n in range(chosen.clients)
        ]
        loop = asyncio.get_running_loop()
        lives = [loop.create_task(c.live(sorted(chosen.features))) for c in clients]
        trouble = loop.create_task(run.misfortune())
        try:
            await _watched(asyncio.sleep(chosen.duration_s), checker)
            trouble.cancel()
            for client in clients:
                client.stopping = True
            run.heal()
            await _watched(asyncio.wait(lives), checker)
            await _watched(run.settle(), checker)
        except Exception as fault:
            fault.add_note("\n".join(("what happened before:", *run.history)))
            raise
        finally:
            for task in (*lives, trouble):
                task.cancel()
        tallies.update(run.done)
        tallies.update(checker.seen)
        tallies["entries applied"] = checker.entries
        tallies["log index"] = pool.log.index
    return tallies


async def _watched(work: Awaitable[object], checker: Checker) -> None:
    """Wait for some work, but not once something is broken."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    task = asyncio.ensure_future(work)
    try:
        while not task.done() and checker.fault is None and not loop.faults:
            await asyncio.wait({task}, timeout=0.5)
        if checker.fault is not None:
            raise checker.fault
        if loop.faults:
            raise loop.faults[0]
        await task
    except TimeoutError as fault:
        raise SafetyBroken(str(fault)) from fault
    finally:
        task.cancel()


def _habits(chosen: Plan, rng: random.Random, tallies: Counter[str]) -> Habits:
    return Habits(
        clock=ManualClock(
            rate=clock_rate(rng, chosen.drift), source=asyncio.get_running_loop().time
        ),
        heartbeat_part=rng.choice(chosen.heartbeats),
        stay_s=rng.choice((1.0, chosen.ttl_s, 3 * chosen.ttl_s)),
        pause_s=rng.uniform(2.0, 20.0),
        greed=rng.choice((1, 1, 3)),
        revives=chosen.revives,
        loyal=rng.random() < chosen.loyal,
        tallies=tallies,
    )


_KEY = generate()


def run_plan(chosen: Plan) -> Counter[str]:
    """Simulate a plan in virtual time; raises SafetyBroken with what happened before."""
    try:
        return run_virtual(simulate(chosen))
    except Exception as fault:
        fault.add_note(f"{chosen}")
        raise


def run_seed(seed: int, duration_s: float = DURATION_S) -> Counter[str]:
    """Simulate one seed in virtual time; raises SafetyBroken with the way to replay it."""
    try:
        return run_plan(plan(seed, duration_s=duration_s))
    except Exception as fault:
        fault.add_note(f"replay: python -m licraft.testing.simulation {seed} {duration_s:g}")
        raise


def main(arguments: list[str]) -> None:
    """Run the seeds of the command line; what happened is counted on standard output."""
    parser = argparse.ArgumentParser(prog="python -m licraft.testing.simulation")
    parser.add_argument("seed", type=int)
    parser.add_argument("seconds", type=float, nargs="?", default=DURATION_S)
    chosen = parser.parse_args(arguments)
    print(plan(chosen.seed, duration_s=chosen.seconds))
    for name, times in sorted(run_seed(chosen.seed, chosen.seconds).items()):
        print(f"{times:8} {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
