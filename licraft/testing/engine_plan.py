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
from licraft.testing.engine_operators import Change, Kind

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta")
NEW_NAMES = ("able", "mike", "zulu")
SECONDS = 52.0
CLOCK_ERROR = 0.02
GUARDS = {guard.value: guard for guard in Guard}
SWITCHES = (*GUARDS, "M3", "M4", "S7", "S8", "journal")
"""What can be left out: a guard, the network's, the snapshots', or the durable journal (S9).

Without M3 a server that starts again counts by its configuration file, not by its log.
Without M4 a server that was removed may be added again under its name, with an empty disk.
"""
MEMBERSHIP = ("some", "all", "none")
"""Which seeds change the members: a third, all, or none."""
KINDS = {
    Kind.ADD: 4,
    Kind.ADD_AGAIN: 2,
    Kind.NEVER_STARTS: 1,
    Kind.FAILS: 1,
    Kind.REMOVE: 5,
    Kind.REMOVE_LEADER: 3,
    Kind.REMOVE_DOWN: 2,
}
"""Every kind of change, and how often it comes beside others."""


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
    membership: str = "some"
    founders: int = 0
    changes: tuple[Change, ...] = ()
    retry_s: float = 0.1
    trouble: float = 0.0


def plan(
    seed: int,
    servers: int = 3,
    seconds: float = SECONDS,
    without: frozenset[str] = frozenset(),
    membership: str = "some",
) -> Plan:
    """The plan of a seed; raises ValueError for a switch that there is not."""
    if unknown := without.difference(SWITCHES):
        raise ValueError(f"no switches: {sorted(unknown)}; there are {', '.join(SWITCHES)}")
    rng = random.Random(f"plan {seed} {servers}")
    # Of its own, so that the rest of a plan is the same with and without changes.
    members_rng = random.Random(f"members {seed} {servers}")
    third = members_rng.random() < 1 / 3
    changing = membership == "all" or (third and membership == "some")
    grows = changing and members_rng.random() < 0.25
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
        membership=membership,
        founders=1 if grows else servers,
        changes=_changes(members_rng, seconds, grows=grows) if changing else (),
        retry_s=members_rng.choice([0.02, 0.1, 0.3]),
        trouble=members_rng.choice([0.0, 0.3, 1.0]),
    )


def _changes(rng: random.Random, seconds: float, *, grows: bool) -> tuple[Change, ...]:
    """Up to three changes of members, spread over the time or close together.

    A pool that `grows` begins with one server, and is joined by two at least.
    """
    kinds = rng.choices(list(KINDS), list(KINDS.values()), k=rng.choice([1, 2, 3, 3]))
    if grows:
        kinds = [Kind.ADD, Kind.ADD, *kinds[2:]]
    elif Kind.ADD_AGAIN in kinds:
        kinds[0] = Kind.REMOVE  # Somebody has to go before.
    if rng.random() < 2 / 3:
        begin_s = rng.uniform(2.0, 0.5 * seconds)
        spread_s = rng.choice([0.0, 0.0, 1.0])
        return tuple(Change(begin_s + rng.uniform(0.0, spread_s), kind) for kind in kinds)
    return tuple(Change(rng.uniform(2.0, 0.8 * seconds), kind) for kind in kinds)


def command_of(chosen: Plan) -> str:
    """The command that runs a plan again."""
    without = f" --without {' '.join(sorted(chosen.without))}" if chosen.without else ""
    membership = f" --membership {chosen.membership}" if chosen.membership != "some" else ""
    return (
        f"python -m licraft.testing.engine_simulation --seed {chosen.seed} "
        f"--servers {chosen.servers} --seconds {chosen.seconds:g}{membership}{without}"
    )
