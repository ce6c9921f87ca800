"""What the nemesis will do to a pool, all drawn from one seed before it begins.

May import `network` and `reports`. Pure: a plan is a list of blows, and which packets a cut drops
is a list of ways. Never is more than a minority hurt at once, except by the kinds of
`WHOLE_POOL`, which come alone and whose effect the verdict takes into account.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

from chaos.network import Way, both_ways, one_way
from chaos.reports import FAR, NEAR

HOUR_S, DAY_S = 3600, 86400

CALM_S = 15.0
"""How long nothing is done at the begin and at the end of a run."""

OF_PROCESSES = ("kill-brief", "kill", "stop")
OF_CUTS = (
    "cut-peers",
    "cut-peers-out",
    "cut-peers-in",
    "cut-clients",
    "cut-clients-out",
    "cut-clients-in",
    "cut-off",
    "cut-one-way",
    "minority",
)
OF_DISKS = ("disk-full",)
OF_CLOCKS = ("clock-far-back",)
CLOCKS = ("clock", "clock-majority")
"""They hurt nobody, and come whatever else is done."""

WHOLE_POOL = ("kill-all", "kill-majority", "stop-majority", "cut-apart", "disk-full-majority")

IN_WORDS = {
    "kill-brief": "killed (kill -9) and started again at once",
    "kill": "killed (kill -9) and started again later",
    "stop": "stopped (SIGSTOP) and continued",
    "cut-peers": "cut from the other servers",
    "cut-peers-out": "what it sends to the other servers is dropped",
    "cut-peers-in": "what the other servers send to it is dropped",
    "cut-clients": "cut from the clients",
    "cut-clients-out": "what it sends to the clients is dropped",
    "cut-clients-in": "what the clients send to it is dropped",
    "cut-off": "cut from everybody",
    "cut-one-way": "what the first sends to the second is dropped",
    "minority": "cut off together with the far clients",
    "disk-full": "its disk is full",
    "clock-far-back": "its wall clock goes back",
    "clock": "its wall clock jumps",
    "clock-majority": "their wall clocks jump together",
    "kill-all": "all are killed (kill -9)",
    "kill-majority": "a majority is killed (kill -9)",
    "stop-majority": "a majority is stopped (SIGSTOP)",
    "cut-apart": "all are cut from each other",
    "disk-full-majority": "the disks of a majority are full",
}
"""Every kind of blow, as a person reads it."""


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault: what is done to `targets`, from when, for how long (s from the begin).

    `hurt` are the servers that need not serve meanwhile; `off_s` is how far a clock is moved.
    """

    kind: str
    targets: tuple[str, ...]
    begin_s: float
    lasts_s: float
    hurt: tuple[str, ...]
    off_s: int = 0

    @property
    def text(self) -> str:
        """What it is, for people."""
        words = f"{' and '.join(self.targets)}: {IN_WORDS[self.kind]}"
        return f"{words} by {self.off_s / HOUR_S:+.0f} h" if self.off_s else words


@dataclass(frozen=True, slots=True)
class Times:
    """The pool's times (s), from which follows how long blows last."""

    lease_s: float
    ttl_s: float


def plan(
    seed: int,
    length_s: float,
    servers: Sequence[str],
    times: Times,
    able: Collection[str] = tuple(IN_WORDS),
) -> list[Blow]:
    """All blows of a run on three servers or more, by their begin; only of the kinds in `able`."""
    chance = random.Random(f"nemesis {seed}")
    end_s = length_s - CALM_S
    clocks = _clocks(chance, end_s, servers, [kind for kind in CLOCKS if kind in able])
    blows = [*clocks, *_hurting(chance, end_s, servers, times, able)]
    return sorted(blows, key=lambda blow: blow.begin_s)


def _hurting(
    chance: random.Random,
    end_s: float,
    servers: Sequence[str],
    times: Times,
    able: Collection[str],
) -> Iterator[Blow]:
    """Episodes, one after the other: so that a pool is whole again before the next begins."""
    minor = _Bag(chance, [kind for kind in _MINOR if kind in able])
    whole = _Bag(chance, [kind for kind in WHOLE_POOL if kind in able])
    at_s = CALM_S
    while minor or whole:
        if whole and (chance.random() < _WHOLE_PART or not minor):
            episode = [_whole(chance, whole.draw(), at_s, servers, times)]
        else:
            episode = list(_minor(chance, minor, at_s, servers, times))
        over_s = max(blow.begin_s + blow.lasts_s for blow in episode)
        if over_s > end_s:
            return
        yield from episode
        at_s = over_s + chance.uniform(times.ttl_s, 2 * times.ttl_s)


_MINOR = (*OF_PROCESSES, *OF_CUTS, *OF_DISKS, *OF_CLOCKS)
_WHOLE_PART = 0.15
_SEVERAL = (1, 1, 2, 3)


