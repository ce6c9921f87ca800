"""Starts what is measured on loopback: a licraft pool or an etcd cluster, as real processes.

May import `licraft.pool_files` and the vendor room to write a pool's files as
`licraft init` does. Everything lives in a temporary directory, and every process is
ended when its block is left.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx

from benchmarks.wrk_load import pinned
from licraft.pool_files import PEER_PORT_OFFSET, PoolPlan, local_servers, write_pool
from licraft.vendor.codes import make_code, read_code
from licraft.vendor.keys import VendorPrivateKey, write_keys
from licraft.vendor.license_file import write_license_file
from licraft.wire import MAX_COUNT

FEATURE = "cad"
POOL = "bench"
READY_WITHIN_S = 30.0
_LOG_BYTES = 1500


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes: the leader's address, and what it asks of its callers."""

    url: str
    token: str = field(default="", repr=False)


class Node:
    """One server's process; it may be killed and started again."""

    def __init__(self, command: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
        self._command = command
        self._log = log
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process's id; 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start the process; its output is appended to the log."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(self._environ),
            )

    def freeze(self) -> None:
        """SIGSTOP: it falls silent, and its connections stay open, as when a machine dies."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """`kill -9`; returns when the process has gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def end(self) -> None:
        """SIGTERM, and SIGKILL to a process that does not mind it."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()

    def end_of_log(self) -> str:
        """The last that it wrote."""
        text = self._log.read_bytes()[-_LOG_BYTES:].decode("utf-8", "replace")
        return f"-- {self._log.name}\n{text}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Running servers by name, and the addresses of their APIs."""

    nodes: Mapping[str, Node]
    urls: Mapping[str, str]
    folder: Path
    client_token: str = field(default="", repr=False)
    admin_token: str = field(default="", repr=False)
    vendor: VendorPrivateKey | None = field(default=None, repr=False)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start every server, and end all when the block is left; after a fault show their logs."""
        with ExitStack() as ends:
            for node in self.nodes.values():
                ends.callback(node.end)
                node.start()
            try:
                yield
            except BaseException:
                print("\n".join(n.end_of_log() for n in self.nodes.values()), file=sys.stderr)
                raise


@contextmanager
def licraft_servers(
    servers: int,
    seats: Mapping[str, int],
    environ: Mapping[str, str] | None = None,
    core: int | None = None,
) -> Iterator[Cluster]:
    """A pool whose features' `seats` are evenly deployed, with the settings of `licraft init`.

    `environ` overrides settings (`LICRAFT_...`); with `core` all servers share this core.
    """
    with tempfile.TemporaryDirectory(prefix="licraft-bench-") as place:
        folder = Path(place) / "pool"
        plan = PoolPlan(POOL, local_servers(servers, _free_ports(servers)))
        write_pool(folder, plan, datetime.now(UTC))
        key = write_keys(Path(place) / "vendor")
        (folder / "vendor.pub").write_text((Path(place) / "vendor" / "vendor.pub").read_text())
        license_text = write_license(key, 1, seats)
        nodes = {}
        for server in plan.servers:
            (folder / f"{server.name}.lic").write_text(license_text)
            config = str(folder / f"{server.name}.yaml")
            command = [sys.executable, "-m", "licraft", "run", "--config", config]
            log = Path(place) / f"{server.name}.log"
            nodes[server.name] = Node(_on(core, command), log, os.environ | dict(environ or {}))
        pool = Cluster(
            nodes,
            {server.name: server.api_url for server in plan.servers},
            folder,
            (folder / "client.token").read_text().strip(),
            (folder / "admin.token").read_text().strip(),
            key,
        )
        with pool.running():
            wait_until_deployed(pool, seats)
            yield pool


@contextmanager
def licraft_pool(servers: int) -> Iterator[Target]:
    """A pool with a million seats of one feature, all on one core; the leader is the target.

    `ttl` is an hour, so that authorizations preloaded for a run outlive it.
    """
    environ = {"LICRAFT_TTL": "1h"}
    with licraft_servers(servers, {FEATURE: MAX_COUNT}, environ, core=0) as pool:
        with httpx.Client(headers=_bearer(pool.client_token), timeout=2.0) as client:
            leader = _leader(client, next(iter(pool.urls.values())))
        yield Target(leader, pool.client_token)


@contextmanager
def etcd_nodes(count: int, core: int | None = None) -> Iterator[Cluster]:
    """An etcd cluster with its defaults, so each commit is synced to disk."""
    with tempfile.TemporaryDirectory(prefix="etcd-bench-") as place:
        base = _free_ports(count)
        names = [f"node{number}" for number in range(count)]
        urls = {name: f"http://127.0.0.1:{base + n}" for n, name in enumerate(names)}
        peers = {
            name: f"http://127.0.0.1:{base + PEER_PORT_OFFSET + n}" for n, name in enumerate(names)
        }
        token = secrets.token_hex(8)
        cluster = ",".join(f"{name}={peer}" for name, peer in peers.items())
        nodes = {}
        for name, url in urls.items():
            peer = peers[name]
            command = ["etcd", "--name", name, "--data-dir", f"{place}/{name}"]
            command += ["--listen-client-urls", url, "--advertise-client-urls", url]
            command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            command += ["--initial-cluster", cluster, "--initial-cluster-state", "new"]
            command += ["--initial-cluster-token", token, "--logger", "zap"]
            log = Path(place) / f"{name}.log"
            nodes[name] = Node(_on(core, command), log, os.environ)
        etcd = Cluster(nodes, urls, Path(place))
        with etcd.running(), httpx.Client(timeout=2.0) as client:
            for url in urls.values():
                _poll(f"{url}/health", partial(_is_healthy, client, url))
            yield etcd


@contextmanager
def etcd_cluster(nodes: int) -> Iterator[Target]:
    """An etcd cluster on one core; its leader is the target."""
    with etcd_nodes(nodes, core=0) as etcd, httpx.Client(timeout=2.0) as client:
        yield Target(_etcd_leader(client, list(etcd.urls.values())))


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


def write_license(key: VendorPrivateKey, sequence: int, seats: Mapping[str, int]) -> str:
    """A license file of these features and counts, without a bound in time."""
    codes = [make_code(key, feature=feature, count=count) for feature, count in seats.items()]
    return write_license_file(POOL, sequence, [read_code(code, [key.public]) for code in codes])


def wait_until_deployed(pool: Cluster, seats: Mapping[str, int]) -> None:
    """Wait until every server may grant and knows all seats."""
    with httpx.Client(headers=_bearer(pool.client_token), timeout=2.0) as client:
        for url in pool.urls.values():
            _poll(f"{url}/readyz", partial(_is_ready, client, url))
        for url in pool.urls.values():
            _poll(f"the seats at {url}", partial(_is_deployed, client, url, seats))


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _on(core: int | None, command: Sequence[str]) -> list[str]:
    return list(command) if core is None else pinned(core, command)


def _is_ready(client: httpx.Client, url: str) -> bool:
    return client.get(f"{url}/readyz").is_success


def _is_healthy(client: httpx.Client, url: str) -> bool:
    return bool(client.get(f"{url}/health").json()["health"] == "true")


def _is_deployed(client: httpx.Client, url: str, seats: Mapping[str, int]) -> bool:
    answer = client.get(f"{url}/v1/features")
    deployed = {f["feature"]: f["deployed"] for f in answer.raise_for_status().json()["features"]}
    return bool(deployed == seats)


def _leader(client: httpx.Client, url: str) -> str:
    pool = client.get(f"{url}/v1/pool").raise_for_status().json()
    return next((s["url"] for s in pool["servers"] if s["name"] == pool["leader"]), url)


def _etcd_leader(client: httpx.Client, urls: Sequence[str]) -> str:
    for url in urls:
        status = client.post(f"{url}/v3/maintenance/status", json={}).raise_for_status().json()
        if status["leader"] == status["header"]["member_id"]:
            return url
    return urls[0]


def _poll(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (httpx.HTTPError, ValueError, KeyError):
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
