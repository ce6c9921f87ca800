"""Engines on loopback, in one process: real sockets, real files, PySyncObj itself."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from licraft.errors import (
    DataError,
    NotExecuted,
    OutcomeUnknown,
    Overloaded,
    PeerUnreachable,
    ProposalError,
)
from licraft.replication import pysyncobj_engine
from licraft.replication.engine import MAX_COMMAND_BYTES
from licraft.replication.pysyncobj_engine import (
    EngineConfig,
    PySyncObjEngine,
    start_engine,
)

NAMES = ("alpha", "beta", "gamma")


class Digest:
    """A state machine whose state is a digest of everything that was applied, in order."""

    def __init__(self) -> None:
        self.count = 0
        self.index = 0
        self.digest = bytes(32)
        self.restored_at = 0

    def apply(self, index: int, command: bytes) -> object:
        assert index > self.index
        if command == b"raise":
            raise RuntimeError("not total")
        self.index = index
        self.count += 1
        seen = self.digest + index.to_bytes(8, "big") + command
        self.digest = hashlib.sha256(seen).digest()
        return index, len(command)

    def snapshot(self) -> bytes:
        return self.count.to_bytes(8, "big") + self.index.to_bytes(8, "big") + self.digest

    def restore(self, index: int, snapshot: bytes) -> None:
        self.count = int.from_bytes(snapshot[:8], "big")
        self.index = int.from_bytes(snapshot[8:16], "big")
        self.digest = snapshot[16:]
        self.restored_at = index


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the condition did not come true in time")
        await asyncio.sleep(0.005)


async def echo(server: str, body: bytes) -> bytes:
    return server.encode() + b":" + body


def free_addresses(names: tuple[str, ...]) -> dict[str, str]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    addresses = {
        name: f"127.0.0.1:{s.getsockname()[1]}" for name, s in zip(names, held, strict=True)
    }
    for s in held:
        s.close()
    return addresses


class Pool:
    """A pool whose servers can be started, stopped and killed by name."""

    def __init__(self, directory: Path, names: tuple[str, ...] = NAMES, **options: object) -> None:
        self.names = names
        self._members = free_addresses(names)
        self._directory = directory
        self._options = options
        self.engines: dict[str, PySyncObjEngine] = {}
        self.machines: dict[str, Digest] = {}
        self.faults: list[BaseException] = []
        self.changes = 0

    async def __aenter__(self) -> Pool:
        for name in self.names:
            await self.start(name)
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in list(self.engines):
            await self.stop(name)
        await asyncio.sleep(0)

    def config(self, name: str) -> EngineConfig:
        config = EngineConfig("pool", name, self._members, self._directory / name)
        return replace(config, **self._options)  # type: ignore[arg-type]  # options of a test

    async def start(self, name: str) -> None:
        machine = Digest()
        self.engines[name] = await start_engine(
            self.config(name), machine, echo, self._changed, on_fatal=self.faults.append
        )
        self.machines[name] = machine

    async def stop(self, name: str) -> None:
        await self.engines.pop(name).close()
        self.machines.pop(name)

    def kill(self, name: str) -> None:
        self.engines.pop(name).abort()
        self.machines.pop(name)

    def _changed(self) -> None:
        self.changes += 1

    @property
    def leader(self) -> str | None:
        """Who leads, if the servers that are up agree on it."""
        statuses = [engine.status() for engine in self.engines.values()]
        leaders = {status.leader for status in statuses}
        leads = [status.server for status in statuses if status.leads]
        return leads[0] if len(leads) == 1 and leaders == set(leads) else None

    async def elected(self) -> str:
        await until(lambda: self.leader)
        assert self.leader is not None
        return self.leader

    def follower(self) -> str:
        return next(name for name in self.engines if name != self.leader)

    async def commit(self, name: str, command: bytes) -> object:
        """Propose until it is committed once; the commands of these tests may repeat."""
        for _ in range(500):
            try:
                return await self.engines[name].propose(command, 2.0)
            except ProposalError:
                await asyncio.sleep(0.01)
        raise AssertionError("no commit in 500 attempts")

    async def same_everywhere(self) -> None:
        def states() -> set[tuple[int, bytes]]:
            return {(m.index, m.digest) for m in self.machines.values()}

        await until(lambda: len(states()) == 1)
        assert not self.faults


def test_commits_from_leader_and_followers_reach_all(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Pool(tmp_path) as pool:
            assert await pool.elected() == "alpha"  # the highest priority
            for name in NAMES:
                await pool.engines[name].propose(b"first", 5.0)
                results = await asyncio.gather(
                    *(pool.engines[name].propose(b"%d" % n, 5.0) for n in range(200))
                )
                indices = [result[0] for result in results]  # type: ignore[index]
                assert indices == sorted(set(indices))
            await pool.same_everywhere()
            assert pool.machines["gamma"].count == 603
            assert pool.changes > 0
            assert await pool.engines["beta"].ask("gamma", b"hi", 5.0) == b"beta:hi"
            status = pool.engines["beta"].status()
            assert status.connected == {"alpha", "gamma"}
            assert not status.leads
            assert status.applied_index == pool.machines["beta"].index

    asyncio.run(scenario())


def test_the_same_on_the_loop_that_servers_use(tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def scenario() -> None:
        async with Pool(tmp_path, compaction_entries=20) as pool:
            await pool.elected()
            await pool.stop("gamma")
            for _ in range(100):
                await pool.engines["beta"].propose(b"x", 5.0)
            await pool.start("gamma")
            await pool.same_everywhere()
            assert pool.machines["gamma"].restored_at > 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


def test_the_survivors_of_a_killed_leader_commit_again_soon(tmp_path: Path) -> None:
    async def scenario() -> None:
        took = []
        async with Pool(tmp_path) as pool:
            for _ in range(5):
                leader = await pool.elected()
                await pool.commit(leader, b"before")
                pool.kill(leader)
                started = time.monotonic()
                await pool.commit(next(iter(pool.engines)), b"after")
                took.append(time.monotonic() - started)
                await pool.start(leader)
                await pool.same_everywhere()
        assert sorted(took)[2] < 1.2

    asyncio.run(scenario())


def test_nothing_acknowledged_is_lost_when_all_are_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Pool(tmp_path, compaction_entries=50) as pool:
            committed = 0
            for _ in range(3):
                name = await pool.elected()
                for n in range(70):
                    await pool.engines[name].propose(b"%d" % n, 5.0)
                    committed += 1
                for other in NAMES:
                    pool.kill(other)
                for other in NAMES:
                    await pool.start(other)
                await pool.elected()
                await pool.same_everywhere()
                assert pool.machines["beta"].count == committed

    asyncio.run(scenario())


def test_a_server_that_lags_catches_up_by_a_snapshot(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Pool(tmp_path, compaction_entries=100) as pool:
            await pool.elected()
            await pool.stop("gamma")
            for _ in range(10):
                await asyncio.gather(
                    *(pool.engines["beta"].propose(bytes(300), 5.0) for _ in range(50))
                )
            await pool.start("gamma")
            await pool.same_everywhere()
            assert pool.machines["gamma"].restored_at > 300
            await pool.commit("gamma", b"and goes on")
            await pool.same_everywhere()
            await pool.stop("gamma")
            await pool.start("gamma")
            await pool.same_everywhere()
        files = {p.name for p in (tmp_path / "gamma").iterdir()}
        assert files == {"journal", "lock", "snapshot"}
        assert (tmp_path / "alpha" / "journal").stat().st_size < 100_000

    asyncio.run(scenario())


def test_a_minority_executes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Pool(tmp_path) as pool:
            leader = await pool.elected()
            for name in NAMES:
                if name != leader:
                    pool.kill(name)
            with pytest.raises(OutcomeUnknown):
                await pool.engines[leader].propose(b"x", 0.3)
            await until(lambda: pool.engines[leader].status().leader is None)
            with pytest.raises(NotExecuted, match="no leader"):
                await pool.engines[leader].propose(b"x", 0.3)
            term = pool.engines[leader].status().term
            await asyncio.sleep(1.2)
            assert pool.engines[leader].status().term == term  # pre-vote

    asyncio.run(scenario())


def test_leadership_is_handed_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Pool(tmp_path) as pool:
            leader = await pool.elected()
            target = pool.follower()
            with pytest.raises(NotExecuted, match="is not the leader"):
                await pool.engines[target].transfer(leader)
            with pytest.raises(NotExecuted, match="no server of the pool"):
                await pool.engines[leader].transfer("delta")
            await pool.engines[leader].transfer(target)
            await until(lambda: pool.leader == target)
            pool.kill(leader)
            await until(lambda: leader not in pool.engines[target].status().connected)
            with pytest.raises(NotExecuted, match="not connected"):
                await pool.engines[target].transfer(leader)

    asyncio.run(scenario())


def test_a_pool_of_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Pool(tmp_path, ("alpha",), compaction_entries=20) as pool:
            await pool.elected()
            await asyncio.gather(*(pool.engines["alpha"].propose(b"x", 5.0) for _ in range(100)))
            pool.kill("alpha")
            await pool.start("alpha")
            await pool.elected()
            assert pool.machines["alpha"].count == 100
            with pytest.raises(PeerUnreachable):
                await pool.engines["alpha"].ask("beta", b"", 1.0)

    asyncio.run(scenario())


def test_large_commands_and_bounds(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Pool(tmp_path, max_proposals=4) as pool:
            leader = await pool.elected()
            engine = pool.engines[pool.follower()]
            for size in (0, 65_535, 65_536, 131_072, MAX_COMMAND_BYTES):
                result = await engine.propose(bytes(size), 10.0)
                assert result[1] == size  # type: ignore[index]
            with pytest.raises(ValueError, match="at most"):
                await engine.propose(bytes(MAX_COMMAND_BYTES + 1), 1.0)
            results = await asyncio.gather(
                *(pool.engines[leader].propose(b"x", 5.0) for _ in range(6)),
                return_exceptions=True,
            )
            assert sum(isinstance(result, Overloaded) for result in results) == 2
            await pool.same_everywhere()

    asyncio.run(scenario())


def test_a_machine_that_raises_stops_its_server_and_answers_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Pool(tmp_path) as pool:
            leader = await pool.elected()
            with pytest.raises(OutcomeUnknown, match="not total"):
                await pool.engines[leader].propose(b"raise", 5.0)
            # The next leader commits it too, and stops; then there is no majority to commit it.
            await until(lambda: len(pool.faults) == 2)
            assert {str(fault) for fault in pool.faults} == {"not total"}
            with pytest.raises(NotExecuted, match="stopped"):
                await pool.engines[leader].propose(b"x", 1.0)

    asyncio.run(scenario())


def test_a_full_disk_stops_the_server_before_it_acknowledges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with Pool(tmp_path, ("alpha",)) as pool:
            await pool.elected()

            def full(descriptor: int) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            monkeypatch.setattr(os, "fdatasync", full)
            with pytest.raises(OutcomeUnknown, match="No space left"):
                await pool.engines["alpha"].propose(b"x", 5.0)
            assert pool.machines["alpha"].count == 0
            assert isinstance(pool.faults[0], DataError)
            assert "journal" in str(pool.faults[0])

    asyncio.run(scenario())


def test_a_leader_with_a_slow_disk_steps_down_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are no ticks while the disk works, and a leader of nobody must not wait for it."""
    sync, stands, goes_on = os.fdatasync, threading.Event(), threading.Event()

    def slow(descriptor: int) -> None:
        stands.set()
        goes_on.wait(20.0)
        sync(descriptor)

    async def scenario() -> None:
        async with Pool(tmp_path) as pool:
            leader = pool.engines[await pool.elected()]
            for name in [name for name in pool.names if name != pool.leader]:
                pool.kill(name)
            monkeypatch.setattr(os, "fdatasync", slow)
            changes = pool.changes
            proposal = asyncio.create_task(leader.propose(b"x", 20.0))
            try:
                await until(stands.is_set)
                await until(lambda: leader.status().leader is None)
                await until(lambda: pool.changes > changes, 1.0)
                assert not leader.status().leads
                assert not proposal.done()
                with pytest.raises(NotExecuted, match="no leader"):
                    await leader.propose(b"y", 1.0)
            finally:
                goes_on.set()
                proposal.cancel()

    asyncio.run(scenario())


