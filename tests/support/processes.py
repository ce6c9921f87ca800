"""A pool of real server processes in a test's hand: start, kill, pause, stop, ask.

May import `licraft.pool_files`, `licraft.cli.processes` and the vendor room, so that a
pool here is what `licraft init` and `licraft run` make. Talks to the servers by raw HTTP
only. Ends what it started, always: `close` is called by the fixtures of
`support.pool_fixtures`, and the kernel ends the servers if this process dies.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx

from licraft.cli.processes import ServerProcess, end_all, run_command, start
from licraft.pool_files import (
    NAMES,
    PEER_PORT_OFFSET,
    PlannedServer,
    PoolPlan,
    local_servers,
    write_pool,
)
from licraft.vendor.codes import make_code, read_code
from licraft.vendor.keys import VendorPrivateKey, generate, write_keys
from licraft.vendor.license_file import write_license_file

T = TypeVar("T")

_MEMORY = Path("/dev/shm")
_MEMORY_BYTES = 1 << 30

POOL = "acme"
READY_S = 20.0
# Below the ports that the kernel gives to outgoing connections: one of those must not
# sit on a server's port while the server is down.
_PORTS = range(21000, 24000)
_POLL_S = 0.02
_LOG_LINES = 60


def wait_for(condition: Callable[[], T | Literal[False]], within_s: float, what: str) -> T:
    """The first true value of `condition`; AssertionError after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}; last: {value!r}")
        time.sleep(_POLL_S)


def is_free(port: int) -> bool:
    """Whether nobody listens on this port of loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on, all different."""
    candidates = random.sample(_PORTS, len(_PORTS))
    return list(itertools.islice(filter(is_free, candidates), count))


def free_demo_port(servers: int = 3) -> int:
    """A port for `licraft demo --port`: it and those that follow from it are free."""
    for port in random.sample(_PORTS[: -PEER_PORT_OFFSET - servers], 100):
        planned = local_servers(servers, port)
        if all(is_free(s.api_port) and is_free(s.peer_port) for s in planned):
            return port
    raise AssertionError("no free ports for a demo")


@dataclass(frozen=True)
class Answer:
    """What a server answered; status 0 if nothing did."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def code(self) -> str:
        """The problem's code, if it is one."""
        return str(self.body.get("code", "")) if isinstance(self.body, dict) else ""

    def __getitem__(self, key: str) -> Any:
        return self.body[key]


def memory_for(data: Path) -> tempfile.TemporaryDirectory[str] | None:
    """A directory in memory behind the name `data`, if this machine has one with room."""
    if not os.access(_MEMORY, os.W_OK) or shutil.disk_usage(_MEMORY).free < _MEMORY_BYTES:
        return None
    memory = tempfile.TemporaryDirectory(prefix="licraft-data-", dir=_MEMORY)
    for made in data.iterdir():
        shutil.move(made, memory.name)
    data.rmdir()
    data.symlink_to(memory.name)
    return memory


