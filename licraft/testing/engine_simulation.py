"""The bare engine in virtual time: real members, and everything goes wrong, from one seed.

May import this room and `replication`. Several guarded engines with their journals and
snapshots replicate a history while connections, processes, machines and disks fail;
`engine_checker` sees all that happens, and in the end, when everything is mended, every
server must commit again within 15 virtual seconds and all must agree. The same seed is the
same run. Guards can be left out by the names of their faults, to see that they are needed:

    python -m licraft.testing.engine_simulation --seeds 4000 --servers 3 5 --jobs 2
    python -m licraft.testing.engine_simulation --seeds 200 --without S1
    python -m licraft.testing.engine_simulation --seed 17 --servers 3
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import multiprocessing
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from licraft.replication import snapshot
from licraft.replication.library import ALL_GUARDS, Guard
from licraft.testing.disk import MemoryDisk
from licraft.testing.engine_checker import Checker, SafetyBroken
from licraft.testing.engine_faults import Misfortunes
from licraft.testing.engine_member import Member
from licraft.testing.engine_network import Network, Schedule
from licraft.testing.engine_operators import Operators
from licraft.testing.engine_parts import LyingDisk
from licraft.testing.engine_plan import (
    GUARDS,
    MEMBERSHIP,
    NAMES,
    NEW_NAMES,
    SECONDS,
    SWITCHES,
    Plan,
    command_of,
    plan,
)
from licraft.testing.engine_world import Clock, Conditions, Host, World

__all__ = ["Plan", "Result", "SafetyBroken", "Simulation", "main", "plan", "run_plan"]

CALM_S = 2.0
RECOVERY_S = 15.0
NEW_FILE_S = 3.0
HISTORY = 200
PIECE_BYTES = 64
# Pieces are so much smaller than real ones, and so must be the bounds for what waits.
SCALE = 256 * 1024 // PIECE_BYTES
PROGRESS_S = 60.0
REPORTED = (
    "elections",
    "changes of members",
    "kills",
    "power losses",
    "snapshots taken",
    "snapshots installed",
    "commits",
    "outcomes unknown",
    "messages",
)


@dataclass(frozen=True, slots=True)
class Result:
    """What a run has brought: how often what happened, and the digest that tells runs apart."""

    tally: Counter[str]
    virtual_s: float
    recovery_s: float
    fingerprint: str


class Simulation:
    """One run: servers, what they propose, what goes wrong, and what must come of it."""

    def __init__(self, chosen: Plan, history: int | None = HISTORY) -> None:
        """`history` is how many lines of what happened are kept; None for all."""
        self.plan = chosen
        self.history: deque[str] = deque(maxlen=history)
        self.tally: Counter[str] = Counter()
        self._rng = random.Random(f"run {chosen.seed} {chosen.servers}")
        self._schedule = Schedule()
        self._proposed = 0
        self._proposing = True
        self._healed = False
        self._awaited: dict[str, int] = {}
        names = NAMES[: chosen.founders]
        left_out = {GUARDS[name] for name in chosen.without if name in GUARDS}
        if "journal" in chosen.without:
            left_out.add(Guard.SYNC_BEFORE_APPLY)
        self.world = World(
            conditions=Conditions(
                guards=ALL_GUARDS - left_out,
                careful_snapshots="S8" not in chosen.without,
                members_of_the_log="M3" not in chosen.without,
                batch_bytes=chosen.batch_bytes,
                compaction_entries=chosen.compaction_entries,
                compaction_bytes=chosen.compaction_bytes,
                state_bytes=chosen.state_bytes,
                scale=SCALE,
            ),
            schedule=self._schedule,
            clock=Clock(self._schedule),
            network=Network(
                self._schedule, self._rng, chosen.latency_s, stale="S7" in chosen.without
            ),
            checker=Checker(),
            rng=self._rng,
            ended=self._ended,
            elected=self._elected,
            adopted=self._adopted,
            succeeded=self._succeeded,
            tally=self.tally,
        )
        disk = LyingDisk if "journal" in chosen.without else MemoryDisk
        self.hosts = {
            name: Host(name, disk(random.Random(self._rng.getrandbits(64))), rate, file=names)
            for name, rate in zip(names, chosen.clock_rates, strict=False)
        }
        self._faults = Misfortunes(self, self._note, chosen.faults, chosen.pause_s)
        self._operators = Operators(
            self,
            self._note,
            random.Random(f"operators {chosen.seed} {chosen.servers}"),
            list(NEW_NAMES),
            chosen.retry_s,
            chosen.trouble,
            names_once="M4" not in chosen.without,
        )
        self._rolls = 1

    def run(self) -> Result:
        """Go through all of it; raises SafetyBroken."""
        for host in self.hosts.values():
            self.boot(host)
        self._propose()
        if self.plan.changes:
            self._operators.form()
            self._operators.begin(self.plan.changes)
        self._faults.start(CALM_S)
        self._schedule.run(CALM_S + self.plan.seconds)
        recovery_s = self._recover()
        self._settle()
        checker = self.world.checker
        self.tally.update(
            {
                "elections": len(checker.leaders),
                "commits": len(checker.index_of),
                # The first roll is nobody's, the second the founders'.
                "changes of members": max(0, len(checker.rolls) - 2),
                "successes": len(checker.succeeded),
                "not executed": len(checker.never),
                "outcomes unknown": checker.unknown,
                "messages": self.world.network.frames,
            }
        )
        self.tally.update(self._faults.seen)
        return Result(self.tally, self._schedule.now, recovery_s, self._fingerprint())

    def _recover(self) -> float:
        """Mend everything; every server must commit something new soon. Returns how soon."""
        self._note("all is mended")
        healed_at = self._schedule.now
        self._healed = self._operators.over = True
        self._faults.heal()
        self._awaited = dict.fromkeys(self._members(), self._proposed)
        for host in self.hosts.values():
            self.boot(host)
        self._schedule.after(NEW_FILE_S, self._give_new_files)
        if not self._schedule.run(healed_at + RECOVERY_S, lambda: not self._awaited):
            raise SafetyBroken(
                f"{', '.join(self._awaited)} committed nothing within {RECOVERY_S:g} s of healing"
            )
        return self._schedule.now - healed_at

    def _members(self) -> tuple[str, ...]:
        """Those of the pool that must work now: who counts, and who joins or leaves and runs.

        Whoever is of the pool and ever ran is repaired, on its way out too: that it counts no
        more may be known to one server only, which has forgotten it (a commit index need not
        be durable) and needs its vote to learn it again.
        """
        roll = self.world.checker.roll
        if not roll.index:
            return tuple(name for name, host in self.hosts.items() if not host.retired)
        for host in (self.hosts[name] for name in roll.names):
            host.retired = host.retired and not host.starts
        return tuple(name for name in roll.names if not self.hosts[name].retired)

    def _give_new_files(self) -> None:
        """Start those again with a new file who know only servers that are gone."""
        voters = self.world.checker.roll.voters
        for name in list(self._awaited):
            member = self.hosts[name].member
            if member is not None and not member.reaches(voters):
                self._end(member, "it knows only servers that are gone", power=False)
        if self._awaited:
            self._schedule.after(NEW_FILE_S, self._give_new_files)

    def _settle(self) -> None:
        """Without new proposals all servers come to the same state, with all that was promised."""
        self._proposing = False
        self._schedule.run(self._schedule.now + RECOVERY_S, self._agreed)
        self.world.checker.settled(self._states())

    def _agreed(self) -> bool:
        """Whether all have applied what any has, and nobody waits for an outcome any more."""
        end = len(self.world.checker.history) - 1
        return all(
            (member := self.hosts[name].member) is not None
            and member.machine.index == end
            and not member.proposals
            for name in self._members()
        )

    def _states(self) -> dict[str, tuple[int, bytes]]:
        """The state of each server; one that does not run has none."""
        return {
            name: (member.machine.index, member.machine.digest)
            if (member := self.hosts[name].member) is not None
            else (0, b"")
            for name in self._members()
        }

    def _fingerprint(self) -> str:
        """What differs between two runs that are not the same."""
        return f"{self.world.network.fingerprint()}{self._rng.getrandbits(64):016x}"

    # Proposals.

    def _propose(self) -> None:
        """Propose some commands to a server, and later more."""
        if not self._proposing:
            return
        rng = self._rng
        for _ in range(rng.choice(self.plan.bursts)):
            member = self.hosts[rng.choice(list(self.hosts))].member
            command = b"%d %b" % (self.number(), b"." * rng.choice([1, 40]))
            if member is not None and not member.paused:
                timeout_s = rng.choice([0.3, 1.0, 3.0])
                member.at_work(partial(self._ask, member, command, timeout_s))
        self._schedule.after(rng.uniform(0.02, 0.3), self._propose)

    def _ask(self, member: Member, command: bytes, timeout_s: float) -> None:
        member.propose(command, timeout_s)

    def number(self) -> int:
        """A number that no command has yet."""
        self._proposed += 1
        return self._proposed

    def _succeeded(self, server: str, command: bytes) -> None:
        """A server's proposal was committed; was it one that is waited for?"""
        since = self._awaited.get(server)
        if since is not None and int(command.split(b" ")[0]) > since:
            del self._awaited[server]

    # Servers.

    def boot(self, host: Host) -> None:
        """Start a server's process, unless it runs or is retired."""
        # An empty disk may have come in the place of the one that was to be started.
        if host.member is None and not host.retired and self.hosts[host.name] is host:
            if self.plan.changes:
                self._operators.configure(host)
            member = Member(self.world, host)
            member.at_work(member.start)

    def strike_leader(self) -> None:
        """Let some fault hit the leader now."""
        self._faults.strike_leader()

    def end(self, host: Host, why: str, *, power: bool = False) -> None:
        """End the process of a server that runs, or its machine; it starts again by itself."""
        if host.member is not None:
            self._end(host.member, why, power=power)

    def _ended(self, member: Member, why: str) -> None:
        """A process has come to its end within its work."""
        self._end(member, why, power=member.host.loses_power)

    def _end(self, member: Member, why: str, *, power: bool) -> None:
        host, rng = member.host, self._rng
        member.end(power=power)
        member.leave_undone()
        self.tally["power losses" if power else "kills"] += 1
        self._note(f"{host.name} {'lost power' if power else 'ended'}: {why}")
        if power:
            host.disk.lose_power()
        else:
            host.disk.crash()
        host.member = None
        host.disk.on_step = None
        host.fails = host.loses_power = False
        if self._healed:
            self._schedule.after(rng.uniform(0.05, 0.5), self.boot, host)
            return
        if rng.random() < 0.15:
            self._note(f"next {self._faults.arm(host, power=rng.random() < 0.5)}")
        self._schedule.after(rng.uniform(0.05, self.plan.down_s), self.boot, host)

    def _elected(self, member: Member) -> None:
        """A server leads."""
        self._note(f"{member.name} leads term {member.leading()}")
        if self.plan.changes:
            self._compare_majorities()

    def _compare_majorities(self) -> None:
        """Let the checker see all leaders there are, and who could follow them."""
        running = [host.member for host in self.hosts.values() if host.member is not None]
        leaders = [found for member in running if (found := member.leadership) is not None]
        if len(leaders) > 1:
            terms = {name: host.newest_term for name, host in self.hosts.items()}
            self.world.checker.majorities(leaders, terms)

    def _adopted(self, member: Member) -> None:
        """A server counts by other members; if they are new, whoever is gone is not awaited."""
        self._compare_majorities()
        rolls = self.world.checker.rolls
        for roll in rolls[self._rolls :]:
            self._rolls += 1
            self._note(f"{member.name}: {roll}")
            self._operators.changed(roll)
        if self._healed:
            members = self._members()
            for name in [name for name in self._awaited if name not in members]:
                del self._awaited[name]
            for name in members:
                self._schedule.after(0.0, self.boot, self.hosts[name])

    def _note(self, line: str) -> None:
        """Remember what happened, to tell it if something breaks."""
        self.history.append(f"{self._schedule.now:10.4f}  {line}")


