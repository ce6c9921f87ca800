"""Hypothesis profiles: `dev` by default, `ci` by HYPOTHESIS_PROFILE=ci; who runs beside whom."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=False, print_blob=True, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

REAL_TIME = ("tests/integration/", "tests/contract/")
NICE = 10


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Have one worker run all that takes real time, first; the other runs what computes."""
    from xdist.scheduler import LoadScopeScheduling

    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = lambda test: "real time" if test.startswith(REAL_TIME) else test
    return scheduler


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Beside tests that take real time whoever only computes makes way."""
    computes = not item.nodeid.startswith(REAL_TIME)
    if "PYTEST_XDIST_WORKER" in os.environ and computes and os.nice(0) < NICE:
        os.nice(NICE - os.nice(0))
