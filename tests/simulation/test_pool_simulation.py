"""Whole pools on Raft itself, under faults: fixed seeds, fresh ones, and the tools around them.

LICRAFT_FRESH_S=600 runs fresh seeds for so long (120 s by default, and 0 for none). What a
fresh seed finds is kept in `simulation-failures/`, and its number belongs into FOUND.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner

from simulation import suite
from simulation.holders import SafetyBroken
from simulation.plan import Plan
from simulation.run import try_plan
from simulation.scenarios import SCENARIOS, chosen
from simulation.shrink import shrunk
from simulation.suite import main, run
from simulation.trace import Trace

ROOT = Path(__file__).parents[2]
FRESH_S = float(os.environ.get("LICRAFT_FRESH_S", "120"))
SHORT_S = 120.0
KEPT = ROOT / "simulation-failures"

FOUND: tuple[tuple[int, str], ...] = ()
"""Seeds that broke something once, with their scenarios: they are mended, and stay so."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_nothing_is_broken(scenario: str) -> None:
    _, plan = chosen(1, scenario)
    outcome = try_plan(replace(plan, duration_s=min(SHORT_S, plan.duration_s)))
    assert not outcome.fault, "\n".join((outcome.fault, *outcome.story))
    assert outcome.tally["granted"]
    assert outcome.virtual_s > SHORT_S


@pytest.mark.parametrize(("seed", "scenario"), FOUND)
def test_what_was_found_once_is_mended(seed: int, scenario: str) -> None:
    done = run(seed, scenario)
    assert not done.fault, "\n".join((done.fault, *done.story))


@pytest.mark.skipif(not FRESH_S, reason="LICRAFT_FRESH_S is 0")
@pytest.mark.timeout(FRESH_S + 300)
def test_fresh_seeds_break_nothing() -> None:
    """Other ones each day, as many as there is time for."""
    seed = 1000 * date.today().toordinal()
    until_s = time.monotonic() + FRESH_S
    while time.monotonic() < until_s:
        done = run(seed, "")
        if done.fault:
            suite.report(done, None, KEPT)
            pytest.fail(f"seed {seed}, scenario {done.scenario}: {done.fault} (see {KEPT})")
        seed += 1


@pytest.mark.timeout(180)
def test_a_seed_is_the_same_run_in_another_process() -> None:
    """Whatever order the sets of that process have."""
    program = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from simulation.test_pool_simulation import digests\n"
        "print(*digests())"
    )
    found = {" ".join(digests())}
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        ran = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(ran.stdout.strip())
    assert len(found) == 1


def digests() -> list[str]:
    """The fingerprints of short runs with programs, orders and all faults.

    Some differed once: with the order of a set of names, in the name of a folder, and in how
    tasks end.
    """
    _, short = chosen(3, "governed", duration_s=40.0, servers=3, clients=12, programs=6)
    plans = [short, *(chosen(seed, "usual", duration_s=200.0)[1] for seed in (1, 6, 24))]
    return [try_plan(plan).digest for plan in plans]


def test_a_story_can_be_read() -> None:
    _, plan = chosen(3, "governed", duration_s=40.0, servers=3, clients=12, programs=6)
    story = "\n".join(try_plan(plan, whole=True).story)
    for part in ("InstallLicense(sequence=1) @", "nemesis    ", "order 1 ", " has 1 of "):
        assert part in story


def test_a_failing_plan_is_made_smaller_while_it_fails() -> None:
    """It needs three clients, crashes, and ten seconds."""
    tried: list[Plan] = []

    def fails(plan: Plan) -> bool:
        tried.append(plan)
        return plan.clients >= 3 and "crash" in plan.faults and plan.duration_s >= 10.0

    _, plan = chosen(1, "trickle")
    small = shrunk(plan, fails=fails)
    assert small.faults == ("crash",)
    assert 3 <= small.clients <= 5
    assert (small.duration_s, small.programs, len(small.features)) == (10.0, 0, 1)
    assert len(tried) <= 60


def test_the_tool_sums_up_what_it_ran() -> None:
    ran = CliRunner().invoke(main, ["--seeds", "2:3", "--scenario", "stormy", "--json"])
    assert ran.exit_code == 0, ran.output
    seed, summed = (json.loads(line) for line in ran.output.splitlines())
    assert (seed["seed"], seed["scenario"], seed["fault"]) == (2, "stormy", "")
    assert summed["seeds"] == 1
    assert summed["virtual_hours_per_cpu_hour"] > 0


def test_the_tool_says_how_to_see_a_failure_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(plan: Plan, trace: Trace) -> None:
        trace.tell("nemesis", "the sky falls")
        raise SafetyBroken("10 seats of cad are relied on, 9 are deployed")

    monkeypatch.setattr("simulation.run.run_plan", broken)
    arguments = ["--seeds", "7", "--scenario", "full", "--keep", str(tmp_path)]
    ran = CliRunner().invoke(main, arguments)
    assert ran.exit_code == 1
    assert "python -m tests.simulation --seeds 7 --scenario full --trace" in ran.output
    (kept,) = tmp_path.iterdir()
    assert "the sky falls" in kept.read_text()


@pytest.mark.parametrize("seeds", ["", "x", "5:5", "1:x"])
def test_seeds_that_are_none_are_refused(seeds: str) -> None:
    ran = CliRunner().invoke(main, ["--seeds", seeds])
    assert ran.exit_code == 2
    assert "seed" in ran.output
