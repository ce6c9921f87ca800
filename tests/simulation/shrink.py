"""Looks for a smaller plan that fails as well: fewer faults, clients, servers, less time.

May import `run` and `plan`. Each step takes something away and keeps that if the plan still
fails; it ends when nothing can be taken away any more, or after `TRIES` runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from simulation.plan import FAULTS, Plan
from simulation.run import try_plan

TRIES = 60


def shrunk(
    failing: Plan,
    tell: Callable[[str], object] = lambda text: None,
    fails: Callable[[Plan], bool] = lambda plan: bool(try_plan(plan).fault),
    tries: int = TRIES,
) -> Plan:
    """The smallest plan found that fails; `failing` itself if nothing smaller does."""
    left = tries
    again = True
    while again:
        again = False
        for smaller in _smaller(failing):
            if not left:
                return failing
            left -= 1
            if fails(smaller):
                tell(f"fails as well: {_difference(failing, smaller)}")
                failing, again = smaller, True
                break
    return failing


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Plans with something less, the largest steps first."""
    for part in (4, 2):
        if plan.duration_s > 10.0:
            yield replace(plan, duration_s=max(10.0, plan.duration_s / part))
        if plan.clients > 1:
            clients = max(1, plan.clients // part)
            yield replace(plan, clients=clients, programs=min(plan.programs, clients))
    if plan.programs:
        yield replace(plan, programs=0)
        yield replace(plan, programs=plan.programs // 2)
    faults = tuple(dict.fromkeys(plan.faults or FAULTS))
    if len(faults) > 1:
        middle = len(faults) // 2
        yield replace(plan, faults=faults[:middle])
        yield replace(plan, faults=faults[middle:])
        for fault in faults:
            yield replace(plan, faults=tuple(other for other in faults if other != fault))
    if len(plan.features) > 1:
        first = next(iter(plan.features))
        yield replace(plan, features={first: plan.features[first]})
    calm = replace(plan, naps=0.0, hedges=0.0, wanders=0.0)
    if calm != plan:
        yield calm


def _difference(before: Plan, after: Plan) -> str:
    changed = (name for name in Plan.__dataclass_fields__)
    return ", ".join(
        f"{name} {getattr(after, name)}"
        for name in changed
        if getattr(before, name) != getattr(after, name)
    )
