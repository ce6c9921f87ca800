"""The nemesis at work: does to a running pool what is planned, and keeps what it did.

May import `nemesis`, `network`, `pool` and `history`. It also does what a service manager does:
a server that is not held down is started again. It does not judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from support.over_issue import now

from chaos.history import Broken, Exited, Keeper, Mended
from chaos.nemesis import OF_CUTS, Blow, ways
from chaos.network import Network
from chaos.pool import ChaosPool

AGAIN_S = 2.0
"""How long after its end a server is started again, as a service manager would."""

PATIENCE_S = 30.0
"""How much longer than planned it is waited for servers that come back, before the next blow."""


@dataclass(frozen=True, slots=True)
class _Landed:
    """A blow that lasts."""

    id: int
    blow: Blow
    until_s: float


class Nemesis:
    """Strikes as planned; `tick` is to be called often, with the servers that are well.

    Blows come later than planned while servers that they do not mean are not well yet.
    """

    def __init__(
        self, pool: ChaosPool, network: Network | None, blows: Sequence[Blow], keeper: Keeper
    ) -> None:
        self._pool = pool
        self._network = network
        self._keeper = keeper
        self._coming = list(blows)
        self._landed: list[_Landed] = []
        self._count = 0
        self._begun_s = now()
        self._late_s = 0.0
        self._waits_from_s: float | None = None
        self._held_down: Counter[str] = Counter()
        self._stopped: Counter[str] = Counter()
        self._full: Counter[str] = Counter()
        self._clocks: dict[str, Counter[int]] = {name: Counter() for name in pool.names}
        self._ended_s: dict[str, float] = {}

    @property
    def stopped(self) -> set[str]:
        """The servers that are stopped by SIGSTOP."""
        return {name for name, times in self._stopped.items() if times > 0}

    @property
    def late_s(self) -> float:
        """How much later than planned everything comes by now."""
        return self._late_s

    def tick(self, well: Collection[str]) -> None:
        """End what is over, strike what is due, and start what is down."""
        at_s = now()
        for landed in [landed for landed in self._landed if landed.until_s <= at_s]:
            self._mend(landed)
        while self._coming and self._due(self._coming[0], well):
            self._strike(self._coming.pop(0))
        for name, times in self._full.items():
            if times > 0 and self._pool.disks is not None:
                self._pool.disks.fill(self._pool.data(name))  # it may have made some room
        self._look_after()

    def mend_all(self) -> None:
        """End every blow, and begin no other."""
        self._coming.clear()
        for landed in list(self._landed):
            self._mend(landed)

    def _due(self, blow: Blow, well: Collection[str]) -> bool:
        at_s = now()
        early_s = self._begun_s + self._late_s + blow.begin_s - at_s
        if early_s > 0:
            return False
        hurt = {name for landed in self._landed for name in landed.blow.hurt}
        if not blow.hurt or set(self._pool.names) - hurt <= set(well):
            self._waits_from_s = None
            return True
        # Somebody is not back yet: a second server must not be hurt before. All waits with it.
        if self._waits_from_s is None:
            self._waits_from_s = at_s
        if at_s > self._waits_from_s + PATIENCE_S:
            self._waits_from_s = None
            return True
        self._late_s += -early_s
        return False

    def _strike(self, blow: Blow) -> None:
        self._count += 1
        self._landed.append(_Landed(self._count, blow, now() + blow.lasts_s))
        self._keeper.note(
            Broken(
                now(),
                self._count,
                blow.kind,
                list(blow.targets),
                list(blow.hurt),
                blow.text,
                far_cut=blow.kind == "minority",
            )
        )
        self._deed(blow)(blow, 1)

    def _mend(self, landed: _Landed) -> None:
        self._landed.remove(landed)
        self._deed(landed.blow)(landed.blow, -1)
        self._keeper.note(Mended(now(), landed.id))

    def _deed(self, blow: Blow) -> Callable[[Blow, int], None]:
        """What begins (1) and ends (-1) a blow of this kind; blows of one kind may overlap."""
        kind = blow.kind
        if kind in OF_CUTS or kind == "cut-apart":
            return self._cut
        if kind.startswith("kill"):
            return self._kill
        if kind.startswith("stop"):
            return self._stop
        if kind.startswith("disk"):
            return self._fill
        return self._move_clock

    def _cut(self, blow: Blow, change: int) -> None:
        assert self._network is not None
        dropped = ways(blow.kind, blow.targets, self._pool.names)
        (self._network.drop if change > 0 else self._network.let_pass)(dropped)

    def _kill(self, blow: Blow, change: int) -> None:
        for name in blow.targets:
            self._held_down[name] += change
        if change > 0:
            self._pool.kill(*(name for name in blow.targets if self._pool.running(name)))

    def _stop(self, blow: Blow, change: int) -> None:
        for name in blow.targets:
            self._stopped[name] += change
            if self._pool.running(name):
                if self._stopped[name] > 0:
                    self._pool.pause(name)
                else:
                    self._pool.resume(name)

    def _fill(self, blow: Blow, change: int) -> None:
        disks = self._pool.disks
        assert disks is not None
        for name in blow.targets:
            self._full[name] += change
            if self._full[name] > 0:
                disks.fill(self._pool.data(name))
            else:
                disks.empty(self._pool.data(name))

    def _move_clock(self, blow: Blow, change: int) -> None:
        assert self._pool.clocks is not None
        for name in blow.targets:
            self._clocks[name][blow.off_s] += change
            off_s = sum(off_s * times for off_s, times in self._clocks[name].items())
            self._pool.clocks.move(name, off_s)

    def _look_after(self) -> None:
        """Note whose process has ended, and start it again unless it is held down."""
        for name in self._pool.names:
            if self._pool.running(name):
                continue
            if name not in self._ended_s:
                self._ended_s[name] = now()
                status = self._pool.processes[name].process.returncode
                self._keeper.note(Exited(now(), name, status))
            killed = self._pool.processes[name].process.returncode == -9
            if self._held_down[name] > 0 or self._stopped[name] > 0:
                continue
            if killed or now() > self._ended_s[name] + AGAIN_S:
                del self._ended_s[name]
                self._pool.start(name)
