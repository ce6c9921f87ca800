"""Hypothesis profiles: `dev` by default, `ci` by HYPOTHESIS_PROFILE=ci; who runs beside whom."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=False, print_blob=True, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

REAL_TIME = {"integration", "contract"}
NICE = 10


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of two workers one gets all that takes real time, and it begins with that."""
    items.sort(key=_computes)
    for item in items:
        if not _computes(item):
            item.add_marker(pytest.mark.xdist_group("real time"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Beside tests that take real time whoever only computes makes way."""
    if "PYTEST_XDIST_WORKER" in os.environ and _computes(item) and os.nice(0) < NICE:
        os.nice(NICE - os.nice(0))


def _computes(item: pytest.Item) -> bool:
    return item.path.relative_to(Path(__file__).parent).parts[0] not in REAL_TIME
