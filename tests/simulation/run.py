"""A pool, its clients and all that can go wrong, from one seed; the same each time.

May import the product and this folder. `simulate` raises SafetyBroken if holders ever rely on
more seats than are licensed, if two servers differ after the same log index, or if the
pool does not recover once everything works again.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, chdir
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from licraft.errors import InvariantBroken
from licraft.testing.chance import seeded
from licraft.testing.clock import WALL_S, ManualClock
from licraft.testing.loop import VirtualLoop, run_virtual
from licraft.testing.pool import InProcessPool, scratch
from licraft.vendor.keys import VendorPrivateKey, VendorPublicKey
from simulation.administrator import Administrator
from simulation.checkers import Checker
from simulation.clients import Client
from simulation.faults import Misfortunes
from simulation.habits import Habits
from simulation.holders import Holders, SafetyBroken
from simulation.network import Network
from simulation.plan import DURATION_S, FAULTS, Plan, clock_rate, plan, storm
from simulation.programs import Program
from simulation.settling import Settling
from simulation.trace import Trace
from simulation.upgrades import next_release

__all__ = ["FAULTS", "Plan", "SafetyBroken", "plan", "run_plan", "run_seed", "simulate", "storm"]

T = TypeVar("T")

_FRAMES = 4

TODAY = datetime.fromtimestamp(WALL_S, UTC).date()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run: how often what happened, in which order, and what broke, if anything."""

    tally: Counter[str]
    virtual_s: float
    digest: str
    story: Sequence[str]
    fault: str = ""


async def simulate(chosen: Plan, trace: Trace | None = None) -> Counter[str]:
    """Run one simulation; returns how often what happened, raises SafetyBroken."""
    rng = random.Random(f"run {chosen.seed}")
    trace = trace or Trace()
    trace.now = asyncio.get_running_loop().time
    async with InProcessPool(
        chosen.servers,
        lease_s=chosen.lease_s,
        ttl_s=chosen.ttl_s,
        drift=chosen.drift,
        threshold=chosen.thresholds,
        rates=chosen.rates,
        tick_s=chosen.tick_s,
        seed=chosen.seed,
        key=_KEY,
        raft=chosen.raft,
        data_dir=Path(),
    ) as pool:
        holders = Holders()
        network = Network(pool, rng)
        run = Misfortunes(chosen, pool, rng, network, trace)
        checker = Checker(pool, holders, trace, run.upgrades.knows)
        tallies = checker.seen.counts
        pool.log.on_applied = checker.applied
        pool.log.on_proposed = _each(checker.seen.proposed, run.proposed)
        if chosen.expires:
            _near_midnight(pool, chosen, rng)
        await pool.install(chosen.features, expires=TODAY if chosen.expires else None)
        clients = [
            (Program if n < chosen.programs else Client)(
                f"c{n}",
                _habits(chosen, rng, tallies, trace),
                network,
                holders,
                rng,
                checker.holders,
            )
            for n in range(chosen.clients)
        ]
        settling = Settling(chosen, pool, network, holders)
        loop = asyncio.get_running_loop()
        lives = [loop.create_task(c.live(sorted(chosen.features))) for c in clients]
        trouble = loop.create_task(run.misfortune())
        office = Administrator(pool, sorted(chosen.features), rng, trace, checker.told)
        orders = loop.create_task(office.work(chosen.orders_s or 1e9))
        notes = loop.create_task(run.upgrades.note())
        try:
            await _watched(asyncio.sleep(chosen.duration_s), checker)
            trouble.cancel()
            orders.cancel()
            await asyncio.wait([trouble, orders])
            run.heal()
            trouble = loop.create_task(run.undrain())
            orders = loop.create_task(office.lift())
            await _watched(run.membership.finished(4 * chosen.ttl_s + 60.0), checker)
            for client in clients:
                client.habits.behave()
            tallies["judged to hold again"] += await _watched(settling.recover(), checker)
            for client, life in zip(clients, lives, strict=True):
                client.stopping = True
                if client.idle:
                    life.cancel()
            await _watched(asyncio.wait(lives), checker)
            await _watched(settling.settle(), checker)
        finally:
            for task in (*lives, trouble, orders, notes):
                task.cancel()
            run.membership.close()
            tallies.update(run.done)
            tallies.update(office.done)
            tallies["log index"] = pool.log.index
            tallies["virtual seconds"] = int(pool.now())
            if chosen.raft:
                trace.tell("network", f"all messages: {pool.log.world.network.fingerprint()}")
            trace.end()
            ended = Counter(tallies)
    return ended


