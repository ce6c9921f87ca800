"""`licraft exec` as shells, schedulers and terminals run it; real processes, a scripted pool."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from client_answers import BEAT, CHECKIN, GRANT, beats
from client_answers import pool_fixture as pool_fixture
from client_fakes import FakePool, Reply, eventually

EXEC = f"{sys.executable} -m licraft exec cad"
ROOT = Path(__file__).resolve().parents[2]
ENDS_WITHIN_S = 15.0

# Tells of every signal that it gets, and ends by SIGTERM.
LISTENER = """
import signal, sys
every = set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
signal.pthread_sigmask(signal.SIG_BLOCK, every)
print("runs", flush=True)
while True:
    number = signal.sigwait(every)
    print("got", int(number), flush=True)
    if number == signal.SIGTERM:
        sys.exit(7)
"""


@contextmanager
def job(
    pool: FakePool,
    script: str,
    program: str = "",
    *,
    shell: str = "sh",
    terminal: int | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A script that leads a session of its own, as a job does; at the end nobody is left.

    It finds `program` in its environment, as PROGRAM.
    """

    def take_terminal() -> None:
        if terminal is not None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    environ = {name: value for name, value in os.environ.items() if "LICRAFT" not in name}
    environ |= {"LICRAFT_SERVERS": ",".join(pool.urls), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [shell, "-c", script],
        env={**environ, "PROGRAM": program},
        text=True,
        stdin=subprocess.DEVNULL if terminal is None else terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=take_terminal,  # no threads of ours matter to an ioctl
    )
    try:
        yield process
    finally:
        for pid in members_of(process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.communicate(timeout=10)


def stat_of(pid: int) -> list[str]:
    """The fields of proc(5) that follow a process's name: state, parent, group, session."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def processes() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]


def members_of(session: int) -> list[int]:
    """Every process of a session."""
    return [pid for pid in processes() if stat_of(pid)[3:4] == [str(session)]]


def alive(pid: int) -> bool:
    return stat_of(pid)[:1] not in ([], ["Z"])


def said(process: subprocess.Popen[str], words: str) -> str:
    """Wait for a line that begins so; what follows."""
    assert process.stdout is not None
    late = threading.Timer(ENDS_WITHIN_S, process.kill)
    late.start()
    try:
        for line in process.stdout:
            if line.startswith(words):
                return line[len(words) :].strip()
    finally:
        late.cancel()
    raise AssertionError(f"it never said {words!r}: {process.communicate(timeout=10)}")


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """The status, what was said since, and what went wrong."""
    output, errors = process.communicate(timeout=ENDS_WITHIN_S)
    return process.returncode, output, errors


def lose(pool: FakePool) -> None:
    """Have the next heartbeat be answered that the seat is lost."""
    pool.members[0].always[BEAT] = beats("lost", code="removed")


# Status, streams, shells


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("true", 0),
        ("sh -c 'exit 42'", 42),
        ("sh -c 'kill -KILL $$'", 137),
        ("sh -c 'kill -TERM $$'", 143),
        ("sh -c 'kill -USR1 $$'", 138),
        ("sh -c 'kill -SEGV $$'", 139),
        ("/nowhere/at/all", 127),
        ("/", 126),
    ],
)
def test_the_status_is_the_command_s(pool: FakePool, command: str, status: int) -> None:
    with job(pool, f"exec {EXEC} -- {command}") as process:
        assert ended(process)[0] == status
    assert not pool.members[0].granted


def test_the_streams_are_the_command_s(pool: FakePool) -> None:
    with job(pool, f"echo question | {EXEC} -- sh -c 'cat; echo wrong >&2'") as process:
        assert ended(process) == (0, "question\n", "wrong\n")


def test_nothing_is_needed_of_the_terminal_and_its_streams(pool: FakePool) -> None:
    with job(pool, f"exec {EXEC} --wait 5 -- sh -c 'exit 4' <&- >&- 2>&-") as process:
        assert process.wait(ENDS_WITHIN_S) == 4


def test_a_careful_script_ends_where_the_command_fails(pool: FakePool) -> None:
    script = f"set -e; {EXEC} -- true; echo first; {EXEC} -- false; echo second"
    with job(pool, script) as process:
        status, output, _ = ended(process)
        assert (status, output) == (1, "first\n")


@pytest.mark.parametrize("control", ["", "set -m;"], ids=["", "job control"])
def test_it_may_run_in_the_background(pool: FakePool, control: str) -> None:
    """With job control in a process group of its own."""
    script = f"{control} {EXEC} -- sh -c 'echo runs; exit 5' & wait $!; echo status $?"
    with job(pool, script, shell="bash") as process:
        assert said(process, "status") == "5"


def test_the_command_knows_its_seat(pool: FakePool) -> None:
    script = f"{EXEC} -n 2 -- sh -c 'echo $LICRAFT_SEAT_ID $LICRAFT_FEATURE $LICRAFT_SERVER'"
    with job(pool, script) as process:
        id, feature, server = ended(process)[1].split()
    (asked,) = pool.members[0].calls(GRANT)
    assert (id, feature, server, asked["count"]) == (asked["id"], "cad", "alpha", 2)


# Signals


def test_every_signal_that_says_something_is_passed_on(pool: FakePool) -> None:
    """And the command's status stays its own."""
    numbers = [
        *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT),
        *(signal.SIGALRM, signal.SIGXCPU, signal.SIGCONT, signal.SIGWINCH, signal.SIGRTMIN),
    ]
    with job(pool, f'exec {EXEC} -- {sys.executable} -c "$PROGRAM"', LISTENER) as process:
        said(process, "runs")
        for number in numbers:
            process.send_signal(number)
            assert said(process, "got") == str(int(number))
        process.send_signal(signal.SIGTERM)
        assert said(process, "got") == str(int(signal.SIGTERM))
        assert ended(process)[0] == 7
    assert not pool.members[0].granted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_while_it_waits_for_seats_ends_it_in_order(
    pool: FakePool, number: signal.Signals
) -> None:
    alpha = pool.members[0]
    alpha.plan(GRANT, Reply(201, alpha.authorization, after_s=60))
    with job(pool, f"exec {EXEC} --wait 60 -- true") as process:
        eventually(lambda: alpha.calls(GRANT))
        process.send_signal(number)
        assert ended(process)[0] == 128 + number


