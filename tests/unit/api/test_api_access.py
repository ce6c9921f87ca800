"""The gate: which Authorization header opens which call."""

from __future__ import annotations

import pytest

from licraft.api.access import Access, Gate, Tokens

GATE = Gate(Tokens(admin=frozenset(["adm", "adm-old"]), client=frozenset(["cli"])))


@pytest.mark.parametrize(
    ("header", "status_any", "status_admin"),
    [
        (None, 401, 401),
        (b"", 401, 401),
        (b"Bearer", 401, 401),
        (b"Bearer ", 401, 401),
        (b"cli", 401, 401),
        (b"Bearer cl", 401, 401),
        (b"Bearer clix", 401, 401),
        (b"Bearer CLI", 401, 401),
        (b"Basic cli", 401, 401),
        (b"Bearer cli adm", 401, 401),
        (b"Bearer \xff", 401, 401),
        (b"Bearer cli", None, 403),
        (b"bearer  cli ", None, 403),
        (b"Bearer adm", None, None),
        (b"BEARER adm-old", None, None),
    ],
)
def test_gate(header: bytes | None, status_any: int | None, status_admin: int | None) -> None:
    for access, status in [(Access.ANY, status_any), (Access.ADMIN, status_admin)]:
        refused = GATE.refusal(access, header)
        assert (refused.status if refused else None) == status
        if refused:
            assert refused.code == "not_authorized"
            assert "cli" not in refused.detail.split()
    assert GATE.refusal(Access.OPEN, header) is None


def test_without_tokens_the_gate_is_open() -> None:
    for access in Access:
        assert Gate(None).refusal(access, None) is None


@pytest.mark.parametrize("token", ["", " x", "x\n", "töken"])
def test_tokens_that_no_header_can_carry(token: str) -> None:
    with pytest.raises(ValueError, match="access token"):
        Tokens.of(admin="a", client=token)


def test_an_admin_token_is_needed() -> None:
    with pytest.raises(ValueError, match="admin"):
        Tokens(admin=frozenset(), client=frozenset(["c"]))


def test_tokens_are_kept_out_of_reprs() -> None:
    assert "secret" not in repr(Tokens.of(admin="secret-a", client="secret-c"))
