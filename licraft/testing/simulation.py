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
from collections.abc import Awaitable, Callable
from typing import TypeVar

from licraft.core.table import FeaturePool
from licraft.testing.clock import ManualClock
from licraft.testing.loop import VirtualLoop, run_virtual
from licraft.testing.pool import InProcessPool
from licraft.testing.simulated_clients import (
    Client,
    Habits,
    Hold,
    Holders,
    Network,
    SafetyBroken,
)
from licraft.testing.simulation_checker import Checker
from licraft.testing.simulation_faults import Misfortunes
from licraft.testing.simulation_plan import DURATION_S, FAULTS, Plan, clock_rate, plan, storm
from licraft.vendor.keys import generate
from licraft.wire import CheckoutRequest, Problem

__all__ = ["FAULTS", "Plan", "SafetyBroken", "plan", "run_plan", "run_seed", "simulate", "storm"]

T = TypeVar("T")


class Settling:
    """After all faults are mended: what the pool must have recovered, and by when."""

    def __init__(
        self, chosen: Plan, pool: InProcessPool, network: Network, holders: Holders
    ) -> None:
        self.plan = chosen
        self.pool = pool
        self.network = network
        self.holders = holders

    async def recover(self) -> int:
        """While clients go on: in `ttl` + 3 leases all serve, and who held a seat holds it.

        Returns how many holds were judged: those with enough time left, at their next
        heartbeat, for a server to be called down and for an election.
        """
        pool, lease_s = self.pool, self.plan.lease_s
        end_s = pool.now() + self.plan.ttl_s + 3 * lease_s
        judged: dict[str, Hold] = {}
        served = known = False
        while pool.now() < end_s:
            for hold in self.holders.holding():
                at_s = max(hold.due_s, hold.clock.now())
                if hold.tenure.valid_until - at_s > lease_s + 2.5:
                    judged[hold.id] = hold
            served = served or pool.serving()
            known = known or (served and not self._unknown())
            await pool.advance(0.2)
        if not served:
            raise SafetyBroken("not all servers serve again")
        if not known:
            raise SafetyBroken(f"on no record, but relied on: {self._unknown()}")
        for hold in judged.values():
            if hold.wanted and not hold.relied_on:
                raise SafetyBroken(
                    f"{hold.count} seats of {hold.feature} by {hold.server} were lost though all "
                    f"faults were mended: {hold.id}, {hold.tenure.reason or 'expired'}"
                )
        return len(judged)

    async def settle(self) -> None:
        """Once no client wants anything any more: all seats are there to be had again, soon."""
        pool, ttl_s = self.pool, self.plan.ttl_s
        calm_s = ttl_s + 3 * self.plan.lease_s
        # What is late under way may still ask for seats.
        late_s = 2 * ttl_s + pool.server(pool.names[0]).state.lease_s
        await pool.until(lambda: not self._answers_owed(), "every request is answered", late_s)
        await pool.until(lambda: not self._in_use(), "all seats come back", calm_s)
        await pool.until(lambda: not self._busy(), "every borrow ends, nothing is over", calm_s)
        for name in pool.names:
            for feature in sorted(self._table()):
                await self._take_all(name, feature)

    async def _take_all(self, name: str, feature: str) -> None:
        """One server can get every seat there is: none was forgotten anywhere."""
        pool = self.pool
        deployed = self._table()[feature].deployed
        if not deployed:
            return
        request = CheckoutRequest(feature, deployed, wait=20.0, id=f"all.{name}.{feature}")
        _, answer = await pool.checkout(name, request)
        if isinstance(answer, Problem):
            raise SafetyBroken(f"{name} cannot have all {deployed} of {feature}: {answer}")
        await pool.checkin(name, answer.token)

    def _table(self) -> dict[str, FeaturePool]:
        return self.pool.server(self.pool.names[0]).state.table.features

    def _unknown(self) -> set[str]:
        """Authorizations on which their holders rely, and that no server has on record."""
        servers = (self.pool.server(name) for name in self.pool.running)
        known = {a.id for server in servers for a in server.grants.record}
        return {hold.id for hold in self.holders.holding()} - known

    def _in_use(self) -> bool:
        return any(
            sum(self.pool.server(name).grants.record.in_use.values()) for name in self.pool.names
        )

    def _answers_owed(self) -> bool:
        """Whether a request is under way, or at a server that still runs."""
        servers = [None, *(self.pool.server(name) for name in self.pool.names)]
        return any(server in servers for server in self.network.in_flight.values())

    def _busy(self) -> bool:
        """Whether seats are still asked for, given, or retired."""
        return any(pool.pending or pool.over for pool in self._table().values()) or any(
            desk.borrow or desk.asking or desk.set_aside or desk.queue
            for name in self.pool.names
            for desk in self.pool.server(name).grants.desks.values()
        )


