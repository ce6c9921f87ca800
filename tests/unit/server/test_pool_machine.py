"""The state machine is total: what is in the log is applied, or has no effect, or is too new."""

from __future__ import annotations

import pytest

from licraft.core.codec import encode_entry
from licraft.core.commands import Entry, FormPool, Member
from licraft.core.versions import KNOWN
from licraft.errors import InvariantBroken
from licraft.server.pool import ReplicatedPool

FORM = FormPool("acme", (Member("alpha", "", ""),), 3.0, 60.0, 0.01, "00")
FORMED = encode_entry(Entry("", 0, 0, (FORM,)), KNOWN)


def formed() -> ReplicatedPool:
    pool = ReplicatedPool()
    pool.apply(2, FORMED)
    return pool


@pytest.mark.parametrize("command", [b"", b"\0\0", bytes([KNOWN]), bytes([KNOWN]) + b"[1]"])
def test_what_is_no_command_has_no_effect(command: bytes, caplog: pytest.LogCaptureFixture) -> None:
    pool, other = formed(), formed()
    assert pool.apply(3, command).outcomes == ()
    assert "log index 3 has no effect" in caplog.text
    other.apply(3, encode_entry(Entry("", 0, 0, ()), KNOWN))
    assert pool.digest() == other.digest()
    assert pool.state.index == 3


def test_what_is_too_new_stops_the_server() -> None:
    with pytest.raises(InvariantBroken, match=r"log index 3: written in version .* upgrade this"):
        formed().apply(3, bytes([KNOWN + 1]) + b"[]")
