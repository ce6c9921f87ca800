"""What the benchmarks say about figures and machines, and their probe of the event loop."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from benchmarks.figures import Spread, is_optimized, machine, machine_line
from benchmarks.lag import LagProbe, Pause
from benchmarks.wrk_load import table


def test_the_percentile_is_a_value_that_was_measured() -> None:
    assert Spread.of([float(n) for n in range(1, 101)]) == Spread(100, 50.5, 99.0, 100.0)
    assert Spread.of([3.0]) == Spread(1, 3.0, 3.0, 3.0)
    assert Spread.of([2.0, 9.0, 1.0]) == Spread(3, 2.0, 9.0, 9.0)


@pytest.mark.parametrize(
    ("arguments", "optimized"),
    [
        ("'--enable-optimizations' '--with-lto'", True),
        ("'--enable-shared' '--prefix=/usr'", False),
        ("", False),
        (None, False),
    ],
)
def test_a_python_says_how_it_was_configured(arguments: str | None, optimized: bool) -> None:
    assert is_optimized(arguments) is optimized


def test_the_machine_is_named_with_its_python_and_how_that_was_built() -> None:
    line = machine_line()
    assert str(machine()["python"]) in line
    assert ("WITHOUT --enable-optimizations" in line) is not machine()["optimized_python"]


def test_a_table_has_aligned_columns() -> None:
    assert table(["a", "bb"], [["xxx", "1"]]).splitlines() == ["a    bb", "---  --", "xxx   1"]


async def _probed(seconds: float, part: str) -> list[Pause]:
    probe = LagProbe()
    try:
        await asyncio.sleep(0.005)
        probe.forget()
        with probe.part(part):
            time.sleep(seconds)  # noqa: ASYNC251  # What blocks the loop is what is looked for.
        gc.collect()
        await asyncio.sleep(0.005)
        return probe.pauses
    finally:
        probe.close()


def test_a_loop_that_stands_still_is_noticed_and_told_what_for() -> None:
    pauses = asyncio.run(_probed(0.05, "sleeping"))
    longest = max(pauses, key=lambda pause: pause.wall_ms)
    assert longest.wall_ms >= 49
    assert longest.parts_ms["sleeping"] >= 49
    assert longest.parts_ms["garbage"] > 0
    assert longest.cpu_ms < longest.wall_ms - 40  # Sleeping costs no processor time.


def test_a_probe_that_is_closed_hears_of_no_collection() -> None:
    before = len(gc.callbacks)
    asyncio.run(_probed(0.0, "nothing"))
    assert len(gc.callbacks) == before
