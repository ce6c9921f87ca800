"""Proposing and applying: callbacks, methods and their numbers (S10, S11, S12, lost answers)."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, SyncObjConsumer, replicated
from pysyncobj.node import Node
from stock_bench import GUARDED, StockBench, StockMachine, bench_for, pieces_of, submit
from sync_bench import ALPHA, GAMMA, Bench, Recorder, Wire, acknowledge
from sync_bench import clock_fixture as clock_fixture

from licraft.errors import NotExecuted, OutcomeUnknown
from licraft.replication.messages import Message
from licraft.replication.peers import Peers
from licraft.replication.proposals import Proposal, error_of
from licraft.replication.pysyncobj_engine import EngineConfig, PySyncObjEngine, start_engine

Outcome = tuple[object, int]


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.005)


async def no_answer(server: str, body: bytes) -> bytes:
    raise NotImplementedError


@contextmanager
def ticking(recorder: Recorder) -> Iterator[SyncObj]:
    """A SyncObj that is alone and ticks in a thread of its own, as it does by default."""
    conf = SyncObjConf(autoTickPeriod=0.005)
    machine = StockMachine(recorder)
    node = SyncObj(Node("alpha"), [], conf, [machine], nodeClass=Node, transport=Wire())
    try:
        yield node
    finally:
        node.destroy_synchronous()


@asynccontextmanager
async def engines(
    directory: Path, *machines: Recorder, on_fatal: Callable[[BaseException], None] | None = None
) -> AsyncIterator[list[PySyncObjEngine]]:
    """Engines of one pool, one for each machine, on loopback."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in machines]
    names = ("alpha", "beta", "gamma")
    members = {
        name: f"127.0.0.1:{listener.getsockname()[1]}"
        for name, listener in zip(names, held, strict=False)
    }
    for listener in held:
        listener.close()
    started: list[PySyncObjEngine] = []
    try:
        for name, machine in zip(members, machines, strict=True):
            config = EngineConfig("pool", name, members, directory / name)
            engine = await start_engine(
                config, machine, no_answer, lambda: None, on_fatal=on_fatal or unexpected
            )
            started.append(engine)
        yield started
    finally:
        for engine in started:
            await engine.close()


def unexpected(fault: BaseException) -> None:
    raise AssertionError("an engine stopped") from fault


class Partial(Recorder):
    """A state machine that is not total, and counts how often it is asked."""

    asked = 0

    def apply(self, index: int, command: bytes) -> object:
        self.asked += 1
        return super().apply(index, command)


# Applying.


@GUARDED
def test_s10_a_callback_that_raises_is_not_applied_again(tmp_path: Path, guarded: bool) -> None:
    """Setting the result of a future whose task was cancelled raises."""

    async def scenario() -> None:
        bench = bench_for(guarded, tmp_path)
        bench.lead()
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        future.cancel()
        if guarded:
            submit(bench, b"x", Proposal(future))
        else:
            submit(bench, b"x", lambda result, reason: future.set_result(result))
        bench.turn()
        acknowledge(bench, GAMMA, 4)
        if not guarded:
            with pytest.raises(asyncio.InvalidStateError):
                bench.turn()
        for _ in range(3):
            bench.turn()
        assert bench.machine.applied == [(3, b"x")] * (1 if guarded else 2)

    asyncio.run(scenario())


@GUARDED
def test_s11_a_method_that_raises_is_not_retried_for_ever(tmp_path: Path, guarded: bool) -> None:
    machine = Partial()

    async def bare() -> None:
        with ticking(machine) as node:
            await until(node._isLeader)
            node._applyCommand(StockBench.command(b"raise")[1:], None, 0)
            node._applyCommand(StockBench.command(b"x")[1:], None, 0)
            await until(lambda: machine.asked > 10)
            # Nothing is applied any more, and it leads on.
            assert machine.applied == []
            assert node._isLeader()

    async def ours() -> None:
        faults: list[BaseException] = []
        async with engines(tmp_path, machine, on_fatal=faults.append) as (engine,):
            await until(lambda: engine.status().leads)
            with pytest.raises(OutcomeUnknown, match="not total"):
                await engine.propose(b"raise", 5.0)
            assert [str(fault) for fault in faults] == ["not total"]
            assert machine.asked == 1
            assert not engine.status().leads

    asyncio.run(ours() if guarded else bare())


