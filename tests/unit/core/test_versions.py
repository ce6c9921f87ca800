"""Two releases in one pool: what is written is what the older one can read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import pytest
from support.pools import ALPHA, BETA, GAMMA, Pool

from licraft.core import codec, versions
from licraft.core.codec import CodecError, decode_entry, decode_state, encode_entry, encode_state
from licraft.core.commands import Command, Entry, ServerUp
from licraft.core.outcomes import STALE
from licraft.core.versions import since


@dataclass(frozen=True)
class Changed:
    """A command of version 1 to which version 2 added a field, in its middle."""

    server: str
    note: str = field(default="none", metadata=since(2))
    count: int = 0


@dataclass(frozen=True)
class New:
    """A command that version 2 added."""

    SINCE: ClassVar[int] = 2

    server: str


@pytest.fixture(autouse=True, name="next_release")
def next_release_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "KNOWN", 2)
    for kind in (Changed, New):
        monkeypatch.setitem(codec._KINDS, kind.__name__, cast(type[Command], kind))


def entry(command: Any) -> Entry:
    return Entry("alpha", 1, 1, (command,))


def test_a_new_field_is_left_out_for_older_servers() -> None:
    old, new = (encode_entry(entry(Changed("a", "hello", 3)), version) for version in (1, 2))
    assert b"hello" not in old
    assert decode_entry(old) == entry(Changed("a", "none", 3))
    assert decode_entry(new) == entry(Changed("a", "hello", 3))


def test_a_new_command_is_not_written_in_an_older_version() -> None:
    with pytest.raises(ValueError, match="New is not in version 1"):
        encode_entry(entry(New("a")), 1)
    assert decode_entry(encode_entry(entry(New("a")), 2)) == entry(New("a"))


def test_the_older_release_refuses_what_it_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    written = encode_entry(entry(New("a")), 2)
    monkeypatch.setattr(versions, "KNOWN", 1)
    with pytest.raises(CodecError, match="written in version 2, this licraft knows 1 to 1"):
        decode_entry(written)


def knows(pool: Pool, server: str, version: int) -> Any:
    incarnation = pool.state.servers[server].incarnation + 1
    return pool.now(ServerUp(server, incarnation, 0.8, "nonce", version)).outcomes[0]


def test_a_pool_speaks_what_all_its_servers_know_and_never_less_again() -> None:
    pool = Pool()
    for server in (ALPHA, BETA, GAMMA):
        knows(pool, server, 1)
    seen = []
    for server in (GAMMA, ALPHA, BETA):
        pool.down(server)
        knows(pool, server, 2)
        seen.append(pool.state.version)
        assert decode_state(encode_state(pool.state)) == pool.state
        assert encode_state(pool.state)[0] == pool.state.version
    assert seen == [1, 1, 2]
    pool.down(BETA)
    incarnation = pool.state.servers[BETA].incarnation
    assert knows(pool, BETA, 1) == STALE
    assert pool.state.servers[BETA].incarnation == incarnation
    assert pool.state.version == 2
