"""`licraft.vendor`: what shops import to issue codes; its example runs, its import is light."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import licraft.vendor


def test_the_example_of_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = doctest.testmod(licraft.vendor, optionflags=doctest.FAIL_FAST)
    assert done.attempted > 10
    assert done.failed == 0
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == [
        "vendor.key",
        "vendor.pub",
    ]


def test_everything_that_it_exports_is_there_and_documented() -> None:
    assert "make_code" in licraft.vendor.__all__
    for name in licraft.vendor.__all__:
        assert getattr(licraft.vendor, name).__doc__, name


def test_importing_it_loads_nothing_of_a_server_a_client_or_the_command_line() -> None:
    program = "import licraft.vendor, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    loaded = set(done.stdout.split())
    assert "licraft.vendor.codes" in loaded
    heavy = {"asyncio", "click", "httpx", "pydantic", "pysyncobj", "rich", "starlette", "uvicorn"}
    assert loaded & heavy == set()
    rooms = {name.split(".")[1] for name in loaded if name.startswith("licraft.")}
    assert rooms == {"core", "errors", "vendor", "wire", "yaml_text"}