class _Bag:
    """Kinds in a random order, all of them before any comes again."""

    def __init__(self, chance: random.Random, kinds: Sequence[str]) -> None:
        self._chance = chance
        self._kinds = kinds
        self._left: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def draw(self) -> str:
        """The next kind."""
        if not self._left:
            self._left = list(self._kinds)
            self._chance.shuffle(self._left)
        return self._left.pop()


def _minor(
    chance: random.Random, bag: _Bag, at_s: float, servers: Sequence[str], times: Times
) -> Iterator[Blow]:
    """Some blows that overlap, all to the same minority."""
    minority = (len(servers) - 1) // 2
    victims = chance.sample(list(servers), chance.randint(1, minority))
    far_is_cut = False
    for victim in victims:
        for kind in dict.fromkeys(bag.draw() for _ in range(chance.choice(_SEVERAL))):
            if kind == "minority" and far_is_cut:
                continue  # the far clients cannot be with two servers at once
            far_is_cut = far_is_cut or kind == "minority"
            targets: tuple[str, ...] = (victim,)
            if kind == "cut-one-way":
                other = chance.choice([name for name in servers if name != victim])
                targets = (victim, other) if chance.random() < 0.5 else (other, victim)
            begin_s = at_s + chance.uniform(0, 2 * times.lease_s)
            off_s = -30 * DAY_S if kind == "clock-far-back" else 0
            lasts_s = _LASTS.get(kind, _a_while)(chance, times)
            yield Blow(kind, targets, begin_s, lasts_s, (victim,), off_s)


def _whole(
    chance: random.Random, kind: str, at_s: float, servers: Sequence[str], times: Times
) -> Blow:
    """A blow to more than a minority."""
    names = list(servers)
    if kind in ("kill-all", "cut-apart"):
        targets = names
    else:
        targets = sorted(chance.sample(names, len(names) // 2 + 1))
    lasts_s = chance.choice((0.2, 2 * times.lease_s, times.ttl_s * 0.6, times.ttl_s * 1.5))
    return Blow(kind, tuple(targets), at_s, lasts_s, tuple(targets))


def _clocks(
    chance: random.Random, end_s: float, servers: Sequence[str], kinds: Sequence[str]
) -> Iterator[Blow]:
    """Jumps of wall clocks, one after the other, which must not matter to anybody.

    A single clock may be anywhere (but for the certificates of the peers, which are valid
    from a day before the pool was made); a majority stays near, since its word counts.
    """
    at_s = CALM_S / 2
    while kinds:
        kind = chance.choice(kinds)
        if kind == "clock":
            targets = [chance.choice(list(servers))]
            off_s = chance.choice((-22 * HOUR_S, -HOUR_S, HOUR_S, 3 * DAY_S, 30 * DAY_S))
        else:
            targets = sorted(chance.sample(list(servers), len(servers) // 2 + 1))
            off_s = chance.choice((-20, -5, -1, 1, 5, 20)) * HOUR_S
        lasts_s = chance.uniform(5, 40)
        if at_s + lasts_s > end_s:
            return
        yield Blow(kind, tuple(targets), at_s, lasts_s, (), off_s)
        at_s += lasts_s + chance.uniform(5, 30)


def _a_while(chance: random.Random, times: Times) -> float:
    """Shorter than a lease, longer, or longer than a holder may go on by itself."""
    part = chance.choice((0.5, 2.0, 4.0))
    return chance.choice((part * times.lease_s, times.ttl_s + 2 * times.lease_s))


def _long(chance: random.Random, times: Times) -> float:
    return times.ttl_s * chance.uniform(1.2, 1.6)


def _late(chance: random.Random, times: Times) -> float:
    return chance.choice((2.5 * times.lease_s, _long(chance, times)))


_LASTS: dict[str, Callable[[random.Random, Times], float]] = {
    "kill-brief": lambda chance, times: 0.2,
    "kill": _late,
    "disk-full": _late,
    "minority": _long,
}


def ways(kind: str, targets: Sequence[str], servers: Sequence[str]) -> list[Way]:
    """From whom to whom packets are dropped while a blow of this kind lasts."""
    clients = (NEAR, FAR)
    others = [name for name in servers if name not in targets]
    match kind:
        case "cut-peers":
            return both_ways(targets, others)
        case "cut-peers-out":
            return one_way(targets, others)
        case "cut-peers-in":
            return one_way(others, targets)
        case "cut-clients":
            return both_ways(targets, clients)
        case "cut-clients-out":
            return one_way(targets, clients)
        case "cut-clients-in":
            return one_way(clients, targets)
        case "cut-off":
            return both_ways(targets, [*others, *clients])
        case "cut-one-way":
            return one_way(targets[:1], targets[1:])
        case "minority":
            return both_ways([*targets, FAR], [*others, NEAR])
        case "cut-apart":
            return list(permutations(targets, 2))
        case _:
            return []