def test_what_one_server_may_have_proposed_is_bounded_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pysyncobj_engine, "MAX_PROPOSED_BYTES", 80_000)

    async def scenario() -> None:
        async with Pool(tmp_path) as pool:
            leader = await pool.elected()
            term = pool.engines[leader].status().term
            follower = pool.engines[pool.follower()]
            commands = [bytes(10_000)] * 12
            outcomes = await asyncio.gather(
                *(follower.propose(command, 20.0) for command in commands), return_exceptions=True
            )
            refused = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
            assert len(refused) == 4
            assert all("bytes wait already" in str(outcome) for outcome in refused)
            # What was taken on is executed, the leader keeps its place, and there is room again.
            await follower.propose(b"x", 5.0)
            await pool.same_everywhere()
            assert pool.engines[leader].status().term == term
            assert pool.machines[leader].count == 9

    asyncio.run(scenario())


def test_a_directory_in_use_or_damaged_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        pool = Pool(tmp_path, ("alpha",), compaction_entries=10)
        async with pool:
            await pool.elected()
            for _ in range(30):
                await pool.commit("alpha", b"x")
            with pytest.raises(DataError, match="in use by another server"):
                await start_engine(pool.config("alpha"), Digest(), echo, lambda: None)
        snapshot = tmp_path / "alpha" / "snapshot"
        whole = snapshot.read_bytes()
        snapshot.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(DataError, match="snapshot: checksum"):
            await pool.start("alpha")
        snapshot.unlink()
        with pytest.raises(DataError, match="snapshot of what comes before is missing"):
            await pool.start("alpha")
        snapshot.write_bytes(whole)
        async with pool:
            assert pool.machines["alpha"].count <= 30
            await pool.elected()
            await until(lambda: pool.machines["alpha"].count == 30)

    asyncio.run(scenario())


def test_a_cancelled_proposer_harms_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Pool(tmp_path) as pool:
            await pool.elected()
            engine = pool.engines[pool.follower()]
            tasks = [asyncio.create_task(engine.propose(b"x", 5.0)) for _ in range(20)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert sum(isinstance(r, asyncio.CancelledError) for r in results) == 10
            assert sum(isinstance(r, tuple) for r in results) == 10
            await pool.same_everywhere()
            assert pool.machines["alpha"].count == 20

    asyncio.run(scenario())