def test_what_was_ignored_is_ignored(pool: FakePool) -> None:
    """As under nohup: while it waits for seats, and by the command."""
    alpha = pool.members[0]
    alpha.plan(GRANT, Reply(201, alpha.authorization, after_s=1.0))
    program = "echo runs; for i in 1 2 3 4 5; do sleep 0.1; done; echo done"
    with job(pool, f"exec nohup {EXEC} --wait 60 -- sh -c '{program}'") as process:
        eventually(lambda: alpha.calls(GRANT))
        os.killpg(process.pid, signal.SIGHUP)
        said(process, "runs")
        os.killpg(process.pid, signal.SIGHUP)
        said(process, "done")
        assert ended(process)[0] == 0


def test_a_signal_after_the_command_s_end_changes_nothing(pool: FakePool) -> None:
    """Its seat is returned, and its status is kept."""
    alpha = pool.members[0]
    released = Reply(200, {"released": [], "unknown": []}, after_s=1.0)
    alpha.plan(CHECKIN, released)
    with job(pool, f"exec {EXEC} -- sh -c 'exit 3'") as process:
        eventually(lambda: alpha.calls(CHECKIN))
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        assert ended(process)[0] == 3
    assert len(alpha.calls(CHECKIN)) == 1


# A lost seat


def test_who_saves_within_the_grace_is_not_killed(pool: FakePool) -> None:
    pool.ttl = 2.0
    program = 'trap "sleep 0.5; echo saved; exit 0" TERM; echo runs; while :; do sleep 0.1; done'
    with job(pool, f"exec {EXEC} --grace 10 -- sh -c '{program}'") as process:
        said(process, "runs")
        lose(pool)
        said(process, "saved")
        status, _, errors = ended(process)
        assert status == 1
        assert "lost: removed; ending the command" in errors
        assert "killing" not in errors


def test_who_ignores_the_signal_is_killed_after_the_grace_and_not_before(pool: FakePool) -> None:
    pool.ttl = 2.0
    program = 'trap "echo asked" TERM; echo runs; while :; do sleep 0.05; done'
    with job(pool, f"exec {EXEC} --grace 1 -- sh -c '{program}'") as process:
        said(process, "runs")
        lose(pool)
        said(process, "asked")
        before = time.monotonic()
        assert ended(process)[0] == 1
        assert time.monotonic() - before > 0.9


def test_a_stopped_command_is_woken_to_end(pool: FakePool) -> None:
    pool.ttl = 2.0
    with job(pool, f"exec {EXEC} --grace 30 -- sh -c 'echo runs $$; exec sleep 1000'") as process:
        pid = int(said(process, "runs"))
        os.kill(pid, signal.SIGSTOP)
        lose(pool)
        assert ended(process)[0] == 1
        assert not alive(pid)


def test_a_daemon_of_the_command_ends_with_it(pool: FakePool) -> None:
    """It has left the session, the group and its parent, and is found all the same."""
    pool.ttl = 2.0
    program = "(setsid sh -c 'echo daemon $$; exec sleep 1000' &); echo runs; sleep 1000"
    with job(pool, f'exec {EXEC} --grace 5 -- sh -c "$PROGRAM"', program) as process:
        pid = int(said(process, "daemon"))
        try:
            eventually(lambda: stat_of(pid)[1] == str(process.pid))  # its parent has ended
            lose(pool)
            assert ended(process)[0] == 1
            assert not alive(pid)
        finally:
            kill(pid)


