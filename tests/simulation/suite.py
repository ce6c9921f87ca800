"""Runs seeds of the pool's simulation, on all processors, and reports: `make simulate`.

May import this folder. Exit status 0 if no promise was broken, 1 if one was, 2 for wrong
usage.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from simulation.run import Outcome, try_plan
from simulation.scenarios import SCENARIOS, chosen
from simulation.shrink import shrunk

_REPORTED_FAILURES = 5


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one seed, as it goes from one process to another."""

    seed: int
    scenario: str
    tally: Counter[str]
    virtual_s: float
    cpu_s: float
    digest: str
    fault: str = ""
    story: tuple[str, ...] = ()


def run(seed: int, scenario: str, whole: bool = False) -> Run:
    """Run one seed in this process."""
    name, plan = chosen(seed, scenario)
    begun_s = time.process_time()
    with _undisturbed():
        outcome: Outcome = try_plan(plan, whole=whole)
    cpu_s = time.process_time() - begun_s
    return Run(
        seed,
        name,
        outcome.tally,
        outcome.virtual_s,
        cpu_s,
        outcome.digest,
        outcome.fault,
        tuple(outcome.story) if whole or outcome.fault else (),
    )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Nothing is logged, since what goes wrong is meant to, and garbage is collected in the end."""
    level, collects = logging.root.manager.disable, gc.isenabled()
    logging.disable(logging.CRITICAL)
    gc.disable()
    try:
        yield
    finally:
        logging.disable(level)
        if collects:
            gc.enable()
        gc.collect()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", default="1:20", help="A:B is A to B - 1; a number is that one.")
@click.option("--minutes", type=float, help="Begin no further seed after so long.")
@click.option("--scenario", type=click.Choice(sorted(SCENARIOS)), help="For all seeds.")
@click.option("--jobs", type=int, default=os.cpu_count() or 1, show_default="all processors")
@click.option("--json", "as_json", is_flag=True, help="A line for each seed, then the sum.")
@click.option("--trace", is_flag=True, help="Print the whole story of each seed.")
@click.option("--keep", type=click.Path(path_type=Path), help="Where stories of failures go.")
@click.option("--shrink", is_flag=True, help="Look for a smaller plan that fails as well.")
def main(
    seeds: str,
    minutes: float | None,
    scenario: str | None,
    jobs: int,
    as_json: bool,
    trace: bool,
    keep: Path | None,
    shrink: bool,
) -> None:
    """Simulate whole pools of license servers under faults, one for each seed."""
    wanted = _range(seeds)
    begun_s = time.monotonic()
    until_s = begun_s + 60 * minutes if minutes is not None else float("inf")
    runs: list[Run] = []
    # Whoever has seen enough is told what there was.
    with suppress(KeyboardInterrupt):
        for done in _all(wanted, scenario or "", jobs, trace, until_s):
            runs.append(done)
            if as_json:
                click.echo(json.dumps(_line(done)))
            if trace:
                click.echo("\n".join(done.story))
                click.echo(f"digest {done.digest}")
            if done.fault:
                report(done, scenario, keep)
    summed = _sum(runs, time.monotonic() - begun_s)
    click.echo(json.dumps(summed) if as_json else _table(summed))
    failed = [done for done in runs if done.fault]
    if failed and shrink:
        _, plan = chosen(failed[0].seed, scenario or "")
        small = shrunk(plan, tell=click.echo)
        click.echo(f"the smallest that fails: {small}")
    sys.exit(1 if failed else 0)


def _range(text: str) -> range:
    first, _, end = text.partition(":")
    try:
        found = range(int(first), int(end) if end else int(first) + 1)
    except ValueError:
        raise click.BadParameter(
            f"{text!r}: expected A:B or a number", param_hint="--seeds"
        ) from None
    if not found:
        raise click.BadParameter(f"{text!r} has no seed in it", param_hint="--seeds")
    return found


def _all(seeds: range, scenario: str, jobs: int, whole: bool, until_s: float) -> Iterator[Run]:
    """Run seeds as long as there is time, in the order in which they end."""
    if jobs == 1 or len(seeds) == 1:
        for seed in seeds:
            if time.monotonic() < until_s:
                yield run(seed, scenario, whole)
        return
    left = iter(seeds)
    with ProcessPoolExecutor(jobs) as workers:
        running: set[Future[Run]] = set()
        while True:
            while len(running) < jobs and time.monotonic() < until_s:
                try:
                    running.add(workers.submit(run, next(left), scenario, whole))
                except StopIteration:
                    break
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


def _line(done: Run) -> dict[str, Any]:
    return {
        "seed": done.seed,
        "scenario": done.scenario,
        "virtual_s": round(done.virtual_s),
        "cpu_s": round(done.cpu_s, 2),
        "digest": done.digest,
        "fault": done.fault,
    }


def report(done: Run, scenario: str | None, keep: Path | None) -> None:
    """Say what broke, and how to see it again."""
    named = f" --scenario {scenario}" if scenario else ""
    story = "\n".join(done.story)
    text = (
        f"seed {done.seed}, scenario {done.scenario}, commit {_commit()}: {done.fault}\n"
        f"{story}\n"
        f"replay: python -m tests.simulation --seeds {done.seed}{named} --trace\n"
    )
    click.echo(text, err=True)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{done.scenario}-{done.seed}.txt").write_text(text)


def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def _sum(runs: list[Run], wall_s: float) -> dict[str, Any]:
    tally: Counter[str] = Counter()
    for done in runs:
        tally.update(done.tally)
    virtual_s, cpu_s = sum(r.virtual_s for r in runs), sum(r.cpu_s for r in runs)
    return {
        "commit": _commit(),
        "seeds": len(runs),
        "failed": [r.seed for r in runs if r.fault],
        "virtual_hours": round(virtual_s / 3600, 2),
        "cpu_hours": round(cpu_s / 3600, 4),
        "virtual_hours_per_cpu_hour": round(virtual_s / cpu_s, 1) if cpu_s else 0.0,
        "wall_s": round(wall_s, 1),
        "scenarios": dict(sorted(Counter(r.scenario for r in runs).items())),
        "happened": dict(sorted(tally.items())),
    }


def _table(summed: dict[str, Any]) -> str:
    happened = summed.pop("happened")
    head = [f"{name:<28} {value}" for name, value in summed.items()]
    return "\n".join([*head, "", *(f"{times:>12} {name}" for name, times in happened.items())])
