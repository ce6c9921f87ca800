"""The model's promise, on a small part that is searched whole, and what a few rules are for."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.parts import RULES, Part, Rule
from model.suite import is_as_expected
from model.verifier import Result, missing, read, search, search_without

MEMORY_MB = 3000
TIME_S = 100.0
ABSENT = ", ".join(missing())
SMALL = Part("two servers, adoptions", happens=("RENEWALS", "CRASHES", "ADOPTIONS", "RETURNS"))
QUICK = [
    rule
    for rule in RULES
    if rule.name in ("expiry-after-holder", "confirmation", "adopted-once", "recovery")
]
README = (Path(__file__).parent / "README.rst").read_text(encoding="utf-8")
SOURCES = "".join(path.read_text() for path in sorted(Path(__file__).parent.glob("*.pml")))

spins = pytest.mark.skipif(bool(ABSENT), reason=f"the model is searched by {ABSENT}: not installed")


@spins
@pytest.mark.timeout(300)
def test_with_all_rules_no_seat_is_relied_on_twice() -> None:
    verdict = search(SMALL, time_s=TIME_S, memory_mb=MEMORY_MB)
    assert verdict.result is Result.HOLDS, verdict.said
    assert verdict.states > 10_000


@spins
@pytest.mark.timeout(300)
@pytest.mark.parametrize("rule", QUICK, ids=lambda rule: rule.name)
def test_without_a_rule_seats_are_relied_on_twice(rule: Rule) -> None:
    verdict = search_without(rule, time_s=TIME_S, memory_mb=MEMORY_MB)
    assert is_as_expected(rule, verdict), verdict.said
    assert verdict.trail


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_has_its_switch_and_its_line_in_the_readme(rule: Rule) -> None:
    assert f"WITHOUT_{rule.switch}\n" in SOURCES
    assert f"``{rule.name}``" in README


def test_a_search_that_was_cut_short_proves_nothing() -> None:
    whole = "State-vector 60 byte, depth reached 12, errors: 0\n 34 states, stored\n"
    assert read(whole, 1.0).result is Result.HOLDS
    assert read(f"error: max search depth too small\n{whole}", 1.0).result is Result.FAILED
    cut = f"pan: reached -DMEMLIM bound\nWarning: Search not completed\n{whole}"
    assert read(cut, 1.0).result is Result.MEMORY_OVER
    violated = "pan:1: assertion violated (x) (at depth 7)\nWarning: Search not completed\n"
    assert read(violated, 1.0).result is Result.VIOLATED
    assert read("", 1.0).result is Result.FAILED
