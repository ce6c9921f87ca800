"""Fixtures: pools of real server processes, with their logs beside a failure.

A test module takes them by `pytest_plugins = ["support.pool_fixtures"]`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.processes import MakePool, ServerPool

_open: list[ServerPool] = []


def _make(directory: Path, counts: dict[str, int] | None, options: dict[str, Any]) -> ServerPool:
    pool = ServerPool(directory, **options)
    _open.append(pool)
    pool.start()
    pool.wait_ready()
    if counts:
        pool.install(counts)
    return pool


def _close(pools: list[ServerPool]) -> None:
    for pool in pools:
        pool.close()
        _open.remove(pool)


@pytest.fixture
def make_pool(tmp_path: Path) -> Iterator[MakePool]:
    """Make a pool that runs and is ready: `make_pool({"cad": 100}, servers=3, ttl_s=6.0)`."""
    pools: list[ServerPool] = []

    def make(counts: dict[str, int] | None = None, **options: Any) -> ServerPool:
        before = len(_open)
        try:
            return _make(tmp_path / f"pool{len(pools)}", counts, options)
        finally:
            pools.extend(_open[before:])

    yield make
    _close(pools)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerPool]:
    """A pool of three for all tests of a module that leave it as they found it.

    It has 100 seats of cad, 30 of sim and 7 of cam.
    """
    yield from _for_a_module(tmp_path_factory.mktemp("calm"))


@pytest.fixture(scope="module")
def enduring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerPool]:
    """A pool like `calm` for all tests of a module, which may change it and kill its servers.

    They leave all of its servers started.
    """
    yield from _for_a_module(tmp_path_factory.mktemp("enduring"))


def _for_a_module(directory: Path) -> Iterator[ServerPool]:
    before = len(_open)
    try:
        yield _make(directory / "pool", {"cad": 100, "sim": 30, "cam": 7}, {})
    finally:
        _close(_open[before:])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, Any]:
    """Show the ends of the servers' logs beside a failure."""
    report = yield
    if report.failed:
        for pool in _open:
            report.sections.append((f"servers of {pool.directory}", pool.logs()))
    return report
