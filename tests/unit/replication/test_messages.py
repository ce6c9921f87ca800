"""The codec of Raft messages: what goes in comes out, and nothing else is let in."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from licraft.replication.messages import MessageError, Piece, decode, encode

counts = st.integers(0, 2**63 - 1)
small = st.integers(0, 2**40)
commands = st.builds(lambda kind, body: bytes([kind]) + body, st.integers(0, 1), st.binary())


@st.composite
def appends(draw: st.DrawFn) -> dict[str, Any]:
    previous, term = draw(small), draw(small)
    entries = []
    last_term = term
    for offset in range(draw(st.integers(0, 4))):
        last_term += draw(st.integers(0, 3))
        entries.append((draw(commands), previous + 1 + offset, last_term))
    return {
        "type": "append_entries",
        "term": last_term,
        "seq": draw(counts),
        "commit_index": draw(counts),
        "prevLogIdx": previous,
        "prevLogTerm": term,
        "entries": entries,
    }


@st.composite
def pieces(draw: st.DrawFn) -> dict[str, Any]:
    data, offset, rest = draw(st.binary(min_size=1)), draw(small), draw(small)
    total = offset + len(data) + rest
    piece = Piece(data, offset == 0, rest == 0, (draw(counts), draw(counts)), offset, total)
    return {
        "type": "append_entries",
        "term": draw(counts),
        "seq": draw(counts),
        "commit_index": draw(counts),
        "serialized": draw(st.sampled_from([piece, None])),
    }


def record(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(kind), **fields})


answers = record(
    "next_node_idx",
    term=counts,
    seq=counts,
    next_node_idx=counts,
    reset=st.booleans(),
    success=st.booleans(),
)
others = st.one_of(
    answers,
    record("request_vote", term=counts, last_log_index=counts, last_log_term=counts),
    record("response_vote", term=counts),
    record("pre_vote", term=counts, round=counts, last_log_index=counts, last_log_term=counts),
    record("pre_vote_answer", term=counts, round=counts, granted=st.booleans()),
    record("apply_command", command=st.binary().map(lambda b: b"\0" + b), request_id=counts),
    record("apply_command_response", request_id=counts, log_idx=counts, log_term=counts),
    record("apply_command_response", request_id=counts, error=st.integers(1, 255)),
    record("timeout_now", term=counts),
)


@given(st.one_of(appends(), pieces(), others))
def test_every_message_survives_the_wire(message: dict[str, Any]) -> None:
    assert decode(encode(message)) == message


@given(st.binary())
def test_random_bytes_are_refused_or_are_a_message(body: bytes) -> None:
    try:
        message = decode(body)
    except MessageError:
        return
    assert decode(encode(message)) == message


@given(st.one_of(appends(), pieces(), others), st.data())
def test_a_cut_message_is_refused(message: dict[str, Any], data: st.DataObject) -> None:
    body = encode(message)
    with pytest.raises(MessageError):
        decode(body[: data.draw(st.integers(0, len(body) - 1))])


@pytest.mark.parametrize(
    "array",
    [
        [1, 5, 1, 0, 3, 2, [[b"\x02membership", 4, 2]]],  # a type that is a pickle
        [1, 5, 1, 0, 3, 2, [[b"\x00a", 5, 2]]],  # a gap
        [1, 5, 1, 0, 3, 2, [[b"\x00a", 4, 1]]],  # a term that falls
        [1, 5, 1, 0, 3, 2, [[b"\x00a", 4, 6]]],  # a term above the message's
        [1, 5, 1, 0, 3, 2, [[b"", 4, 2]]],  # no type byte
        [1, -1, 1, 0, 3, 2, []],
        [1, "5", 1, 0, 3, 2, []],
        [1, 5, 1, 0, 3, 2],
        [1, 5, 1, 0, 3, 2, [], 0],
        [2, 1, 1, 1, 1, 1, 8, 10, b"abc"],  # beyond the snapshot's end
        [9, b"\x03version", 1],
        [99, 1],
        ["append_entries", 1],
        {"type": "timeout_now", "term": 1},
    ],
)
def test_what_is_not_a_message_is_refused(array: object) -> None:
    with pytest.raises(MessageError):
        decode(msgspec.msgpack.encode(array))


def test_no_utility_message_and_no_entry_in_pieces_can_be_sent() -> None:
    with pytest.raises(MessageError):
        encode({"type": "add", "node": "delta"})
    with pytest.raises(MessageError):
        encode({"type": "append_entries", "transmission": "start", "data": b"", "term": 1})
