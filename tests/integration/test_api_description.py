"""The OpenAPI description is valid, complete, and true of the server."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from api_fakes import ADMIN, TOKENS, FakeService, serving

from licraft import wire
from licraft.api.calls import CALLS, Health
from licraft.api.openapi import EXAMPLES, describe


def test_is_valid_openapi() -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(describe())


def test_describes_every_call_with_examples() -> None:
    document = describe()
    for call in CALLS:
        described = document["paths"][call.path][call.method.lower()]
        assert described["operationId"] == call.name
        assert set(described["responses"]) >= {str(status) for status in call.answers}
        for status, codes in call.problems.items():
            text = described["responses"][str(status)]["description"]
            assert all(f"`{code.value}`" in text for code in codes)
        names = set(re.findall(r"{(\w+)}", call.path))
        assert names == {p.name for p in call.parameters if p.where == "path"}
        if call.request is not None:
            (content,) = described["requestBody"]["content"].values()
            assert content["example"]


def test_examples_are_of_their_types() -> None:
    for name, example in EXAMPLES.items():
        kind: Any = Health if name == "Health" else getattr(wire, name)
        assert msgspec.to_builtins(msgspec.convert(example, kind))


# A body over the bound of bytes may also be over a bound of its schema. JSON Schema takes
# 2.0 for an integer; we refuse it, which only `positive_data_acceptance` minds. What a
# license file may say is the license server's to judge, and the fake takes any. A server
# answers 503 for an index of the log that it has not reached in time.
_TOOL_SETTINGS = """\
[checks]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 413]
positive_data_acceptance.enabled = false
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 503]

[[operations]]
include-path = "/v1/license"
checks.negative_data_rejection.enabled = false
"""


@pytest.fixture
def port() -> Iterator[int]:
    """A server in a thread of its own, for tools that are programs."""
    started: Future[tuple[int, Any]] = Future()

    async def serve() -> None:
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with serving(FakeService(), tokens=TOKENS) as server:
            started.set_result((server.port, lambda: loop.call_soon_threadsafe(done.set)))
            await done.wait()

    thread = threading.Thread(target=lambda: uvloop.run(serve()))
    thread.start()
    port, stop = started.result(timeout=10)
    yield port
    stop()
    thread.join(timeout=10)


def test_a_generic_tool_finds_no_difference(port: int, tmp_path: Path) -> None:
    tool = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("schemathesis is not installed")
    (tmp_path / "schemathesis.toml").write_text(_TOOL_SETTINGS)
    command = [tool, "--config-file", str(tmp_path / "schemathesis.toml"), "run"]
    command += [f"http://127.0.0.1:{port}/v1/openapi.json", "--seed", "1"]
    command += ["--header", f"Authorization: Bearer {ADMIN}"]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", "15"]
    command += ["--max-time", "20", "--request-timeout", "10"]
    finished = subprocess.run(
        command, capture_output=True, text=True, timeout=110, check=False, cwd=tmp_path
    )
    assert finished.returncode == 0, finished.stdout[-6000:] + finished.stderr[-2000:]
