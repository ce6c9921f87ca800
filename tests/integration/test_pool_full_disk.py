"""A server's disk fills up: it stops by itself and says why, and is back when there is room.

Real servers, each data directory a small file system of its own: mounting one needs root.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import ServerPool, wait_for

pytest_plugins = ["support.pool_fixtures"]

EXIT_STATUS = 70
DISK_BYTES = 1024 * 1024
SEATS = 100


def mount(folder: Path) -> bool:
    """Put a file system of `DISK_BYTES` on a folder; False if that is not permitted."""
    kind = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", str(folder)]
    try:
        return subprocess.run(kind, capture_output=True, check=False, timeout=10).returncode == 0
    except FileNotFoundError:
        return False


def unmount(folder: Path) -> None:
    """Take it away again, even if a file of it is still open."""
    subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=10)


@pytest.fixture
def small_disks(tmp_path: Path) -> Iterator[ServerPool]:
    """A pool of three that is ready and has a license, on disks that are easily filled."""
    pool = ServerPool(tmp_path / "pool", on_disk=True)
    mounted: list[Path] = []
    try:
        for name in pool.names:
            if not mount(data(pool, name)):
                pytest.skip("mounting a file system is not permitted here")
            mounted.append(data(pool, name))
        pool.start()
        pool.wait_ready()
        pool.install({"cad": SEATS})
        yield pool
    finally:
        pool.close()
        print(pool.logs())  # Seen only beside a failure.
        for folder in mounted:
            unmount(folder)


def data(pool: ServerPool, name: str) -> Path:
    """A server's data directory."""
    return pool.directory / "data" / name


def fill(folder: Path) -> None:
    """Leave no room on the file system of a folder."""
    ballast = os.open(folder / "ballast", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        while True:
            os.write(ballast, bytes(65536))
    except OSError as full:
        assert full.errno == errno.ENOSPC  # noqa: PT017  # It always comes to this.
    finally:
        os.close(ballast)


def install(pool: ServerPool, at: str, sequence: int) -> bool:
    """Put a license file of this sequence at a server; whether it was acknowledged."""
    text = pool.license_text({"cad": SEATS}, sequence=sequence)
    answer = pool.ask(at, "PUT", "/v1/license", content=text.encode(), timeout_s=5.0)
    return answer.status == 200


def installed(pool: ServerPool, at: str) -> int:
    """The sequence of a server's license file; 0 if it does not say."""
    answer = pool.get(at, "/v1/license")
    return int(answer["sequence"]) if answer.status == 200 else 0


def log_of(pool: ServerPool, name: str) -> str:
    """All that a server has logged."""
    return (pool.directory / f"{name}.log").read_text()


def status_of(pool: ServerPool, name: str, within_s: float = 20.0) -> int:
    """The exit status of a server, which ends by itself."""
    process = pool.processes[name].process
    wait_for(lambda: process.poll() is not None, within_s, f"{name} stops by itself")
    return int(process.returncode)


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_full_disk_stops_one_server_until_there_is_room(
    small_disks: ServerPool, role: str
) -> None:
    pool = small_disks
    victim = pool.leader() if role == "leader" else pool.followers()[0]
    others = [name for name in pool.names if name != victim]
    held = [pool.checkout(name)["token"] for name in others]

    fill(data(pool, victim))
    acknowledged = sequence = 1
    while pool.running(victim) and sequence < 200:
        sequence += 1
        if install(pool, victim, sequence):
            acknowledged = sequence
    assert status_of(pool, victim) == EXIT_STATUS
    said = log_of(pool, victim)
    assert f"the server stops: {data(pool, victim)}/journal: No space left on device" in said

    # The others have all that the victim acknowledged, and go on.
    pool.wait_ready(*others)
    pool.wait_everywhere(lambda n: installed(pool, n) >= acknowledged, 10, "the last license")
    sequence += 1
    wait_for(lambda: install(pool, others[0], sequence), 10, "a license without the victim")
    assert [pool.status_of(n, t) for n, t in zip(others, held, strict=True)] == ["renewed"] * 2
    assert pool.checkout(others[1]).status == 201

    # Without room it does not start, and says so.
    fill(data(pool, victim))
    pool.start(victim)
    assert status_of(pool, victim) != 0
    again = log_of(pool, victim)[len(said) :]
    assert "journal: No space left on device: check the disk, its free space" in again

    (data(pool, victim) / "ballast").unlink()
    pool.start(victim)
    pool.wait_ready()
    pool.wait_everywhere(lambda n: installed(pool, n) == sequence, 10, "the newest license")
    assert pool.checkout(victim).status == 201
    assert [pool.status_of(n, t) for n, t in zip(others, held, strict=True)] == ["renewed"] * 2
    assert pool.unbalanced() == []
