"""Every server that applied the same log has the same state, by whichever way it came to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.profiles import examples
from support.strategies import histories

from licraft.core.apply import apply
from licraft.core.codec import decode_entry, decode_state, digest, encode_entry, encode_state
from licraft.core.commands import Entry
from licraft.core.outcomes import Applied
from licraft.core.state import PoolState
from licraft.core.versions import KNOWN

pytestmark = pytest.mark.timeout(400)  # a failing history takes a while to shrink


@examples(0.5)
@given(histories(administered=True))
def test_two_replicas_agree_at_every_index(log: list[Entry]) -> None:
    """One applies the proposer's own objects, the other what came over the network.

    The objects are values: applying does not change them.
    """
    encoded = [encode_entry(entry, KNOWN) for entry in log]
    near, far = PoolState(), PoolState()
    for index, entry in enumerate(log, 1):
        seen = apply(near, index, entry)
        assert apply(far, index, decode_entry(encoded[index - 1])) == seen
        assert digest(near) == digest(far)
    assert [encode_entry(entry, KNOWN) for entry in log] == encoded


@given(histories(administered=True), st.data())
def test_a_snapshot_and_the_tail_are_the_whole_log(log: list[Entry], data: st.DataObject) -> None:
    def follow(state: PoolState, start: int, end: int) -> list[Applied]:
        return [apply(state, i, log[i - 1]) for i in range(start + 1, end + 1)]

    cut = data.draw(st.integers(0, len(log)))
    whole, first = PoolState(), PoolState()
    seen = follow(whole, 0, len(log))
    follow(first, 0, cut)
    restored = decode_state(encode_state(first))
    assert follow(restored, cut, len(log)) == seen[cut:]
    assert digest(restored) == digest(whole)
    assert restored == whole


@given(histories(administered=True))
def test_a_snapshot_shares_nothing_with_the_state_it_was_taken_from(log: list[Entry]) -> None:
    state = PoolState()
    for index, entry in enumerate(log[: len(log) // 2], 1):
        apply(state, index, entry)
    before = encode_state(state)
    copy = decode_state(before)
    for index, entry in enumerate(log[len(log) // 2 :], len(log) // 2 + 1):
        apply(copy, index, entry)
    assert encode_state(state) == before
