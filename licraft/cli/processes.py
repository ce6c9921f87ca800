"""Server processes that a foreground command starts, watches and ends.

May import the standard library only. Children get their own session, so that a
terminal's Ctrl-C reaches the parent alone, which then ends them in order; and on
Linux the kernel ends them if the parent is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_MAX_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """One running server and the file its output goes to."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def end_of_log(self, lines: int) -> list[str]:
        """The last lines that the server wrote."""
        with self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _MAX_TAIL_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]


def run_command(config: Path) -> list[str]:
    """The command that runs one server, with this interpreter."""
    return [sys.executable, "-m", "licraft", "run", "--config", str(config)]


def start(
    name: str, command: Sequence[str], log: Path, environ: Mapping[str, str]
) -> ServerProcess:
    """Start `command` with its output appended to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environ),
            start_new_session=True,
            preexec_fn=_dies_with_parent(),
        )
    return ServerProcess(name, process, log)


def end_all(servers: Sequence[ServerProcess], patience_s: float) -> list[str]:
    """SIGTERM to every server, SIGKILL to those left after `patience_s`; returns their names."""
    for server in servers:
        if server.process.poll() is None:
            server.process.terminate()
    deadline = time.monotonic() + patience_s
    stubborn = []
    for server in servers:
        try:
            server.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()
            stubborn.append(server.name)
    return stubborn


def outcome(returncode: int) -> str:
    """A process's end in words."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"


def _dies_with_parent() -> Callable[[], None] | None:
    """What a child runs before it becomes the server: ask the kernel to end it with us."""
    if sys.platform != "linux":
        return None
    # Loaded here: a forked child must not import or allocate more than it has to.
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask_the_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # the parent died before the kernel was asked

    return ask_the_kernel
