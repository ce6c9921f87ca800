"""A pool, its clients and all that can go wrong, from one seed; the same each time.

May import this room and the core. `simulate` raises SafetyBroken if holders ever rely on
more seats than are licensed, if two servers differ after the same log index, or if the
pool does not recover once everything works again. To replay one seed:

    python -m licraft.testing.simulation SEED
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import Counter
from collections.abc import Awaitable

from licraft.core.table import FeaturePool
from licraft.testing.clock import ManualClock
from licraft.testing.loop import VirtualLoop, run_virtual
from licraft.testing.pool import InProcessPool
from licraft.testing.simulated_clients import Client, Habits, Holders, Network, SafetyBroken
from licraft.testing.simulation_checker import Checker
from licraft.testing.simulation_faults import Misfortunes
from licraft.testing.simulation_plan import DURATION_S, FAULTS, Plan, clock_rate, plan
from licraft.vendor.keys import generate
from licraft.wire import CheckoutRequest, Problem

__all__ = ["FAULTS", "Plan", "SafetyBroken", "plan", "run_plan", "run_seed", "simulate"]


class Settling:
    """After all faults are mended: what the pool must have recovered."""

    def __init__(self, chosen: Plan, pool: InProcessPool, network: Network) -> None:
        self.plan = chosen
        self.pool = pool
        self.network = network

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
        run = Misfortunes(chosen, pool, rng, network)
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
            await _watched(Settling(chosen, pool, network).settle(), checker)
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
