"""What a simulation of the engine does, decided by its seed before it begins.

May import this room's faults and `replication`'s figures. Seeds differ in more than chance:
in how far away servers are, how much is proposed, how soon the log is compacted, and in
which kinds of faults there are at all.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from licraft.replication.library import Guard
from licraft.replication.messages import BATCH_BYTES
from licraft.testing.engine_faults import WEIGHTS

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta")
SECONDS = 52.0
CLOCK_ERROR = 0.02
GUARDS = {guard.value: guard for guard in Guard}
SWITCHES = (*GUARDS, "S7", "S8", "journal")
"""What can be left out: a guard, the network's, the snapshots', or the durable journal (S9)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one seed decides beforehand."""

    seed: int
    servers: int
    seconds: float
    without: frozenset[str]
    batch_bytes: int
    compaction_entries: int
    compaction_bytes: int
    state_bytes: int
    bursts: tuple[int, ...]
    latency_s: float
    pause_s: float
    down_s: float
    faults: tuple[str, ...]
    clock_rates: tuple[float, ...]


def plan(
    seed: int, servers: int = 3, seconds: float = SECONDS, without: frozenset[str] = frozenset()
) -> Plan:
    """The plan of a seed; raises ValueError for a switch that there is not."""
    if unknown := without.difference(SWITCHES):
        raise ValueError(f"no switches: {sorted(unknown)}; there are {', '.join(SWITCHES)}")
    rng = random.Random(f"plan {seed} {servers}")
    return Plan(
        seed=seed,
        servers=servers,
        seconds=seconds,
        without=without,
        batch_bytes=rng.choice([200, 2000, BATCH_BYTES]),
        compaction_entries=rng.choice([10, 60, 200]),
        compaction_bytes=rng.choice([500, 5000]),
        state_bytes=rng.choice([300, 3000]),
        bursts=rng.choice([(1,), (1, 1, 2, 8), (1, 5, 40)]),
        latency_s=rng.choice([0.0003, 0.0003, 0.01, 0.06]),
        pause_s=rng.choice([0.3, 1.0, 2.0]),
        down_s=rng.choice([0.5, 2.0, 4.0]),
        # Seeds that do without some kinds of faults get further with the others.
        faults=tuple(rng.sample(list(WEIGHTS), rng.randint(3, len(WEIGHTS)))),
        clock_rates=tuple(
            1 + CLOCK_ERROR * rng.choice([-1.0, 1.0, rng.uniform(-1, 1)]) for _ in range(servers)
        ),
    )


def command_of(chosen: Plan) -> str:
    """The command that runs a plan again."""
    without = f" --without {' '.join(sorted(chosen.without))}" if chosen.without else ""
    return (
        f"python -m licraft.testing.engine_simulation --seed {chosen.seed} "
        f"--servers {chosen.servers} --seconds {chosen.seconds:g}{without}"
    )
