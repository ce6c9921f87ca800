"""What is done to the pool: one server at a time is killed, stopped, cut off or lied to.

May import `network`, `nemesis`, `pool` and `reports`. A scenario breaks the pool, keeps it
broken for a while and mends it; it does not judge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from chaos.nemesis import DAY_S, HOUR_S, ways
from chaos.network import Network
from chaos.pool import ChaosPool
from chaos.reports import FAR, NEAR

AWAY_S = 8.0
"""How long a killed server is away, and a cut lasts: longer than a lease, shorter than a ttl."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a scenario plays; without a network it can cut nothing."""

    pool: ChaosPool
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
    `lasts_s` is the time from `break_` to `mend`. `full` has every seat in use. `needs` are what
    the machine must give each server of its own: `network`, `disk`, `clock`.
    """

    kind: str
    role: str
    break_: Callable[[Scene], None]
    mend: Callable[[Scene], None]
    lasts_s: float
    needs: tuple[str, ...] = ()
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


def _fill_disk(scene: Scene) -> None:
    assert scene.pool.disks is not None
    scene.pool.disks.fill(scene.pool.data(scene.victim))


def _empty_disk(scene: Scene) -> None:
    assert scene.pool.disks is not None
    scene.pool.disks.empty(scene.pool.data(scene.victim))
    if not scene.pool.running(scene.victim):
        scene.pool.start(scene.victim)


def _set_clocks(scene: Scene, by_s: int, others: int = 0) -> None:
    """Move the wall clocks of the victim and of so many others."""
    assert scene.pool.clocks is not None
    for name in (scene.victim, *scene.others[:others]):
        scene.pool.clocks.move(name, by_s)


def _stop_and_lie(scene: Scene) -> None:
    """Several faults at once: cut off and given another wall clock, then stopped."""
    _cut_from_peers(scene)
    _set_clocks(scene, 20 * HOUR_S)
    _stop(scene)


def _undo_all(scene: Scene) -> None:
    _mend(scene)
    _set_clocks(scene, 0)
    _go_on(scene)


def _cut_with_clients(scene: Scene) -> None:
    """The victim and the far clients are one side, everybody else is the other."""
    assert scene.network is not None
    scene.network.cut([scene.victim, FAR], [*scene.others, NEAR])


_NETWORK = ("network",)
_ONE_WAY = ("cut-peers-out", "cut-peers-in", "cut-clients-out", "cut-clients-in")


def _kinds(ttl_s: float) -> dict[str, Callable[[str], Scenario]]:
    kinds: dict[str, Callable[[str], Scenario]] = {
        "kill": lambda role: Scenario("kill", role, _kill, _restart, AWAY_S),
        "kill-brief": lambda role: Scenario("kill-brief", role, _kill, _restart, 0.2),
        "minority": lambda role: Scenario(
            "minority", role, _cut_with_clients, _mend, ttl_s + 5.0, _NETWORK, far=200
        ),
        "disk-full": lambda role: Scenario(
            "disk-full", role, _fill_disk, _empty_disk, AWAY_S, ("network", "disk")
        ),
        "several": lambda role: Scenario(
            "several", role, _stop_and_lie, _undo_all, AWAY_S, ("network", "clock")
        ),
    }
    for kind in _ONE_WAY:
        kinds[kind] = partial(_cut_off, kind, partial(_cut_one_way, kind))
    for kind, by_s, others in (
        ("clock-back", -22 * HOUR_S, 0),
        ("clock-forward", 30 * DAY_S, 0),
        ("clocks-back", -20 * HOUR_S, 1),
        ("clocks-forward", 3 * DAY_S, 1),
    ):
        kinds[kind] = partial(_lied_to, kind, by_s, others)
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
    return Scenario(kind, role, cut, _mend, AWAY_S, _NETWORK)


def _cut_one_way(kind: str, scene: Scene) -> None:
    assert scene.network is not None
    scene.network.drop(ways(kind, [scene.victim], scene.pool.names))


def _lied_to(kind: str, by_s: int, others: int, role: str) -> Scenario:
    """The victim's wall clock jumps, and those of so many others, and jumps back later."""

    def move(scene: Scene) -> None:
        _set_clocks(scene, by_s, others)

    def move_back(scene: Scene) -> None:
        _set_clocks(scene, 0, others)

    return Scenario(kind, role, move, move_back, AWAY_S, ("clock",))


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
    ("cut-peers-out", "leader"),
    ("cut-peers-in", "leader"),
    ("cut-clients-out", "follower"),
    ("cut-clients-in", "leader"),
    ("disk-full", "leader"),
    ("disk-full", "follower"),
    ("clock-back", "leader"),
    ("clock-forward", "follower"),
    ("clocks-back", "leader"),
    ("clocks-forward", "leader"),
    ("several", "leader"),
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


def victim_of(scenario: Scenario, pool: ChaosPool) -> str:
    """The server that a scenario means."""
    leader, (follower, last) = pool.leader(), pool.followers()
    return {"leader": leader, "follower": follower, "last": last}[scenario.role]
