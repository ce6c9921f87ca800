"""The product without one of its rules: what `test_simulation_notices` removes, one at a time.

May import the standard library. A mutation names the rule that it removes, what stands in its
place, and the plans in which that is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch


@dataclass(frozen=True)
class Mutation:
    """A rule less: where, what stands there instead, and what shows it.

    That is one of the first `seeds` runs of `plan`, or the `scenario` if there is one.
    """

    name: str
    replaced: dict[tuple[object | str, str], Callable[..., object]]
    seeds: int = 1
    plan: dict[str, Any] = field(default_factory=dict)
    scenario: Callable[[], None] | None = None
    slow: bool = False


@contextmanager
def mutated(mutation: Mutation) -> Iterator[None]:
    """The product without one of its rules."""
    with ExitStack() as patches:
        for (where, name), instead in mutation.replaced.items():
            if isinstance(where, str):
                patches.enter_context(patch(f"{where}.{name}", instead))
            else:
                patches.enter_context(patch.object(where, name, instead))
        yield
