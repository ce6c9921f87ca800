"""Searches the model and prints what was found: `python -m tests.model`.

May import this folder. Exit status 0 if all rules together hold and each rule is missed as it
has to be, 1 if not, 2 for wrong usage or if spin or a C compiler is missing.
"""

from __future__ import annotations

import sys

import click

from model.parts import LATE, MOVES, RULES, SEATS, THREE, TWO, Part, Rule
from model.verifier import NotBuilt, Result, Verdict, missing, search, search_without

_WHOLE = {"two": TWO, "late": LATE, "moves": MOVES, "three": THREE, "seats": SEATS}
_TITLE = (
    f"{'rule removed':<21} {'part of the model':<34} {'states':>11} {'depth':>9} {'seconds':>8}"
    f" {'MB':>6}  outcome"
)


@click.command(help="Search the model of the seats: with all rules, and without each of them.")
@click.option("--show", "shown", metavar="RULE", help="Only print the trail that misses this rule.")
@click.option(
    "--rule", "named", multiple=True, metavar="RULE", help="Only remove this; repeatable."
)
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice(sorted(_WHOLE)),
    help="Only search this part with all rules; repeatable.",
)
@click.option("--minutes", default=20.0, show_default=True, help="The most that one search takes.")
@click.option("--memory-mb", default=8000, show_default=True, help="The most that it may keep.")
def main(
    shown: str | None,
    named: tuple[str, ...],
    parts: tuple[str, ...],
    minutes: float,
    memory_mb: int,
) -> None:
    """Search what the command line says."""
    if absent := missing():
        click.echo(f"missing: {', '.join(absent)} (Debian: apt-get install spin gcc)", err=True)
        sys.exit(2)
    if shown is not None:
        named = (shown,)
    rules = {rule.name: rule for rule in RULES}
    if unknown := [name for name in named if name not in rules]:
        click.echo(f"no such rule: {', '.join(unknown)}; there are\n  ", nl=False, err=True)
        click.echo("\n  ".join(rules), err=True)
        sys.exit(2)
    removed = [rules[name] for name in named]
    whole = [_WHOLE[name] for name in parts]
    if not named and not parts:
        removed, whole = list(RULES), list(_WHOLE.values())
    try:
        if shown is not None:
            sys.exit(_show(removed[0], minutes * 60.0, memory_mb))
        wrong = _table(whole, removed, minutes * 60.0, memory_mb)
    except NotBuilt as fault:
        click.echo(str(fault), err=True)
        sys.exit(2)
    click.echo(f"{len(whole) + len(removed)} searches, {wrong} not as they have to be")
    sys.exit(1 if wrong else 0)


def is_as_expected(rule: Rule, verdict: Verdict) -> bool:
    """Whether the removal of a rule was noticed, if it has to be."""
    return verdict.result is (Result.HOLDS if rule.harmless else Result.VIOLATED)


def _table(whole: list[Part], removed: list[Rule], time_s: float, memory_mb: int) -> int:
    """Make the searches and print a line for each; returns how many are not as they should be."""
    click.echo(_TITLE)
    wrong = 0
    for part in whole:
        verdict = search(part, time_s=time_s, memory_mb=memory_mb)
        wrong += _row("(none)", part, verdict, verdict.result is Result.HOLDS)
    for rule in removed:
        verdict = search_without(rule, time_s=time_s, memory_mb=memory_mb)
        wrong += _row(rule.name, rule.part, verdict, is_as_expected(rule, verdict))
    return wrong


def _row(name: str, part: Part, verdict: Verdict, expected: bool) -> int:
    """Print one search; 1 if it did not find what it should, else 0."""
    outcome: str = verdict.result
    if verdict.trail:
        outcome += f" of {len(verdict.trail)} events"
    if not expected:
        outcome += "  NOT AS EXPECTED"
    click.echo(
        f"{name:<21} {part.name:<34} {verdict.states:>11,} {verdict.depth:>9,}"
        f" {verdict.seconds:>8.1f} {verdict.memory_mb:>6,}  {outcome}"
    )
    if verdict.said:
        click.echo(verdict.said)
    return 0 if expected else 1


def _show(rule: Rule, time_s: float, memory_mb: int) -> int:
    """Print the trail of the counterexample that a removed rule has."""
    verdict = search_without(rule, time_s=time_s, memory_mb=memory_mb)
    click.echo(f"Without the rule that {rule.says}: {verdict.result}")
    if rule.part.begun:
        granted = rule.part.seats // rule.part.count
        click.echo(
            f"At the beginning server 0 has all {rule.part.seats} seats, and has granted"
            f" {granted} of {rule.part.holders} authorizations"
        )
    for number, event in enumerate(verdict.trail, 1):
        click.echo(f"{number:>3}. {event}")
    if verdict.trail:
        click.echo(f"     and more seats are relied on than there are: {rule.part.seats}")
    return 0 if is_as_expected(rule, verdict) else 1