def _near_midnight(pool: InProcessPool, chosen: Plan, rng: random.Random) -> None:
    """Set all wall clocks so that today ends in the middle of the run, about."""
    midnight_s = datetime.combine(TODAY + timedelta(days=1), time(), UTC).timestamp()
    left_s = chosen.duration_s * rng.uniform(0.2, 0.8)
    for clock in pool.clocks.values():
        clock.set_wall(midnight_s - left_s + rng.uniform(-30.0, 30.0))


def _each(*listeners: Callable[[bytes], None]) -> Callable[[str, bytes], None]:
    """Tell all of them of an entry that a server proposes."""

    def tell(server: str, entry: bytes) -> None:
        for listener in listeners:
            listener(entry)

    return tell


async def _watched(work: Awaitable[T], checker: Checker) -> T:
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
        return await task
    except TimeoutError as fault:
        raise SafetyBroken(str(fault)) from fault
    finally:
        task.cancel()


def _habits(chosen: Plan, rng: random.Random, tallies: Counter[str], trace: Trace) -> Habits:
    return Habits(
        clock=ManualClock(
            rate=clock_rate(rng, chosen.drift), source=asyncio.get_running_loop().time
        ),
        heartbeat_part=rng.choice(chosen.heartbeats),
        stay_s=rng.choice(chosen.stays) * chosen.ttl_s,
        pause_s=rng.uniform(*chosen.pauses_s),
        greed=rng.choice((1, 1, 3)),
        timeout_s=rng.choice((chosen.ttl_s / 12, 2.0)),
        revives=chosen.revives,
        loyal=rng.random() < chosen.loyal,
        wanders=chosen.wanders,
        hedges=chosen.hedges,
        naps=chosen.naps,
        seats=rng.randint(1, chosen.seats),
        patient=rng.random() < 0.3,
        renames=rng.random() < 0.5,
        tallies=tallies,
        tell=trace.tell,
        forges=chosen.forges,
        reuses=chosen.reuses,
        burst_s=chosen.burst_s,
        begin_s=chosen.begin_s,
    )


_SECRET = Ed25519PrivateKey.from_private_bytes(bytes(32))
_KEY = VendorPrivateKey(VendorPublicKey("simulated", _SECRET.public_key()), _SECRET)
"""The vendor of every simulated pool: signatures must not differ from run to run."""


def run_plan(chosen: Plan, trace: Trace | None = None) -> Counter[str]:
    """Simulate a plan in virtual time; raises SafetyBroken with what happened before."""
    trace = trace or Trace()
    try:
        # Their files have the same names in every run: servers tell each other of some.
        with scratch() as folder, chdir(folder), seeded(chosen.seed), ExitStack() as release:
            if chosen.upgrades:
                release.enter_context(next_release())
            return run_virtual(simulate(chosen, trace))
    except Exception as fault:
        fault.add_note("\n".join(("what happened before:", *trace.lines)))
        fault.add_note(f"{chosen}")
        raise


def try_plan(chosen: Plan, *, whole: bool = False) -> Outcome:
    """Simulate a plan, and say what broke instead of raising it."""
    trace = Trace(whole=whole)
    tally: Counter[str] = Counter()
    said = ""
    try:
        tally = run_plan(chosen, trace)
    except (AssertionError, InvariantBroken, ValueError) as fault:
        # SafetyBroken is the first of them; the others are the product's own alarms.
        said = f"{type(fault).__name__}: {fault}"
        trace.lines.extend(_where(fault))
    return Outcome(tally, trace.now(), trace.digest(), trace.lines, said)


def _where(fault: BaseException) -> list[str]:
    """Where in the code it broke: the end of the first cause's traceback."""
    seen = {id(fault)}
    while fault.__cause__ is not None and id(fault.__cause__) not in seen:
        fault = fault.__cause__
        seen.add(id(fault))
    frames = traceback.extract_tb(fault.__traceback__)[-_FRAMES:]
    return [f"{Path(f.filename).name}:{f.lineno} in {f.name}: {f.line}" for f in frames]


def run_seed(seed: int, duration_s: float = DURATION_S, *, stormy: bool = False) -> Counter[str]:
    """Simulate one seed in virtual time; raises SafetyBroken."""
    changes = storm(seed) if stormy else {}
    try:
        return run_plan(plan(seed, duration_s=duration_s, **changes))
    except Exception as fault:
        fault.add_note(
            f"replay: run_seed({seed}, {duration_s:g}, stormy={stormy}) of simulation.run"
        )
        raise
