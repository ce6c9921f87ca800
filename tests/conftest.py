"""Hypothesis profiles (see `support.profiles`); who runs beside whom."""

from __future__ import annotations

import os
from typing import Any

import pytest
from support import profiles

profiles.register()

# What takes real time, and not the processor's: each kind is run by one worker, in a row.
REAL_TIME = {
    "tests/integration/test_pool_": "pools",
    "tests/integration/test_engine": "pools",
    "tests/integration/": "clients",
    "tests/contract/": "contract",
}
NICE = 10


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Begin with what takes real time; what computes is for whoever has nothing else to do."""
    from xdist.scheduler import LoadScopeScheduling

    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = lambda test: _kind(test) or test
    return scheduler


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Beside tests that take real time whoever only computes makes way."""
    computes = not _kind(item.nodeid)
    if "PYTEST_XDIST_WORKER" in os.environ and computes and os.nice(0) < NICE:
        os.nice(NICE - os.nice(0))


def _kind(test: str) -> str:
    return next((kind for begin, kind in REAL_TIME.items() if test.startswith(begin)), "")
