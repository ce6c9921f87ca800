"""Bytes and back: every command, entry and reachable state; other bytes raise CodecError."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import any_command, entries_of, histories

from licraft.core.apply import apply
from licraft.core.codec import (
    CodecError,
    decode_entry,
    decode_state,
    digest,
    encode_entry,
    encode_state,
)
from licraft.core.commands import COMMANDS, Command, Entry
from licraft.core.state import PoolState
from licraft.core.versions import KNOWN

V = bytes([KNOWN])
pytestmark = pytest.mark.timeout(400)  # a failing history takes a while to shrink


def test_every_command_has_a_strategy() -> None:
    assert set(any_command) == set(COMMANDS)


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_command_and_back(kind: type[Command], data: st.DataObject) -> None:
    entry = data.draw(entries_of(any_command[kind]))
    encoded = encode_entry(entry, KNOWN)
    decoded = decode_entry(encoded)
    assert decoded == entry
    assert [type(c) for c in decoded.commands] == [type(c) for c in entry.commands]
    assert encode_entry(decoded, KNOWN) == encoded


@given(histories())
def test_every_reachable_state_and_back(log: list[Entry]) -> None:
    state = PoolState()
    for index, entry in enumerate(log, 1):
        apply(state, index, entry)
    encoded = encode_state(state)
    decoded = decode_state(encoded)
    assert decoded == state
    assert encode_state(decoded) == encoded
    assert digest(decoded) == digest(state)


def accepted(data: bytes) -> None:
    """Bytes decode, or raise CodecError; what decodes is a value that encodes again."""
    try:
        entry = decode_entry(data)
    except CodecError:
        pass
    else:
        assert decode_entry(encode_entry(entry, KNOWN)) == entry
    try:
        state = decode_state(data)
    except CodecError:
        return
    assert decode_state(encode_state(state)) == state


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    accepted(data)
    accepted(V + data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=20,
    )
)
def test_any_json(value: object) -> None:
    accepted(V + json.dumps(value).encode())


@given(histories(max_steps=10), st.data())
def test_bytes_that_were_changed(log: list[Entry], data: st.DataObject) -> None:
    state = PoolState()
    for index, entry in enumerate(log, 1):
        apply(state, index, entry)
    for original in (encode_state(state), encode_entry(log[-1], KNOWN)):
        start = data.draw(st.integers(0, len(original) - 1))
        end = data.draw(st.integers(start, min(len(original), start + 4)))
        noise = data.draw(st.binary(max_size=4) | st.sampled_from([b"1e999", b"NaN", b"[]", b"{}"]))
        accepted(original[:start] + noise + original[end:])


def renewal(threshold: str) -> bytes:
    return V + f'["",0,0,[["ServerUp",["alpha",1,{threshold},"n",1]]]]'.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        V,
        V + b"{}",
        V + b"[]",
        V + b"\xff",
        bytes([KNOWN + 1]) + encode_entry(Entry("a", 1, 1, ()), KNOWN)[1:],
        encode_entry(Entry("a", 1, 1, ()), KNOWN)[1:],
        encode_entry(Entry("a", 1, 1, ()), KNOWN)[:-1],
        encode_entry(Entry("a", 1, 1, ()), KNOWN) + b" x",
        V + b'["a",1,1,[["Nonsense",[]]]]',
        V + b'["a",1,1,[[["ServerUp"],[]]]]',
        V + b'["a",1,1,[["Reclaim",["b"]]]]',
        V + b'["a",1,1,[["Reclaim",["b",1,2]]]]',
        V + b'["a",1,1,[["Reclaim",["b","1"]]]]',
        V + b'["a",1,1,[["Reclaim",["b",true]]]]',
        V + b'["a",1,1,[["Reclaim",["b",1.0]]]]',
        V + b'["a",true,1,[]]',
        V + b'["a",1,1,{}]',
        V + b'["a",1,1,""]',
        V + b"[" * 100_000,
        V + b"9" * 5_000,
        renewal("9" * 400),  # no float is that great
        renewal("1e999"),
        renewal("NaN"),
        renewal("true"),
        V + b'["\\ud800",1,1,[]]',  # half a character: it could not be written again
    ],
    ids=lambda data: repr(data[:40]),
)
def test_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        decode_entry(data)
    with pytest.raises(CodecError):
        decode_state(data)


def test_secrets_stay_out_of_representations() -> None:
    state = PoolState(secret="s3cret")
    assert "s3cret" not in repr(state)
    assert b"s3cret" in encode_state(state)
