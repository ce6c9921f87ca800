"""Every test that a page of documentation names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from simulation.client_mutations import OF_CLIENTS, OF_THE_TABLE
from simulation.mutations import OF_SERVERS
from simulation.scenarios import SCENARIOS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.rst"))
_TEST = re.compile(r"``(tests/[\w/]+\.py)::(\w+)``")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tests_that_a_page_names_exist(page: Path) -> None:
    named = _TEST.findall(page.read_text(encoding="utf-8"))
    assert named
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).exists()
        or not re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.M)
    ]
    assert missing == []


def test_the_page_of_correctness_has_every_planted_fault() -> None:
    page = (ROOT / "docs" / "correctness.rst").read_text(encoding="utf-8")
    planted = [*OF_SERVERS, *OF_THE_TABLE, *OF_CLIENTS]
    told = [(m.name, "its scenario" if m.scenario else f"{m.seeds} seeds") for m in planted]
    assert re.findall(r"   \* - ([^`\n]+)\n     - (its scenario|\d+ seeds)\n", page) == told
    assert len(told) >= 25


def test_the_page_of_correctness_names_every_scenario_and_checker() -> None:
    page = (ROOT / "docs" / "correctness.rst").read_text(encoding="utf-8")
    for scenario in SCENARIOS:
        assert f"``{scenario}``" in page
    checkers = (ROOT / "tests" / "simulation" / "checkers").glob("*.py")
    for name in sorted({path.stem for path in checkers} - {"__init__", "all", "entry"}):
        assert re.search(rf"``(checkers/)?{name}``", page), name
