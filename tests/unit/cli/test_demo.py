"""`licraft demo`: starts, waits, reports and ends server processes, whatever they do.

The servers here are a small script that speaks just enough HTTP, and that can be
told to misbehave; `tests/integration` runs the demo with the real ones.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import httpx
import pytest
from click.testing import CliRunner, Result

import licraft.cli.demo as demo_module
from licraft.cli.demo import demo
from licraft.cli.main import cli
from licraft.pool_files import PEER_PORT_OFFSET

WAIT_S = 20.0

STAND_IN = """
import json, os, signal, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from licraft.settings import load_settings

settings = load_settings(Path(sys.argv[1]), os.environ)
behaviour = os.environ.get("BEHAVIOUR", "")
print("server", settings.server, "starts with ttl", settings.ttl_s, flush=True)
if behaviour == "dies":
    sys.exit("no such luck")
if behaviour == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
license = {"sequence": 0}

class Handler(BaseHTTPRequestHandler):
    def answer(self, status, body):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_GET(self):
        if self.path == "/readyz":
            self.answer(503 if behaviour == "unready" else 200, {})
        elif self.path == "/pid":
            self.answer(200, os.getpid())
        else:
            self.answer(200, license)

    def do_PUT(self):
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        license.update(sequence=1, text=text)
        self.answer(422 if behaviour == "refuses" else 200, {"detail": "not like this"})

    def log_message(self, *_):
        pass

HTTPServer((settings.api_host, settings.api_port), Handler).serve_forever()
"""

RUN_DEMO = """
import os, sys
import licraft.cli.demo as demo
demo.READY_WITHIN_S = 1.0 if os.environ["BEHAVIOUR"] == "unready" else 10.0
demo.END_WITHIN_S = 0.5
demo.run_command = lambda config: [sys.executable, sys.argv[1], str(config)]
from licraft.cli.main import main
main(["demo", *sys.argv[2:]])
"""


@pytest.fixture
def port() -> int:
    """The first of a few ports that are free, with the peer ports above them."""
    for base in range(20_000 + os.getpid() % 10_000, 60_000, 7):
        probes = [socket.socket() for _ in range(6)]
        try:
            for number in range(3):
                probes[number].bind(("127.0.0.1", base + number))
                probes[3 + number].bind(("127.0.0.1", base + PEER_PORT_OFFSET + number))
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
        return base
    raise AssertionError("no free ports")


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a demo whose servers are stand-ins; whatever is left is killed at the end."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    (tmp_path / "tmp").mkdir()
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, behaviour: str = "", **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN_DEMO, str(script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A demo that is killed leaves its temporary directory: here it is ours.
            env={**os.environ, "TMPDIR": f"{tmp_path}/tmp", "BEHAVIOUR": behaviour, **environ},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def read_until(stream: IO[str] | None, text: str) -> list[str]:
    """Lines up to the one that has `text`; a test's own time limit is the deadline."""
    assert stream is not None
    lines: list[str] = []
    for line in stream:
        lines.append(line.rstrip("\n"))
        if text in line:
            return lines
    raise AssertionError(f"{text!r} is not in {lines}")


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # A process that nobody has waited for yet has ended, too.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def pids(port: int, count: int) -> list[int]:
    return [httpx.get(f"http://127.0.0.1:{port + n}/pid").json() for n in range(count)]


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_is_up_when_it_says_so_and_leaves_nothing_behind(
    start: Start, port: int, tmp_path: Path, ending: signal.Signals
) -> None:
    process = start("--port", str(port))
    read_until(process.stdout, "pool ready")
    lines = read_until(process.stdout, "Ctrl-C")
    servers = [httpx.get(f"http://127.0.0.1:{port + n}/v1/license").json() for n in range(3)]
    assert servers[0]["sequence"] == 1
    assert "demo" in servers[0]["text"]
    for number in range(3):
        assert any(f"http://127.0.0.1:{port + number}" in line for line in lines)
    assert sum("licraft" in line or "curl" in line for line in lines) == 3
    children = pids(port, 3)
    process.send_signal(ending)
    _, errors = process.communicate(timeout=WAIT_S)
    assert (process.returncode, errors) == (0, "")
    assert all(gone(pid) for pid in children)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_servers_die_with_a_demo_that_is_killed(start: Start, port: int) -> None:
    process = start("--port", str(port), "--servers", "2", behaviour="stubborn")
    read_until(process.stdout, "pool ready")
    children = pids(port, 2)
    process.kill()
    wait_for(lambda: all(gone(pid) for pid in children))


