"""Which way of answering HTTP is fast enough for the client calls?

The same trivial license service is served three ways, each in its own process on
one core, and driven by wrk on another, in turn, several times in one run:

    fast     licraft's protocol, which answers the client calls from the parser
    asgi     the same server with that way switched off: uvicorn and ASGI
    aiohttp  the same service as aiohttp handlers, if aiohttp is installed

Usage: python -m benchmarks.http_stack [--connections 64] [--seconds 4] [--runs 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from benchmarks.figures import machine, machine_line
from benchmarks.wrk_load import Load, median_of, pinned, run_wrk, table
from licraft.api.access import Tokens
from licraft.api.server import ApiServer
from licraft.wire import (
    Authorization,
    CheckinAnswer,
    CheckinRequest,
    CheckoutRequest,
    ServerEntry,
    ServerList,
)

_TOKEN = "benchmark-client-token"
_SERVERS = ServerList(
    version=1,
    list=[
        ServerEntry(name=name, url=f"http://127.0.0.1:{port}", role=role, state="up")
        for name, port, role in [
            ("alpha", 7700, "leader"),
            ("beta", 7701, "follower"),
            ("gamma", 7702, "follower"),
        ]
    ],
)


class TrivialService:
    """Answers with as much text as a license server does, and decides nothing."""

    def settle(self) -> None:
        """Nothing to write down."""

    def checkout(self, request: CheckoutRequest) -> tuple[int, Authorization]:
        """Always granted."""
        granted = Authorization(
            id="alpha-1-42",
            token="a" * 160,
            feature=request.feature,
            count=request.count,
            server="alpha",
            ttl=60.0,
            heartbeat=20.0,
            granted_at="2026-11-21T12:00:00Z",
            servers=_SERVERS,
        )
        return 201, granted

    def checkin(self, request: CheckinRequest) -> tuple[int, CheckinAnswer]:
        """Always known."""
        return 200, CheckinAnswer(released=["alpha-1-42"] * len(request.tokens), unknown=[])


async def _serve_licraft(fast: bool) -> None:
    service: Any = TrivialService()  # only the two calls that are driven
    tokens = Tokens.of("benchmark-admin-token", _TOKEN)
    server = ApiServer(service, "127.0.0.1", 0, tls=None, tokens=tokens, fast=fast)
    await server.start()
    print(server.port, flush=True)
    await asyncio.Event().wait()


async def _serve_aiohttp() -> None:
    web: Any = importlib.import_module("aiohttp.web")  # not a dependency, so not typed here
    service = TrivialService()
    decode_checkout = msgspec.json.Decoder(CheckoutRequest).decode
    decode_checkin = msgspec.json.Decoder(CheckinRequest).decode

    def allowed(request: Any) -> bool:
        return bool(request.headers.get("Authorization") == f"Bearer {_TOKEN}")

    async def checkout(request: Any) -> Any:
        if not allowed(request):
            return web.Response(status=401)
        status, body = service.checkout(decode_checkout(await request.read()))
        return web.Response(
            status=status, body=msgspec.json.encode(body), content_type="application/json"
        )

    async def checkin(request: Any) -> Any:
        if not allowed(request):
            return web.Response(status=401)
        status, body = service.checkin(decode_checkin(await request.read()))
        return web.Response(
            status=status, body=msgspec.json.encode(body), content_type="application/json"
        )

    app = web.Application()
    app.router.add_post("/v1/authorizations", checkout)
    app.router.add_post("/v1/checkins", checkin)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


@contextmanager
def _served(stack: str) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.http_stack", "--serve", stack]
    process = subprocess.Popen(pinned(0, command), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            sys.exit(f"the server for {stack!r} did not start")
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _measure(stacks: list[str], connections: int, seconds: int, runs: int) -> dict[str, Load]:
    loads: dict[str, list[Load]] = {stack: [] for stack in stacks}
    for _ in range(runs):
        for stack in stacks:
            with _served(stack) as url:
                environment = {"LICRAFT_TOKEN": _TOKEN}
                run_wrk(url, "licraft_cycle.lua", connections, 1, environment)
                load = run_wrk(url, "licraft_cycle.lua", connections, seconds, environment)
                loads[stack].append(load)
    return {stack: median_of(found) for stack, found in loads.items()}


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", choices=["fast", "asgi", "aiohttp"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve = _serve_aiohttp() if options.serve == "aiohttp" else None
        uvloop.run(serve or _serve_licraft(fast=options.serve == "fast"))
        return
    stacks = ["fast", "asgi"]
    if importlib.util.find_spec("aiohttp") is not None:
        stacks.append("aiohttp")
    results = _measure(stacks, options.connections, options.seconds, options.runs)
    rows = [
        [
            stack,
            f"{load.requests_per_s:,.0f}",
            f"{load.cycles_per_s:,.0f}",
            f"{load.p50_ms:.2f}",
            f"{load.p99_ms:.2f}",
            str(load.errors + load.refused),
        ]
        for stack, load in results.items()
    ]
    print(machine_line())
    print(f"{options.connections} connections, median of {options.runs} runs\n")
    print(table(["stack", "requests/s", "cycles/s", "p50 ms", "p99 ms", "errors"], rows))
    if options.json:
        document = {
            "machine": machine(),
            "connections": options.connections,
            "seconds": options.seconds,
            "runs": options.runs,
            "results": {stack: msgspec.to_builtins(load) for stack, load in results.items()},
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
