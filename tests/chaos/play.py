"""Plays one scenario: holders gather, the pool is broken and mended, and all is judged.

May import the other modules of this folder and the support packages. Everything random
comes from the seed; what the machine does is not.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.over_issue import now
from support.processes import ServerPool

from chaos.crowd import Crowd
from chaos.reports import FAR, NEAR, Orders, Wish
from chaos.scenarios import Scenario, Scene
from chaos.verdict import HEALED_LEASES, SLACK_S, Bounds, Trouble, Verdict, judge

ROOM = 1.5
"""How many seats there are for each that is wanted, where there are some to spare."""

GATHERED_S = 90.0
PATIENCE_S = 30.0
"""How much longer than promised it is waited for the seats to add up, to say how long it took."""

_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Cast:
    """How many holders there are, how many who want what they hold, and who asks for what.

    `start_s` is the time over which they come.
    """

    holders: int
    hungry: int
    seed: int
    start_s: float

    def seats(self, full: bool) -> dict[str, int]:
        """The license: one in five holders wants three seats of sim, the others one of cad."""
        threes = self.holders // 5
        room = 1.0 if full else ROOM
        return {
            "cad": round((self.holders - threes) * room),
            "sim": round(3 * threes * room),
        }

    def wishes(self, names: tuple[str, ...]) -> list[Wish]:
        """Everybody's wish; the homes are spread evenly."""
        homes = [names[i % len(names)] for i in range(self.holders)]
        random.Random(self.seed).shuffle(homes)
        return [
            Wish("sim", 3, home) if i < self.holders // 5 else Wish("cad", 1, home)
            for i, home in enumerate(homes)
        ]

    def envy(self, names: tuple[str, ...]) -> list[Wish]:
        """The wishes of those who want what others hold."""
        return [Wish("cad", 1, names[i % len(names)], hungry=True) for i in range(self.hungry)]


def play(
    scenario: Scenario, scene: Scene, cast: Cast, log: Path, slack_s: float = SLACK_S
) -> Verdict:
    """Play a scenario on a pool that runs and has the cast's seats; what came of it."""
    with Crowd(log) as crowd:
        _gather(crowd, scenario, scene, cast)
        time.sleep(cast.start_s)  # so that everybody's heartbeats are spread over time
        broken_s = now()
        scenario.break_(scene)
        time.sleep(scenario.lasts_s)
        mended_s = now()
        scenario.mend(scene)
        bounds = Bounds(scene.pool.lease_s, scene.pool.ttl_s, cast.seats(scenario.full), slack_s)
        promised_s = bounds.ttl_s + HEALED_LEASES * bounds.lease_s
        # Also where some have lost theirs: then others have taken them.
        wanted = cast.seats(full=True)
        healed_s = _healed(scene.pool, crowd, wanted, mended_s + promised_s + PATIENCE_S)
        # Everybody has sent another heartbeat by then, and the victim's holders were served.
        time.sleep(max(0.0, broken_s + bounds.ttl_s * 2 / 3 - now()))
        reports = crowd.end()
    trouble = Trouble(broken_s, mended_s, healed_s, scene.victim, bool(scenario.far))
    return judge(reports, trouble, bounds)


def _gather(crowd: Crowd, scenario: Scenario, scene: Scene, cast: Cast) -> None:
    """Have everybody hold what they want, and then those come who find nothing left."""
    pool = scene.pool
    wishes = cast.wishes(pool.names)
    at_victim = [wish for wish in wishes if wish.home == scene.victim]
    far = at_victim[: scenario.far * cast.holders // 1000]
    near = list(wishes)
    for wish in far:
        near.remove(wish)

    def come(side: str, part: list[Wish], seed: int) -> None:
        orders = Orders(side, pool.urls, pool.client, seed, part, cast.start_s)
        enter = scene.network.enter(side) if scene.network is not None else []
        crowd.gather(orders, enter, pool.environ)

    come(NEAR, near, cast.seed)
    come(FAR, far, cast.seed)
    ends_s = now() + GATHERED_S
    while lacking := cast.holders - crowd.tally().holding:
        if now() > ends_s:
            raise AssertionError(f"{lacking} hold nothing after {GATHERED_S:g} s")
        time.sleep(_LOOK_S)
    if scenario.full:
        come(NEAR, cast.envy(pool.names), cast.seed + 1)


def _healed(
    pool: ServerPool, crowd: Crowd, wanted: Mapping[str, int], until_s: float
) -> float | None:
    """When every server is up, all that is wanted is held, and all servers count just that."""
    while now() < until_s:
        if crowd.tally().seats == wanted and _adds_up(pool, wanted):
            return now()
        time.sleep(_LOOK_S)
    return None


def _adds_up(pool: ServerPool, held: Mapping[str, int]) -> bool:
    whole = all(_is_whole(pool, name) and _in_use(pool, name) == held for name in pool.names)
    return whole and not pool.unbalanced()


def _is_whole(pool: ServerPool, by: str) -> bool:
    """Whether a server may grant, and calls every server up."""
    view: Any = pool.get(by, "/v1/pool")
    return (
        pool.ready(by)
        and view.status == 200
        and all(server["state"] == "up" for server in view["servers"])
    )


def _in_use(pool: ServerPool, by: str) -> dict[str, int] | None:
    """The seats of each feature in use, as a server tells it; None if it does not answer."""
    answer = pool.get(by, "/v1/features")
    if answer.status != 200:
        return None
    return {feature["feature"]: int(feature["in_use"]) for feature in answer["features"]}
