"""What is done to the pool: one server at a time is killed, stopped or cut off.

May import `network`, `reports` and `support.processes`. A scenario breaks the pool, keeps it
broken for a while and mends it; it does not judge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from support.processes import ServerPool

from chaos.network import Network
from chaos.reports import FAR, NEAR

AWAY_S = 8.0
"""How long a killed server is away, and a cut lasts: longer than a lease, shorter than a ttl."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a scenario plays; without a network it can cut nothing."""

    pool: ServerPool
    network: Network | None
    victim: str

    @property
    def others(self) -> list[str]:
        """The servers that nothing is done to."""
        return [name for name in self.pool.names if name != self.victim]

    def cut(self, *sides: str) -> None:
        """Cut the victim off from these servers and sides of clients."""
        assert self.network is not None
        self.network.cut([self.victim], sides)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of trouble; `role` is `leader`, `follower` or `last`, the other follower.

    `far` is how many of a thousand holders are on the victim's side of a cut;
    `lasts_s` is the time from `break_` to `mend`. `full` has every seat in use.
    """

    kind: str
    role: str
    break_: Callable[[Scene], None]
    mend: Callable[[Scene], None]
    lasts_s: float
    cuts: bool = False
    far: int = 0
    full: bool = True

    @property
    def name(self) -> str:
        """What to call it: `kill/leader/full`."""
        return f"{self.kind}/{self.role}/{'full' if self.full else 'roomy'}"


ROLES = ("leader", "follower", "last")


def _kill(scene: Scene) -> None:
    scene.pool.kill(scene.victim)


def _restart(scene: Scene) -> None:
    scene.pool.start(scene.victim)


def _stop(scene: Scene) -> None:
    scene.pool.pause(scene.victim)


def _go_on(scene: Scene) -> None:
    scene.pool.resume(scene.victim)


def _mend(scene: Scene) -> None:
    assert scene.network is not None
    scene.network.mend()


def _cut_from_peers(scene: Scene) -> None:
    scene.cut(*scene.others)


def _cut_from_clients(scene: Scene) -> None:
    scene.cut(NEAR)


def _cut_from_both(scene: Scene) -> None:
    scene.cut(*scene.others, NEAR)


def _cut_with_clients(scene: Scene) -> None:
    """The victim and the far clients are one side, everybody else is the other."""
    assert scene.network is not None
    scene.network.cut([scene.victim, FAR], [*scene.others, NEAR])


def _kinds(ttl_s: float) -> dict[str, Callable[[str], Scenario]]:
    kinds: dict[str, Callable[[str], Scenario]] = {
        "kill": lambda role: Scenario("kill", role, _kill, _restart, AWAY_S),
        "kill-brief": lambda role: Scenario("kill-brief", role, _kill, _restart, 0.2),
        "minority": lambda role: Scenario(
            "minority", role, _cut_with_clients, _mend, ttl_s + 5.0, cuts=True, far=200
        ),
    }
    for stopped_s in (2, 6, 30, 90):
        kind = f"stop-{stopped_s}"
        kinds[kind] = partial(_stopped, kind, float(stopped_s))
    for kind, cut in (
        ("cut-peers", _cut_from_peers),
        ("cut-clients", _cut_from_clients),
        ("cut-both", _cut_from_both),
    ):
        kinds[kind] = partial(_cut_off, kind, cut)
    return kinds


def _stopped(kind: str, stopped_s: float, role: str) -> Scenario:
    return Scenario(kind, role, _stop, _go_on, stopped_s)


def _cut_off(kind: str, cut: Callable[[Scene], None], role: str) -> Scenario:
    return Scenario(kind, role, cut, _mend, AWAY_S, cuts=True)


_SOME = (
    ("kill", "leader"),
    ("kill", "follower"),
    ("kill", "last"),
    ("kill-brief", "leader"),
    ("stop-2", "leader"),
    ("stop-6", "follower"),
    ("stop-30", "leader"),
    ("cut-peers", "leader"),
    ("cut-peers", "follower"),
    ("cut-clients", "leader"),
    ("cut-clients", "follower"),
    ("cut-both", "leader"),
    ("cut-both", "last"),
    ("minority", "leader"),
    ("minority", "follower"),
)


def some(ttl_s: float) -> list[Scenario]:
    """The set of every day: each kind, with every seat in use."""
    kinds = _kinds(ttl_s)
    return [kinds[kind](role) for kind, role in _SOME]


def every(ttl_s: float) -> list[Scenario]:
    """Each kind at each server, with every seat in use and with some to spare."""
    return [
        _with_room(made) if roomy else made
        for roomy in (False, True)
        for make in _kinds(ttl_s).values()
        for made in map(make, ROLES)
    ]


def _with_room(scenario: Scenario) -> Scenario:
    return replace(scenario, full=False)


def victim_of(scenario: Scenario, pool: ServerPool) -> str:
    """The server that a scenario means."""
    leader, (follower, last) = pool.leader(), pool.followers()
    return {"leader": leader, "follower": follower, "last": last}[scenario.role]
