"""Whom a request is brought to: connections are hedged, requests are not."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from licraft.client.contact import HEDGE_S, Contact, Reached, any_within
from licraft.client.routes import Routes
from licraft.client.transport import Answer, Gate, NoAnswer, Transport
from licraft.testing import run_virtual

A, B, C = (f"http://{name}:7700" for name in "abc")
NEVER = 1e6


@dataclass
class Servers:
    """Servers that take a while to be connected to, and to answer; None refuses at once."""

    connect_s: dict[str, float | None]
    answer_s: dict[str, float] = field(default_factory=dict)
    unheard_after_s: float = NEVER
    sent: list[tuple[str, float]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    def send(self, url: str, gate: Gate) -> Coroutine[Any, Any, Answer | NoAnswer]:
        return self._send(url, gate)

    async def _send(self, url: str, gate: Gate) -> Answer | NoAnswer:
        connect_s = self.connect_s[url]
        try:
            if connect_s is None:
                return NoAnswer(url, 0.0, "refused", may_have_arrived=False)
            await asyncio.sleep(connect_s)
            if not gate.enter(url):
                return NoAnswer(url, 0.0, "too late", may_have_arrived=False)
            self.sent.append((url, asyncio.get_running_loop().time()))
            await asyncio.sleep(self.answer_s.get(url, 0.0))
            return Answer(url, 0.0, 200, b"{}")
        except asyncio.CancelledError:
            self.cancelled.append(url)
            raise

    def unheard(self, url: str) -> bool:
        return asyncio.get_running_loop().time() >= self.unheard_after_s


def reach(servers: Servers, routes: Routes | None = None) -> tuple[Reached, float]:
    """Bring a request to a server; what came of it, and how long it took."""

    async def run() -> tuple[Reached, float]:
        loop = asyncio.get_running_loop()
        known = routes or Routes([A, B, C])
        contact = Contact(cast(Transport, servers), known, loop.time)
        reached = await contact.reach(known.walk(loop.time), Gate(), servers.send)
        return reached, loop.time()

    return run_virtual(run())


def test_the_first_server_is_given_its_time_and_nobody_else_is_asked() -> None:
    servers = Servers({A: HEDGE_S - 0.01, B: 0.0, C: 0.0}, {A: 5.0})
    reached, took_s = reach(servers)
    assert isinstance(reached.outcome, Answer)
    assert servers.sent == [(A, HEDGE_S - 0.01)]
    assert took_s == pytest.approx(HEDGE_S + 4.99)
    assert reached.passed_over == ()


def test_the_next_one_is_connected_to_while_the_first_one_hangs() -> None:
    servers = Servers({A: NEVER, B: 0.01, C: 0.0})
    routes = Routes([A, B, C])
    reached, took_s = reach(servers, routes)
    assert [url for url, _ in servers.sent] == [B]
    assert took_s == pytest.approx(HEDGE_S + 0.01)
    assert took_s < 0.5
    assert [passed.url for passed in reached.passed_over] == [A]
    assert servers.cancelled == [A]
    assert routes.order(0.0) == (B, C, A)


@pytest.mark.parametrize("answers_s", [0.0, 3.0])
def test_two_that_are_connected_at_once_do_not_both_get_it(answers_s: float) -> None:
    servers = Servers({A: HEDGE_S, B: 0.0, C: 0.0}, {A: answers_s, B: answers_s})
    reached, _ = reach(servers)
    assert len(servers.sent) == 1
    assert reached.outcome is not None
    assert reached.outcome.url == servers.sent[0][0]


def test_who_refuses_is_passed_over_at_once() -> None:
    servers = Servers({A: None, B: None, C: 0.0})
    reached, took_s = reach(servers)
    assert servers.sent == [(C, 0.0)]
    assert took_s == 0.0
    assert [passed.url for passed in reached.passed_over] == [A, B]


def test_a_slow_connection_is_better_than_none() -> None:
    servers = Servers({A: 0.9, B: None, C: NEVER})
    reached, took_s = reach(servers)
    assert servers.sent == [(A, 0.9)]
    assert took_s == pytest.approx(0.9)
    assert {passed.url for passed in reached.passed_over} == {B, C}


def test_nobody_there() -> None:
    reached, _ = reach(Servers({A: None, B: None, C: None}))
    assert reached.outcome is None
    assert [passed.url for passed in reached.passed_over] == [A, B, C]


def test_a_machine_that_acknowledges_nothing_is_not_waited_for() -> None:
    servers = Servers({A: 0.0, B: 0.0, C: 0.0}, {A: NEVER}, unheard_after_s=0.2)
    reached, took_s = reach(servers)
    assert isinstance(reached.outcome, NoAnswer)
    assert reached.outcome.may_have_arrived
    assert took_s < 0.5
    assert servers.cancelled == [A]


def test_who_gives_up_knows_who_may_have_got_it() -> None:
    servers = Servers({A: NEVER, B: 0.0, C: 0.0}, {B: NEVER})
    gate: list[Gate] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        routes = Routes([A, B, C])
        gate.append(Gate())
        contact = Contact(cast(Transport, servers), routes, loop.time)
        async with asyncio.timeout(2.0):
            await contact.reach(routes.walk(loop.time), gate[0], servers.send)

    with pytest.raises(TimeoutError):
        run_virtual(run())
    assert gate[0].owner == B
    assert sorted(servers.cancelled) == [A, B]


class Busy:
    """Keeps the event loop from doing anything else for a while."""

    def __init__(self, for_s: float) -> None:
        self.for_s = for_s

    def __call__(self) -> None:
        time.sleep(self.for_s)


async def passed_up(reader: asyncio.StreamReader, layers: int) -> bytes:
    """Read a byte, and bring it up through tasks that wait for each other."""
    if not layers:
        return await reader.read(1)
    return await asyncio.create_task(passed_up(reader, layers - 1))


def test_a_program_that_was_busy_itself_does_not_blame_the_server() -> None:
    """The answer had come before the time was over, and could not be read."""

    async def run() -> bool:
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection(*server.getsockname())
        other, _ = server.accept()
        reading = asyncio.create_task(passed_up(reader, 5))
        await asyncio.sleep(0.05)
        other.sendall(b"x")
        loop.call_soon(Busy(0.3))
        try:
            return await any_within([reading], 0.1)
        finally:
            writer.close()
            other.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        assert asyncio.run(run())


def test_a_time_that_is_over_is_over() -> None:
    async def run() -> float:
        loop = asyncio.get_running_loop()
        never: asyncio.Future[None] = loop.create_future()
        assert not await any_within([never], 0.5)
        return loop.time()

    assert run_virtual(run()) == 0.5
