"""What the protocol builds on is there in uvicorn: an upgrade that changes it fails here."""

from __future__ import annotations

import inspect

import pytest
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from licraft.api.protocol import LicenseProtocol, ReadGate, Shared
from licraft.api.replies import TITLES
from licraft.core.outcomes import Code


@pytest.mark.parametrize("kind", [LicenseProtocol, ReadGate])
def test_what_is_overridden_exists(kind: type) -> None:
    base = kind.__mro__[1]
    calls_super = [
        name
        for name, member in vars(kind).items()
        if inspect.isfunction(member) and not name.startswith("_") and name != "sweep"
    ]
    assert calls_super
    for name in calls_super:
        assert callable(getattr(base, name)), name


@pytest.mark.parametrize("name", ["connections", "tasks", "default_headers"])
def test_server_state(name: str) -> None:
    assert name in inspect.getsource(ServerState)
    assert issubclass(Shared, ServerState)


def test_one_pipeline_whose_newest_is_on_the_left() -> None:
    source = inspect.getsource(HttpToolsProtocol)
    assert "self.pipeline.appendleft((self.cycle, app))" in source
    assert "self.pipeline.pop()" in source


@pytest.mark.parametrize(
    "name",
    [
        "disconnected",
        "keep_alive",
        "message_event",
        "more_body",
        "response_complete",
        "response_started",
    ],
)
def test_cycle(name: str) -> None:
    assert f"self.{name} = " in inspect.getsource(RequestResponseCycle.__init__)


@pytest.mark.parametrize("name", ["read_paused", "write_paused"])
def test_flow_control(name: str) -> None:
    assert f"self.{name} = False" in inspect.getsource(FlowControl)


def test_the_application_is_taken_from_the_protocol() -> None:
    assert "self.on_response_complete" in inspect.getsource(httptools_impl)


def test_every_code_has_a_title() -> None:
    assert set(TITLES) == set(Code)
