"""Scripted license servers on loopback, for tests of the client module and the commands."""

from __future__ import annotations

import asyncio
import ctypes
import json
import socket
import ssl
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

Body = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """Answer with this; a callable body is given the request's body."""

    status: int = 200
    body: Body | Callable[[Body], Body] | bytes | None = None
    after_s: float = 0.0
    headers: str = ""


@dataclass(frozen=True)
class Lose:
    """Do what was asked, then close the connection without an answer."""


@dataclass(frozen=True)
class Hang:
    """Never answer."""


Step = Reply | Lose | Hang | None  # None: do what was asked, and answer it


@dataclass
class FakeServer:
    """A license server that does what a test says, and otherwise grants and renews."""

    name: str
    pool: FakePool
    port: int = 0
    script: dict[str, deque[Step]] = field(default_factory=dict)
    always: dict[str, Step] = field(default_factory=dict)
    requests: list[tuple[str, Body]] = field(default_factory=list)
    granted: dict[str, Body] = field(default_factory=dict)
    listener: asyncio.Server | None = None
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"{'http' if self.pool.tls is None else 'https'}://127.0.0.1:{self.port}"

    def plan(self, path: str, *steps: Step) -> None:
        self.script.setdefault(path, deque()).extend(steps)

    def calls(self, path: str) -> list[Body]:
        return [body for asked, body in self.requests if asked == path]

    async def start(self) -> None:
        self.listener = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self.pool.tls
        )
        self.port = self.listener.sockets[0].getsockname()[1]

    def stop(self) -> None:
        async def stop() -> None:
            assert self.listener is not None
            self.listener.close()
            for writer in list(self.writers):
                writer.transport.abort()

        self.pool.run(stop())

    def vanish(self) -> None:
        """Be as a machine without power: what arrives is neither answered nor acknowledged."""

        async def vanish() -> None:
            assert self.listener is not None
            drop_all(self.listener.sockets[0].fileno())
            for writer in self.writers:
                drop_all(writer.get_extra_info("socket").fileno())

        self.pool.run(vanish())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            (int(h.split(":")[1]) for h in head.split("\r\n") if h.lower().startswith("content-l")),
            0,
        )
        method, target, _ = head.split(" ", 2)
        raw = await reader.readexactly(length)
        body = json.loads(raw) if raw[:1] == b"{" else {"text": raw.decode()}
        path = target.split("?")[0]
        self.requests.append((path, {**body, "_method": method, "_target": target, "_head": head}))
        steps = self.script.get(path)
        step = steps.popleft() if steps else self.always.get(path)
        if isinstance(step, Hang):
            await asyncio.sleep(3600)
        if isinstance(step, Reply):
            await asyncio.sleep(step.after_s)
            answer = step.body(body) if callable(step.body) else step.body
            self._write(writer, step.status, answer, step.headers)
            return True
        status, answer = self._do(path, body)
        if isinstance(step, Lose):
            return False
        self._write(writer, status, answer, "")
        return True

    def _write(
        self, writer: asyncio.StreamWriter, status: int, body: Body | bytes | None, headers: str
    ) -> None:
        data = (
            body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        )
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-length: {len(data)}\r\n{headers}\r\n".encode() + data
        )

    def _do(self, path: str, body: Body) -> tuple[int, Body]:
        if path == "/v1/authorizations":
            known = body["id"] in self.granted
            if not known:
                self.granted[body["id"]] = self.authorization(body)
            return (200 if known else 201), self.granted[body["id"]]
        if path == "/v1/heartbeats":
            return 200, {
                "results": [
                    {"id": token.split("|")[0], "status": "renewed", "ttl": self.pool.ttl}
                    for token in body["tokens"]
                ]
            }
        if path == "/v1/checkins":
            ids = [token.split("|")[0] for token in body["tokens"]]
            for id in ids:
                self.granted.pop(id, None)
            return 200, {"released": ids, "unknown": []}
        return 404, {"status": 404, "code": "not_found", "detail": f"no {path}"}

    def authorization(self, body: Body) -> Body:
        return {
            "id": body["id"],
            "token": f"{body['id']}|{self.name}|1",
            "feature": body["feature"],
            "count": body.get("count", 1),
            "server": self.name,
            "ttl": self.pool.ttl,
            "heartbeat": self.pool.ttl / 3,
            "granted_at": "2026-11-21T12:00:00Z",
            "servers": self.pool.servers(),
        }


class FakePool:
    """Some fake servers on one background loop."""

    def __init__(self, count: int = 3, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.ttl = 60.0
        self.version = 1
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.members = [FakeServer(name, self) for name in ("alpha", "beta", "gamma")[:count]]
        for server in self.members:
            self.run(server.start())

    def run(self, work: Awaitable[Any]) -> Any:
        async def wrapped() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(wrapped(), self.loop).result(10)

    def servers(self) -> Body:
        return {
            "version": self.version,
            "list": [
                {"name": s.name, "url": s.url, "role": "follower", "state": "up"}
                for s in self.members
            ],
        }

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.members]

    def close(self) -> None:
        async def cancel() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        for server in self.members:
            server.stop()
        self.run(cancel())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


SO_ATTACH_FILTER = 26  # asm-generic/socket.h
DROP = struct.pack("=HBBI", 0x06, 0, 0, 0)  # linux/bpf_common.h: return 0 bytes of each packet


def drop_all(descriptor: int) -> None:
    """Have the kernel drop whatever arrives at a socket (socket(7)), before it is acknowledged."""
    if sys.platform != "linux":
        pytest.skip("needs Linux")
    code = ctypes.create_string_buffer(DROP)
    program = struct.pack("@HP", 1, ctypes.addressof(code))
    with socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as own:
        own.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


class ManualClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def eventually(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait until `condition()` is true; fail when it is not within `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.005)
