"""`licraft exec` in job scripts, on a real pool: signals, exit status, and what a loss ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.processes import MakePool, ServerPool, wait_for

pytest_plugins = ["support.pool_fixtures"]

EXEC = f"{sys.executable} -m licraft exec cad"
ROOT = Path(__file__).resolve().parents[2]
ENDS_WITHIN_S = 15.0


@pytest.fixture(scope="module")
def pool(calm: ServerPool) -> ServerPool:
    return calm


@contextmanager
def job(pool: ServerPool, script: str) -> Iterator[subprocess.Popen[str]]:
    """A job as a scheduler starts it: a script, leader of its own session and group."""
    environ = {
        **pool.environ,
        "LICRAFT_SERVERS": ",".join(pool.urls.values()),
        "LICRAFT_TOKEN": pool.client,
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.Popen(
        ["sh", "-c", script],
        env=environ,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate(timeout=10)


def said(process: subprocess.Popen[str], words: str) -> None:
    """Wait for a line of the job."""
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"the job never said {words!r}")


def in_use(pool: ServerPool) -> int:
    return int(pool.feature(pool.names[0])["in_use"])


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    return not Path(f"/proc/{pid}").exists()


def test_a_job_script_that_becomes_exec_has_the_program_s_status(pool: ServerPool) -> None:
    with job(pool, f"exec {EXEC} -- sh -c 'exit 42'") as process:
        assert process.wait(ENDS_WITHIN_S) == 42
    wait_for(lambda: in_use(pool) == 0, 5, "the seat is back")


@pytest.mark.parametrize("begin", ["exec ", "trap : TERM USR1; "], ids=["becomes", "waits"])
def test_a_signal_to_the_job_s_group_reaches_the_program_which_ends_as_it_likes(
    pool: ServerPool, begin: str
) -> None:
    """A scheduler warns by SIGUSR1 and ends by SIGTERM, and signals everybody."""
    program = (
        'trap "echo saving" USR1; trap "echo ending; exit 3" TERM;'
        " echo runs; while :; do sleep 0.05; done"
    )
    script = f"{begin}{EXEC} -- sh -c '{program}'"
    if not begin.startswith("exec"):
        script += "; status=$?; echo status $status; exit $status"
    with job(pool, script) as process:
        said(process, "runs")
        os.killpg(process.pid, signal.SIGUSR1)
        said(process, "saving")
        os.killpg(process.pid, signal.SIGTERM)
        said(process, "ending")
        if not begin.startswith("exec"):
            said(process, "status 3")
        assert process.wait(ENDS_WITHIN_S) == 3
    # It was checked in, and had not to run out.
    wait_for(lambda: in_use(pool) == 0, 3, "the seat is back")


def remove(pool: ServerPool) -> None:
    """An administrator takes every seat away."""
    for line in pool.holders(pool.names[0]):
        assert pool.ask(pool.names[0], "DELETE", f"/v1/authorizations/{line['id']}").status == 204


def test_a_lost_seat_ends_all_that_the_program_has_started(pool: ServerPool) -> None:
    """The script ends by SIGTERM; what it had started must not go on without a seat."""
    program = "sleep 1000 & echo pid $!; setsid sleep 1000 & echo pid $!; echo runs; wait"
    with job(pool, f"exec {EXEC} --grace 5 -- sh -c '{program}'") as process:
        pids = started(process)
        wait_for(lambda: in_use(pool) == 1, 5, "the seat is held")
        remove(pool)
        assert process.wait(ENDS_WITHIN_S) == 1
        assert [pid for pid in pids if not gone(pid)] == []
        assert process.stderr is not None
        assert "the seat of cad was lost: removed; ending the command" in process.stderr.read()


def started(process: subprocess.Popen[str]) -> list[int]:
    """The numbers of the processes that the job tells of, until it runs."""
    assert process.stdout is not None
    pids: list[int] = []
    for line in process.stdout:
        if line.startswith("runs"):
            return pids
        pids.append(int(line.split()[1]))
    raise AssertionError("the job never ran")


def test_what_does_not_end_in_its_grace_is_killed(pool: ServerPool) -> None:
    program = (
        'trap "" TERM; (while :; do sleep 0.1; done) & echo pid $!;'
        " echo runs; while :; do sleep 0.1; done"
    )
    with job(pool, f"exec {EXEC} --grace 0.5 -- sh -c '{program}'") as process:
        pids = started(process)
        wait_for(lambda: in_use(pool) == 1, 5, "the seat is held")
        remove(pool)
        assert process.wait(ENDS_WITHIN_S) == 1
        assert [pid for pid in pids if not gone(pid)] == []
        assert process.stderr is not None
        assert "did not end within 0.5 s; killing it" in process.stderr.read()


def test_a_job_does_not_notice_that_its_server_dies(make_pool: MakePool) -> None:
    """With every seat in use: its own is adopted."""
    pool = make_pool({"cad": 3}, lease_s=1.0, ttl_s=6.0)
    program = "echo at $LICRAFT_SERVER; echo runs; while :; do sleep 0.1; done"
    with job(pool, f"exec {EXEC} -n 3 --wait 5 -- sh -c '{program}'") as process:
        assert process.stdout is not None
        server = process.stdout.readline().split()[1]
        said(process, "runs")
        pool.kill(server)
        other = next(name for name in pool.names if name != server)
        wait_for(
            lambda: (
                [(h["server"] != server, h["count"]) for h in pool.holders(other)] == [(True, 3)]
            ),
            pool.ttl_s,
            "the seats are adopted",
        )
        process.terminate()
        assert process.wait(ENDS_WITHIN_S) == 128 + signal.SIGTERM
    wait_for(lambda: pool.feature(other)["in_use"] == 0, 5, "the seats are back")
