"""Whoever reaches the port: programs, orders, readers, forged lengths, bombs.

Stock PySyncObj, our engine on loopback, where peers need no certificates, and our engine
with peer security. Nothing here does harm: the programs set a flag.
"""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from exposed import (
    Exposed,
    StockExposed,
    exposed_server,
    intruder,
    stock_frame,
    stock_frame_of,
    wait_for,
)
from programs import program, was_executed
from stock_bench import GUARDED, bench_for
from sync_bench import ALPHA
from sync_bench import clock_fixture as clock_fixture

from licraft.errors import LicraftError


@pytest.fixture(params=["bare", "plain", "tls"], name="exposed")
def exposed_fixture(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Exposed]:
    with exposed_server(request.param, tmp_path) as exposed:
        yield exposed


def is_bare(exposed: Exposed) -> bool:
    return isinstance(exposed, StockExposed)


def test_a_pickle_is_not_executed(exposed: Exposed) -> None:
    was_executed()
    with intruder(exposed.port) as caller:
        caller.send(stock_frame_of(program()))
        assert caller.is_shut_out()
    assert was_executed() == is_bare(exposed)


@GUARDED
@pytest.mark.parametrize("kind", [0, 2, 3])
def test_a_command_of_a_peer_is_not_executed(tmp_path: Path, guarded: bool, kind: int) -> None:
    """What PySyncObj replicates are pickles: commands, members (2) and versions (3)."""
    was_executed()
    bench = bench_for(guarded, tmp_path)
    message = {
        "type": "append_entries",
        "term": 9,
        "seq": 1,
        "prevLogIdx": 1,
        "prevLogTerm": 0,
        "entries": [(bytes([kind]) + program(), 2, 9)],
        "commit_index": 2,
    }
    bench.node._SyncObj__onMessageReceived(ALPHA, message)
    # Whatever else may come of it: ours refuses some kinds, and PySyncObj calls the result.
    with contextlib.suppress(LicraftError, KeyError, TypeError, ValueError, AttributeError):
        bench.turn()
    assert was_executed() != guarded


@pytest.mark.parametrize(
    ("order", "answer"),
    [
        (["status"], None),
        (["add", "127.0.0.1:9"], None),
        (["remove", "127.0.0.1:9"], "FAIL REMOVE 127.0.0.1:9"),
        (["set_version", 0], "SUCCESS SET_VERSION 0"),
        (["transfer"], "FAIL TRANSFER"),
    ],
    ids=lambda order: order[0] if isinstance(order, list) else "",
)
def test_orders_are_not_obeyed(exposed: Exposed, order: list[object], answer: str | None) -> None:
    """Anyone may tell a SyncObj what its `syncobj_admin` tells it."""
    members = exposed.member_count
    with intruder(exposed.port) as caller:
        caller.send(stock_frame(order))
        if not is_bare(exposed):
            assert caller.is_shut_out()
            assert exposed.member_count == members
        elif order[0] == "add":
            wait_for(lambda: exposed.member_count == members + 1)
        else:
            heard = caller.hear()
            assert heard == answer or (answer is None and isinstance(heard, dict))


def test_a_reader_gets_nothing_and_changes_nothing(exposed: Exposed) -> None:
    """Who says "readonly" is sent the log, and may say what only a leader may."""
    before, term = exposed.log, exposed.term
    with intruder(exposed.port) as caller:
        caller.send(stock_frame("readonly"))
        reset = {"type": "next_node_idx", "reset": True, "next_node_idx": 2, "success": False}
        caller.send(stock_frame(reset))
        forged = {"type": "append_entries", "term": 10**6, "commit_index": 1}
        forgery = stock_frame({**forged, "prevLogIdx": 1, "prevLogTerm": 0, "entries": []})
        if not is_bare(exposed):
            caller.send(forgery)
            assert caller.is_shut_out()
            assert (exposed.log, exposed.term) == (before, term)
            return
        read: list[object] = []
        while before[-1] not in read:
            message = caller.hear()
            assert isinstance(message, dict)
            read += message["entries"]
        caller.send(forgery)
        wait_for(lambda: exposed.log == before[:1])
        assert exposed.term >= 10**6


def test_a_forged_length_is_not_waited_for(exposed: Exposed) -> None:
    """A frame that is said to have 2 GB, of which 8 MB are sent."""
    with intruder(exposed.port) as caller:
        taken = all(caller.send(bytes(1 << 20) if n else HUGE) for n in range(9))
        if not isinstance(exposed, StockExposed):
            assert caller.is_shut_out()
            return
        assert taken
        (waiting,) = exposed.transport._unknownConnections
        wait_for(lambda: len(waiting._TcpConnection__readBuffer) == 4 + (8 << 20))
        assert not caller.is_shut_out(0.1)


HUGE = struct.pack("i", 2**31 - 1)


def test_a_bomb_takes_no_memory(exposed: Exposed) -> None:
    """20 KB that become 20 MB."""
    bomb = stock_frame(bytes(20_000_000))
    assert len(bomb) < 25_000
    tracemalloc.start()
    try:
        with intruder(exposed.port) as caller:
            caller.send(bomb)
            assert caller.is_shut_out()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak > 20_000_000 if is_bare(exposed) else peak < 2_000_000