class ServerPool:
    """A pool's files and processes; `names` are in leader priority order."""

    def __init__(
        self,
        directory: Path,
        servers: int = 3,
        *,
        lease_s: float = 1.0,
        ttl_s: float = 6.0,
        tokens: bool = True,
        on_disk: bool = False,
    ) -> None:
        """Write the pool's files; its servers' data is in memory, where there is room.

        A shared disk may hold up a sync for a second, which is a lease here: what is tested is
        the servers. With `on_disk` it is where a pool's data usually is.
        """
        ports = free_ports(2 * servers)
        planned = tuple(
            PlannedServer(name, "127.0.0.1", api, peer)
            for name, api, peer in zip(
                NAMES[:servers], ports[:servers], ports[servers:], strict=True
            )
        )
        self.directory = directory
        self.lease_s, self.ttl_s = lease_s, ttl_s
        write_pool(directory, PoolPlan(POOL, planned, tokens), datetime.now(UTC))
        self._memory = None if on_disk else memory_for(directory / "data")
        self.vendor: VendorPrivateKey = write_keys(directory)
        self.names = tuple(server.name for server in planned)
        self.urls = {server.name: server.api_url for server in planned}
        self.planned = {server.name: server for server in planned}
        self.admin = self._token("admin") if tokens else ""
        self.client = self._token("client") if tokens else ""
        self.environ = {
            key: value for key, value in os.environ.items() if not key.startswith("LICRAFT_")
        } | {"LICRAFT_LEASE": f"{lease_s * 1000:.0f}ms", "LICRAFT_TTL": f"{ttl_s * 1000:.0f}ms"}
        self.processes: dict[str, ServerProcess] = {}
        self._http: dict[str, httpx.Client] = {}
        self._sequence = 0

    def _token(self, role: str) -> str:
        return (self.directory / f"{role}.token").read_text(encoding="ascii").strip()

    # -- processes ----------------------------------------------------------------------

    def start(self, *names: str, run: Callable[[Path], list[str]] = run_command) -> None:
        """Start these servers, or all, by the command that `run` makes of a configuration."""
        for name in names or self.names:
            assert not self.running(name), f"{name} runs already"
            config = self.directory / f"{name}.yaml"
            log = self.directory / f"{name}.log"
            self.processes[name] = start(name, run(config), log, self.environ)

    def running(self, name: str) -> bool:
        """Whether a server's process lives."""
        server = self.processes.get(name)
        return server is not None and server.process.poll() is None

    def kill(self, *names: str) -> None:
        """`kill -9`, and wait for the end."""
        for name in names:
            self.processes[name].process.kill()
        for name in names:
            self.processes[name].process.wait(10)

    def stop(self, *names: str, starting: bool = False) -> None:
        """SIGTERM, and wait for an orderly end with status 0.

        `starting` says that they may not listen to signals yet: then the signal ends them.
        """
        orderly = (0, -signal.SIGTERM) if starting else (0,)
        for name in names:
            self.processes[name].process.terminate()
        for name in names:
            status = self.processes[name].process.wait(15)
            assert status in orderly, f"{name} ended with {status}"

    def pause(self, name: str) -> None:
        """SIGSTOP: the process stands still, its sockets stay open."""
        self.processes[name].process.send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self.processes[name].process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End every process that this pool started."""
        for server in self.processes.values():
            if server.process.poll() is None:
                server.process.send_signal(signal.SIGCONT)
                server.process.kill()
        end_all(list(self.processes.values()), 10.0)
        for http in self._http.values():
            http.close()
        if self._memory is not None:
            self._memory.cleanup()

    def reboot(self, name: str, *, powerless: bool = False) -> None:
        """Make a server that is down believe that its machine has restarted since.

        With `powerless` by a loss of power: the file lacks what was not yet on the disk.
        """
        path = self.record_log(name)
        header, *lines = path.read_bytes().splitlines(keepends=True)
        fields = json.loads(header) | {"boot": "another-boot"}
        kept = lines[: len(lines) // 2] if powerless else lines
        path.write_bytes(json.dumps(fields).encode() + b"\n" + b"".join(kept))

    def record_log(self, name: str) -> Path:
        """The file that follows a server's record."""
        return self.directory / "data" / name / "record.log"

    def logs(self) -> str:
        """The end of every server's log."""
        parts = []
        for name, server in self.processes.items():
            parts.append(f"--- {name} (status {server.process.poll()})")
            parts += server.end_of_log(_LOG_LINES)
        return "\n".join(parts)

    # -- requests -----------------------------------------------------------------------

    def ask(
        self,
        name: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        content: bytes | None = None,
        token: str | None = None,
        timeout_s: float = 10.0,
    ) -> Answer:
        """Ask one server; the admin token is used unless `token` says otherwise."""
        http = self._http.get(name)
        if http is None:
            http = self._http[name] = httpx.Client(base_url=self.urls[name], trust_env=False)
        used = self.admin if token is None else token
        headers = {"authorization": f"Bearer {used}"} if used else {}
        if body is not None:
            content = json.dumps(body).encode()
        try:
            answer = http.request(method, path, content=content, headers=headers, timeout=timeout_s)
        except httpx.TransportError as fault:
            return Answer(0, {"code": f"unreachable: {type(fault).__name__}"})
        is_json = "json" in answer.headers.get("content-type", "")
        return Answer(answer.status_code, answer.json() if is_json else answer.text, answer.headers)

    def checkout(
        self, name: str, feature: str = "cad", count: int = 1, wait: float = 0, **more: Any
    ) -> Answer:
        """`POST /v1/authorizations` with the client token."""
        body = {"feature": feature, "count": count, "wait": wait, **more}
        return self.ask(
            name, "POST", "/v1/authorizations", body, token=self.client, timeout_s=wait + 10
        )

    def heartbeat(
        self, name: str, *tokens: str, version: int = 0, confirm: Mapping[str, int] | None = None
    ) -> Answer:
        """`POST /v1/heartbeats` with the client token, and what is confirmed."""
        body = {"tokens": list(tokens), "servers_version": version, "confirm": confirm or {}}
        return self.ask(name, "POST", "/v1/heartbeats", body, token=self.client)

    def status_of(self, name: str, token: str) -> str:
        """What a heartbeat for one token is answered with; a problem's code if it is one."""
        answer = self.heartbeat(name, token)
        return str(answer["results"][0]["status"]) if answer.status == 200 else answer.code

    def checkin(self, name: str, *tokens: str) -> Answer:
        """`POST /v1/checkins` with the client token."""
        return self.ask(name, "POST", "/v1/checkins", {"tokens": list(tokens)}, token=self.client)

    def get(self, name: str, path: str) -> Answer:
        """A `GET` call."""
        return self.ask(name, "GET", path, timeout_s=5.0)

    def feature(self, name: str, feature: str = "cad") -> Any:
        """`GET /v1/features/F`."""
        answer = self.get(name, f"/v1/features/{feature}")
        assert answer.status == 200, answer
        return answer.body

    def allocated(self, name: str, feature: str = "cad") -> dict[str, int]:
        """Each server's seats of a feature, as `name` sees it."""
        servers = self.feature(name, feature)["servers"]
        return {server: part["allocated"] for server, part in servers.items()}

    def holders(self, name: str, query: str = "") -> list[Any]:
        """`GET /v1/authorizations`: the lines."""
        answer = self.get(name, f"/v1/authorizations{query}")
        assert answer.status == 200, answer
        lines = answer["authorizations"]
        assert isinstance(lines, list)
        return lines

    # -- the state of the pool ------------------------------------------------------------

    def ready(self, name: str) -> bool:
        """Whether a server may grant."""
        return self.get(name, "/readyz").status == 200

    def wait_ready(self, *names: str, within_s: float = READY_S) -> None:
        """Wait until these servers, or all, may grant."""
        wanted = names or self.names
        wait_for(lambda: all(map(self.ready, wanted)), within_s, f"ready: {', '.join(wanted)}")

    def wait_everywhere(
        self, condition: Callable[[str], object], within_s: float, what: str
    ) -> None:
        """Wait until a condition holds at every running server."""

        def lacking() -> list[str]:
            return [name for name in self.names if self.running(name) and not condition(name)]

        wait_for(lambda: not lacking(), within_s, f"{what} everywhere")

    def leader(self) -> str:
        """The server that all running servers that are ready call leader; waits for it."""

        def agreed() -> str:
            views = [self.get(n, "/v1/pool") for n in self.names if self.running(n)]
            leaders = {v["leader"] for v in views if v.status == 200 and v["state"] == "serving"}
            (leader,) = leaders if len(leaders) == 1 else (None,)
            return leader or ""

        return wait_for(agreed, READY_S, "the servers agree on a leader")

    def followers(self) -> list[str]:
        """The other servers."""
        leader = self.leader()
        return [name for name in self.names if name != leader]

    def state_of(self, server: str, by: str) -> str:
        """A server's state in the replicated state, as another one tells it."""
        answer = self.get(by, "/v1/pool")
        if answer.status != 200:
            return ""
        return next(str(s["state"]) for s in answer["servers"] if s["name"] == server)

    def incarnation(self, server: str, by: str) -> int:
        """A server's incarnation, as another one tells it."""
        servers = self.get(by, "/v1/pool")["servers"]
        return next(int(s["incarnation"]) for s in servers if s["name"] == server)

    # -- licenses -----------------------------------------------------------------------

    def license_text(
        self,
        counts: Mapping[str, int],
        *,
        sequence: int = 1,
        pool: str | None = POOL,
        key: VendorPrivateKey | None = None,
    ) -> str:
        """A license file of these features, signed by this pool's vendor unless `key` is given."""
        signer = key or self.vendor
        codes = [make_code(signer, feature=f, count=n, pool=pool) for f, n in counts.items()]
        read = [read_code(code, [signer.public]) for code in codes]
        return write_license_file(pool, sequence, read)

    def install(self, counts: Mapping[str, int], at: str = "") -> None:
        """Install a new license file and wait until every running server has its seats."""
        self._sequence += 1
        text = self.license_text(counts, sequence=self._sequence)
        answer = self.ask(at or self.names[0], "PUT", "/v1/license", content=text.encode())
        assert answer.status == 200, answer
        self.wait_everywhere(
            lambda name: self.get(name, "/v1/license").body["sequence"] == self._sequence,
            10,
            "the license is installed",
        )

    # -- accounts -----------------------------------------------------------------------

    def unbalanced(self, names: Iterable[str] = ()) -> list[str]:
        """Every answer in which the seats do not add up."""
        wrong = []
        for name in names or self.names:
            answer = self.get(name, "/v1/features")
            if answer.status != 200:
                continue
            wrong += [f"{name}: {f}" for f in answer["features"] if not balanced(f)]
        return wrong


def balanced(feature: Mapping[str, Any]) -> bool:
    """`free + sum(allocated) + commuters == deployed`, and no share or pool below nothing."""
    shares = [part["allocated"] for part in feature["servers"].values()]
    total = feature["free"] + sum(shares) + feature["commuters"]
    return bool(total == feature["deployed"]) and min(feature["free"], *shares) >= 0


def stranger() -> VendorPrivateKey:
    """The key of a vendor whom no pool here trusts."""
    return generate()


MakePool = Callable[..., ServerPool]
"""Makes a pool that runs: `make_pool({"cad": 100}, servers=3, ttl_s=6.0)`."""
