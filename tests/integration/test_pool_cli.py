"""The command line against a real pool, as a user types it, and `licraft demo`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from support.processes import POOL, ServerPool, free_demo_port, free_ports, wait_for

pytest_plugins = ["support.pool_fixtures"]

LICRAFT = [sys.executable, "-m", "licraft"]
READY_WITHIN_S = 10.0


def environment(pool: ServerPool, token: str | None = None) -> dict[str, str]:
    """The shell of a user of this pool; with the client token unless `token` says otherwise."""
    return {
        **pool.environ,
        "LICRAFT_SERVERS": ",".join(pool.urls.values()),
        "LICRAFT_TOKEN": pool.client if token is None else token,
    }


def licraft(
    pool: ServerPool, *arguments: str, token: str | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LICRAFT, *arguments],
        env=environment(pool, token) | environ,
        capture_output=True,
        text=True,
        timeout=30,
    )


def as_json(pool: ServerPool, *arguments: str) -> Any:
    done = licraft(pool, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@contextmanager
def running(pool: ServerPool, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that runs until it is told to end."""
    process = subprocess.Popen(
        [*LICRAFT, *arguments],
        env=environment(pool),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


def quiet(shown: subprocess.CompletedProcess[str]) -> Any:
    return shown if "!" not in shown.stdout else False


def calm_status(pool: ServerPool) -> Any:
    status = as_json(pool, "status")
    return status if not status["trouble"] else False


def test_status_features_and_servers(calm: ServerPool) -> None:
    # On a machine that is held up a server may be taken for down for a moment, and be told of.
    shown = wait_for(lambda: quiet(licraft(calm, "status")), 20, "a status without trouble")
    assert shown.returncode == 0
    assert f"pool {POOL}   leader {calm.leader()}   license 1" in shown.stdout
    assert all(word in shown.stdout for word in (*calm.names, "cad", "sim", "cam", "valid"))

    status = wait_for(lambda: calm_status(calm), 20, "a status without trouble")
    assert status["pool"] == POOL
    assert [server["state"] for server in status["servers"]] == ["up"] * 3
    features = as_json(calm, "features")["features"]
    assert {f["feature"]: f["deployed"] for f in features} == {"cad": 100, "sim": 30, "cam": 7}
    one = as_json(calm, "features", "cad")
    assert {n: part["allocated"] for n, part in one["servers"].items()} == {
        "alpha": 34,
        "beta": 33,
        "gamma": 33,
    }
    servers = as_json(calm, "servers")
    assert servers["priority"][0] == calm.leader()
    assert {server["url"] for server in servers["servers"]} == set(calm.urls.values())


def test_checkout_authorizations_and_checkin(calm: ServerPool) -> None:
    with running(calm, "checkout", "sim", "-n", "2", "--json") as holder:
        assert holder.stdout is not None
        held = json.loads(holder.stdout.readline())
        assert (held["feature"], held["count"]) == ("sim", 2)
        (line,) = as_json(calm, "authorizations", "--feature", "sim")["authorizations"]
        assert (line["id"], line["server"], line["count"]) == (held["id"], held["server"], 2)
        assert line["client"]["pid"] == holder.pid
        assert held["id"] in licraft(calm, "authorizations").stdout
        holder.send_signal(signal.SIGINT)
        assert holder.wait(10) == 0
    assert as_json(calm, "authorizations")["authorizations"] == []


def test_an_administrator_checks_in_what_somebody_holds(calm: ServerPool) -> None:
    with running(calm, "checkout", "sim", "--json") as holder:
        assert holder.stdout is not None
        id = json.loads(holder.stdout.readline())["id"]
        assert licraft(calm, "checkin", id).returncode == 5  # the client token may not
        done = licraft(calm, "checkin", id, token=calm.admin)
        assert done.returncode == 0, done.stderr
        assert as_json(calm, "authorizations")["authorizations"] == []
        assert holder.wait(calm.ttl_s) == 1
        assert holder.stderr is not None
        assert "removed" in holder.stderr.read()


def test_exec_holds_a_seat_while_its_command_runs(calm: ServerPool) -> None:
    script = 'echo "$LICRAFT_SEAT_ID $LICRAFT_FEATURE $LICRAFT_SERVER"; read line; exit 3'
    command = [*LICRAFT, "exec", "cad", "-n", "2", "--", "sh", "-c", script]
    with subprocess.Popen(
        command,
        env=environment(calm),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        id, feature, server = process.stdout.readline().split()
        (line,) = calm.holders("beta", "?feature=cad")
        assert (line["id"], line["count"], line["server"]) == (id, 2, server)
        assert feature == "cad"
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(10) == 3
    assert calm.holders("beta", "?feature=cad") == []


def test_exit_statuses(calm: ServerPool, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    nobody = f"http://127.0.0.1:{port}"
    for status, arguments, token in (
        (1, ("exec", "nonesuch", "--", "true"), None),
        (1, ("checkout", "cad", "-n", "101"), None),
        (2, ("checkout", "cad", "-n", "0"), None),
        (2, ("license", "install", str(tmp_path / "missing.lic")), None),
        (2, ("run", "--config", str(tmp_path / "missing.yaml")), None),
        (3, ("status", "--server", nobody), None),
        (5, ("status",), "wrong"),
        (127, ("exec", "cad", "--", "no-such-program"), None),
        (143, ("exec", "cad", "--", "sh", "-c", "kill $$"), None),
    ):
        done = licraft(calm, *arguments, token=token)
        assert done.returncode == status, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
        if status not in (143,):
            assert len(done.stderr.splitlines()) == 1, done.stderr
    assert calm.holders("alpha") == []


def test_a_license_is_shown_verified_and_installed(calm: ServerPool, tmp_path: Path) -> None:
    shown = licraft(calm, "license", "show", "--text")
    assert shown.stdout == calm.get("gamma", "/v1/license")["text"]
    before = as_json(calm, "license", "show")
    key = str(calm.directory / "vendor.pub")
    # The same seats, as a newer file.
    newer = tmp_path / "newer.lic"
    counts = {code["feature"]: code["count"] for code in before["codes"]}
    newer.write_text(calm.license_text(counts, sequence=before["sequence"] + 1))
    verify = ("license", "verify", str(newer), "--key", key, "--pool")
    assert licraft(calm, *verify, POOL).returncode == 0
    assert licraft(calm, *verify, "umbrella").returncode == 4
    install = ("license", "install", str(newer))
    assert licraft(calm, *install).returncode == 5
    done = licraft(calm, *install, token=calm.admin)
    assert done.returncode == 0, done.stderr
    text = newer.read_text()

    def has_it(name: str) -> bool:
        copy = calm.directory / "data" / name / "license.yaml"
        return bool(copy.read_text() == text == calm.get(name, "/v1/license")["text"])

    calm.wait_everywhere(has_it, 5, "the newer file is installed and on disk")
    # Repeated, as after a lost answer, it is installed; another file of its number is refused.
    assert licraft(calm, *install, token=calm.admin).returncode == 0
    newer.write_text(calm.license_text({"cad": 500}, sequence=before["sequence"] + 1))
    again = licraft(calm, *install, token=calm.admin)
    assert again.returncode == 4
    assert "not newer" in again.stderr
    assert calm.feature("beta")["deployed"] == 100


# -- the demo -----------------------------------------------------------------------------


@contextmanager
def demo(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A demo that has said that its pool is ready, and all that it said until then."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("LICRAFT_")}
    begun = time.monotonic()
    process = subprocess.Popen(
        [*LICRAFT, "demo", *arguments],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, until_ready(process.stdout, begun)
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=20)


def until_ready(output: IO[str], begun: float) -> str:
    said = ""
    for line in output:
        said += line
        if line.startswith("pool ready"):
            took_s = time.monotonic() - begun
            print(f"pool ready after {took_s:.2f} s")
            assert took_s < READY_WITHIN_S
            return said
    raise AssertionError(said)


def servers_of(process: subprocess.Popen[str]) -> list[int]:
    """The process ids of the demo's servers."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in children.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_the_demo_is_ready_soon_and_leaves_no_process(number: int) -> None:
    port = free_demo_port()
    url = f"http://127.0.0.1:{port}"
    with demo("--port", str(port)) as (process, _):
        pids = servers_of(process)
        assert len(pids) == 3
        status = subprocess.run(
            [*LICRAFT, "status", "--server", url, "--json"],
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert json.loads(status.stdout)["trouble"] == [
            line for line in json.loads(status.stdout)["trouble"] if "expires on" in line
        ]
        # No tokens: curl works at once.
        body = {"feature": "cad"}
        assert httpx.post(f"{url}/v1/authorizations", json=body, trust_env=False).status_code == 201
        process.send_signal(number)
        assert process.wait(15) == 0
        assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def test_the_demo_keeps_its_pool_in_a_directory(tmp_path: Path) -> None:
    port = free_demo_port(1)
    url = f"http://127.0.0.1:{port}"
    arguments = ("--dir", str(tmp_path / "demo"), "--port", str(port), "--servers", "1")
    with demo(*arguments) as (process, _):
        first = httpx.get(f"{url}/v1/license", trust_env=False).json()
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
    with demo(*arguments[:2]) as (process, _):
        assert httpx.get(f"{url}/v1/license", trust_env=False).json() == first
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0


def test_a_demo_on_ports_in_use_starts_nothing(calm: ServerPool) -> None:
    port = calm.planned["alpha"].api_port
    done = licraft(calm, "demo", "--port", str(port))
    assert done.returncode == 2
    assert str(port) in done.stderr