async def simulate(chosen: Plan) -> Counter[str]:
    """Run one simulation; returns how often what happened, raises SafetyBroken."""
    rng = random.Random(f"run {chosen.seed}")
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
        tallies = checker.seen.counts
        run = Misfortunes(chosen, pool, rng, network)
        pool.log.on_applied = checker.applied
        pool.log.on_proposed = _each(checker.seen.proposed, run.proposed)
        await pool.install(chosen.features)
        clients = [
            Client(f"c{n}", _habits(chosen, rng, tallies), network, holders, rng, checker.holders)
            for n in range(chosen.clients)
        ]
        settling = Settling(chosen, pool, network, holders)
        loop = asyncio.get_running_loop()
        lives = [loop.create_task(c.live(sorted(chosen.features))) for c in clients]
        trouble = loop.create_task(run.misfortune())
        try:
            await _watched(asyncio.sleep(chosen.duration_s), checker)
            trouble.cancel()
            await asyncio.wait([trouble])
            run.heal()
            trouble = loop.create_task(run.undrain())
            for client in clients:
                client.habits.behave()
            tallies["judged to hold again"] += await _watched(settling.recover(), checker)
            for client in clients:
                client.stopping = True
            await _watched(asyncio.wait(lives), checker)
            await _watched(settling.settle(), checker)
        except Exception as fault:
            fault.add_note("\n".join(("what happened before:", *run.history)))
            raise
        finally:
            for task in (*lives, trouble):
                task.cancel()
        tallies.update(run.done)
        tallies["log index"] = pool.log.index
        tallies["virtual seconds"] = int(pool.now())
    return tallies


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


def _habits(chosen: Plan, rng: random.Random, tallies: Counter[str]) -> Habits:
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
    )


_KEY = generate()


def run_plan(chosen: Plan) -> Counter[str]:
    """Simulate a plan in virtual time; raises SafetyBroken with what happened before."""
    try:
        return run_virtual(simulate(chosen))
    except Exception as fault:
        fault.add_note(f"{chosen}")
        raise


def run_seed(seed: int, duration_s: float = DURATION_S, *, stormy: bool = False) -> Counter[str]:
    """Simulate one seed in virtual time; raises SafetyBroken with the way to replay it."""
    changes = storm(seed) if stormy else {}
    try:
        return run_plan(plan(seed, duration_s=duration_s, **changes))
    except Exception as fault:
        options = " --storm" if stormy else ""
        fault.add_note(
            f"replay: python -m licraft.testing.simulation {seed} {duration_s:g}{options}"
        )
        raise


def main(arguments: list[str]) -> None:
    """Run the seeds of the command line; what happened is counted on standard output."""
    parser = argparse.ArgumentParser(
        prog="python -m licraft.testing.simulation",
        description="Simulate a pool in which things go wrong; stops at the first seed that fails.",
    )
    parser.add_argument("seed", type=int, help="the first seed")
    parser.add_argument("seconds", type=float, nargs="?", default=DURATION_S, help="of faults")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from the first one on")
    parser.add_argument("--storm", action="store_true", help="one fault follows upon another")
    chosen = parser.parse_args(arguments)
    happened: Counter[str] = Counter()
    for seed in range(chosen.seed, chosen.seed + chosen.seeds):
        if chosen.seeds == 1:
            print(plan(seed, duration_s=chosen.seconds, **(storm(seed) if chosen.storm else {})))
        happened.update(run_seed(seed, chosen.seconds, stormy=chosen.storm))
    for name, times in sorted(happened.items()):
        print(f"{times:10} {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
