"""Connections: replaced, half open, never made, out of descriptors; large commands (S7, L5-L8)."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pysyncobj.tcp_connection
import pysyncobj.transport
import pytest
import uvloop
from exposed import (
    free_ports,
    guarded_exposed,
    intruder,
    stock_exposed,
    stock_frame,
    wait_for,
)
from pysyncobj.tcp_connection import CONNECTION_STATE
from stock_bench import GUARDED, StockBench, bench_for, carry, submit
from sync_bench import Bench
from sync_bench import clock_fixture as clock_fixture

from licraft.replication import peers as peers_module
from licraft.replication.engine import MAX_COMMAND_BYTES
from licraft.replication.link import RAFT
from licraft.replication.messages import BATCH_BYTES, Message, decode, encode
from licraft.replication.peers import Peers

FORGED: Message = {"type": "timeout_now", "term": 3}


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.005)


# A connection that was replaced.


def test_s7_a_replaced_connection_still_delivers() -> None:
    (other,) = free_ports(1)
    with stock_exposed([other]) as exposed, contextlib.ExitStack() as callers:
        (address,) = exposed.others
        node = exposed.transport._nodeAddrToNode[address]
        first, second = (callers.enter_context(intruder(exposed.port)) for _ in range(2))
        first.send(stock_frame(address))
        wait_for(lambda: exposed.transport._connections.get(node))
        before = exposed.transport._connections[node]
        second.send(stock_frame(address))
        wait_for(lambda: exposed.transport._connections[node] is not before)
        overtaken = {"type": "request_vote", "term": 77, "last_log_index": 9, "last_log_term": 9}
        first.send(stock_frame(overtaken))
        wait_for(lambda: exposed.term == 77)


def test_s7_a_replaced_connection_delivers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gamma connects anew, and what it had said before arrives after that."""
    monkeypatch.setattr(peers_module, "RETRY_S", (60.0, 60.0))
    received: list[Message] = []

    async def nobody(server: str, body: bytes) -> bytes:
        raise AssertionError("nobody asks")

    async def scenario() -> None:
        names = ("beta", "gamma", "gamma")
        ports = free_ports(3)
        members = {name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
        beta, first, second = (
            Peers("pool", name, members, None, nobody, time.monotonic, random.Random(1))
            for name in names
        )
        beta.setOnMessageReceivedCallback(lambda node, message: received.append(message))
        try:
            await beta.start(members["beta"])
            await first.start(f"127.0.0.1:{ports[1]}")
            await until(lambda: beta.connected and first.connected)
            replaced = beta._links["gamma"]
            await second.start(f"127.0.0.1:{ports[2]}")
            await until(lambda: beta._links.get("gamma") not in (None, replaced))
            body = encode(FORGED)
            replaced.data_received((len(body) + 1).to_bytes(4, "big") + bytes([RAFT]) + body)
            assert received == []
            await until(lambda: not first.connected)
        finally:
            for peers in (beta, first, second):
                peers.destroy()

    asyncio.run(scenario())


# Out of descriptors.

_OUT_OF_DESCRIPTORS = """
import sys
sys.path.insert(0, sys.argv[1])
from test_faults_connections import run_out_of_descriptors
run_out_of_descriptors(sys.argv[2], sys.argv[3])
"""


def run_out_of_descriptors(case: str, directory: str) -> None:
    """In a process of its own: let one accept fail, and say whether the next succeeds."""
    guarded = case != "bare"
    if case == "uvloop":
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

    def served() -> bool:
        try:
            with intruder(port) as caller:
                caller.send(b"\xff" * 8)
                return caller.is_shut_out(1.0)
        except ConnectionRefusedError:
            return False

    with guarded_exposed(Path(directory)) if guarded else stock_exposed() as exposed:
        port = exposed.port
        assert served()
        caller = socket.socket()
        # A limit below what is open already: no further descriptor can be had.
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        caller.connect(("127.0.0.1", port))
        # What cannot be accepted shows nowhere: this is ten times what an accept takes.
        time.sleep(0.3)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        caller.close()
        deadline = time.monotonic() + 5.0
        while not (again := served()) and guarded and time.monotonic() < deadline:
            time.sleep(0.05)
        print("served" if again else "refused")


@pytest.mark.parametrize("case", ["bare", "guarded", "uvloop"])
def test_l5_a_failed_accept_does_not_close_the_listener(tmp_path: Path, case: str) -> None:
    here = str(Path(__file__).parent)
    run = [sys.executable, "-c", _OUT_OF_DESCRIPTORS, here, case, str(tmp_path)]
    ended = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == ("refused\n" if case == "bare" else "served\n"), ended.stderr


# Nobody at the other end.


def long_after(clock: Callable[[], float]) -> Callable[[], float]:
    return lambda: clock() + 1e6


@GUARDED
def test_l6_who_says_nothing_does_not_stay(
    tmp_path: Path, guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if guarded:
        monkeypatch.setattr(peers_module, "CONNECT_S", 0.2)
        monkeypatch.setattr(peers_module, "PING_S", 0.05)
        with guarded_exposed(tmp_path) as ours, intruder(ours.port) as caller:
            assert caller.is_shut_out()
        return
    with stock_exposed() as exposed, intruder(exposed.port) as caller:
        wait_for(lambda: exposed.transport._unknownConnections)
        monkeypatch.setattr(pysyncobj.tcp_connection, "monotonicTime", long_after(time.monotonic))
        exposed.tick(20)
        (kept,) = exposed.transport._unknownConnections
        assert kept.state == CONNECTION_STATE.CONNECTED


@contextmanager
def black_hole() -> Iterator[int]:
    """A port where a connection is neither made nor refused: its listener's queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@GUARDED
def test_l7_a_connection_that_cannot_be_made_is_given_up(
    tmp_path: Path,
    guarded: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with black_hole() as port:
        if guarded:
            monkeypatch.setattr(peers_module, "CONNECT_S", 0.2)
            with guarded_exposed(tmp_path, first=port):
                wait_for(lambda: f"cannot connect to alpha at 127.0.0.1:{port}" in caplog.text)
            return
        with stock_exposed([port], dials=True, connectionRetryTime=0.01) as exposed:
            (node,) = exposed.transport._nodes
            connection = exposed.transport._connections[node]
            wait_for(lambda: connection.state == CONNECTION_STATE.CONNECTING)
            tried_at = exposed.transport._lastConnectAttempt[node]
            for module in (pysyncobj.tcp_connection, pysyncobj.transport):
                monkeypatch.setattr(module, "monotonicTime", long_after(time.monotonic))
            exposed.tick(20)
            assert connection.state == CONNECTION_STATE.CONNECTING
            assert exposed.transport._lastConnectAttempt[node] == tried_at


# Commands that are larger than a batch.


def carry_large(guarded: bool, directory: Path, size: int) -> tuple[list[int], int]:
    """Send a command to a follower; the terms of the follower's log, and how often it failed."""
    follower = bench_for(guarded, directory / "beta")
    if guarded:
        leader = Bench(directory / "alpha", server="alpha", batch_bytes=BATCH_BYTES)
    else:
        leader = StockBench(directory / "alpha", server="alpha")
    leader.lead()
    submit(leader, bytes(size), lambda result, reason: None)
    failures = 0
    for _ in range(12):
        leader.now += 0.2
        leader.turn()
        if guarded:
            leader.wire.sent = [(to, decode(encode(sent))) for to, sent in leader.wire.sent]
        try:
            carry(leader, follower)
        except (EOFError, TypeError, ValueError, pickle.UnpicklingError):
            failures += 1
        carry(follower, leader)
    return follower.terms, failures


@GUARDED
@pytest.mark.parametrize("size", [2**17, 2**20])
def test_l8_a_command_of_the_size_of_some_batches(tmp_path: Path, guarded: bool, size: int) -> None:
    """PySyncObj pickles an entry, cuts that, and counts the pieces by the entry's length."""
    overhead = len(StockBench.command(bytes(1000))) - 1000
    terms, failures = carry_large(guarded, tmp_path, size - overhead)
    assert terms == ([0, 1, 1] if guarded else [0, 1])
    assert (failures == 0) == guarded


@pytest.mark.parametrize("size", [0, 2**16 - 1, 2**16, MAX_COMMAND_BYTES])
def test_l8_commands_of_other_sizes(tmp_path: Path, size: int) -> None:
    assert carry_large(True, tmp_path, size) == ([0, 1, 1], 0)