class First(SyncObjConsumer):  # type: ignore[misc]  # PySyncObj has no types
    """The first version of a replicated object, with one method."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[str] = []

    @replicated  # type: ignore[untyped-decorator]  # PySyncObj has no types
    def take(self, seats: int) -> None:
        self.taken.append(f"take {seats}")


class Second(First):
    """The next version has a method more, whose name sorts before."""

    @replicated  # type: ignore[untyped-decorator]  # PySyncObj has no types
    def give(self, seats: int) -> None:
        self.taken.append(f"give {seats}")


def run_alone(consumer: First, journal: Path) -> SyncObj:
    """A pool of one, until all of its log is applied."""
    conf = SyncObjConf(autoTick=False, journalFile=str(journal), raftMinTimeout=0.4)
    node = SyncObj(Node("alpha"), [], conf, [consumer], nodeClass=Node, transport=Wire())
    node._SyncObj__raftElectionDeadline = 0.0
    for _ in range(3):
        node.doTick(0.0)
    return node


def test_s12_a_method_more_renumbers_old_logs(tmp_path: Path) -> None:
    first, second = First(), Second()
    node = run_alone(first, tmp_path / "journal")
    first.take(3)
    for _ in range(3):
        node.doTick(0.0)
    node._doDestroy()
    run_alone(second, tmp_path / "journal")._doDestroy()
    assert (first.taken, second.taken) == (["take 3"], ["give 3"])


def test_s12_our_log_holds_commands_and_no_method_numbers(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert [method.__name__ for method in bench.node._idToMethod.values()] == ["execute_v0"]
    bench.lead()
    submit(bench, b"take 3", lambda result, reason: None)
    bench.turn()
    assert bench.journal[-1] == (b"\0take 3", 3, 1)


# Answers.


@GUARDED
def test_an_answer_that_never_comes_is_not_waited_for(
    tmp_path: Path, guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost after the leader took the command and before it said so."""

    def bare() -> None:
        bench = bench_for(False, tmp_path)
        bench.append((1, 0))
        outcomes: list[Outcome] = []
        submit(bench, b"x", lambda result, reason: outcomes.append((result, reason)))
        bench.turn()
        (sent,) = (m for _, m in bench.wire.take() if m["type"] == "apply_command")
        bench.node._SyncObj__onNodeDisconnected(ALPHA)
        bench.node._SyncObj__onNodeConnected(ALPHA)
        bench.seq += 1
        entry = (sent["command"], 2, 9)
        fields = {"term": 9, "seq": bench.seq, "prevLogIdx": 1, "prevLogTerm": 0}
        bench.hear(ALPHA, "append_entries", **fields, entries=[entry], commit_index=2)
        for _ in range(1000):
            bench.now += 0.1
            bench.append((2, 9), commit=2)
            bench.turn()
        assert bench.machine.applied == [(2, b"x")]
        assert outcomes == []

    send = Peers.send

    def lossy(self: Peers, node: Node, message: Message) -> bool:
        return message["type"] == "apply_command_response" or send(self, node, message)

    async def ours() -> None:
        machines = Recorder(), Recorder()
        async with engines(tmp_path, *machines) as pool:
            await until(lambda: any(engine.status().leads for engine in pool))
            follower = next(engine for engine in pool if not engine.status().leads)
            await until(lambda: follower.status().leader)
            with pytest.raises(OutcomeUnknown, match="not seen committed within"):
                await follower.propose(b"x", 0.5)
            await until(lambda: all(machine.applied for machine in machines))

    monkeypatch.setattr(Peers, "send", lossy)
    if guarded:
        asyncio.run(ours())
    else:
        bare()


@GUARDED
def test_a_snapshot_over_a_proposal_leaves_no_callback_behind(
    tmp_path: Path, guarded: bool
) -> None:
    """Its entry is applied with the snapshot, so that its callback has nobody to call it."""
    pieces = pieces_of(40, guarded, tmp_path)
    bench = bench_for(guarded, tmp_path / "follower")
    bench.append((1, 0))
    outcomes: list[Outcome] = []

    def callback(result: object, reason: int) -> None:
        outcomes.append((result, reason))

    submit(bench, b"x", callback)
    bench.turn()
    (sent,) = (m for _, m in bench.wire.take() if m["type"] == "apply_command")
    number = sent["request_id"]
    bench.hear(ALPHA, "apply_command_response", request_id=number, log_idx=30, log_term=9)
    for piece in pieces:
        bench.piece(piece, commit=40)
    bench.turn()
    assert bench.node.raftLastApplied == 40
    assert outcomes == []
    if guarded:
        bench.node.forget(lambda waiting: waiting is callback)
    assert bool(bench.node._SyncObj__commandsWaitingCommit) != guarded


@GUARDED
def test_leader_changed_is_not_taken_for_failed(tmp_path: Path, guarded: bool) -> None:
    """`LEADER_CHANGED` is documented as "without command commit", and comes before a commit."""

    async def scenario() -> None:
        bench = bench_for(guarded, tmp_path)
        bench.append((1, 0))
        outcomes: list[Outcome] = []
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        submit(
            bench,
            b"x",
            Proposal(future)
            if guarded
            else lambda result, reason: outcomes.append((result, reason)),
        )
        bench.turn()
        (sent,) = (m for _, m in bench.wire.take() if m["type"] == "apply_command")
        fields = {"term": 10, "seq": 9, "prevLogIdx": 1, "prevLogTerm": 0, "commit_index": 2}
        bench.hear(GAMMA, "append_entries", **fields, entries=[(sent["command"], 2, 9)])
        bench.turn()
        bench.turn()
        assert bench.machine.applied == [(2, b"x")]
        if guarded:
            assert isinstance(future.exception(), OutcomeUnknown)
        else:
            assert outcomes == [(None, FAIL_REASON.LEADER_CHANGED)]

    asyncio.run(scenario())


def test_every_reason_is_either_certain_or_unknown() -> None:
    reasons = {v for n, v in vars(FAIL_REASON).items() if n.isupper() and n != "SUCCESS"}
    assert reasons == set(range(1, 8))
    unknown = {reason for reason in reasons if isinstance(error_of(reason), OutcomeUnknown)}
    assert unknown == {FAIL_REASON.LEADER_CHANGED, FAIL_REASON.UNKNOWN_OUTCOME}
    assert all(isinstance(error_of(reason), NotExecuted) for reason in reasons - unknown)
    assert isinstance(error_of(99), OutcomeUnknown)
