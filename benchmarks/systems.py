"""Starts what is measured: a licraft pool or an etcd cluster, on loopback, on one core.

May import `licraft.pool_files` and the vendor room to write a pool's files as
`licraft init` does; the servers are real processes. Everything lives in a
temporary directory, and every process is ended when its block is left.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx

from benchmarks.wrk_load import pinned
from licraft.pool_files import PEER_PORT_OFFSET, PoolPlan, local_servers, write_pool
from licraft.vendor.codes import make_code, read_code
from licraft.vendor.keys import write_keys
from licraft.vendor.license_file import write_license_file
from licraft.wire import MAX_COUNT

FEATURE = "cad"
READY_WITHIN_S = 30.0
_POOL = "bench"
_LOG_BYTES = 1500


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes: the leader's address, and what it asks of its callers."""

    url: str
    token: str = field(default="", repr=False)


@contextmanager
def licraft_pool(servers: int) -> Iterator[Target]:
    """A pool with a million seats of one feature, evenly deployed; the leader is the target.

    `ttl` is an hour, so that authorizations preloaded for a run outlive it.
    """
    with tempfile.TemporaryDirectory(prefix="licraft-bench-") as place, ExitStack() as running:
        folder = Path(place) / "pool"
        plan = PoolPlan(_POOL, local_servers(servers, _free_ports(servers)))
        write_pool(folder, plan, datetime.now(UTC))
        license_text = _license(Path(place) / "vendor", folder / "vendor.pub")
        environ = os.environ | {"LICRAFT_TTL": "1h"}
        for server in plan.servers:
            (folder / f"{server.name}.lic").write_text(license_text)
            config = str(folder / f"{server.name}.yaml")
            command = [sys.executable, "-m", "licraft", "run", "--config", config]
            log = Path(place) / f"{server.name}.log"
            running.enter_context(_process(command, log, environ))
        token = (folder / "client.token").read_text().strip()
        urls = [server.api_url for server in plan.servers]
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(headers=headers, timeout=2.0) as client:
            for url in urls:
                _poll(f"{url}/readyz", partial(_is_ready, client, url))
            _poll(f"{FEATURE} at {urls[0]}", partial(_is_deployed, client, urls[0]))
            leader = _leader(client, urls[0])
        yield Target(leader, token)


@contextmanager
def etcd_cluster(nodes: int) -> Iterator[Target]:
    """An etcd cluster with its defaults, so each commit is synced; its leader is the target."""
    with tempfile.TemporaryDirectory(prefix="etcd-bench-") as place, ExitStack() as running:
        base = _free_ports(nodes)
        urls = [f"http://127.0.0.1:{base + number}" for number in range(nodes)]
        peers = [f"http://127.0.0.1:{base + PEER_PORT_OFFSET + n}" for n in range(nodes)]
        token = secrets.token_hex(8)
        cluster = ",".join(f"node{n}={peer}" for n, peer in enumerate(peers))
        for number, (url, peer) in enumerate(zip(urls, peers, strict=True)):
            command = ["etcd", "--name", f"node{number}", "--data-dir", f"{place}/{number}"]
            command += ["--listen-client-urls", url, "--advertise-client-urls", url]
            command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            command += ["--initial-cluster", cluster, "--initial-cluster-state", "new"]
            command += ["--initial-cluster-token", token, "--logger", "zap"]
            log = Path(place) / f"node{number}.log"
            running.enter_context(_process(command, log, dict(os.environ)))
        with httpx.Client(timeout=2.0) as client:
            for url in urls:
                _poll(f"{url}/health", partial(_is_healthy, client, url))
            yield Target(_etcd_leader(client, urls))


def preload(target: Target, count: int) -> None:
    """Check out `count` seats over one connection, a hundred requests at a time.

    Raises SystemExit at the first that is not granted.
    """
    url = httpx.URL(target.url)
    body = f'{{"feature":"{FEATURE}"}}'
    head = (
        f"POST /v1/authorizations HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {len(body)}\r\n"
    )
    request = f"{head}Authorization: Bearer {target.token}\r\n\r\n{body}".encode()
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        answers = connection.makefile("rb")
        for done in range(0, count, 100):
            batch = min(100, count - done)
            connection.sendall(request * batch)
            for _ in range(batch):
                status = answers.readline()
                length = 0
                while (line := answers.readline()) not in (b"\r\n", b""):
                    name, _, value = line.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                answer = answers.read(length)
                if b" 201 " not in status:
                    sys.exit(f"preloading stopped: {status!r} {answer[:300]!r}")


def _license(vendor_folder: Path, public: Path) -> str:
    key = write_keys(vendor_folder)
    public.write_text((vendor_folder / "vendor.pub").read_text())
    code = make_code(key, feature=FEATURE, count=MAX_COUNT)
    return write_license_file(_POOL, 1, [read_code(code, [key.public])])


def _is_ready(client: httpx.Client, url: str) -> bool:
    return client.get(f"{url}/readyz").is_success


def _is_healthy(client: httpx.Client, url: str) -> bool:
    return bool(client.get(f"{url}/health").json()["health"] == "true")


def _is_deployed(client: httpx.Client, url: str) -> bool:
    answer = client.get(f"{url}/v1/features/{FEATURE}")
    return answer.is_success and bool(answer.json()["deployed"] == MAX_COUNT)


def _leader(client: httpx.Client, url: str) -> str:
    pool = client.get(f"{url}/v1/pool").raise_for_status().json()
    return next((s["url"] for s in pool["servers"] if s["name"] == pool["leader"]), url)


def _etcd_leader(client: httpx.Client, urls: Sequence[str]) -> str:
    for url in urls:
        status = client.post(f"{url}/v3/maintenance/status", json={}).raise_for_status().json()
        if status["leader"] == status["header"]["member_id"]:
            return url
    return urls[0]


@contextmanager
def _process(command: Sequence[str], log: Path, environ: dict[str, str]) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            pinned(0, command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
        )
    try:
        yield
    except BaseException:
        print(f"-- {log.name}\n{_end_of(log)}", file=sys.stderr)
        raise
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_of(log: Path) -> str:
    return log.read_bytes()[-_LOG_BYTES:].decode("utf-8", "replace")


def _poll(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (httpx.TransportError, ValueError, KeyError):
            pass  # not up yet
        time.sleep(0.05)
    sys.exit(f"not ready within {READY_WITHIN_S:.0f} s: {what}")


def _free_ports(count: int) -> int:
    """A port such that it and the next ones, and those 100 higher, are free now."""
    for _ in range(100):
        first = 20_000 + secrets.randbelow(10_000)
        wanted = [first + n + more for n in range(count) for more in (0, PEER_PORT_OFFSET)]
        if all(_is_free(port) for port in wanted):
            return first
    sys.exit("no free ports found")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
