"""`licraft run` around its server: what systemd is told, and how many files may be open."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from licraft.cli import run

FILES = """
import logging, resource, sys
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout)
soft, hard = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from licraft.cli.run import raise_file_limit
got = raise_file_limit()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (got, hard)
print(got)
"""


def told(monkeypatch: pytest.MonkeyPatch, listener: Path, *states: str) -> list[str]:
    """What systemd hears of a server that goes through these states and is stopped in the last."""
    monkeypatch.setattr(run, "_LOOK_S", 0.001)
    monkeypatch.setenv("NOTIFY_SOCKET", str(listener))
    rest = list(states)

    async def program() -> None:
        stop = asyncio.Event()

        def state() -> str:
            if len(rest) == 1:
                stop.set()
            return rest.pop(0)

        await asyncio.wait_for(run.until_stopped(state, stop), 10.0)

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(listener))
        systemd.setblocking(False)
        asyncio.run(program())
        heard = []
        while True:
            try:
                heard.append(systemd.recv(4096).decode())
            except BlockingIOError:
                return heard


@pytest.mark.parametrize(
    "word", ["starting", "joining", "no_quorum", "removing", "removed", "refused"]
)
def test_a_server_that_cannot_serve_is_not_ready(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(monkeypatch, tmp_path / "notify", word, word) == [f"STATUS={word}"]


@pytest.mark.parametrize("word", ["serving", "recovering", "draining"])
def test_a_server_that_joins_is_ready_when_it_serves(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = ("starting", "joining", "joining", "starting", "no_quorum", word)
    assert told(monkeypatch, tmp_path / "notify", *states) == [
        "STATUS=starting",
        "STATUS=joining",
        "STATUS=starting",
        "STATUS=no_quorum",
        f"READY=1\nSTATUS={word}",
    ]


def test_without_systemd_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    run.notify("READY=1")


def test_a_server_may_open_as_many_files_as_its_hard_limit_allows() -> None:
    out = limited(soft=256, hard=4096)
    assert out == ["4096"]


def test_a_low_hard_limit_is_told_with_what_to_do() -> None:
    warning, got = limited(soft=256, hard=2000)
    assert got == "2000"
    assert warning.startswith("WARNING this process may open 2000 files only")
    assert "LimitNOFILE" in warning


def limited(soft: int, hard: int) -> list[str]:
    """The lines that a process of these limits prints."""
    command = [sys.executable, "-c", FILES, str(soft), str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