def run_plan(chosen: Plan) -> Result:
    """Run a plan; raises SafetyBroken with what happened before and how to run it again."""
    simulation = Simulation(chosen)
    with _surroundings():
        try:
            return simulation.run()
        except SafetyBroken as fault:
            fault.add_note("\n".join(("what happened before:", *simulation.history)))
            fault.add_note(f"{chosen}\nrun it again: {command_of(chosen)}")
            raise


@contextlib.contextmanager
def _surroundings() -> Iterator[None]:
    """Small pieces of snapshots, no log lines, and garbage collected between runs only."""
    pieces, level, collects = snapshot.PIECE_BYTES, logging.root.manager.disable, gc.isenabled()
    snapshot.PIECE_BYTES = PIECE_BYTES
    logging.disable(logging.CRITICAL)
    gc.disable()
    try:
        yield
    finally:
        snapshot.PIECE_BYTES = pieces
        logging.disable(level)
        if collects:
            gc.enable()
        gc.collect()


# The command line.


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one seed: a result, or what broke."""

    chosen: Plan
    result: Result | None
    failure: str


def try_plan(chosen: Plan) -> Outcome:
    """Run a plan; a violation is part of the outcome."""
    try:
        return Outcome(chosen, run_plan(chosen), "")
    except SafetyBroken as fault:
        return Outcome(chosen, None, "\n".join((str(fault), *fault.__notes__)))


def outcomes(plans: Iterable[Plan], jobs: int) -> Generator[Outcome, None, None]:
    """Run plans in `jobs` processes; the outcomes come in the order of the plans."""
    if jobs == 1:
        yield from map(try_plan, plans)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(try_plan, plans, chunksize=4)


class Report:
    """The outcomes so far, in figures."""

    def __init__(self) -> None:
        self.seeds = 0
        self.failures = 0
        self.tally: Counter[str] = Counter()
        self._virtual_s = 0.0
        self._recovery_s = 0.0
        self._started_at = self._told_at = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        """Count an outcome, and tell of a failure at once."""
        self.seeds += 1
        result = outcome.result
        if result is None:
            self.failures += 1
            print(f"seed {outcome.chosen.seed} failed: {outcome.failure}\n", flush=True)
        else:
            self.tally.update(result.tally)
            self._virtual_s += result.virtual_s
            self._recovery_s = max(self._recovery_s, result.recovery_s)
        if time.monotonic() - self._told_at > PROGRESS_S:
            self._told_at = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """One line that says it all."""
        counts = ", ".join(f"{self.tally[name]} {name}" for name in REPORTED)
        return (
            f"{self.seeds} seeds, {self._virtual_s / 3600:.1f} virtual hours, {counts}, "
            f"slowest recovery {self._recovery_s:.1f} virtual s, {self.failures} failures "
            f"({time.monotonic() - self._started_at:.0f} s)"
        )


def main(arguments: list[str]) -> int:
    """Run the seeds of the command line; 1 if any has failed."""
    options = _parser().parse_args(arguments)
    without = frozenset(options.without)
    if options.seed is not None:
        return _tell(
            plan(options.seed, options.servers[0], options.seconds, without, options.membership)
        )
    sizes: list[int] = options.servers
    plans = (
        plan(seed, sizes[seed % len(sizes)], options.seconds, without, options.membership)
        for seed in range(options.first, options.first + options.seeds)
    )
    report = Report()
    with contextlib.closing(outcomes(plans, options.jobs)) as running:
        for outcome in running:
            report.add(outcome)
            if report.failures and options.stop:
                break
    print(report.line())
    return 1 if report.failures else 0


def _tell(chosen: Plan) -> int:
    """Run one seed, and tell all that happened."""
    simulation = Simulation(chosen, history=None)
    try:
        with _surroundings():
            result = simulation.run()
    except SafetyBroken as fault:
        print(*simulation.history, sep="\n")
        print(f"{chosen}\nBROKEN: {fault}")
        return 1
    print(*simulation.history, sep="\n")
    print(f"{chosen}\n{result}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m licraft.testing.engine_simulation",
        description="Simulate the engine of a pool while everything goes wrong.",
    )
    add = parser.add_argument
    add("--seeds", type=int, default=100, help="how many seeds (%(default)s)")
    add("--first", type=int, default=1, help="the first seed (%(default)s)")
    add("--seed", type=int, help="run only this seed, and tell what happened")
    sizes = range(1, len(NAMES) + 1)
    add(
        "--servers",
        type=int,
        nargs="+",
        default=[3],
        choices=sizes,
        metavar="N",
        help="servers of a pool; of several numbers the seeds take turns (3)",
    )
    add("--seconds", type=float, default=SECONDS, help="virtual time with faults (%(default)s)")
    add(
        "--membership",
        choices=MEMBERSHIP,
        default=MEMBERSHIP[0],
        help="which seeds change the pool's members (%(default)s)",
    )
    add("--jobs", type=int, default=1, help="processes (%(default)s)")
    add("--stop", action="store_true", help="end with the first failure")
    add(
        "--without",
        nargs="+",
        default=[],
        choices=SWITCHES,
        metavar="GUARD",
        help=f"what to leave out: {', '.join(SWITCHES)}",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