def kill(pid: int) -> None:
    """End a process that has left its session, if it is still there."""
    if alive(pid):
        os.kill(pid, signal.SIGKILL)


def test_a_daemon_of_a_command_that_ended_well_is_left_alone(pool: FakePool) -> None:
    """Nobody waits for it, as no shell would; its seat is returned."""
    program = "(setsid sh -c 'echo daemon $$; exec sleep 1000 >/dev/null 2>&1' &); sleep 0.2"
    with job(pool, f'exec {EXEC} -- sh -c "$PROGRAM"', program) as process:
        pid = int(said(process, "daemon"))
        try:
            assert ended(process)[0] == 0
            assert alive(pid)
        finally:
            kill(pid)
    assert not pool.members[0].granted


def test_what_the_script_had_started_itself_is_left_alone(pool: FakePool) -> None:
    """The shell has become us, and its children have become ours; they need no seat."""
    pool.ttl = 2.0
    script = f"sleep 1000 & echo other $!; exec {EXEC} --grace 5 -- sh -c 'echo runs; sleep 1000'"
    with job(pool, script) as process:
        other = int(said(process, "other"))
        said(process, "runs")
        lose(pool)
        # Its outputs are the other's as well, so that their end cannot be waited for.
        assert process.wait(ENDS_WITHIN_S) == 1
        assert alive(other)
        kill(other)


def test_the_orphans_of_a_long_job_are_buried(pool: FakePool) -> None:
    program = "for i in 1 2 3 4 5; do (sh -c true &); done; echo runs; exec sleep 1000"
    with job(pool, f'exec {EXEC} -- sh -c "$PROGRAM"', program) as process:
        said(process, "runs")

        def children() -> list[str]:
            stats = [stat_of(pid) for pid in processes()]
            return [stat[0] for stat in stats if stat[1:2] == [str(process.pid)]]

        eventually(lambda: len(children()) == 1 and "Z" not in children())
        process.send_signal(signal.SIGTERM)
        assert ended(process)[0] == 143


def test_a_job_that_was_suspended_for_too_long_ends_when_it_wakes(pool: FakePool) -> None:
    """A scheduler stops all of it; then its seat runs out, and is somebody else's."""
    pool.ttl = 2.0
    program = "echo runs; while :; do sleep 0.05; done"
    with job(pool, f"exec {EXEC} --grace 5 -- sh -c '{program}'") as process:
        said(process, "runs")
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(2.5)  # it is time itself that has to pass
        os.killpg(process.pid, signal.SIGCONT)
        status, _, errors = ended(process)
        assert status == 1
        assert "no license server answered in time; ending the command" in errors


# Terminals


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal: the end where a person types, and the other."""
    person, program = pty.openpty()
    try:
        yield person, program
    finally:
        os.close(person)
        os.close(program)


def test_ctrl_c_reaches_the_command_once(pool: FakePool) -> None:
    """The terminal signals the whole group: what we get need not be passed on."""
    with terminal() as (person, program):
        script = f'exec {EXEC} -- {sys.executable} -c "$PROGRAM"'
        with job(pool, script, LISTENER, terminal=program) as process:
            said(process, "runs")
            os.write(person, b"\x03")
            assert said(process, "got") == str(int(signal.SIGINT))
            os.write(person, b"\x1c")
            assert said(process, "got") == str(int(signal.SIGQUIT))
            process.send_signal(signal.SIGTERM)
            assert said(process, "got") == str(int(signal.SIGTERM))
            assert ended(process)[0] == 7


def test_ctrl_z_stops_command_and_us_and_the_seat_is_held_when_both_go_on(pool: FakePool) -> None:
    """The person has the prompt again, and `fg` goes on."""
    pool.ttl = 6.0
    alpha = pool.members[0]
    command = "echo runs $$; while :; do sleep 0.05; done"
    with terminal() as (person, program):
        interactive = "exec bash --norc --noprofile -i"
        with job(pool, interactive, command, terminal=program) as process:
            os.write(person, f'{EXEC} -- sh -c "$PROGRAM"\n'.encode())
            pid = int(said(process, "runs"))
            ours = int(stat_of(pid)[1])
            os.write(person, b"\x1a")
            os.write(person, b"echo stopped\n")
            said(process, "stopped")
            eventually(lambda: stat_of(pid)[0] == stat_of(ours)[0] == "T")
            before = len(alpha.calls(BEAT))
            os.write(person, b"fg\n")
            eventually(lambda: len(alpha.calls(BEAT)) > before)
            assert alive(pid)
            os.kill(ours, signal.SIGTERM)
            os.write(person, b"echo status $?\n")
            assert said(process, "status") == "143"
