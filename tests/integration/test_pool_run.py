"""`licraft run` as a service: open files, and what systemd is told of a server that joins."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from support.processes import MakePool, free_ports, wait_for

from licraft.cli.processes import run_command

pytest_plugins = ["support.pool_fixtures"]

SOFT = 256


def with_few_files(config: Path) -> list[str]:
    """The command of a server whose soft limit of open files is low."""
    return ["sh", "-c", f'ulimit -Sn {SOFT}; exec "$@"', "sh", *run_command(config)]


def file_limits(pid: int) -> list[str]:
    """The soft and the hard limit of a process's open files."""
    lines = Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines()
    return next(line for line in lines if line.startswith("Max open files")).split()[3:5]


def test_a_server_raises_its_limit_of_open_files(make_pool: MakePool) -> None:
    pool = make_pool(servers=1)
    (name,) = pool.names
    pool.kill(name)
    pool.start(name, run=with_few_files)
    pool.wait_ready(name)
    soft, hard = file_limits(pool.processes[name].process.pid)
    assert soft == hard
    assert soft == "unlimited" or int(soft) > SOFT


def test_a_server_that_joins_is_ready_for_systemd_when_it_serves(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool({"cad": 30})
    api, peer = free_ports(2)
    command = [sys.executable, "-m", "licraft", "server", "add", "delta"]
    options = ["--server", pool.urls["alpha"], "--token-file", "admin.token"]
    done = subprocess.run(
        [*command, f"127.0.0.1:{api}:{peer}", *options],
        cwd=pool.directory,
        env=pool.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pool.urls["delta"] = f"http://127.0.0.1:{api}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30.0)
        pool.environ["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        pool.start("delta")
        heard: list[str] = []
        while not heard or "READY=1" not in heard[-1]:
            heard.append(systemd.recv(4096).decode())
    assert heard[-1] == "READY=1\nSTATUS=serving"
    wait_for(lambda: pool.state_of("delta", by="alpha") == "up", 10, "alpha sees it")
    pool.wait_ready("delta")