def test_servers_that_do_not_end_are_killed(start: Start, port: int) -> None:
    process = start("--port", str(port), "--servers", "2", behaviour="stubborn")
    read_until(process.stdout, "Ctrl-C")
    children = pids(port, 2)
    process.terminate()
    output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert "killed, since they did not end by themselves: alpha, beta" in output
    assert all(gone(pid) for pid in children)


def test_a_server_that_ends_is_reported_and_the_others_go_on(start: Start, port: int) -> None:
    process = start("--port", str(port))
    read_until(process.stdout, "Ctrl-C")
    alpha, beta, gamma = pids(port, 3)
    os.kill(beta, signal.SIGKILL)
    (line,) = read_until(process.stdout, "ended")
    assert "server beta ended: killed by SIGKILL" in line
    assert not gone(alpha)
    for pid in (alpha, gamma):
        os.kill(pid, signal.SIGTERM)
    output, errors = process.communicate(timeout=WAIT_S)
    assert "server alpha ended: exit status 0" in output
    assert "every server has ended" in errors
    assert process.returncode == 3


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [("dies", "exit status 1"), ("unready", "not ready within")],
)
def test_a_pool_that_does_not_come_up_shows_the_ends_of_the_logs(
    start: Start, port: int, tmp_path: Path, behaviour: str, message: str
) -> None:
    arguments = ("--port", str(port), "--servers", "1", "--dir", str(tmp_path / "pool"))
    process = start(*arguments, behaviour=behaviour, LICRAFT_TTL="77s", LICRAFT_SERVER="beta")
    output, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 3
    assert "pool ready" not in output
    assert f"server alpha: {message}" in errors
    assert "server alpha starts with ttl 77.0" in errors


def test_a_refused_license_ends_the_demo(start: Start, port: int) -> None:
    process = start("--port", str(port), "--servers", "1", behaviour="refuses")
    _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 3
    assert "refused the sample license" in errors
    assert "not like this" in errors


def test_with_a_directory_the_second_start_finds_the_same_pool(
    start: Start, port: int, tmp_path: Path
) -> None:
    place = tmp_path / "pool"
    for arguments in (["--port", str(port), "--servers", "2"], []):
        process = start("--dir", str(place), *arguments)
        lines = read_until(process.stdout, "Ctrl-C")
        assert any(f"http://127.0.0.1:{port + 1}" in line for line in lines)
        process.terminate()
        process.communicate(timeout=WAIT_S)
        assert process.returncode == 0
    assert (place / "beta.log").read_text().count("server beta starts") == 2
    for arguments in (["--servers", "3"], ["--port", str(port + 1)]):
        process = start("--dir", str(place), *arguments)
        _, errors = process.communicate(timeout=WAIT_S)
        assert process.returncode == 2
        assert f"a demo pool of 2 servers at port {port}" in errors


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["demo", *map(str, arguments)])


@pytest.mark.parametrize("offset", [1, PEER_PORT_OFFSET])
def test_a_port_in_use_is_named_before_anything_starts(
    port: int, monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    monkeypatch.setattr(demo_module, "start", None)
    with socket.create_server(("127.0.0.1", port + offset)):
        result = run("--port", str(port))
    assert result.exit_code == 2
    assert f"port {port + offset} is in use" in result.output
    assert "--port" in result.output


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    result = run("--dir", tmp_path)
    assert result.exit_code == 2
    assert "expected an empty directory" in result.output
    other = tmp_path / "pool"
    assert CliRunner().invoke(cli, ["init", str(other), "--pool", "real"]).exit_code == 0
    result = run("--dir", other)
    assert result.exit_code == 2
    assert "no demo pool" in result.output


def test_the_sample_license_is_of_several_features_and_one_of_them_ends_soon(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_here(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_module, "_check_ports", stop_here)
    CliRunner().invoke(demo, ["--dir", str(tmp_path / "pool"), "--port", str(port)])
    place = str(tmp_path / "pool")
    verify = ["license", "verify", f"{place}/demo.lic", "--key", f"{place}/vendor.pub"]
    result = CliRunner().invoke(cli, [*verify, "--pool", "demo", "--json"])
    assert result.exit_code == 0, result.output
    codes = {code["feature"]: code for code in json.loads(result.output)["codes"]}
    assert {feature: code["count"] for feature, code in codes.items()} == {
        "cad": 100,
        "sim": 50,
        "render": 20,
    }
    assert [code["expires"] is not None for code in codes.values()].count(True) == 1
