"""The door of a server: how many may be unfinished, whom that costs, and what a failure does."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.attackers import Papers, caller_context

from licraft.replication import listener as listener_module
from licraft.replication.listener import Listener


class Greeter(asyncio.Protocol):
    """Says something to whoever gets in."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"welcome")


async def until(condition: Callable[[], object], timeout_s: float = 8.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.005)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port: int = held.getsockname()[1]
    return port


async def welcome(port: int, tls: ssl.SSLContext | None) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    try:
        async with asyncio.timeout(5.0):
            return await reader.read(100)
    finally:
        writer.transport.abort()


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path / "papers")


def test_of_too_many_who_are_not_done_the_oldest_is_ended(
    papers: Papers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "MAX_HANDSHAKES", 3)

    async def scenario() -> None:
        # So long that none of them is ended for its slowness.
        listener = Listener(Greeter, papers.of("alpha").context(accepts=True), 60.0)
        port = free_port()
        await listener.open("127.0.0.1", port)
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        readers = [reader for reader, _ in silent]
        try:
            await until(lambda: [reader.at_eof() for reader in readers] == [True] * 5 + [False] * 3)
            # Whoever is quick gets in past those who are not.
            for _ in range(5):
                assert await welcome(port, caller_context(papers.of("beta"))) == b"welcome"
        finally:
            for _, writer in silent:
                writer.transport.abort()
            listener.close()

    asyncio.run(scenario())


def test_a_failed_accept_does_not_end_the_listener(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        accept, failures = socket.socket.accept, iter(range(3))

        def out_of_descriptors(sock: socket.socket) -> tuple[socket.socket, object]:
            if next(failures, None) is not None:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return accept(sock)

        monkeypatch.setattr(socket.socket, "accept", out_of_descriptors)
        monkeypatch.setattr(listener_module, "PAUSE_S", 0.01)
        listener = Listener(Greeter, None, 1.0)
        port = free_port()
        await listener.open("127.0.0.1", port)
        try:
            assert await welcome(port, None) == b"welcome"
        finally:
            listener.close()

    asyncio.run(scenario())
    # Said once, not for each of them.
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Too many open files" in caplog.text


def test_who_closes_it_gives_the_port_back(papers: Papers) -> None:
    async def scenario() -> None:
        port = free_port()
        for _ in range(3):
            listener = Listener(Greeter, papers.of("alpha").context(accepts=True), 60.0)
            await listener.open("localhost", port)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            listener.close()
            # Those who were not done are ended, too.
            async with asyncio.timeout(5.0):
                assert await reader.read() == b""
            writer.transport.abort()

    asyncio.run(scenario())


def test_an_address_in_use_is_an_error_that_leaves_nothing_open() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as held:
            port = held.getsockname()[1]
            listener = Listener(Greeter, None, 1.0)
            with pytest.raises(OSError, match="in use"):
                await listener.open("127.0.0.1", port)
        again = Listener(Greeter, None, 1.0)
        await again.open("127.0.0.1", port)
        assert await welcome(port, None) == b"welcome"
        again.close()

    asyncio.run(scenario())
