"""How hard hypothesis tries: profiles `dev`, `ci` and `nightly`, and a test's share of one.

May import hypothesis and the standard library. `dev` is quick and looks elsewhere each time;
`ci` tries more, and the same in each run, so that a failure is the change's own; `nightly`
tries far more at random, prints the blob that repeats a failure, and keeps what it found.
Chosen by HYPOTHESIS_PROFILE or, before that, by pytest's --hypothesis-profile.
"""

from __future__ import annotations

import os

from hypothesis import Phase, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

EXAMPLES = {"dev": 25, "ci": 100, "nightly": 3000}
STEPS = 50
"""How many steps a machine takes in an example, unless it says otherwise."""


def register() -> None:
    """Make the profiles known and load the chosen one; to be called before tests are imported."""
    # No deadline anywhere: how long an example takes says more about who else computes.
    settings.register_profile("dev", deadline=None, max_examples=EXAMPLES["dev"])
    settings.register_profile(
        "ci",
        deadline=None,
        max_examples=EXAMPLES["ci"],
        derandomize=True,
        print_blob=True,
        database=None,
    )
    settings.register_profile(
        "nightly",
        deadline=None,
        max_examples=EXAMPLES["nightly"],
        derandomize=False,
        print_blob=True,
        database=DirectoryBasedExampleDatabase(".hypothesis/examples"),
    )
    settings.load_profile(chosen())


def chosen() -> str:
    """The profile that the environment asks for: `ci` where a CI service says it is one."""
    return os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")


def examples(share: float = 1.0, *, steps: int = STEPS) -> settings:
    """So many times the examples of the profile: less for costly ones, more for quick ones."""
    count = max(1, round(settings().max_examples * share))
    return settings(max_examples=count, stateful_step_count=steps)


def notices(machine: type[RuleBasedStateMachine]) -> bool:
    """Whether a machine fails within what `ci` tries: for faults that were planted.

    It stops at the first failure, as it is: nobody reads a small one of a planted fault.
    """
    of_its_own = machine.TestCase.settings
    share = of_its_own.max_examples / settings().max_examples
    tried = settings(
        of_its_own,
        max_examples=max(1, round(EXAMPLES["ci"] * share)),
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        print_blob=False,
        report_multiple_bugs=False,
    )
    try:
        run_state_machine_as_test(machine, settings=tried)
    except Exception:  # noqa: BLE001  # Whatever a fault does to the product is a failure.
        return True
    return False
