"""Those who change a simulated pool's members while everything goes wrong.

May import this room and `replication`. Each change of the plan has an operator of its own,
who asks again until it is done and knows nothing of the others: that one change is made at
a time is for the engine to see to. What they run and stop, they run and stop at any moment.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Protocol

from licraft.replication.messages import CHANGE, REGULAR
from licraft.testing.disk import MemoryDisk
from licraft.testing.engine_member import Member
from licraft.testing.engine_parts import WatchedProposal
from licraft.testing.engine_roll import COUNT, DROP, FORM, JOIN, LEAVE, REJOIN, Roll
from licraft.testing.engine_world import Host, World

ATTEMPT_S = 1.0
FORM_S = 0.2
STRIKES_S = 0.3
# Where a name is given again at all (M4), it is when nobody leads any more who counts its
# bearer: in a real pool the rules of leases and seats take longer than that.
REUSE_S = 4.0


class Kind(StrEnum):
    """What becomes of a pool's members."""

    ADD = "add"
    ADD_AGAIN = "add again"
    NEVER_STARTS = "add one that never starts"
    FAILS = "add one that fails half-way"
    REMOVE = "remove"
    REMOVE_LEADER = "remove the leader"
    REMOVE_DOWN = "remove one that is down"


@dataclass(frozen=True, slots=True)
class Change:
    """A change of members that a plan wants, from a time (s) on."""

    at_s: float
    kind: Kind


class Pool(Protocol):
    """What operators need of a run."""

    world: World
    hosts: dict[str, Host]

    def number(self) -> int:
        """A number that no command has yet."""
        ...

    def boot(self, host: Host) -> None:
        """Start a server's process, unless it runs or is retired."""
        ...

    def end(self, host: Host, why: str, *, power: bool = False) -> None:
        """End a server's process, or its machine."""
        ...

    def strike_leader(self) -> None:
        """Let some fault hit the leader now."""
        ...


class Operators:
    """All who change the members of one run."""

    def __init__(
        self,
        pool: Pool,
        note: Callable[[str], None],
        rng: random.Random,
        names: list[str],
        pause_s: float,
        trouble: float,
        *,
        names_once: bool = True,
    ) -> None:
        """`names` are for new servers, `pause_s` is how long they wait before they ask again.

        Without `names_once` a server that is added again has its name from before.
        `trouble` is how often the leader is hit just when a change is proposed or applied.
        """
        self.over = False
        self._pool = pool
        self._note = note
        self._rng = rng
        self._names = names
        self._pause_s = pause_s
        self._trouble = trouble
        self._names_once = names_once
        self._files: list[tuple[str, ...]] = [tuple(pool.hosts)]
        self._gone: dict[str, float] = {}
        self._taken: set[str] = set()
        self._struck_at = 0.0

    @property
    def roll(self) -> Roll:
        """Who takes part, as far as anybody knows."""
        return self._pool.world.checker.roll

    def form(self) -> None:
        """Propose to form the pool of its founders until there is one."""
        if not self.roll.index:
            self._propose(FORM, *self._files[0])
            self._later(FORM_S, self.form)

    def begin(self, changes: tuple[Change, ...]) -> None:
        """Make all changes of a plan in their time."""
        for change in changes:
            self._later(change.at_s, partial(self._start, change.kind))

    def changed(self, roll: Roll) -> None:
        """The members are others: so will be the configuration files that are written now."""
        now = self._pool.world.schedule.now
        self._gone.update({name: now for name in self._files[-1] if name not in roll.names})
        self._files.append(roll.names)
        if self._rng.random() < self._trouble:
            # Whoever applied it first is the leader, and has not told the others yet.
            self._later(0.0, self._pool.strike_leader)

    def configure(self, host: Host) -> None:
        """Give a server that is to start some file, old or new.

        One that could form a pool by its file, for its log knows of none, has only its first.
        """
        if not (host.knows_pool or host.joins):
            return
        if not self.over:
            host.file = self._rng.choice([f for f in self._files if host.name in f] or [host.file])
        elif host.name in self.roll.names:
            host.file = self.roll.names

    # What they decide on.

    def _start(self, kind: Kind) -> None:
        """Begin a change, if there is a server for it."""
        if self.over:
            return
        if not self.roll.index:
            self._later(self._pause_s, partial(self._start, kind))
            return
        if kind is Kind.ADD_AGAIN and self._names_once:
            kind = Kind.ADD
        name = self._chosen(kind)
        if name is None and kind is Kind.ADD_AGAIN:
            self._later(REUSE_S, partial(self._start, kind))
        if name is None:
            return
        self._taken.add(name)
        self._note(f"{kind}: {name}")
        self._pool.world.tally[kind.value] += 1
        rng = self._rng
        if kind in (Kind.REMOVE, Kind.REMOVE_LEADER, Kind.REMOVE_DOWN):
            if kind is Kind.REMOVE_DOWN:
                self._retire(name)
            self._remove(name)
            return
        if kind is Kind.ADD_AGAIN:
            self._renew(self._pool.hosts[name])
        else:
            self._install(name)
        if kind is not Kind.NEVER_STARTS:
            self._later(rng.choice([0.0, rng.uniform(0.0, 0.5)]), partial(self._run, name))
        if kind is Kind.FAILS:
            self._later(rng.uniform(0.02, 2.5), partial(self._retire, name))
        if kind in (Kind.FAILS, Kind.NEVER_STARTS):
            self._later(rng.uniform(1.0, 4.0), partial(self._remove, name))
        self._add(name)

    def _chosen(self, kind: Kind) -> str | None:
        """The server of a change, which is nobody else's to change."""
        rng, voters = self._rng, [v for v in self.roll.voters if v not in self._taken]
        if kind is Kind.REMOVE_LEADER:
            leader = self._leader()
            return leader.name if leader is not None and leader.name in voters else None
        if kind in (Kind.REMOVE, Kind.REMOVE_DOWN):
            return rng.choice(voters) if voters else None
        if kind is Kind.ADD_AGAIN:
            before = self._pool.world.schedule.now - REUSE_S
            again = [name for name, since in self._gone.items() if since < before]
            return rng.choice(again) if again else None
        return self._names.pop() if self._names else None

    # Machines.

    def _install(self, name: str) -> None:
        """Have a new machine, as `licraft server add` prepares it."""
        rng = self._rng
        self._pool.hosts[name] = Host(
            name,
            MemoryDisk(random.Random(rng.getrandbits(64))),
            1 + rng.uniform(-0.02, 0.02),
            file=(*self.roll.names, name),
            joins=True,
            retired=True,
        )

    def _renew(self, host: Host) -> None:
        """Prepare one that was removed: as it is, or with an empty disk."""
        del self._gone[host.name]
        if self._rng.random() < 0.5:
            self._note(f"{host.name} returns with an empty disk")
            self._retire(host.name)
            self._install(host.name)
            self._pool.world.checker.replaced(host.name)

    def _run(self, name: str) -> None:
        """Start a machine, and keep it running."""
        host = self._pool.hosts[name]
        host.retired = False
        self._pool.boot(host)

    def _retire(self, name: str) -> None:
        """Stop a machine, and leave it so."""
        host = self._pool.hosts[name]
        host.retired = True
        self._pool.end(host, "stopped by an operator", power=self._rng.random() < 0.3)

    def _part(self, name: str) -> None:
        """Nobody needs a machine any more, and it may run on, stop, or come back."""
        rng = self._rng
        if rng.random() < 0.7:
            self._later(rng.uniform(0.0, 2.0), partial(self._retire, name))
            if rng.random() < 0.7:
                self._later(rng.uniform(2.0, 8.0), partial(self._run, name))

    # Steps, each asked for until it is taken.

    def _add(self, name: str) -> None:
        """See to it that a server counts, while it is not removed."""
        roll = self.roll
        if self.over or name in (*roll.voters, *roll.leaving):
            self._taken.discard(name)
            return
        asked = None
        if name not in roll.joining:
            asked = self._propose(JOIN if self._names_once else REJOIN, name)
        else:
            leader = self._leader()
            if leader is not None and name in leader.node.caught_up_learners:
                asked = self._propose(COUNT, name, by=leader)
        self._again(asked, partial(self._add, name))

    def _remove(self, name: str) -> None:
        """See to it that a server is gone."""
        roll = self.roll
        if self.over or name not in roll.names:
            self._taken.discard(name)
            return
        if roll.voters == (name,):
            self._taken.discard(name)
        elif name not in roll.leaving:
            self._again(self._propose(LEAVE, name), partial(self._remove, name))
        else:
            self._part(name)
            self._later(self._rng.uniform(0.0, 3.0), partial(self._drop, name))

    def _drop(self, name: str) -> None:
        """Nobody relies on it any more."""
        if name in self.roll.leaving and not self.over:
            self._again(self._propose(DROP, name, by=self._leader()), partial(self._drop, name))
        else:
            self._taken.discard(name)

    def _again(self, asked: WatchedProposal | None, step: Callable[[], None]) -> None:
        """Look again when the outcome is there."""
        if asked is not None and not asked.future.done():
            asked.future.add_done_callback(lambda _: self._later(self._pause(), step))
        else:
            self._later(self._pause(), step)

    def _propose(self, verb: str, *names: str, by: Member | None = None) -> WatchedProposal | None:
        """Ask a server, most often the leader, for a change."""
        member = by if by is not None else self._somebody()
        if member is None or member.paused or not member.alive:
            return None
        command = b"%d %b" % (self._pool.number(), " ".join((verb, *names)).encode())
        asked: list[WatchedProposal | None] = []
        kind = REGULAR if verb == FORM else CHANGE
        member.at_work(lambda: asked.append(member.propose(command, ATTEMPT_S, kind)))
        now = self._pool.world.schedule.now
        if now > self._struck_at + STRIKES_S and self._rng.random() < self._trouble:
            self._struck_at = now
            self._later(self._rng.choice([0.0, 0.001, 0.003, 0.03]), self._pool.strike_leader)
        return asked[0] if asked else None

    def _somebody(self) -> Member | None:
        """The leader, or another one that runs."""
        leader = self._leader()
        if leader is not None and self._rng.random() < 0.7:
            return leader
        running = [h.member for h in self._pool.hosts.values() if h.member is not None]
        return self._rng.choice(running) if running else None

    def _leader(self) -> Member | None:
        """Who leads the highest term."""
        members = [host.member for host in self._pool.hosts.values()]
        leaders = [(m.leading() or 0, m) for m in members if m is not None and m.leads]
        return max(leaders, key=lambda found: found[0])[1] if leaders else None

    def _pause(self) -> float:
        """How long one waits before asking again; several ask at the same moments."""
        rest_s = self._pause_s - self._pool.world.schedule.now % self._pause_s
        # Where the moment is just now, rounding may leave next to nothing.
        return rest_s if rest_s > 0.1 * self._pause_s else rest_s + self._pause_s

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something in a while, unless all is over by then."""
        self._pool.world.schedule.after(delay_s, self._unless_over, action)

    def _unless_over(self, action: Callable[[], None]) -> None:
        if not self.over:
            action()
